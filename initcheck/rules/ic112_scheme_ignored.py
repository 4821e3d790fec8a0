"""IC112: a scheme that is asked for and ignored: an unused argument of an init helper, or a branch that only passes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Substitute
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_mentions, init_writes

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC112"

_SCALES = frozenset(
    ["std", "stddev", "gain", "init_gain", "init_std", "init_scale", "w_std", "weight_std", "bound", "w0", "omega", "c"]
)
"""Arguments that say how wide to draw."""

_SCHEMES = re.compile(r"xavier|glorot|kaiming|he_?(?:normal|uniform|init)?|orthogonal|lecun|trunc|normal|uniform", re.I)
_PASS = re.compile(r"pass(?<=[\s:]pass)\s*(?:[#;]|$)", re.M)


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Helpers first, then the functions that call them."""
    writes = init_writes(source)
    if not writes:
        return
    helpers: dict[str, ast.FunctionDef] = {}
    for function in dict.fromkeys(f for write in writes for f in write.functions):
        if not isinstance(function, ast.FunctionDef):
            continue
        yield from _passes(source, function)
        if function.name != "__init__" and _is_helper(function):
            helpers[function.name] = function
            yield from _unused(source, function)
    if any(_SCALES.intersection(_parameters(helper)) for helper in helpers.values()):
        for node, _ in source.survey.near(*_named(helpers)).functions:
            if isinstance(node, ast.FunctionDef) and _SCALES.intersection(_parameters(node)):
                yield from _not_passed_on(source, node, helpers)


def _named(functions: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rf"{name}\b") for name in functions)


def _is_helper(function: ast.FunctionDef) -> bool:
    return "init" in function.name.lower() or function.name.endswith("_")


def _parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


# -- def init_(w, std=0.02): nn.init.normal_(w) ----------------------------------------------------------------------


def _unused(source: SourceFile, function: ast.FunctionDef) -> Iterator[Finding]:
    """Arguments for the scale that the body never reads (a stub, or a body that reads ``locals()``, says nothing)."""
    wanted = [name for name in _parameters(function) if name in _SCALES]
    if not wanted or function.args.kwarg is not None or function.decorator_list:
        return
    read = {n.id for statement in function.body for n in ast.walk(statement) if isinstance(n, ast.Name)}
    for name in wanted:
        if name not in read and "locals" not in read:
            yield finding(
                CODE,
                f"`{function.name}` takes `{name}` and never reads it: whatever is asked for, it initialises the "
                "same way",
                source.location(next(a for a in ast.walk(function.args) if isinstance(a, ast.arg) and a.arg == name)),
                parameter=f"{function.name}.{name}",
                suggestion=f"use `{name}` in the body, or take it out of the signature",
            )


# -- class Siren: __init__(..., w0, c): init_(weight, bias) ----------------------------------------------------------


def _not_passed_on(
    source: SourceFile, function: ast.FunctionDef, helpers: dict[str, ast.FunctionDef]
) -> Iterator[Finding]:
    """A call of a helper that leaves the helper's default where the caller has an argument of the same name, unused."""
    own = set(_parameters(function))
    for node, place in source.survey.near(*_named(helpers)).calls:
        if function not in place.functions:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        helper = helpers.get(name)
        if helper is None or helper is function or any(k.arg is None for k in node.keywords):
            continue
        if any(isinstance(a, ast.Starred) for a in node.args):
            continue
        names = _parameters(helper)
        if isinstance(node.func, ast.Attribute) and names[:1] == ["self"]:
            names = names[1:]
        given = {*names[: len(node.args)], *(k.arg for k in node.keywords)}
        read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        missing = [n for n in names if n in own and n in _SCALES and n not in given]
        if missing and any(n not in read for n in missing):
            text = ast.unparse(node)
            extra = ", ".join(f"{n}={n}" for n in missing)
            where = source.location(node)
            fix = None
            if where.line == where.end_line and node.args:
                line = source.lines[where.line - 1]
                fix = Fix(
                    "pass the arguments on",
                    (Substitute(where, f"{line[where.column - 1 : where.end_column - 2]}, {extra})"),),
                )
            yield finding(
                CODE,
                f"`{text}` leaves {' and '.join(f'`{n}`' for n in missing)} at the default of `{name}`, although "
                f"`{function.name}` takes {'them' if len(missing) > 1 else 'it'}",
                where,
                parameter=f"{function.name}.{missing[0]}",
                suggestion=f"{text[:-1]}, {extra})",
                fix=fix,
            )


# -- elif init_type == "kaiming": pass -------------------------------------------------------------------------------


def _passes(source: SourceFile, function: ast.FunctionDef) -> Iterator[Finding]:
    """A branch for a named scheme that does nothing, in a chain whose other branches initialise."""
    for node, place in source.survey.near_both((_PASS,), init_mentions(source)).ifs:
        if len(node.body) != 1 or not isinstance(node.body[0], ast.Pass) or function not in place.functions:
            continue
        test = node.test
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
            continue
        text = test.comparators[0]
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and _SCHEMES.search(text.value):
            yield finding(
                CODE,
                f"the scheme {text.value!r} is accepted and does nothing: the weights keep torch's default",
                source.location(node.body[0]),
                parameter=f"{function.name}.{text.value}",
                suggestion="initialise, or raise NotImplementedError",
            )
