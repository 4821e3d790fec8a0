"""IC801: ``nn.init.xavier_uniform`` and the ten other names without an underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, RewriteCall
from initcheck.rules.base import finding
from initcheck.source.imports import may_name
from initcheck.source.torch_names import DEPRECATED_INITIALISERS

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC801"
_OLD = {f"torch.nn.init.{name}": name for name in DEPRECATED_INITIALISERS}


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Every call of, or reference to, an old name; an import of one only where nothing in the file uses it."""
    if not may_name(source.text, "torch.nn.init", DEPRECATED_INITIALISERS):
        return
    used: set[str] = set()
    for node, name in source.imports.references(*DEPRECATED_INITIALISERS):
        if name in _OLD and isinstance(getattr(node, "ctx", None), ast.Load):
            used.add(name)
            yield _finding(source, node, _OLD[name], ast.unparse(node))
    for statement in source.tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "torch.nn.init" and not statement.level:
            for alias in statement.names:
                if f"torch.nn.init.{alias.name}" in set(_OLD) - used:
                    yield _finding(source, alias, alias.name, alias.name)


def _finding(source: SourceFile, node: ast.expr | ast.alias, old: str, written: str) -> Finding:
    new = f"{old}_"
    where = source.location(node)
    prefix = written.rpartition(".")[0]
    suggestion = f"{prefix}.{new}" if prefix else new
    return finding(
        CODE,
        f"`{written}` is deprecated and warns on every call: the name is `{new}`",
        where,
        suggestion=suggestion,
        fix=Fix(f"rename to {new}", (RewriteCall(where, new),), safe=True),
    )
