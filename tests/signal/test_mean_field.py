"""Fixed points, chi_1 and gains against independent quadrature (scipy) and published values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from initcheck.signal.mean_field import critical_weight_variance, fixed_point, response, variance_preserving_gain

GAINS = {
    F.relu: 1.7128585504496499,
    F.gelu: 1.7009262433633159,
    F.silu: 1.787187222100422,
    torch.tanh: 1.5925374197228133,
    torch.sigmoid: 4.801313372038501,
    F.elu: 1.2708434178501815,
    F.selu: 0.999999999999988,
    F.softplus: 1.9191259801074056,
    F.softsign: 2.337533363108513,
    F.relu6: 1.7128585549880635,
}


@pytest.mark.parametrize(("activation", "gain"), GAINS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_gain_of_normaliser_free_networks(activation, gain: float) -> None:  # type: ignore[no-untyped-def]
    assert variance_preserving_gain(activation) == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize(
    ("weight_variance", "chi"),
    [(1.0, 0.7590316471851346), (1.3, 0.8801635098829212), (2.5, 1.1335156987040187)],
)
def test_chi_of_tanh_networks(weight_variance: float, chi: float) -> None:
    assert fixed_point(torch.tanh, weight_variance, 0.05).chi == pytest.approx(chi, rel=1e-4)


def test_edge_of_chaos_of_tanh() -> None:
    edge = critical_weight_variance(torch.tanh, 0.05)
    assert edge == pytest.approx(1.760954639608166, rel=1e-4)
    assert fixed_point(torch.tanh, edge, 0.05).variance == pytest.approx(0.5700478818416073, rel=1e-3)


def test_trainable_depth() -> None:
    assert fixed_point(torch.tanh, 1.3, 0.05).trainable_depth == pytest.approx(47.004415610630815, rel=1e-3)


def test_he_initialisation_is_critical_for_relu() -> None:
    stack = fixed_point(F.relu, 2.0)
    assert stack.variance == pytest.approx(1.0, rel=1e-6)
    assert stack.chi == pytest.approx(1.0, rel=1e-6)
    assert stack.depth_scale > 1e5


def test_default_linear_relu_keeps_a_sixth() -> None:
    assert response(F.relu, 1.0).second / 3 == pytest.approx(1 / 6, rel=1e-6)


def test_exploding_stack_has_no_fixed_point() -> None:
    stack = fixed_point(F.relu, 3.0)
    assert math.isnan(stack.variance)
    assert stack.chi == pytest.approx(1.5, rel=1e-6)
