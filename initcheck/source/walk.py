"""The walk over a piece of a file: scopes and bindings, and the nodes that rules look at, each with its place."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from initcheck.source.nodes import FIELDS
from initcheck.source.scopes import FunctionNode, Place, Scope, bind_import, bind_target

LeftOut = tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign, Place]

_LONG = 3
"""Lines of an assignment outside of functions, from which on it is a table that few readers look into."""


@dataclass(slots=True)
class Found:
    """What a walk lists, in source order (what a lambda or a comprehension holds after the rest of its expression)."""

    references: list[ast.Name | ast.Attribute] = field(default_factory=list)
    """Names and dotted names, outermost expression only."""
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    calls: list[tuple[ast.Call, Place]] = field(default_factory=list)
    classes: list[tuple[ast.ClassDef, Place]] = field(default_factory=list)
    functions: list[tuple[ast.FunctionDef | ast.AsyncFunctionDef, Place]] = field(default_factory=list)
    assigns: list[tuple[ast.Assign, Place]] = field(default_factory=list)
    ifs: list[tuple[ast.If, Place]] = field(default_factory=list)
    loops: list[tuple[ast.For, Place]] = field(default_factory=list)
    blocks: list[list[ast.stmt]] = field(default_factory=list)
    """Every ``body`` and ``orelse``."""

    def extend(self, other: Found) -> None:
        """Append what another walk found."""
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))


class Walk:
    """Walks pieces of one file; scopes and the scopes of names are kept for all of them together."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.names: dict[ast.AST, Scope] = {}
        """The scope of every name that is read, written, or at the root of a dotted name."""
        self._found = Found()
        self._later: list[LeftOut] | None = None
        # a stack of its own: a sum of a thousand terms is nested a thousand deep
        self._stack: list[tuple[ast.AST, Place]] = []

    def module(self, tree: ast.Module) -> tuple[Scope, Found, list[LeftOut]]:
        """Walk a file, but no function and no long table: (its scope, what was found, what was left out)."""
        top = Scope(None)
        self.scopes.append(top)
        later = self._later = []
        self._stack.append((tree, Place(top, (), (), ())))
        found = self._run()
        self._later = None
        return top, found, later

    def left_out(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign, place: Place) -> Found:
        """Walk what was left out, a function's header included."""
        if isinstance(node, ast.Assign):
            self._assignment(node, place)
        else:
            self._inside(node, place)
        return self._run()

    def _run(self) -> Found:
        stack, kinds, other = self._stack, _KINDS, Walk._other
        while stack:
            node, place = stack.pop()
            kinds.get(node.__class__, other)(self, node, place)
        found, self._found = self._found, Found()
        return found

    # -- statements ------------------------------------------------------------------------------------------------

    def _value(self, node: ast.Expr | ast.Return, place: Place) -> None:
        value = node.value
        if value is not None and value.__class__ is not ast.Constant:
            self._expressions([value], place)

    def _assign(self, node: ast.Assign, place: Place) -> None:
        for target in node.targets:
            bind_target(target, node.value, place.scope)
        if self._later is not None and (node.end_lineno or 0) - node.lineno >= _LONG:
            self._later.append((node, place))
        else:
            self._assignment(node, place)

    def _assignment(self, node: ast.Assign, place: Place) -> None:
        self._found.assigns.append((node, place))
        self._expressions([*node.targets, node.value], place)

    def _import(self, node: ast.Import | ast.ImportFrom, place: Place) -> None:
        self._found.imports.append(node)
        bind_import(node, place.scope)

    def _if(self, node: ast.If, place: Place) -> None:
        self._found.ifs.append((node, place))
        self._expressions([node.test], place)
        self._found.blocks.append(node.body)
        if node.orelse:
            self._found.blocks.append(node.orelse)
            self._stack.extend([(child, place) for child in reversed(node.orelse)])
        inside = Place(place.scope, place.classes, place.functions, (*place.guards, node))
        self._stack.extend([(child, inside) for child in reversed(node.body)])

    def _nothing(self, node: ast.AST, place: Place) -> None:
        """A statement that holds nothing."""

    def _other(self, node: ast.AST, place: Place) -> None:
        """Any other statement, and the parts of statements that are no expressions."""
        self._bind(node, place)
        below: list[tuple[ast.AST, Place]] = []
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                if not value or isinstance(value[0], str):
                    continue
                if isinstance(value[0], ast.stmt) and name in ("body", "orelse"):
                    self._found.blocks.append(value)
                if isinstance(value[0], ast.expr):
                    self._expressions(value, place)
                else:
                    below.extend([(child, place) for child in value])
            elif isinstance(value, ast.expr):
                self._expressions([value], place)
            elif isinstance(value, ast.AST) and not isinstance(value, ast.operator):
                below.append((value, place))
        self._stack.extend(reversed(below))

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place) -> None:
        place.scope.bind(node.name, None)
        if self._later is None:
            self._inside(node, place)
        else:
            self._later.append((node, place))

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place) -> None:
        self._found.functions.append((node, place))
        self._found.blocks.append(node.body)
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
        self._found.classes.append((node, place))
        self._found.blocks.append(node.body)
        scope = Scope(place.scope, is_class=True)
        self.scopes.append(scope)
        classes = (*place.classes, node)
        header = [*node.bases, *(k.value for k in node.keywords), *node.decorator_list]
        self._expressions(header, Place(place.scope, classes, place.functions, place.guards))
        body = Place(scope, classes, place.functions, place.guards)
        self._stack.extend((child, body) for child in reversed(node.body))

    def _bind(self, node: ast.AST, place: Place) -> None:
        scope = place.scope
        if isinstance(node, ast.AnnAssign):
            if node.value is not None:
                bind_target(node.target, node.value, scope)
        elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
            if isinstance(node, ast.For):
                self._found.loops.append((node, place))
            bind_target(node.target, None, scope)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer.update(node.names)
        elif isinstance(node, ast.withitem):
            if node.optional_vars is not None:
                bind_target(node.optional_vars, None, scope)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            scope.bind(node.name, None)

    # -- expressions -----------------------------------------------------------------------------------------------

    def _expressions(self, roots: list[ast.expr], place: Place) -> None:
        """All that is evaluated in one place; what opens a scope of its own waits its turn."""
        scope, names = place.scope, self.names
        references, calls = self._found.references, self._found.calls
        constant, name, attribute, call = _FREQUENT
        stack: list[Any] = roots[::-1]
        pop, push = stack.pop, stack.append
        waiting: list[tuple[ast.AST, Place]] = []
        while stack:
            node = pop()
            kind = node.__class__
            if kind is constant:
                continue
            if kind is name:
                names[node] = scope
                references.append(node)
            elif kind is attribute:
                root = node.value
                while root.__class__ is attribute:
                    root = root.value
                if root.__class__ is name:
                    names[root] = scope
                    references.append(node)
                else:
                    push(root)
            elif kind is call:
                calls.append((node, place))
                if node.keywords:
                    stack.extend([keyword.value for keyword in reversed(node.keywords)])
                stack.extend(reversed(node.args))
                push(node.func)
            elif kind in _OWN_SCOPE:
                waiting.append((node, place))
            else:
                if kind is ast.NamedExpr:
                    bind_target(node.target, node.value, scope)
                for field_name in FIELDS[kind]:
                    value = getattr(node, field_name)
                    if value.__class__ is list:
                        stack.extend([v for v in reversed(value) if v is not None])
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
            bind_target(generator.target, None, inner.scope)
        made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for generator in node.generators:
            made += [generator.target, generator.iter, *generator.ifs]
        self._expressions(made, inner)


_KINDS: dict[type, Callable[[Walk, Any, Place], None]] = {
    **dict.fromkeys((ast.Expr, ast.Return), Walk._value),
    ast.Assign: Walk._assign,
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef), Walk._function),
    ast.ClassDef: Walk._class,
    ast.If: Walk._if,
    **dict.fromkeys((ast.Import, ast.ImportFrom), Walk._import),
    **dict.fromkeys((ast.Pass, ast.Break, ast.Continue), Walk._nothing),
    **dict.fromkeys((ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), Walk._deferred),
}
_OWN_SCOPE = frozenset({ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp})
_FREQUENT = (ast.Constant, ast.Name, ast.Attribute, ast.Call)


def _arguments(given: ast.arguments) -> list[ast.arg]:
    starred = [a for a in (given.vararg, given.kwarg) if a is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *starred]


def _given(arguments: ast.arguments) -> list[ast.expr]:
    """Defaults and annotations."""
    annotations = [a.annotation for a in _arguments(arguments) if a.annotation is not None]
    return [*annotations, *arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]
