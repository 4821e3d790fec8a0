"""IC502: hidden-to-hidden weights far from an orthogonal matrix's scale, which counts to the power of the length."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import op_of
from initcheck.rules.scale import severity_at, structure_of
from initcheck.rules.writes import call_location, final_write, layer_location

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse

CODE = "IC502"

_GATED = {"lstm": 4, "gru": 3, "lstm_cell": 4, "gru_cell": 3}
_PLAIN = {"rnn_tanh", "rnn_relu", "rnn_tanh_cell", "rnn_relu_cell"}
_CHAOTIC = 2.5
"""Spectral radius from which a tanh RNN is chaotic within a few steps (Sompolinsky et al. 1988: from 1 on)."""

_SATURATED = 5.0
"""Spectral radius from which the gates of an LSTM or GRU start shut or open for good."""

_GROWTH_WARNING = 1e3
_GROWTH_ERROR = 1e15


_Case = tuple["WeightUse", tuple[Severity, float, str]]


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that draws hidden-to-hidden matrices, torch's default aside."""
    for where, cases in _cases(context).items():
        use, (severity, radius, effect) = max(cases, key=lambda case: case[1][1])
        yield _finding(context, where, use, len(cases), severity_at(context, where, severity), radius, effect)


def places(context: ModelContext) -> set[Location]:
    """See ``attribution``: where an exploding gradient has its cause."""
    return set(_cases(context))


def _cases(context: ModelContext) -> dict[Location, list[_Case]]:
    groups: dict[Location, list[_Case]] = defaultdict(list)
    for use in structure_of(context).uses:
        record = use.record
        if not record.attribute.startswith("weight_hh") or len(record.shape) != 2 or not record.distribution.known:
            continue
        write = final_write(record)
        if write is None and record.writes:
            continue  # torch's default stands
        found = _judge(use, _steps(use))
        if found is not None:
            where = call_location(write, context) if write is not None else layer_location(record, context)
            groups[where].append((use, found))
    return groups


def _radius(use: WeightUse) -> float:
    """Spectral radius of a matrix with independent elements, sigma sqrt(n) (circular law); of the identity, 1."""
    drawn = use.record.distribution
    if drawn.kind == "identity":
        return 1.0
    return math.sqrt(drawn.second_moment * use.record.shape[1])


def _steps(use: WeightUse) -> int:
    val = use.node.meta.get("val")
    first = val[0] if isinstance(val, (tuple, list)) and val else val
    shape = tuple(getattr(first, "shape", ()))
    return max(shape[:2]) if len(shape) == 3 else 1


def _judge(use: WeightUse, steps: int) -> tuple[Severity, float, str] | None:
    op, radius = op_of(use.node), _radius(use)
    if op in _GATED:
        if radius < _SATURATED:
            return None
        return Severity.WARNING, radius, "the gates start open or shut, and hardly learn"
    if op in ("rnn_relu", "rnn_relu_cell"):
        growth = (radius / math.sqrt(2)) ** steps
        if growth < _GROWTH_WARNING or use.record.distribution.kind == "identity":
            return None
        severity = Severity.ERROR if growth > _GROWTH_ERROR else Severity.WARNING
        return severity, radius, f"over {steps} steps the state grows by a factor of {growth:.1e}"
    if op in _PLAIN and radius > _CHAOTIC and steps > 1:
        return Severity.WARNING, radius, "the state is chaotic: it forgets the input, and its gradient explodes"
    return None


def _finding(
    context: ModelContext, where: Location, use: WeightUse, number: int, severity: Severity, radius: float, effect: str
) -> Finding:
    also = f" (of {number} such)" if number > 1 else ""
    fix = None
    if context.source is not None and where.path == context.source.path and where.end_line and radius > 1:
        fix = Fix("draw an orthogonal matrix", (RewriteCall(where, "orthogonal_", ()),))
    rows, n = use.record.shape
    return finding(
        CODE,
        f"`{use.parameter}`{also} has a spectral radius of about {radius:.2g} where an orthogonal matrix has 1: "
        f"{effect}",
        where,
        severity=severity,
        model=context.trace.model,
        parameter=use.parameter,
        evidence=(
            f"sqrt({n}) x std {use.record.distribution.std:.2g} = {radius:.2g} for each of {rows // n} stacked "
            "matrices",
        ),
        suggestion=f"nn.init.orthogonal_ on each ({n}, {n}) part, or torch's default U(-1/sqrt(n), 1/sqrt(n))",
        fix=fix,
        radius=radius,
    )
