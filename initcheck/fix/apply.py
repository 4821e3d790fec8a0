"""Edits to text: each edit finds its place, and everything else keeps every byte."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from initcheck.findings import Edit, Substitute
from initcheck.fix.errors import EditError
from initcheck.fix.excerpt import Excerpt, whole
from initcheck.fix.imports import ImportChanger, with_statements
from initcheck.fix.insert import Inserter
from initcheck.fix.naming import Names
from initcheck.fix.plan import Plan, make_plan
from initcheck.fix.rewrite import CallRewriter
from initcheck.fix.style import Style, preferred_quote
from initcheck.fix.substitute import substituted
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
    substitutions = [edit for edit in wanted if isinstance(edit, Substitute)]
    if substitutions:
        if len(substitutions) < len(wanted):
            raise EditError("it cannot be made together with the fixes of other calls", substitutions[0])
        code = substituted(source, substitutions)
    else:
        plan = make_plan(source, wanted)
        names = Names(source)
        code = _with_imports(_with_edits(source, plan, names), source, plan, names)
    try:
        SourceFile.parse(path, code)
    except SourceError as error:
        raise EditError(f"the edited file would not parse: {error.message}") from None
    return code


def _with_edits(source: SourceFile, plan: Plan, names: Names) -> str:
    """The text with every call rewritten and every statement inserted; ``names`` learns what must be imported."""
    excerpt = Excerpt.around(source, plan.lines())
    wrapper = MetadataWrapper(excerpt.parse(), unsafe_skip_copy=True)
    style = Style(preferred_quote(source.text), names.spell)
    rewriter = CallRewriter(wrapper.module, names, style)
    editor = _Editor(plan, excerpt.offset, wrapper.resolve(PositionProvider), rewriter, Inserter(names, style))
    module = wrapper.module.visit(editor)
    editor.check_complete()
    return excerpt.restore(module)


def _with_imports(code: str, source: SourceFile, plan: Plan, names: Names) -> str:
    changer = ImportChanger(plan.beside(names), plan.unused(source), plan.renamed())
    if not changer.has_work and not names.statements:
        return code
    excerpt = whole(code)
    return excerpt.restore(with_statements(excerpt.parse().visit(changer), names.statements))


class _Editor(cst.CSTTransformer):
    """Replaces the planned nodes, innermost first."""

    def __init__(
        self,
        plan: Plan,
        offset: int,
        positions: Mapping[cst.CSTNode, CodeRange],
        rewriter: CallRewriter,
        inserter: Inserter,
    ) -> None:
        super().__init__()
        self._plan = plan
        self._offset = offset
        self._positions = positions
        self._rewriter = rewriter
        self._inserter = inserter
        self._open: dict[object, Edit] = {span: edit for span, (_, edit) in plan.rewrites.items()}
        self._open |= {start: found[0][1] for start, found in plan.insertions.items()}
        self._open |= {("behind", start): found[0][1] for start, found in plan.sequels.items()}

    def check_complete(self) -> None:
        """Raise EditError if a planned edit met no node (the two parsers disagree on a position)."""
        for edit in self._open.values():
            raise EditError(f"its place at line {edit.location.line} could not be found again", edit)

    def _span(self, node: cst.CSTNode) -> tuple[int, int, int, int]:
        first, last = self._positions[node].start, self._positions[node].end
        return (first.line + self._offset, first.column + 1, last.line + self._offset, last.column + 1)

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

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.RemovalSentinel | cst.FlattenSentinel[cst.BaseStatement]:
        if self._plan.removals and self._span(original_node.body[0])[:2] in self._plan.removals:
            return cst.RemoveFromParent()
        for start in [self._span(part)[:2] for part in original_node.body] if self._plan.sequels else ():
            if start in self._plan.sequels:
                self._open.pop(("behind", start), None)
                return cst.FlattenSentinel(self._inserter.behind(updated_node, self._plan.sequels[start]))
        return updated_node

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
        return (where.line + self._offset, where.column + 1 - len("class") - len(node.whitespace_after_class.value))
