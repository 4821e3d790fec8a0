"""IC210: a sine network whose weights are not at the scale that its frequency factor needs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.attribution import init_is_lost
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import calls, moments_of, op_of, operand
from initcheck.rules.scale import severity_at, structure_of
from initcheck.rules.writes import call_location, counted, final_write, layer_location

if TYPE_CHECKING:
    import torch.fx

    from initcheck.init.structure import WeightUse

CODE = "IC210"

_SINE = frozenset({"sin"})
_OFF = 3.0
"""Factor by which the std of sin's argument must be off 1: the scheme is exact, and a factor 2 is a matter of taste."""

_LEAST = 2
"""Hidden sine layers (those that read a sine) from which this is a sine network."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that draws hidden sine layers at another scale than sqrt(6/n)/omega."""
    lost = init_is_lost(context)
    for where, cases in _cases(context).items():
        if not lost or final_write(cases[0][0].record) is not None:
            yield _finding(context, where, cases)


def wrong_factors(context: ModelContext) -> dict[Location, float]:
    """See ``attribution``."""
    return {where: cases[0][2] for where, cases in _cases(context).items()}


def _cases(context: ModelContext) -> dict[Location, list[tuple[WeightUse, float, float]]]:
    uses = structure_of(context).by_parameter()
    by_node = {use.node: use for use in uses.values()}
    groups: dict[Location, list[tuple[WeightUse, float, float]]] = defaultdict(list)
    hidden = 0
    for node in calls(context.trace.graph, _SINE):
        use, omega = _layer_behind(node, by_node)
        moments = moments_of(operand(node), context.signal)
        if use is None or moments is None or use.reads.name != "sin":
            continue
        hidden += 1
        if max(moments.std, 1 / max(moments.std, 1e-30)) >= _OFF:
            write = final_write(use.record)
            where = call_location(write, context) if write is not None else layer_location(use.record, context)
            groups[where].append((use, omega, moments.std))
    return dict(groups) if hidden >= _LEAST else {}


def _layer_behind(node: torch.fx.Node, by_node: dict[torch.fx.Node, WeightUse]) -> tuple[WeightUse | None, float]:
    """The linear layer whose output, times a number, the sine takes; and that number."""
    current, omega = operand(node), 1.0
    while current is not None and current not in by_node:
        if op_of(current) not in ("mul", "view", "reshape", "contiguous"):
            return None, 1.0
        if op_of(current) == "mul":
            factor = next((a for a in current.args if isinstance(a, (int, float))), None)
            if factor is None:
                return None, 1.0
            omega *= float(factor)
        current = next((n for n in current.all_input_nodes if n.op != "get_attr"), None)
    use = by_node.get(current) if current is not None else None
    return (use, omega) if use is not None and use.op == "linear" else (None, 1.0)


def _finding(context: ModelContext, where: Location, cases: list[tuple[WeightUse, float, float]]) -> Finding:
    use, omega, std = cases[0]
    n = use.fans.fan_in
    right = math.sqrt(6 / n) / omega
    also = f" ({counted(len(cases), 'layer')})" if len(cases) > 1 else ""
    fix = None
    write = final_write(use.record)
    here = context.source is not None and where.path == context.source.path and bool(where.end_line)
    if write is not None and here and len({(case[0].fans.fan_in, case[1]) for case in cases}) == 1:
        bound = f"{right:.6g}"
        fix = Fix("draw at SIREN's scale", (RewriteCall(where, "uniform_", (("a", f"-{bound}"), ("b", bound))),))
    return finding(
        CODE,
        f"the sine behind `{use.parameter}`{also} reads a std of {std:.2g} where SIREN's scheme gives 1: weights "
        "of std "
        f"{use.record.distribution.std:.2g} in place of sqrt(2/{n:g})/{omega:g} = {right / math.sqrt(3):.2g}",
        where,
        severity=severity_at(context, where, Severity.WARNING),
        model=context.trace.model,
        parameter=use.parameter,
        evidence=(
            f"omega^2 n Var[w] E[sin^2] = {omega:g}^2 x {n:g} x {use.record.distribution.std:.2g}^2 x 1/2 = "
            f"{std**2:.2g}",
        ),
        suggestion=f"nn.init.uniform_(m.weight, -b, b) with b = math.sqrt(6 / {n:g}) / {omega:g} = {right:.3g}",
        fix=fix,
        std=std,
    )
