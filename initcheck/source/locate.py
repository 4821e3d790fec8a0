"""Find classes and the statements that set their attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from initcheck.source.statements import below

_REGISTERING = frozenset({"add_module", "register_module", "register_parameter", "register_buffer"})


Classes = Sequence[tuple[str, ast.ClassDef]]
"""A file's classes, each with its dotted name (functions do not count as a level), outer before inner."""


def find_class(known: Classes, name: str) -> ast.ClassDef | None:
    """The class of that dotted name, else the one whose last part is that name; the last definition wins."""
    name = name.replace(".<locals>", "")
    exact: ast.ClassDef | None = None
    loose: ast.ClassDef | None = None
    for dotted, node in known:
        if dotted == name:
            exact = node
        elif node.name == name.rpartition(".")[2]:
            loose = node
    return exact or loose


def attribute_assignment(known: Classes, class_name: str, attribute: str) -> ast.stmt | None:
    """The statement that sets ``self.<attribute>`` in the class, else in its bases of the same file."""
    by_name = {node.name: node for _, node in known}
    start = find_class(known, class_name)
    queue = [start] if start is not None else []
    seen: set[str] = set()
    while queue:
        node = queue.pop(0)
        if node.name in seen:
            continue
        seen.add(node.name)
        found = _in_class(node, attribute)
        if found is not None:
            return found
        queue += [by_name[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in by_name]
    return None


def _in_class(node: ast.ClassDef, attribute: str) -> ast.stmt | None:
    """Where ``__init__`` sets it, else where any other method does."""
    methods = [item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
    methods.sort(key=lambda method: method.name != "__init__")
    for method in methods:
        arguments = [*method.args.posonlyargs, *method.args.args]
        if not arguments:
            continue
        for statement in _statements(method):
            if _sets(statement, arguments[0].arg, attribute):
                return statement
    return None


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    for child in below(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _sets(statement: ast.stmt, self_name: str, attribute: str) -> bool:
    if isinstance(statement, ast.Assign):
        return any(_is_attribute(target, self_name, attribute) for target in statement.targets)
    if isinstance(statement, ast.AnnAssign):
        return statement.value is not None and _is_attribute(statement.target, self_name, attribute)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _registers(statement.value, self_name, attribute)
    return False


def _is_attribute(target: ast.expr, self_name: str, attribute: str) -> bool:
    if isinstance(target, (ast.Tuple, ast.List)):
        return any(_is_attribute(item, self_name, attribute) for item in target.elts)
    return (
        isinstance(target, ast.Attribute)
        and target.attr == attribute
        and isinstance(target.value, ast.Name)
        and target.value.id == self_name
    )


def _registers(call: ast.Call, self_name: str, attribute: str) -> bool:
    """``self.add_module("x", ...)``, ``self.register_parameter("x", ...)`` or ``setattr(self, "x", ...)``."""

    def is_name(node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and node.value == attribute

    def is_self(node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self_name

    function, args = call.func, call.args
    if isinstance(function, ast.Attribute) and function.attr in _REGISTERING:
        return is_self(function.value) and bool(args) and is_name(args[0])
    if isinstance(function, ast.Name) and function.id == "setattr":
        return len(args) == 3 and is_self(args[0]) and is_name(args[1])
    return False
