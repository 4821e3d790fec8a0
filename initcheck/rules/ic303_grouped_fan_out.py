"""IC303: ``kaiming_*(..., mode="fan_out")`` on a grouped convolution: torch does not divide the fan by the groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.fans import SEVERAL, FanGroup, fan_groups, wrong_factors_of
from initcheck.rules.scale import severity_at
from initcheck.rules.writes import counted

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse

CODE = "IC303"


def wrong_factors(context: ModelContext) -> dict[Location, float]:
    """See ``attribution``."""
    return wrong_factors_of(fan_groups(context, _right_fan))


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call, with the grouped convolutions whose scale nothing restores."""
    for where, group in fan_groups(context, _right_fan).items():
        yield _finding(context, where, group)


def _right_fan(use: WeightUse, mode: str) -> float | None:
    """out / groups * k^2 for the fan-out of a grouped convolution (without the stride, which torch ignores)."""
    if mode != "fan_out" or not use.op.startswith("conv") or use.op.startswith("conv_transpose"):
        return None
    groups = _groups(use)
    return use.record.shape[0] / groups * math.prod(use.record.shape[2:]) if groups > 1 else None


def _groups(use: WeightUse) -> int:
    given = use.node.kwargs.get("groups", use.node.args[6] if len(use.node.args) > 6 else 1)
    return given if isinstance(given, int) else 1


def _finding(context: ModelContext, where: Location, group: FanGroup) -> Finding:
    case, cases = group.worst, group.cases
    groups, shape = _groups(case.use), case.use.record.shape
    others = f" ({counted(len(cases), 'layer')})" if len(cases) > 1 else ""
    fix = None
    if group.alone and context.source is not None and where.path == context.source.path and where.end_line:
        given = {
            k: repr(v) for k, v in case.write.arguments.items() if k in ("a", "nonlinearity") and v not in (0, None)
        }
        fix = Fix("use the fan-in", (RewriteCall(where, case.write.function, tuple(given.items())),))
    return finding(
        CODE,
        f"`{case.write.function}` takes {case.read:g} as the fan-out of `{case.use.record.name}`{others}, a "
        f"convolution in {groups} groups of which each input feeds {case.right:g}: the std is {case.factor:.2g} times "
        "what was meant",
        where,
        severity=severity_at(context, where, Severity.WARNING if len(cases) >= SEVERAL else Severity.INFO),
        model=context.trace.model,
        parameter=case.use.record.name,
        evidence=tuple(
            Evidence(
                f"{c.use.record.name} {tuple(c.use.record.shape)}: {c.read:g} / {_groups(c.use)} groups",
                c.use.record.location,
            )
            for c in cases[:3]
        ),
        suggestion=f"mode='fan_in', which knows the groups (shape[1] is in/groups = {shape[1]}), or divide by groups",
        fix=fix,
        layers=len(cases),
        factor=case.factor,
    )
