"""The layer table: one row per parametrised layer, in order of execution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx

from initcheck.results import LayerRow
from initcheck.signal.fluctuation import bands
from initcheck.signal.result import GradientKernel
from initcheck.signal.rule import Call, shape_of
from initcheck.signal.value import Value
from initcheck.tracing.trace import ParameterRecord, Trace

_PASSES = frozenset(
    [
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "dropout",
        "dropout2d",
        "alpha_dropout",
        "max_pool1d",
        "max_pool2d",
        "avg_pool1d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "contiguous",
        "to",
        "float",
        "type_as",
        "identity",
        "getitem",
        "split",
        "chunk",
        "unbind",
        "pad",
    ]
)
_LINEAR = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "matmul",
        "bmm",
        "einsum",
        "cat",
        "stack",
        "scaled_dot_product_attention",
        "mean",
        "sum",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "output",
        "lstm",
        "gru",
        "expand",
        "pow",
        "sqrt",
        "rsqrt",
        "baddbmm",
        "addmm",
    ]
)


def layer_rows(
    trace: Trace,
    values: Mapping[torch.fx.Node, Any],
    backward: Mapping[torch.fx.Node, GradientKernel],
    calls: Mapping[torch.fx.Node, Call],
    with_bands: bool = True,
) -> tuple[list[LayerRow], dict[str, torch.fx.Node]]:
    """Rows in order of execution, and the node of each layer's output."""
    owners: dict[str, list[ParameterRecord]] = {}
    for record in trace.parameters.values():
        for owner in record.modules:  # a tied weight makes a layer of every module that holds it
            owners.setdefault(owner, []).append(record)
    weights = {path: weight_of(records) for path, records in owners.items()}
    outputs = output_nodes(trace.graph, {path for path, w in weights.items() if w is not None})
    consumers = _consumers(trace.graph, calls)
    forward_bands, grad_bands = bands(trace.graph, values, backward) if with_bands else ({}, {})
    rows, nodes = [], {}
    for path, node in outputs.items():
        weight = weights[path]
        if weight is None or (path == "" and len(outputs) > 1):
            continue
        nodes[path] = node
        value = values.get(node)
        value = value[0] if isinstance(value, tuple) and value else value
        moments = value.moments if isinstance(value, Value) else None
        gradient = backward.get(node)
        consumer = consumers.get(weight.name)
        fan_in, fan_out = fans(consumer, weight)
        module = trace.modules.get(path)
        rows.append(
            LayerRow(
                name=path,
                kind=(module.type_name if module else weight.module_type).rsplit(".", 1)[-1],
                forward_std=_spread(value) if isinstance(value, Value) else None,
                forward_mean=moments.mean if moments else None,
                grad_std=gradient.std if gradient else None,
                sample_std=moments.sample_std if moments else None,
                weight_grad_std=consumer.memo.get("weight_grad") if consumer else None,
                output_shape=shape_of(node),
                fan_in=fan_in,
                fan_out=fan_out,
                weight_std=_finite(weight.distribution.std),
                activation=activation_after(node),
                forward_band=forward_bands.get(node) if moments else None,
                grad_band=grad_bands.get(node) if gradient else None,
                location=weight.location,
            )
        )
    return rows, nodes


def _spread(value: Value) -> float:
    """Expected standard deviation over the tensor's elements, about the tensor's own mean.

    The mean over C channels, S samples and P positions takes v_c/C + v_s/(CS) + v_p/(CSP) of the variance with it: all
    of v_c for a single output unit, a tenth for ten classes.
    """
    sizes = {role: math.prod(a.size for d in value.dims for a in d if a.role == role) for role in ("C", "S", "P")}
    moments, count, variance = value.moments, 1, 0.0
    for part, role in ((moments.v_c, "C"), (moments.v_s, "S"), (moments.v_p, "P")):
        count *= max(sizes[role], 1)
        variance += part * (1 - 1 / count)
    return math.sqrt(max(variance, 0.0))


def weight_of(records: list[ParameterRecord]) -> ParameterRecord | None:
    """The weight-like parameter that stands for a layer: `weight` itself, else the largest that is no bias."""
    candidates = [r for r in records if "bias" not in r.attribute.lower()]
    if not candidates:
        return None
    named = [r for r in candidates if r.attribute == "weight"]
    return named[0] if named else max(candidates, key=lambda r: math.prod(r.shape))


def output_nodes(graph: torch.fx.Graph, paths: set[str]) -> dict[str, torch.fx.Node]:
    """For each module path, the primary output of its first call; failing that, the last floating tensor of it."""
    given: dict[str, torch.fx.Node] = {}
    for node in graph.nodes:
        for path in node.meta.get("output_of", ()):
            given.setdefault(path, node)
    found: dict[str, torch.fx.Node] = {}
    closed: set[str] = set()
    active: set[str] = set()
    order: list[str] = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        # outermost first: rows come in the same order in every run
        inside = [p for p in dict.fromkeys((*node.meta.get("modules", ()), node.meta.get("module", ""))) if p in paths]
        closed |= active.difference(inside)
        active = set(inside)
        for path in inside:
            if path in closed:
                continue
            if path not in found:
                order.append(path)
            if is_floating(node) and not _further_output(node, found.get(path)):
                found[path] = node
    return {path: given.get(path, found[path]) for path in order if path in found}


def _further_output(node: torch.fx.Node, found: torch.fx.Node | None) -> bool:
    """Whether this is the second or later output of a call whose first one has been seen (the states of an LSTM)."""
    if node.meta.get("op") != "getitem" or found is None or not isinstance(node.args[0], torch.fx.Node):
        return False
    many = isinstance(node.args[0].meta.get("val"), (tuple, list))
    same_call = found.meta.get("op") == "getitem" and found.args[0] is node.args[0]
    return bool(many and same_call and node.args[1] != 0)


def is_floating(node: torch.fx.Node) -> bool:
    """Whether a node yields a floating tensor (first)."""
    val = node.meta.get("val")
    while isinstance(val, (tuple, list)) and val:
        val = val[0]
    return isinstance(val, torch.Tensor) and val.is_floating_point()


def _consumers(graph: torch.fx.Graph, calls: Mapping[torch.fx.Node, Call]) -> dict[str, Call]:
    """For each parameter the first call that reads it."""
    found: dict[str, Call] = {}
    for node in graph.nodes:
        name = node.meta.get("parameter") if node.op == "get_attr" else None
        if name is None or name in found:
            continue
        user = next((user for user in node.users if user in calls), None)
        if user is not None:
            found[name] = calls[user]
    return found


def fans(call: Call | None, weight: ParameterRecord) -> tuple[int | None, int | None]:
    """Number of terms in each output's sum, and of outputs that each input feeds (groups and stride counted)."""
    op, shape = (call.op if call else ""), weight.shape
    if op == "linear" and len(shape) == 2:
        return shape[1], shape[0]
    if op.startswith("conv") and call is not None and len(shape) > 2:
        groups = int(call.plain("groups", 1))
        stride = call.plain("stride", 1)
        steps = stride ** (len(shape) - 2) if isinstance(stride, int) else math.prod(stride)
        if isinstance(stride, (tuple, list)) and len(stride) == 1:
            steps = int(stride[0]) ** (len(shape) - 2)
        taps = math.prod(shape[2:])
        if op.startswith("conv_transpose"):
            return max(round(shape[0] // groups * taps / steps), 1), shape[1] * taps
        return shape[1] * taps, max(round(shape[0] // groups * taps / steps), 1)
    if op in ("matmul", "mm", "addmm") and len(shape) == 2:
        return shape[0], shape[1]
    return None, None


def activation_after(node: torch.fx.Node) -> str:
    """The first elementwise nonlinearity that consumes a layer's output, through norms, dropout, pooling and views."""
    current = node
    for _ in range(12):
        users = [u for u in current.users if u.op == "call_function"]
        if not users:
            return ""
        op = str(users[0].meta.get("op", ""))
        if op in _LINEAR:
            nonlinear = [u for u in users if str(u.meta.get("op", "")) not in _LINEAR | _PASSES]
            return str(nonlinear[0].meta.get("op", "")) if nonlinear else ""
        if op not in _PASSES:
            return op
        current = users[0]
    return ""


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
