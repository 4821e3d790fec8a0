"""Jupyter notebooks as one module: the code cells one after another, and the way back from lines to cells. No torch."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initcheck.findings import Location
from initcheck.places import mapped
from initcheck.source.decoding import Decoded, SourceError, split_lines

SUFFIX = ".ipynb"

_MAGIC = re.compile(r"^\s*(?:%|!|\?)|^\s*[\w.]+\?{1,2}\s*$|^\s*[\w, ]+=\s*[%!]")
"""``%matplotlib inline``, ``!pip install x``, ``?print``, ``print?``, ``files = !ls``, ``x = %timeit``."""
_CELL_MAGIC = re.compile(r"^\s*%%(\w+)")
_PYTHON_CELLS = frozenset({"time", "timeit", "capture", "prun"})
"""Cell magics whose body is Python that runs here; that of any other (``%%bash``, ``%%html``) is not."""
_OPENING = "([{"
_CLOSING = ")]}"


def is_notebook(path: str | Path) -> bool:
    """Whether a path names a notebook."""
    return str(path).endswith(SUFFIX)


@dataclass(frozen=True, slots=True)
class Notebook:
    """``text``: its code as one module. ``starts``: the line of that text where each code cell begins.

    ``cells``: the number of each of these cells among all cells, from 1, as Jupyter counts them.
    """

    text: str
    starts: tuple[int, ...]
    cells: tuple[int, ...]
    sources: tuple[str, ...]

    @classmethod
    def parse(cls, raw: str) -> Notebook:
        """Read a notebook (format 3 or 4).

        Raises:
            SourceError: if it is no notebook, or its kernel does not run Python.
        """
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise SourceError(f"not a Jupyter notebook: {error}") from None
        if not isinstance(data, dict) or not isinstance(_cells(data), list):
            raise SourceError("not a Jupyter notebook: it has no cells")
        language = _language(data)
        if language not in ("", "python", "python3", "ipython"):
            raise SourceError(f"a notebook in {language}, not in Python")
        starts, numbers, sources = [], [], []
        lines: list[str] = []
        for number, cell in enumerate(_cells(data), start=1):
            if not isinstance(cell, dict) or cell.get("cell_type") != "code":
                continue
            source = cell.get("source", cell.get("input", ""))
            text = "".join(source) if isinstance(source, list) else str(source)
            starts.append(len(lines) + 1)
            numbers.append(number)
            sources.append(text)
            lines += _as_python(split_lines(text))
        return cls("\n".join(lines) + "\n", tuple(starts), tuple(numbers), tuple(sources))

    def locate(self, line: int) -> tuple[int, int]:
        """(number of the cell, line in it) of a line of ``text``."""
        if not self.starts:
            return 0, line
        index = max(bisect_right(self.starts, line) - 1, 0)
        return self.cells[index], line - self.starts[index] + 1

    def source_of(self, cell: int) -> str:
        """The text of a code cell, by its number."""
        return self.sources[self.cells.index(cell)]

    def in_cells(self, location: Location) -> Location:
        """A location in ``text`` as one in a cell."""
        cell, line = self.locate(location.line)
        end = line + (location.end_line - location.line) if location.end_line else 0
        return Location(location.path, line, location.column, end, location.end_column, cell)


def decode_notebook(data: bytes) -> Decoded:
    """A notebook's code as if it were the text of a Python file.

    Raises:
        SourceError: if it is no notebook.
    """
    try:
        return Decoded(Notebook.parse(data.decode("utf-8-sig")).text)
    except UnicodeDecodeError:
        raise SourceError("not a Jupyter notebook: it is not UTF-8") from None


def physical_line(location: Location) -> int:
    """The line of the ``.ipynb`` file itself that holds a cell's line; 1 where the file is not laid out by lines."""
    try:
        raw = Path(location.path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return 1
    begins = [index for index, line in enumerate(raw) if re.match(r'\s*"source"\s*:', line)]
    if not 0 < location.cell <= len(begins):
        return 1
    index = begins[location.cell - 1] + location.line
    return index + 1 if index < len(raw) and raw[index].lstrip().startswith('"') else begins[location.cell - 1] + 1


_OWN_LINE = re.compile(r"\bline (\d+)\b")


def in_cells(value: Any, path: str, notebook: Notebook) -> Any:
    """A result with its places in the notebook ``path`` by cell: locations, and what texts say of lines."""
    shown = re.compile(re.escape(path) + r":(\d+)(?=\b)|" + re.escape(Path(path).name) + r":(\d+)(?=\b)")

    def place(match: re.Match[str]) -> str:
        cell, line = notebook.locate(int(match[1] or match[2]))
        return f"{match[0].rpartition(':')[0]}:cell {cell}:{line}"

    def line(match: re.Match[str]) -> str:
        cell, line = notebook.locate(int(match[1]))
        return f"line {line} of cell {cell}"

    def text(words: str) -> str:
        return _OWN_LINE.sub(line, shown.sub(place, words))

    def at(location: Location) -> Location:
        return notebook.in_cells(location) if location.path == path and not location.cell else location

    return mapped(value, at, text)


def _cells(data: dict[str, Any]) -> Any:
    if "cells" in data:
        return data["cells"]
    sheets = data.get("worksheets")  # format 3
    return sheets[0].get("cells") if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else None


def _language(data: dict[str, Any]) -> str:
    metadata = data.get("metadata")
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        entry = metadata.get(key) if isinstance(metadata, dict) else None
        if isinstance(entry, dict) and entry.get(name):
            return str(entry[name]).lower()
    return ""


def _as_python(lines: list[str]) -> list[str]:
    """A cell's lines with ``pass`` for everything that is no Python, so that lines keep their numbers."""
    first = next((line for line in lines if line.strip()), "")
    cell_magic = _CELL_MAGIC.match(first)
    if cell_magic is not None and cell_magic[1] not in _PYTHON_CELLS:
        return [f"# {line}" for line in lines]
    python: list[str] = []
    continued = False
    for line in lines:
        if continued:
            python.append(f"# {line.strip()}")
        elif _MAGIC.match(line) is not None and not _inside_brackets(python):
            python.append(f"{line[: len(line) - len(line.lstrip())]}pass  # {line.strip()}")
            continued = True
        else:
            python.append(line)
        continued = continued and line.rstrip().endswith("\\")
    return python


def _inside_brackets(lines: list[str]) -> bool:
    """Roughly: whether an expression is still open, so that a leading ``%`` is an operator."""
    depth = 0
    for line in lines:
        code = re.sub(r"(\"[^\"]*\"|'[^']*'|#.*)", "", line)
        depth += sum(code.count(sign) for sign in _OPENING) - sum(code.count(sign) for sign in _CLOSING)
    return depth > 0
