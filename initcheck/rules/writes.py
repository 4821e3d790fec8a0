"""What the model rules share: where a parameter was written, in the user's terms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from initcheck.findings import InitStatement, InsertInit, Location, RewriteCall
from initcheck.rules.items import attribute_path
from initcheck.rules.source_index import init_writes
from initcheck.source.torch_names import INITIALISERS

if TYPE_CHECKING:
    import ast

    from initcheck.init.suggest import Suggestion
    from initcheck.rules.base import ModelContext
    from initcheck.source.file import SourceFile
    from initcheck.tracing.trace import Frame, ParameterRecord, Write

DRAWING = frozenset(
    {
        *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "xavier_uniform_"),
        *("xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_", "zero_", "fill_"),
    }
)
"""Writes that replace a tensor without reading it: an initialisation, as opposed to a scaling or a copy."""

_INSTALLED = re.compile(r"[\\/](?:site|dist)-packages[\\/]")


def user_writes(record: ParameterRecord) -> list[Write]:
    """The writes that are not torch's own defaults, in order."""
    return [write for write in record.writes if write.origin != "default"]


def final_write(record: ParameterRecord) -> Write | None:
    """The last whole write, if it is a draw or constant of the user's; None: torch's default stands."""
    for write in reversed(record.writes):
        if write.share >= 1.0 and write.function in DRAWING:
            return write if write.origin != "default" else None
    return None


def call_frame(write: Write, context: ModelContext) -> Frame | None:
    """The frame of the init call: the innermost one in the user's own code.

    Code of installed packages is skipped, unless it is what is being checked; a helper in another file of the user's
    is where the call stands.
    """
    if not write.stack:
        return None
    checked = context.source.path if context.source is not None else ""
    own = [f for f in write.stack if f.location.path == checked or not _INSTALLED.search(f.location.path)]
    return own[0] if own else write.stack[0]


def call_location(write: Write, context: ModelContext) -> Location:
    """Where the init call stands, with its full range if it is in the checked file."""
    frame = call_frame(write, context)
    if frame is None:
        return context.fallback
    found = call_node(frame.location, write.function, context.source)
    return context.source.location(found) if found is not None and context.source is not None else frame.location


def call_node(where: Location, function: str, source: SourceFile | None) -> ast.Call | None:
    """The call of ``function`` at a line of the checked file; None if there is none or more than one."""
    if source is None or where.path != source.path:
        return None
    here = [w for w in init_writes(source) if w.node.lineno <= where.line <= (w.node.end_lineno or w.node.lineno)]
    named = [w for w in here if w.function == function] or here
    if len(named) > 1:
        named = [w for w in named if source.location(w.node).column == where.column] or named
    return named[0].node if len(named) == 1 else None


def layer_location(record: ParameterRecord, context: ModelContext) -> Location:
    """Where the layer that holds the parameter was made."""
    return record.location or context.fallback


def class_location(context: ModelContext) -> Location:
    """Where the model's class stands, if it is defined in the checked file; else the fallback."""
    root = context.trace.modules.get("")
    where = root.class_location if root is not None else None
    if where is not None and context.source is not None and where.path == context.source.path:
        return where
    return context.fallback


def listed(names: list[str], shown: int = 3) -> str:
    """``a, b, c and 5 more``."""
    if len(names) <= shown + 1:
        return ", ".join(names)
    return ", ".join(names[:shown]) + f" and {len(names) - shown} more"


def counted(number: int, noun: str) -> str:
    """``1 layer``, ``20 layers``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


# -- edits -----------------------------------------------------------------------------------------------------------


def suggestions_for(records: list[ParameterRecord], context: ModelContext) -> list[Suggestion]:
    """The suggested initialisation of these parameters, as far as there is one."""
    by_name = {suggestion.parameter: suggestion for suggestion in context.suggested()}
    return [by_name[record.name] for record in records if record.name in by_name]


def lines_that_wrote(context: ModelContext, source: SourceFile) -> set[int]:
    """Lines of the file that were on the stack of a write while the model was built."""
    return {
        frame.location.line
        for record in context.trace.parameters.values()
        for write in record.writes
        for frame in write.stack
        if frame.location.path == source.path
    }


def as_code(function: str, arguments: tuple[tuple[str, str], ...], target: str) -> str:
    """``nn.init.kaiming_normal_(m.weight, nonlinearity='relu')``; a function that torch lacks is initcheck's own."""
    given = "".join(f", {name}={value}" for name, value in arguments)
    home = "nn.init" if function in INITIALISERS else "initcheck.init"
    return f"{home}.{function}({target}{given})"


def agreed(suggestions: list[Suggestion]) -> Suggestion | None:
    """The one suggestion that all share; None if the parameters need different ones."""
    kinds = {(s.function, s.arguments) for s in suggestions}
    return suggestions[0] if len(kinds) == 1 else None


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
    """The model's class in the checked file; for a model of torch's own class, the assignment that makes it, and ""."""
    source = context.source
    root = context.trace.modules.get("")
    if source is None or root is None:
        return None
    if not root.type_name.startswith("torch.nn."):
        class_name = root.type_name.rpartition(".")[2]
        where = source.class_location(class_name)
        return (where, class_name) if where is not None else None
    for node, place in source.survey.whole.assigns:
        if source.location(node.value) == context.fallback and not place.functions and not place.classes:
            return source.location(node), ""
    return None
