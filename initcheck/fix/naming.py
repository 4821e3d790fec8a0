"""How a file names ``torch.nn.init``, and what must be imported where it has no name for it yet."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from initcheck.fix.errors import EditError
from initcheck.source.file import SourceFile

_INIT = "torch.nn.init"
# Tried in turn for a file that names neither: (statement, name it binds, what the name stands for).
_NEW_IMPORTS = (
    ("from torch import nn", "nn", "torch.nn"),
    ("from torch.nn import init", "init", "torch.nn.init"),
    ("import torch.nn as torch_nn", "torch_nn", "torch.nn"),
)


@dataclass(slots=True)
class Names:
    """Spells full names as the file does, and collects what must be imported on top.

    ``statements``: imports to add. ``extended``: bare imports to add beside an old one (old name to new names);
    ``renamed``: bare imports whose old name is no longer used.
    """

    source: SourceFile
    statements: list[str] = field(default_factory=list)
    extended: dict[str, set[str]] = field(default_factory=dict)

    def spell(self, name: str, near: ast.expr | None) -> str:
        """``name`` as code at ``near`` can write it; adds an import if there is no other way.

        Raises:
            EditError: if every name that could be imported already means something else in this file.
        """
        spelled = self.source.imports.spell(name, near)
        if spelled is not None:
            return spelled
        if not name.startswith("torch."):
            module = name.partition(".")[0]
            if self.source.imports.is_bound(module):
                raise EditError(f"the name {module!r} is taken in this file")
            self._add(f"import {module}")
            return name
        for statement, bound, meaning in _NEW_IMPORTS:
            if name.startswith(f"{meaning}.") and not self.source.imports.is_bound(bound):
                self._add(statement)
                return bound + name[len(meaning) :]
        raise EditError(f"there is no free name to import {name} by")

    def used(self) -> set[str]:
        """Names that mean something anywhere in the file."""
        names = (getattr(node, "id", None) or getattr(node, "arg", None) for node in ast.walk(self.source.tree))
        return {name for name in names if isinstance(name, str)}

    def replacement(self, function: ast.expr, new: str) -> str:
        """How to write ``torch.nn.init.<new>`` where ``function`` stands, in the manner of ``function``."""
        if isinstance(function, ast.Attribute):
            base = ast.get_source_segment(self.source.text, function.value)
            if base is not None and self.source.imports.resolve(function.value) == _INIT:
                return f"{base}.{new}"
        spelled = self.source.imports.spell(f"{_INIT}.{new}", function)
        if isinstance(function, ast.Name) and self._is_bare_import(function.id):
            if spelled is not None and "." not in spelled:
                return spelled
            if self.source.imports.is_bound(new):
                raise EditError(f"the name {new!r} is taken in this file")
            self.extended.setdefault(function.id, set()).add(new)
            return new
        return self.spell(f"{_INIT}.{new}", function)

    def _add(self, statement: str) -> None:
        if statement not in self.statements:
            self.statements.append(statement)

    def _is_bare_import(self, name: str) -> bool:
        return any(
            isinstance(node, ast.ImportFrom)
            and node.module == _INIT
            and any((alias.asname or alias.name) == name for alias in node.names)
            for node in ast.walk(self.source.tree)
        )
