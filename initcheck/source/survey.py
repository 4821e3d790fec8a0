"""What a file holds, for everything that reads its source, walked as far as anyone asks.

A walk costs half of what parsing does, and of most files a tenth is about weights. So what stands outside of functions
is walked at once, and a function (or a long table) only when its text holds what a reader looks for, or a name in it is
to be resolved.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from initcheck.source.nodes import children
from initcheck.source.scopes import FunctionNode, Scope
from initcheck.source.walk import Found, Walk

Pattern = re.Pattern[str] | tuple[re.Pattern[str], re.Pattern[str]]
"""It must match; of two, both must. The first should begin with a literal: the search is then as fast as for a word."""
Patterns = tuple[Pattern, ...]
"""Of which one must match."""


class Survey:
    """The scopes of a file, and the nodes that rules look at."""

    def __init__(self, tree: ast.Module, text: str) -> None:
        self._text = text if "\r" not in text else text.replace("\r\n", "\n").replace("\r", "\n")
        self._tree = tree
        self._walk = Walk()
        self.top, self.outside, self._left_out = self._walk.module(tree)
        self._starts = [_first_line(node) for node, _ in self._left_out]
        self._insides: dict[int, Found] = {}
        self._indices: dict[Pattern, set[int]] = {}
        self._near: dict[tuple[int, ...], Found] = {(): self.outside}

    @property
    def whole(self) -> Found:
        """Everything; what is walked at once comes first, so with ``near``."""
        return self._joined(range(len(self._left_out)))

    def near(self, *patterns: Pattern) -> Found:
        """What stands outside of functions and tables, and in those whose text holds a match."""
        return self._joined(sorted(self._holding(patterns)))

    def near_both(self, one: Patterns, other: Patterns) -> Found:
        """What stands outside of functions and tables, and in those that hold a match of either."""
        return self._joined(sorted(self._holding(one) & self._holding(other)))

    def functions_near(self, *patterns: Pattern) -> set[FunctionNode]:
        """The functions, those inside of others aside, whose text holds a match."""
        nodes = (self._left_out[index][0] for index in self._holding(patterns))
        return {node for node in nodes if not isinstance(node, ast.Assign)}

    def nodes_near(self, *patterns: Pattern) -> Iterator[ast.AST]:
        """All nodes of the file but contexts and operators, and but for functions and tables without a match."""
        near = self._holding(patterns)
        far = {node for index, (node, _) in enumerate(self._left_out) if index not in near}
        stack: list[ast.AST] = [self._tree]
        while stack:
            node = stack.pop()
            if node not in far:
                yield node
                stack.extend(children(node))

    @property
    def scopes(self) -> list[Scope]:
        """The scopes that have been walked."""
        return self._walk.scopes

    def every_scope(self) -> list[Scope]:
        """All scopes of the file."""
        for index in range(len(self._left_out)):
            self._inside(index)
        return self._walk.scopes

    def scope_of(self, name: ast.Name) -> Scope:
        """The scope that a name of the file is read or written in."""
        scope = self._walk.names.get(name)
        if scope is None:
            index = self._at(name.lineno)
            if index is not None:
                self._inside(index)
                scope = self._walk.names.get(name)
        return self.top if scope is None else scope

    def _holding(self, patterns: Patterns) -> set[int]:
        """Which functions and tables hold a match of one of the patterns."""
        held: set[int] = set()
        for pattern in patterns:
            if pattern not in self._indices:
                self._indices[pattern] = self._with(pattern)
            held |= self._indices[pattern]
        return held

    def _with(self, pattern: Pattern) -> set[int]:
        if isinstance(pattern, tuple):
            first, second = pattern
            return {index for index in self._holding((first,)) if second.search(self._text, *self._span(index))}
        lines = _lines(pattern, self._text)
        return {index for line in lines if (index := self._at(line)) is not None}

    def _span(self, index: int) -> tuple[int, int]:
        """Where the text of a function or table begins and ends."""
        before, last = self._starts[index] - 1, self._left_out[index][0].end_lineno or 0
        return self._lengths[before] + before, self._lengths[last] + last

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """Characters in the first 0, 1, 2, ... lines, their ends aside."""
        return list(itertools.accumulate(map(len, self._text.split("\n")), initial=0))

    def _at(self, line: int) -> int | None:
        """Which function (those inside of others aside) or table a line belongs to."""
        index = bisect_right(self._starts, line) - 1
        return index if index >= 0 and line <= (self._left_out[index][0].end_lineno or 0) else None

    def _inside(self, index: int) -> Found:
        if index not in self._insides:
            self._insides[index] = self._walk.left_out(*self._left_out[index])
        return self._insides[index]

    def _joined(self, indices: Iterable[int]) -> Found:
        """What stands outside, then what these hold; made once for all that ask for the same."""
        key = tuple(indices)
        if key not in self._near:
            joined = self._near[key] = Found()
            joined.extend(self.outside)
            for index in key:
                joined.extend(self._inside(index))
        return self._near[key]


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign) -> int:
    """The line of the statement, or of its first decorator."""
    decorators = [] if isinstance(node, ast.Assign) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _lines(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    """The lines on which matches begin."""
    line, counted = 1, 0
    for match in pattern.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        yield line
