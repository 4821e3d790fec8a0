"""IC108: weights that are loaded, and then drawn at random again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes, text_of
from initcheck.rules.writes import listed

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC108"

_LOADS = (
    re.compile(r"load_state_dict"),
    re.compile(r"from_pretrained"),
    re.compile(r"pretrained\s*=\s*True"),
    re.compile(r"weights\s*=\s*[\"'A-Z]"),
)
"""Of which one matches in every statement that loads."""
_INITIALISES = re.compile(
    r"_?(?:init|initiali[sz]e|reset)_?(?:all_)?(?:weights?|params?|parameters|model|net|layers?)?_?|weights?_init\w*",
    re.I,
)
_WALKS = frozenset({"modules", "named_modules", "parameters", "named_parameters", "children"})


def check_source(source: SourceFile) -> Iterator[Finding]:
    """In one block of statements: an object is loaded, and a later statement initialises all of it.

    Behind a strict ``load_state_dict``, which leaves no parameter out, layers that a method names are enough.
    """
    for block in source.survey.near(*_LOADS).blocks if any(p.search(source.text) for p in _LOADS) else ():
        yield from _check(source, block)


def _check(source: SourceFile, block: list[ast.stmt]) -> Iterator[Finding]:
    loaded: dict[str, int] = {}
    whole: dict[str, set[str]] = {}  # of which every parameter was loaded, and the attributes that were made since
    for statement in block:
        lost = _initialised(source, statement) if loaded else ""
        if loaded and not lost:
            yield from _named(source, statement, loaded, whole)
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
            if _is_strict(source, statement):
                whole[name] = set()
        for made in whole.values():
            made |= _assigned(statement)


# -- layers by name, behind a strict load ----------------------------------------------------------------------------


def _is_strict(source: SourceFile, statement: ast.stmt) -> bool:
    """Whether ``x.load_state_dict(state)`` sets every parameter of ``x``, all from what was saved.

    A dictionary that is put together by hand may hold the present values of new layers.
    """
    call = getattr(statement, "value", None)
    if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith(".load_state_dict"):
        return False
    strict = [k.value for k in call.keywords if k.arg == "strict"]
    if len(call.args) != 1 or any(not (isinstance(v, ast.Constant) and v.value is True) for v in strict):
        return False
    state = ast.unparse(call.args[0])
    mended = rf"\b{state}\s*(?:=\s*(?:\{{|OrderedDict|dict\()|\.(?:update|pop|setdefault)\(|\[)|\bdel {state}\["
    return "{" not in state and not (state.isidentifier() and re.search(mended, source.text))


def _assigned(statement: ast.stmt) -> set[str]:
    """Attributes that a statement, or one inside it, sets: ``self.head``."""
    return {
        ast.unparse(node)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _named(
    source: SourceFile, statement: ast.stmt, loaded: dict[str, int], whole: dict[str, set[str]]
) -> Iterator[Finding]:
    """A call of a method of init that writes tensors of the loaded object by their names."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.args or call.keywords:
        return
    owner = ast.unparse(call.func.value)
    if owner not in whole or owner not in loaded or not _INITIALISES.fullmatch(call.func.attr):
        return
    made = {name.replace(f"{owner}.", "self.", 1) for name in whole[owner]}
    method = _method(source, call.func.attr, statement.lineno if owner == "self" else 0)
    lost = [
        write.key
        for write in init_writes(source)
        if method is not None and method in write.functions and not write.guards and write.key.startswith("self.")
    ]
    lost = [key for key in lost if not any(key == name or key.startswith(f"{name}.") for name in made)]
    if lost:
        yield finding(
            CODE,
            f"`{owner}` was loaded at line {loaded.pop(owner)}, all of it, and this initialises "
            f"{listed([key.removeprefix('self.') for key in dict.fromkeys(lost)])} anew",
            source.location(statement),
            parameter=owner,
            suggestion="initialise first, then load; or load with strict=False what the new layers are not part of",
        )


def _method(source: SourceFile, name: str, line: int) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The method of that name: of the class around a line, or the only one of the file (line 0)."""
    found = [
        node
        for node, place in source.survey.whole.functions
        if node.name == name
        and place.classes
        and (not line or place.classes[-1].lineno <= line <= (place.classes[-1].end_lineno or 0))
    ]
    return found[0] if len(found) == 1 else None


# -- what is loaded, and what is initialised as a whole --------------------------------------------------------------


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


def _initialised(source: SourceFile, statement: ast.stmt) -> str:
    """What a statement initialises as a whole: ``x.apply(init)``, ``init_weights(x)``, a loop over ``x.modules()``."""
    if isinstance(statement, ast.For):
        walk = statement.iter
        if isinstance(walk, ast.Call) and isinstance(walk.func, ast.Attribute) and walk.func.attr in _WALKS:
            return ast.unparse(walk.func.value) if _writes(source, statement) else ""
        return ""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return ""
    functions = {node.name: node for node, _ in source.survey.whole.functions}
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
