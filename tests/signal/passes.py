"""What is predicted of small nets, beside the root mean squares of real passes over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace


class Row(NamedTuple):
    """A layer's std of one kind (forward, gradient)."""

    layer: str
    kind: str
    predicted: float
    measured: float


def beside_passes(build: Callable[[], nn.Module], shapes: list[tuple[int, ...]], seeds: int = 8) -> list[Row]:
    """Forward and gradient std of every layer; the gradient is that of a random one of unit size at the (first) output.

    A layer that no gradient reaches has 0 in both columns; NaN is predicted of one that a gradient reaches untold.
    """
    torch.manual_seed(0)
    signal = propagate(trace(build(), tuple(torch.randn(s) for s in shapes), {}), strict=True)
    names = {row.name for row in signal.layers}
    squares: dict[tuple[str, str], float] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build()

        def note(kind: str, name: str, square: torch.Tensor) -> None:
            squares[kind, name] = squares.get((kind, name), 0.0) + float(square) / seeds

        def hook(name: str) -> Callable[..., None]:
            def watch(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
                note("forward", name, output.detach().var())
                output.register_hook(lambda g: note("gradient", name, g.square().mean()))

            return watch

        for name, module in model.named_modules():
            if name in names:
                module.register_forward_hook(hook(name))
        out = model(*(torch.randn(s) for s in shapes))
        first = out if isinstance(out, torch.Tensor) else out[0]
        cotangent = torch.randn_like(first)
        first.backward(cotangent / cotangent.square().mean().sqrt())
    assert names
    rows = []
    for row in signal.layers:
        for kind, told in (("forward", row.forward_std), ("gradient", row.grad_std)):
            measured = math.sqrt(squares.get((kind, row.name), 0.0))
            if told is None:
                told = math.nan if measured else 0.0
            rows.append(Row(row.name, kind, told, measured))
    return rows
