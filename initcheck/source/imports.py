"""What the names of a file stand for: an import map with scopes, over ``ast``.

LibCST's scope metadata would answer the same questions at a few hundred times the cost, and only in files that parse
with it; this map reads the one walk over the file (``survey``) and serves rules, discovery and fixes.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from initcheck.source.scopes import Scope, module_of
from initcheck.source.survey import Patterns, Survey
from initcheck.source.torch_names import STAR_EXPORTS

_IMPORTING = re.compile(r"import\b")
_NN_MODULES = re.compile(r"torch\.nn\.(?:modules(?:\.\w+)*|parameter)\.([A-Z]\w*)")


class Imports:
    """Resolves expressions to full dotted names through imports, aliases and assignments of references."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._top = survey.top
        starred = [
            module_of(node)
            for node in survey.outside.imports
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        ]
        self._stars = starred[::-1]  # the last star import wins
        self._mentions: dict[tuple[str, ...], Patterns] = {}
        self._bound: set[str] = set()
        self._aliases: list[tuple[str, str]] = []
        self._read = 0

    @functools.cached_property
    def modules(self) -> set[str]:
        """Every module named by an import anywhere in the file, as written (relative ones start with a dot)."""
        found: set[str] = set()
        for node in self._survey.near(_IMPORTING).imports:
            found.update([module_of(node)] if isinstance(node, ast.ImportFrom) else (a.name for a in node.names))
        return found

    def resolve(self, expression: ast.expr) -> str | None:
        """The full name an expression stands for, ``"torch.nn.init.xavier_uniform_"``; None if that is not known.

        Names bound to several different things in one scope, to parameters or to values computed at run time are not
        known; nor are names defined in the file itself. A relative import keeps its leading dots.
        """
        root = expression
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name):
            return None
        name = self._resolve(expression, self._survey.scope_of(root), depth=0)
        return None if name is None else _canonical(name)

    def spell(self, name: str, near: ast.expr | None = None) -> str | None:
        """How code can write the full name ``torch.nn.init.zeros_``, ``"nn.init.zeros_"``; None if no import gives it.

        The most exact binding wins: a bare import of the function, then its module, then the package.

        Args:
            name: a full dotted name.
            near: an expression in whose scope the code will stand; the module level by default.
        """
        start = self._top if near is None else self._scope_of(near)
        scope: Scope | None = start
        names: list[str] = []
        while scope is not None:
            names += [bound for bound, values in scope.bindings.items() if isinstance(values[0], str)]
            scope = scope.parent
        for module in self._stars:
            names += sorted(STAR_EXPORTS.get(module, ()))
        prefix, rest = name, ""
        while prefix:
            for bound in names:
                if self._lookup(bound, start, 0) == prefix:
                    return bound + rest
            prefix, dot, last = prefix.rpartition(".")
            rest = f"{dot}{last}{rest}"
        return None

    def is_bound(self, name: str) -> bool:
        """Whether any scope of the file binds ``name`` to anything."""
        return any(name in scope.bindings for scope in self._survey.every_scope())

    def references(self, *last: str) -> Iterator[tuple[ast.expr, str]]:
        """Every name or dotted name of the file that resolves, outermost expression only.

        ``last``: only those whose full name ends in one of these (without resolving the others).
        """
        found = self._survey.near(*self.mentions(last)) if last else self._survey.whole
        spelled = self.spellings(last)
        for node in found.references:
            if spelled and (node.attr if isinstance(node, ast.Attribute) else node.id) not in spelled:
                continue
            name = self.resolve(node)
            if name is not None and (not last or name.rpartition(".")[2] in last):
                yield node, name

    def mentions(self, last: tuple[str, ...]) -> Patterns:
        """Patterns (for ``Survey.near``) of which one matches in each function that names a thing of the file's imports
        whose full name ends in one of ``last``."""
        if last not in self._mentions:
            starred = {name for module in self._stars for name in STAR_EXPORTS.get(module, ())}
            bare = self.spellings(last) & (self._bound | starred)
            words = (re.compile(rf"{name}\b") for name in sorted(bare))
            self._mentions[last] = (_dotted(last), (_IMPORTING, _any_of(last)), *words)
        return self._mentions[last]

    def spellings(self, last: tuple[str, ...]) -> set[str]:
        """What the file calls things whose full names end in one of ``last``: these words, and all aliases of them.

        Aliases in functions that have not been walked are not among them: they are known there only.
        """
        self._read_scopes()
        spelled, before = set(last), -1
        while spelled and len(spelled) > before:
            before = len(spelled)
            spelled.update(name for word, name in self._aliases if word in spelled)
        return spelled

    def _read_scopes(self) -> None:
        """Take up the names bound in scopes that have been walked since."""
        for scope in self._survey.scopes[self._read :]:
            self._bound.update(scope.bindings)
            for name, values in scope.bindings.items():
                for value in values:
                    if value is not None and (word := last_word(value)) not in ("", name):
                        self._aliases.append((word, name))
        self._read = len(self._survey.scopes)

    def _scope_of(self, expression: ast.expr) -> Scope:
        """The scope that an expression is evaluated in, told by the first name in it; the top for one without."""
        return next((self._survey.scope_of(n) for n in ast.walk(expression) if isinstance(n, ast.Name)), self._top)

    def _resolve(self, node: ast.expr, scope: Scope, depth: int) -> str | None:
        if isinstance(node, ast.Attribute):
            base = self._resolve(node.value, scope, depth)
            return None if base is None else f"{base}.{node.attr}"
        if isinstance(node, ast.Name):
            return self._lookup(node.id, scope, depth)
        return None

    def _lookup(self, name: str, scope: Scope, depth: int) -> str | None:
        if depth > 20:  # x = y; y = x
            return None
        at: Scope | None = scope
        while at is not None:
            skip = at.is_class and at is not scope  # a class body is not seen from its methods
            if not skip and name in at.bindings and name not in at.outer:
                return self._agreed(at.bindings[name], at, depth)
            at = at.parent
        for module in self._stars:
            if name in STAR_EXPORTS.get(module, ()):
                return f"{module}.{name}"
        return None

    def _agreed(self, values: list[str | ast.expr | None], scope: Scope, depth: int) -> str | None:
        """The one thing that all bindings agree on; ``x = None`` (the fallback of an import) does not count."""
        agreed: str | None = None
        for value in values:
            if isinstance(value, ast.Constant) and value.value is None:
                continue
            name = self._resolve(value, scope, depth + 1) if isinstance(value, ast.expr) else value
            if name is None or (agreed is not None and name != agreed):
                return None  # at once: bindings that refer to one another (x = x.a; x = x.b) fan out at every step
            agreed = name
        return agreed


def may_name(text: str, module: str, last: tuple[str, ...]) -> bool:
    """Whether a file can name things of a module by these last words at all, told without its tree.

    Their names, or those of what they are imported from, are then written out: ``init.zeros_``, ``from torch.nn.init``.
    """
    return module in text or _dotted(last).search(text) is not None


@functools.cache
def _dotted(last: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\.\s*(?:{'|'.join(last)})\b")


@functools.cache
def _any_of(last: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(last)})\b")


def last_word(value: str | ast.expr) -> str:
    """The last word of a dotted name, written or as an expression."""
    if isinstance(value, str):
        return value.rpartition(".")[2]
    if isinstance(value, ast.Attribute):
        return value.attr
    return value.id if isinstance(value, ast.Name) else ""


def _canonical(name: str) -> str:
    """``torch.nn.modules.linear.Linear`` and ``torch.nn.parameter.Parameter`` by their public names."""
    match = _NN_MODULES.fullmatch(name)
    return f"torch.nn.{match[1]}" if match else name
