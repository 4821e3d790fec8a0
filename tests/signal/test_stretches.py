"""Homogeneous stretches are found in real graphs, and carry the numbers of mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initcheck.results import Stretch
from initcheck.signal.mean_field import critical_weight_variance
from initcheck.signal.stretches import stretches
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace


def found(model: Callable[[], nn.Module], *shape: int, mode: str = "train") -> tuple[Stretch, ...]:
    built = build(model)
    return stretches(trace(built.model, (torch.randn(shape),), {}, log=built.log, mode=mode))


def tanh_stack(depth: int, weight_variance: float, bias_variance: float = 0.05) -> nn.Module:
    net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(64, 64), nn.Tanh())))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, math.sqrt(weight_variance / 64))
            nn.init.normal_(module.bias, 0.0, math.sqrt(bias_variance))
    return net


def test_depth_scale_of_a_tanh_stack() -> None:
    """The same numbers as from the formula alone (Schoenholz et al. 2017: 6 xi = 47 at sigma_w² = 1.3)."""
    (stretch,) = found(lambda: tanh_stack(50, 1.3), 4, 64)
    assert stretch.layers == tuple(str(2 * i) for i in range(50))
    assert (stretch.kind, stretch.activation) == ("linear", "tanh")
    assert stretch.weight_variance == pytest.approx(1.3)
    assert stretch.bias_variance == pytest.approx(0.05)
    assert stretch.chi == pytest.approx(0.8801635098829212, rel=1e-4)
    assert stretch.trainable_depth == pytest.approx(47.0044, rel=1e-3)
    assert stretch.too_deep


def test_edge_of_chaos_is_never_too_deep() -> None:
    (stretch,) = found(lambda: tanh_stack(200, critical_weight_variance(torch.tanh, 0.05)), 4, 64)
    assert not stretch.too_deep


def test_default_relu_convolutions_keep_a_sixth() -> None:
    def net() -> nn.Module:
        return nn.Sequential(*(m for _ in range(6) for m in (nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(inplace=True))))

    (stretch,) = found(net, 2, 8, 32, 32)
    assert stretch.chi == pytest.approx(1 / 6)
    assert stretch.fixed_point == pytest.approx(0.0, abs=1e-6)
    assert stretch.too_deep


def test_dropout_counts_in_train_mode_only() -> None:
    def net() -> nn.Module:
        layers = (m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5)))
        return nn.Sequential(*layers)

    (training,), (evaluating,) = found(net, 4, 64), found(net, 4, 64, mode="eval")
    assert training.weight_variance == pytest.approx(2 * evaluating.weight_variance)


def test_growth_without_bound_has_no_fixed_point() -> None:
    def net() -> nn.Module:
        model = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(64, 64, bias=False), nn.ReLU())))
        for module in model[::2]:
            nn.init.normal_(module.weight, 0.0, math.sqrt(3 / 64))
        return model

    (stretch,) = found(net, 4, 64)
    assert math.isnan(stretch.fixed_point)
    assert stretch.chi == pytest.approx(1.5)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


def normalised() -> nn.Module:
    return nn.Sequential(*(m for _ in range(8) for m in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())))


def linear() -> nn.Module:
    return nn.Sequential(*(nn.Linear(32, 32) for _ in range(8)))


@pytest.mark.parametrize("net", [Residual, normalised, linear])
def test_no_stretch_across_norms_additions_or_bare_products(net: Callable[[], nn.Module]) -> None:
    assert found(net, 4, 32) == ()


def test_two_activations_are_two_stretches() -> None:
    def net() -> nn.Module:
        first = (m for _ in range(5) for m in (nn.Linear(32, 32), nn.ReLU()))
        second = (m for _ in range(5) for m in (nn.Linear(32, 32), nn.Tanh()))
        return nn.Sequential(*first, *second)

    assert [s.activation for s in found(net, 4, 32)] == ["relu", "tanh"]
