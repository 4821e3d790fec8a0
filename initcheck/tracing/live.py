"""A live model's parameters as they are: nobody watched them being written, so their values are measured."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from initcheck.tracing.definitions import assignment, class_location
from initcheck.tracing.trace import Distribution, ModuleRecord, ParameterRecord

_CHUNK = 1 << 17
"""Elements measured at a time: what fits into the cache of a core in double precision."""
_UNKNOWN = Distribution("unknown", math.nan, math.nan)


def live_parameters(model: nn.Module) -> dict[str, ParameterRecord]:
    """Every parameter by name (the first of its names; the others are its aliases)."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        tensors.setdefault(id(parameter), parameter)
    modules = dict(model.named_modules(remove_duplicate=False))
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
    return {name: measured(buffer) for name, buffer in model.named_buffers()}


def live_modules(model: nn.Module) -> dict[str, ModuleRecord]:
    """Every submodule by path."""
    return {
        path: ModuleRecord(path, type_name(module), class_location(type(module)))
        for path, module in model.named_modules()
    }


def type_name(module: nn.Module) -> str:
    """``torch.nn.modules.linear.Linear``: a module's qualified class name (of its class before parametrisation)."""
    cls = type(module)
    if cls.__name__.startswith("Parametrized") and cls.__mro__[1] is not nn.Module:
        cls = cls.__mro__[1]
    return f"{cls.__module__}.{cls.__qualname__}"


@torch.no_grad()
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
    least, most = (float(t) for t in torch.aminmax(flat[:_CHUNK]))
    if least == most and flat.numel() <= _CHUNK:
        return Distribution("measured", least, 0.0, least, most)
    count, mean, spread, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for part in torch.split(flat, _CHUNK):
        wide = part.to(torch.float64) if part.device.type != "mps" else part.to(torch.float32)
        here = wide.numel()
        average = float(wide.mean())
        wide = wide - average
        variance = float(wide.dot(wide)) / here
        least, most = (float(t) for t in torch.aminmax(part))
        delta = average - mean
        spread += variance * here + delta**2 * count * here / (count + here)
        count += here
        mean += delta * here / count
        low, high = min(low, least), max(high, most)
    if low == high:
        return Distribution("measured", low, 0.0, low, high)
    std = math.sqrt(max(spread / count, 0.0))
    return Distribution(
        "measured", mean, std, low, high, common=_between_columns(values, std), zero_sum=_sums_to_zero(values, std)
    )


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


@torch.no_grad()
def equal_slices(tensor: torch.Tensor, dim: int) -> bool:
    """Whether all slices along ``dim`` are the same."""
    if tensor.device.type == "meta" or tensor.dim() < 2 or tensor.shape[dim] < 2 or tensor.numel() == 0:
        return False
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return False
    values = tensor.detach()
    first, second = values.select(dim, 0), values.select(dim, 1)
    return torch.equal(first, second) and bool((values == first.unsqueeze(dim)).all())
