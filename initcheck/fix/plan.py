"""Edits by the place in the file that each of them means. No LibCST here."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from initcheck.findings import Edit, InsertInit, RewriteCall, Substitute
from initcheck.fix.errors import EditError
from initcheck.fix.leftovers import leftovers
from initcheck.fix.naming import Names
from initcheck.fix.target import Target, find_target, targets
from initcheck.source.file import SourceFile


@dataclass(slots=True)
class Plan:
    """Edits by the place they mean."""

    rewrites: dict[tuple[int, int, int, int], tuple[Target, RewriteCall]] = field(default_factory=dict)
    imports: list[tuple[ast.alias, RewriteCall]] = field(default_factory=list)
    removals: set[tuple[int, int]] = field(default_factory=set)
    insertions: dict[tuple[int, int], list[tuple[ast.ClassDef, InsertInit]]] = field(default_factory=dict)
    """By the class that is added to."""
    sequels: dict[tuple[int, int], list[tuple[str, InsertInit]]] = field(default_factory=dict)
    """What is inserted behind an assignment, with the name of its variable, or in a ``return`` (empty)."""

    def lines(self) -> set[int]:
        """First lines of everything that is rewritten, removed or added to."""
        return {line for line, *_ in (*self.rewrites, *self.removals, *self.insertions, *self.sequels)}

    def add(self, target: Target, edit: RewriteCall) -> None:
        """Plan a rewrite, unless another one of the same expression says something else."""
        other = self.rewrites.setdefault(target.span, (target, edit))[1]
        if (other.function, other.arguments) != (edit.function, edit.arguments):
            raise EditError(f"another fix makes this call {other.function}", edit)

    def beside(self, names: Names) -> dict[str, set[str]]:
        """Which names must be imported beside which."""
        extended = {old: set(new) for old, new in names.extended.items()}
        for alias, edit in self.imports:
            if alias.asname is None:
                extended.setdefault(alias.name, set()).add(edit.function)
        return extended

    def renamed(self) -> dict[str, str]:
        """``from torch.nn.init import old as name``: the bound name and the function it is to stand for."""
        return {alias.asname: edit.function for alias, edit in self.imports if alias.asname is not None}

    def unused(self, source: SourceFile) -> set[str]:
        """Names imported from ``torch.nn.init`` whose every use is rewritten (none in a package's ``__init__``)."""
        if source.path.endswith("__init__.py"):
            return set()
        changed: dict[str, int] = {}
        for target, _ in self.rewrites.values():
            function = target.node.func if isinstance(target.node, ast.Call) else target.node
            if isinstance(function, ast.Name):
                changed[function.id] = changed.get(function.id, 0) + 1
        for alias, _ in self.imports:
            if alias.asname is None:
                changed.setdefault(alias.name, 0)
        uses = dict.fromkeys(changed, 0)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and node.id in uses:
                uses[node.id] += 1
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in uses:
                uses[node.value] += 1  # __all__, getattr by name
        return {name for name, count in changed.items() if uses[name] == count}


def _is_use(target: Target, name: str) -> bool:
    function = target.node.func if isinstance(target.node, ast.Call) else target.node
    return isinstance(function, ast.Name) and function.id == name


def make_plan(source: SourceFile, edits: Iterable[Edit]) -> Plan:
    """Find the place of every edit.

    Raises:
        EditError: an edit finds no place, more than one, or contradicts another.
    """
    plan = Plan()
    every = targets(source)
    for edit in edits:
        if edit.location.path != source.path:
            raise EditError(f"it must be made in another file, {edit.location.path}", edit)
        if isinstance(edit, Substitute):
            continue  # text, which needs no place to be found
        if isinstance(edit, InsertInit) and not edit.class_name:
            statement, variable = find_statement(source, edit)
            plan.sequels.setdefault(_start(source, statement), []).append((variable, edit))
            continue
        if isinstance(edit, InsertInit):
            node = find_class(source, edit)
            plan.insertions.setdefault(_start(source, node), []).append((node, edit))
            continue
        target = find_target(source, every, edit)
        if isinstance(target.node, ast.alias):
            plan.imports.append((target.node, edit))
        else:
            plan.add(target, edit)
    for alias, edit in plan.imports:
        if alias.asname is None:  # its uses are renamed with it
            rename = replace(edit, arguments=None)
            for target in every:
                if _is_use(target, alias.name) and target.span not in plan.rewrites:
                    plan.add(target, rename)
    _check_statements(plan)
    plan.removals.update(_start(source, statement) for statement in leftovers(source, plan.rewrites.values()))
    return plan


def _check_statements(plan: Plan) -> None:
    """Refuse two insertions at one place that initialise the same target differently."""
    places = [[edit for _, edit in found] for found in plan.insertions.values()]
    places += [[edit for _, edit in found] for found in plan.sequels.values()]
    for edits in places:
        seen: dict[tuple[str, str], object] = {}
        for edit in edits:
            for statement in edit.statements:
                for kind in edit.module_types or ("",):
                    value = (statement.function, statement.arguments)
                    if seen.setdefault((edit.over or kind, statement.target), value) != value:
                        raise EditError(f"another fix initialises {statement.target} differently", edit)


def _start(source: SourceFile, node: ast.stmt) -> tuple[int, int]:
    where = source.location(node)
    return (where.line, where.column)


def edited_lines(source: SourceFile, edits: Iterable[Edit]) -> set[int]:
    """The lines on which existing init calls would change (a suppression there forbids the edit)."""
    every = targets(source)
    lines: set[int] = set()
    for edit in edits:
        if isinstance(edit, RewriteCall):
            try:
                where = find_target(source, every, edit).location
            except EditError:
                where = edit.location
            lines.update(range(where.line, max(where.end_line, where.line) + 1))
        elif isinstance(edit, Substitute):
            lines.update(range(edit.location.line, edit.location.end_line + 1))
    return lines


def find_statement(source: SourceFile, edit: InsertInit) -> tuple[ast.Assign | ast.Return, str]:
    """The assignment of a model to a variable that the edit means, and its name; or a ``return`` that makes it, and "".

    Raises:
        EditError: if there is none, or the variable is assigned elsewhere too.
    """
    for node, place in source.survey.whole.assigns:
        if node.lineno == edit.location.line:
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if len(names) == len(node.targets) == 1 and len(place.scope.bindings[names[0]]) == 1:
                return node, names[0]
    for statement in ast.walk(source.tree):
        if isinstance(statement, ast.Return) and source.location(statement) == edit.location:
            return statement, ""
    raise EditError("no variable holds the model, and that alone, at this line", edit)


def find_class(source: SourceFile, edit: InsertInit) -> ast.ClassDef:
    """The class that the edit means: by its line if it stands there, else by its dotted or plain name.

    Raises:
        EditError: if the file has no such class.
    """
    wanted = edit.class_name.replace(".<locals>", "")
    named = [(dotted, node) for dotted, node in source.classes if node.name == wanted.rpartition(".")[2]]
    for _, node in named:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if first <= edit.location.line <= node.lineno:
            return node
    matching = [node for dotted, node in named if dotted == wanted] or [node for _, node in named]
    if not matching:
        raise EditError(f"there is no class {edit.class_name} in this file", edit)
    return matching[-1]
