"""The grid of small nets that ``trainability.py`` trains: depth, width, activation, init, skip, norm; MLPs and CNNs."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}

_HE = nn.init.kaiming_normal_


def _scaled_he(factor: float) -> Callable[[Tensor], object]:
    return lambda w: _HE(w, nonlinearity="relu").mul_(factor)


INITS: dict[str, Callable[[Tensor], object] | None] = {
    "default": None,
    "xavier": nn.init.xavier_uniform_,
    "he": _scaled_he(1.0),
    "lecun": _scaled_he(math.sqrt(0.5)),
    "he x .3": _scaled_he(0.3),
    "he x .5": _scaled_he(0.5),
    "he x .7": _scaled_he(0.7),
    "he x 1.5": _scaled_he(1.5),
    "he x 2": _scaled_he(2.0),
    "he x 4": _scaled_he(4.0),
    "orthogonal": lambda w: nn.init.orthogonal_(w, math.sqrt(2)),
    "std .01": lambda w: nn.init.normal_(w, std=0.01),
    "std 1e-3": lambda w: nn.init.normal_(w, std=0.001),
    "std .02": lambda w: nn.init.normal_(w, std=0.02),
    "std 1": lambda w: nn.init.normal_(w, std=1.0),
    "rand": lambda w: nn.init.uniform_(w, 0.0, 1.0),
    "rand/fan": lambda w: nn.init.uniform_(w, 0.0, 2.0 / w[0].numel()),
    "constant": lambda w: nn.init.constant_(w, 0.02),
    "zeros": nn.init.zeros_,
}
"""What writes the weights of every hidden layer and the head. Biases are zero, but for ``default``."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One net of the grid."""

    kind: str
    depth: int
    width: int
    activation: str
    init: str
    residual: bool
    norm: str

    def __str__(self) -> str:
        extras = f"{', residual' if self.residual else ''}{f', {self.norm} norm' if self.norm else ''}"
        return f"{self.kind} {self.depth} x {self.width}, {self.activation}, {self.init}{extras}"

    def build(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Net(self)


class Net(nn.Module):
    """``depth`` hidden layers of one width and a head; residual: blocks of two layers around a skip."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        conv = spec.kind == "cnn"
        self.stem = _layer(conv, 3 if conv else 32, spec.width)
        self.bend = ACTIVATIONS[spec.activation]()
        make = _Block if spec.residual else _Plain
        count = max((spec.depth - 1) // (2 if spec.residual else 1), 1)
        self.body = nn.Sequential(*(make(spec, conv) for _ in range(count)))
        self.pool = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()) if conv else nn.Identity()
        self.head = nn.Linear(spec.width * 4 if conv else spec.width, 10)
        write = INITS[spec.init]
        for module in self.modules():
            if write is not None and isinstance(module, (nn.Linear, nn.Conv2d)):
                with torch.no_grad():
                    write(module.weight)
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.bend(self.stem(x)))))


def _layer(conv: bool, inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1) if conv else nn.Linear(inputs, outputs)


def _norm(spec: Spec, conv: bool) -> nn.Module:
    if spec.norm == "batch":
        make = nn.BatchNorm2d if conv else nn.BatchNorm1d
        return make(spec.width, track_running_stats=False)
    if spec.norm == "layer":
        return nn.GroupNorm(1, spec.width) if conv else nn.LayerNorm(spec.width)
    return nn.Identity()


class _Plain(nn.Module):
    def __init__(self, spec: Spec, conv: bool) -> None:
        super().__init__()
        self.layer = _layer(conv, spec.width, spec.width)
        self.norm = _norm(spec, conv)
        self.bend = ACTIVATIONS[spec.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.norm(self.layer(x)))


class _Block(nn.Module):
    def __init__(self, spec: Spec, conv: bool) -> None:
        super().__init__()
        self.norm = _norm(spec, conv)
        self.first = _layer(conv, spec.width, spec.width)
        self.bend = ACTIVATIONS[spec.activation]()
        self.second = _layer(conv, spec.width, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.bend(self.first(self.norm(x))))


_RARE = frozenset({"constant", "zeros", "rand", "std 1", "rand/fan"})
"""Inits whose fate is plain: a fourth as many of each as of the others."""


def grid(*, held_out: bool, mlps: int = 260, cnns: int = 60) -> list[Spec]:
    """A fixed sample of the full grid; ``held_out``: of another one, whose depths, widths and activations differ."""
    if held_out:
        mlp = _all("mlp", (4, 7, 14, 22, 40), (40, 56), ("relu", "tanh", "silu", "elu", "leaky_relu", "softplus"))
        cnn = _all("cnn", (4, 9, 16), (12,), ("relu", "tanh", "silu"))
    else:
        mlp = _all("mlp", (2, 5, 10, 16, 30), (32, 64), ("relu", "tanh", "sigmoid", "gelu", "selu"))
        cnn = _all("cnn", (3, 6, 12), (12,), ("relu", "tanh", "gelu"))
    draw = random.Random(1 if held_out else 0)
    return [*_sample(mlp, mlps, draw), *_sample(cnn, cnns, draw)]


def _all(kind: str, depths: tuple[int, ...], widths: tuple[int, ...], activations: tuple[str, ...]) -> list[Spec]:
    norms = ("", "", "layer", "batch")  # half of the nets have none: that is where init decides
    axes = (depths, widths, activations, INITS, (False, False, True), norms)
    return [Spec(kind, *levels) for levels in itertools.product(*axes)]


def _sample(specs: list[Spec], count: int, draw: random.Random) -> list[Spec]:
    draw.shuffle(specs)
    chosen: dict[Spec, None] = {}
    rare = 0
    for spec in specs:
        if spec.init in _RARE:
            rare += 1
            if rare % 4:
                continue
        chosen[spec] = None
        if len(chosen) == count:
            break
    return list(chosen)
