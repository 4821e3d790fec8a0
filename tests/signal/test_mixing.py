"""Softmax rows beside samples of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initcheck.signal.kernel import Kernel
from initcheck.signal.mixing import (
    centred_square,
    mean_weights,
    mixed_pairs,
    row_moments,
    ties_occur,
    to_scores,
    unmix,
    unmixed_pairs,
)
from initcheck.signal.propagate import _Run, propagate
from initcheck.signal.value import Atom, Mixing, Value
from initcheck.tracing.ladder import trace


@pytest.mark.parametrize(("keys", "variance"), [(2, 1.0), (16, 0.25), (64, 1.0), (64, 6.0), (400, 1.0)])
def test_moments_of_rows(keys: int, variance: float) -> None:
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(20000 if keys < 100 else 4000, keys) * variance**0.5, 1).double()
    second, third, _ = row_moments(np.array([float(keys)]), variance)
    assert second[0] == pytest.approx(float(p.square().sum(1).mean()), rel=0.03)
    assert third[0] == pytest.approx(float((p**3).sum(1).mean()), rel=0.05)
    a = torch.randn(p.shape).double()
    centred = p * (a - (p * a).sum(1, keepdim=True))
    expected = float(centred.square().sum(1).mean())
    assert centred_square(np.array([float(keys)]), variance)[0] == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("keys", "variance"), [(2, 60.0), (8, 200.0), (32, 2500.0), (32, 250000.0)])
def test_rows_of_large_logits_are_one_hot_but_for_ties(keys: int, variance: float) -> None:
    torch.manual_seed(0)
    p = torch.softmax(torch.randn(200000, keys).double() * variance**0.5, 1)
    second, third, squared = ((p**2).sum(1), (p**3).sum(1), (p**2).sum(1).square())
    expected = [1 - float(m.mean()) for m in (second, third, squared)]
    assert [1 - m[0] for m in row_moments(np.array([float(keys)]), variance)] == pytest.approx(expected, rel=0.06)
    centred = float((second - 2 * third + squared).mean())
    assert centred_square(np.array([float(keys)]), variance)[0] == pytest.approx(centred, rel=0.08)


def test_equal_logits_make_equal_weights() -> None:
    second, third, squared = row_moments(np.array([1.0, 4.0, 7.0]), 0.0)
    assert second == pytest.approx([1, 1 / 4, 1 / 7])
    assert list(third) == list(squared)
    assert third == pytest.approx([1, 1 / 16, 1 / 49])


def test_causal_rows_keep_and_return_what_a_matrix_says() -> None:
    """With equal logits, mixing is exact: K' = P K Pᵀ forward, Pᵀ G P back."""
    seen = np.arange(1.0, 13.0)
    rows = Mixing(0.3, 0.1, 12, -1, 0.0, 0.0, seen)
    p = mean_weights(seen)
    assert p.sum(1) == pytest.approx(np.ones(12))
    assert np.allclose(p, np.tril(p))
    k = Kernel(2.0, 0.5, 0.0, 0.0)
    assert np.allclose(mixed_pairs(k, rows).between_positions(12), p @ k.between_positions(12) @ p.T)
    assert np.allclose(unmixed_pairs(k, rows).between_positions(12), p.T @ k.between_positions(12) @ p)


def test_all_keys_get_the_same_gradient_from_rows_without_preference() -> None:
    """A white gradient of 10 queries arrives at 20 keys as one vector: sum_q g_q / 20."""
    rows = Mixing(1 / 20, 1 / 20, 20, -1, 0.0)
    back = unmix(Kernel(1.0, 0.0, 0.0, 0.0), rows, 10, 20, ((Atom("P", 20),), (Atom("C", 8),)))
    assert back.same == pytest.approx(10 / 400)
    assert back.far == pytest.approx(10 / 400)


def test_queries_with_something_in_common_add_up_in_the_keys() -> None:
    """Gradients of queries and keys beside autograd; the queries, and what comes back to them, are alike by 0.3."""
    torch.manual_seed(0)
    queries, keys, width, heads = 12, 10, 8, 3000

    def drawn(count: int, far: float) -> torch.Tensor:
        return far**0.5 * torch.randn(heads, 1, width) + (1 - far) ** 0.5 * torch.randn(heads, count, width)

    q, k, v, g = drawn(queries, 0.3), drawn(keys, 0.0), drawn(keys, 0.0), drawn(queries, 0.3)
    q.requires_grad_(True)
    k.requires_grad_(True)
    scale = 0.1
    torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).backward(g)
    assert q.grad is not None
    assert k.grad is not None

    def value(count: int, far: float) -> Value:
        return Value(((Atom("C", heads),), (Atom("P", count),), (Atom("C", width),)), 0.0, Kernel(1.0, far, 0.0, 0.0))

    logits = width * scale**2
    square = float(row_moments(np.array([float(keys)]), logits)[0][0])
    rows = Mixing(square, 1 / keys, keys, -1, logits)
    to_q, to_k = to_scores(Kernel(1.0, 0.3, 0.0, 0.0), value(keys, 0.0), value(keys, 0.0), value(queries, 0.3), rows)
    per_channel = width * scale**2
    assert to_q.same * per_channel == pytest.approx(float(q.grad.square().mean()), rel=0.1)
    assert to_k.same * per_channel == pytest.approx(float(k.grad.square().mean()), rel=0.1)
    pairs = (q.grad.sum(1).square().mean() - q.grad.square().sum(1).mean()) / (queries * (queries - 1))
    assert to_q.far * per_channel == pytest.approx(float(pairs), rel=0.1)


@pytest.mark.parametrize("std", [0.1, 3.0, 30.0])
def test_gradients_through_a_written_softmax(std: float) -> None:
    """One-hot rows let a gradient through where two logits tie, and there only."""
    torch.manual_seed(0)
    x = (torch.randn(512, 8, 16) * std).requires_grad_()
    cotangent = torch.randn(512, 8, 16)
    (x.softmax(-1) * cotangent).sum().backward()
    assert x.grad is not None
    traced = trace(_Rows(std), (torch.randn(512, 8, 16),), {})
    signal = propagate(traced)
    node = next(n for n in traced.graph.nodes if n.meta.get("op") == "softmax")
    predicted = (signal.backward[node.args[0]].std / signal.backward[node].std) ** 2
    assert predicted == pytest.approx(float(x.grad.square().mean()), rel=0.15)


class _Rows(torch.nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.std).softmax(-1)


class _Attention(torch.nn.Module):
    def __init__(self, std: float, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(64, 64, bias=False) for _ in range(3))
        torch.nn.init.normal_(self.q.weight, std=std / 8)
        torch.nn.init.normal_(self.k.weight, std=1 / 8)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [layer(x).unflatten(-1, (4, 16)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=self.causal)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("std", [5.0, 300.0])
def test_gradients_through_attention_that_chooses_one(std: float, causal: bool) -> None:
    torch.manual_seed(0)
    net, x = _Attention(std, causal), torch.randn(16, 32, 64)
    predicted = {row.name: row.grad_std for row in propagate(trace(net, (x,), {})).layers}
    heads = [layer(x).detach().requires_grad_() for layer in (net.q, net.k, net.v)]
    net.q, net.k, net.v = (_Given(h) for h in heads)  # type: ignore[assignment]
    out = net(x)
    out.backward(torch.randn_like(out))
    for name, given in zip("qkv", heads, strict=True):
        assert given.grad is not None
        assert predicted[name] == pytest.approx(float(given.grad.std()), rel=0.5), name


class _Given(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def test_a_few_rows_of_huge_logits_hold_no_tie() -> None:
    assert ties_occur(4.0, 1e4, 1000.0)
    assert not ties_occur(4.0, 1e14, 1000.0)
    assert ties_occur(4.0, 1.0, 1.0)


class Causal(nn.Module):
    """Blocks of one causal head and a residual stream."""

    def __init__(self, depth: int = 3, width: int = 64) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.qkv, strict=True):
            q, k, v = layer(norm(x)).chunk(3, -1)
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x


def test_pairs_that_would_not_fit_into_memory_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace(Causal(), (torch.randn(4, 40, 64),), {})
    kept = _Run(traced, True, {})
    monkeypatch.setattr("initcheck.signal.propagate._PAIRS", 39**2 * len(traced.graph.nodes))
    short = _Run(traced, True, {})
    for run in (kept, short):
        run.forward()
        run.backward()
    held = [[v for v in run.values.values() if isinstance(v, Value) and v.covariance.pairs is not None]
            for run in (kept, short)]  # fmt: skip
    assert len(held[0]) > 10
    assert not held[1]
    for node, gradient in kept.received.items():
        value, other = kept.values[node], short.values[node]
        if isinstance(value, tuple):
            continue
        assert other.variance == pytest.approx(value.variance, rel=0.25)
        assert short.received[node].same == pytest.approx(gradient.same, rel=0.25)
