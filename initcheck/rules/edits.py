"""The edits that model rules offer: another call in the place of one, or an init where torch's default stands."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from initcheck.findings import InitStatement, InsertInit, Location, RewriteCall
from initcheck.rules.items import attribute_path
from initcheck.rules.writes import suggestions_for
from initcheck.source.torch_names import INITIALISERS

if TYPE_CHECKING:
    from initcheck.init.suggest import Suggestion
    from initcheck.rules.base import ModelContext
    from initcheck.source.file import SourceFile
    from initcheck.tracing.trace import ParameterRecord


def rewrite(location: Location, suggestion: Suggestion, context: ModelContext) -> RewriteCall | None:
    """The edit of an init call, if it stands in the checked file with a known range.

    Code is not made to import initcheck: what torch has no function for is advice only.
    """
    if context.source is None or location.path != context.source.path or not location.end_line:
        return None
    if suggestion.function not in INITIALISERS:
        return None
    return RewriteCall(location, suggestion.function, suggestion.arguments)


def insertion(records: list[ParameterRecord], context: ModelContext) -> InsertInit | None:
    """The edit that initialises default-initialised layers at the end of the model's ``__init__``.

    Layers of one type that need the same call share a loop; a layer that the loop would serve wrongly keeps it from
    being offered only if nothing but a loop could serve the others.
    """
    place = insertion_place(context)
    if place is None:
        return None
    where, class_name = place
    pairs = [(record, s) for record in records for s in suggestions_for([record], context)]
    if not pairs or any(s.function not in INITIALISERS for _, s in pairs):
        return None
    types = {record.module_type.rpartition(".")[2] for record, _ in pairs}
    torch_types = all(record.module_type.startswith("torch.nn.") for record, _ in pairs)
    kinds = {(s.function, s.arguments, record.attribute) for record, s in pairs}
    if len(kinds) == 1 and torch_types and len(pairs) > 2:
        function, arguments, attribute = next(iter(kinds))
        statement = InitStatement(f"module.{attribute}", function, arguments)
        return InsertInit(where, class_name, (statement,), tuple(sorted(f"nn.{name}" for name in types)))
    statements = []
    for record, suggestion in pairs:
        path = attribute_path(record.name, "self")
        if path is None:
            return None
        statements.append(InitStatement(path, suggestion.function, suggestion.arguments))
    return InsertInit(where, class_name, tuple(statements))


def insertion_place(context: ModelContext) -> tuple[Location, str] | None:
    """The model's class in the checked file; for a model of torch's own class, the statement that makes it, and ""."""
    source = context.source
    root = context.trace.modules.get("")
    if source is None or root is None:
        return None
    if not root.type_name.startswith("torch.nn."):
        class_name = root.type_name.rpartition(".")[2]
        where = source.class_location(class_name)
        return (where, class_name) if where is not None else None
    statement = _made_by(source, context.fallback)
    return (source.location(statement), "") if statement is not None else None


def _made_by(source: SourceFile, where: Location) -> ast.Assign | ast.Return | None:
    """The assignment of the call at a place; or, of the function that begins there, the one that it returns, or the
    one ``return`` of a call."""
    assigns = source.survey.whole.assigns
    for node, place in assigns:
        if source.location(node.value) == where and not place.functions and not place.classes:
            return node
    for function, _ in source.survey.whole.functions:
        returns = [n for n in ast.walk(function) if isinstance(n, ast.Return)] if function.lineno == where.line else []
        if len(returns) != 1:
            continue
        value = returns[0].value
        if isinstance(value, ast.Call):
            return returns[0]
        made = [
            node
            for node, place in assigns
            if function in place.functions
            and isinstance(value, ast.Name)
            and value.id in map(ast.unparse, node.targets)
        ]
        return made[0] if len(made) == 1 else None
    return None
