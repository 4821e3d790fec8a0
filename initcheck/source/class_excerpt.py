"""One class out of a file: its own lines only are parsed, a tenth of the file's.

A class is found by its header's text, and only where that is sure to be the class meant: one header of that name in the
file, at the left margin, with a function of the class among the lines below it.
"""

from __future__ import annotations

import functools
import re
import types
from dataclasses import dataclass
from pathlib import Path

from initcheck.findings import Location
from initcheck.source.decoding import SourceError, decode
from initcheck.source.file import SourceFile
from initcheck.source.notebook import is_notebook

_AFTER = re.compile(r"^[^\s#)\]}]", re.MULTILINE)
"""What begins a statement at the left margin: it ends a class (if it stands in a string, parsing fails)."""


@dataclass(frozen=True)
class ClassExcerpt:
    """The lines of one class, numbered as in its file."""

    path: str
    name: str
    line: int
    """Of the header."""
    lines: str = ""

    @property
    def location(self) -> Location:
        """As ``SourceFile.class_location`` says."""
        return Location(self.path, self.line, 1, self.line, 1 + len("class ") + len(self.name))

    @functools.cached_property
    def source(self) -> SourceFile | None:
        """The file with nothing but this class in it; None if its lines alone do not make one."""
        try:
            return SourceFile.parse(self.path, "\n" * (self.line - 1) + self.lines)
        except SourceError:
            return None


def class_excerpt(cls: type, path: str) -> ClassExcerpt | None:
    """The excerpt of a class that is defined in the file at ``path``; None where its place is not sure."""
    name = cls.__qualname__
    text = _text(path)
    if not name.isidentifier() or text is None:
        return None
    start = header(text, name)
    if start is None:
        return None
    after = _AFTER.search(text, text.index("\n", start) + 1 if "\n" in text[start:] else len(text))
    lines = text[start : after.start() if after else len(text)]
    line = text.count("\n", 0, start) + 1
    excerpt = ClassExcerpt(path, name, line, lines)
    return excerpt if _holds_function(cls, path, line, line + lines.count("\n")) else None


def is_defined(name: str, path: str) -> bool:
    """Whether the file seems to hold a class of that name, anywhere."""
    text = _text(path)
    return text is None or bool(_headers(text, name))


def header(text: str, name: str) -> int | None:
    """Where the only header of that name begins; None if there are several, or it is indented."""
    found = _headers(text, name)
    return found[0] if len(found) == 1 and (found[0] == 0 or text[found[0] - 1] == "\n") else None


def _headers(text: str, name: str) -> list[int]:
    starts = (match.start() for match in re.finditer(rf"class[ \t]+{re.escape(name)}\b", text))
    return [start for start in starts if not text[text.rfind("\n", 0, start) + 1 : start].strip()]


def _holds_function(cls: type, path: str, first: int, last: int) -> bool:
    for key, value in vars(cls).items():
        if isinstance(value, types.FunctionType) and value.__qualname__ == f"{cls.__qualname__}.{key}":
            code = value.__code__
            if code.co_filename == path and first < code.co_firstlineno <= last:
                return True
    return False


@functools.lru_cache(maxsize=256)
def _text(path: str) -> str | None:
    """A file's text; None if it cannot be read, or lines end in anything but a line feed."""
    try:
        text = decode(Path(path).read_bytes()).text if not is_notebook(path) else "\r"
    except (OSError, SourceError):
        return None
    return None if "\r" in text or "\f" in text else text
