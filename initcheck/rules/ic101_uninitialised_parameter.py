"""IC101: a parameter that is memory as it was found: ``torch.empty`` or ``torch.Tensor(n)``, never written."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from initcheck.findings import Finding, Fix, InitStatement, InsertInit, Location
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.ic111_init_function_never_called import named_elsewhere
from initcheck.rules.source_index import InitWrite, init_writes, narrowed_types, times_named
from initcheck.source.nodes import children

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile
    from initcheck.tracing.trace import ParameterRecord

CODE = "IC101"

_FACTORIES = frozenset({"torch.empty", "torch.Tensor", "torch.FloatTensor", "torch.DoubleTensor", "torch.HalfTensor"})
_FACTORY_NAMES = tuple(sorted(name.removeprefix("torch.") for name in _FACTORIES))
_TENSOR = re.compile(r"Tensor\s*(?:\(|as\b|[#;]|$)", re.M)
"""A call of ``torch.Tensor``, or what gives it another name; no annotation of an argument."""
_PARAMETER = frozenset({"torch.nn.Parameter", "torch.nn.parameter.Parameter"})
_LOADED = re.compile(r"load_state_dict|from_pretrained|load_checkpoint|safetensors|torch\.load")
_LOOPS = frozenset({"parameters", "named_parameters", "modules", "named_modules", "children"})
_LOOP_WORDS = tuple(re.compile(rf"\.\s*{word}\b") for word in sorted(_LOOPS))


def _message(attribute: str, factory: str, held: str = "") -> str:
    if held:
        return (
            f"`{attribute}` {held}, which no initialiser draws: it is memory that was never written, or its init failed"
        )
    made = f"made by `{factory}` and " if factory else ""
    return (
        f"`self.{attribute}` is uninitialised memory: it is {made}never written, so it starts as whatever was there: "
        "zeros, huge numbers or NaN"
    )


_SUGGESTION = "write it, e.g. nn.init.xavier_uniform_ or nn.init.normal_(..., std=0.02), in __init__"


# -- from the init log -----------------------------------------------------------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Parameters whose final distribution is uninitialised memory, one finding for each place that makes them."""
    seen: set[Location] = set()
    for record in context.trace.parameters.values():
        if record.distribution.kind != "uninitialised":
            continue
        module = context.trace.modules.get(record.module)
        if context.source is not None and _written_elsewhere(
            context.source, record.attribute, module.type_name if module is not None else ""
        ):
            continue  # a method of the file does it, when it is called: torch.empty in __init__ is then good practice
        where, factory = _made(record, context)
        if where in seen:
            continue
        seen.add(where)
        yield finding(
            CODE,
            _message(record.attribute, factory, record.distribution.note),
            where,
            model=context.trace.model,
            parameter=record.name,
            suggestion=_SUGGESTION,
            fix=_fix(context.source, where, record.attribute) if context.source is not None else None,
        )


def _written_elsewhere(source: SourceFile, attribute: str, class_name: str) -> bool:
    """Whether some write of the file may be to this attribute of this class: not one behind another ``isinstance``."""
    own = source.find_class(class_name.rpartition(".")[2])
    bases = (
        {(source.imports.resolve(base) or "").rpartition(".")[2] for base in own.bases} if own is not None else set()
    )
    for write in init_writes(source):
        if not write.key.endswith(f".{attribute}"):
            continue
        if own is not None and own in write.classes and not _may_be_called(source, write):
            continue
        name, _, rest = write.key.partition(".")
        kinds = narrowed_types(source, write, name) if rest == attribute else ()
        if own is None or not kinds or bases & set(kinds):
            return True
    return False


def _may_be_called(source: SourceFile, write: InitWrite) -> bool:
    """Whether the method that writes is named elsewhere, in the file or in another one of the project."""
    method = write.functions[0] if write.functions else None
    if not isinstance(method, ast.FunctionDef) or method.name.startswith("__"):
        return True
    return times_named(source, method.name) > 1 or named_elsewhere(source, method.name)


def _made(record: ParameterRecord, context: ModelContext) -> tuple[Location, str]:
    """The assignment of the parameter in the checked file, else where its layer was made; and what made it."""
    module = context.trace.modules.get(record.module)
    if context.source is not None and module is not None:
        class_name = module.type_name.rpartition(".")[2]
        for node, attribute, factory in _creations(context.source):
            owner = context.source.find_class(class_name)
            if (
                attribute == record.attribute
                and owner is not None
                and owner.lineno <= node.lineno <= (owner.end_lineno or 0)
            ):
                return context.source.location(node), factory
        where = context.source.attribute_assignment(class_name, record.attribute)
        if where is not None:
            return where, ""
    return record.location or context.fallback, ""


# -- from the source alone -------------------------------------------------------------------------------------------


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Only where it is certain: nothing in the file can write the parameter, or load it."""
    text = source.text
    may = "Parameter(" in text and ("empty" in text or _TENSOR.search(text) is not None)
    creations = list(_creations(source)) if may else []
    if not creations or _LOADED.search(source.text) is not None:
        return
    written = touched(source, {attribute for _, attribute, _ in creations})
    for node, attribute, factory in creations:
        if attribute not in written:
            yield finding(
                CODE,
                _message(attribute, factory),
                source.location(node),
                parameter=attribute,
                suggestion=_SUGGESTION,
                fix=_fix(source, source.location(node), attribute),
            )


def _fix(source: SourceFile, where: Location, attribute: str) -> Fix | None:
    """A draw at the end of the constructor that makes the parameter."""
    owners = [node for _, node in source.classes]
    around = [n for n in owners if where.path == source.path and n.lineno <= where.line <= (n.end_lineno or 0)]
    place = source.class_location(around[-1].name) if around else None
    if place is None:
        return None
    statement = InitStatement(f"self.{attribute}", "normal_", (("std", "0.02"),))
    return Fix("draw it at std 0.02", (InsertInit(place, around[-1].name, (statement,)),))


def _creations(source: SourceFile) -> Iterator[tuple[ast.stmt, str, str]]:
    """``self.<attribute> = nn.Parameter(torch.empty(...))``, with the text of the factory's name."""
    imports = source.imports
    for node, _ in source.survey.near_both(imports.mentions(("Parameter",)), imports.mentions(_FACTORY_NAMES)).assigns:
        if not isinstance(node.value, ast.Call):
            continue
        value = node.value
        if imports.resolve(value.func) not in _PARAMETER or not value.args:
            continue
        made = value.args[0]
        if not isinstance(made, ast.Call) or not _is_empty(source, made):
            continue
        for target in node.targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                yield node, target.attr, ast.unparse(made.func)


def _is_empty(source: SourceFile, call: ast.Call) -> bool:
    """A factory of uninitialised memory; ``torch.Tensor([0])`` and ``torch.Tensor(values)`` are data."""
    name = source.imports.resolve(call.func)
    if name not in _FACTORIES or (len(call.args) == 1 and ast.unparse(call.args[0]) in ("0", "(0,)", "[0]")):
        return False
    if name == "torch.empty":
        return True
    if not call.args or any(isinstance(a, (ast.List, ast.Tuple, ast.ListComp, ast.Starred)) for a in call.args):
        return False
    if len(call.args) > 1:
        return True
    only = call.args[0]  # one argument: a size only if that is plain to see
    if isinstance(only, ast.Constant):
        return isinstance(only.value, int)
    text = ast.unparse(only).lower()
    return bool(re.search(r"(?:num|dim|size|channel|features|width|hidden|n_|len\()", text)) and "[" not in text


class _Around(NamedTuple):
    """What a node stands in. ``calls``: those among whose arguments it is, outside of a ``forward``."""

    owner: str = ""
    inside: bool = False
    forward: bool = False
    written: bool = False
    looped: bool = False
    calls: tuple[ast.Call, ...] = ()


def touched(source: SourceFile, attributes: set[str]) -> set[str]:
    """Attributes that the file may write: assigned again, mutated, passed on, named in a string, looped over."""
    found: set[str] = set()
    concerned = source.survey.functions_near(*_LOOP_WORDS, *(re.compile(attribute) for attribute in attributes))
    assigned: Counter[tuple[str, str]] = Counter()
    stack: list[tuple[Any, _Around]] = [(source.tree, _Around())]
    while stack:
        node, at = stack.pop()
        kind = node.__class__
        if kind is ast.Constant:
            if node.value.__class__ is str and node.value in attributes:
                found.add(node.value)
        elif kind is ast.Attribute:
            if at.looped and node.attr in _LOOPS:
                return set(attributes)
            if node.attr in attributes:
                if at.written or not all(_reads_only(source, call) for call in at.calls):
                    found.add(node.attr)
                if node.ctx.__class__ is not ast.Load:
                    assigned[at.owner, node.attr] += 1
            in_place = node.attr.endswith("_") and not node.attr.startswith("_")  # self.x.data.normal_
            stack.append((node.value, at._replace(written=True) if in_place else at))
        elif kind is ast.Call and not at.forward:
            passed = at._replace(calls=(*at.calls, node))
            stack.append((node.func, at))
            stack.extend([(argument, passed) for argument in node.args])
            stack.extend([(keyword.value, passed) for keyword in node.keywords])
        elif kind is ast.Subscript and node.ctx.__class__ is not ast.Load:
            stack += ((node.value, at._replace(written=True)), (node.slice, at))
        elif kind is ast.FunctionDef or kind is ast.AsyncFunctionDef:
            if at.inside or node in concerned:
                body = at._replace(inside=True, forward=node.name == "forward")
                stack.extend([(child, body) for child in children(node)])
        elif kind is ast.ClassDef:
            body = at._replace(owner=node.name)
            stack.extend([(child, body) for child in children(node)])
        else:
            looped = node.iter if kind is ast.For or kind is ast.comprehension else None
            stack.extend([(child, at) for child in children(node) if child is not looped])
            if looped is not None:
                stack.append((looped, at._replace(written=True, looped=True)))  # for matrix in self.weight: ...
    return found | {attribute for (_, attribute), times in assigned.items() if times > 1}


def _reads_only(source: SourceFile, call: ast.Call) -> bool:
    name = source.imports.resolve(call.func) or ""
    return name.startswith("torch.") and not name.startswith("torch.nn.init") and not name.endswith("_")
