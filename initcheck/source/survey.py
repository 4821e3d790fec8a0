"""One walk over a file for everything that reads its source: scopes and bindings, and the nodes that rules look at.

A walk costs as much as parsing, so there is one: what a rule wants to know of every call, class or assignment is a list
here, each with the place that it stands in.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import NamedTuple

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Binding = str | ast.expr | None


@dataclass(slots=True, eq=False)
class Scope:
    """A module, class or function body. ``bindings``: each thing a name is bound to here, in order."""

    parent: Scope | None
    is_class: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)  # names declared global or nonlocal

    def bind(self, name: str, value: Binding) -> None:
        """``value``: a full dotted name (an import), an expression (an assignment) or None (anything else)."""
        self.bindings.setdefault(name, []).append(value)


class Place(NamedTuple):
    """What encloses a node, outermost first. ``guards``: the ``if`` statements whose condition holds there."""

    scope: Scope
    classes: tuple[ast.ClassDef, ...]
    functions: tuple[FunctionNode, ...]
    guards: tuple[ast.If, ...]


class Survey:
    """The lists, in source order (what a lambda or a comprehension holds comes after the rest of its expression)."""

    def __init__(self, tree: ast.Module) -> None:
        self.top = Scope(None)
        self.scopes: list[Scope] = [self.top]
        self.names: dict[ast.AST, Scope] = {}
        """The scope of every name that is read, written, or at the root of a dotted name."""
        self.references: list[ast.Name | ast.Attribute] = []
        """Names and dotted names, outermost expression only."""
        self.imports: list[ast.Import | ast.ImportFrom] = []
        self.calls: list[tuple[ast.Call, Place]] = []
        self.classes: list[tuple[ast.ClassDef, Place]] = []
        self.functions: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, Place]] = []
        self.assigns: list[tuple[ast.Assign, Place]] = []
        self.ifs: list[tuple[ast.If, Place]] = []
        self.loops: list[tuple[ast.For, Place]] = []
        self.blocks: list[list[ast.stmt]] = []
        """Every ``body`` and ``orelse``."""
        # a stack of its own: a sum of a thousand terms is nested a thousand deep
        self._stack: list[tuple[ast.AST, Place]] = [(tree, Place(self.top, (), (), ()))]
        while self._stack:
            node, place = self._stack.pop()
            if isinstance(node, ast.expr):
                self._deferred(node, place)
            else:
                self._statement(node, place)

    def assigns_in(self, owner: ast.ClassDef) -> list[ast.Assign]:
        """The assignments anywhere inside a class."""
        return [node for node, place in self.assigns if owner in place.classes]

    # -- statements ------------------------------------------------------------------------------------------------

    def _statement(self, node: ast.AST, place: Place) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, place)
            return
        if isinstance(node, ast.ClassDef):
            self._class(node, place)
            return
        self._bind(node, place)
        inside = place
        if isinstance(node, ast.If):
            self.ifs.append((node, place))
            inside = Place(place.scope, place.classes, place.functions, (*place.guards, node))
        below: list[tuple[ast.AST, Place]] = []
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                if not value or isinstance(value[0], str):
                    continue
                if isinstance(value[0], ast.stmt) and name in ("body", "orelse"):
                    self.blocks.append(value)
                if isinstance(value[0], ast.expr):
                    self._expressions(value, place)
                else:
                    where = inside if name == "body" else place
                    below.extend((child, where) for child in value)
            elif isinstance(value, ast.expr):
                self._expressions([value], place)
            elif isinstance(value, ast.AST) and not isinstance(value, ast.operator):
                below.append((value, place))
        self._stack.extend(reversed(below))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place) -> None:
        place.scope.bind(node.name, None)
        self.functions.append((node, place))
        self.blocks.append(node.body)
        header, body = self._called(node, place)
        outside: list[ast.expr] = [*node.decorator_list, *_given(node.args)]
        if node.returns is not None:
            outside.append(node.returns)
        self._expressions(outside, header)
        self._stack.extend((child, body) for child in reversed(node.body))

    def _called(self, node: FunctionNode, place: Place) -> tuple[Place, Place]:
        """The places of a function's header and of its body."""
        scope = Scope(place.scope)
        self.scopes.append(scope)
        for argument in _arguments(node.args):
            scope.bind(argument.arg, None)
        functions = (*place.functions, node)
        header = Place(place.scope, place.classes, functions, place.guards)
        return header, Place(scope, place.classes, functions, place.guards)

    def _class(self, node: ast.ClassDef, place: Place) -> None:
        place.scope.bind(node.name, None)
        self.classes.append((node, place))
        self.blocks.append(node.body)
        scope = Scope(place.scope, is_class=True)
        self.scopes.append(scope)
        classes = (*place.classes, node)
        header = [*node.bases, *(k.value for k in node.keywords), *node.decorator_list]
        self._expressions(header, Place(place.scope, classes, place.functions, place.guards))
        body = Place(scope, classes, place.functions, place.guards)
        self._stack.extend((child, body) for child in reversed(node.body))

    def _bind(self, node: ast.AST, place: Place) -> None:
        scope = place.scope
        if isinstance(node, ast.Assign):
            self.assigns.append((node, place))
            for target in node.targets:
                _bind_target(target, node.value, scope)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports.append(node)
            _bind_import(node, scope)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                _bind_target(node.target, node.value, scope)
        elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
            if isinstance(node, ast.For):
                self.loops.append((node, place))
            _bind_target(node.target, None, scope)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer.update(node.names)
        elif isinstance(node, ast.withitem):
            if node.optional_vars is not None:
                _bind_target(node.optional_vars, None, scope)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            scope.bind(node.name, None)

    # -- expressions -----------------------------------------------------------------------------------------------

    def _expressions(self, roots: list[ast.expr], place: Place) -> None:
        """All that is evaluated in one place; what opens a scope of its own waits its turn."""
        scope, names, references, calls = place.scope, self.names, self.references, self.calls
        stack: list[ast.AST] = [*reversed(roots)]
        pop, push = stack.pop, stack.append
        waiting: list[tuple[ast.AST, Place]] = []
        while stack:
            node = pop()
            kind = node.__class__
            if kind is ast.Constant:
                continue
            if kind is ast.Name:
                names[node] = scope
                references.append(node)  # type: ignore[arg-type]
            elif kind is ast.Attribute:
                root = node.value  # type: ignore[attr-defined]
                while root.__class__ is ast.Attribute:
                    root = root.value
                if root.__class__ is ast.Name:
                    names[root] = scope
                    references.append(node)  # type: ignore[arg-type]
                else:
                    push(root)
            elif kind is ast.Call:
                calls.append((node, place))  # type: ignore[arg-type]
                for keyword in reversed(node.keywords):  # type: ignore[attr-defined]
                    push(keyword.value)
                stack.extend(reversed(node.args))  # type: ignore[attr-defined]
                push(node.func)  # type: ignore[attr-defined]
            elif kind in _OWN_SCOPE:
                waiting.append((node, place))
            else:
                if kind is ast.NamedExpr:
                    _bind_target(node.target, node.value, scope)  # type: ignore[attr-defined]
                for name in _children(kind):
                    value = getattr(node, name)
                    if value.__class__ is list:
                        stack.extend(v for v in reversed(value) if v is not None)
                    elif value is not None:
                        push(value)
        if waiting:
            self._stack.extend(reversed(waiting))

    def _deferred(self, node: ast.expr, place: Place) -> None:
        """A lambda, or a comprehension: all of it is in the scope of its own."""
        if isinstance(node, ast.Lambda):
            header, body = self._called(node, place)
            self._expressions(_given(node.args), header)
            self._expressions([node.body], body)
            return
        inner = Place(Scope(place.scope), place.classes, place.functions, place.guards)
        self.scopes.append(inner.scope)
        assert isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))
        for generator in node.generators:
            _bind_target(generator.target, None, inner.scope)
        made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for generator in node.generators:
            made += [generator.target, generator.iter, *generator.ifs]
        self._expressions(made, inner)


_OWN_SCOPE = frozenset({ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp})
_LEAVES = frozenset({"ctx", "op", "ops", "conversion", "kind"})
_FIELDS: dict[type, tuple[str, ...]] = {}


def _children(kind: type) -> tuple[str, ...]:
    """The fields of an expression's class that hold expressions."""
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(name for name in kind._fields if name not in _LEAVES)  # type: ignore[attr-defined]
    return _FIELDS[kind]


def _arguments(given: ast.arguments) -> list[ast.arg]:
    starred = [a for a in (given.vararg, given.kwarg) if a is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *starred]


def _given(arguments: ast.arguments) -> list[ast.expr]:
    """Defaults and annotations."""
    annotations = [a.annotation for a in _arguments(arguments) if a.annotation is not None]
    return [*annotations, *arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]


def _bind_target(target: ast.expr, value: ast.expr | None, scope: Scope) -> None:
    if isinstance(target, ast.Name):
        scope.bind(target.id, value)
    elif isinstance(target, ast.Starred):
        _bind_target(target.value, None, scope)
    elif isinstance(target, (ast.Tuple, ast.List)):
        for item in target.elts:
            _bind_target(item, None, scope)


def _bind_import(node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            root = alias.name.partition(".")[0]
            scope.bind(alias.asname or root, alias.name if alias.asname else root)
        return
    module = module_of(node)
    separator = "" if module.endswith(".") else "."
    for alias in node.names:
        if alias.name != "*":
            scope.bind(alias.asname or alias.name, f"{module}{separator}{alias.name}")


def module_of(node: ast.ImportFrom) -> str:
    """The module that is imported from, with its leading dots."""
    return "." * node.level + (node.module or "")
