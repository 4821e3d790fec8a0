"""What the model rules share: where a parameter was written, in the user's terms."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from initcheck.findings import Location
from initcheck.rules.source_index import init_writes
from initcheck.source.torch_names import INITIALISERS

if TYPE_CHECKING:
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


# -- suggestions -------------------------------------------------------------------------------------------------------


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
