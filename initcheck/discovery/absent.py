"""Models that cannot even be recognised as such, because what they derive from is not installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import ModuleType

from initcheck.discovery.placeholders import Placeholder
from initcheck.findings import Location
from initcheck.source.file import SourceFile


def absent_bases(source: SourceFile, module: ModuleType) -> Iterator[tuple[str, Location, str]]:
    """Classes with a ``forward`` whose base is not there: (name, where, why); nobody knows if they are models."""
    for node in source.tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        if not any(isinstance(part, ast.FunctionDef) and part.name == "forward" for part in node.body):
            continue
        for base in node.bases:
            root = base
            while isinstance(root, ast.Attribute):
                root = root.value
            value = vars(module).get(root.id) if isinstance(root, ast.Name) else None
            if isinstance(value, Placeholder):
                reason = vars(value)["_reason"]
                yield node.name, source.location(node), f"its base class {ast.unparse(base)} is not available: {reason}"
                break
