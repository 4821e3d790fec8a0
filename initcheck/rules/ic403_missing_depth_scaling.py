"""IC403: the output projections of a transformer's branches without 1/sqrt(2L), or other matrices in their place."""

from __future__ import annotations

import ast
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, Severity, Substitute
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import op_of
from initcheck.rules.scale import structure_of
from initcheck.rules.writes import call_location, class_location, counted, final_write, listed

if TYPE_CHECKING:
    from initcheck.init.structure import Branch
    from initcheck.source.file import SourceFile
    from initcheck.tracing.trace import ParameterRecord

CODE = "IC403"

_LEAST_BRANCHES = 4
"""So few additions grow the stream by a factor of two at most, and a std that looks like the recipe may be chance."""

_TELL = 24
"""Branches (twelve blocks, GPT-2's depth) from which a stream that nothing scales is worth a word."""

_TOLERANCE = 0.02

_STDS_OF_A_LINE = 2
"""The std and the scaled one; a line that draws at more takes them from each layer's own shape, by He's rule."""

_ABSOLUTE = frozenset({"normal_", "trunc_normal_"})


@dataclass(frozen=True, slots=True)
class _Call:
    """One init call and the weights whose final values it draws, all at one std."""

    where: Location
    function: str
    std: float
    records: tuple[ParameterRecord, ...]


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Calls that scale by depth and miss branch ends; else a deep stack in which none does."""
    branches = [b for b in structure_of(context).branches if b.normalised]
    if len(branches) < _LEAST_BRANCHES or context.trace.weights_are_data:
        return
    calls = _calls(context)
    scaled = [(call, base) for call in calls for base in calls if _is_scaled(call, base, len(branches))]
    if scaled:  # the plain std may stand in several calls, that of the embeddings too
        found = (list(_missed(context, branches, call, base)) for call, base in scaled)
        yield from next(filter(None, found), [])
    elif len(branches) >= _TELL and any(op_of(node) == "embedding" for node in context.trace.graph.nodes):
        yield from _unscaled(context, branches, calls)


def _calls(context: ModelContext) -> list[_Call]:
    groups: dict[tuple[Location, str, float], list[ParameterRecord]] = defaultdict(list)
    for record in context.trace.parameters.values():
        write = final_write(record)
        if write is not None and len(record.shape) >= 2 and write.distribution.known and write.distribution.std > 0:
            groups[call_location(write, context), write.function, round(write.distribution.std, 9)].append(record)
    stds = Counter(where for where, _, _ in groups)
    return [
        _Call(where, function, std, tuple(records))
        for (where, function, std), records in groups.items()
        if stds[where] <= _STDS_OF_A_LINE
    ]


def _is_scaled(call: _Call, base: _Call, branches: int) -> bool:
    """Whether the call draws at the base's std over sqrt(number of branches), or of blocks."""
    if call.function != base.function or call.function not in _ABSOLUTE:
        return False  # Kaiming and Xavier differ from layer to layer because their fans do
    return any(n > 1 and abs(call.std * math.sqrt(n) / base.std - 1) < _TOLERANCE for n in (branches, branches // 2))


# -- scaled, but not the right ones ----------------------------------------------------------------------------------


def _missed(context: ModelContext, branches: list[Branch], call: _Call, base: _Call) -> Iterator[Finding]:
    given = {record.name for record in call.records}
    plain = {record.name for record in base.records}
    ends = {branch.last for branch in branches}
    missed = [b for b in branches if b.last in plain]
    wrong = sorted(name for b in missed for name in b.parameters if name in given and name not in ends)
    if not missed or (not wrong and not given & ends):
        return
    where, literals = _filter(context.source, call.where)
    left = [branch.last for branch in missed]
    instead = (
        f"; instead it takes {listed(wrong)}, which {'end' if len(wrong) > 1 else 'ends'} no branch" if wrong else ""
    )
    old, new = _tail(wrong), _tail(left)
    literal = next((n for n in literals if old and str(n.value).strip(".") == old), None)
    fix = None
    if literal is not None and context.source is not None:
        at = context.source.location(literal)
        quote = context.source.lines[at.line - 1][at.column - 1]
        edit = Substitute(at, f"{quote}{str(literal.value).replace(old, new)}{quote}")
        fix = Fix("let the filter take the branch ends", (edit,))
    yield finding(
        CODE,
        f"std {call.std:.2g} = {base.std:.2g}/sqrt({(base.std / call.std) ** 2:.0f}) is meant for the projections that "
        f"end the {len(branches)} residual branches, and {len(missed)} of them keep {base.std:.2g} ({listed(left)})"
        f"{instead}",
        where,
        model=context.trace.model,
        parameter=left[0],
        evidence=(
            Evidence(f"scaled: {counted(len(given), 'weight')}, of which {len(given & ends)} end a branch", call.where),
            Evidence(f"not scaled: {counted(len(left), 'branch end')}", base.where),
        ),
        suggestion=f"filter for the names that end in {new!r}" if new else f"scale {listed(left)} too",
        fix=fix,
        missed=len(missed),
    )


def _filter(source: SourceFile | None, call: Location) -> tuple[Location, tuple[ast.Constant, ...]]:
    """The innermost test around a call that asks for a name, and the names that it asks for."""
    found: tuple[Location, tuple[ast.Constant, ...]] = (call, ())
    if source is None or call.path != source.path:
        return found
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.If) or not node.body[0].lineno <= call.line <= (node.body[-1].end_lineno or 0):
            continue
        texts = tuple(n for n in ast.walk(node.test) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        if texts:
            found = (source.location(node.test), texts)
    return found


def _tail(names: list[str]) -> str:
    """``w2.weight``: the last two parts of the names, if they are the same for all."""
    tails = {".".join(name.split(".")[-2:]) for name in names}
    return tails.pop() if len(tails) == 1 else ""


# -- not scaled at all -----------------------------------------------------------------------------------------------


def _unscaled(context: ModelContext, branches: list[Branch], calls: list[_Call]) -> Iterator[Finding]:
    """Only where one literal std serves all: whoever computes a scale from the width has another recipe."""
    ends = {branch.last for branch in branches}
    for call in calls:
        names = {record.name for record in call.records}
        if call.function not in _ABSOLUTE or not ends <= names or names <= ends:
            continue
        yield finding(
            CODE,
            f"the projections that end the {len(branches)} residual branches are drawn at std {call.std:.2g} like all "
            f"others: the stream's branch part grows by sqrt({len(branches)}) = "
            f"{math.sqrt(len(branches)):.1f} over the depth",
            call.where if call.where.path else class_location(context),
            severity=Severity.INFO,
            model=context.trace.model,
            parameter=sorted(ends)[0],
            evidence=(
                f"GPT-2 draws them at {call.std:.2g}/sqrt({len(branches)}) = {call.std / math.sqrt(len(branches)):.2g}",
            ),
            suggestion=f"std={call.std:.2g} / math.sqrt({len(branches)}) for "
            f"{_tail(sorted(ends)) or listed(sorted(ends))}",
            branches=len(branches),
        )
        return
