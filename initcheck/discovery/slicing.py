"""Backward slices: which statements a value needs, told from the names that each statement binds, changes and uses."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CHANGING = ("add_", "update", "register", "setup", "set_", "merge", "populate")  # functions that change an argument
_TRAINING = frozenset({"backward", "fit", "zero_grad"})


@dataclass(frozen=True)
class Statement:
    """One statement with the names that it touches.

    ``binds``: names it gives a value. ``changes``: names whose object it changes (``x.y = 1``, ``x[0] = 1``,
    ``x.append(1)``). ``uses``: names it reads when it runs. ``later``: names that the functions it defines read when
    they are called.
    """

    node: ast.stmt
    binds: frozenset[str]
    changes: frozenset[str]
    uses: frozenset[str]
    later: frozenset[str]

    @property
    def is_import(self) -> bool:
        """Whether it is a plain import."""
        return isinstance(self.node, (ast.Import, ast.ImportFrom))

    @property
    def is_definition(self) -> bool:
        """Whether it defines a class or a function."""
        return isinstance(self.node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))

    @cached_property
    def trains(self) -> bool:
        """Whether it is a block that trains something (``loss.backward()``): never executed."""
        return not self.is_definition and any(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TRAINING
            for node in ast.walk(self.node)
        )


@dataclass(slots=True)
class _Names:
    binds: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            (self.uses if isinstance(node.ctx, ast.Load) else self.binds).add(node.id)
        elif isinstance(node, _FUNCTIONS):
            self._function(node)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
        elif isinstance(node, _COMPREHENSIONS):
            self._comprehension(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.binds.update(a.asname or a.name.partition(".")[0] for a in node.names if a.name != "*")
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            self._changed(node)
            self._children(node)
        elif isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name):
                self.uses.add(node.target.id)
            self._children(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self._called(node.value)
            self._children(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if isinstance(node.value.func, ast.Attribute) and node.value.func.attr.startswith("add_"):
                self._changed(node.value.func)  # group = parser.add_argument_group()
            self._children(node)
        elif isinstance(node, ast.ExceptHandler):
            if node.name:
                self.binds.add(node.name)
            self._children(node)
        else:
            self._children(node)

    def _children(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def _changed(self, node: ast.expr) -> None:
        """``a.b.c = 1`` and ``a.b.c()`` may change what ``a`` is."""
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            self.changes.add(node.id)

    def _called(self, call: ast.Call) -> None:
        if isinstance(call.func, ast.Attribute):
            self._changed(call.func)
        elif isinstance(call.func, ast.Name) and call.func.id.startswith(_CHANGING):
            for argument in call.args:
                self._changed(argument)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        arguments = node.args
        for default in (*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)):
            self.visit(default)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        inner = _Names()
        if isinstance(node, ast.Lambda):
            inner.visit(node.body)
        else:
            self.binds.add(node.name)
            for decorator in node.decorator_list:
                self.visit(decorator)
            for annotation in (*(a.annotation for a in every), node.returns):
                if annotation is not None:
                    self.visit(annotation)
            for statement in node.body:
                inner.visit(statement)
        own = {a.arg for a in every} | (inner.binds - _declared_global(node))
        self.later |= (inner.uses | inner.later) - own

    def _class(self, node: ast.ClassDef) -> None:
        self.binds.add(node.name)
        inner = _Names()
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        for statement in node.body:
            inner.visit(statement)
        self.uses |= inner.uses - inner.binds
        self.later |= inner.later

    def _comprehension(self, node: ast.AST) -> None:
        inner = _Names()
        inner._children(node)
        self.uses |= inner.uses - inner.binds
        self.later |= inner.later - inner.binds


def _declared_global(node: ast.AST) -> set[str]:
    return {name for child in ast.walk(node) if isinstance(child, (ast.Global, ast.Nonlocal)) for name in child.names}


def statement(node: ast.stmt) -> Statement:
    """The names that one statement touches."""
    names = _Names()
    names.visit(node)
    return Statement(
        node, frozenset(names.binds), frozenset(names.changes), frozenset(names.uses), frozenset(names.later)
    )


def names_used(node: ast.AST) -> frozenset[str]:
    """The names that an expression reads, in its lambdas too."""
    names = _Names()
    names.visit(node)
    return frozenset(names.uses | names.later)


def is_main_guard(node: ast.stmt) -> bool:
    """Whether a statement is ``if __name__ == "__main__":``."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
        and any(isinstance(n, ast.Constant) and n.value == "__main__" for n in ast.walk(node.test))
    )


def slice_for(names: Iterable[str], statements: Sequence[Statement]) -> list[Statement]:
    """The statements, in order, that the values of ``names`` at the end need; read backwards.

    What the functions taken define reads when called counts too. Statements that train are left out.
    """
    needed = set(names)
    taken: list[Statement] = []
    for candidate in reversed(statements):
        if (candidate.binds | candidate.changes) & needed and not candidate.trains:
            taken.append(candidate)
            needed |= candidate.uses | candidate.later
    return taken[::-1]


def closure(names: Iterable[str], statements: Sequence[Statement]) -> set[int]:
    """Indices of all statements, before or after, that ``names`` need once the whole list has been executed.

    At module level a function may use names that are bound below it, so order does not count here. A change counts
    only for names that a plain assignment binds: ``torch.manual_seed(0)`` is no part of what ``torch`` is.
    """
    binders: dict[str, list[int]] = {}
    changers: dict[str, list[int]] = {}
    for index, candidate in enumerate(statements):
        if candidate.trains:
            continue
        for name in candidate.binds:
            binders.setdefault(name, []).append(index)
        for name in candidate.changes - candidate.binds:
            changers.setdefault(name, []).append(index)
    found: set[int] = set()
    queue, seen = list(names), set(names)
    while queue:
        name = queue.pop()
        indices = list(binders.get(name, ()))
        if any(not statements[i].is_import for i in indices):
            indices += changers.get(name, ())
        for index in indices:
            if index not in found:
                found.add(index)
                taken = statements[index]
                new = (taken.uses | taken.later | (taken.binds if taken.changes else frozenset())) - seen
                seen |= new
                queue += new
    return found


def blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The bodies of a compound statement that is no definition."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if body:
            yield body
    for handler in getattr(node, "handlers", ()):
        yield handler.body
