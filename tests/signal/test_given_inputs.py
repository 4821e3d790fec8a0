"""Inputs as given: their statistics, and what follows for pooling and for a graph's adjacency matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import initcheck
from initcheck.signal.inputs import given_value
from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

IMAGE = ("S", "C", "P", "P")


def smooth(*shape: int) -> torch.Tensor:
    """Unit variance, each pixel a mean of 25 white ones."""
    torch.manual_seed(0)
    n, c, h, w = shape
    white = torch.randn(n, c, h + 4, w + 4)
    return nn.functional.avg_pool2d(white, 5, 1) * 5


def test_white_noise_is_white() -> None:
    torch.manual_seed(0)
    value = given_value(torch.randn(16, 3, 32, 32), IMAGE)
    assert value is not None
    k = value.covariance
    assert k.same == pytest.approx(1.0, rel=0.02)
    assert max(abs(v) for v in (k.far, k.cross, k.sample)) < 0.01
    assert value.normal


def test_correlation_by_displacement() -> None:
    """A 5 x 5 box: (1 - d/5) along each axis, nothing beyond."""
    value = given_value(smooth(32, 3, 32, 32), IMAGE)
    assert value is not None
    assert value.covariance.local is not None
    row = value.covariance.local[0] / value.covariance.same
    assert row[:6] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], abs=0.04)


def test_the_mean_over_positions_is_exact_where_the_reach_is_shorter_than_the_image() -> None:
    torch.manual_seed(0)
    x = smooth(4, 1, 96, 80) + torch.randn(4, 1, 1, 1)
    value = given_value(x, IMAGE)
    assert value is not None
    means = (x - x.mean()).mean((2, 3)).square().mean()
    assert value.covariance.within_position_mean((96, 80)) == pytest.approx(float(means), rel=1e-5)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(4, 3), torch.full((4, 3), math.nan), torch.tensor([[1.0, math.inf]]), torch.ones(0, 3)],
    ids=["zeros", "nan", "inf", "empty"],
)
def test_nothing_to_go_by(tensor: torch.Tensor) -> None:
    assert given_value(tensor, ("S", "C")) is None


def test_exact_zeros_stay_zeros() -> None:
    torch.manual_seed(0)
    value = given_value((torch.rand(64, 64) < 0.1).float(), ("S", "C"))
    assert value is not None
    assert not value.normal
    at = value.own_source().at
    assert float(at.weights @ (value.own_grid().numpy() == 0.0)) == pytest.approx(0.9, abs=0.02)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 256, 3), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def test_averages_of_a_smooth_image_are_predicted() -> None:
    """Global average pooling: what is left depends on nothing but the correlation between positions."""
    torch.manual_seed(1)
    model, x = Pooled(), smooth(16, 3, 24, 24)
    white = propagate(trace(model, (x,), {}))
    told = propagate(trace(model, (x,), {}, inputs_given=True))
    with torch.no_grad():
        real = float(torch.tanh(model.conv(x)).mean((2, 3)).var(0).mean())
    head = {row.name: row for row in told.layers}["head"]
    assert head.sample_std is not None
    predicted = head.sample_std**2 / (256 * float(model.head.weight.var()))
    assert predicted == pytest.approx(real, rel=0.15)
    assert white.layers[-1].sample_std < 0.5 * head.sample_std


def test_analyze_says_what_it_took_the_inputs_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    x = smooth(4, 3, 16, 16)
    given = initcheck.analyze(model, (x - x.mean()) * 2 + 1, input_statistics="given")
    (note,) = [n for n in given.notes if n.startswith("input")]
    assert "as given: mean 1, std 2" in note
    assert "neighbours correlate 0.8" in note
    zeros = initcheck.analyze(model, torch.zeros(4, 3, 16, 16), input_statistics="given")
    assert any("taken as N(0, 1)" in n for n in zeros.notes)
    assert not any(n.startswith("input") for n in initcheck.analyze(model, torch.ones(4, 3, 16, 16)).notes)
    with pytest.raises(ValueError, match="input_statistics"):
        initcheck.analyze(model, torch.ones(4, 3, 16, 16), input_statistics="real")  # type: ignore[arg-type]


def test_one_sample_and_vectors() -> None:
    value = given_value(torch.from_numpy(np.arange(8.0)), ("C",))
    assert value is not None
    assert value.variance == pytest.approx(5.25)


class Bytes(nn.Module):
    """Several ways of bringing an input to scale; what else is done to it decides whether it holds bytes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 512, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "division":
            x = x.permute(0, 3, 1, 2).float() / 255
        elif self.how == "product":
            x = x.permute(0, 3, 1, 2) * (1.0 / 255.0)
        elif self.how == "centred":
            x = (x.permute(0, 3, 1, 2) - 127.5) / 127.5
        else:
            x = x.permute(0, 3, 1, 2) / 255 + x.permute(0, 3, 1, 2)
        return self.conv(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("how", ["division", "product", "centred"])
def test_an_input_that_is_divided_by_255_holds_bytes(how: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Bytes(how)
    real = torch.randint(0, 256, (64, 8, 8, 3)).to(dtype)
    example = torch.randint(0, 2, (64, 8, 8, 3)).to(dtype)
    row = propagate(trace(net, (example,), {})).layers[0]
    assert row.forward_std == pytest.approx(float(net(real).std()), rel=0.25)
    assert row.sample_std == pytest.approx(float(net(real).var((0, 2, 3)).mean() ** 0.5), rel=0.1)


def test_an_input_that_is_also_read_as_it_is_holds_none() -> None:
    signal = propagate(trace(Bytes("both"), (torch.randn(64, 8, 8, 3),), {}))
    assert not any("bytes" in note for note in signal.notes)
    assert signal.layers[0].forward_std is not None
    assert signal.layers[0].forward_std < 3
