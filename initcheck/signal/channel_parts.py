"""Some channels of a concatenation: they are those of the parts that were put there, and so is their gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.joining import mixed_shape, mixture
from initcheck.signal.value import Atom, Value

Range = tuple[int, int]
"""First channel, and the one after the last."""


def channel_range(value: Value, items: Sequence[Any]) -> Range | None:
    """The channels that an index takes of a concatenation along its channels, if it is a plain slice of those only."""
    if not value.parts:
        return None
    items = list(items)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(value.dims) - len(items) + 1)
    found: Range | None = None
    for item, dim in zip(items, value.dims, strict=False):
        if item == slice(None):
            continue
        roles = {atom.role for atom in dim}
        if found is not None or not isinstance(item, slice) or roles != {"C"}:
            return None
        numbers = (item.start, item.stop, item.step)
        if not all(n is None or isinstance(n, int) for n in numbers) or item.step not in (None, 1):
            return None
        start, stop, _ = item.indices(math.prod(atom.size for atom in dim))
        found = (start, stop)
    return found if found is not None and found[1] > found[0] else None


def _covered(value: Value, channels: Range) -> list[float]:
    """Which share of each part lies in the range."""
    total, at, result = value.count("C"), 0.0, []
    for share, _ in value.parts:
        size = share * total
        inside = min(channels[1], at + size) - max(channels[0], at)
        result.append(min(max(inside / size, 0.0), 1.0) if size > 0 else 0.0)
        at += size
    return result


def chosen_channels(value: Value, channels: Range) -> Value:
    """The value of a slice: one part itself, or a mixture of several."""
    parts = []
    for covered, (share, part) in zip(_covered(value, channels), value.parts, strict=True):
        count = round(covered * part.count("C"))
        if count:
            parts.append((share * covered, part if covered == 1.0 else _fewer(part, count)))
    if len(parts) == 1:
        part = parts[0][1]
        return part.viewed(part.dims, part.covariance.profile, part.covariance.local)
    whole = sum(share for share, _ in parts)
    parts = [(share / whole, part) for share, part in parts]
    mean, covariance = mixture(parts)
    size = channels[1] - channels[0]
    dims = tuple((Atom("C", size),) if any(a.role == "C" for a in dim) else dim for dim in value.dims)
    result = Value(dims, mean, covariance, approximate=value.approximate, parts=tuple(parts))
    result.shape_on_grid = mixed_shape(parts)
    return result.settled()


def _fewer(part: Value, count: int) -> Value:
    """So many of a part's channels."""
    size: tuple[Atom, ...] = (Atom("C", count),) if count > 1 else ()
    return part.fresh(tuple(size if any(a.role == "C" for a in dim) else dim for dim in part.dims))


def to_parts(value: Value, channels: Range, gradient: Gradient) -> tuple[Gradient, ...]:
    """What each part receives of a slice's gradient."""
    covered = _covered(value, channels)
    inside = [i for i, share in enumerate(covered) if share > 0]
    own = gradient.parts if len(gradient.parts) == len(inside) else (gradient,) * len(inside)
    received = dict(zip(inside, own, strict=True))
    return tuple(_of_some(received[i], share) if i in received else _nothing() for i, share in enumerate(covered))


def _of_some(gradient: Gradient, share: float) -> Gradient:
    return gradient if share == 1.0 else gradient.scaled(math.sqrt(share))


def _nothing() -> Gradient:
    return Gradient.fresh(Kernel.constant(0.0))
