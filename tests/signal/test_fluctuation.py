"""What finite width alone makes of a layer's scale, beside the spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initcheck.results import LayerRow
from initcheck.signal.propagate import propagate
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace


def rows(model: Callable[[], nn.Module], *shape: int) -> list[LayerRow]:
    built = build(model)
    return propagate(trace(built.model, (torch.randn(shape),), {}, log=built.log)).layers


def relu_mlp(depth: int, width: int, norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False), *([nn.LayerNorm(width)] if norm else []), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-3 if norm else -2].weight, nonlinearity="relu")  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(width, width, bias=False))


def test_five_over_n_per_relu_layer() -> None:
    """Hanin & Nica 2019: Var[ln |x|²] = 5/n per layer for one sample."""
    depth, width = 30, 64
    last = rows(lambda: relu_mlp(depth, width), 1, width)[-1]
    assert last.forward_band == pytest.approx(0.5 * math.sqrt((5 * depth + 2) / width), rel=0.02)


def test_norm_layers_start_anew() -> None:
    plain, normed = (rows(lambda n=n: relu_mlp(20, 64, n), 8, 64)[-1].forward_band for n in (False, True))
    assert plain is not None
    assert normed is not None
    assert normed < 0.3 * plain


@pytest.mark.parametrize("depth", [5, 20])
def test_spread_over_seeds(depth: int) -> None:
    width = 96
    found: dict[str, list[list[float]]] = {"forward": [], "gradient": []}
    for seed in range(24):
        torch.manual_seed(seed)
        model = relu_mlp(depth, width)
        kept = []
        x = torch.randn(8, width)
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                x.retain_grad()
                kept.append(x)
        x.backward(torch.randn_like(x))
        found["forward"].append([float(t.detach().std().log()) for t in kept])
        found["gradient"].append([float(t.grad.std().log()) for t in kept])  # type: ignore[union-attr]
    predicted = rows(lambda: relu_mlp(depth, width), 8, width)
    for direction, attribute, index in (("forward", "forward_band", -1), ("gradient", "grad_band", 0)):
        real = statistics.stdev(seed[index] for seed in found[direction])
        assert getattr(predicted[index], attribute) == pytest.approx(real, rel=0.45), direction


def test_wider_is_surer() -> None:
    narrow, wide = (rows(lambda w=w: relu_mlp(10, w), 8, w)[-1].forward_band for w in (32, 512))
    assert narrow is not None
    assert wide is not None
    assert wide == pytest.approx(narrow / 4, rel=0.1)


class WrittenNorms(nn.Module):
    """Norms as a forward writes them out: RMS, by positions of each channel, by the std of a group."""

    def __init__(self, kind: str, depth: int = 16, width: int = 48) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(depth))
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
            if self.kind == "group":
                groups = x.reshape(len(x), 4, -1)
                std = (groups.var(2, keepdim=True) + 1e-5).sqrt()
                x = x / std.repeat(1, 12, 1).unsqueeze(-1)
            else:
                over = {"rms": (1,), "filter": (2, 3)}[self.kind]
                x = x * torch.rsqrt(x.square().mean(over, keepdim=True) + 1e-6)
            x = torch.relu(x)
        return self.out(x)


@pytest.mark.parametrize("kind", ["rms", "filter", "group"])
def test_norms_written_out_start_anew(kind: str) -> None:
    """The spread of sixteen layers does not add up (it doubled, where each factor was taken to bring its own)."""
    last = rows(lambda: WrittenNorms(kind), 8, 48, 6, 6)[-1].forward_band
    spread = []
    for seed in range(12):
        torch.manual_seed(seed)
        out = WrittenNorms(kind)(torch.randn(8, 48, 6, 6)).detach()
        spread.append(math.log(float(out.double().square().mean().sqrt())))
    assert last is not None
    assert last < 2.0 * statistics.stdev(spread) + 0.02
