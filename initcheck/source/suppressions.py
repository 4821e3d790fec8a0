"""``# noqa`` comments: which findings they silence, and which of them silence nothing (IC004)."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from initcheck.source.decoding import split_lines

_CODES = r"[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*"
_NOQA = re.compile(rf"#\s*(?P<file>initcheck\s*:\s*)?noqa\b(?:\s*:\s*(?P<codes>{_CODES})\b)?", re.IGNORECASE)
_OWN_CODE = re.compile(r"IC[0-9]+")


@dataclass(frozen=True, slots=True)
class Suppression:
    """One comment. ``codes``: initcheck's own codes or prefixes named in it; ``bare``: no codes at all, so all.

    ``first``/``last``: the lines it covers; a file-level comment covers every line.
    """

    line: int
    column: int
    end_column: int
    codes: tuple[str, ...]
    bare: bool
    first: int
    last: int
    file_level: bool = False

    def covers(self, line: int, code: str) -> bool:
        """Whether a finding of ``code`` at ``line`` is silenced."""
        if not (self.file_level or self.first <= line <= self.last):
            return False
        return self.bare or code.startswith(self.codes)


@dataclass(frozen=True, slots=True)
class UnusedSuppression:
    """A comment of which ``codes`` silence nothing. The range is the comment's."""

    line: int
    column: int
    end_column: int
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suppressions:
    """All of a file's comments, in order."""

    comments: tuple[Suppression, ...] = ()

    @classmethod
    def read(cls, text: str) -> Suppressions:
        """Find the comments of ``text`` (strings that contain "noqa" do not count)."""
        if "noqa" not in text.lower() or not any(_is_ours(match) for match in _NOQA.finditer(text)):
            return cls()
        return cls(tuple(_read(text)))

    def is_suppressed(self, line: int, code: str) -> bool:
        """Whether a comment silences ``code`` at ``line``.

        A comment silences its own line; on the last line of a statement, all lines of that statement.
        """
        return any(comment.covers(line, code) for comment in self.comments)

    def unused(self, found: Iterable[tuple[int, str]], unjudged: Collection[str] = ()) -> list[UnusedSuppression]:
        """Comments that silence none of the findings ``found`` (line, code).

        Only initcheck's own codes are judged: a bare ``# noqa`` may be meant for another linter.

        Args:
            found: every finding of the file, silenced or not.
            unjudged: codes that could not be found in this run (their model was not analysed), so nothing is known.
        """
        findings = list(found)
        unused = []
        for comment in self.comments:
            idle = tuple(
                code
                for code in comment.codes
                if not any(other.startswith(code) and comment.covers(line, other) for line, other in findings)
                and not any(other.startswith(code) for other in unjudged)
            )
            if idle:
                unused.append(UnusedSuppression(comment.line, comment.column, comment.end_column, idle))
        return unused


def _is_ours(match: re.Match[str]) -> bool:
    """Whether a comment may silence something of ours: it names no codes, or one of initcheck's."""
    return match["codes"] is None or _OWN_CODE.search(match["codes"].upper()) is not None


def _read(text: str) -> Iterable[Suppression]:
    source = "\n".join(split_lines(text)) + "\n"
    comments: list[tuple[tokenize.TokenInfo, int]] = []  # with the first line of the statement they stand in
    start = 0
    ends: dict[int, int] = {}  # first line of a statement -> its last
    skipped = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments.append((token, start or token.start[0]))
            elif token.type == tokenize.NEWLINE:
                ends[start] = token.start[0]
                start = 0
            elif token.type not in skipped and not start:
                start = token.start[0]
    except (tokenize.TokenError, SyntaxError):  # the parser took it, the tokeniser did not: keep what was read
        pass
    for token, first in comments:
        line = token.start[0]
        whole = ends.get(first, line) == line
        yield from _parse(token, first if whole else line)


def _parse(token: tokenize.TokenInfo, first: int) -> Iterable[Suppression]:
    line, column = token.start
    for match in _NOQA.finditer(token.string):
        codes = tuple(code.upper() for code in re.split(r"[,\s]+", match["codes"] or "") if code)
        yield Suppression(
            line=line,
            column=column + match.start() + 1,
            end_column=column + match.end() + 1,
            codes=tuple(code for code in codes if _OWN_CODE.fullmatch(code)),
            bare=not codes,
            first=first,
            last=line,
            file_level=match["file"] is not None,
        )
