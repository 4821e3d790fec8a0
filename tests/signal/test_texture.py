"""Spectra of channels beside real maps with zeros around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from initcheck.signal.texture import CHANNELS, Texture, kernels_of, reached
from initcheck.signal.unlike_channels import _scales


@pytest.mark.parametrize("size", [4, 8])
def test_the_mean_of_x_plus_its_convolution_differs_from_channel_to_channel(size: int) -> None:
    """E[1/s²] E[s²] for s² the variance of the mean over a map of x + conv(x), zeros around it."""
    shares = [(size - 1) / size, 1.0, (size - 1) / size]
    white = Texture.white(2)
    response = white.filtered(reached(kernels_of("w", (3, 3), 3.0), [shares, shares]))
    pooled = Texture(white.base, white.amplitude + response.amplitude, white.rest).pooled((size, size)).channels
    torch.manual_seed(0)
    w = torch.randn(20000, 1, 3, 3) / 3
    seen = F.conv2d(torch.ones(1, 1, size, size), w.square(), padding=1).mean((0, 2, 3))  # variance of conv(x)
    # the mean weighs each input by 1 + the sum of the taps through which it is seen
    real = (
        1 + F.conv2d(torch.ones(1, 1, size, size), w.flip(2, 3), padding=1)[0] / seen.sqrt()[:, None, None]
    ).square()
    real = real.mean((1, 2))
    assert len(pooled) == CHANNELS
    found, expected = ((1 / v).mean() * v.mean() for v in (pooled, real.double().numpy()))
    assert found == pytest.approx(expected, rel=0.3)
    assert pooled.var() / pooled.mean() ** 2 == pytest.approx(float(real.var() / real.mean() ** 2), rel=0.25)


@pytest.mark.parametrize("spread", [1e-3, 0.01, 0.3])
def test_scales_of_few_and_of_many_weights(spread: float) -> None:
    scales, chance = _scales(spread)
    assert float(chance @ scales) == pytest.approx(1.0)
    assert float(chance @ scales**2) - 1 == pytest.approx(spread, rel=0.02)
    assert np.all(np.isfinite(scales))
