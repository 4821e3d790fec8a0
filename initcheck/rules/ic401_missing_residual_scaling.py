"""IC401: a residual net without norms whose stream grows at every addition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initcheck.findings import Finding, Fix, InitStatement, InsertInit, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.edits import insertion_place
from initcheck.rules.items import attribute_path, item_of, slice_of
from initcheck.rules.scale import cause_of, joins_of, structure_of
from initcheck.rules.writes import class_location

CODE = "IC401"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for the model, where the growth of its stream is what explodes."""
    cause = cause_of(context)
    verdict = cause.consequence
    if not cause.residual or verdict.severity is None:
        return
    joins = joins_of(context)
    (first, low), (last, high) = joins[0], joins[-1]
    branches = len(joins)
    factor = (high / low) ** (1 / (branches - 1))
    effect = {
        Severity.ERROR: ": training diverges",
        Severity.WARNING: ": SGD diverges at common learning rates",
        Severity.INFO: "",
    }[verdict.severity]
    yield finding(
        CODE,
        f"nothing scales or normalises the {branches} residual branches: the std of the stream grows from {low:.2g} "
        f"(after {first or 'the first'}) to {high:.2g} (after {last or 'the last'}), x {factor:.2f} per addition"
        f"{effect}",
        class_location(context),
        severity=verdict.severity,
        model=context.trace.model,
        evidence=(
            f"sigma_out^2 = sigma_in^2 + sigma_branch^2: x {factor**2:.2f} per block, {factor:.2f}^{branches - 1} = "
            f"{high / low:.2g} over all",
            f"gradient std: {verdict.steps[-1].row.grad_std or 0:.2g} at {verdict.steps[-1].row.name}, "
            f"{verdict.steps[0].row.grad_std or 0:.2g} at {verdict.steps[0].row.name}",
        ),
        suggestion=(
            "start the last layer of each branch at zero (Fixup, SkipInit, ReZero), or multiply each branch by "
            f"1/sqrt({branches}) = {branches**-0.5:.2f}"
        ),
        branches=branches,
        factor=factor,
        reach=verdict.reach,
        fix=_fix(context),
    )


_MOST_LOOPS = 8


def _fix(context: ModelContext) -> Fix | None:
    """The last layer of each branch at zero, so that every block starts as the identity, at the end of ``__init__``."""
    place = insertion_place(context)
    branches = [b for b in structure_of(context).branches if not b.normalised and not b.scaled]
    found = [item_of(branch.last) for branch in branches]
    if place is None or not found or None in found:
        return None
    lists: dict[tuple[str, str], list[int]] = defaultdict(list)
    for held, index, rest in filter(None, found):
        lists[held, rest].append(index)
    edits = []
    for (held, rest), indices in lists.items():
        over, target = slice_of(held, indices, context), attribute_path(rest, "module")
        if not over or target is None or len(lists) > _MOST_LOOPS:
            return None
        edits.append(InsertInit(*place, (InitStatement(target, "zeros_"),), over=over, last=True))
    return Fix("start every branch at zero", tuple(edits))
