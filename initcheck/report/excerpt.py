"""Source lines with carets under a range, and text broken to a width; made safe for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len
from rich.text import Text

from initcheck.findings import Location

_TAB = "    "
_NARROWEST = 20
_GUTTER = " | "
_CONTEXT = 12  # characters shown before a range where the line is cut


def printable(text: str) -> str:
    """Without control characters: what comes from user code must not steer the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else _TAB if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def excerpt(location: Location, sources: Mapping[str, str], width: int, style: str) -> list[Text]:
    """The source line with carets under the range; cut around it where the line is too long for the terminal."""
    lines = sources.get(location.file, "").splitlines()
    if not 0 < location.line <= len(lines):
        return []
    raw = lines[location.line - 1].rstrip()
    if not raw:
        return []
    start = min(max(location.column - 1, 0), len(raw))
    if location.end_line > location.line:
        end = len(raw)
    else:
        end = min(max(location.end_column - 1, start + 1), max(len(raw), start + 1))
    before, marked = printable(raw[:start]), printable(raw[start:end])
    text = before + marked + printable(raw[end:])
    offset, length = cell_len(before), max(cell_len(marked), 1)
    label = str(location.line)
    room = max(width - len(label) - len(_GUTTER), _NARROWEST) if width else 0
    if room and cell_len(text) > room:
        text, offset, length = _cut(text, len(before), len(marked), room)
    blank = " " * len(label)
    return [
        Text.assemble((label + _GUTTER, "blue"), text),
        Text.assemble((blank + _GUTTER, "blue"), " " * offset, ("^" * length, style)),
    ]


def _cut(text: str, start: int, length: int, room: int) -> tuple[str, int, int]:
    """A window of ``text`` of at most ``room`` cells that shows the range's beginning.

    ``start`` and ``length`` count characters. Returns the window, and the range's offset and length in it, in cells.
    """
    first = 0 if start + length < room else max(0, start - _CONTEXT)
    if not text[:first].strip():
        first = 0  # only indentation would go
    window = ("…" if first else "") + text[first:]
    start += (1 if first else 0) - first
    marked = window[start : start + length]
    if cell_len(window) > room:
        while cell_len(window) > room - 1:
            window = window[:-1]
        window += "…"
    offset = cell_len(window[:start])
    return window, offset, max(1, min(cell_len(marked), cell_len(window) - offset))


def wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Lines of at most ``width`` cells (0: no limit), broken at spaces only, all but the first indented."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = " " * indent if lines else ""
        empty = True
        for word in paragraph.split(" "):
            if not empty and width and cell_len(line) + 1 + cell_len(word) > width:
                lines.append(line)
                line, empty = " " * indent + word, False
            else:
                line, empty = (line + word if empty else f"{line} {word}"), False
        lines.append(line)
    return lines


def folded(line: Text, width: int, keep: int = 0, indent: int = 4) -> list[Text]:
    """``line`` in pieces of at most ``width`` cells (0: no limit), broken at spaces, all but the first indented.

    The first ``keep`` characters (a path) are not broken.
    """
    parts = wrapped("x" * keep + line.plain[keep:], width, indent)
    pieces: list[Text] = []
    start = 0
    for part in parts:
        length = len(part) - (indent if pieces else 0)
        piece = line[start : start + length]
        pieces.append(Text.assemble(" " * indent, piece) if pieces else piece)
        start += length + 1  # the space at the break
    return pieces
