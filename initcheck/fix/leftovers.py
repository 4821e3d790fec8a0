"""What a rewrite leaves behind when it drops arguments: assignments, and parameters of helpers, that only fed them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from initcheck.findings import RewriteCall
from initcheck.fix.errors import EditError
from initcheck.fix.target import Kind, Target
from initcheck.source.file import SourceFile

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_PURE = (
    *(ast.BinOp, ast.UnaryOp, ast.Attribute, ast.Subscript, ast.Name, ast.Constant, ast.Tuple, ast.IfExp, ast.Call),
    *(ast.operator, ast.unaryop, ast.expr_context, ast.keyword),
)
_PURE_FUNCTIONS = frozenset(
    {"sqrt", "pow", "log", "exp", "prod", "size", "numel", "dim", "len", "float", "int", "max", "min", "abs", "sum"}
    | {"calculate_gain", "_calculate_fan_in_and_fan_out", "_calculate_correct_fan"}
)
"""By last name; ``math.sqrt``, ``np.prod``, ``weight.size``."""


def leftovers(source: SourceFile, rewritten: Iterable[tuple[Target, RewriteCall]]) -> list[ast.Assign]:
    """Assignments to a local name, without side effects, that nothing reads once the arguments are gone.

    Raises:
        EditError: a parameter of a function would be read no more; what its callers ask for would be ignored.
    """
    pairs = list(rewritten)
    arguments = [argument for target, edit in pairs for argument in _dropped(target, edit)]
    dropped = {id(node) for argument in arguments for node in ast.walk(argument)}
    if not dropped:
        return []
    functions = [node for node in ast.walk(source.tree) if isinstance(node, _FUNCTION)]
    for function in functions:
        _check_parameters(function, dropped, pairs[0][1])
    return [found for function in functions for found in _idle(source, function, dropped)]


def _check_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, dropped: set[int], edit: RewriteCall) -> None:
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
        reads = [id(node) in dropped for node in names if node.id == argument.arg]
        if reads and all(reads):
            raise EditError(
                f"parameter {argument.arg} of {function.name} would be without effect; "
                f"give {function.name} another {argument.arg} where it is called",
                edit,
            )


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
    """``name = <expression without side effects>``."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    target = node.targets[0]
    return isinstance(target, ast.Name) and target.id == name and all(map(_is_pure, ast.walk(node.value)))


def _is_pure(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        function = node.func
        last = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return last in _PURE_FUNCTIONS
    return isinstance(node, _PURE)


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
