"""IC105: an init call behind a name filter that no parameter passes, though one is plainly meant."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Substitute
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.class_names import class_name_filter, misspelt
from initcheck.rules.source_index import init_writes, text_of
from initcheck.rules.writes import lines_that_wrote, listed

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC105"

_NAMED = frozenset({"named_parameters", "named_modules", "named_children"})
_NEAR = 0.8
"""Similarity (of difflib) of a literal and a part of a parameter's name that counts as a slip of the pen."""


# -- from the source: == with a tail that can be no full name ---------------------------------------------------------

_SUSPECT = re.compile(r"named_(?:parameters|modules)\b")
_EQUAL = re.compile("==")
_LOOP = re.compile(r"\.named_(?:parameters|modules|children)\b")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """``name == "proj.weight"`` in a loop over the parameters of a class that has no attribute ``proj``; then class
    names with a slip of the pen."""
    yield from _misspelt_classes(source)
    if _SUSPECT.search(source.text) is None or "==" not in source.text:
        return
    classes = {node.name: node for _, node in source.classes}
    for loop, place in source.survey.near((_LOOP, _EQUAL)).loops:
        variable = _name_variable(loop)
        if variable:
            owner = place.classes[-1].name if place.classes else ""
            yield from _never_equal(source, loop, variable, _looped_class(loop, owner, place.guards), classes)


def _misspelt_classes(source: SourceFile) -> Iterator[Finding]:
    """``classname.find("Cnov") != -1`` in front of an init call."""
    if "__name__" not in source.text:
        return
    for guard in dict.fromkeys(guard for write in init_writes(source) for guard in write.guards):
        literal = class_name_filter(guard.test)
        meant = misspelt(source, str(literal.value)) if literal is not None else ""
        if literal is not None and meant:
            edit = Substitute(source.location(literal), _quoted(source, meant))
            yield finding(
                CODE,
                f"no class of torch.nn passes the filter `{text_of(guard.test)}`, so that what it guards never runs; "
                f"{literal.value!r} is close to `{meant}`",
                source.location(guard.test),
                suggestion=repr(meant),
                fix=Fix("let the filter pass what it is meant for", (edit,)),
            )


def _looped_class(loop: ast.For, owner: str, guards: tuple[ast.If, ...]) -> str:
    """The class whose parameters are looped over: of ``self``, or what an ``isinstance`` around says; else empty."""
    assert isinstance(loop.iter, ast.Call)
    assert isinstance(loop.iter.func, ast.Attribute)
    receiver = loop.iter.func.value
    if not isinstance(receiver, ast.Name):
        return ""
    if receiver.id == "self":
        return owner
    for guard in reversed(guards):
        test = guard.test
        if (
            isinstance(test, ast.Call)
            and isinstance(test.func, ast.Name)
            and test.func.id == "isinstance"
            and len(test.args) == 2
            and ast.unparse(test.args[0]) == receiver.id
            and isinstance(test.args[1], (ast.Name, ast.Attribute))
        ):
            return ast.unparse(test.args[1]).rpartition(".")[2]
    return ""


def _never_equal(
    source: SourceFile, loop: ast.For, variable: str, looped: str, classes: dict[str, ast.ClassDef]
) -> Iterator[Finding]:
    if not looped:
        return
    for guard in ast.walk(loop):
        if not isinstance(guard, ast.If) or not _writes(guard):
            continue
        literal = _literal(guard.test, variable)
        if literal is None or literal[0] != "==" or "." not in literal[1]:
            continue
        text = literal[1]
        head = text.partition(".")[0]
        owners = [name for name, node in classes.items() if _assigns(node, head)]
        if not owners or any(_related(name, looped, classes) for name in owners):
            continue
        if re.search(rf"(?:add_module|setattr|register_module)\(.*{head}", source.text):
            continue
        yield finding(
            CODE,
            f"no parameter passes the filter `{text_of(guard.test)}`, so that what it guards never runs: `{head}` is "
            f"an attribute of {listed(owners)}, so the full name has the path to it in front",
            source.location(guard.test),
            suggestion=f"{variable}.endswith({text!r})",
            fix=Fix("compare the end of the name", (_as_endswith(source, guard.test, variable, text),)),
        )


def _assigns(node: ast.ClassDef, attribute: str) -> bool:
    """Whether a class sets ``self.<attribute>``."""
    return any(
        isinstance(item, ast.Attribute)
        and item.attr == attribute
        and isinstance(item.ctx, ast.Store)
        and isinstance(item.value, ast.Name)
        and item.value.id == "self"
        for item in ast.walk(node)
    )


def _related(one: str, other: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether the two are the same class, or one derives from the other (as far as this file tells)."""
    return other in _lineage(one, classes) or one in _lineage(other, classes)


def _lineage(name: str, classes: dict[str, ast.ClassDef]) -> set[str]:
    found: set[str] = set()
    queue = [name]
    while queue:
        at = queue.pop()
        if at in found:
            continue
        found.add(at)
        if at in classes:
            queue += [ast.unparse(base).rpartition(".")[2] for base in classes[at].bases]
    return found


def _as_endswith(source: SourceFile, test: ast.expr, variable: str, text: str) -> Substitute:
    return Substitute(source.location(test), f"{variable}.endswith({_quoted(source, text)})")


def _quoted(source: SourceFile, text: str) -> str:
    """A literal in the file's own way of quoting."""
    return f'"{text}"' if source.text.count('"') >= source.text.count("'") else repr(text)


# -- from the init log -----------------------------------------------------------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Filters in loops that ran while the model was built, whose branch nothing entered, and what they nearly match."""
    source = context.source
    if source is None or "named_" not in source.text or context.trace.weights_are_data:
        return
    known = {found.location for found in check_source(source)}
    lines = lines_that_wrote(context, source)
    names = list(context.trace.parameters)
    for loop, variable in _loops(source.tree):
        if not _ran(loop, lines):
            continue
        for guard in ast.walk(loop):
            if isinstance(guard, ast.If) and source.location(guard.test) not in known:
                yield from _check(context, source, guard, variable, lines, names)


def _loops(tree: ast.AST) -> Iterator[tuple[ast.For, str]]:
    """``for name, p in self.named_parameters()`` with the name's variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and _name_variable(node):
            yield node, _name_variable(node)


def _name_variable(node: ast.For) -> str:
    """``name`` of ``for name, p in self.named_parameters()``; empty for any other loop."""
    if (
        isinstance(node.target, ast.Tuple)
        and isinstance(node.target.elts[0], ast.Name)
        and isinstance(node.iter, ast.Call)
        and isinstance(node.iter.func, ast.Attribute)
        and node.iter.func.attr in _NAMED
    ):
        return node.target.elts[0].id
    return ""


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
            edit = _as_endswith(source, test, variable, text)  # type: ignore[arg-type]
            yield _finding(context, source, guard, text, listed(meant), f"{variable}.endswith({text!r})", edit)
        elif near:
            constant = next(n for n in ast.walk(test) if isinstance(n, ast.Constant) and n.value == text)
            edit = Substitute(source.location(constant), _quoted(source, text.replace(text.strip("."), near)))
            yield _finding(context, source, guard, text, f"`{near}`", f"{near!r}", edit)
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
    """Parts of a parameter's name, as many as ``text`` has (the last may be cut short), that it nearly is.

    ``"wieght_ih"`` is near to ``weight_ih`` of ``weight_ih_l0``.
    """
    asked = text.strip(".")
    count = len(asked.split("."))
    ends = {".".join(parts[i : i + count]) for n in names for parts in [n.split(".")] for i in range(len(parts))}
    ends |= {end[: len(asked)] for end in ends if "_" in asked and end[len(asked) : len(asked) + 1] == "_"}
    near = difflib.get_close_matches(asked, sorted(ends), n=1, cutoff=_NEAR)
    return near[0] if near else ""


def _finding(
    context: ModelContext,
    source: SourceFile,
    guard: ast.If,
    text: str,
    meant: str,
    suggestion: str,
    edit: Substitute,
) -> Finding:
    return finding(
        CODE,
        f"no parameter passes the filter `{text_of(guard.test)}`, so that what it guards never runs; {text!r} is close "
        f"to {meant}",
        source.location(guard.test),
        model=context.trace.model,
        suggestion=suggestion,
        fix=Fix("let the filter pass what it is meant for", (edit,)),
    )
