"""IC603: a constant bias so far below zero that the ReLU behind it starts dead, or so far above that it is linear."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import moments_of
from initcheck.rules.consequence import DEAD_SHARE
from initcheck.rules.scale import cause_of, structure_of
from initcheck.rules.writes import call_location, counted, final_write, layer_location

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.tracing.trace import ParameterRecord

CODE = "IC603"

_CUTTING = frozenset({"relu", "relu6"})
_DEAD_ERROR = 1e-6
_DEAD_WARNING = 2e-3
_DEAD_INFO = 0.05
"""Share of samples for which a unit is active: at one in a million no batch wakes the layer, at one in 500 few do."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call that sets such biases; in a live model for those that the signal's verdict misses."""
    for where, cases in _cases(context).items():
        if final_write(cases[0][1]) is not None or not cause_of(context).consequence.harmful:
            yield _finding(context, where, cases)


def cutting_places(context: ModelContext) -> set[Location]:
    """Lines that cut a layer off: they explain a signal or gradient that vanishes (see ``attribution``)."""
    return {
        where
        for where, cases in _cases(context).items()
        if min(case[2] for case in cases) < _DEAD_WARNING and final_write(cases[0][1]) is not None
    }


def _cases(context: ModelContext) -> dict[Location, list[tuple[WeightUse, ParameterRecord, float]]]:
    groups: dict[Location, list[tuple[WeightUse, ParameterRecord, float]]] = defaultdict(list)
    for use in structure_of(context).by_parameter().values():
        if use.feeds != "activation" or use.activation.name not in _CUTTING:
            continue
        bias = context.trace.parameters.get(f"{use.record.module}.bias" if use.record.module else "bias")
        if bias is None or not bias.distribution.known or bias.distribution.std > 0 or not bias.distribution.mean < 0:
            continue
        write = final_write(bias)
        moments = moments_of(use.node, context.signal)
        if (write is None and bias.writes) or moments is None or moments.std <= 0:
            continue  # torch's default stands
        active = 0.5 * math.erfc(-moments.mean / moments.std / math.sqrt(2))
        if active < _DEAD_INFO:
            where = call_location(write, context) if write is not None else layer_location(bias, context)
            groups[where].append((use, bias, active))
    return groups


def _has_living_stream(context: ModelContext) -> bool:
    """Whether the input shows in the output all the same, beside dead units: then only these are lost."""
    if cause_of(context).consequence.harmful or not context.signal.layers:
        return False
    head = context.signal.layers[-1]
    return bool(head.sample_std and head.forward_std and head.sample_std > DEAD_SHARE * head.forward_std)


def _finding(context: ModelContext, where: Location, cases: list[tuple[WeightUse, ParameterRecord, float]]) -> Finding:
    use, bias, active = min(cases, key=lambda case: case[2])
    moments = moments_of(use.node, context.signal)
    assert moments is not None
    also = f" ({counted(len(cases), 'layer')})" if len(cases) > 1 else ""
    severity, dead = Severity.INFO, active < _DEAD_ERROR
    if active < _DEAD_WARNING:
        severity = Severity.ERROR if dead and not _has_living_stream(context) else Severity.WARNING
    fix = None
    write = final_write(bias)
    if write is not None and context.source is not None and where.path == context.source.path and where.end_line:
        fix = Fix("start the biases at zero", (RewriteCall(where, "zeros_", ()),))
    share = "none" if active == 0 else f"{active:.1e}" if active < 1e-3 else f"{active:.1%}"
    return finding(
        CODE,
        f"`{bias.name}`{also} starts at {bias.distribution.mean:g}, {-moments.mean / moments.std:.1f} standard "
        "deviations "
        f"below zero: a {use.activation.name} behind it is active for {share} of the inputs"
        + (": no unit gets a gradient" if dead else ""),
        where,
        severity=severity,
        model=context.trace.model,
        parameter=bias.name,
        evidence=(f"z ~ N({moments.mean:.2g}, {moments.std:.2g}^2): P(z > 0) = {active:.2g}",),
        suggestion=f"nn.init.zeros_({bias.name})",
        fix=fix,
        active=active,
    )
