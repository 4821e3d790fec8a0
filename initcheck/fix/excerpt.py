"""The part of a file that edits touch: LibCST sees whole top-level statements, the rest stays as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass

import libcst as cst

from initcheck.fix.errors import EditError
from initcheck.source.decoding import split_lines
from initcheck.source.file import SourceFile

_END = "...\n"
_FIRST_INDENT = re.compile(r":[^\r\n]*(?:\r\n|\r|\n)([ \t]+)[^\s#]")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """``body`` stands between ``before`` and ``after``; its first line is line ``offset + 1`` of the file.

    Two things LibCST does not give back as they were: lone carriage returns as line ends (they become line feeds for a
    while), and blanks at the end of its input (one more statement follows them).
    """

    before: str
    body: str
    after: str
    offset: int
    indent: str
    newline: str

    @classmethod
    def around(cls, source: SourceFile, lines: Collection[int]) -> Excerpt:
        """The top-level statements that hold ``lines``, and all between them."""
        bounds = [_bounds(statement) for statement in source.tree.body]
        touched = [(first, last) for first, last in bounds if any(first <= line <= last for line in lines)]
        return cls.of(source.text, touched[0][0], touched[-1][1]) if touched else cls.of(source.text, 1, 0)

    @classmethod
    def of(cls, text: str, first: int, last: int) -> Excerpt:
        """Lines ``first`` to ``last`` of ``text``."""
        ends = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]
        start, end = ends[first - 1], ends[min(last, len(ends) - 1)]
        newline = _LINE_END.search(text)
        indent = _FIRST_INDENT.search(text)
        return cls(
            text[:start],
            text[start:end],
            text[end:],
            first - 1,
            indent[1] if indent else "    ",
            newline[0] if newline else "\n",
        )

    def parse(self) -> cst.Module:
        """The excerpt as a module of its own.

        Raises:
            EditError: LibCST cannot parse it, or would not reproduce it.
        """
        code = self.body.replace("\r", "\n") if self.newline == "\r" else self.body
        newline = "\n" if self.newline == "\r" else self.newline
        code += ("" if code.endswith("\n") else newline) + _END
        config: cst.PartialParserConfig = cst.PartialParserConfig(default_indent=self.indent, default_newline=newline)
        try:
            module = cst.parse_module(code, config)
        except cst.ParserSyntaxError as error:
            raise EditError(f"LibCST cannot parse the file: {error.message}") from None
        if module.code != code:
            raise EditError("LibCST does not reproduce the file byte for byte")
        return module

    def restore(self, module: cst.Module) -> str:
        """The whole file with ``module`` in the place of the excerpt."""
        code = module.code.removesuffix(_END)
        if not self.body.endswith(("\n", "\r")):
            code = code.removesuffix("\n").removesuffix("\r")
        code = code.replace("\n", "\r") if self.newline == "\r" else code
        return self.before + code + self.after


def whole(text: str) -> Excerpt:
    """All of a file."""
    return Excerpt.of(text, 1, len(split_lines(text)))


def _bounds(statement: ast.stmt) -> tuple[int, int]:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    return first, statement.end_lineno or statement.lineno
