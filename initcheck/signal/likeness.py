"""How alike the channel vectors of two positions are by chance: tr(C²) / tr(C)² of their covariance over channels.

E[(x . x')²] / E[|x|²]² for independent x and x' is 1/n where n channels are independent, and more where few directions
hold most of the variance: an embedding of patches of 16 numbers has 16, however many channels it writes them to.

Through random weights W of n inputs to m units, tr((W C Wᵀ)²) / tr(W C Wᵀ)² is that of C plus 1/m; through an
elementwise f, correlations of channels are multiplied by the square of the correlation of f(u) with u.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.value import Value

Values = Mapping[torch.fx.Node, Any]
_NORMS = frozenset(["layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"])
_SHAPES = frozenset(["view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"])
_COPIES = frozenset(["contiguous", "to", "float", "type_as", "clone", "identity", "interpolate", "pad", "avg_pool2d"])
_PASSING = _NORMS | _SHAPES | _COPIES | {"getitem"}
_SUMS = frozenset(["add", "iadd", "sub", "isub"])
_SCALED = frozenset(["mul", "imul", "div", "itruediv", "truediv"])
_DEPTH = 300
_STEPS = 24
_LARGEST = 1 << 20


def likeness(node: torch.fx.Node, values: Values, depth: int = 0) -> float:
    """tr(C²) / tr(C)² of the channels at this node, beyond what positions share; 0 where nothing is known of it."""
    value = values.get(node)
    if not isinstance(value, Value) or depth > _DEPTH:
        return 0.0
    if value.likeness is None:
        found = _found(node, value, values, depth + 1)
        value.likeness = min(max(found, 0.0), 1.0) if math.isfinite(found) else 0.0
    return value.likeness


def _found(node: torch.fx.Node, value: Value, values: Values, depth: int) -> float:
    if value.constant is not None:
        return _of_table(value)
    op, sources = str(node.meta.get("op", "")), node.all_input_nodes
    if op == "getitem" and isinstance(values.get(sources[0]), tuple):
        sources = sources[0].all_input_nodes
    operands = [n for n in sources if isinstance(values.get(n), Value)]
    if node.op != "call_function" or value.iid or not operands:
        return 0.0
    first: Value = values[operands[0]]
    if (
        op in ("linear", "conv1d", "conv2d", "conv3d")
        and len(operands) > 1
        and operands == list(sources[: len(operands)])
    ):
        return _weighted(first, values[operands[1]], likeness(operands[0], values, depth))
    if op in _PASSING:
        return likeness(operands[0], values, depth) if first.count("C") == value.count("C") else 0.0
    if op in _SUMS:
        parts = [(_own(values[n]), likeness(n, values, depth)) for n in operands]
        both = _inherited(operands, [alike for _, alike in parts], value.count("C"))
        return _mixture(parts, value.count("C"), both)
    if op == "cat":
        return _joined(node, value, [(values[n], likeness(n, values, depth)) for n in operands])
    if op == "dropout":
        kept = 1.0 - float(node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5))  # type: ignore[arg-type]
        return _thinned(likeness(operands[0], values, depth), kept, value.count("C"))
    moving = [n for n in operands if _own(values[n]) > 1e-6 * values[n].variance]
    if op in _SCALED and len(moving) == 1:
        return likeness(moving[0], values, depth)
    for operand in moving:
        steady = _steadiness(values[operand], value)
        if steady is not None:
            return _thinned(likeness(operand, values, depth), steady, value.count("C"))
    return 0.0


def _thinned(before: float, kept: float, channels: int) -> float:
    """Where correlations of channels are multiplied by ``kept``, those of each with itself are not."""
    alone = 1.0 / max(channels, 1)
    return alone + max(before - alone, 0.0) * kept**2


def _own(value: Value) -> float:
    """Variance that positions do not share."""
    rows = _rows(value)
    if rows is not None:
        return float(rows.square().mean())
    return max(value.covariance.same - value.covariance.far, 0.0)


def _weighted(x: Value, weight: Value, before: float) -> float:
    """Behind a linear layer or a convolution: that of the vectors which the weights see, plus 1/m."""
    if len(weight.shape) < 2:
        return 0.0
    units, inputs, *kernel = weight.shape
    if kernel and inputs != x.count("C"):  # channels are not mixed, or only within groups
        return 0.0
    if not kernel:
        places = math.prod(a.size for a in x.dims[-1] if a.role == "P")
        return max(before / places, 1.0 / inputs) + 1.0 / units
    return max(before, 1.0 / inputs) * _overlap(x, tuple(kernel)) + 1.0 / units


def _overlap(x: Value, kernel: tuple[int, ...]) -> float:
    """Mean square correlation of two of the positions under a kernel."""
    local, own = x.covariance.local, _own(x)
    if local is None or local.ndim != len(kernel) or own <= 0:
        return 1.0 / math.prod(kernel)
    square = 0.0
    for shift in np.ndindex(*kernel):
        pairs = math.prod((1 if s == 0 else 2) * (n - s) for s, n in zip(shift, kernel, strict=True))
        inside = all(s < n for s, n in zip(shift, local.shape, strict=True))
        square += pairs * (((local[shift] - x.covariance.far) / own) ** 2 if inside else 0.0)
    return min(square / math.prod(kernel) ** 2, 1.0)


def _inherited(operands: list[torch.fx.Node], alike: list[float], channels: int) -> float:
    """E[(x . x') (y . y')] of a stream x and a branch y of it: what x passes on to y, all but the 1/C of y's own."""
    if len(operands) != 2:
        return 0.0
    for stream, node in ((0, operands[1]), (1, operands[0])):
        for _ in range(_STEPS):
            if node is operands[stream]:
                return min(alike[stream], max(alike[1 - stream] - 1.0 / max(channels, 1), 0.0))
            if not node.all_input_nodes:
                break
            node = node.all_input_nodes[0]
    return 0.0


def _mixture(parts: list[tuple[float, float]], channels: int, both: float = 0.0) -> float:
    """Of a sum of vectors with these variances: each has its share squared, any two overlap by 1/C, and ``both``."""
    total = sum(own for own, _ in parts)
    if not total > 0 or channels < 1:
        return 0.0
    alone = 1.0 / channels
    common = 2.0 * math.prod(own / total for own, _ in parts) * both
    return alone + common + sum((own / total) ** 2 * max(alike - alone, 0.0) for own, alike in parts)


def _joined(node: torch.fx.Node, value: Value, parts: list[tuple[Value, float]]) -> float:
    """Of a concatenation: along positions a population of several kinds, along channels independent parts."""
    total = sum(_own(part) * math.prod(part.shape) for part, _ in parts)
    shares = [_own(part) * math.prod(part.shape) / total for part, _ in parts] if total > 0 else []
    grown = [part.count("C") for part, _ in parts]
    if shares and sum(grown) == value.count("C"):
        each = zip(shares, parts, grown, strict=True)
        return sum(share**2 * max(alike, 1.0 / max(count, 1)) for share, (_, alike), count in each)
    return _mixture([(share, alike) for share, (_, alike) in zip(shares, parts, strict=True)], value.count("C"))


def _steadiness(x: Value, out: Value) -> float | None:
    """Square of the correlation of an elementwise expression with its operand; None where it is none of it."""
    if out.source is None or x.own_source() is not out.source or out.grid is None:
        return None
    weights = out.source.at.weights
    u, f = (v.own_grid().detach().double().numpy() for v in (x, out))
    if u.shape != weights.shape or f.shape != weights.shape:
        return None
    u, f = u - weights @ u, f - weights @ f
    both = float((weights @ (u * u)) * (weights @ (f * f)))
    return float(weights @ (u * f)) ** 2 / both if both > 0 else None


def _rows(value: Value) -> torch.Tensor | None:
    """Exact values of a table: rows along the last dim, the mean of all taken off."""
    table = value.constant
    if table is None or table.dim() < 2 or not table.is_floating_point() or not 0 < table.numel() <= _LARGEST:
        return None
    rows = table.detach().double().reshape(-1, table.shape[-1])
    return rows - rows.mean(0)


def _of_table(value: Value) -> float:
    rows = _rows(value)
    if rows is None:
        return 0.0
    gram = rows.T @ rows if rows.shape[1] < len(rows) else rows @ rows.T
    return float(gram.square().sum()) / max(float(rows.square().sum()), 1e-300) ** 2
