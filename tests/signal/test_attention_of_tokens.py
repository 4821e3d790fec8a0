"""Attention whose queries, keys and values are projections of the same tokens, beside real passes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from initcheck.signal.kernel import Kernel
from initcheck.signal.mixing import mix, row_moments, tilt
from initcheck.signal.propagate import propagate
from initcheck.signal.value import Atom, Mixing, Value
from initcheck.tracing.ladder import trace

CHANNELS, WIDTH, TOKENS = 48, 16, 144


class Attention(nn.Module):
    """One head, either in one call or step by step; ``queries``: so many of the tokens ask.

    ``inputs``: what the layer that makes the tokens sums.
    """

    def __init__(self, fused: bool, queries: int, causal: bool = False, inputs: int = 0) -> None:
        super().__init__()
        self.made = nn.Linear(inputs, CHANNELS, bias=False) if inputs else nn.Identity()
        if inputs:
            nn.init.normal_(self.made.weight, std=inputs**-0.5)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, WIDTH, bias=False) for _ in range(3))
        for layer in (self.q, self.k, self.v):
            nn.init.normal_(layer.weight, std=CHANNELS**-0.5)
        self.fused, self.queries, self.causal = fused, queries, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.made(x)
        q, k, v = self.q(x[:, : self.queries]), self.k(x), self.v(x)
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        rows = (q @ k.transpose(-2, -1) * WIDTH**-0.5).softmax(-1)
        return rows @ v


def adder(sums: dict[str, float], name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
    """A hook that adds the mean square of the gradient."""

    def gradient(g: torch.Tensor) -> None:
        sums[name] += float(g.square().mean())

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.register_hook(gradient)

    return hook


def measured(make: type[Attention], arguments: tuple[bool, int, bool, int], draws: int = 60) -> dict[str, float]:
    """Root mean square of the output, and of the gradient of queries and keys."""
    torch.manual_seed(0)
    sums = dict.fromkeys(("out", "q", "k"), 0.0)
    for _ in range(draws):
        net = make(*arguments)
        for name in ("q", "k"):
            getattr(net, name).register_forward_hook(adder(sums, name))
        out = net(torch.randn(4, TOKENS, arguments[3] or CHANNELS))
        out.backward(torch.randn_like(out))
        sums["out"] += float(out.detach().square().mean())
    return {name: math.sqrt(value / draws) for name, value in sums.items()}


@pytest.mark.parametrize(
    ("fused", "queries", "causal", "inputs"),
    [
        (False, TOKENS, False, 0),
        (True, TOKENS, False, 0),
        (True, TOKENS, True, 0),
        (False, 1, False, 0),
        (False, TOKENS, False, 24),
        (True, TOKENS, False, 24),
    ],
)
def test_scores_lean_towards_values(fused: bool, queries: int, causal: bool, inputs: int) -> None:
    """Each query leans along its own direction in the values; without that, outputs were 40 % too small."""
    net = Attention(fused, queries, causal, inputs)
    for weight in net.parameters():  # without the chance of one draw
        weight.data *= weight.shape[1] ** -0.5 / float(weight.data.square().mean().sqrt())
    signal = propagate(trace(net, (torch.randn(4, TOKENS, inputs or CHANNELS),), {}))
    nodes = {str(n.meta.get("module")): n for n in signal.backward if n.meta.get("op") == "linear"}
    out = next(n for n in reversed(list(signal.forward)) if n.op == "call_function")
    found = measured(Attention, (fused, queries, causal, inputs))
    assert signal.forward[out].std == pytest.approx(found["out"], rel=0.12)
    assert signal.backward[nodes["q"]].std == pytest.approx(found["q"], rel=0.15)
    if queries > 1:
        assert signal.backward[nodes["k"]].std == pytest.approx(found["k"], rel=0.15)


@pytest.mark.parametrize(("keys", "variance"), [(16, 0.25), (64, 1.0), (200, 2.0)])
def test_how_far_rows_lean(keys: int, variance: float) -> None:
    torch.manual_seed(0)
    z = torch.randn(40000, keys).double()
    p = torch.softmax(variance**0.5 * z, 1)
    lean = (p * z).sum(1).square().mean() - p.square().sum(1).mean()
    assert tilt(np.array([float(keys)]), variance)[0] == pytest.approx(float(lean), rel=0.05)


def test_samples_whose_queries_are_alike_lean_the_same_way() -> None:
    """One query for all samples: what their outputs have in common beyond the mean of their own values."""
    torch.manual_seed(0)
    draws, samples = 400, 8
    together = 0.0
    for _ in range(draws):
        x = torch.randn(samples, TOKENS, CHANNELS)
        k, v = (x @ torch.randn(CHANNELS, WIDTH) * CHANNELS**-0.5 for _ in range(2))
        out = (k @ torch.randn(WIDTH) * WIDTH**-0.5).softmax(-1).unsqueeze(1) @ v
        between = (out.sum(0).square() - out.square().sum(0)).mean() / (samples * (samples - 1))
        together += float(between) / draws
    dims = (Atom("S", samples),), (Atom("P", TOKENS),), (Atom("C", WIDTH),)
    square = float(row_moments(np.array([float(TOKENS)]), 1.0)[0][0])
    rows = Mixing(square, 1 / TOKENS, TOKENS, -1, 1.0)
    white = Value(dims, 0.0, Kernel(1.0, 0.0, 0.0, 0.0))
    mixed = mix(white, rows, (dims[0], (), dims[2]), Kernel.constant(1 / CHANNELS))
    assert mixed.covariance.cross == pytest.approx(together, rel=0.1)
