"""Models that cannot even be recognised as such: their definition failed, or what they derive from is not there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import ModuleType

from initcheck.discovery.placeholders import Placeholder
from initcheck.findings import Location
from initcheck.source.file import SourceFile


def absent_models(source: SourceFile, module: ModuleType) -> Iterator[tuple[str, Location, str]]:
    """Classes with a ``forward`` that may be models, though nobody can tell: (name, where, why)."""
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        if not any(isinstance(part, ast.FunctionDef) and part.name == "forward" for part in node.body):
            continue
        reason = _why_absent(node, module)
        if reason is not None:
            yield node.name, source.location(node), reason


def _why_absent(node: ast.ClassDef, module: ModuleType) -> str | None:
    made = vars(module).get(node.name)
    if isinstance(made, Placeholder):
        return f"its definition raised {vars(made)['_reason']}"
    for base in node.bases:
        root = base
        while isinstance(root, ast.Attribute):
            root = root.value
        value = vars(module).get(root.id) if isinstance(root, ast.Name) else None
        if isinstance(value, Placeholder):
            return f"its base class {ast.unparse(base)} is not available: {vars(value)['_reason']}"
    return None
