"""Graph attention by scatter, beside real passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

NODES, EDGES, WIDTH = 256, 1280, 32


class EdgeAttention(nn.Module):
    """One head, each place hearing from where its edges come from."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.source, self.target = (nn.Parameter(torch.randn(WIDTH) * scale) for _ in range(2))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        h, ends, starts = self.lin(x), edges[1], edges[0]
        of_source, of_target = (h * self.source).sum(-1, keepdim=True), (h * self.target).sum(-1, keepdim=True)
        logits = of_source.index_select(0, starts) + of_target.index_select(0, ends)
        logits = leaky_relu(logits, 0.2)
        where = ends[:, None]
        top = x.new_zeros(NODES, 1).scatter_reduce(0, where, logits.detach(), "amax", include_self=False)
        raised = (logits - top.index_select(0, ends)).exp()
        total = x.new_zeros(NODES, 1).scatter_add(0, where, raised) + 1e-16
        weights = self.drop(raised / total.index_select(0, ends))
        messages = weights * h.index_select(0, starts)
        return x.new_zeros(NODES, WIDTH).scatter_add(0, where.expand_as(messages), messages)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.6])
def test_weights_of_a_place_sum_to_one(scale: float) -> None:
    """However wide the logits, whatever all edges of a place share of them."""
    torch.manual_seed(0)
    model = EdgeAttention(scale)
    x, edges = torch.randn(NODES, WIDTH), torch.randint(0, NODES, (2, EDGES))
    signal = propagate(trace(model, (x, edges), {}))
    lin = next(n for n in signal.forward if n.meta.get("op") == "linear")
    out = next(n for n in reversed(list(signal.forward)) if n.meta.get("op") == "scatter_add")
    forward, backward = 0.0, 0.0
    for _ in range(12):
        fresh = EdgeAttention(scale)
        kept: list[torch.Tensor] = []
        fresh.lin.register_forward_hook(lambda _module, _inputs, output, kept=kept: kept.append(output))
        y = fresh(torch.randn(NODES, WIDTH), torch.randint(0, NODES, (2, EDGES)))
        (gradient,) = torch.autograd.grad(y, kept, torch.randn_like(y))
        forward, backward = forward + float(y.detach().var()) / 12, backward + float(gradient.square().mean()) / 12
    assert signal.forward[out].std == pytest.approx(forward**0.5, rel=0.1)
    assert signal.backward[lin].std == pytest.approx(backward**0.5, rel=0.15)
