"""Message passing beside samples of it."""

from __future__ import annotations

import math

import pytest
import torch
from graphs import Graph

from initcheck.signal.propagate import propagate

NODES, EDGES, WIDTH = 200, 800, 64


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_messages_to_random_places(reduce: str) -> None:
    torch.manual_seed(0)
    index = torch.randint(0, NODES, (EDGES,))

    def aggregate(base: torch.Tensor, dim: int, where: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return base.scatter_reduce(dim, where.expand_as(source), source, reduce, include_self=False)

    g = Graph()
    x = g.input(EDGES, WIDTH)
    where = g.graph.get_attr("index")
    where.meta.update(constant=index, value=index, val=torch.empty(EDGES, 1, dtype=torch.long, device="meta"))
    base = g.graph.get_attr("zeros")
    zeros = torch.zeros(NODES, WIDTH)
    base.meta.update(constant=zeros, value=zeros, val=torch.empty(NODES, WIDTH, device="meta"))
    y = g.call("scatter_reduce", aggregate, base, 0, where, x)
    y.kwargs = {"reduce": reduce}
    signal = propagate(g.done(y), strict=True)
    real, slopes = [], []
    for _ in range(8):
        source = torch.randn(EDGES, WIDTH, requires_grad=True)
        out = aggregate(zeros, 0, index[:, None], source)
        real.append(float(out.detach().var()))
        out.backward(torch.randn_like(out))
        slopes.append(float(source.grad.square().mean()))
    assert signal.forward[y].std == pytest.approx(math.sqrt(sum(real) / 8), rel=0.03)
    assert signal.backward[x].std == pytest.approx(math.sqrt(sum(slopes) / 8), rel=0.05)
