"""IC105: an init call behind a name filter that no parameter passes, though one is plainly meant."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.source_index import text_of
from initcheck.rules.writes import listed

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC105"

_NAMED = frozenset({"named_parameters", "named_modules", "named_children"})
_NEAR = 0.8
"""Similarity (of difflib) of a literal and a part of a parameter's name that counts as a slip of the pen."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Filters in loops that ran while the model was built, whose branch nothing entered, and what they nearly match."""
    source = context.source
    if source is None or "named_" not in source.text or context.trace.weights_are_data:
        return
    lines = {
        frame.location.line
        for record in context.trace.parameters.values()
        for write in record.writes
        for frame in write.stack
        if frame.location.path == source.path
    }
    names = list(context.trace.parameters)
    for loop, variable in _loops(source):
        if not _ran(loop, lines):
            continue
        for guard in ast.walk(loop):
            if isinstance(guard, ast.If):
                yield from _check(context, source, guard, variable, lines, names)


def _loops(source: SourceFile) -> Iterator[tuple[ast.For, str]]:
    """``for name, p in self.named_parameters()`` with the name's variable."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.For)
            and isinstance(node.target, ast.Tuple)
            and isinstance(node.target.elts[0], ast.Name)
            and isinstance(node.iter, ast.Call)
            and isinstance(node.iter.func, ast.Attribute)
            and node.iter.func.attr in _NAMED
        ):
            yield node, node.target.elts[0].id


def _inside(lines: set[int], node: ast.stmt) -> bool:
    return any(node.lineno <= line <= (node.end_lineno or node.lineno) for line in lines)


def _ran(loop: ast.For, lines: set[int]) -> bool:
    """Whether something in the loop, or right beside it, wrote: else the loop may not have run at all."""
    return any(loop.lineno - 10 <= line <= (loop.end_lineno or loop.lineno) + 10 for line in lines)


def _check(
    context: ModelContext, source: SourceFile, guard: ast.If, variable: str, lines: set[int], names: list[str]
) -> Iterator[Finding]:
    if any(_inside(lines, statement) for statement in guard.body) or not _writes(guard):
        return
    for test in ast.walk(guard.test):
        literal = _literal(test, variable)
        if literal is None:
            continue
        how, text = literal
        meant = [n for n in names if n.endswith(f".{text}")] if how == "==" else []
        if how == "==" and text in names:
            continue
        near = "" if meant or any(text in n for n in names) else _nearest(text, names)
        if meant:
            yield _finding(context, source, guard, text, listed(meant), f"{variable}.endswith({text!r})")
        elif near:
            yield _finding(context, source, guard, text, f"`{near}`", f"{near!r}")
        return


def _writes(guard: ast.If) -> bool:
    """Whether the branch calls something that, by its name, writes a tensor in place."""
    for statement in guard.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_"):
                return True
    return False


def _literal(test: ast.AST, variable: str) -> tuple[str, str] | None:
    """(how, text) of ``name == "text"``, ``"text" in name`` and ``name.endswith("text")``."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        if isinstance(test.ops[0], ast.Eq) and _is_name(left, variable):
            return ("==", right.value) if _is_text(right) else None  # type: ignore[attr-defined]
        if isinstance(test.ops[0], ast.In) and _is_name(right, variable):
            return ("in", left.value) if _is_text(left) else None  # type: ignore[attr-defined]
    if (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Attribute)
        and test.func.attr in ("endswith", "startswith")
        and _is_name(test.func.value, variable)
        and len(test.args) == 1
        and _is_text(test.args[0])
    ):
        return test.func.attr, test.args[0].value  # type: ignore[attr-defined]
    return None


def _is_name(node: ast.expr, variable: str) -> bool:
    return isinstance(node, ast.Name) and node.id == variable


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 3


def _nearest(text: str, names: list[str]) -> str:
    """The end of a parameter's name, of as many parts as ``text`` has, that ``text`` nearly is."""
    count = len(text.strip(".").split("."))
    ends = sorted(
        {".".join(parts[i : i + count]) for n in names for parts in [n.split(".")] for i in range(len(parts))}
    )
    near = difflib.get_close_matches(text.strip("."), ends, n=1, cutoff=_NEAR)
    return near[0] if near else ""


def _finding(
    context: ModelContext, source: SourceFile, guard: ast.If, text: str, meant: str, suggestion: str
) -> Finding:
    return finding(
        CODE,
        f"no parameter passes the filter `{text_of(guard.test)}`, so that what it guards never runs; {text!r} is close "
        f"to {meant}",
        source.location(guard.test),
        model=context.trace.model,
        suggestion=suggestion,
    )
