"""IC304: Xavier or Kaiming on matrices that are packed in one tensor, whose fan torch takes for that of one matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.scale import structure_of
from initcheck.rules.writes import call_location, counted, final_write

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.tracing.trace import Write

CODE = "IC304"

_PACKED = ("qkv", "in_proj", "c_attn", "kqv", "to_qkv", "wqkv", "query_key_value")
_OFF = 1.3


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Stacked experts, (E, in, out), and packed query, key and value projections, (3d, d), by their call."""
    groups: dict[Location, list[tuple[WeightUse, Write, float]]] = defaultdict(list)
    for use in structure_of(context).by_parameter().values():
        write = final_write(use.record)
        if write is None or write.origin != "user":
            continue
        right = _right_std(use, write)
        if right is not None and max(right / write.distribution.std, write.distribution.std / right) >= _OFF:
            groups[call_location(write, context)].append((use, write, right))
    for where, cases in groups.items():
        use, write, right = cases[0]
        also = f" ({counted(len(cases), 'tensor')})" if len(cases) > 1 else ""
        std = write.distribution.std
        yield finding(
            CODE,
            f"`{write.function}` takes `{use.parameter}`{also}, of shape {use.record.shape}, for one matrix: the "
            "std is "
            f"{std:.2g}, {std / right:.2g} times that of each matrix on its own",
            where,
            model=context.trace.model,
            parameter=use.parameter,
            evidence=(f"each matrix: fan_in {use.fans.fan_in:g}, std {right:.2g}; as one: {std:.2g}",),
            suggestion=f"initialise each part on its own, e.g. for part in {use.parameter}.chunk(3): ..."
            if len(use.record.shape) == 2
            else f"for matrix in {use.parameter}: nn.init.{write.function}(matrix.t(), ...)",
            factor=std / right,
        )


def _right_std(use: WeightUse, write: Write) -> float | None:
    """The std that the same call gives to each matrix on its own; None where the tensor is one matrix."""
    shape = use.record.shape
    if len(shape) == 3 and use.op in ("bmm", "baddbmm", "matmul", "einsum", "grouped_mm", "_grouped_mm"):
        return _std(write, use.fans.fan_in, use.fans.fan_out)
    packed = len(shape) == 2 and shape[0] == 3 * shape[1] and any(word in use.parameter for word in _PACKED)
    if packed and use.op == "linear" and write.function.startswith("xavier_"):
        return _std(write, shape[1], shape[1])
    return None


def _std(write: Write, fan_in: float, fan_out: float) -> float | None:
    if write.function.startswith("xavier_"):
        gain = write.arguments.get("gain", 1.0)
        return float(gain) * math.sqrt(2.0 / (fan_in + fan_out)) if isinstance(gain, (int, float)) else None
    if write.function.startswith("kaiming_"):
        from initcheck.rules.scale import written_gain

        gain = written_gain(write)
        fan = fan_out if write.arguments.get("mode", "fan_in") == "fan_out" else fan_in
        return gain / math.sqrt(fan) if gain is not None else None
    return None
