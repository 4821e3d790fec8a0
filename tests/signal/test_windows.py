"""Padded maps cut into windows of attention: full windows, partly filled ones, empty ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from initcheck.signal.profiles import regrouped
from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

SIDE, WINDOW, CHANNELS = 8, 7, 32


def test_axes_that_are_cut_keep_what_each_part_has() -> None:
    """14 places of which 8 are filled, as two windows of 7: one is full, one holds a seventh of that."""
    filled = np.array([14 / 8] * 8 + [0.0] * 6)
    outer, inner = regrouped((filled,), (14,), (2, 7))
    assert outer == pytest.approx([7 / 4, 1 / 4])
    assert inner == pytest.approx([7 / 4] + [7 / 8] * 6)
    assert regrouped((filled, None), (14, 3), (2, 7, 3))[2] is None
    (whole,) = regrouped((outer, None), (2, 7), (14,))
    assert whole == pytest.approx([7 / 4] * 7 + [1 / 4] * 7)
    assert regrouped((filled,), (14,), (3, 5)) == ()
    assert regrouped((None, None), (2, 7), (14,)) == ()


class Windows(nn.Module):
    """Self-attention within windows of a map that they do not fit, a mean over all positions behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS, bias=False) for _ in range(3))
        for layer in (self.q, self.k, self.v):
            nn.init.normal_(layer.weight, std=0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).view(-1, SIDE, SIDE, CHANNELS)
        missing = -SIDE % WINDOW
        y = nn.functional.pad(x, (0, 0, 0, missing, 0, missing))
        count = (SIDE + missing) // WINDOW
        y = y.view(-1, count, WINDOW, count, WINDOW, CHANNELS).transpose(2, 3)
        y = y.reshape(-1, count * count, WINDOW * WINDOW, CHANNELS)
        y = nn.functional.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y))
        y = y.reshape(-1, count, count, WINDOW, WINDOW, CHANNELS).transpose(2, 3)
        y = y.reshape(-1, count * WINDOW, count * WINDOW, CHANNELS)[:, :SIDE, :SIDE]
        return self.last(y).mean((1, 2))


@pytest.mark.parametrize("common", [0.0, 0.5])
def test_windows_that_are_partly_filled(common: float) -> None:
    """Forward, and back to values and queries; ``common``: what positions of an input share."""

    def drawn() -> torch.Tensor:
        own = torch.randn(8, SIDE * SIDE, CHANNELS) * math.sqrt(1 - common)
        return own + torch.randn(8, 1, CHANNELS) * math.sqrt(common)

    squares: dict[str, float] = {}
    draws = 16
    torch.manual_seed(0)
    for _ in range(draws):
        net = Windows()
        for name, layer in net.named_children():

            def hook(_module: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
                def gradient(g: torch.Tensor) -> None:
                    squares[f"{name} back"] = squares.get(f"{name} back", 0.0) + float(g.square().mean()) / draws

                squares[name] = squares.get(name, 0.0) + float(output.detach().var()) / draws
                output.register_hook(gradient)

            layer.register_forward_hook(hook)
        out = net(drawn())
        out.backward(torch.randn_like(out))
    signal = propagate(trace(Windows(), (drawn(),), {}, inputs_given=common > 0))
    rows = {row.name: row for row in signal.layers}
    assert rows["last"].forward_std == pytest.approx(math.sqrt(squares["last"]), rel=0.1)
    assert rows["first"].grad_std == pytest.approx(math.sqrt(squares["first back"]), rel=0.1)
    for name in ("q", "v"):
        assert rows[name].grad_std == pytest.approx(math.sqrt(squares[f"{name} back"]), rel=0.2), name
