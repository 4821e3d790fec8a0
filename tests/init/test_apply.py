from __future__ import annotations

import pytest
import torch
from torch import nn

from initcheck.init import Suggestion, apply, apply_suggestions
from initcheck.init.named import SCHEMES


def small_net():
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))


RESIDUAL = {"fixup", "t_fixup", "deepnorm", "subln", "ds_init", "gpt2", "rezero"}
"""Schemes for nets with residual branches, which have tests of their own."""


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - RESIDUAL))
def test_every_named_scheme_writes_every_layer(scheme):
    net, data = small_net(), torch.randn(16, 32)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    changes = apply(net, scheme, data, generator=torch.Generator().manual_seed(0))
    assert [c.parameter for c in changes] == ["0.weight", "2.weight", "4.weight"]
    for change in changes:
        assert change.std_before == pytest.approx(float(before[change.parameter].std(correction=0)))
        assert change.std_after == pytest.approx(float(net.get_parameter(change.parameter).detach().std(correction=0)))
    again = small_net()
    apply(again, scheme, data, generator=torch.Generator().manual_seed(0))
    if scheme != "lsuv":  # whose scales depend on the biases, which stay as each net has them
        assert torch.equal(net[2].weight, again[2].weight)


def test_scheme_names_with_underscore_and_scale():
    net = small_net()
    apply(net, "kaiming_normal_")
    assert float(net[2].weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)


def test_refuses_with_reasons():
    with pytest.raises(ValueError, match="unknown scheme 'he': expected one of suggested, deepnorm, delta_orthogonal"):
        apply(small_net(), "he")
    with pytest.raises(ValueError, match="'suggested' needs example_inputs"):
        apply(small_net(), "suggested")
    with pytest.raises(TypeError, match="got function"):
        apply(lambda x: x, "orthogonal")
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"2.weight: looks_linear_: a hidden layer needs an even number of outputs"):
        apply(net, "looks_linear")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_suggestions_are_all_or_nothing():
    net = small_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    good = Suggestion("0.weight", "kaiming_normal_", (("nonlinearity", "'relu'"),), 0.25, 0.0, "feeds relu")
    bad = Suggestion("9.weight", "zeros_", (), 0.0, 0.0, "")
    with pytest.raises(ValueError, match=r"no parameter '9\.weight'"):
        apply_suggestions(net, [good, bad])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    (change,) = apply_suggestions(net, [good], torch.Generator().manual_seed(0))
    assert change.call == "kaiming_normal_(0.weight, nonlinearity='relu')"
    assert change.std_after == pytest.approx(0.25, rel=0.1)
    assert not torch.equal(before["0.weight"], net[0].weight)
    assert torch.equal(before["2.weight"], net[2].weight)
