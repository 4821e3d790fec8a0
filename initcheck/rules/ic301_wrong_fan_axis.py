"""IC301: a fan read off the wrong axis: Kaiming on a matrix used as ``x @ W``, or ``fan_in = weight.size(0)``."""

from __future__ import annotations

import ast
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, RewriteCall, Severity, Substitute
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.scale import severity_at, structure_of
from initcheck.rules.source_index import init_writes, text_of, without_data
from initcheck.rules.writes import call_frame, call_location, call_node, counted, final_write
from initcheck.source.statements import assignments

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.source.file import SourceFile
    from initcheck.source.scopes import Place
    from initcheck.tracing.trace import Write

CODE = "IC301"

_NOTICEABLE = 1.5
"""Factor by which the std must be off: nearly square matrices are not worth a word."""

_MATRIX_PRODUCTS = frozenset({"matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "linear"})


# -- from the source: fan_in = layer.weight.size(0) ------------------------------------------------------------------

_FAN_IN = re.compile(r"fan_?in", re.I)
_INPUTS = re.compile(r"(?:num|n)_?in(?:puts?)?|(?:input|in)_?(?:size|dim|features)", re.I)
_SIZED = re.compile(r"weight(?:\s*\.\s*data)*\s*\.\s*(?:size|shape)\b")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """A name that says fan_in, given the first dimension of a layer's weight, which counts its outputs."""
    if not init_writes(source):
        return
    yield from _matrix_fans(source)
    for node, place in source.survey.near(_SIZED).assigns:
        weight = _first_size(node.value)
        if weight is None or len(node.targets) != 1 or not _may_be_layer(source, weight):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and (
            _FAN_IN.fullmatch(target.id) or (_INPUTS.fullmatch(target.id) and _is_written(source, weight, place))
        ):
            yield finding(
                CODE,
                f"`{target.id} = {text_of(node.value)}` is the number of outputs: a layer's weight has the shape "
                "(out, in, ...), so this is the fan-out",
                source.location(node),
                severity=Severity.WARNING,
                suggestion=f"{target.id} = {ast.unparse(weight)}.size(1)",
            )


def _is_written(source: SourceFile, weight: ast.expr, place: Place) -> bool:
    """Whether the function that reads a weight's size initialises that weight: it does not size the next layer."""
    key = ast.unparse(weight)
    return any(w.key == key and w.functions[-1:] == place.functions[-1:] for w in init_writes(source))


_SECOND_SIZE = re.compile(r"self\.\w+(?:\.data)?\.(?:size\(\)?\s*(?:\[1\]|1\))|shape\[(?:1|-1)\])")
_PRODUCTS = frozenset({"torch.mm", "torch.matmul", "torch.spmm"})


def _matrix_fans(source: SourceFile) -> Iterator[Finding]:
    """``1 / sqrt(self.weight.size(1))`` in a class that makes the weight (in, out) and computes ``x @ self.weight``."""
    if "sqrt" not in source.text or _SECOND_SIZE.search(source.text) is None:
        return
    for _, owner in source.classes:
        matrices = {name for name, sizes in _parameter_sizes(source, owner) if sizes == 2}
        used = {name for name in matrices if _is_multiplied(source, owner, name)}
        for call in ast.walk(owner) if used else ():
            if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2] != "sqrt":
                continue
            for size in ast.walk(call):
                name = _second_size(size)
                if name in used:
                    where = source.location(size)  # type: ignore[arg-type]
                    right = re.sub(r"-?1(?=[\])]$)", "0", ast.unparse(size))
                    yield finding(
                        CODE,
                        f"`{ast.unparse(size)}` is the number of outputs of `self.{name}`, which is used as x @ W: "
                        "the bound is computed from the fan-out",
                        where,
                        severity=Severity.WARNING,
                        parameter=f"{owner.name}.{name}",
                        suggestion=right,
                        fix=Fix("read the fan off the other axis", (Substitute(where, right),)),
                    )


def _parameter_sizes(source: SourceFile, owner: ast.ClassDef) -> Iterator[tuple[str, int]]:
    """``self.<name> = nn.Parameter(torch.empty(a, b))``: the name and how many sizes are given."""
    for node in assignments(owner):
        if not isinstance(node.value, ast.Call) or not node.value.args:
            continue
        made, target = node.value.args[0], node.targets[0]
        if not isinstance(target, ast.Attribute) or not isinstance(made, ast.Call):
            continue
        if not (source.imports.resolve(node.value.func) or "").endswith(".Parameter"):
            continue
        first = made.args[0] if made.args else None
        given = first.elts if isinstance(first, (ast.Tuple, ast.List)) and len(made.args) == 1 else made.args
        yield target.attr, len(given)


def _is_multiplied(source: SourceFile, owner: ast.ClassDef, name: str) -> bool:
    """Whether the class multiplies something by ``self.<name>`` as it is, from the right."""
    for node in ast.walk(owner):
        right: ast.expr | None = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            right = node.right
        elif isinstance(node, ast.Call) and len(node.args) == 2 and source.imports.resolve(node.func) in _PRODUCTS:
            right = node.args[1]
        if isinstance(right, ast.Attribute) and ast.unparse(right) == f"self.{name}":
            return True
    return False


def _second_size(node: ast.AST) -> str:
    """``weight`` of ``self.weight.size(1)``, ``self.weight.size()[1]`` and ``self.weight.shape[-1]``; else empty."""
    if not isinstance(node, (ast.Call, ast.Subscript)):
        return ""
    text = ast.unparse(node)
    match = re.fullmatch(r"self\.(\w+)(?:\.data)?\.(?:size\(\)\[1\]|size\((?:1|-1)\)|shape\[(?:1|-1)\])", text)
    return match[1] if match else ""


def _first_size(value: ast.expr) -> ast.expr | None:
    """``x.weight`` of ``x.weight.size()[0]``, ``x.weight.data.size(0)`` and ``x.weight.shape[0]``."""
    sized: ast.expr | None = None
    if isinstance(value, ast.Subscript) and _is_zero(value.slice):
        inner = value.value
        if isinstance(inner, ast.Call) and not inner.args:
            inner = inner.func
        if isinstance(inner, ast.Attribute) and inner.attr in ("size", "shape"):
            sized = inner.value
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and len(value.args) == 1:
        sized = value.func.value if value.func.attr == "size" and _is_zero(value.args[0]) else None
    if sized is None:
        return None
    weight = without_data(sized)
    return weight if isinstance(weight, ast.Attribute) and weight.attr == "weight" else None


def _is_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0 and not isinstance(node.value, bool)


def _may_be_layer(source: SourceFile, weight: ast.expr) -> bool:
    """Not a transposed convolution, nor ``self.weight`` of a class of the user's own, whose shape is its business."""
    return not (isinstance(weight, ast.Attribute) and ast.unparse(weight.value) == "self") and (
        "ConvTranspose" not in source.text
    )


# -- from the graph --------------------------------------------------------------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each call that reads the wrong fan of a weight as the graph uses it."""
    if context.source is not None and any(True for _ in check_source(context.source)):
        return  # the line that computes the fan is the cause
    for where, cases in _cases(context).items():
        yield _finding(context, where, cases)


def wrong_factors(context: ModelContext) -> dict[Location, float]:
    """See ``attribution``."""
    return {
        where: max((f for _, _, f in cases), key=lambda f: abs(math.log(f))) for where, cases in _cases(context).items()
    }


def _cases(context: ModelContext) -> dict[Location, list[tuple[WeightUse, Write, float]]]:
    groups: dict[Location, list[tuple[WeightUse, Write, float]]] = defaultdict(list)
    for use in structure_of(context).by_parameter().values():
        write = final_write(use.record)
        if write is None or write.origin != "user" or use.op not in _MATRIX_PRODUCTS or len(use.record.shape) < 2:
            continue
        factor = _factor(use, write, context)
        if factor is not None and max(factor, 1 / factor) >= _NOTICEABLE:
            groups[call_location(write, context)].append((use, write, factor))
    return groups


def _factor(use: WeightUse, write: Write, context: ModelContext) -> float | None:
    """Written std over the std with the right fan; None if the call read the right one, or none."""
    shape = use.record.shape
    if write.function.startswith("kaiming_"):
        if write.arguments.get("mode", "fan_in") != "fan_in":
            return None  # whoever names the fan-out means it, or has transposed it
        read = math.prod(shape[1:])
        return math.sqrt(use.fans.fan_in / read) if use.fans.fan_in == shape[-2] and read != use.fans.fan_in else None
    if write.function in ("uniform_", "normal_") and use.fans.fan_in != use.fans.fan_out:
        return _hand_written(use, write, context)
    return None


def _hand_written(use: WeightUse, write: Write, context: ModelContext) -> float | None:
    """``uniform_(-s, s)`` or ``normal_(0, s)`` with s = 1/sqrt(n) and n the other fan, computed and not a literal."""
    bound = write.distribution.high if write.function == "uniform_" else write.distribution.std
    if bound is None or bound <= 0 or not _is_computed(write, context):
        return None
    n = bound**-2
    wrong, right = use.fans.fan_out, use.fans.fan_in
    if abs(n / wrong - 1) > 1e-3 or abs(n / right - 1) < 1e-3:
        return None
    return math.sqrt(right / wrong)


def _is_computed(write: Write, context: ModelContext) -> bool:
    """Whether the call's bound is computed from a size, as far as the source shows it."""
    frame = call_frame(write, context)
    call = call_node(frame.location, write.function, context.source) if frame is not None else None
    if call is None or context.source is None or all(isinstance(a, ast.Constant) for a in call.args):
        return False
    around = next((w for w in init_writes(context.source) if w.node is call), None)
    if around is None or not around.functions:
        return False
    text = ast.unparse(around.functions[-1])
    return "size(" in text or "shape" in text or "fan" in text or "sqrt" in text


def _finding(context: ModelContext, where: Location, cases: list[tuple[WeightUse, Write, float]]) -> Finding:
    use, write, factor = cases[0]
    shape = use.record.shape
    used = "x @ W" if use.op != "linear" else "x @ W.T"
    read = use.fans.fan_out
    more = f" ({counted(len(cases), 'weight')})" if len(cases) > 1 else ""
    fix = None
    suggestion = f"use the fan-in, {use.fans.fan_in:g}: std x {1 / factor:.2g}"
    if write.function.startswith("kaiming_"):
        given = {
            k: _as_source(v) for k, v in write.arguments.items() if k in ("a", "nonlinearity") and v not in (0, None)
        }
        arguments = (*given.items(), ("mode", "'fan_out'"))
        suggestion = f"{write.function}(..., mode='fan_out'), or store W as (out, in) and use F.linear"
        if context.source is not None and where.path == context.source.path and where.end_line:
            fix = Fix("read the fan off the other axis", (RewriteCall(where, write.function, arguments),))
    return finding(
        CODE,
        f"`{write.function}` takes {read:g} as the fan-in of `{use.record.name}`{more}, which is used as {used} with "
        f"shape {tuple(shape)}: its fan-in is {use.fans.fan_in:g}, and the std is {factor:.2g} times what was meant",
        where,
        severity=severity_at(context, where, Severity.WARNING),
        model=context.trace.model,
        parameter=use.record.name,
        evidence=(
            f"read: 1/sqrt({read:g}) = {read**-0.5:.3g}; "
            f"right: 1/sqrt({use.fans.fan_in:g}) = {use.fans.fan_in**-0.5:.3g}",
        ),
        suggestion=suggestion,
        fix=fix,
        factor=factor,
    )


def _as_source(value: object) -> str:
    if isinstance(value, float) and abs(value - math.sqrt(5)) < 1e-12:
        return "math.sqrt(5)"
    return repr(value)
