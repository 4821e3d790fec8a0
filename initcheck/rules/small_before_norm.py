"""Weights in front of a norm layer that are so small that no common learning rate is small enough for them.

What a norm layer makes of W x does not change with the scale of W. So the gradient with respect to W grows as 1/|W|,
and a step of learning rate eta turns W by 1/|W|^2 times the angle that it would at |W| = 1: the *effective* learning
rate is eta/|W|^2 (van Laarhoven 2017; Li and Arora 2020). With g = sigma_w sqrt(fan_in), the norm of one unit's
weights, and B the reach (``consequence``: the scale of the weights' gradient), B/g is a layer's *step*: how far
learning rate 1 moves the weights, as a part of them. Batch norm makes B grow with the depth of a plain net (Yang et al.
2019), so that small weights do harm in deep nets; on a residual stream B stays near 1.

Nets with batch norm and 32 units, trained for 400 steps in batches of 128; "k of 6" settings learn, as in
``consequence``; step as predicted:

========  =====  ==================  ==================  ==================  ==================
std       g      tanh, depth 30      ReLU, depth 30      tanh, depth 16      ReLU, depth 16
========  =====  ==================  ==================  ==================  ==================
default   .6     1e2: 6 of 6         2e3                 2e1                 6e1
.05       .28    5e2: 6 of 6         7e3: 4 of 6         7e1: 6 of 6         2e2: 5 of 6
.02       .11    3e3: 4 of 6         4e4: 4 of 6         4e2: 6 of 6         1e3: 6 of 6
.01       .06    1e4: 3 of 6         1e5: 2 of 6         2e3: 5 of 6         5e3: 6 of 6
.005      .03    3e4: 2 of 6         5e5: 1 of 6         5e3: 5 of 6         2e4: 5 of 6
.002      .01    7e4: 1 of 6         1e6: 0 of 6         2e4: 2 of 6         6e4: 4 of 6
.001      .006   3e4: 1 of 6         3e4: 0 of 6         2e4: 1 of 6         2e3: 1 of 6
========  =====  ==================  ==================  ==================  ==================

(At .001 the norms' eps drowns the signal, which is another matter.) A short chain soon has other weights that do as
well: 5 ReLU layers with layer norm, its eps 1e-12, weights of std .001 and so a step of 2e4 learn under 4 of 6; 30 of
them under none. In torchvision's MobileNetV2 the depthwise filters have norms down to .07, and the largest step is 400.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Location, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.consequence import LONG_CHAIN
from initcheck.rules.scale import cause_of, structure_of
from initcheck.rules.symmetry import symmetry_of
from initcheck.rules.writes import call_location, counted, final_write, layer_location

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.rules.consequence import Step

_SMALL = 0.1
"""Norm of a unit's weights below which the effective learning rate is more than 100 times that at norm 1."""

_STEP = 1e4
"""Of this size on, the first step of SGD at .001, the smallest common rate, moves the weights by about their own size
(measured, as in the tests: 1.4 of it at 1.0e4, where the gradient of the loss at the features is a tenth of a unit)."""


@dataclass(frozen=True, slots=True)
class _Case:
    use: WeightUse
    step: Step
    norm: float

    @property
    def size(self) -> float:
        """The step at learning rate 1, as a part of the weights."""
        return self.step.reach / self.norm


def small_before_norm(context: ModelContext, code: str) -> Iterator[Finding]:
    """One finding for each line that writes such weights, if the signal's verdict names no line already."""
    verdict = cause_of(context).consequence
    if verdict.severity is not None and verdict.severity >= Severity.WARNING:
        return
    if any(layer.exact for layer in symmetry_of(context).layers):
        return  # IC701 and IC702 name the cause
    groups: dict[Location, list[_Case]] = defaultdict(list)
    found = list(_cases(context))
    severity = Severity.WARNING if len(found) >= LONG_CHAIN else Severity.INFO
    for case in found:
        write = final_write(case.use.record)
        where = call_location(write, context) if write is not None else layer_location(case.use.record, context)
        groups[where].append(case)
    for where, cases in groups.items():
        worst = max(cases, key=lambda case: case.size)
        if worst.size > _STEP:
            yield _finding(context, code, where, cases, worst, severity)


def _cases(context: ModelContext) -> Iterator[_Case]:
    by_module: dict[str, WeightUse] = {}
    for use in structure_of(context).by_parameter().values():
        for module in use.record.modules:
            by_module.setdefault(module, use)
    for step in cause_of(context).consequence.steps:
        found = by_module.get(step.row.name)
        if found is None or found.feeds != "norm" or not step.row.weight_std or not step.row.fan_in:
            continue
        norm = step.row.weight_std * math.sqrt(step.row.fan_in)
        if norm < _SMALL:
            yield _Case(found, step, norm)


def _finding(
    context: ModelContext, code: str, where: Location, cases: list[_Case], worst: _Case, severity: Severity
) -> Finding:
    row = worst.step.row
    return finding(
        code,
        f"weights of {counted(len(cases), 'layer')} in front of a norm layer are so small (std {row.weight_std:.2g}, "
        f"a norm of {worst.norm:.2g} for the {row.fan_in} inputs of a unit) that every step throws them away: their "
        f"gradient grows as they shrink, and a unit gradient at the head, at learning rate .001, moves `{row.name}` by "
        f"{worst.size / 1000:.2g} times its own size",
        where,
        severity=severity,
        model=context.trace.model,
        parameter=worst.use.parameter,
        evidence=(
            Evidence(
                f"{row.name}: a norm layer follows, so that only the direction of the weights counts; a step turns it "
                f"by 1/{worst.norm:.2g}^2 = {worst.norm**-2:.1g} times as much as at norm 1",
                row.location,
            ),
        ),
        suggestion="nn.init.kaiming_normal_(weight, nonlinearity='linear'), or torch's default init",
        layers=len(cases),
        reach=worst.size,
    )
