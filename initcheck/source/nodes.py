"""What a node holds, as ``ast.iter_child_nodes`` has it, but without what holds nothing: contexts and operators."""

from __future__ import annotations

import ast

from initcheck.source.torch_names import words

_NO_NODES = frozenset(
    words("ctx op ops id attr arg name asname module level conversion kind type_comment simple is_async")
)
"""Fields that hold text or numbers, a context or an operator."""


class _Fields(dict[type, tuple[str, ...]]):
    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        fields = () if kind is ast.Constant else tuple(name for name in kind._fields if name not in _NO_NODES)
        self[kind] = fields
        return fields


FIELDS = _Fields()
"""By class of node, the names of the fields that may hold nodes."""


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right inside one, in source order."""
    held: list[ast.AST] = []
    for name in FIELDS[node.__class__]:
        value = getattr(node, name, None)
        if value.__class__ is list:
            held += [each for each in value if isinstance(each, ast.AST)]
        elif isinstance(value, ast.AST):
            held.append(value)
    return held
