"""Edits to text: each edit finds its place, and everything else keeps every byte."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from initcheck.findings import Edit, InsertInit, RewriteCall
from initcheck.fix.errors import EditError
from initcheck.fix.imports import ImportChanger, with_statements
from initcheck.fix.insert import Inserter, find_class
from initcheck.fix.naming import Names
from initcheck.fix.rewrite import CallRewriter
from initcheck.fix.style import Style, preferred_quote
from initcheck.fix.target import Target, find_target, targets
from initcheck.source.file import SourceError, SourceFile


def apply_edits(text: str, path: str, edits: Iterable[Edit]) -> str:
    """Apply ``edits``, all or none, to the text of one file.

    Equal edits count once. Edits inside the argument of another are made first. The result parses.

    Args:
        text: the file's text, any line endings.
        path: its path, as the edits' locations name it.
        edits: what to change; locations speak of ``text``.

    Raises:
        EditError: an edit finds no place, more than one, or contradicts another; says which and why.
        SourceError: ``text`` cannot be parsed.
    """
    wanted = list(dict.fromkeys(edits))
    if not wanted:
        return text
    source = SourceFile.parse(path, text)
    for edit in wanted:
        if edit.location.path != path:
            raise EditError(f"it must be made in another file, {edit.location.path}", edit)
    plan = _plan(source, wanted)
    frame = _Frame.of(source.text)
    try:
        wrapper = MetadataWrapper(cst.parse_module(frame.body), unsafe_skip_copy=True)
    except cst.ParserSyntaxError as error:
        raise EditError(f"LibCST cannot parse the file: {error.message}") from None
    if wrapper.module.code != frame.body:
        raise EditError("LibCST does not reproduce the file byte for byte")
    names = Names(source)
    style = Style(preferred_quote(wrapper.module), names.spell)
    editor = _Editor(
        plan, wrapper.resolve(PositionProvider), CallRewriter(wrapper.module, names, style), Inserter(names, style)
    )
    module = wrapper.module.visit(editor)
    editor.check_complete()
    module = module.visit(ImportChanger(plan.beside(names), plan.unused(source), plan.renamed()))
    code = frame.restore(with_statements(module, names.statements).code)
    try:
        SourceFile.parse(path, code)
    except SourceError as error:
        raise EditError(f"the edited file would not parse: {error.message}") from None
    return code


_END = "...\n"


@dataclass(frozen=True, slots=True)
class _Frame:
    """What LibCST does not give back as it was: lone carriage returns as line ends, blanks at the end of the file.

    The former become line feeds for a while, the latter are followed by one more statement.
    """

    body: str
    carriage_returns: bool
    final_newline: bool

    @classmethod
    def of(cls, text: str) -> _Frame:
        carriage_returns = "\r" in text and "\n" not in text
        body = text.replace("\r", "\n") if carriage_returns else text
        final_newline = body.endswith("\n")
        return cls(body + ("" if final_newline else "\n") + _END, carriage_returns, final_newline)

    def restore(self, code: str) -> str:
        code = code.removesuffix(_END)
        code = code if self.final_newline else code.removesuffix("\n").removesuffix("\r")
        return code.replace("\n", "\r") if self.carriage_returns else code


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
    return lines


@dataclass(slots=True)
class _Plan:
    """Edits by the place they mean."""

    rewrites: dict[tuple[int, int, int, int], tuple[Target, RewriteCall]] = field(default_factory=dict)
    imports: list[tuple[ast.alias, RewriteCall]] = field(default_factory=list)
    insertions: dict[tuple[int, int], list[tuple[ast.ClassDef, InsertInit]]] = field(default_factory=dict)

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


def _plan(source: SourceFile, edits: Sequence[Edit]) -> _Plan:
    plan = _Plan()
    every = targets(source)
    for edit in edits:
        if isinstance(edit, InsertInit):
            node = find_class(source.tree, edit)
            plan.insertions.setdefault(_header(source, node), []).append((node, edit))
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
    return plan


def _check_statements(plan: _Plan) -> None:
    """Refuse two insertions into one class that initialise the same target differently."""
    for insertions in plan.insertions.values():
        seen: dict[tuple[str, str], object] = {}
        for _, edit in insertions:
            for statement in edit.statements:
                for kind in edit.module_types or ("",):
                    value = (statement.function, statement.arguments)
                    if seen.setdefault((kind, statement.target), value) != value:
                        raise EditError(f"another fix initialises {statement.target} differently", edit)


def _header(source: SourceFile, node: ast.ClassDef) -> tuple[int, int]:
    where = source.location(node)
    return (where.line, where.column)


class _Editor(cst.CSTTransformer):
    """Replaces the planned nodes, innermost first."""

    def __init__(
        self,
        plan: _Plan,
        positions: Mapping[cst.CSTNode, CodeRange],
        rewriter: CallRewriter,
        inserter: Inserter,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._positions = positions
        self._rewriter = rewriter
        self._inserter = inserter
        self._open: dict[object, Edit] = {span: edit for span, (_, edit) in plan.rewrites.items()}
        self._open |= {start: found[0][1] for start, found in plan.insertions.items()}

    def check_complete(self) -> None:
        """Raise EditError if a planned edit met no node (the two parsers disagree on a position)."""
        for edit in self._open.values():
            raise EditError(f"its place at line {edit.location.line} could not be found again", edit)

    def _span(self, node: cst.CSTNode) -> tuple[int, int, int, int]:
        where = self._positions[node]
        return (where.start.line, where.start.column + 1, where.end.line, where.end.column + 1)

    def _rewrite(self, original: cst.BaseExpression, updated: cst.BaseExpression, call: bool) -> cst.BaseExpression:
        span = self._span(original)
        found = self._plan.rewrites.get(span)
        if found is None or isinstance(found[0].node, ast.Call) is not call:
            return updated
        target, edit = found
        self._open.pop(span, None)
        try:
            return self._rewriter.rewrite(target, edit, updated)
        except EditError as error:
            raise EditError(error.reason, error.edit or edit) from None

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        return self._rewrite(original_node, updated_node, call=True)

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        return self._rewrite(original_node, updated_node, call=False)

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return self._rewrite(original_node, updated_node, call=False)

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.ClassDef:
        if not self._plan.insertions:
            return updated_node
        span = self._span(original_node)
        for start in {span[:2], self._keyword(original_node)}:
            for original, edit in self._plan.insertions.get(start, ()):
                updated_node = self._inserter.insert(edit, original, updated_node)
                self._open.pop(start, None)
        return updated_node

    def _keyword(self, node: cst.ClassDef) -> tuple[int, int]:
        """Where ``class`` stands: LibCST's range of a decorated class begins at its first decorator."""
        where = self._positions[node.name].start
        return (where.line, where.column + 1 - len("class") - len(node.whitespace_after_class.value))


__all__ = ["EditError", "apply_edits", "edited_lines"]
