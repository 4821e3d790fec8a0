"""The manner of a file: its quotes, and source text of ours brought into it."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass

import libcst as cst

from initcheck.source.decoding import split_lines

_SIMPLE = re.compile(r"[\w .,:/+-]*")


def preferred_quote(text: str) -> str:
    """The quote that most one-line strings of a file use; ``"`` if they are as many."""
    single = double = 0
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO("\n".join(split_lines(text))).readline):
            if token.type == tokenize.STRING and not token.string.endswith(("'''", '"""')):
                single += token.string.endswith("'")
                double += token.string.endswith('"')
    return "'" if single > double else '"'


@dataclass(frozen=True, slots=True)
class Style:
    """Turns source text of an edit into nodes, with the file's quotes and the file's names for modules."""

    quote: str
    spell: Callable[[str, ast.expr | None], str]

    def expression(self, text: str, near: ast.expr | None) -> cst.BaseExpression:
        """Parse ``text``; ``nn.``, ``torch.`` and ``math.`` in it become what the file calls these modules.

        Raises:
            libcst.ParserSyntaxError: if ``text`` is not an expression (a defect of the rule that wrote it).
        """
        tree = cst.parse_expression(text)
        result = tree.visit(_Adapt(self, near))
        assert isinstance(result, cst.BaseExpression)
        return result


_FULL_NAMES = {"nn": "torch.nn", "torch": "torch", "math": "math", "init": "torch.nn.init"}


class _Adapt(cst.CSTTransformer):
    def __init__(self, style: Style, near: ast.expr | None) -> None:
        super().__init__()
        self.style = style
        self.near = near

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        return False  # replaced as a whole, or not at all

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        parts: list[str] = []
        node: cst.BaseExpression = original_node
        while isinstance(node, cst.Attribute):
            parts.append(node.attr.value)
            node = node.value
        if not isinstance(node, cst.Name) or node.value not in _FULL_NAMES:
            return updated_node
        full = ".".join([_FULL_NAMES[node.value], *reversed(parts)])
        return cst.parse_expression(self.style.spell(full, self.near))

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.SimpleString:
        content = updated_node.raw_value
        if updated_node.prefix or not _SIMPLE.fullmatch(content):
            return updated_node
        return updated_node.with_changes(value=f"{self.style.quote}{content}{self.style.quote}")
