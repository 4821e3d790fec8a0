"""Rewrite one init call: another function, other arguments, the same target, the same layout."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import libcst as cst

from initcheck.findings import RewriteCall
from initcheck.fix.errors import EditError
from initcheck.fix.naming import Names
from initcheck.fix.style import Style
from initcheck.fix.target import Kind, Target

_LINE = 100
"""A call that was broken over lines is joined again only if it then fits in this many columns."""

_WITHOUT_GENERATOR = frozenset({"constant_", "ones_", "zeros_", "eye_", "dirac_"})
_SPACE = cst.SimpleWhitespace(" ")
_NOTHING = cst.SimpleWhitespace("")
_Whitespace = cst.BaseParenthesizableWhitespace


class CallRewriter:
    """Makes the new expression for a target; ``names`` collects the imports that it needs."""

    def __init__(self, module: cst.Module, names: Names, style: Style) -> None:
        self._module = module
        self._names = names
        self._style = style

    def rewrite(self, target: Target, edit: RewriteCall, node: cst.BaseExpression) -> cst.BaseExpression:
        """The expression that replaces ``node`` (the target, with edits inside it already made).

        Raises:
            EditError: if the call is written in a way that cannot be rewritten without guessing.
        """
        if target.kind is Kind.REFERENCE:
            return self._reference(target, edit, node)
        assert isinstance(node, cst.Call)
        assert isinstance(target.node, ast.Call)
        new = {
            Kind.INIT_CALL: self._init_call,
            Kind.METHOD_CALL: self._method_call,
            Kind.FACTORY_CALL: self._factory_call,
        }[target.kind](target.node, edit, node)
        return new

    def _reference(self, target: Target, edit: RewriteCall, node: cst.BaseExpression) -> cst.BaseExpression:
        if edit.arguments:
            raise EditError("the function is passed on by name: its arguments are given elsewhere", edit)
        assert isinstance(target.node, ast.expr)
        new = cst.parse_expression(self._names.replacement(target.node, edit.function))
        if isinstance(node, cst.Attribute) and isinstance(new, cst.Attribute):
            return node.with_changes(attr=new.attr)
        return new

    def _init_call(self, call: ast.Call, edit: RewriteCall, node: cst.Call) -> cst.Call:
        func = _renamed(node.func, self._names.replacement(call.func, edit.function))
        if edit.arguments is None:
            return node.with_changes(func=func)
        first = _first_argument(node, edit)
        return self._with_arguments(node, func, first, call, edit)

    def _method_call(self, call: ast.Call, edit: RewriteCall, node: cst.Call) -> cst.Call:
        assert isinstance(call.func, ast.Attribute)
        assert isinstance(node.func, cst.Attribute)
        tensor = node.func.value
        if isinstance(tensor, cst.Attribute) and tensor.attr.value == "data":
            tensor = tensor.value
        func = cst.parse_expression(self._names.spell(f"torch.nn.init.{edit.function}", call.func))
        if edit.arguments is None:
            raise EditError("a tensor method cannot be renamed without new arguments", edit)
        call_of_init = node.with_changes(args=[cst.Arg(tensor.with_changes(lpar=[], rpar=[])), *node.args])
        if node.args:  # the tensor takes the layout of what were the method's own arguments
            separator = _comma(node.args[0], node.whitespace_before_args)
            call_of_init = call_of_init.with_changes(
                args=[call_of_init.args[0].with_changes(comma=separator), *node.args]
            )
        return self._with_arguments(call_of_init, func, call_of_init.args[0], call, edit)

    def _factory_call(self, call: ast.Call, edit: RewriteCall, node: cst.Call) -> cst.Call:
        """``torch.zeros(3, 4)`` becomes ``nn.init.<function>(torch.empty(3, 4), ...)``."""
        name = self._names.source.imports.resolve(call.func) or ""
        if any(isinstance(arg, (ast.List, ast.Tuple)) for arg in call.args) and name.endswith("Tensor"):
            raise EditError("the tensor is made from data", edit)
        args = list(node.args)
        if name == "torch.full":
            args = [args[0], *(arg for arg in args[2:])]
            args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        empty = cst.parse_expression(self._names.spell("torch.empty", call.func))
        inner = node.with_changes(func=empty, args=args, lpar=[], rpar=[])
        func = cst.parse_expression(self._names.spell(f"torch.nn.init.{edit.function}", call.func))
        new = [cst.Arg(inner), *self._new_arguments(edit, call, [])]
        return cst.Call(func=func, args=_inline(new), lpar=node.lpar, rpar=node.rpar)

    def _with_arguments(
        self, node: cst.Call, func: cst.BaseExpression, first: cst.Arg, call: ast.Call, edit: RewriteCall
    ) -> cst.Call:
        others = [arg for arg in node.args if arg is not first]
        if any(arg.star for arg in others):
            raise EditError("its arguments are unpacked from a variable", edit)
        new = [first, *self._new_arguments(edit, call, others)]
        if _is_multiline(node) and not _breaks(node.whitespace_before_args) and not _has_comment(node):
            # Aligned under the opening parenthesis, which moves with the function's name: better one line, if it fits.
            joined = node.with_changes(func=func, args=_inline(new))
            if self._fits(joined, call.col_offset):
                return joined
        return node.with_changes(func=func, args=_laid_out(node, new))

    def _fits(self, node: cst.Call, column: int) -> bool:
        code = self._module.code_for_node(node)
        return "\n" not in code and column + len(code) <= _LINE

    def _new_arguments(self, edit: RewriteCall, call: ast.Call, old: Sequence[cst.Arg]) -> list[cst.Arg]:
        by_keyword = {arg.keyword.value: arg for arg in old if arg.keyword is not None}
        new = []
        for keyword, text in edit.arguments or ():
            value = self._style.expression(text, call.func)
            arg = by_keyword.pop(keyword, None)
            new.append(arg.with_changes(value=value) if arg is not None else _keyword(keyword, value))
        generator = by_keyword.get("generator")
        if generator is not None and edit.function not in _WITHOUT_GENERATOR:
            new.append(generator)
        return new


def _renamed(func: cst.BaseExpression, name: str) -> cst.BaseExpression:
    new = cst.parse_expression(name)
    if isinstance(func, cst.Attribute) and isinstance(new, cst.Attribute):
        return func.with_changes(attr=new.attr)
    return new


def _first_argument(node: cst.Call, edit: RewriteCall) -> cst.Arg:
    """The tensor: given by keyword, else the first argument."""
    for arg in node.args:
        if arg.keyword is not None and arg.keyword.value == "tensor":
            return arg
    if not node.args or node.args[0].star or node.args[0].keyword is not None:
        raise EditError("its target is not written in the call", edit)
    return node.args[0]


def _keyword(name: str, value: cst.BaseExpression) -> cst.Arg:
    return cst.Arg(
        value,
        keyword=cst.Name(name),
        equal=cst.AssignEqual(whitespace_before=_NOTHING, whitespace_after=_NOTHING),
    )


# -- layout ----------------------------------------------------------------------------------------------------------


def _inline(args: Sequence[cst.Arg]) -> list[cst.Arg]:
    """All on one line, without a trailing comma."""
    bare = [arg.with_changes(whitespace_after_arg=_NOTHING, comma=cst.MaybeSentinel.DEFAULT) for arg in args]
    return [*(arg.with_changes(comma=cst.Comma(whitespace_after=_SPACE)) for arg in bare[:-1]), bare[-1]]


def _laid_out(node: cst.Call, new: Sequence[cst.Arg]) -> list[cst.Arg]:
    """Over several lines as ``node`` was; what follows a kept argument (a comment) stays with it."""
    old = node.args
    last = old[-1]
    trailing = isinstance(last.comma, cst.Comma)
    closing = _after(last)
    before = node.whitespace_before_args
    separator = _after(old[0]) if len(old) > 1 else before if _breaks(before) else _SPACE
    kept = {id(arg.keyword) if arg.keyword else id(arg): arg for arg in old}
    result = []
    for index, arg in enumerate(new):
        was = kept.get(id(arg.keyword) if arg.keyword else id(arg))
        comment = _first_line(_after(was)) if was is not None else None
        final = index == len(new) - 1
        space = _with_first_line(closing if final else separator, comment)
        if final and not trailing:
            result.append(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT, whitespace_after_arg=space))
        else:
            result.append(arg.with_changes(comma=cst.Comma(whitespace_after=space), whitespace_after_arg=_NOTHING))
    return result


def _after(arg: cst.Arg) -> _Whitespace:
    return arg.comma.whitespace_after if isinstance(arg.comma, cst.Comma) else arg.whitespace_after_arg


def _comma(like: cst.Arg, before: _Whitespace) -> cst.Comma:
    if isinstance(like.comma, cst.Comma):
        return cst.Comma(whitespace_after=_with_first_line(like.comma.whitespace_after, None))
    return cst.Comma(whitespace_after=before if _breaks(before) else _SPACE)


def _breaks(space: _Whitespace) -> bool:
    return isinstance(space, cst.ParenthesizedWhitespace)


def _first_line(space: _Whitespace) -> cst.TrailingWhitespace | None:
    return space.first_line if isinstance(space, cst.ParenthesizedWhitespace) else None


def _with_first_line(space: _Whitespace, line: cst.TrailingWhitespace | None) -> _Whitespace:
    """``space`` with the end of its first line (where a comment stands) replaced, or without a comment."""
    if not isinstance(space, cst.ParenthesizedWhitespace):
        if line is None or line.comment is None:
            return space
        return cst.ParenthesizedWhitespace(first_line=line, indent=True)
    plain = cst.TrailingWhitespace(newline=space.first_line.newline)
    return space.with_changes(first_line=line or plain, empty_lines=[])


def _is_multiline(node: cst.Call) -> bool:
    return _breaks(node.whitespace_before_args) or any(_breaks(_after(arg)) for arg in node.args)


def _has_comment(node: cst.Call) -> bool:
    spaces = [node.whitespace_before_args, *map(_after, node.args)]
    return any(isinstance(space, cst.ParenthesizedWhitespace) and space.first_line.comment for space in spaces)
