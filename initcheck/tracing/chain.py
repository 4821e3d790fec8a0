"""The distribution of a tensor that one random (or constant) fill and elementwise ops have made.

The fill is represented by its quantiles; the ops run on these for real. So ``uniform_``, ``erfinv_``, ``mul_``,
``clamp_`` (a truncated normal, as several libraries write it) is had without drawing a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from initcheck.tracing.trace import Distribution

_GRID = 8192


@dataclass(frozen=True, slots=True)
class Op:
    """An op on a whole tensor: overload, positional arguments after the tensor, keywords; all plain."""

    func: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Its name without namespace, overload and underscore: ``normal``, ``mul``; empty for an init function."""
        return op_base(self.func) if hasattr(self.func, "_schema") else ""


def op_base(func: Any) -> str:
    """``aten::normal_`` → ``normal``."""
    name = str(func._schema.name).rpartition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _argument(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    schema = func._schema.arguments
    for index, argument in enumerate(schema):
        if argument.name == name:
            if index - 1 < len(args) and index >= 1:
                return args[index - 1]
            return kwargs.get(name, argument.default_value)
    return kwargs.get(name)


def _levels() -> torch.Tensor:
    return (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID


def _uniform(op: Op) -> torch.Tensor:
    low = float(_argument(op.func, op.args, dict(op.kwargs), "from") or 0.0)
    high = _argument(op.func, op.args, dict(op.kwargs), "to")
    return low + (float(1.0 if high is None else high) - low) * _levels()


def _normal(op: Op) -> torch.Tensor:
    mean = float(_argument(op.func, op.args, dict(op.kwargs), "mean") or 0.0)
    std = _argument(op.func, op.args, dict(op.kwargs), "std")
    quantiles = _unit_normal(op)
    return mean + float(1.0 if std is None else std) * quantiles


def _unit_uniform(op: Op) -> torch.Tensor:
    return _levels()


def _unit_normal(op: Op) -> torch.Tensor:
    quantiles: torch.Tensor = torch.special.ndtri(_levels())
    return quantiles / quantiles.square().mean().sqrt()  # the outermost cells are wider than they look


def _bernoulli(op: Op) -> torch.Tensor:
    p = _argument(op.func, op.args, dict(op.kwargs), "p")
    return (_levels() < float(0.5 if p is None else p)).to(torch.float64)


def _exponential(op: Op) -> torch.Tensor:
    rate = _argument(op.func, op.args, dict(op.kwargs), "lambd")
    return -torch.log1p(-_levels()) / float(1.0 if rate is None else rate)


def _constant(value: float) -> Callable[[Op], torch.Tensor]:
    return lambda op: torch.full((2,), value, dtype=torch.float64)


def _fill(op: Op) -> torch.Tensor:
    value = next((v for v in (*reversed(op.args), *dict(op.kwargs).values()) if isinstance(v, (int, float, bool))), 0.0)
    return torch.full((2,), float(value), dtype=torch.float64)


FILLS: dict[str, tuple[str, Callable[[Op], torch.Tensor]]] = {
    "uniform": ("uniform", _uniform),
    "normal": ("normal", _normal),
    "bernoulli": ("bernoulli", _bernoulli),
    "exponential": ("exponential", _exponential),
    "zero": ("constant", _constant(0.0)),
    "fill": ("constant", _fill),
    "zeros": ("constant", _constant(0.0)),
    "zeros_like": ("constant", _constant(0.0)),
    "new_zeros": ("constant", _constant(0.0)),
    "ones": ("constant", _constant(1.0)),
    "ones_like": ("constant", _constant(1.0)),
    "new_ones": ("constant", _constant(1.0)),
    "full": ("constant", _fill),
    "full_like": ("constant", _fill),
    "new_full": ("constant", _fill),
    "rand": ("uniform", _unit_uniform),
    "rand_like": ("uniform", _unit_uniform),
    "randn": ("normal", _unit_normal),
    "randn_like": ("normal", _unit_normal),
}
"""Ops that set every element, whatever was there."""

AFFINE = frozenset({"mul", "div", "add", "sub", "neg", "rsub"})
ELEMENTWISE = AFFINE | frozenset(
    [
        "erfinv",
        "erf",
        "clamp",
        "clamp_min",
        "clamp_max",
        "exp",
        "log",
        "log1p",
        "expm1",
        "sqrt",
        "rsqrt",
        "abs",
        "pow",
        "tanh",
        "sigmoid",
        "sin",
        "cos",
        "square",
        "remainder",
        "fmod",
        "round",
        "floor",
        "ceil",
        "sign",
        "reciprocal",
        "logit",
        "hardtanh",
        "relu",
    ]
)
"""Ops that act on each element alone, when their other arguments are plain numbers."""


def distribution(fill: Op, ops: list[Op]) -> Distribution:
    """What elements look like after ``fill`` and then ``ops``."""
    given = getattr(fill.func, "dist", None)
    if given is not None:
        return _scaled(given, ops)
    kind, quantiles = FILLS[fill.name]
    values = quantiles(fill)
    for op in ops:
        if op.name == "rsub":
            values = op.args[0] - values
        else:
            functional = getattr(torch.ops.aten, op.name)
            values = functional(values, *op.args, **dict(op.kwargs))
    if not all(op.name in AFFINE for op in ops):
        names = [op.name for op in ops]
        kind = "truncated_normal" if "erfinv" in names else "measured"
    mean = float(values.mean())
    std = float((values - mean).square().mean().sqrt())
    if abs(mean) < 1e-12 * std:
        mean = 0.0
    if kind == "uniform":
        half = abs(float(values[-1] - values[0])) * _GRID / (_GRID - 1) / 2
        return Distribution(kind, mean, half / math.sqrt(3), mean - half, mean + half)
    if kind == "constant":
        std = 0.0
    return Distribution(kind, mean, std)


def _scaled(given: Distribution, ops: list[Op]) -> Distribution:
    """A distribution known by its moments only, after affine ops; unknown after any other."""
    scale, shift = 1.0, 0.0
    for op in ops:
        by = float(op.args[0]) if op.args and isinstance(op.args[0], (int, float)) else math.nan
        steps = {"mul": (by, 0.0), "div": (1 / by if by else math.nan, 0.0), "add": (1.0, by), "sub": (1.0, -by)}
        factor, step = {**steps, "neg": (-1.0, 0.0), "rsub": (-1.0, by)}.get(op.name, (math.nan, math.nan))
        scale, shift = scale * factor, shift * factor + step
    if math.isnan(scale) or math.isnan(shift):
        return Distribution("unknown", math.nan, math.nan)
    return Distribution(given.kind, given.mean * scale + shift, given.std * abs(scale))


def mixture(old: Distribution, new: Distribution, share: float) -> Distribution:
    """``share`` of the elements from ``new``, the others from ``old``."""
    if share >= 1.0 or old == new:
        return new
    if not old.known or not new.known:
        note = "written in part only" if old.kind == "uninitialised" else ""
        return Distribution(old.kind if not old.known else new.kind, math.nan, math.nan, note=note)
    mean = (1 - share) * old.mean + share * new.mean
    second = (1 - share) * old.second_moment + share * new.second_moment
    return Distribution("mixture", mean, math.sqrt(max(second - mean * mean, 0.0)))
