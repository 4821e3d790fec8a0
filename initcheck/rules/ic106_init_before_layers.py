"""IC106: a loop over the modules, or ``self.apply``, that runs before the layers are attached, or returns too early."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Severity, Substitute
from initcheck.rules.base import finding
from initcheck.rules.source_index import InitWrite, init_writes, layer_type, narrowed_types
from initcheck.rules.writes import counted, final_write, lines_that_wrote, listed

if TYPE_CHECKING:
    from initcheck.rules.base import ModelContext
    from initcheck.source.file import SourceFile

CODE = "IC106"

_HINT = re.compile(r"\.apply\(|\.(?:named_)?(?:modules|children|parameters)\(\)")
_LOOP = re.compile(r"\.(?:named_)?(?:modules|children|parameters)\b")
_WALKS = frozenset({"modules", "named_modules", "children", "named_children", "parameters", "named_parameters"})
_LAYERS = re.compile(r"Linear|Conv(?:Transpose)?[123]d|Embedding|Bilinear")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Constructors in source order; then loops that return within their first pass."""
    writes = init_writes(source)
    if not writes or _HINT.search(source.text) is None:
        return
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _check_class(source, node)
    for function in dict.fromkeys(w.functions[-1] for w in writes if w.functions):
        if isinstance(function, ast.FunctionDef):
            yield from _returns_early(source, function)


# -- layers attached after the init ----------------------------------------------------------------------------------


def _check_class(source: SourceFile, owner: ast.ClassDef) -> Iterator[Finding]:
    methods = {item.name: item for item in owner.body if isinstance(item, ast.FunctionDef)}
    constructor = methods.get("__init__")
    if constructor is None:
        return
    steps = [_step(source, statement, methods) for statement in constructor.body]
    for index, types in enumerate(steps):
        if types is None:
            continue
        later = [
            s for s, at in zip(steps[index + 1 :], constructor.body[index + 1 :], strict=True) if not _is_special(at)
        ]
        filled = _filled(source, methods, constructor, constructor.body[index + 1 :], types)
        made = {**filled, **_layers(source, methods, constructor.body[index + 1 :], types)}
        after = " ".join(ast.unparse(s) for s in constructor.body[index + 1 :] if not _ties(s))
        late = [
            name
            for name, kinds in made.items()
            if not any(step == () or (step is not None and kinds <= set(step)) for step in later)
            and not _named_again(name, after, source, owner, name in filled)
        ]
        if late:
            yield _finding(source, owner, constructor, index, types, methods, late)
            return


def _finding(
    source: SourceFile,
    owner: ast.ClassDef,
    constructor: ast.FunctionDef,
    index: int,
    types: tuple[str, ...],
    methods: dict[str, ast.FunctionDef],
    late: list[str],
) -> Finding:
    before = constructor.body[:index]
    early = _layers(source, methods, before, types) or _filled(source, methods, constructor, before, types)
    plain = all((source.imports.resolve(base) or "") == "torch.nn.Module" for base in owner.bases)
    statement = constructor.body[index]
    where = source.location(statement.iter if isinstance(statement, ast.For) else statement)
    return finding(
        CODE,
        f"the layers {listed([f'self.{name}' for name in late])} are attached after this ran, so it does not "
        "initialise them",
        where,
        severity=Severity.ERROR if plain and not early else Severity.WARNING,
        parameter=f"{owner.name}.{late[0]}",
        suggestion="move it to the end of __init__",
        fix=_moved(source, constructor, statement),
        late=len(late),
    )


_ANY_PARAMETER = re.compile(r"\.?(?:weight|bias|norm|bn)?s?")


def _is_special(statement: ast.stmt) -> bool:
    """A loop over names that writes only what has a certain name, the output projections say."""
    if not isinstance(statement, ast.For):
        return False
    asked = [
        n.value
        for guard in ast.walk(statement)
        if isinstance(guard, ast.If)
        for n in ast.walk(guard.test)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    return bool(asked) and not any(_ANY_PARAMETER.fullmatch(text) for text in asked)


def _ties(statement: ast.stmt) -> bool:
    """``self.head.weight = self.embedding.weight``."""
    return isinstance(statement, ast.Assign) and all(
        isinstance(side, ast.Attribute) and side.attr == "weight" for side in (*statement.targets, statement.value)
    )


def _step(source: SourceFile, statement: ast.stmt, methods: dict[str, ast.FunctionDef]) -> tuple[str, ...] | None:
    """The layer types that a statement initialises wherever they are in the model (none: all); None: no such one."""
    if isinstance(statement, ast.For) and _walks_self(statement.iter):
        return _types(source, statement)
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return None
    if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "self"):
        return None
    if call.func.attr == "apply" and len(call.args) == 1:
        name = ast.unparse(call.args[0]).rpartition(".")[2]
        function = methods.get(name) or _function(source, name)
        return _types(source, function) if function is not None else None
    method = methods.get(call.func.attr)
    if method is not None and method.name != "__init__":
        for inner in method.body:
            if isinstance(inner, (ast.For, ast.Expr)):
                found = _step(source, inner, {k: v for k, v in methods.items() if k != method.name})
                if found is not None:
                    return found
    return None


def _walks_self(expression: ast.expr) -> bool:
    return (
        isinstance(expression, ast.Call)
        and isinstance(expression.func, ast.Attribute)
        and expression.func.attr in _WALKS
        and isinstance(expression.func.value, ast.Name)
        and expression.func.value.id == "self"
    )


def _function(source: SourceFile, name: str) -> ast.FunctionDef | None:
    return next((n for n in source.tree.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _types(source: SourceFile, around: ast.stmt) -> tuple[str, ...] | None:
    """Types whose weights are written inside; None if nothing is written."""
    inside = [w for w in init_writes(source) if around.lineno <= w.node.lineno <= (around.end_lineno or 0)]
    if not inside:
        return None
    types: list[str] = []
    for write in inside:
        if isinstance(write.target, ast.Attribute) and isinstance(write.target.value, ast.Name):
            if write.target.value.id == "self":
                continue
            kinds = narrowed_types(source, write, write.target.value.id)
            if write.target.attr == "weight" and not kinds:
                return ()
            types += kinds if write.target.attr == "weight" else []
        elif isinstance(write.target, ast.Attribute) and isinstance(write.target.value, ast.Attribute):
            part = write.target.value  # a part of m: what is called so in the classes that m may be, and no more
            types += [f".{part.attr}", *_own_classes(source, write, ast.unparse(part.value))]
        else:
            return ()
    return tuple(types) or None


def _own_classes(source: SourceFile, write: InitWrite, name: str) -> Iterator[str]:
    """Classes of this file that an ``isinstance(name, ...)`` around a write asks for."""
    for guard in write.guards:
        for call in ast.walk(guard.test):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "isinstance" and len(call.args) == 2:
                kind = ast.unparse(call.args[1])
                if ast.unparse(call.args[0]) == name and source.find_class(kind) is not None:
                    yield kind


def _layers(
    source: SourceFile, methods: dict[str, ast.FunctionDef], statements: Sequence[ast.stmt], types: tuple[str, ...]
) -> dict[str, set[str]]:
    """Attributes that these statements set to something made of layers of the types, and which of them."""
    found = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target = statement.targets[0]
        if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"):
            continue
        kinds = _asked_for(_made(source, methods, statement.value), types)
        if kinds:
            found[target.attr] = kinds
    return found


def _asked_for(made: Iterable[str], types: tuple[str, ...]) -> set[str]:
    return set(made) & set(types) if types else {kind for kind in made if _LAYERS.fullmatch(kind)}


_FILLS = frozenset({"append", "extend", "insert", "add_module"})


def _filled(
    source: SourceFile,
    methods: dict[str, ast.FunctionDef],
    constructor: ast.FunctionDef,
    statements: Sequence[ast.stmt],
    types: tuple[str, ...],
) -> dict[str, set[str]]:
    """Lists of layers, ``self.x.append(layer)``, that these statements fill with layers of the types."""
    found: dict[str, set[str]] = {}
    for call in (node for statement in statements for node in ast.walk(statement)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr not in _FILLS:
            continue
        place = call.func.value
        if not (isinstance(place, ast.Attribute) and ast.unparse(place.value) == "self"):
            continue
        names = {argument.id for argument in call.args if isinstance(argument, ast.Name)}
        made = [n.value for n in ast.walk(constructor) if isinstance(n, ast.Assign) and _sets(n, names)]
        kinds = _asked_for((kind for value in (*call.args, *made) for kind in _made(source, methods, value)), types)
        if kinds:
            found.setdefault(place.attr, set()).update(kinds)
    return found


def _sets(statement: ast.Assign, names: set[str]) -> bool:
    return any(isinstance(target, ast.Name) and target.id in names for target in statement.targets)


def _made(source: SourceFile, methods: dict[str, ast.FunctionDef], value: ast.expr) -> Iterator[str]:
    """Types of the layers that an expression makes, in methods of the class that it calls, too."""
    for node in ast.walk(value):
        if not isinstance(node, ast.Call):
            continue
        kind = layer_type(source, node)
        if kind is not None:
            yield kind
        elif isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self":
            method = methods.get(node.func.attr)
            for inner in ast.walk(method) if method is not None else ():
                if isinstance(inner, ast.Call):
                    yield layer_type(source, inner) or ast.unparse(inner.func)


def _named_again(name: str, after: str, source: SourceFile, owner: ast.ClassDef, filled: bool) -> bool:
    """Whether the layer is initialised on its own: by a write, by being passed on, or through a method of its own."""
    fills = rf"(?!\.(?:{'|'.join(_FILLS)})\(| = (?:torch\.)?(?:nn\.)?ModuleList\(\))" if filled else ""
    if len(re.findall(rf"self\.{name}\b{fills}", after)) > (0 if filled else 1):
        return True
    return any(owner in write.classes and re.search(rf"self\.{name}\b", write.key) for write in init_writes(source))


def _moved(source: SourceFile, constructor: ast.FunctionDef, statement: ast.stmt) -> Fix | None:
    """The statement, if it stands on one line, behind the last one of the constructor."""
    last = constructor.body[-1]
    where, end = source.location(statement), source.location(last)
    if where.line != where.end_line or end.line != end.end_line or isinstance(last, ast.Return):
        return None
    line = source.lines[where.line - 1]
    text = line[where.column - 1 : where.end_column - 1]
    indent = line[: where.column - 1]
    newline = "\r\n" if "\r\n" in source.text else "\n"
    kept = source.lines[end.line - 1][end.column - 1 : end.end_column - 1]
    return Fix(
        "initialise after the last layer",
        (Substitute(where, ""), Substitute(end, f"{kept}{newline}{indent}{text}")),
    )


# -- a return inside the loop ----------------------------------------------------------------------------------------


def _returns_early(source: SourceFile, function: ast.FunctionDef) -> Iterator[Finding]:
    """``return`` behind an init call in the body of a loop over the modules."""
    for loop in (n for n, place in source.survey.near(_LOOP).loops if function in place.functions):
        walk = loop.iter
        if not (isinstance(walk, ast.Call) and isinstance(walk.func, ast.Attribute) and walk.func.attr in _WALKS):
            continue
        inside = [w for w in init_writes(source) if loop.lineno <= w.node.lineno <= (loop.end_lineno or 0)]
        for block in _blocks(loop):
            last = block[-1]
            if not isinstance(last, ast.Return) or (last.value is not None and not _is_none(last.value)):
                continue
            before = [w for w in inside if block[0].lineno <= w.node.lineno < last.lineno]
            if before and block[0].lineno <= before[0].node.lineno:
                yield finding(
                    CODE,
                    f"this returns in the first pass of the loop over `{ast.unparse(walk)}` that initialises "
                    "something: "
                    "all further layers keep torch's default",
                    source.location(last),
                    suggestion="take the return out of the loop",
                    fix=Fix("go on with the next layer", (Substitute(source.location(last), "continue"),)),
                )


def _blocks(loop: ast.For) -> Iterator[list[ast.stmt]]:
    """The loop's body and the branches in it."""
    yield loop.body
    for node in ast.walk(loop):
        if isinstance(node, ast.If):
            yield node.body
            if node.orelse and not isinstance(node.orelse[0], ast.If):
                yield node.orelse


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


# -- from the init log: a loop of the constructor that reached nothing -----------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Init loops of constructors that wrote nothing, though the model has layers of the types that they ask for.

    Layers that are made elsewhere and handed to the constructor show only here.
    """
    source = context.source
    if source is None or context.trace.weights_are_data or any(True for _ in check_source(source)):
        return
    lines = lines_that_wrote(context, source)
    seen: set[str] = set()
    for path, module in context.trace.modules.items():
        name = module.type_name.rpartition(".")[2]
        owner = source.find_class(name)
        if owner is None or name in seen:
            continue
        seen.add(name)
        methods = {item.name: item for item in owner.body if isinstance(item, ast.FunctionDef)}
        for statement in methods["__init__"].body if "__init__" in methods else ():
            yield from _reached_nothing(context, source, path, statement, methods, lines)


def _reached_nothing(
    context: ModelContext,
    source: SourceFile,
    path: str,
    statement: ast.stmt,
    methods: dict[str, ast.FunctionDef],
    lines: set[int],
) -> Iterator[Finding]:
    types = _step(source, statement, methods)
    loop = _loop_of(statement, methods)
    if not types or loop is None or not all(kind[:1].isupper() for kind in types):
        return
    inside = [w for w in init_writes(source) if loop.lineno <= w.node.lineno <= (loop.end_lineno or 0)]
    plain = all(_is_by_type(guard) for w in inside for guard in w.guards if guard.lineno >= loop.lineno)
    if not plain or any(w.node.lineno <= n <= (w.node.end_lineno or 0) for w in inside for n in lines):
        return
    prefix = f"{path}." if path else ""
    missed = [
        record
        for record in context.trace.parameters.values()
        if record.name.startswith(prefix) and record.module_type.rpartition(".")[2] in types and len(record.shape) > 1
    ]
    if missed and all(final_write(record) is None for record in missed):
        yield finding(
            CODE,
            f"this reached none of the {counted(len(missed), 'layer')} of the types that it initialises "
            f"({listed([record.module for record in missed])}): they were not attached yet",
            source.location(statement.iter if isinstance(statement, ast.For) else statement),
            model=context.trace.model,
            parameter=missed[0].name,
            suggestion="move it to the end of __init__",
            late=len(missed),
        )


def _loop_of(statement: ast.stmt, methods: dict[str, ast.FunctionDef]) -> ast.For | None:
    """The loop that a statement is, or that a method which it calls has among its own statements."""
    if isinstance(statement, ast.For):
        return statement
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        method = methods.get(call.func.attr)
        return next((s for s in method.body if isinstance(s, ast.For)), None) if method is not None else None
    return None


def _is_by_type(guard: ast.If) -> bool:
    """``isinstance(m, ...)``, or ``m.bias is not None``."""
    test = guard.test
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) == "isinstance"
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
