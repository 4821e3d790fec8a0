"""IC302: ``kaiming_*`` on a transposed convolution, whose fan torch reads off the wrong axis and without the stride."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.fans import SEVERAL, FanCase, FanGroup, fan_groups, he_gain, wrong_factors_of
from initcheck.rules.scale import severity_at
from initcheck.rules.writes import call_node, counted

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse

CODE = "IC302"


def wrong_factors(context: ModelContext) -> dict[Location, float]:
    """See ``attribution``."""
    return wrong_factors_of(fan_groups(context, _right_fan))


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call, with the transposed convolutions whose scale nothing restores."""
    for where, group in fan_groups(context, _right_fan).items():
        yield _finding(context, where, group)


def _right_fan(use: WeightUse, mode: str) -> float | None:
    """The terms of an output's sum, C_in k^2 / s^2, whichever fan was asked for."""
    return use.fans.fan_in if use.op.startswith("conv_transpose") else None


def _finding(context: ModelContext, where: Location, group: FanGroup) -> Finding:
    case, cases = group.worst, group.cases
    # whoever names the fan-out has thought of the axis
    severe = len(cases) >= SEVERAL and case.mode == "fan_in"
    factors = [c.factor for c in cases]
    others = f" ({counted(len(cases), 'layer')}, x {min(factors):.2f} to {max(factors):.2f})" if len(cases) > 1 else ""
    return finding(
        CODE,
        f"`{case.write.function}` takes {case.read:g} as the {case.mode} of the transposed convolution "
        f"`{case.use.record.name}`; an output of it sums {case.right:g} terms, so the std is {case.factor:.2f} times "
        f"what was meant{others}",
        where,
        severity=severity_at(context, where, Severity.WARNING if severe else Severity.INFO),
        model=context.trace.model,
        parameter=case.use.record.name,
        evidence=tuple(_evidence(c) for c in cases[:4]),
        suggestion="nn.init.normal_(m.weight, std=math.sqrt(2 / (in_channels * kernel**2 / stride**2))), "
        f"here {(2 / case.right) ** 0.5:.2g}",
        fix=_fix(context, where, case) if group.alone else None,
        layers=len(cases),
        factor=case.factor,
    )


def _evidence(case: FanCase) -> Evidence:
    return Evidence(
        f"{case.use.record.name} {tuple(case.use.record.shape)}: in * k^2 / stride^2 = {case.right:g}, read "
        f"{case.read:g}: second moment of the output x {case.factor**2:.2f}",
        case.use.record.location,
    )


def _fix(context: ModelContext, where: Location, case: FanCase) -> Fix | None:
    """He's std with the effective fan, where the call names a layer's weight and serves transposed ones only."""
    call = call_node(where, case.write.function, context.source)
    gain = he_gain(case.write)
    if gain is None or call is None or not call.args:
        return None
    weight = call.args[0]
    if not isinstance(weight, ast.Attribute) or weight.attr != "weight":
        return None
    name = ast.unparse(weight.value)
    terms = f"{name}.in_channels // {name}.groups * math.prod({name}.kernel_size) / math.prod({name}.stride)"
    edit = RewriteCall(where, "normal_", (("std", f"math.sqrt({gain:.6g} / ({terms}))"),))
    return Fix("draw with the fan of a transposed convolution", (edit,))
