"""Products of two activations beside samples of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from initcheck.signal.combination import combination
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.attention import product_gradients
from initcheck.signal.ops.normalisation import of_the_many
from initcheck.signal.products import Contraction, activation_product
from initcheck.signal.propagate import propagate
from initcheck.signal.value import Atom, Dims, Mixing, Value
from initcheck.tracing.ladder import trace

CHANNELS, PLACES = 16, 24


def drawn(count: int, channels: int, far: float) -> torch.Tensor:
    """(count, channels, PLACES) unit normals, positions of one channel correlated by ``far``."""
    shared, own = torch.randn(count, channels, 1), torch.randn(count, channels, PLACES)
    return far**0.5 * shared + (1 - far) ** 0.5 * own


def test_channels_against_channels_over_all_positions() -> None:
    torch.manual_seed(0)
    q, k = drawn(4000, CHANNELS, 0.3), drawn(4000, CHANNELS, 0.2)
    geometry = Contraction.of((), (Atom("C", CHANNELS),), (Atom("P", PLACES),), (Atom("C", CHANNELS),))
    found = geometry.second_moments(Kernel(1.0, 0.3, 0.0, 0.0), Kernel(1.0, 0.2, 0.0, 0.0))
    assert found.same == pytest.approx(float((q @ k.transpose(1, 2)).square().mean()), rel=0.03)
    assert found.cross == 0.0


def test_projections_of_the_same_tokens_are_alike() -> None:
    """E[(sum_p k_p v_p)²] over weights, k = A x, v = B x: n + n(n - 1)/C for white x; n²/C between two samples."""
    torch.manual_seed(0)
    squares, products = [], []
    for _ in range(600):
        x = torch.randn(2, CHANNELS, PLACES)
        k, v = (torch.randn(8, CHANNELS) / CHANNELS**0.5 @ x for _ in range(2))
        written = torch.einsum("sip,sjp->sij", k, v)
        squares.append(float(written.square().mean()))
        products.append(float((written[0] * written[1]).mean()))
    geometry = Contraction.of((), (Atom("C", 8),), (Atom("P", PLACES),), (Atom("C", 8),))
    white = Kernel(1.0, 0.0, 0.0, 0.0)
    found = geometry.second_moments(white, white, alike=1 / CHANNELS)
    assert found.same == pytest.approx(np.mean(squares), rel=0.08)  # 1/C is the leading order only
    assert found.cross == pytest.approx(np.mean(products), rel=0.12)


def test_different_positions_of_a_product_with_channels() -> None:
    torch.manual_seed(0)
    x, w = drawn(4000, CHANNELS, 0.4).transpose(1, 2), torch.randn(4000, CHANNELS, 8)
    y = x @ w
    geometry = Contraction.of((), (Atom("P", PLACES),), (Atom("C", CHANNELS),), (Atom("C", 8),))
    found = geometry.second_moments(Kernel(1.0, 0.4, 0.0, 0.0), Kernel(1.0, 1.0, 0.0, 0.0))
    assert found.same == pytest.approx(float(y.square().mean()), rel=0.03)
    assert found.far == pytest.approx(float((y[:, 0] * y[:, 1:].mean(1)).mean()), rel=0.08)


def test_gradient_of_what_rows_of_channels_mix() -> None:
    """dv_p = sum_i p_ip g_i: the rows i are channels, so that their gradients are independent."""
    torch.manual_seed(0)
    logits = torch.randn(2000, CHANNELS, PLACES) * 0.5
    p, g = logits.softmax(-1), torch.randn(2000, CHANNELS, 8)
    real = p.transpose(1, 2) @ g
    square = float(p.square().sum(-1).mean())
    dims: Dims = ((), (Atom("C", CHANNELS),), (Atom("P", PLACES),))
    rows = Value(dims, 1 / PLACES, Kernel(square / PLACES, 0.0, 0.0, 0.0))
    rows.mixing = Mixing(square, 1 / PLACES, PLACES, 2, 0.25)
    v = Value(((), (Atom("P", PLACES),), (Atom("C", 8),)), 0.0, Kernel(1.0, 0.0, 0.0, 0.0))
    _, to_v = product_gradients(Kernel(1.0, 1.0, 0.0, 0.0), rows, v)
    assert to_v.same == pytest.approx(float(real.square().mean()), rel=0.05)
    assert to_v.far == pytest.approx(float((real[:, 0] * real[:, 1:].mean(1)).mean()), rel=0.08)


def test_few_positions_say_nothing_of_the_pairs_of_the_many() -> None:
    assert of_the_many(np.array([50.0, *[1.0] * 40])) == 1.0
    assert of_the_many(np.linspace(0.9, 1.1, 21)) == pytest.approx(1.0)


def test_profiles_that_meet_do_not_change_what_the_many_share() -> None:
    """A large factor at positions where the other one vanishes leaves both classes of pairs alone."""
    few = np.array([0.0, *[1.0] * 9]) * 10 / 9
    large = np.array([100.0, *[1.0] * 9])
    a = Kernel(0.9, 0.9, 0.0, 0.0, None, (few,))
    b = Kernel(float(large.mean()), 1.0, 0.0, 0.0, None, (large / large.mean(),))
    assert (a * b).same == pytest.approx(0.9)
    assert (a * b).far == pytest.approx(0.9)


def test_operands_that_are_apart_need_no_combination() -> None:
    graph = torch.fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    assert combination({x: 1.0, y: -1.0}, lambda node: None) is None


def test_a_product_of_fluctuating_factors_fluctuates() -> None:
    """Positions whose mean is taken off are correlated negatively; their sum keeps a variance."""
    dims: Dims = ((Atom("S", 2),), (Atom("P", PLACES),), (Atom("P", PLACES),))
    factor = Value(dims, 0.06, Kernel(1e-4, -1e-4 / (PLACES - 1), 0.0, 0.0))
    weights = Value(dims, 0.4, Kernel(0.04, -0.04 / (PLACES - 1), 0.0, 0.0))
    product = activation_product(factor, weights, dims, 0.0)
    assert product.variance >= PLACES * factor.variance * weights.variance * (1 - 1e-9)


class GatedUnits(nn.Module):
    """Layers behind one another, half of the units of each gating the other half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleList(nn.Linear(256, 512) for _ in range(3)), nn.Linear(256, 64)
        self.dim = dim
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=2 / 16)
            nn.init.normal_(layer.bias, std=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.glu(layer(x).movedim(-1, self.dim), self.dim).movedim(self.dim, -1)
        return self.out(x)


@pytest.mark.parametrize("dim", [-1, 1])
def test_one_half_gates_the_other(dim: int) -> None:
    torch.manual_seed(0)
    net, x = GatedUnits(dim), torch.randn(16, 24, 256)
    signal = propagate(trace(net, (x,), {}), strict=True)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in net.layers.named_children():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out) or out.retain_grad())
    out = net(x)
    out.backward(torch.randn(out.shape))
    for row, real in zip(signal.layers, seen.values(), strict=False):
        assert real.grad is not None
        assert row.forward_std == pytest.approx(float(real.detach().std()), rel=0.06)
        assert row.grad_std == pytest.approx(float(real.grad.std()), rel=0.06)
