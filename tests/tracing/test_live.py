"""What is measured of a live model's weights, whichever way the numbers are read."""

from __future__ import annotations

import math

import pytest
import torch

from initcheck.tracing.live import equal_slices, measured

CHUNK = 1 << 17


@pytest.mark.parametrize("count", [2, 1000, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
def test_mean_and_std_to_the_last_digits(count, mean):
    """Also where the mean is a million times the std: squares must not cancel."""
    values = mean + 0.01 * torch.randn(count, generator=torch.Generator().manual_seed(0))
    exact = values.double()
    found = measured(values)
    assert found.mean == pytest.approx(float(exact.mean()), rel=1e-12, abs=1e-14)
    assert found.std == pytest.approx(float(exact.std(correction=0)), rel=1e-10)
    assert (found.low, found.high) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e30])
def test_numbers_that_nobody_draws(number):
    """Wherever they are, memory that nobody wrote says what it holds."""
    values = torch.ones(2 * CHUNK)
    values[5] = number
    values[7] = 2.0
    assert measured(values).high == pytest.approx(number, rel=1e-6, nan_ok=True)


def test_constants_have_no_spread():
    for values in (torch.full((7,), 0.3), torch.full((CHUNK + 9,), 0.3), torch.full((3,), math.inf)):
        found = measured(values)
        assert (found.std, found.low) == (0.0, found.high)
        assert found.mean == found.low


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_slices_that_agree_in_one_element_need_not_be_equal(dtype):
    values = torch.tensor([[1, 2, 3], [1, 2, 4], [1, 2, 3]]).to(dtype)
    assert not equal_slices(values, 0)
    assert not equal_slices(values, 1)
    assert equal_slices(values[:, :2], 0)
    assert equal_slices(values[:, :2].t(), 1)
