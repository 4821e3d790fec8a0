"""IC207: tanh, sigmoid or softmax driven so far into saturation at the start that hardly any gradient passes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import calls, moments_of, op_of, operand
from initcheck.rules.scale import cause_of, structure_of
from initcheck.rules.writes import call_location, counted, final_write, layer_location

if TYPE_CHECKING:
    import torch.fx

    from initcheck.init.structure import WeightUse

CODE = "IC207"

_LIMITS = {"tanh": 2.65, "sigmoid": 5.3, "softsign": 9.0, "hardtanh": 1.0, "hardsigmoid": 3.0}
"""|z| beyond which the slope is under 2 % of its largest (sech² z, 4 sigma'(z), 1/(1 + |z|)²; none in hard ones)."""

_SHARE_INFO = 0.6
_SHARE_WARNING = 0.85
"""Saturated share of a layer's outputs. Nets of five tanh layers learn at 0.72, at 0.9 under some optimisers only."""

_LOGITS = 6.0
"""Std of attention scores: softmax over n Gaussian scores is one-hot from about sqrt(2 ln n) on, 3 to 5.

For information only: attention without a scale (MA-Net) and attention that starts local (ConViT) train.
"""


_Case = tuple["WeightUse", "WeightUse", float, float]
"""(the weight in front of the activation, the one that saturates it, share of saturated outputs, std)."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line whose weights saturate what follows, if the signal's verdict does not name it."""
    verdict = cause_of(context).consequence
    if verdict.severity is not None and verdict.severity >= Severity.WARNING:
        return
    groups: dict[Location, list[_Case]] = defaultdict(list)
    for use in structure_of(context).uses:
        if use.feeds != "activation" or use.activation.name not in _LIMITS or not use.on_signal:
            continue
        share, std = _saturated(use, context)
        if share >= _SHARE_INFO:
            cause = _cause(use, context)
            write = final_write(cause.record)
            where = call_location(write, context) if write is not None else layer_location(cause.record, context)
            groups[where].append((use, cause, share, std))
    for where, cases in groups.items():
        yield _finding(context, where, cases)
    yield from _attention(context)


_GAIN = 10.0
"""A layer that multiplies its input by more is the cause of what saturates some layers on."""


def _cause(use: WeightUse, context: ModelContext) -> WeightUse:
    """The weight that saturates the activation: the one in front of it, or one before, if that has the large gain."""
    by_node = {other.node: other for other in structure_of(context).uses}
    at: WeightUse | None = use
    for _ in range(_BACK):
        if at is None:
            break
        if _gain(at) > _GAIN:
            return at
        node = operand(at.node)
        while node is not None and node not in by_node:
            node = operand(node) if node.op == "call_function" and not op_of(node).endswith("norm") else None
        at = by_node[node] if node is not None else None
    return use


_BACK = 8


def _gain(use: WeightUse) -> float:
    drawn = use.record.distribution
    return math.sqrt(use.fans.fan_in * drawn.second_moment) if drawn.known else 1.0


def _saturated(use: WeightUse, context: ModelContext) -> tuple[float, float]:
    """(share of outputs beyond the limit, std) of what a weight's activation reads."""
    current = use.node
    for _ in range(6):
        user = next((u for u in current.users if op_of(u) == use.activation.name), None)
        if user is not None:
            moments = moments_of(operand(user), context.signal)
            if moments is None or moments.sample_std <= 0.1 * moments.std:
                return 0.0, 0.0  # a bias does it, on purpose (gates): IC603 looks at those
            limit, std = _LIMITS[use.activation.name], max(moments.std, 1e-30)
            inside = _cdf((limit - moments.mean) / std) - _cdf((-limit - moments.mean) / std)
            return 1.0 - inside, std
        following = next(iter(current.users), None)
        if following is None:
            break
        current = following
    return 0.0, 0.0


def _cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def _finding(context: ModelContext, where: Location, cases: list[_Case]) -> Finding:
    use, cause, share, std = max(cases, key=lambda case: case[2])
    grown = "" if cause is use else f"; `{cause.parameter}` multiplies its input by {_gain(cause):.2g}"
    name = use.activation.name
    also = f" ({counted(len(cases), 'layer')})" if len(cases) > 1 else ""
    return finding(
        CODE,
        f"{share:.0%} of what `{use.parameter}`{also} feeds to {name} lies beyond |z| = {_LIMITS[name]:g}, where "
        "its slope "
        f"is under 2 % of the largest: std {std:.2g} before {name}{grown}",
        where,
        severity=Severity.WARNING if share >= _SHARE_WARNING else Severity.INFO,
        model=context.trace.model,
        parameter=cause.parameter,
        evidence=(
            f"fan_in {cause.fans.fan_in:g} x std {cause.record.distribution.std:.2g}^2 = "
            f"{cause.fans.fan_in * cause.record.distribution.std**2:.2g} times the second moment of the input",
        ),
        suggestion=f"nn.init.xavier_uniform_(m.weight, gain=nn.init.calculate_gain({name!r}))"
        if name in ("tanh", "sigmoid")
        else "nn.init.xavier_uniform_(m.weight)",
        share=share,
        std=std,
    )


def _attention(context: ModelContext) -> Iterator[Finding]:
    """Softmax over scores of huge spread, written out as matmul and softmax."""
    found: list[tuple[float, torch.fx.Node]] = []
    for node in calls(context.trace.graph, frozenset({"softmax"})):
        scores = operand(node)
        moments = moments_of(scores, context.signal)
        if moments is None or not any(user.op == "call_function" for user in node.users):
            continue
        std = moments.sample_std
        if std >= _LOGITS:
            found.append((std, node))
    if not found:
        return
    std, node = max(found, key=lambda f: f[0])
    stack = node.meta.get("stack", ())
    yield finding(
        CODE,
        f"the scores that {counted(len(found), 'softmax')} read{'s' if len(found) == 1 else ''} have a std of up to "
        f"{std:.2g}: attention starts as a choice of one, and hardly any gradient reaches what made the scores",
        stack[0].location if stack else context.fallback,
        severity=Severity.INFO,
        model=context.trace.model,
        parameter=str(node.meta.get("module", "")),
        evidence=("dp_i/dz_j = p_i (delta_ij - p_j), which is zero for p = 0 or 1",),
        suggestion="divide the scores by sqrt(d), or draw the query and key projections smaller",
        std=std,
    )
