"""Scopes, what their names are bound to, and where in a file something stands."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Binding = str | ast.expr | None


@dataclass(slots=True, eq=False)
class Scope:
    """A module, class or function body. ``bindings``: each thing a name is bound to here, in order."""

    parent: Scope | None
    is_class: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)  # names declared global or nonlocal

    def bind(self, name: str, value: Binding) -> None:
        """``value``: a full dotted name (an import), an expression (an assignment) or None (anything else)."""
        self.bindings.setdefault(name, []).append(value)


class Place(NamedTuple):
    """What encloses a node, outermost first. ``guards``: the ``if`` statements whose condition holds there."""

    scope: Scope
    classes: tuple[ast.ClassDef, ...]
    functions: tuple[FunctionNode, ...]
    guards: tuple[ast.If, ...]


def bind_target(target: ast.expr, value: ast.expr | None, scope: Scope) -> None:
    """Bind what an assignment assigns to; what unpacking binds has no known value."""
    if isinstance(target, ast.Name):
        scope.bind(target.id, value)
    elif isinstance(target, ast.Starred):
        bind_target(target.value, None, scope)
    elif isinstance(target, (ast.Tuple, ast.List)):
        for item in target.elts:
            bind_target(item, None, scope)


def bind_import(node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
    """Bind what an import names, a star aside."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            root = alias.name.partition(".")[0]
            scope.bind(alias.asname or root, alias.name if alias.asname else root)
        return
    module = module_of(node)
    separator = "" if module.endswith(".") else "."
    for alias in node.names:
        if alias.name != "*":
            scope.bind(alias.asname or alias.name, f"{module}{separator}{alias.name}")


def module_of(node: ast.ImportFrom) -> str:
    """The module that is imported from, with its leading dots."""
    return "." * node.level + (node.module or "")
