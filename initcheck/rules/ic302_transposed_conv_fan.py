"""IC302: ``kaiming_*`` on a transposed convolution, whose fan torch reads off the wrong axis and without the stride."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.scale import structure_of
from initcheck.rules.writes import call_location, call_node, counted, final_write

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.tracing.trace import Write

CODE = "IC302"

_OFF = 1.2
"""Factor by which a layer's std must be off to count."""

_FAR_OFF = 1.38
"""And one of them by so much (sqrt 2, with room for fans that are not quite powers of two)."""

_SEVERAL = 3
"""Layers that must be off for a warning: one upsampling layer at the wrong scale delays nobody."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call, with the transposed convolutions whose scale nothing restores."""
    groups: dict[Location, list[tuple[WeightUse, Write, float]]] = defaultdict(list)
    served: dict[Location, int] = defaultdict(int)
    for use in structure_of(context).by_parameter().values():
        write = final_write(use.record)
        if write is None or not write.function.startswith("kaiming_"):
            continue
        where = call_location(write, context)
        served[where] += 1
        if not use.op.startswith("conv_transpose") or use.feeds == "norm":
            continue
        factor = math.sqrt(use.fans.fan_in / _read_fan(use, write))
        if max(factor, 1 / factor) >= _OFF:
            groups[where].append((use, write, factor))
    for where, cases in groups.items():
        if any(max(f, 1 / f) >= _FAR_OFF for _, _, f in cases):
            yield _finding(context, where, cases, alone=served[where] == len(cases))


def _read_fan(use: WeightUse, write: Write) -> int:
    """What torch takes for the fan: dimension 1 (the outputs) times the taps, for ``fan_out`` dimension 0."""
    shape = use.record.shape
    axis = 0 if write.arguments.get("mode", "fan_in") == "fan_out" else 1
    return shape[axis] * math.prod(shape[2:])


def _finding(
    context: ModelContext, where: Location, cases: list[tuple[WeightUse, Write, float]], *, alone: bool
) -> Finding:
    use, write, factor = max(cases, key=lambda c: abs(math.log(c[2])))
    asked = write.arguments.get("mode", "fan_in")
    severe = len(cases) >= _SEVERAL and asked == "fan_in"  # whoever names the mode has thought of the axis
    others = f" ({counted(len(cases), 'layer')}, x {min(c[2] for c in cases):.2f} to {max(c[2] for c in cases):.2f})"
    right = use.fans.fan_in
    return finding(
        CODE,
        f"`{write.function}` takes {_read_fan(use, write)} as the {asked} of the transposed convolution "
        f"`{use.record.name}`; an output of it sums {right:g} terms, so the std is {factor:.2f} times what was meant"
        + (others if len(cases) > 1 else ""),
        where,
        severity=Severity.WARNING if severe else Severity.INFO,
        model=context.trace.model,
        parameter=use.record.name,
        evidence=tuple(_evidence(*case) for case in cases[:4]),
        suggestion="nn.init.normal_(m.weight, std=math.sqrt(2 / (in_channels * kernel**2 / stride**2))), "
        f"here {(2 / right) ** 0.5:.2g}",
        fix=_fix(context, where, write) if alone else None,
        layers=len(cases),
        factor=factor,
    )


def _evidence(use: WeightUse, write: Write, factor: float) -> Evidence:
    shape = use.record.shape
    return Evidence(
        f"{use.record.name} {tuple(shape)}: in * k^2 / stride^2 = {use.fans.fan_in:g}, read {_read_fan(use, write)}: "
        f"second moment of the output x {factor**2:.2f}",
        use.record.location,
    )


def _fix(context: ModelContext, where: Location, write: Write) -> Fix | None:
    """He's std with the effective fan, where the call names a layer's weight and serves transposed ones only."""
    import ast

    call = call_node(where, write.function, context.source)
    if call is None or not call.args or not isinstance(call.args[0], ast.Attribute) or call.args[0].attr != "weight":
        return None
    name, nonlinearity = ast.unparse(call.args[0].value), write.arguments.get("nonlinearity", "leaky_relu")
    if nonlinearity not in ("relu", "leaky_relu"):
        return None
    slope = float(write.arguments.get("a", 0.0)) if nonlinearity == "leaky_relu" else 0.0
    gain = f"{2 / (1 + slope**2):.6g}"
    terms = f"{name}.in_channels // {name}.groups * math.prod({name}.kernel_size) / math.prod({name}.stride)"
    edit = RewriteCall(where, "normal_", (("std", f"math.sqrt({gain} / ({terms}))"),))
    return Fix("draw with the fan of a transposed convolution", (edit,))
