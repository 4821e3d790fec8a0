"""Properties that must hold for any scale, and outcomes for bad input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from graphs import BATCH, Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops import normalisation
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Moments
from initcheck.signal.rule import RULES
from initcheck.tracing.ladder import trace

scales = st.floats(1e-3, 1e3)


@settings(max_examples=30, deadline=None)
@given(scale=scales, between=st.floats(0.0, 1.0))
def test_relu_halves_the_second_moment_of_any_centred_input(scale: float, between: float) -> None:
    g = Graph()
    x = g.input(BATCH, 64)
    y = g.call("relu", F.relu, x)
    given_moments = Moments(0.0, between * scale**2, (1 - between) * scale**2, 0.0)
    found = propagate(g.done(y), strict=True, inputs={"x": given_moments}).forward[y]
    assert found.variance + found.mean**2 == pytest.approx(scale**2 / 2, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(scale=scales)
def test_weights_of_a_linear_net_scale_its_output_and_gradient(scale: float) -> None:
    g = Graph()
    x = g.input(BATCH, 128)
    h = g.dense(x, 128, scale)
    y = g.dense(h, 128, 1.0)
    signal = propagate(g.done(y), strict=True)
    assert signal.forward[y].std == pytest.approx(scale, rel=1e-9)
    assert signal.backward[h].std == pytest.approx(1.0, rel=1e-9)
    assert signal.forward[h].v_s == pytest.approx(scale**2, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(scale=scales, offset=st.floats(-5.0, 5.0))
def test_batch_norm_has_unit_output_whatever_comes_in(scale: float, offset: float) -> None:
    g = Graph()
    x = g.input(BATCH, 16, 8, 8)
    y = g.call("batch_norm", lambda x: F.batch_norm(x, None, None, training=True), x)
    y.args = (x, None, None, None, None, True, 0.1, 0.0)
    given_moments = Moments(offset * scale, scale**2, scale**2, scale**2)
    found = propagate(g.done(y), strict=True, inputs={"x": given_moments}).forward[y]
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    assert found.variance == pytest.approx(1.0, rel=1e-6)


def test_expressions_of_one_source_are_exact_together() -> None:
    g = Graph()
    x = g.input(BATCH, 64)
    whole = g.call("silu", F.silu, x)
    pieces = g.call("mul", torch.mul, x, g.call("sigmoid", torch.sigmoid, x))
    signal = propagate(g.done(g.call("cat", lambda t, d: torch.cat(t, d), (whole, pieces), 1)), strict=True)
    assert signal.forward[pieces] == pytest.approx(signal.forward[whole]) or (
        signal.forward[pieces].std == pytest.approx(signal.forward[whole].std, rel=1e-12)
    )


def test_input_dependence_dies_while_the_total_stays() -> None:
    """Torch's default Linear with ReLU, 30 layers: biases hold the total up, the part of the input is gone."""
    g = Graph()
    x = g.input(BATCH, 256)
    for _ in range(30):
        h = g.dense(x, 256, 1 / math.sqrt(3), 1 / math.sqrt(3 * 256))
        x = g.call("relu", F.relu, h)
    found = propagate(g.done(h), strict=True).forward[h]
    assert found.std == pytest.approx(0.04, rel=0.1)
    assert found.sample_std < 1e-7


def test_op_without_rule_makes_dependants_unknown_by_name() -> None:
    g = Graph()
    x = g.input(BATCH, 64)
    h = g.dense(x, 64, 1.0)
    odd = g.call("no_such_op", torch.relu, h)
    y = g.dense(odd, 64, 1.0)
    signal = propagate(g.done(y))
    assert signal.unknown_ops == {"no_such_op": 1}
    assert h in signal.forward
    assert odd not in signal.forward
    assert y not in signal.forward
    assert signal.coverage == pytest.approx(1 / 3)
    assert [row.forward_std for row in signal.layers][1] is None


def test_unknown_distribution_is_unknown() -> None:
    g = Graph()
    y = g.dense(g.input(BATCH, 64), 64, math.nan)
    name = "dense0.weight"
    record = g.parameters[name]
    from dataclasses import replace

    from initcheck.tracing.trace import Distribution

    g.parameters[name] = replace(record, distribution=Distribution("uninitialised", math.nan, math.nan))
    signal = propagate(g.done(y))
    assert y not in signal.forward
    assert any(name in op for op in signal.unknown_ops)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_weights_give_nan_never_a_number(broken: float) -> None:
    g = Graph()
    y = g.call("relu", F.relu, g.dense(g.input(BATCH, 64), 64, broken))
    signal = propagate(g.done(y))
    assert y not in signal.forward or not math.isfinite(signal.forward[y].std)


def test_zero_weights_give_zero_and_no_gradient() -> None:
    g = Graph()
    x = g.input(BATCH, 64)
    h = g.dense(x, 64, 1.0)
    y = g.dense(g.call("relu", F.relu, h), 64, 0.0)
    signal = propagate(g.done(y), strict=True)
    assert signal.forward[y].std == 0.0
    assert signal.backward[h].std == 0.0


def test_no_parameters_at_all() -> None:
    g = Graph()
    y = g.call("relu", F.relu, g.input(BATCH, 8))
    signal = propagate(g.done(y))
    assert signal.layers == []
    assert signal.coverage == 1.0


def test_every_rule_has_a_formula() -> None:
    assert all((type(rule).__doc__ or "").strip() for rule in RULES.values())


def test_class_token_gets_the_gradient_that_it_is_read_with() -> None:
    """Only token 0 is read: its gradient reaches token 0 alone, and its own (small) variance divides it."""
    g = Graph()
    patches = g.input(BATCH, 16, 64)
    token = g.call("expand", lambda t: t.expand(BATCH, 1, 64), g.parameter("token", (1, 1, 64), 0.1))
    x = g.call("cat", lambda t, d: torch.cat(t, d), (token, patches), 1)
    h = g.call("layer_norm", F.layer_norm, x, (64,), eps=1e-12)
    y = g.call("getitem", lambda t, i: t[i], h, (slice(None), 0))
    signal = propagate(g.done(y), strict=True)
    assert signal.backward[h].same == pytest.approx(1 / 17, rel=1e-6)
    assert signal.backward[x].same == pytest.approx(100 / 17, rel=0.1)
    assert signal.backward[patches].std == pytest.approx(0.0, abs=1e-6)


def test_a_gradient_that_is_no_number_is_unknown_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph()
    first = g.dense(g.input(BATCH, 64), 64, 1.0)
    last = g.dense(g.call("relu", F.relu, first), 64, 1.0)
    trace = g.done(last)
    rule = RULES["relu"]
    nothing = Gradient.fresh(Kernel.constant(math.nan))
    monkeypatch.setattr(type(rule), "backward", lambda self, call, gradient: [(call.node_of("input"), nothing)])
    signal = propagate(trace)
    assert first not in signal.backward
    assert signal.unknown_ops == {"linear (gradient)": 1}
    with pytest.raises(ArithmeticError):
        propagate(trace, strict=True)


def test_a_part_of_many_concatenations_is_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a dense block each norm reads all earlier parts; what it makes of one does not depend on the others."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(3 + 4 * i) for i in range(4))
            self.convs = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [x]
            for norm, conv in zip(self.norms, self.convs, strict=True):
                parts.append(conv(norm(torch.cat(parts, 1))))
            return torch.cat(parts, 1)

    asked = []
    divided = normalisation.divided
    monkeypatch.setattr(normalisation, "divided", lambda *args: asked.append(args) or divided(*args))
    signal = propagate(trace(Dense(), (torch.randn(4, 3, 8, 8),), {}, mode="train", name="Dense"))
    norms = [node for node in signal.forward if node.meta.get("op") == "batch_norm"]
    assert all(signal.forward[node].variance == pytest.approx(1.0, rel=1e-3) for node in norms)
    assert len(norms) == 4
    assert len(asked) == 4  # one input and three of the convolutions' outputs
