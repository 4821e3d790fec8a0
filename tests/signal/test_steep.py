"""Functions that change within one cell of the grid."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from initcheck.signal.grid import nodes
from initcheck.signal.propagate import propagate
from initcheck.signal.steep import resolved
from initcheck.tracing.ladder import trace

INTEGRALS = {torch.sigmoid: 1 / 6, torch.tanh: 4 / 3, nn.functional.hardtanh: 2.0, nn.functional.softsign: 2 / 3}
"""int f'² over the line: E[f'(s z)²] = that / (s sqrt(2 pi)) for a large s."""


@pytest.mark.parametrize("function", INTEGRALS)
@pytest.mark.parametrize("std", [200.0, 25000.0, -25000.0, 1e9])
def test_the_mean_square_of_a_slope_that_no_point_meets(function: object, std: float) -> None:
    grid = nodes(0)
    x = (torch.from_numpy(grid.z) * std).requires_grad_(True)
    y = function(x)  # type: ignore[operator]
    slope = torch.autograd.grad(y.sum(), x)[0]
    weights = torch.from_numpy(grid.weights)
    found = resolved(function, x.detach(), y.detach(), slope, weights, 10**12)  # type: ignore[arg-type]
    expected = INTEGRALS[function] / (abs(std) * math.sqrt(2 * math.pi))  # type: ignore[index]
    assert float((weights * found**2).sum()) == pytest.approx(expected, rel=0.05)
    assert bool((found >= 0).all())
    none = resolved(function, x.detach(), y.detach(), slope, weights, int(abs(std) / 20))  # type: ignore[arg-type]
    assert float((weights * none**2).sum()) < expected / 10


@pytest.mark.parametrize("function", INTEGRALS)
@pytest.mark.parametrize(("std", "elements"), [(4950.0, 2048), (4950.0, 20480), (500.0, 128)])
def test_of_few_elements_the_median_tensor_is_meant(function: object, std: float, elements: int) -> None:
    grid = nodes(0)
    x = (torch.from_numpy(grid.z) * std).requires_grad_(True)
    y = function(x)  # type: ignore[operator]
    slope = torch.autograd.grad(y.sum(), x)[0]
    weights = torch.from_numpy(grid.weights)
    found = resolved(function, x.detach(), y.detach(), slope, weights, elements)  # type: ignore[arg-type]
    drawn = (torch.randn(300, elements, dtype=torch.float64) * std).requires_grad_()
    real = torch.autograd.grad(function(drawn).sum(), drawn)[0].square().mean(1)  # type: ignore[operator]
    expected, rms = float(real.median()) ** 0.5, float((weights * found**2).sum()) ** 0.5
    assert rms == pytest.approx(expected, abs=1e-3 if expected < 1e-2 else 0.0, rel=0.35)


def test_slopes_of_smooth_functions_stay_as_they_are() -> None:
    z, weights = torch.from_numpy(nodes(0).z), torch.from_numpy(nodes(0).weights)
    for function in (torch.tanh, nn.functional.gelu, torch.relu, torch.sin):
        x = z.clone().requires_grad_(True)
        y = function(x)
        slope = torch.autograd.grad(y.sum(), x)[0]
        assert torch.equal(resolved(function, x.detach(), y.detach(), slope, weights, 1), slope)


def test_a_gradient_comes_back_through_a_saturated_sigmoid() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 512, bias=False), nn.Sigmoid(), nn.Linear(512, 512, bias=False))
    with torch.no_grad():
        net[0].weight.mul_(2e4)
    x = torch.randn(2048, 64)
    predicted = {row.name: row.grad_std for row in propagate(trace(net, (x,), {})).layers}
    hidden = net[0](x).detach().requires_grad_()
    net[2](torch.sigmoid(hidden)).backward(torch.randn(2048, 512))
    assert hidden.grad is not None
    assert predicted["0"] == pytest.approx(float(hidden.grad.std()), rel=0.25)


class _Scaled(nn.Module):
    """exp(u / 2) as a VAE has it, behind a layer."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.spread, self.out = nn.Linear(64, 16, bias=False), nn.Linear(16, 16, bias=False)
        nn.init.normal_(self.spread.weight, std=std / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.exp(0.5 * self.spread(x)))


@pytest.mark.parametrize("std", [1.0, 8.0, 12.0])
def test_exp_is_that_of_elements_that_a_tensor_has(std: float) -> None:
    """E[exp(12 z)] is carried by elements about z = 12, which no batch has; the median batch is meant."""
    found = []
    for seed in range(9):
        torch.manual_seed(seed)
        net, x = _Scaled(std), torch.randn(16, 64)
        found.append(math.log(float(torch.exp(0.5 * net.spread(x)).detach().square().mean()) ** 0.5))
    predicted = propagate(trace(net, (x,), {})).layers[-1].forward_std
    assert predicted is not None
    assert math.log(predicted * 3**0.5) == pytest.approx(sorted(found)[4], abs=0.15 if std == 1.0 else 2.0)
