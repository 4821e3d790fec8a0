"""Insert init statements: at the end of a class's ``__init__``, before code that itself initialises or loads weights;
or behind the assignment of a model that has no class of its own, or before it is returned."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

import libcst as cst

from initcheck.findings import InitStatement, InsertInit
from initcheck.fix.errors import EditError
from initcheck.fix.naming import Names
from initcheck.fix.style import Style
from initcheck.fix.target import TENSOR_METHODS

_MODEL_NAMES = ("model", "net", "network", "made_model")
_LOOP_NAMES = ("module", "layer", "submodule", "initialised_module")
# Methods that initialise, load or report: what is inserted must come before them, or it would undo their work.
_FINISHING = re.compile(r"init|reset|load|post_init|apply$|^_?print|tie_weights|^freeze|^log|^info$", re.IGNORECASE)
# Of them, those that come after an init that must have the last word.
_LOADING = re.compile(r"load|^_?print|tie_weights|^freeze|^log|^info$", re.IGNORECASE)
_WALKS = re.compile(r"^(named_)?(modules|parameters|children)$")


class Inserter:
    """Makes the new class body for an edit; ``names`` collects the imports that it needs."""

    def __init__(self, names: Names, style: Style) -> None:
        self._names = names
        self._style = style

    def insert(self, edit: InsertInit, original: ast.ClassDef, node: cst.ClassDef) -> cst.ClassDef:
        """``node`` with the statements of ``edit`` at the end of its ``__init__`` (made if there is none)."""
        body = _indented(node.body)
        init = _init_of(original)
        if init is None:
            return node.with_changes(body=self._with_new_init(edit, original, body))
        position = max(i for i, item in enumerate(body.body) if _is_init(item))
        function = body.body[position]
        assert isinstance(function, cst.FunctionDef)
        if not function.params.params and not function.params.posonly_params:
            raise EditError("its __init__ names no self", edit)
        self_name = (*function.params.posonly_params, *function.params.params)[0].name.value
        near = next((n for statement in init.body for n in ast.walk(statement) if isinstance(n, ast.expr)), None)
        used = {n.id for n in ast.walk(init) if isinstance(n, ast.Name)} | {
            a.arg for a in ast.walk(init.args) if isinstance(a, ast.arg)
        }
        inner = _indented(function.body)
        statements = self._statements(edit, self_name, used, near, inner.indent)
        at = _insertion_point(inner.body, _LOADING if edit.last else _FINISHING)
        loops = bool(edit.module_types or edit.over)
        if at > 0 and loops:
            statements[0] = statements[0].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        if at < len(inner.body) and loops and not _leading_lines(inner.body[at]):
            following = inner.body[at].with_changes(leading_lines=[cst.EmptyLine(indent=False)])
            rest: Sequence[cst.BaseStatement] = [following, *inner.body[at + 1 :]]
        else:
            rest = inner.body[at:]
        new_inner = inner.with_changes(body=_without_pass([*inner.body[:at], *statements, *rest]))
        new_function = function.with_changes(body=new_inner)
        items = [*body.body[:position], new_function, *body.body[position + 1 :]]
        return node.with_changes(body=body.with_changes(body=items))

    def behind(self, line: cst.SimpleStatementLine, edits: Sequence[tuple[str, InsertInit]]) -> list[cst.BaseStatement]:
        """A line that assigns a model to the variable of each edit, or returns one, with what is to follow it."""
        used = self._names.used()
        last = line.body[-1]
        variable, end = edits[0][0], []
        if isinstance(last, cst.Return):
            variable = next((name for name in _MODEL_NAMES if name not in used), "")
            if not variable or last.value is None or len(line.body) > 1:
                raise EditError("there is no free name for the model", edits[0][1])
            line = line.with_changes(body=[cst.Assign([cst.AssignTarget(cst.Name(variable))], last.value)])
            end = [cst.SimpleStatementLine([cst.Return(cst.Name(variable))])]
        inserted = [self._statements(edit, variable, used | {variable}, None, None) for _, edit in edits]
        return [line, *(statement for each in inserted for statement in each), *end]

    def _with_new_init(self, edit: InsertInit, original: ast.ClassDef, body: cst.IndentedBlock) -> cst.IndentedBlock:
        near = next((n for statement in original.body for n in ast.walk(statement) if isinstance(n, ast.expr)), None)
        function = cst.parse_statement("def __init__(self, *args, **kwargs):\n    super().__init__(*args, **kwargs)\n")
        assert isinstance(function, cst.FunctionDef)
        assert isinstance(function.body, cst.IndentedBlock)
        statements = self._statements(edit, "self", {"self", "args", "kwargs"}, near, body.indent)
        inner = function.body.with_changes(body=[*function.body.body, *statements], indent=body.indent)
        items = _without_pass(body.body)
        at = next((i for i, item in enumerate(items) if isinstance(item, cst.FunctionDef)), len(items))
        blank = [cst.EmptyLine(indent=False)]
        function = function.with_changes(body=inner, leading_lines=blank if at > 0 else [])
        following = list(items[at:])
        if following and not _leading_lines(following[0]):
            following[0] = following[0].with_changes(leading_lines=blank)
        return body.with_changes(body=[*items[:at], function, *following])

    def _statements(
        self, edit: InsertInit, self_name: str, used: set[str], near: ast.expr | None, indent: str | None
    ) -> list[cst.BaseStatement]:
        if not edit.statements:
            raise EditError("there is nothing to insert", edit)
        if not edit.module_types and not edit.over:
            return [self._line(statement, statement.target, self_name, near) for statement in edit.statements]
        variable = next((name for name in _LOOP_NAMES if name not in used), None)
        if variable is None:
            raise EditError("there is no free name for the loop variable", edit)
        lines: list[cst.BaseStatement] = []
        for statement in edit.statements:
            target = re.sub(r"^module\b", variable, statement.target)
            line = self._line(statement, target, self_name, near)
            lines.append(_guarded(target, line, indent) if edit.module_types and target.endswith(".bias") else line)
        if edit.over:
            items = cst.parse_expression(re.sub(r"^self\b", self_name, edit.over))
            return [cst.For(cst.Name(variable), items, cst.IndentedBlock(lines, indent=indent))]
        types = [self._style.expression(text, near) for text in edit.module_types]
        kinds: cst.BaseExpression = types[0] if len(types) == 1 else _tuple(types)
        test = cst.Call(
            cst.Name("isinstance"),
            [cst.Arg(cst.Name(variable), comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))), cst.Arg(kinds)],
        )
        condition = cst.If(test, cst.IndentedBlock(lines, indent=indent))
        modules = cst.Call(cst.Attribute(cst.Name(self_name), cst.Name("modules")))
        return [cst.For(cst.Name(variable), modules, cst.IndentedBlock([condition], indent=indent))]

    def _line(self, statement: InitStatement, target: str, self_name: str, near: ast.expr | None) -> cst.BaseStatement:
        if self_name != "self":
            target = re.sub(r"^self\b", self_name, target)
        function = cst.parse_expression(self._names.spell(f"torch.nn.init.{statement.function}", near))
        args = [cst.Arg(cst.parse_expression(target))]
        for keyword, text in statement.arguments:
            equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
            args.append(cst.Arg(self._style.expression(text, near), keyword=cst.Name(keyword), equal=equal))
        comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        args = [*(arg.with_changes(comma=comma) for arg in args[:-1]), args[-1]]
        return cst.SimpleStatementLine([cst.Expr(cst.Call(function, args))])


def _tuple(items: Iterable[cst.BaseExpression]) -> cst.Tuple:
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    elements = [cst.Element(item, comma=comma) for item in items]
    elements[-1] = elements[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return cst.Tuple(elements)


def _guarded(target: str, line: cst.BaseStatement, indent: str | None) -> cst.If:
    """``if module.bias is not None:`` (layers are often made with ``bias=False``)."""
    return cst.If(cst.parse_expression(f"{target} is not None"), cst.IndentedBlock([line], indent=indent))


def _indented(body: cst.BaseSuite) -> cst.IndentedBlock:
    """A body of its own lines, also for ``class A: pass``."""
    if isinstance(body, cst.IndentedBlock):
        return body
    assert isinstance(body, cst.SimpleStatementSuite)
    lines = [cst.SimpleStatementLine([part.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)]) for part in body.body]
    lines[-1] = lines[-1].with_changes(trailing_whitespace=body.trailing_whitespace)
    return cst.IndentedBlock(lines)


def _init_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    found = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return found[-1] if found else None


def _is_init(item: cst.CSTNode) -> bool:
    return isinstance(item, cst.FunctionDef) and item.name.value == "__init__"


def _leading_lines(node: cst.CSTNode) -> Sequence[cst.EmptyLine]:
    return getattr(node, "leading_lines", ())


def _without_pass(body: Sequence[cst.BaseStatement]) -> list[cst.BaseStatement]:
    kept = [item for item in body if not _is_simple(item, cst.Pass)]
    return kept if kept else []


def _is_simple(item: cst.CSTNode, kind: type[cst.CSTNode]) -> bool:
    return isinstance(item, cst.SimpleStatementLine) and len(item.body) == 1 and isinstance(item.body[0], kind)


def _insertion_point(body: Sequence[cst.BaseStatement], finishing: re.Pattern[str]) -> int:
    """After the last statement that can add a layer: what finishes the object (init, loading, logging) stays last."""
    at = len(body)
    while at > 0 and _finishes(body[at - 1], finishing):
        at -= 1
    return at


def _finishes(item: cst.CSTNode, finishing: re.Pattern[str]) -> bool:
    if isinstance(item, (cst.For, cst.With, cst.If)):
        return _finishing_block(item, finishing)
    if not isinstance(item, cst.SimpleStatementLine):
        return False
    return all(_finishes_simply(part, finishing) for part in item.body)


def _finishing_block(item: cst.For | cst.With | cst.If, finishing: re.Pattern[str]) -> bool:
    """A loop over ``self.modules()``, ``with torch.no_grad():``, ``if pretrained:`` around finishing statements."""
    if isinstance(item, cst.For):
        calls = item.iter
        walks = isinstance(calls, cst.Call) and bool(_WALKS.match(_last_name(calls.func)))
        return walks and finishing is _FINISHING
    if isinstance(item, cst.If) and item.orelse is not None:
        return False
    return all(_finishes(part, finishing) for part in _indented(item.body).body)


def _finishes_simply(part: cst.CSTNode, finishing: re.Pattern[str]) -> bool:
    if isinstance(part, cst.Return):
        return True
    if not isinstance(part, cst.Expr) or not isinstance(part.value, cst.Call):
        return False
    name = _last_name(part.value.func)
    initialises = finishing is _FINISHING and (name in TENSOR_METHODS or name.endswith("_"))
    return name != "__init__" and (initialises or bool(finishing.search(name)))


def _last_name(func: cst.BaseExpression) -> str:
    if isinstance(func, cst.Attribute):
        return func.attr.value if not _in_init_module(func) else func.attr.value + "_"
    return func.value if isinstance(func, cst.Name) else ""


def _in_init_module(func: cst.Attribute) -> bool:
    """``nn.init.xavier_uniform``: a deprecated name initialises as well."""
    base = func.value
    return (isinstance(base, cst.Attribute) and base.attr.value == "init") or (
        isinstance(base, cst.Name) and base.value == "init"
    )
