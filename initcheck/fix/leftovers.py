"""Assignments that only fed arguments which a rewrite drops: ``n = k * k * c`` before ``normal_(0, sqrt(2 / n))``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from initcheck.findings import RewriteCall
from initcheck.fix.target import Kind, Target
from initcheck.source.file import SourceFile

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_PURE = (ast.BinOp, ast.UnaryOp, ast.Attribute, ast.Subscript, ast.Name, ast.Constant, ast.Tuple, ast.operator)
_PURE_TOO = (ast.unaryop, ast.expr_context)


def leftovers(source: SourceFile, rewritten: Iterable[tuple[Target, RewriteCall]]) -> list[ast.Assign]:
    """Assignments to a local name, without side effects, that nothing reads once the arguments are gone."""
    arguments = [argument for target, edit in rewritten for argument in _dropped(target, edit)]
    dropped = {id(node) for argument in arguments for node in ast.walk(argument)}
    functions = (node for node in ast.walk(source.tree) if isinstance(node, _FUNCTION))
    return [found for function in functions for found in _idle(source, function, dropped)] if dropped else []


def _dropped(target: Target, edit: RewriteCall) -> list[ast.expr]:
    """The arguments that the rewrite replaces: all, but for the tensor of a function of ``torch.nn.init``."""
    call = target.node
    if edit.arguments is None or not isinstance(call, ast.Call):
        return []
    if target.kind is Kind.METHOD_CALL:
        return [*call.args, *(keyword.value for keyword in call.keywords)]
    if target.kind is Kind.INIT_CALL:
        return [*call.args[1:], *(k.value for k in call.keywords if k.arg not in ("tensor", "generator"))]
    return []


def _idle(source: SourceFile, function: ast.AST, dropped: set[int]) -> Iterator[ast.Assign]:
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    used_by_calls = {node.id for node in names if id(node) in dropped}
    declared = {n for node in ast.walk(function) if isinstance(node, (ast.Global, ast.Nonlocal)) for n in node.names}
    for name in sorted(used_by_calls - declared):
        reads = [node for node in names if node.id == name and not isinstance(node.ctx, ast.Store)]
        if any(id(node) not in dropped for node in reads):
            continue
        writes = [node for node in names if node.id == name and isinstance(node.ctx, ast.Store)]
        statements = [s for s in ast.walk(function) if _assigns(s, name)]
        if len(writes) == len(statements) and all(_alone(source, s) and _has_siblings(function, s) for s in statements):
            yield from (s for s in statements if isinstance(s, ast.Assign))


def _assigns(node: ast.AST, name: str) -> bool:
    """``name = <expression without calls>``."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    target = node.targets[0]
    pure = all(isinstance(part, (*_PURE, *_PURE_TOO)) for part in ast.walk(node.value))
    return isinstance(target, ast.Name) and target.id == name and pure


def _alone(source: SourceFile, statement: ast.AST) -> bool:
    """Whether the statement has its lines to itself."""
    assert isinstance(statement, ast.Assign)
    where = source.location(statement)
    before = source.lines[where.line - 1][: where.column - 1]
    after = source.lines[where.end_line - 1][where.end_column - 1 :]
    return not before.strip() and not after.strip()


def _has_siblings(function: ast.AST, statement: ast.AST) -> bool:
    """Whether its block holds anything else."""
    blocks = (
        block
        for node in ast.walk(function)
        for block in (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
        if isinstance(block, list)
    )
    return any(statement in block and len(block) > 1 for block in blocks)
