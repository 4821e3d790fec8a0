"""Statements inside of statements, without a look at expressions: a tenth of a file's nodes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

_HOLDING = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields that hold statements, or handlers and cases, which hold statements in turn."""


def below(node: ast.AST) -> Iterator[ast.AST]:
    """The statements (handlers, cases) right inside one, or inside a module."""
    for name in _HOLDING:
        held = getattr(node, name, None)
        if held.__class__ is list:
            yield from held


def assignments(owner: ast.AST) -> Iterator[ast.Assign]:
    """The assignments anywhere inside a class or function, in source order."""
    stack = [owner]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Assign):
            yield node
        else:
            stack.extend(reversed(list(below(node))))
