"""Edits of plain text: a range becomes another text, and everything else keeps every byte."""

from __future__ import annotations

import re
from collections.abc import Sequence

from initcheck.findings import Location, Substitute
from initcheck.fix.errors import EditError
from initcheck.source.file import SourceFile

_LINE_END = re.compile(r"\r\n|\r|\n")


def substituted(source: SourceFile, edits: Sequence[Substitute]) -> str:
    """The file's text with every edit made.

    Raises:
        EditError: two edits overlap, or one has no range in this text.
    """
    text = source.text
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    spans = sorted((*_span(edit, text, starts), edit) for edit in edits)
    pieces: list[str] = []
    done = 0
    for begin, end, edit in spans:
        if begin < done:
            raise EditError("it overlaps another fix", edit)
        pieces += [text[done:begin], edit.text]
        done = end
    return "".join([*pieces, text[done:]])


def _span(edit: Substitute, text: str, starts: Sequence[int]) -> tuple[int, int]:
    where = edit.location
    if not 1 <= where.line <= where.end_line <= len(starts):
        raise EditError("its place is not known exactly", edit)
    begin = starts[where.line - 1] + where.column - 1
    end = starts[where.end_line - 1] + where.end_column - 1
    if edit.text:
        return begin, end
    return _whole_lines(text, where, starts, begin, end, edit)


def _whole_lines(
    text: str, where: Location, starts: Sequence[int], begin: int, end: int, edit: Substitute
) -> tuple[int, int]:
    """The lines of a statement that is removed: it must have them for itself."""
    first = starts[where.line - 1]
    last = starts[where.end_line] if where.end_line < len(starts) else len(text)
    behind = text[end:last].strip()
    if text[first:begin].strip() or (behind and not behind.startswith("#")):
        raise EditError("the line holds more than what is to be removed", edit)
    return first, last
