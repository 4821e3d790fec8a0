"""IC802: a number that lands in the wrong parameter of an initialiser or of a norm layer."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, RewriteCall, Severity
from initcheck.rules.base import finding
from initcheck.rules.source_index import InitWrite, init_writes, layer_type, literal, norm_calls, text_of

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC802"

_MODES = ("fan_in", "fan_out")
_LARGEST_EPS = 0.05
"""Norm layers are given eps of 1e-12 to 1e-2; keras-style momenta (0.8, 0.99) are far above."""
_SMALL_STD = 0.2
"""``normal_(w, .02)``: no one wants a mean of .02 with a std of 1; ``normal_(w, 1.)`` may be meant."""


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Init calls first, then constructions of norm layers."""
    for write in init_writes(source):
        yield from _check_write(source, write)
    for call in norm_calls(source):
        yield from _check_norm(source, call)


def _check_write(source: SourceFile, write: InitWrite) -> Iterator[Finding]:
    for check in (_string, _gain_as_mean, _std_as_mean, _scaled_slope):
        found = check(source, write)
        if found is not None:
            yield found
            return


def _is_gain(source: SourceFile, expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and source.imports.resolve(expression.func) == (
        "torch.nn.init.calculate_gain"
    )


def _finding(
    source: SourceFile, write: InitWrite, message: str, arguments: tuple[tuple[str, str], ...] | None
) -> Finding:
    where = source.location(write.node)
    name = write.function
    if arguments is None:
        return finding(CODE, message, where)
    call = f"{name}({', '.join(f'{key}={value}' for key, value in arguments)})"
    fix = Fix("give the argument by name", (RewriteCall(where, name, arguments),))
    return finding(CODE, message, where, suggestion=call, fix=fix)


def _string(source: SourceFile, write: InitWrite) -> Finding | None:
    """``kaiming_normal_(w, "fan_out")``: the mode or nonlinearity given where a number is expected."""
    name = {"kaiming": "a", "xavier": "gain", "orthogonal": "gain"}.get(write.function.partition("_")[0])
    value = write.arguments.get(name) if name else None
    if not (isinstance(value, ast.Constant) and isinstance(value.value, str)):
        return None
    arguments: tuple[tuple[str, str], ...]
    if name == "gain":
        arguments = (("gain", f"nn.init.calculate_gain({value.value!r})"),)
    else:
        key = "mode" if value.value in _MODES else "nonlinearity"
        given = {k: ast.unparse(v) for k, v in write.arguments.items() if k != "a"} | {key: repr(value.value)}
        arguments = tuple(given.items())
    message = f"the string {value.value!r} is given as `{name}`, a number, of `{write.function}`"
    return _finding(source, write, message, arguments)


def _gain_as_mean(source: SourceFile, write: InitWrite) -> Finding | None:
    """``normal_(w, calculate_gain("relu"))``: the gain becomes the mean; ``kaiming_*(w, gain)``: the slope."""
    parameter = {"normal_": "mean", "trunc_normal_": "mean", "uniform_": "a"}.get(write.function)
    if write.function.startswith("kaiming_"):
        parameter = "a"
    value = write.arguments.get(parameter) if parameter else None
    if value is None or not _is_gain(source, value):
        return None
    what = "the negative slope" if write.function.startswith("kaiming_") else "the mean"
    if parameter == "a" and write.function == "uniform_":
        what = "the lower bound"
    message = (
        f"`{text_of(value)}` is given as `{parameter}` of `{write.function}`: the gain becomes {what} of the weights"
    )
    if write.function.startswith("kaiming_"):
        message = f"`{text_of(value)}` is given as `a` of `{write.function}`: a is the negative slope, not the gain"
        assert isinstance(value, ast.Call)
        return _finding(source, write, message, (("nonlinearity", ast.unparse(value.args[0])),) if value.args else None)
    where = source.location(write.node)
    function = "xavier_uniform_" if write.function == "uniform_" else "xavier_normal_"
    arguments = (("gain", ast.unparse(value)),)
    fix = None if write.is_method else Fix("use the gain as a gain", (RewriteCall(where, function, arguments),))
    return finding(CODE, message, where, suggestion=f"{function}(gain={ast.unparse(value)})", fix=fix)


def _std_as_mean(source: SourceFile, write: InitWrite) -> Finding | None:
    """``normal_(w, .02)``: mean .02 and std 1."""
    if write.function not in ("normal_", "trunc_normal_") or write.positional != 1:
        return None
    arguments = write.arguments
    if set(arguments) != {"mean"}:
        return None
    value = literal(arguments["mean"])
    if value is None:
        if not _is_scale(source, arguments["mean"]):
            return None
    elif not 0 < value <= _SMALL_STD:
        return None
    shown = f"{value:g}" if value is not None else text_of(arguments["mean"])
    message = f"`{text_of(write.node)}` draws with mean {shown} and std 1: the second argument is the mean"
    return _finding(source, write, message, (("mean", "0.0"), ("std", ast.unparse(arguments["mean"]))))


def _scaled_slope(source: SourceFile, write: InitWrite) -> Finding | None:
    """``kaiming_uniform_(w, a=math.sqrt(5) * scale)``: ``a`` is a slope, so a larger scale gives smaller weights."""
    value = write.arguments.get("a")
    if not write.function.startswith("kaiming_") or value is None:
        return None
    if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Mult, ast.Div)):
        sides = (value.left, value.right)
        roots = [side for side in sides if _is_sqrt(source, side)]
        others = [side for side in sides if side not in roots]
        if roots and others and literal(others[0]) is None:
            return _finding(
                source,
                write,
                f"`a={text_of(value)}` scales the negative slope: the std is sqrt(2 / ((1 + a^2) fan_in)), so a larger "
                f"`{text_of(others[0])}` gives smaller weights",
                None,
            )
    slope = _value(source, value)
    if slope is not None and abs(slope - math.sqrt(2)) < 1e-3:
        return _finding(
            source,
            write,
            f"`a={text_of(value)}` is the gain of ReLU given as the negative slope: the std is "
            "sqrt(2 / ((1 + a^2) fan_in)), 0.58 of what ReLU needs",
            (("nonlinearity", "'relu'"),),
        )
    return None


def _is_scale(source: SourceFile, expression: ast.expr) -> bool:
    """Whether an expression is a std by its name, or divides by, or takes, a square root."""
    if isinstance(expression, (ast.Name, ast.Attribute)):
        return ast.unparse(expression).rpartition(".")[2].lower().endswith("std")
    return any(
        _is_sqrt(source, node)
        or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and literal(node.right) in (0.5, -0.5))
        for node in ast.walk(expression)
        if isinstance(node, ast.expr)
    )


def _is_sqrt(source: SourceFile, expression: ast.expr) -> bool:
    return (
        isinstance(expression, ast.Call)
        and (source.imports.resolve(expression.func) or "").rpartition(".")[2] == "sqrt"
        and len(expression.args) == 1
    )


def _value(source: SourceFile, expression: ast.expr) -> float | None:
    """Of a literal number, or the square root of one."""
    if _is_sqrt(source, expression):
        assert isinstance(expression, ast.Call)
        inner = literal(expression.args[0])
        return math.sqrt(inner) if inner is not None and inner >= 0 else None
    return literal(expression)


def _check_norm(source: SourceFile, call: ast.Call) -> Iterator[Finding]:
    """``BatchNorm2d(64, 0.8)``: eps is .8, where a momentum was meant."""
    kind = layer_type(source, call)
    if kind is None or not kind.endswith(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LayerNorm")):
        return
    value = next((k.value for k in call.keywords if k.arg == "eps"), None)
    if value is None and len(call.args) >= 2 and not isinstance(call.args[1], ast.Starred):
        value = call.args[1]
    if value is None:
        return
    eps = literal(value)
    named_momentum = isinstance(value, (ast.Name, ast.Attribute)) and "momentum" in ast.unparse(value).lower()
    if not named_momentum and (eps is None or not _LARGEST_EPS <= eps < 1.5):
        return
    shown = ast.unparse(value)
    is_batch = "BatchNorm" in kind
    consequence = (
        f"it outputs a std of {1 / math.sqrt(1 + eps):.2f} for an input of variance 1, of "
        f"{math.sqrt(0.01 / (0.01 + eps)):.2f} for one of variance .01"
        if eps is not None
        else "the variance is drowned in it"
    )
    momentum = (
        f"momentum={1 - eps:.3g} (PyTorch's momentum is 1 - Keras's)" if eps and eps > 0.5 else f"momentum={shown}"
    )
    yield finding(
        CODE,
        f"the second argument of {kind} is eps, here {shown}: {consequence}",
        source.location(value),
        severity=Severity.WARNING,
        suggestion=momentum if is_batch else "eps=1e-5",
    )
