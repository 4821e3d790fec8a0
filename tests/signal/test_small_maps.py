"""Neighbours on maps of few positions, where windows and borders are most of it, beside real passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

WIDTH = 64


@pytest.mark.parametrize(("kernel", "tolerance"), [(3, 0.18), (5, 0.05)])
def test_neighbours_of_a_small_map_share_few_taps(kernel: int, tolerance: float) -> None:
    """Copied neighbours behind a zero-padded convolution: they see the same through those taps that both have.

    The kernel by displacement takes all pairs at a distance as alike; copied ones are not: 16 % at 3 x 3.
    """
    conv = nn.Conv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, bias=False)
    net = nn.Sequential(nn.Upsample(scale_factor=2), conv, nn.AdaptiveAvgPool2d(1))
    signal = propagate(trace(net, (torch.randn(8, WIDTH, 2, 2),), {}))
    before = next(n for n in signal.forward if n.meta.get("op") == "conv2d")
    torch.manual_seed(0)
    with torch.no_grad():
        weight = torch.randn(WIDTH, 16, kernel, kernel)
        y = nn.functional.conv2d(net[0](torch.randn(200, 16, 2, 2)), weight, padding=kernel // 2)
        kept = float(y.mean((2, 3)).square().mean() / y.square().mean())
    assert signal.forward[before.next].variance / signal.forward[before].variance == pytest.approx(kept, rel=tolerance)
