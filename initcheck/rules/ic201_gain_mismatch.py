"""IC201: an init call whose gain is not that of the activation that follows, in a net deep enough for it to matter."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.consequence import Consequence
from initcheck.rules.scale import Culprit, cause_of, chain, mend, needed_gain, shown_std, written_gain
from initcheck.rules.writes import counted

CODE = "IC201"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call that is to blame for a vanishing or exploding signal because of its gain."""
    cause = cause_of(context)
    for index, ratio in cause.mismatched.items():
        yield _finding(context, cause.culprits[index], cause.consequence, ratio)


def _finding(context: ModelContext, culprit: Culprit, verdict: Consequence, ratio: float) -> Finding:
    assert culprit.write is not None
    assert verdict.severity is not None
    written = written_gain(culprit.write)
    fed = [use for use in culprit.uses if needed_gain(use) is not None]
    names = sorted({use.activation.name or "a linear map" for use in fed})
    needed = needed_gain(max(fed, key=lambda use: needed_gain(use) or 0.0))
    steps = verdict.steps
    moves = "falls" if verdict.kind == "vanishing" else "grows"
    suggestion, fix = mend(context, culprit, verdict.severity)
    return finding(
        CODE,
        f"gain {written:.3g} before {', '.join(names)}, which needs {needed:.3g}: over "
        f"{counted(len(culprit.records), 'layer')} the std that depends on the input {moves} from "
        f"{steps[0].sample_std:.2g} ({steps[0].row.name}) to "
        f"{shown_std(steps[-1])} ({steps[-1].row.name}), and the gradient's on its way back from "
        f"{steps[-1].row.grad_std or 0:.2g} to {steps[0].row.grad_std or 0:.2g}{_effect(verdict)}",
        culprit.where,
        severity=verdict.severity,
        model=context.trace.model,
        parameter=culprit.records[0].name,
        evidence=chain(verdict),
        suggestion=suggestion,
        fix=fix,
        layers=len(culprit.records),
        gain=float(written or 0.0),
        needed_gain=float(needed or 0.0),
        ratio=ratio,
        reach=verdict.reach,
    )


def _effect(verdict: Consequence) -> str:
    if verdict.severity is Severity.ERROR:
        return "; the net cannot learn"
    return "; it learns only slowly" if verdict.severity is Severity.WARNING else ""
