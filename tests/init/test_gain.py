from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from initcheck.init.gain import ACTIVATIONS, gain

NF_NET_GAMMAS = {  # float64 quadrature of 1/sqrt(Var[φ(z)]), and the constants the NF-Net authors published
    "relu": (1.7128585504496499, 1.7139588594436646),
    "leaky_relu": (1.7048316271773236, 1.70590341091156),
    "gelu_tanh": (1.7009165616954331, 1.7015043497085571),
    "silu": (1.787187222100422, 1.7881293296813965),
    "tanh": (1.5925374197228133, 1.5939117670059204),
    "sigmoid": (4.801313372038501, 4.803835391998291),
    "elu": (1.2708434178501815, 1.2716004848480225),
    "selu": (0.999999999999988, 1.0008515119552612),
    "softplus": (1.9191259801074056, 1.9203323125839233),
    "softsign": (2.337533363108513, 2.338853120803833),
    "relu6": (1.7128585549880635, 1.7131484746932983),
}

MODULES = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "leaky_relu": nn.LeakyReLU(), "prelu": nn.PReLU(), "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "elu": nn.ELU(), "celu": nn.CELU(),
    "selu": nn.SELU(), "softplus": nn.Softplus(), "softsign": nn.Softsign(), "tanh": nn.Tanh(),
    "hardtanh": nn.Hardtanh(), "sigmoid": nn.Sigmoid(), "hardsigmoid": nn.Hardsigmoid(), "hardswish": nn.Hardswish(),
    "logsigmoid": nn.LogSigmoid(), "tanhshrink": nn.Tanhshrink(), "softshrink": nn.Softshrink(),
    "hardshrink": nn.Hardshrink(), "rrelu": nn.RReLU(), "identity": nn.Identity(),
}  # fmt: skip


def test_closed_forms():
    assert gain("relu") == pytest.approx(math.sqrt(2), abs=1e-9)
    assert gain("linear") == pytest.approx(1, abs=1e-9)
    assert gain("selu") == pytest.approx(1, abs=1e-9)
    assert gain("squared_relu") == pytest.approx(math.sqrt(2 / 3), abs=1e-9)
    assert gain("sin") == pytest.approx(1 / math.sqrt((1 - math.exp(-2)) / 2), abs=1e-9)
    assert gain("hardshrink") == pytest.approx(gain(lambda x: x * (x.abs() > 0.5)), abs=1e-7)


@pytest.mark.parametrize("name", NF_NET_GAMMAS)
def test_variance_convention_gives_the_nf_net_gammas(name):
    exact, published = NF_NET_GAMMAS[name]
    assert gain(name, convention="variance") == pytest.approx(exact, abs=1e-6)
    assert gain(name, convention="variance") == pytest.approx(published, rel=2e-3)  # theirs are sample estimates


@pytest.mark.parametrize("name", MODULES)
def test_names_agree_with_torchs_modules(name):
    assert gain(MODULES[name]) == pytest.approx(gain(name), abs=1e-6)


@given(slope=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_leaky_relu_slope(slope):
    assert gain("leaky_relu", slope) == pytest.approx(nn.init.calculate_gain("leaky_relu", slope), abs=1e-9)


def test_torch_convention_is_calculate_gain():
    for name in ("linear", "relu", "tanh", "sigmoid", "selu"):
        assert gain(name, convention="torch") == nn.init.calculate_gain(name)
    with pytest.raises(ValueError, match="calculate_gain has no gain for 'gelu'"):
        gain("gelu", convention="torch")


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_gain_keeps_the_second_moment(name):
    """The defining property, by sampling: a layer that reads φ(z) with weights gain/√n gives variance 1."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2_000_000, generator=generator, dtype=torch.float64)
    value = torch.from_numpy(ACTIVATIONS[name](z.numpy()))
    assert float((gain(name) * value).square().mean()) == pytest.approx(1, abs=0.01)


def test_any_callable():
    assert gain(lambda x: 1.7159 * torch.tanh(2 * x / 3)) == pytest.approx(gain("lecun_tanh"), abs=1e-9)
    assert gain(F.silu) == pytest.approx(gain("swish"), abs=1e-7)
    module = nn.PReLU(init=0.1)
    assert gain(module) == pytest.approx(gain("prelu", 0.1), abs=1e-6)
    assert module.weight.dtype == torch.float32


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"unknown activation 'rellu': expected one of celu"):
        gain("rellu")
    with pytest.raises(ValueError, match="not elementwise"):
        gain(nn.Softmax(-1))
    with pytest.raises(ValueError, match="keep the shape"):
        gain(nn.GLU())
    with pytest.raises(ValueError, match="has no gain"):
        gain(torch.zeros_like)
    with pytest.raises(ValueError, match="takes no param"):
        gain("relu", 0.1)
    with pytest.raises(ValueError, match="convention must be"):
        gain("relu", convention="he")


def test_names_need_no_torch():
    code = "import sys; from initcheck.init.gain import gain; gain('gelu'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
