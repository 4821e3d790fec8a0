"""tr(C²) / tr(C)² of channels, against covariances of drawn nets, and what it does to the gradient of queries."""

from __future__ import annotations

import pytest
import torch
from passes import beside_passes
from torch import nn

from initcheck.signal.likeness import likeness
from initcheck.signal.propagate import _Run
from initcheck.tracing.ladder import trace


class Tokens(nn.Module):
    """Tokens that few numbers make, then a block of attention."""

    def __init__(self, few: int, width: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(few, width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        places = torch.outer(torch.arange(64) / 10.0, torch.arange(1, width // 2 + 1) / width)
        self.register_buffer("places", torch.cat((places.sin(), places.cos()), -1)[None])

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embed(x) + self.places) * (1 + 0.1 * shift[:, None]) + shift[:, None]
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: torch.Tensor = self.out(mixed)
        return out


def test_queries_of_tokens_that_few_directions_hold() -> None:
    rows = beside_passes(lambda: Tokens(8, 128), [(8, 64, 8), (8, 128)])
    assert [row.predicted for row in rows] == [pytest.approx(row.measured, rel=0.15, abs=1e-6) for row in rows]


class Stack(nn.Module):
    """What makes channels alike: few inputs, a convolution, an activation, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 48, 3), nn.GroupNorm(4, 48)
        self.second, self.third = nn.Conv2d(48, 48, 1), nn.Conv2d(48, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.second(nn.functional.silu(self.norm(x)))
        out: torch.Tensor = self.third(x + y)
        return out


def test_likeness_of_channels_is_that_of_drawn_nets() -> None:
    traced = trace(Stack(), (torch.randn(4, 2, 16, 16),), {})
    run = _Run(traced, True, {})
    run.forward()
    nodes = [n for n in traced.graph.nodes if n.op == "call_function"]
    wanted = [n for n in nodes if n.meta["op"] in ("conv2d", "silu", "add")]
    predicted = [likeness(n, run.values) for n in wanted]
    real = torch.zeros(len(wanted))
    for seed in range(16):
        torch.manual_seed(seed)
        net = Stack().requires_grad_(False)
        x = net.first(torch.randn(16, 2, 24, 24))
        silu = nn.functional.silu(net.norm(x))
        y = net.second(silu)
        for i, t in enumerate((x, silu, y, x + y, net.third(x + y))):
            flat = (t - t.mean((2, 3), keepdim=True)).movedim(1, -1).reshape(-1, t.shape[1])
            gram = flat.T @ flat
            real[i] += float(gram.square().sum() / gram.trace() ** 2) / 16
    for value, measured in zip(predicted, real.tolist(), strict=True):
        assert value == pytest.approx(measured, rel=0.2)
