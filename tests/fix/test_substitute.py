"""Edits of plain text: exact ranges, whole lines, any line ending; overlaps are refused."""

from __future__ import annotations

import pytest

from initcheck.findings import Location, RewriteCall, Substitute
from initcheck.fix.apply import apply_edits
from initcheck.fix.errors import EditError


def at(line: int, column: int, end_line: int, end_column: int) -> Location:
    return Location("m.py", line, column, end_line, end_column)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ranges_and_nothing_else_change(newline: str) -> None:
    text = newline.join(["é = 'a' or b", "if x:", "    pass", ""])
    edits = [Substitute(at(1, 5, 1, 8), '"c"'), Substitute(at(2, 4, 2, 5), "y == 1")]
    assert apply_edits(text, "m.py", edits) == newline.join(['é = "c" or b', "if y == 1:", "    pass", ""])


def test_an_empty_text_removes_the_line() -> None:
    assert apply_edits("a = 1\nf(a)  # why\nb = 2\n", "m.py", [Substitute(at(2, 1, 2, 5), "")]) == "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    "edits",
    [
        [Substitute(at(1, 1, 1, 6), "x"), Substitute(at(1, 3, 1, 8), "y")],
        [Substitute(at(1, 1, 1, 6), "")],
        [Substitute(at(9, 1, 9, 2), "x")],
        [Substitute(at(1, 1, 1, 2), "(")],
        [Substitute(at(1, 1, 1, 2), "c"), RewriteCall(at(1, 8, 1, 13), "zeros_", ())],
    ],
    ids=["overlap", "shared line", "no such line", "would not parse", "beside a rewritten call"],
)
def test_refused(edits: list[Substitute | RewriteCall]) -> None:
    with pytest.raises(EditError):
        apply_edits("a = 1; f(a)\n", "m.py", edits)
