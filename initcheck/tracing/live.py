"""A live model's parameters as they are: nobody watched them being written, so their values are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from initcheck.tracing.definitions import assignment, class_location
from initcheck.tracing.members import named_modules, named_tensors
from initcheck.tracing.trace import Distribution, ModuleRecord, ParameterRecord

_CHUNK = 1 << 17
"""Elements measured at a time: what fits into the cache of a core in double precision."""
_UNKNOWN = Distribution("unknown", math.nan, math.nan)


def live_parameters(model: nn.Module) -> dict[str, ParameterRecord]:
    """Every parameter by name (the first of its names; the others are its aliases)."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, parameter in named_tensors(model, "_parameters", repeats=True):
        names.setdefault(id(parameter), []).append(name)
        tensors.setdefault(id(parameter), parameter)
    modules = dict(named_modules(model, repeats=True))
    records: dict[str, ParameterRecord] = {}
    firsts: _Firsts = {}
    twins: dict[str, str] = {}
    named: dict[str, torch.Tensor] = {}
    for key, (name, *aliases) in names.items():
        tensor = tensors[key]
        path, _, attribute = name.rpartition(".")
        dist = measured(tensor)
        if tensor.requires_grad and _garbage(dist):
            dist = replace(dist, kind="uninitialised", note=f"holds {_extreme(dist)}")
        named[name] = tensor
        twin = _twin(name, tensor, dist, firsts)
        if twin:
            twins[name] = twin
        records[name] = ParameterRecord(
            name=name,
            module=path,
            module_type=type_name(modules[path]),
            attribute=attribute,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            requires_grad=tensor.requires_grad,
            distribution=dist,
            aliases=tuple(aliases),
            equal_rows=equal_slices(tensor, 0),
            equal_columns=equal_slices(tensor, 1),
            location=assignment(modules, path),
        )
    for name, original in _clones(twins, named).items():
        records[name] = replace(records[name], clone_of=original)
    return records


_ABSURD = 1e15
"""No initialiser draws numbers as large as this; memory that nobody wrote holds them soon."""


def _garbage(dist: Distribution) -> bool:
    return dist.kind == "measured" and not (math.isfinite(dist.mean) and _largest(dist) < _ABSURD)


def _largest(dist: Distribution) -> float:
    return max(abs(dist.low or 0.0), abs(dist.high or 0.0))


def _extreme(dist: Distribution) -> str:
    largest = _largest(dist)
    return "NaN" if math.isnan(largest) else "infinity" if math.isinf(largest) else f"numbers like {largest:.0g}"


_Firsts = dict[tuple[object, ...], list[tuple[str, torch.Tensor]]]
"""Parameters that are nobody's twin, by what twins would have in common."""


def _twin(name: str, tensor: torch.Tensor, dist: Distribution, firsts: _Firsts) -> str:
    """The first parameter of another module with exactly the same values; empty if there is none."""
    if not dist.known or not dist.std > 0:
        return ""
    key = (tuple(tensor.shape), tensor.dtype, tensor.device, dist.mean, dist.std)  # equal tensors measure equal
    for other, values in firsts.setdefault(key, []):
        if other.rpartition(".")[0] != name.rpartition(".")[0] and torch.equal(values, tensor):
            return other
    firsts[key].append((name, tensor))
    return ""


def _clones(twins: dict[str, str], tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """The twins that were copied: layers whose matrices are *all* equal, and random.

    One equal matrix among others that differ was computed in the same way (an identity, a table of decay rates).
    """
    matrices = [name for name, tensor in tensors.items() if tensor.dim() > 1]
    found: dict[str, str] = {}
    for name, other in twins.items():
        mine, theirs = name.split("."), other.split(".")
        differ = next((i for i, (one, two) in enumerate(zip(mine, theirs, strict=False)) if one != two), 0)
        stem = ".".join(mine[: differ + 1]) + "."
        siblings = [m for m in matrices if m.startswith(stem)]
        if all(m in twins for m in siblings) and any(_random(tensors[m]) for m in siblings):
            found[name] = other
    return found


def _random(tensor: torch.Tensor) -> bool:
    """Whether the values look drawn: hardly any of the first thousand occurs twice."""
    head = tensor.detach().flatten()[:1024]
    return int(torch.unique(head).numel()) > 0.9 * head.numel()


def live_buffers(model: nn.Module) -> dict[str, Distribution]:
    """Buffers, measured."""
    return {name: measured(buffer) for name, buffer in named_tensors(model, "_buffers")}


def live_modules(model: nn.Module) -> dict[str, ModuleRecord]:
    """Every submodule by path."""
    return {
        path: ModuleRecord(path, type_name(module), class_location(type(module)))
        for path, module in named_modules(model)
    }


def type_name(module: nn.Module) -> str:
    """``torch.nn.modules.linear.Linear``: a module's qualified class name (of its class before parametrisation)."""
    cls = type(module)
    if cls.__name__.startswith("Parametrized") and cls.__mro__[1] is not nn.Module:
        cls = cls.__mro__[1]
    return f"{cls.__module__}.{cls.__qualname__}"


def measured(tensor: torch.Tensor) -> Distribution:
    """Mean and std over all elements (chunked, in double precision, on the tensor's own device)."""
    if tensor.device.type == "meta":
        return Distribution("unknown", math.nan, math.nan, note="on the meta device: no values")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.numel() == 0:
        return _UNKNOWN
    values = tensor.detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    flat = values.reshape(-1)
    sums = _sums_of_array(flat.numpy()) if _has_array(flat) else None
    if sums is None:
        sums = _sums_of_tensor(flat)
    if sums.low == sums.high:
        return Distribution("measured", sums.low, 0.0, sums.low, sums.high)
    std = math.sqrt(max(sums.spread / sums.count, 0.0))
    return Distribution(
        "measured",
        sums.mean,
        std,
        sums.low,
        sums.high,
        common=_between_columns(values, std) if values.dim() == 2 else 0.0,
        zero_sum=values.dim() > 1 and _sums_to_zero(values, std),
    )


def _has_array(values: torch.Tensor) -> bool:
    """Whether NumPy may look at the values where they lie: a tenth of the time for small ones."""
    plain = type(values) is torch.Tensor and values.device.type == "cpu" and not values.is_neg()
    return plain and values.dtype in (torch.float32, torch.float64)


@dataclass(slots=True)
class _Sums:
    """Of the values so far. ``spread``: of the squares of their distances from their mean."""

    count: int = 0
    mean: float = 0.0
    spread: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, count: int, mean: float, spread: float, low: float, high: float) -> None:
        """Take in more (Chan et al. 1979)."""
        delta = mean - self.mean
        together = self.count + count
        self.spread += spread + delta**2 * self.count * count / together
        self.mean += delta * count / together
        self.count = together
        self.low = low if math.isnan(low) else min(self.low, low)
        self.high = high if math.isnan(high) else max(self.high, high)


_CANCELS = 1e3
"""Mean squares so many times the variance lose three digits of it, of fifteen."""


def _sums_of_array(flat: np.ndarray[Any, Any]) -> _Sums | None:
    """None where values are not finite."""
    found = _Sums()
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        low, high = float(part.min()), float(part.max())
        if not -_ABSURD < low <= high < _ABSURD:
            return None
        if low == high:
            found.add(len(part), low, 0.0, low, high)
            continue
        wide = part.astype(np.float64)
        mean = float(wide.sum()) / len(wide)
        spread = float(wide.dot(wide)) - mean * mean * len(wide)
        if mean * mean * len(wide) > _CANCELS * spread:
            wide -= mean
            spread = float(wide.dot(wide))
        found.add(len(wide), mean, spread, low, high)
    return found


def _sums_of_tensor(flat: torch.Tensor) -> _Sums:
    found = _Sums()
    for part in torch.split(flat, _CHUNK):
        low, high = (float(t) for t in torch.aminmax(part))
        if low == high:
            found.add(part.numel(), low, 0.0, low, high)
            continue
        wide = part.to(torch.float64) if part.device.type != "mps" else part.to(torch.float32)
        mean = float(wide.mean())
        wide = wide - mean
        found.add(wide.numel(), mean, float(wide.dot(wide)), low, high)
    return found


def _sums_to_zero(values: torch.Tensor, std: float) -> bool:
    """Whether the rows' sums are rounding noise beside the √n·std that independent elements would sum to."""
    if values.dim() < 2 or values.shape[0] < 2 or not 0 < std < math.inf or not values.is_floating_point():
        return False
    row = values.numel() // values.shape[0]
    if abs(float(values[0].sum(dtype=torch.float64))) > 1e-2 * std * math.sqrt(row):
        return False  # nearly always: one row tells
    sums = values.reshape(values.shape[0], -1).sum(1, dtype=torch.float32).to(torch.float64)
    return float(sums.square().mean().sqrt()) < 1e-2 * std * math.sqrt(row)


def _between_columns(values: torch.Tensor, std: float) -> float:
    """The part of a matrix's variance that lies between its columns' means; 0 where chance alone explains it."""
    if values.dim() != 2 or values.shape[0] < 2 or not 0 < std < math.inf or not values.is_floating_point():
        return 0.0
    rows = values.shape[0]
    means = values.mean(0, dtype=torch.float32).to(torch.float64)
    share = (float(means.var(correction=0)) / std**2 * rows - 1) / (rows - 1)
    return share if share > 0.05 + 4 / rows else 0.0


def equal_slices(tensor: torch.Tensor, dim: int) -> bool:
    """Whether all slices along ``dim`` are the same."""
    if tensor.dim() < 2 or tensor.shape[dim] < 2 or tensor.numel() == 0 or tensor.device.type == "meta":
        return False
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    values = tensor.detach()
    if _has_array(values):  # nearly always, one element tells
        corner: list[Any] = [0] * values.dim()
        corner[dim] = slice(2)
        one, other = values.numpy()[tuple(corner)]
        if one != other:
            return False
    first, second = values.select(dim, 0), values.select(dim, 1)
    return torch.equal(first, second) and bool((values == first.unsqueeze(dim)).all())
