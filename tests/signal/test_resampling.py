"""Up-sampling beside real passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

WIDTH, LARGE = 32, 32


@pytest.mark.parametrize("size", [4, 8])
def test_neighbours_of_a_small_map_hear_the_same_between_them(size: int) -> None:
    """Bilinear copies: what lies beyond the outer centres repeats them; all positions together get all that is sent."""
    first_conv, last = (nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(2))
    layers = first_conv, nn.Upsample(size=(LARGE, LARGE), mode="bilinear"), last
    signal = propagate(trace(nn.Sequential(*layers), (torch.randn(4, WIDTH, size, size),), {}))
    first = next(n for n in signal.forward if n.meta.get("op") == "conv2d")
    up = next(n for n in signal.forward if n.meta.get("op") == "interpolate")
    torch.manual_seed(0)
    y = torch.randn(400, WIDTH, size, size, requires_grad=True)
    high = layers[1](y)
    high.backward(torch.randn(high.shape))
    assert y.grad is not None
    grown = float(high.detach().square().mean())
    assert signal.forward[up].variance / signal.forward[first].variance == pytest.approx(grown, rel=0.05)
    own, together = float(y.grad.square().mean()), float(y.grad.sum((2, 3)).square().mean()) / size**2
    kernel = signal.backward[first]
    assert 1 + (size**2 - 1) * kernel.position / kernel.same == pytest.approx(together / own, rel=0.05)
