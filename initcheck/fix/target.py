"""What an edit's location means: the init call, tensor factory, reference or import that stands there."""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator
from dataclasses import dataclass

from initcheck.findings import Location, RewriteCall
from initcheck.fix.errors import EditError
from initcheck.source.file import SourceFile
from initcheck.source.torch_names import DEPRECATED_INITIALISERS, INITIALISERS

TENSOR_METHODS = frozenset({"normal_", "uniform_", "zero_", "fill_", "copy_", "random_", "log_normal_", "exponential_"})
"""Tensor methods that overwrite their tensor, as init code calls them."""

FACTORIES = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "Tensor", "FloatTensor"})
"""Functions of ``torch`` that make a tensor of a given size."""

_INIT = frozenset(f"torch.nn.init.{name}" for name in (*INITIALISERS, *DEPRECATED_INITIALISERS))
_FACTORY = frozenset(f"torch.{name}" for name in FACTORIES)


class Kind(enum.Enum):
    """How an initialiser can be written."""

    INIT_CALL = "call of torch.nn.init"
    METHOD_CALL = "in-place method of a tensor"
    FACTORY_CALL = "new tensor"
    REFERENCE = "reference to a function of torch.nn.init"
    IMPORT = "imported name"


@dataclass(frozen=True, slots=True)
class Target:
    """An expression that initialises, where it stands, and (``name``) what it calls in full."""

    kind: Kind
    node: ast.expr | ast.alias
    name: str
    location: Location

    @property
    def span(self) -> tuple[int, int, int, int]:
        """Line and column of start and end, both from 1, the end exclusive."""
        where = self.location
        return (where.line, where.column, where.end_line, where.end_column)


def targets(source: SourceFile) -> list[Target]:
    """Everything in the file that an edit could speak of, in source order."""
    return sorted(_targets(source), key=lambda target: target.span)


def _targets(source: SourceFile) -> Iterator[Target]:
    called: set[ast.expr] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            called.add(node.func)
            target = _call(source, node)
            if target is not None:
                yield target
        elif isinstance(node, ast.ImportFrom) and node.module == "torch.nn.init" and not node.level:
            for alias in node.names:
                yield Target(Kind.IMPORT, alias, f"torch.nn.init.{alias.name}", source.location(alias))
    for reference, name in source.imports.references():
        if name in _INIT and reference not in called and isinstance(getattr(reference, "ctx", None), ast.Load):
            yield Target(Kind.REFERENCE, reference, name, source.location(reference))


def _call(source: SourceFile, node: ast.Call) -> Target | None:
    name = source.imports.resolve(node.func)
    where = source.location(node)
    if name in _INIT:
        return Target(Kind.INIT_CALL, node, name, where)
    if name in _FACTORY:
        return Target(Kind.FACTORY_CALL, node, name, where)
    if isinstance(node.func, ast.Attribute) and node.func.attr in TENSOR_METHODS and name is None:
        return Target(Kind.METHOD_CALL, node, node.func.attr, where)
    return None


def find_target(source: SourceFile, every: list[Target], edit: RewriteCall) -> Target:
    """The one target that ``edit.location`` means.

    The exact range or start of a call (or of its function's name) decides; a location without columns, or one that
    spans a whole statement, must hold exactly one target.

    Raises:
        EditError: if nothing stands there that can be rewritten, or more than one thing does.
    """
    where = edit.location
    has_columns = bool(where.end_line) or where.column > 1
    starting = [t for t in every if has_columns and t.span[:2] == (where.line, where.column)]
    # `torch.empty(2)` and `torch.empty(2).normal_()` share their start: the end, of call or function, tells them apart.
    candidates = [t for t in starting if _end(where) in (t.span[2:], _function_end(source, t))] or starting
    if len(candidates) != 1:
        candidates = candidates or [t for t in every if _overlaps(t, where)]
        calls = [t for t in candidates if t.kind in (Kind.INIT_CALL, Kind.METHOD_CALL)]
        candidates = calls or [t for t in candidates if t.kind is not Kind.IMPORT] or candidates
    if not candidates:
        raise EditError(f"no init call stands at line {where.line}", edit)
    if len(candidates) > 1:
        raise EditError(f"{len(candidates)} init calls stand at line {where.line}: cannot tell which is meant", edit)
    return candidates[0]


def _end(where: Location) -> tuple[int, int]:
    return (where.end_line, where.end_column)


def _function_end(source: SourceFile, target: Target) -> tuple[int, int]:
    return _end(source.location(target.node.func) if isinstance(target.node, ast.Call) else target.location)


def _overlaps(target: Target, where: Location) -> bool:
    """Whether the target starts within the location's range (its one line, if it has no range)."""
    line, column, _, _ = target.span
    if not where.end_line:
        return line == where.line
    return (where.line, where.column) <= (line, column) < _end(where)
