"""IC102: an init call whose every effect is lost, because another scheme overwrites all that it wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, Substitute
from initcheck.rules import ic103_duplicate_target, ic802_wrong_argument
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.writes import DRAWING, call_frame, call_location, counted, listed

if TYPE_CHECKING:
    from initcheck.tracing.trace import Frame, ParameterRecord, Write

CODE = "IC102"

_OWN_DEFAULTS = ("reset_parameters", "_reset_parameters")


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call site of which nothing survives."""
    survives: set[tuple[Location, str]] = set()
    lost: dict[tuple[Location, str], list[tuple[ParameterRecord, Write, Write]]] = defaultdict(list)
    for record in context.trace.parameters.values():
        draws = [w for w in record.writes if w.function in DRAWING and w.share >= 1.0]
        for index, write in enumerate(draws):
            frame = call_frame(write, context)
            if write.origin != "user" or frame is None:
                continue
            site = (frame.location, write.function)
            later = [w for w in draws[index + 1 :] if w.origin == "user"]
            if later and _another_scheme(write, later[-1]) and not _is_layer_default(write, later[-1], record, context):
                lost[site].append((record, write, later[-1]))
            else:
                survives.add(site)
    slips = _lines_of_slips(context)
    for site, cases in lost.items():
        if site in survives or site[0].line in slips:
            continue
        yield _finding(context, cases)


def _another_scheme(first: Write, last: Write) -> bool:
    """Whether the two draw from different distributions (the same scheme twice does no harm)."""
    a, b = first.distribution, last.distribution
    if not (a.known and b.known):
        return first.function != last.function
    scale = max(a.std, b.std, abs(a.mean), abs(b.mean), 1e-30)
    return a.kind != b.kind or abs(a.std - b.std) > 0.01 * scale or abs(a.mean - b.mean) > 0.01 * scale


def _is_layer_default(first: Write, last: Write, record: ParameterRecord, context: ModelContext) -> bool:
    """Whether the first write is the default of the user's own layer, and the later one the model's decision.

    A layer or block that initialises itself while it is built is like ``nn.Linear``: its owner may overrule it. Two
    calls are rivals only if the same object makes both (one function, or two that the same one calls).
    """
    one, other = _callers(first), _callers(last)
    if not one or not other:
        return True
    if first.stack and any(frame.function.rpartition(".")[2] in _OWN_DEFAULTS for frame in first.stack[:2]):
        return True
    building = [frame for frame in first.stack if frame.function.rpartition(".")[2] == "__init__"]
    finishing = [frame for frame in last.stack if frame.function.rpartition(".")[2] == "__init__"]
    if building and finishing:
        return not _same_body(building[0], finishing[0], context)
    return bool(building) != bool(finishing) and one[0] != other[0]


def _callers(write: Write) -> list[str]:
    return [f"{frame.location.path}:{frame.function}" for frame in write.stack]


def _same_body(one: Frame, other: Frame, context: ModelContext) -> bool:
    """Whether two ``__init__`` frames belong to the same class."""
    if one.location.path != other.location.path:
        return False
    if "." in one.function or "." in other.function:
        return one.function == other.function
    source = context.source
    if source is None or source.path != one.location.path:
        return abs(one.location.line - other.location.line) < 30
    import ast

    def owner(line: int) -> int:
        around = [
            node
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef) and node.lineno <= line <= (node.end_lineno or node.lineno)
        ]
        return max((node.lineno for node in around), default=0)

    return owner(one.location.line) == owner(other.location.line)


def _lines_of_slips(context: ModelContext) -> set[int]:
    """Lines whose cause IC103 or IC802 names better: another target, or another argument, was meant."""
    if context.source is None:
        return set()
    lines: set[int] = set()
    for slip in (
        *ic103_duplicate_target.check_source(context.source),
        *ic802_wrong_argument.check_source(context.source),
    ):
        lines.add(slip.location.line)
        lines |= {int(slip.data[key]) for key in ("first_line",) if key in slip.data}
    return lines


def _finding(context: ModelContext, cases: list[tuple[ParameterRecord, Write, Write]]) -> Finding:
    record, first, last = cases[0]
    names = [case[0].name for case in cases]
    where, later = call_location(first, context), call_location(last, context)
    same_file = later.path == where.path
    place = f"line {later.line}" if same_file else f"{later.path}:{later.line}"
    return finding(
        CODE,
        f"`{first.function}` has no effect: all it writes ({listed(names)}) is overwritten by `{last.function}` at "
        f"{place}",
        where,
        model=context.trace.model,
        parameter=record.name,
        evidence=(
            Evidence(f"written: {_shown(first)}, {counted(len(names), 'parameter')}", where),
            Evidence(f"overwritten: {_shown(last)}", later),
        ),
        suggestion="remove whichever of the two was not meant",
        fix=_fix(context, where),
        parameters=len(names),
    )


def _fix(context: ModelContext, where: Location) -> Fix | None:
    """Without the call nothing changes but the random numbers that are drawn after it."""
    if context.source is None or where.path != context.source.path or not where.end_line:
        return None
    return Fix("remove the call that has no effect", (Substitute(where, ""),))


def _shown(write: Write) -> str:
    drawn = write.distribution
    return f"{write.function}: mean {drawn.mean:.3g}, std {drawn.std:.3g}" if drawn.known else write.function
