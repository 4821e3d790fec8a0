"""One Python file as every other room sees it: text, tree, imports, suppressions, positions. No torch."""

from __future__ import annotations

import ast
import functools
import re
import symtable
import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from initcheck.collector import collector_paused
from initcheck.findings import Location
from initcheck.source import locate
from initcheck.source.decoding import NULL_BYTE, Decoded, SourceError, decode, split_lines
from initcheck.source.imports import Imports
from initcheck.source.modules import can_hold_modules
from initcheck.source.notebook import decode_notebook, is_notebook
from initcheck.source.suppressions import Suppressions
from initcheck.source.survey import Survey

__all__ = ["SourceError", "SourceFile", "once"]

_CLASS = re.compile(r"class[\s\\]+\w+[\s\\]*[(:\[]")
F = TypeVar("F", bound=Callable[..., Any])
_GLOBAL_LOCK = threading.Lock()  # warnings.catch_warnings and the garbage collector's switch are global state


@dataclass(frozen=True)
class SourceFile:
    """A parsed file. ``text`` keeps its line endings; ``decoded`` knows how to write it back.

    A notebook's text is that of its code cells, one after another.
    """

    path: str
    decoded: Decoded
    memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What readers of the file share: an analysis that several of them need is made once, and goes with the file."""

    @classmethod
    def read(cls, path: str | Path) -> SourceFile:
        """Read and parse a file.

        Raises:
            SourceError: if it is not Python 3 source text.
            OSError: if it cannot be read at all.
        """
        source = cls.opened(path)
        return cls.parsed(source.path, source.tree, source.decoded)

    @classmethod
    def opened(cls, path: str | Path) -> SourceFile:
        """Read a file, to be parsed when its tree is asked for; ``require_syntax`` tells whether it can be.

        Raises:
            SourceError: if it is no text.
            OSError: if it cannot be read at all.
        """
        data = Path(path).read_bytes()
        return cls(str(path), decode_notebook(data) if is_notebook(path) else decode(data))

    @classmethod
    def parse(cls, path: str | Path, text: str) -> SourceFile:
        """Parse ``text`` as if it were the content of ``path`` (which need not exist).

        Raises:
            SourceError: if it is not Python 3 source text.
        """
        decoded = Decoded(text.removeprefix("\ufeff"), bom=text.startswith("\ufeff"))
        return cls.parsed(path, _parse(decoded.text), decoded)

    @classmethod
    def parsed(cls, path: str | Path, tree: ast.Module, decoded: Decoded) -> SourceFile:
        """A file whose tree someone else has made."""
        source = cls(str(path), decoded)
        source.__dict__["tree"] = tree
        return source

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The parsed text.

        Raises:
            SourceError: if it is not Python 3 source text.
        """
        return _parse(self.text)

    def require_syntax(self) -> None:
        """Parse the file if nobody has; without making a tree, which is a third cheaper, where it is sound.

        Raises:
            SourceError: if it is not Python 3 source text.
        """
        if "tree" not in self.__dict__ and not _is_sound(self.text):
            _parse(self.text)

    @property
    def text(self) -> str:
        """The decoded text, without a byte order mark."""
        return self.decoded.text

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends; ``lines[0]`` is line 1."""
        return split_lines(self.text)

    @functools.cached_property
    def imports(self) -> Imports:
        """What the file's names stand for; ``imports.resolve(expression)``."""
        return Imports(self.survey)

    @functools.cached_property
    def survey(self) -> Survey:
        """Scopes and bindings, and the nodes that rules look at."""
        return Survey(self.tree, self.text)

    @functools.cached_property
    def classes(self) -> locate.Classes:
        """Every class with its dotted name, outer before inner."""
        found = self.survey.near(_CLASS).classes
        named = [(".".join(owner.name for owner in (*place.classes, node)), node) for node, place in found]
        return sorted(named, key=lambda one: one[1].lineno)

    @functools.cached_property
    def suppressions(self) -> Suppressions:
        """The file's ``# noqa`` comments."""
        return Suppressions.read(self.text)

    def location(self, node: ast.expr | ast.stmt | ast.alias | ast.arg | ast.keyword) -> Location:
        """The range of a node; columns in characters from 1 (``ast`` counts UTF-8 bytes from 0)."""
        end_line = node.end_lineno or node.lineno
        end_offset = node.end_col_offset if node.end_col_offset is not None else node.col_offset
        return Location(
            self.path,
            node.lineno,
            self._column(node.lineno, node.col_offset),
            end_line,
            self._column(end_line, end_offset),
        )

    def _column(self, line: int, byte_offset: int) -> int:
        text = self.lines[line - 1]
        if text.isascii():
            return byte_offset + 1
        return len(text.encode("utf-8", "surrogatepass")[:byte_offset].decode("utf-8", "ignore")) + 1

    def mentions_modules(self) -> bool:
        """Whether the file could define or build an ``nn.Module`` at all; if not, torch need not be imported."""
        return can_hold_modules(self.path, self.classes, self.imports)

    def find_class(self, name: str) -> ast.ClassDef | None:
        """The class of that name (``Outer.Inner`` for a nested one), wherever it is defined; the last one wins."""
        return locate.find_class(self.classes, name)

    def class_location(self, name: str) -> Location | None:
        """Where the header of class ``name`` stands: ``class Name``, without decorators and body."""
        node = self.find_class(name)
        if node is None:
            return None
        start = self._column(node.lineno, node.col_offset)
        end = start + len("class ") + len(node.name)
        return Location(self.path, node.lineno, start, node.lineno, end)

    def attribute_assignment(self, class_name: str, attribute: str) -> Location | None:
        """Where ``self.<attribute> = ...`` (or ``add_module``, ``register_parameter``) stands in a class or its bases.

        Bases are followed within this file.
        """
        node = locate.attribute_assignment(self.classes, class_name, attribute)
        return None if node is None else self.location(node)


def once(analysis: F) -> F:
    """Keep what a function of a file, and of nodes in it, returns in the file's memo."""

    @functools.wraps(analysis)
    def remembered(source: SourceFile, *nodes: ast.AST) -> Any:
        key = (analysis, *nodes)
        if key not in source.memo:
            source.memo[key] = analysis(source, *nodes)
        return source.memo[key]

    return cast("F", remembered)


def _is_sound(text: str) -> bool:
    """Whether the compiler's first two passes, of which parsing is one, take the text."""
    try:
        with _GLOBAL_LOCK, warnings.catch_warnings(), collector_paused():
            warnings.simplefilter("ignore")
            symtable.symtable(text, "<unknown>", "exec")
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        return False
    return True


def _parse(text: str) -> ast.Module:
    if "\0" in text:
        before = split_lines(text[: text.index("\0")])
        raise SourceError(NULL_BYTE, len(before), len(before[-1]) + 1)
    try:
        with _GLOBAL_LOCK, warnings.catch_warnings(), collector_paused():
            warnings.simplefilter("ignore")  # invalid escapes are for other linters to report
            return ast.parse(text)
    except SyntaxError as error:
        raise _syntax_error(error, text) from None
    except (RecursionError, MemoryError):
        raise SourceError("the code is nested too deeply for Python's parser") from None
    except ValueError as error:  # lone surrogates
        raise SourceError(f"not Python source text: {error}") from None


_PYTHON_2_LINE = re.compile(
    r"""
      ^\s*print\s+[^\s(=.\[,:]          # print "x"
    | ^\s*exec\s+["'\w]                 # exec "code"
    | ^\s*except\s+[\w.()\s,]+,\s*\w+\s*:  # except E, e:
    | ^\s*raise\s+[\w.]+\s*,            # raise E, "message"
    | \bur["']                          # ur"text"
    | `[^`]+`                           # repr
    | [^<>=!]<>[^<>=]                   # not equal
    | \b0[0-7]+\b                       # octal
    | \b\d+[lL]\b                       # long
    """,
    re.VERBOSE,
)
_PYTHON_2_MESSAGE = ("Missing parentheses in call to", "multiple exception types must be parenthesized")


def _syntax_error(error: SyntaxError, text: str) -> SourceError:
    line = max(error.lineno or 1, 1)
    column = max(error.offset or 1, 1)
    message = error.msg or "invalid syntax"
    lines = split_lines(text)
    here = lines[line - 1] if line <= len(lines) else ""
    if message.startswith(_PYTHON_2_MESSAGE) or isinstance(error, TabError) or _PYTHON_2_LINE.search(here):
        return SourceError(f"looks like Python 2, which initcheck cannot read: {message}", line, column)
    return SourceError(f"syntax error: {message}", line, column)
