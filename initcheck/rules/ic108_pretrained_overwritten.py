"""IC108: weights that are loaded, and then drawn at random again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes, text_of

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC108"

_HINT = re.compile(r"load_state_dict|from_pretrained|pretrained\s*=\s*True|weights\s*=\s*[\"'A-Z]")
_INITIALISES = re.compile(
    r"_?(?:init|initiali[sz]e|reset)_?(?:all_)?(?:weights?|params?|parameters|model|net|layers?)?_?|weights?_init\w*",
    re.I,
)
_WALKS = frozenset({"modules", "named_modules", "parameters", "named_parameters", "children"})


def check_source(source: SourceFile) -> Iterator[Finding]:
    """In one block of statements: an object is loaded, and a later statement initialises all of it."""
    if _HINT.search(source.text) is None:
        return
    functions = {node.name: node for node, _ in source.survey.functions}
    for block in source.survey.blocks:
        yield from _check(source, block, functions)


def _check(
    source: SourceFile, block: list[ast.stmt], functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
) -> Iterator[Finding]:
    loaded: dict[str, int] = {}
    for statement in block:
        lost = _initialised(source, statement, functions)
        for name in list(loaded):
            if lost and (name == lost or name.startswith(f"{lost}.")):
                yield finding(
                    CODE,
                    f"`{name}` was loaded at line {loaded.pop(name)}, and this initialises it at random again",
                    source.location(statement.iter if isinstance(statement, ast.For) else statement),
                    parameter=name,
                    suggestion="initialise first, then load; or initialise only the layers that are new",
                )
        name = _loaded(statement)
        if name:
            loaded[name] = statement.lineno


def _loaded(statement: ast.stmt) -> str:
    """What a statement loads: ``x.load_state_dict(...)``, ``x = X.from_pretrained(...)``, ``pretrained=True``."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.Call):
        return ""
    if isinstance(value.func, ast.Attribute) and value.func.attr == "load_state_dict":
        return ast.unparse(value.func.value)
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return ""
    target = ast.unparse(statement.targets[0])
    if isinstance(value.func, ast.Attribute) and value.func.attr == "from_pretrained":
        kind = ast.unparse(value.func.value).lower()
        return "" if re.search(r"token|processor|config|extractor", kind) else target
    for keyword in value.keywords:
        given = keyword.value
        if keyword.arg == "pretrained" and isinstance(given, ast.Constant) and given.value is True:
            return target
        if keyword.arg == "weights" and re.fullmatch(r"(?:\w+\.)*\w+_Weights\.\w+|'[A-Z]\w+'", ast.unparse(given)):
            return target
    return ""


def _initialised(
    source: SourceFile, statement: ast.stmt, functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
) -> str:
    """What a statement initialises as a whole: ``x.apply(init)``, ``init_weights(x)``, a loop over ``x.modules()``."""
    if isinstance(statement, ast.For):
        walk = statement.iter
        if isinstance(walk, ast.Call) and isinstance(walk.func, ast.Attribute) and walk.func.attr in _WALKS:
            return ast.unparse(walk.func.value) if _writes(source, statement) else ""
        return ""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return ""
    if isinstance(call.func, ast.Attribute):
        if call.func.attr == "apply" and len(call.args) == 1:
            name = ast.unparse(call.args[0]).rpartition(".")[2]
            known = functions.get(name)
            does = _writes(source, known) if known is not None else _INITIALISES.fullmatch(name) is not None
            return ast.unparse(call.func.value) if does else ""
        known = functions.get(call.func.attr)
        if known is not None and not call.args and _INITIALISES.fullmatch(call.func.attr):
            return ast.unparse(call.func.value) if _walks_everything(source, known) else ""
        return ""
    if isinstance(call.func, ast.Name) and len(call.args) == 1 and _INITIALISES.fullmatch(call.func.id):
        known = functions.get(call.func.id)
        return text_of(call.args[0]) if known is not None and _walks_everything(source, known) else ""
    return ""


def _writes(source: SourceFile, around: ast.stmt) -> bool:
    return any(around.lineno <= w.node.lineno <= (around.end_lineno or 0) for w in init_writes(source))


def _walks_everything(source: SourceFile, function: ast.stmt) -> bool:
    """A function that loops over all modules (or applies) and initialises."""
    return any(isinstance(n, ast.Attribute) and n.attr in {*_WALKS, "apply"} for n in ast.walk(function)) and _writes(
        source, function
    )
