"""IC305: weights drawn from [0, b), so that every unit starts as nearly the same sum of its inputs."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Location, Substitute
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.ic101_uninitialised_parameter import touched
from initcheck.rules.writes import call_location, counted, final_write, layer_location, listed

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.source.file import SourceFile

CODE = "IC305"

_PARAMETER = frozenset({"torch.nn.Parameter", "torch.nn.parameter.Parameter"})
_DRAWS = ("rand", "rand_like")
_RAND = frozenset({"torch.rand", "torch.rand_like"})
_WEIGHT = re.compile(r"(?:.*_)?(?:weights?|kernel|theta|w)_?\d*", re.I)
_SCALARS = re.compile(r"bias|gain|scale|gamma|beta|alpha|temperature|mask|prior", re.I)
_LEAST_FAN = 8
"""Shorter sums do not tell a common part from chance."""

_ROUNDING = 1e-6


# -- from the source: nn.Parameter(scale * torch.rand(...)) ----------------------------------------------------------


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Parameters that are called a weight, made of ``torch.rand`` times numbers, and that nothing else writes."""
    if "rand(" not in source.text or "Parameter(" not in source.text:
        return
    found = list(_creations(source))
    if not found:
        return
    written = touched(source, {name for _, name, _ in found})
    classes = [node for _, node in source.classes]
    groups: dict[int, list[tuple[ast.Assign, str, ast.Call]]] = defaultdict(list)
    for creation in found:
        if creation[1] not in written:
            line = creation[0].lineno
            owner = max((c.lineno for c in classes if c.lineno <= line <= (c.end_lineno or line)), default=0)
            groups[owner].append(creation)
    for creations in groups.values():
        yield _finding(source, creations)


def _creations(source: SourceFile) -> Iterator[tuple[ast.Assign, str, ast.Call]]:
    imports = source.imports
    for node, _ in source.survey.near_both(imports.mentions(_DRAWS), imports.mentions(("Parameter",))).assigns:
        if len(node.targets) != 1 or not isinstance(node.value, ast.Call):
            continue
        target, value = node.targets[0], node.value
        if not isinstance(target, ast.Attribute) or imports.resolve(value.func) not in _PARAMETER:
            continue
        if not value.args or any(k.arg == "requires_grad" for k in value.keywords):
            continue
        draw = _positive(source, value.args[0])
        if (
            draw is not None
            and _WEIGHT.fullmatch(target.attr)
            and not _SCALARS.search(target.attr)
            and _is_matrix(draw)
        ):
            yield node, target.attr, draw


def _positive(source: SourceFile, expression: ast.expr) -> ast.Call | None:
    """The draw of ``scale * torch.rand(...)``, a product or quotient; None for anything else."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, (ast.Mult, ast.Div)):
        left = _positive(source, expression.left)
        return left if left is not None or isinstance(expression.op, ast.Div) else _positive(source, expression.right)
    if isinstance(expression, ast.Call) and source.imports.resolve(expression.func) in _RAND:
        return expression
    return None


def _is_matrix(draw: ast.Call) -> bool:
    """At least two sizes that are not literally one."""
    sizes = draw.args[0].elts if len(draw.args) == 1 and isinstance(draw.args[0], (ast.Tuple, ast.List)) else draw.args
    return sum(not (isinstance(size, ast.Constant) and size.value == 1) for size in sizes) >= 2


def _finding(source: SourceFile, creations: list[tuple[ast.Assign, str, ast.Call]]) -> Finding:
    """One finding for the class: its weights are drawn alike."""
    node, name, first = creations[0]
    draws = [draw for _, _, draw in creations]
    edits = [edit for draw in draws for edit in _centred(source, draw)]
    names = listed([f"`self.{name}`" for _, name, _ in creations])
    return finding(
        CODE,
        f"{names} {'is' if len(draws) == 1 else 'are'} drawn by torch.rand from [0, 1), times a factor: the mean is "
        "0.87 of the rms, so that three quarters of what is computed with it are the same for every unit",
        source.location(node),
        parameter=name,
        suggestion=edits[0].text if edits else f"torch.randn in place of {ast.unparse(first.func)}: its mean is zero",
        fix=Fix("centre the weights", tuple(edits)) if len(edits) == len(draws) else None,
        weights=len(draws),
    )


def _centred(source: SourceFile, draw: ast.Call) -> Iterator[Substitute]:
    """``(torch.rand(...) - 0.5)``, for a real draw on one line."""
    where = source.location(draw)
    if where.line == where.end_line and not re.search(r"cfloat|complex|cdouble", ast.unparse(draw)):
        text = source.lines[where.line - 1][where.column - 1 : where.end_column - 1]
        yield Substitute(where, f"({text} - 0.5)")


# -- from the model --------------------------------------------------------------------------------------------------


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Weights of sums over at least eight inputs whose elements are all of one sign."""
    from initcheck.rules.scale import structure_of

    said = {f.location.line for f in check_source(context.source)} if context.source is not None else set()
    groups: dict[Location, list[WeightUse]] = defaultdict(list)
    for use in structure_of(context).by_parameter().values():
        drawn = use.record.distribution
        if not use.on_signal or not use.record.requires_grad or not drawn.known or not drawn.std > 0:
            continue
        none = _ROUNDING * drawn.std
        one_sided = (drawn.low is not None and drawn.low >= -none) or (drawn.high is not None and drawn.high <= none)
        if drawn.kind not in ("uniform", "measured") or not one_sided or use.fans.fan_in < _LEAST_FAN:
            continue
        if abs(drawn.mean) < drawn.std or use.record.equal_rows or use.record.equal_columns:
            continue
        write = final_write(use.record)
        where = call_location(write, context) if write is not None else layer_location(use.record, context)
        if where.line not in said:
            groups[where].append(use)
    for where, uses in groups.items():
        yield _model_finding(context, where, uses)


def _model_finding(context: ModelContext, where: Location, uses: list[WeightUse]) -> Finding:
    use = uses[0]
    drawn = use.record.distribution
    also = f" ({counted(len(uses), 'weight')})" if len(uses) > 1 else ""
    share = drawn.mean**2 / drawn.second_moment
    return finding(
        CODE,
        f"all elements of `{use.record.name}`{also} have one sign: mean {drawn.mean:.2g}, std {drawn.std:.2g}, so that "
        f"{share:.0%} of what it computes is the same for every unit",
        where,
        model=context.trace.model,
        parameter=use.record.name,
        evidence=(
            f"y_j = mean * sum(x) + sum((w_j - mean) x): over {use.fans.fan_in:g} inputs the common part has "
            f"{drawn.mean**2 / drawn.std**2:.1f} times the variance of the units' own, more if the inputs are positive",
        ),
        suggestion="draw symmetrically about zero: uniform_(w, -b, b), or randn in place of rand",
        share=share,
    )
