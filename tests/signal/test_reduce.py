"""The variance over a group of channels and positions: how much 1/s² exceeds the inverse of the mean."""

from __future__ import annotations

import pytest
import torch

from initcheck.signal.kernel import Kernel
from initcheck.signal.reduce import inverse_bias, recast, variance_fluctuation
from initcheck.signal.value import dims_of


@pytest.mark.parametrize(("channels", "places", "far"), [(8, 36, 0.3), (8, 9, 0.1), (4, 36, 0.5), (16, 64, 0.0)])
def test_variance_of_a_group_and_its_inverse_as_drawn(channels: int, places: int, far: float) -> None:
    torch.manual_seed(0)
    shared = torch.randn(20000, channels, 1)
    x = far**0.5 * shared + (1.0 - far) ** 0.5 * torch.randn(20000, channels, places)
    s2 = x.reshape(20000, -1).var(1, correction=0).double()
    rho = Kernel(1.0, far, 0.0, 0.0)
    relative = float(s2.var() / s2.mean() ** 2)
    assert variance_fluctuation(rho, channels, (places,)) == pytest.approx(relative, rel=0.05)
    excess = float((1.0 / s2).mean() * s2.mean()) - 1.0
    assert inverse_bias(rho, channels, (places,)) - 1.0 == pytest.approx(excess, rel=0.06)


def test_copies_along_channels_are_mostly_other_channels() -> None:
    own = dims_of((8, 64, 9), ("S", "C", "P"))
    seen = dims_of((8, 4, 16, 9), ("S", "C", "P", "P"))
    k = recast(Kernel(1.0, 0.5, 0.0, 0.1), own, seen)
    channels = torch.arange(64).reshape(4, 16, 1).expand(4, 16, 9).reshape(4, -1)
    alike = (channels[:, :, None] == channels[:, None, :]).double()
    share = float((alike.sum() - 4 * 144) / (4 * 144 * 143))
    assert (k.same, k.far, k.sample) == pytest.approx((1.0, 0.5 * share, 0.1 * share))
