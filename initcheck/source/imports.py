"""What the names of a file stand for: an import map with scopes, over ``ast``.

LibCST's scope metadata would answer the same questions at a few hundred times the cost, and only in files that parse
with it; this map is built once for a file and serves rules, discovery and fixes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from initcheck.source.torch_names import STAR_EXPORTS

_NN_MODULES = re.compile(r"torch\.nn\.(?:modules(?:\.\w+)*|parameter)\.([A-Z]\w*)")


@dataclass(slots=True, eq=False)
class _Scope:
    """A module, class or function body. ``bindings``: each thing a name is bound to here, in order."""

    parent: _Scope | None
    is_class: bool = False
    bindings: dict[str, list[str | ast.expr | None]] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)  # names declared global or nonlocal

    def bind(self, name: str, value: str | ast.expr | None) -> None:
        """``value``: a full dotted name (an import), an expression (an assignment) or None (anything else)."""
        self.bindings.setdefault(name, []).append(value)


class Imports:
    """Resolves expressions to full dotted names through imports, aliases and assignments of references."""

    def __init__(self, tree: ast.Module) -> None:
        self.modules: set[str] = set()
        """Every module named by an import anywhere in the file, as written (relative ones start with a dot)."""
        self._stars: list[str] = []
        self._scopes: dict[ast.AST, _Scope] = {}
        self._top = _Scope(None)
        self._build(tree)

    def resolve(self, expression: ast.expr) -> str | None:
        """The full name an expression stands for, ``"torch.nn.init.xavier_uniform_"``; None if that is not known.

        Names bound to several different things in one scope, to parameters or to values computed at run time are not
        known; nor are names defined in the file itself. A relative import keeps its leading dots.
        """
        name = self._resolve(expression, self._scopes.get(expression, self._top), depth=0)
        return None if name is None else _canonical(name)

    def spell(self, name: str, near: ast.expr | None = None) -> str | None:
        """How code can write the full name ``torch.nn.init.zeros_``, ``"nn.init.zeros_"``; None if no import gives it.

        The most exact binding wins: a bare import of the function, then its module, then the package.

        Args:
            name: a full dotted name.
            near: an expression in whose scope the code will stand; the module level by default.
        """
        start = self._top if near is None else self._scopes.get(near, self._top)
        scope: _Scope | None = start
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
        return any(name in scope.bindings for scope in {self._top, *self._scopes.values()})

    def references(self) -> Iterator[tuple[ast.expr, str]]:
        """Every name or dotted name of the file that resolves, outermost expression only, in source order."""
        inner: set[ast.AST] = set()
        for node in self._scopes:
            if node in inner or not isinstance(node, (ast.Name, ast.Attribute)):
                continue
            if isinstance(node, ast.Attribute):
                value: ast.expr = node.value
                while isinstance(value, ast.Attribute):
                    inner.add(value)
                    value = value.value
                inner.add(value)
            name = self.resolve(node)
            if name is not None:
                yield node, name

    def _resolve(self, node: ast.expr, scope: _Scope, depth: int) -> str | None:
        if isinstance(node, ast.Attribute):
            base = self._resolve(node.value, scope, depth)
            return None if base is None else f"{base}.{node.attr}"
        if isinstance(node, ast.Name):
            return self._lookup(node.id, scope, depth)
        return None

    def _lookup(self, name: str, scope: _Scope, depth: int) -> str | None:
        if depth > 20:  # x = y; y = x
            return None
        at: _Scope | None = scope
        while at is not None:
            skip = at.is_class and at is not scope  # a class body is not seen from its methods
            if not skip and name in at.bindings and name not in at.outer:
                return self._agreed(at.bindings[name], at, depth)
            at = at.parent
        for module in self._stars:
            if name in STAR_EXPORTS.get(module, ()):
                return f"{module}.{name}"
        return None

    def _agreed(self, values: list[str | ast.expr | None], scope: _Scope, depth: int) -> str | None:
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

    # -- building the map (with a stack of its own: a sum of a thousand terms is nested a thousand deep) ------------

    def _build(self, tree: ast.Module) -> None:
        stack: list[tuple[ast.AST, _Scope]] = [(tree, self._top)]
        while stack:
            node, scope = stack.pop()
            if isinstance(node, ast.expr):
                self._scopes[node] = scope
            self._bind(node, scope)
            stack.extend(reversed(self._children(node, scope)))

    @staticmethod
    def _children(node: ast.AST, scope: _Scope) -> list[tuple[ast.AST, _Scope]]:
        """The nodes below, each with the scope that it is evaluated in."""
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            inner = _Scope(scope)
            return [(child, inner) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.ClassDef):
            inner = _Scope(scope, is_class=True)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = _Scope(scope)
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    inner.bind(argument.arg, None)
        else:
            return [(child, scope) for child in ast.iter_child_nodes(node)]
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        inside = set(map(id, body))
        return [(child, inner if id(child) in inside else scope) for child in ast.iter_child_nodes(node)]

    def _bind(self, node: ast.AST, scope: _Scope) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.modules.add(alias.name)
                root = alias.name.partition(".")[0]
                scope.bind(alias.asname or root, alias.name if alias.asname else root)
        elif isinstance(node, ast.ImportFrom):
            self._import_from(node, scope)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope.bind(node.name, None)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer.update(node.names)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind_target(target, node.value, scope)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._bind_target(node.target, node.value, scope)
        elif isinstance(node, ast.NamedExpr):
            self._bind_target(node.target, node.value, scope)
        elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
            self._bind_target(node.target, None, scope)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._bind_target(node.optional_vars, None, scope)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            scope.bind(node.name, None)

    @staticmethod
    def _bind_target(target: ast.expr, value: ast.expr | None, scope: _Scope) -> None:
        if isinstance(target, ast.Name):
            scope.bind(target.id, value)
            return
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                scope.bind(node.id, None)

    def _import_from(self, node: ast.ImportFrom, scope: _Scope) -> None:
        module = "." * node.level + (node.module or "")
        self.modules.add(module)
        for alias in node.names:
            if alias.name == "*":
                self._stars.insert(0, module)  # the last star import wins
            else:
                separator = "" if module.endswith(".") else "."
                scope.bind(alias.asname or alias.name, f"{module}{separator}{alias.name}")


def _canonical(name: str) -> str:
    """``torch.nn.modules.linear.Linear`` and ``torch.nn.parameter.Parameter`` by their public names."""
    match = _NN_MODULES.fullmatch(name)
    return f"torch.nn.{match[1]}" if match else name
