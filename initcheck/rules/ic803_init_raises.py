"""IC803: init code that raises as soon as it runs on the layers it is meant for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, RewriteCall, Substitute
from initcheck.rules.base import finding
from initcheck.rules.class_names import class_name_filter
from initcheck.rules.source_index import (
    FAN_FUNCTIONS,
    InitWrite,
    init_code,
    init_writes,
    layer_attributes,
    layer_type,
    narrowed_types,
    text_of,
    without_data,
    written,
)

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC803"

_ONE_DIMENSIONAL = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "SyncBatchNorm", "PReLU")
_APPLY = re.compile(r"\.apply\b")
_WITHOUT_WEIGHT = frozenset({"Sequential", "ModuleList", "Module"})


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Four ways to raise: a tensor as a condition, a module as a tensor, a fan of a vector, a class name that also
    matches a wrapper without a weight."""
    writes = init_writes(source)
    if not writes:
        return
    guards: set[ast.If] = set()
    for write in writes:
        for guard in write.guards:
            if guard not in guards and _is_truth_of_tensor(source, guard, writes):
                guards.add(guard)
                yield _truth_of_tensor(source, guard)
        yield from _module_as_tensor(source, write)
        yield from _fan_of_vector(source, write)
        yield from _missing_bias(source, write)
    yield from _wrappers(source, writes)


# -- if m.bias: ------------------------------------------------------------------------------------------------------


def _truth_operands(test: ast.expr) -> Iterator[ast.expr]:
    """The expressions of which a condition takes the truth value."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _truth_operands(value)
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _truth_operands(test.operand)
    else:
        yield test


def _tensor_operand(test: ast.expr) -> ast.Attribute | None:
    for operand in _truth_operands(test):
        bare = without_data(operand)
        if isinstance(bare, ast.Attribute) and bare.attr in ("bias", "weight"):
            return bare
    return None


def _is_truth_of_tensor(source: SourceFile, guard: ast.If, writes: tuple[InitWrite, ...]) -> bool:
    """``if m.bias:`` whose body initialises ``m.bias`` itself, so that it must be a tensor and not a flag."""
    operand = _tensor_operand(guard.test)
    if operand is None:
        return False
    key = ast.unparse(operand)
    return any(write.key == key and guard in write.guards for write in writes)


def _truth_of_tensor(source: SourceFile, guard: ast.If) -> Finding:
    operand = _tensor_operand(guard.test)
    assert operand is not None
    name = ast.unparse(operand)
    return finding(
        CODE,
        f"`if {text_of(guard.test)}` asks a tensor for one truth value: it raises RuntimeError for every layer whose "
        f"`{name}` has more than one element",
        source.location(guard.test),
        suggestion=f"if {name} is not None:",
        fix=_asked_for_none(source, guard.test, operand),
    )


def _asked_for_none(source: SourceFile, test: ast.expr, operand: ast.Attribute) -> Fix | None:
    """``m.bias is not None`` in the place of ``m.bias``, or of ``m.bias.data``; not behind a ``not``."""
    for given in test.values if isinstance(test, ast.BoolOp) else [test]:
        if without_data(given) is operand:
            edit = Substitute(source.location(given), f"{written(source, operand)} is not None")
            return Fix("ask whether there is a tensor", (edit,))
    return None


# -- zeros_(module), xavier_(bias) -----------------------------------------------------------------------------------


def _layer_of(source: SourceFile, write: InitWrite, expression: ast.expr) -> tuple[tuple[str, ...], ast.Call | None]:
    """The layer types that ``expression`` must have, and the call that made it, if that is one known call."""
    if isinstance(expression, ast.Name):
        return narrowed_types(source, write, expression.id), None
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name) and write.classes:
        if expression.value.id != "self":
            return (), None
        call = layer_attributes(source, write.classes[-1]).get(expression.attr)
        kind = layer_type(source, call) if call is not None else None
        return ((kind,), call) if kind is not None else ((), None)
    return (), None


def _module_as_tensor(source: SourceFile, write: InitWrite) -> Iterator[Finding]:
    if write.is_method:
        return
    types, _ = _layer_of(source, write, write.target)
    if types or _is_used_as_module(source, write):
        kind = f" ({' or '.join(types)})" if types else ""
        yield finding(
            CODE,
            f"`{write.function}` is given the module `{write.key}`{kind}, not one of its tensors: it raises "
            "AttributeError",
            source.location(write.node),
            suggestion=f"{write.function}({write.key}.weight)",
            fix=_of_its_weight(source, write, types),
        )


_WEIGHTED = ("Linear", "Bilinear", "Conv", "Embedding")


def _of_its_weight(source: SourceFile, write: InitWrite, types: tuple[str, ...]) -> Fix | None:
    """The layer's weight, which alone is drawn at random; zeros may be meant for the bias too."""
    if not types or not all(kind.startswith(_WEIGHTED) for kind in types) or write.function in _CONSTANTS:
        return None
    edit = Substitute(source.location(write.target), f"{written(source, write.target)}.weight")
    return Fix("initialise the layer's weight", (edit,))


_CONSTANTS = frozenset({"zeros_", "ones_", "constant_"})

_OF_MODULES = frozenset({"weight", "bias"})
"""Attributes that no tensor has."""


def _is_used_as_module(source: SourceFile, write: InitWrite) -> bool:
    """Whether the variable that a call is given is a module by what stands beside it.

    It is ``self`` of an ``nn.Module``; or it loops over layers of ``self``; or a statement of the same block, or of one
    around it, reads its ``weight`` or ``bias``.
    """
    target, function = write.target, write.functions[-1] if write.functions else None
    if not isinstance(target, ast.Name) or not isinstance(function, ast.FunctionDef):
        return False
    if target.id == "self":
        return bool(write.classes) and any(
            source.imports.resolve(b) == "torch.nn.Module" for b in write.classes[-1].bases
        )
    loops = [n for n in ast.walk(function) if isinstance(n, ast.For) and ast.unparse(n.target) == target.id]
    stores = [n for n in ast.walk(function) if _is_variable(n, target.id) and isinstance(n.ctx, ast.Store)]  # type: ignore[attr-defined]
    if len(stores) != len(loops):
        return False  # bound to something else on the way
    around = [loop for loop in loops if loop.lineno <= write.node.lineno <= (loop.end_lineno or 0)]
    if len(around) == 1 and isinstance(around[0].iter, (ast.Tuple, ast.List)):
        return all(_layer_of(source, write, item)[0] for item in around[0].iter.elts)
    return any(
        isinstance(node, ast.Attribute) and node.attr in _OF_MODULES and _is_variable(node.value, target.id)
        for statement in _beside(source, write, function)
        for node in ast.walk(statement)
    )


def _is_variable(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _beside(source: SourceFile, write: InitWrite, function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """The plain statements of the block that a call stands in, and of those around it."""
    line = write.node.lineno
    for block in init_code(source).blocks:
        if function.lineno < block[0].lineno <= line <= (block[-1].end_lineno or 0) <= (function.end_lineno or 0):
            yield from (s for s in block if isinstance(s, (ast.Expr, ast.Assign, ast.AugAssign)))


def _fan_of_vector(source: SourceFile, write: InitWrite) -> Iterator[Finding]:
    target = write.target
    if write.function not in FAN_FUNCTIONS or not isinstance(target, ast.Attribute):
        return
    types, _ = _layer_of(source, write, target.value)
    if not types:
        return
    vector = target.attr == "bias" or (
        target.attr == "weight" and all(kind.startswith(_ONE_DIMENSIONAL) for kind in types)
    )
    if vector:
        where = source.location(write.node)
        constant = "zeros_" if target.attr == "bias" else "ones_"
        yield finding(
            CODE,
            f"`{write.function}` computes a fan, and `{write.key}` of {' or '.join(types)} has one dimension: it "
            "raises ValueError",
            where,
            suggestion=f"{constant}({write.key})",
            fix=None if "PReLU" in types else Fix(f"call {constant}", (RewriteCall(where, constant, ()),)),
        )


def _missing_bias(source: SourceFile, write: InitWrite) -> Iterator[Finding]:
    """``zeros_(self.fc.bias)`` where ``self.fc = nn.Linear(..., bias=False)``."""
    target = write.target
    if not isinstance(target, ast.Attribute) or target.attr != "bias":
        return
    if any("bias" in ast.unparse(guard.test) for guard in write.guards):
        return
    _, call = _layer_of(source, write, target.value)
    if call is None or not any(
        k.arg == "bias" and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords
    ):
        return
    yield finding(
        CODE,
        f"`{write.key}` is None: the layer is made with bias=False (line {call.lineno}), so this raises AttributeError",
        source.location(write.node),
        suggestion="remove this line, or make the layer with a bias",
        fix=Fix("remove the call", (Substitute(source.location(write.node), ""),)),
    )


# -- 'Conv' in m.__class__.__name__ ----------------------------------------------------------------------------------


def _wrappers(source: SourceFile, writes: tuple[InitWrite, ...]) -> Iterator[Finding]:
    """A filter by class name that also catches a class of this file without a weight."""
    if "__name__" not in source.text or ".apply(" not in source.text:
        return
    applied = _applied(source)
    classes = {node.name: node for _, node in source.classes}
    seen: set[ast.If] = set()
    for write in writes:
        function = write.functions[-1] if write.functions else None
        if not isinstance(function, ast.FunctionDef) or function.name not in applied or not write.guards:
            continue
        guard = write.guards[-1]
        target = write.target
        if guard in seen or not isinstance(target, ast.Attribute) or target.attr != "weight":
            continue
        if "hasattr" in "".join(ast.unparse(g.test) for g in write.guards):
            continue
        asked = class_name_filter(guard.test)
        if asked is None or _inside_orelse(function, guard):
            continue
        word = str(asked.value)
        caught = sorted(n for n, c in classes.items() if word in n and _lacks_weight(source, c, classes))
        if caught:
            seen.add(guard)
            yield finding(
                CODE,
                f"`{text_of(guard.test)}` also matches the class {caught[0]} of this file (line "
                f"{classes[caught[0]].lineno}), which has no `weight`: `{write.key}` raises AttributeError",
                source.location(guard.test),
                suggestion="filter by type: isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))"
                if word == "Conv"
                else f"filter by type: isinstance(m, nn.{word})",
            )


def _applied(source: SourceFile) -> set[str]:
    """Names of functions that are given to ``.apply(...)`` in this file."""
    return {
        node.args[0].id if isinstance(node.args[0], ast.Name) else getattr(node.args[0], "attr", "")
        for node, _ in source.survey.near(_APPLY).calls
        if isinstance(node.func, ast.Attribute) and node.func.attr == "apply" and len(node.args) == 1
    }


def _inside_orelse(function: ast.FunctionDef, guard: ast.If) -> bool:
    """Whether an earlier branch of the same chain may already have taken the wrapper."""
    return any(isinstance(node, ast.If) and guard in node.orelse for node in ast.walk(function))


def _lacks_weight(source: SourceFile, node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    """A plain container: derives from ``nn.Module``/``nn.Sequential`` and sets no attribute ``weight``."""
    for base in node.bases:
        name = source.imports.resolve(base)
        if name is None and isinstance(base, ast.Name) and base.id in classes and base.id != node.name:
            if not _lacks_weight(source, classes[base.id], classes):
                return False
        elif name is None or not name.startswith("torch.nn.") or name.rpartition(".")[2] not in _WITHOUT_WEIGHT:
            return False
    mentions = any(
        (isinstance(item, ast.Attribute) and item.attr == "weight" and isinstance(item.ctx, ast.Store))
        or (isinstance(item, ast.FunctionDef) and item.name in ("weight", "__getattr__"))
        or (isinstance(item, ast.Constant) and item.value == "weight")
        for item in ast.walk(node)
    )
    return bool(node.bases) and not mentions


# -- from a constructor that raised ----------------------------------------------------------------------------------

_USERS_FAULT = (AttributeError, TypeError, ValueError, RuntimeError)


def raised(source: SourceFile, model: str, error: BaseException) -> Finding | None:
    """The finding for a model that could not be built because an init call of this file raised; None: something else,
    or a call that the source rule names without building anything.

    Args:
        source: the checked file.
        model: the model's name.
        error: what its constructor raised.
    """
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == source.path:
            line = trace.tb_lineno
        trace = trace.tb_next
    if not line or not isinstance(error, _USERS_FAULT):
        return None
    place = _init_code(source, line)
    if place is None or any(known.location.line == place.lineno for known in check_source(source)):
        return None
    text = (str(error).strip() or "no message").splitlines()[0][:200]
    return finding(
        CODE,
        f"`{text_of(place)}` raises when {model} is built: {type(error).__name__}: {text}",
        source.location(place),
        model=model,
        suggestion=f"mend the call: {model} cannot be built with it",
    )


def _init_code(source: SourceFile, line: int) -> ast.expr | None:
    """The init call at a line, or what a function of init calls, a constructor aside, evaluates there."""
    for write in init_writes(source):
        if write.node.lineno <= line <= (write.node.end_lineno or 0):
            return write.node
        function = write.functions[-1] if write.functions else None
        if isinstance(function, ast.FunctionDef) and function.name not in ("__init__", "forward"):
            around = [n for n in ast.walk(function) if isinstance(n, ast.expr) and n.lineno == line]
            if around:
                return min(around, key=lambda n: (n.col_offset, -(n.end_col_offset or 0)))
    return None
