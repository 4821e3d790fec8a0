"""IC205 for weights that a norm layer makes too light for any learning rate: where it harms, and silence elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from live import audit, loud
from torch import Tensor, nn

torch.set_num_threads(1)
X = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module], residual: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)
        self.norm = norm(32)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.norm(self.layer(x)))
        return x + made if self.residual else made


def net(depth: int, std: float | None, norm: type[nn.Module] = nn.BatchNorm1d, residual: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*(Block(norm, residual) for _ in range(depth)), nn.Linear(32, 10))
    for block in model[:-1] if std is not None else ():
        nn.init.normal_(block.layer.weight, std=std)
    return model


def step(model: nn.Sequential, rate: float) -> float:
    """The largest part of its own size by which one step of plain SGD moves a layer's weights."""
    before = [block.layer.weight.detach().clone() for block in model[:-1]]
    F.cross_entropy(model(X), torch.arange(len(X)) % 10).backward()
    torch.optim.SGD(model.parameters(), rate).step()
    after = [block.layer.weight.detach() for block in model[:-1]]
    return max(float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True))


def test_weights_that_the_first_step_throws_away() -> None:
    """At the smallest common learning rate they move by more than their own size; default weights hardly move."""
    findings = [f for f in audit(net(30, 0.005), X) if f.severity >= 1]
    assert [(f.code, f.severity.label, f.data["layers"]) for f in findings] == [("IC205", "warning", 30)]
    assert "in front of a norm layer" in findings[0].message
    assert step(net(30, 0.005), 1e-3) > 1
    assert loud(audit(net(30, None), X)) == []
    assert step(net(30, None), 1e-3) < 0.05


@pytest.mark.parametrize(
    ("depth", "std", "norm", "residual"),
    [
        (5, 0.005, nn.BatchNorm1d, False),
        (12, 0.02, nn.BatchNorm1d, False),
        (30, 0.05, nn.BatchNorm1d, False),
        (30, 0.005, nn.BatchNorm1d, True),
    ],
)
def test_small_weights_that_train_are_clean(depth: int, std: float, norm: type[nn.Module], residual: bool) -> None:
    assert loud(audit(net(depth, std, norm, residual), X)) == []


def test_the_step_grows_as_the_square_of_what_the_weights_shrink_by() -> None:
    """As measured: half the std, four times the step (a little less: the norm's eps counts)."""
    one, half = (next(f for f in audit(net(40, std), X) if f.code == "IC205").data["reach"] for std in (0.006, 0.003))
    measured = step(net(40, 0.003), 1e-6) / step(net(40, 0.006), 1e-6)
    assert half / one == pytest.approx(measured, rel=0.3)
    assert 2.5 < half / one < 4


@pytest.mark.parametrize(("depth", "label"), [(5, "info"), (30, "warning")])
def test_a_short_chain_finds_other_weights(depth: int, label: str) -> None:
    """Without an eps the step is the same at every depth; 5 layers learn under 4 of 6 settings, 30 under none."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(32, 32), nn.LayerNorm(32, eps=1e-12), nn.ReLU()]
        nn.init.normal_(layers[-3].weight, std=1e-3)
        nn.init.zeros_(layers[-3].bias)
    findings = audit(nn.Sequential(*layers, nn.Linear(32, 10)), X)
    assert [f.severity.label for f in findings if f.code == "IC205"] == [label]
