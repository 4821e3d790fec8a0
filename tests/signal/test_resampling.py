"""Up-sampling beside real passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, pad, softplus

from initcheck.signal.kernel import Kernel
from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

WIDTH, LARGE = 32, 32


@pytest.mark.parametrize("size", [4, 8])
def test_neighbours_of_a_small_map_hear_the_same_between_them(size: int) -> None:
    """Bilinear copies: what lies beyond the outer centres repeats them; all positions together get all that is sent."""
    first_conv, last = (nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(2))
    copied, enlarged = nn.Upsample(size=(size, size)), nn.Upsample(size=(LARGE, LARGE), mode="bilinear")
    net = nn.Sequential(first_conv, copied, first_conv, enlarged, last)
    signal = propagate(trace(net, (torch.randn(4, WIDTH, 1, 1),), {}))
    one, first = (n for n in signal.forward if n.meta.get("op") == "conv2d" and n.next.meta.get("op") == "interpolate")
    torch.manual_seed(0)
    y = torch.randn(400, WIDTH, size, size, requires_grad=True)
    enlarged(y).backward(torch.randn(400, WIDTH, LARGE, LARGE))
    assert y.grad is not None
    own, together = float(y.grad.square().mean()), float(y.grad.sum((2, 3)).square().mean())
    gain = signal.backward[first].same / own * WIDTH * float(first_conv.weight.detach().square().mean())
    assert signal.backward[one].same == pytest.approx(gain * together, rel=0.05)


@pytest.mark.parametrize("size", [4, 8])
def test_bilinear_copies_vary_less_than_what_they_copy(size: int) -> None:
    """Two thirds between two centres along each axis, all of it beyond the outer ones."""
    enlarged = nn.Upsample(size=(LARGE, LARGE), mode="bilinear")
    net = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), enlarged)
    signal = propagate(trace(net, (torch.randn(4, WIDTH, size, size),), {}))
    conv, up = (next(n for n in signal.forward if n.meta.get("op") == op) for op in ("conv2d", "interpolate"))
    torch.manual_seed(0)
    grown = float(enlarged(torch.randn(400, WIDTH, size, size)).square().mean())
    assert signal.forward[up].variance / signal.forward[conv].variance == pytest.approx(grown, rel=0.05)


def joined(low: torch.Tensor, high: torch.Tensor, join: str) -> torch.Tensor:
    if join == "stack":
        return torch.stack([low, high]).sum(0)
    both = torch.cat([low, high], 1)
    return both.relu() if join == "rectified" else both


class Decoder(nn.Module):
    """Two scales joined by interpolation, with a third up-sampling at the end."""

    def __init__(self, mode: str, join: str) -> None:
        super().__init__()
        width = WIDTH if join == "stack" else 2 * WIDTH
        self.low, self.high, self.last = (nn.Conv2d(n, WIDTH, 1, bias=False) for n in (WIDTH, WIDTH, width))
        self.mode, self.join = mode, join

    def forward(self, small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
        low = interpolate(self.low(small), size=(16, 16), mode=self.mode)
        high = interpolate(self.high(large), size=(16, 16), mode=self.mode)
        return interpolate(self.last(joined(low, high, self.join)), size=(64, 64), mode=self.mode)


@pytest.mark.parametrize(
    ("mode", "join"),
    [("bilinear", "cat"), ("bicubic", "cat"), ("nearest", "cat"), ("bilinear", "stack"), ("bilinear", "rectified")],
)
def test_neighbours_have_like_gradients_before_the_next_interpolation(mode: str, join: str) -> None:
    """The adjoint of one interpolation leaves neighbours correlated; the next sums over them, or picks among them."""
    torch.manual_seed(0)
    model, inputs = Decoder(mode, join), (torch.randn(8, WIDTH, 4, 4), torch.randn(8, WIDTH, 32, 32))
    signal = propagate(trace(model, inputs, {}))
    predicted = [signal.backward[n].same for n in signal.forward if n.meta.get("op") == "conv2d"]
    found: list[torch.Tensor] = []
    for layer in model.children():
        layer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    measured = torch.zeros(3)
    for _ in range(8):
        for layer in model.children():
            layer.reset_parameters()  # type: ignore[operator]
        found.clear()
        out = model(*inputs)
        gradients = torch.autograd.grad(out, found, torch.randn_like(out))
        measured += torch.stack([g.square().mean() for g in gradients]) / 8
    assert predicted == pytest.approx(measured.tolist(), rel=0.08)


class PaddedDecay(nn.Module):
    """exp(-a b) of a padded sequence, a and b positive: the decay of a state space."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.rate = nn.Linear(WIDTH, 8), nn.Parameter(2 * torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logs = -self.rate.exp() * softplus(self.step(x))
        return pad(logs, (0, 0, 0, 4)).exp()


def test_padding_keeps_the_sign_of_what_is_only_known_by_it() -> None:
    torch.manual_seed(0)
    signal = propagate(trace(PaddedDecay(), (torch.randn(64, 12, WIDTH),), {}))
    decay = next(n for n in signal.forward if n.meta.get("op") == "exp" and tuple(n.meta["val"].shape) == (64, 16, 8))
    assert 0.25 < signal.forward[decay].mean < 1.0


def test_what_sums_over_all_positions_needs_no_neighbours() -> None:
    """The mean over all pairs of positions stays when what neighbours share is spread over all others."""
    local = np.array([[1.0, 0.6], [0.5, 0.3]])
    near = Kernel(1.0, 0.1, 0.0, 0.0, local)
    even = near.spread_evenly((4, 6))
    assert even.local is None
    assert even.within_position_mean((4, 6)) == pytest.approx(near.within_position_mean((4, 6)))
    assert even.same == near.same
