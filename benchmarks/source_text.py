"""A source file as text and tree: nodes written anew, statements moved, put in and taken out."""

from __future__ import annotations

import ast
from collections.abc import Iterator


class Text:
    """A source file: its text, its tree, and replacement by node."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._bytes = text.encode()
        self._starts = [0]
        for line in self._bytes.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def of(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._bytes[start:end].decode()

    def with_(self, *changes: tuple[ast.AST, str]) -> str:
        """The text with these nodes written anew."""
        out = self._bytes
        for node, new in sorted(changes, key=lambda c: -self._span(c[0])[0]):
            start, end = self._span(node)
            out = out[:start] + new.encode() + out[end:]
        return out.decode()

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def walk(self, kind: type) -> Iterator[ast.AST]:
        """Nodes of one type in the order of the text."""
        found = (n for n in ast.walk(self.tree) if isinstance(n, kind))
        return iter(sorted(found, key=lambda n: (n.lineno, n.col_offset)))  # type: ignore[attr-defined]

    def moved(self, statement: ast.stmt, before: ast.stmt) -> str:
        """The text with a whole statement taken out and put before another one of the same block."""
        lines = self.text.splitlines(keepends=True)
        assert statement.end_lineno is not None
        first, last = statement.lineno - 1, statement.end_lineno
        block = lines[first:last]
        rest = lines[:first] + lines[last:]
        at = before.lineno - 1
        return "".join(rest[:at] + block + rest[at:])

    def inserted(self, line: str, before: ast.stmt) -> str:
        """The text with a line more, indented like the statement that it comes before."""
        lines = self.text.splitlines(keepends=True)
        at = before.lineno - 1
        return "".join([*lines[:at], " " * before.col_offset + line + "\n", *lines[at:]])

    def without(self, statement: ast.stmt) -> str:
        """The text with ``pass`` in place of a statement."""
        return self.with_((statement, "pass"))
