"""IC003: parts of a model whose scale is not known: ops without a rule, parameters without a known distribution."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext, finding

CODE = "IC003"
_SHOWN = 5


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Name what was left out, so that silence about it is not taken for health."""
    empty = {r.name for r in context.trace.parameters.values() if r.distribution.kind == "uninitialised"}  # IC101's
    ops = sorted(
        ((op, count) for op, count in context.signal.unknown_ops.items() if op.removeprefix("values of ") not in empty),
        key=lambda item: (-item[1], item[0]),
    )
    parameters = sorted(
        record.name for record in context.trace.parameters.values() if record.distribution.kind == "unknown"
    )
    if not ops and not parameters:
        return
    named = []
    if ops:
        named.append("no rule for " + _listed([f"{op} ({count}x)" if count > 1 else op for op, count in ops]))
    if parameters:
        named.append("unknown distribution of " + _listed(parameters))
    yield finding(
        CODE,
        f"model {context.trace.model} was analysed in part ({context.signal.coverage:.0%} of its graph): "
        + "; ".join(named)
        + "; nothing is concluded from what depends on them",
        context.fallback,
        model=context.trace.model,
        coverage=round(context.signal.coverage, 4),
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
