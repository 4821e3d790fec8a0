"""The traced graph as an initialiser sees it: weights, what each one feeds, residual branches, the output."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.fx

from initcheck.init.fans import Fans, effective_fans
from initcheck.tracing.trace import ParameterRecord, Trace

Role = Literal["activation", "norm", "add", "product", "weight", "output", "attention", "other"]

WEIGHT_OPS = {
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "convolution", "addmm", "mm", "matmul", "bmm", "baddbmm", "addbmm", "einsum", "grouped_mm", "_grouped_mm",
}  # fmt: skip
TRANSPOSED_OPS = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
RECURRENT_OPS = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
ATTENTION_OPS = {"scaled_dot_product_attention", "multi_head_attention_forward", "softmax", "_softmax"}
NORM_OPS = {
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "native_batch_norm", "native_layer_norm",
    "native_group_norm", "normalize", "local_response_norm", "rsqrt",
}  # fmt: skip
ACTIVATION_OPS = {
    "relu": "relu", "relu6": "relu6", "leaky_relu": "leaky_relu", "prelu": "prelu", "rrelu": "rrelu", "gelu": "gelu",
    "silu": "silu", "swish": "silu", "mish": "mish", "elu": "elu", "celu": "celu", "selu": "selu",
    "softplus": "softplus", "softsign": "softsign", "tanh": "tanh", "hardtanh": "hardtanh", "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid", "hardswish": "hardswish", "logsigmoid": "logsigmoid", "tanhshrink": "tanhshrink",
    "softshrink": "softshrink", "hardshrink": "hardshrink", "sin": "sin", "threshold": "relu", "clamp_min": "relu",
    "glu": "glu",
}  # fmt: skip
"""Op to the name that ``gain`` knows it by (``glu`` is none: it gates one half with the other)."""

TRANSPARENT_OPS = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "mT", "T", "swapaxes", "movedim", "squeeze",
    "unsqueeze", "contiguous", "clone", "detach", "to", "type", "float", "half", "bfloat16", "double", "type_as",
    "dropout", "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
    "__getitem__", "getitem", "select", "slice", "narrow", "chunk", "split", "unbind", "index_select", "expand",
    "repeat", "repeat_interleave", "expand_as", "view_as", "reshape_as", "cat", "concat", "stack", "pad", "roll",
    "flip", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "mean", "interpolate",
    "upsample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "identity", "unfold", "fold", "as_strided",
    "_unsafe_view", "alias", "lift_fresh", "rearrange", "masked_fill", "sum", "amax", "max",
}  # fmt: skip
"""Ops that pass a signal on without a nonlinearity or weights of their own."""


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation by the name that ``gain`` knows it by, and its one parameter (slope, alpha) if it was given."""

    name: str = ""
    param: float | None = None


NONE = Activation()


@dataclass(frozen=True, slots=True)
class WeightUse:
    """A weight and the node that multiplies by it.

    ``feeds``: what its output meets first; ``activation``: its name (and slope or alpha) where that is one. ``reads``:
    the activation that its input comes from, with nothing but transparent ops between; empty for none. ``on_signal``:
    what it multiplies depends on the model's inputs.
    """

    parameter: str
    record: ParameterRecord
    node: torch.fx.Node
    op: str
    fans: Fans
    feeds: Role
    activation: Activation = NONE
    reads: Activation = NONE
    on_signal: bool = True


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch: ``stream + f(stream)``. ``parameters``: its weights in order of execution.

    ``origin``: where it leaves the stream. ``nodes``: what it computes.
    """

    join: torch.fx.Node
    parameters: tuple[str, ...]
    last: str
    normalised: bool
    scaled: bool
    stream: int
    origin: torch.fx.Node
    nodes: frozenset[torch.fx.Node] = field(repr=False)


@dataclass(slots=True)
class Structure:
    """All weight uses in order of execution, and the residual branches, in order."""

    uses: list[WeightUse]
    branches: list[Branch] = field(default_factory=list)

    def by_parameter(self) -> dict[str, WeightUse]:
        """The first use of each weight."""
        found: dict[str, WeightUse] = {}
        for use in self.uses:
            found.setdefault(use.parameter, use)
        return found


def op_of(node: torch.fx.Node) -> str:
    """Normalised op name of a call; empty for placeholders, attributes and the output."""
    return str(node.meta.get("op", "")) if node.op.startswith("call") else ""


def parameter_of(node: torch.fx.Node) -> str:
    """The parameter behind a ``get_attr`` node; empty if it is none."""
    return str(node.meta.get("parameter", "")) if node.op == "get_attr" else ""


def analyse(trace: Trace) -> Structure:
    """Read the structure off the graph."""
    order = {node: index for index, node in enumerate(trace.graph.nodes)}
    signal: set[torch.fx.Node] = set()
    for node in trace.graph.nodes:
        if node.op == "placeholder" or any(operand in signal for operand in node.all_input_nodes):
            signal.add(node)
    uses = [use for node in trace.graph.nodes for use in _uses_at(node, trace, node in signal)]
    return Structure(uses, _branches(trace, order, uses))


def _uses_at(node: torch.fx.Node, trace: Trace, on_signal: bool) -> Iterator[WeightUse]:
    op = op_of(node)
    if op not in WEIGHT_OPS and op not in RECURRENT_OPS and op != "multi_head_attention_forward":
        return
    for source, flipped in _weights_of(node):
        name = parameter_of(source)
        record = trace.parameters.get(name)
        if record is None or len(record.shape) < 2:
            continue
        feeds, activation = _what_follows(node)
        if op in RECURRENT_OPS:
            feeds, activation = "other", NONE
        reads = _what_precedes(node, source)
        yield WeightUse(name, record, node, op, _fans(node, op, record, flipped), feeds, activation, reads, on_signal)


_WEIGHT_VIEWS = {
    "t", "transpose", "mT", "T", "permute", "to", "view", "reshape", "contiguous", "split", "chunk",
    "getitem", "__getitem__",
}  # fmt: skip


def _weights_of(node: torch.fx.Node) -> Iterator[tuple[torch.fx.Node, bool]]:
    """Parameter nodes that a weight op reads, through views, with whether they arrive transposed."""
    for source in node.all_input_nodes:
        flipped, walk = False, source
        while op_of(walk) in _WEIGHT_VIEWS:
            flipped ^= op_of(walk) in {"t", "transpose", "mT", "T"}
            operands = walk.all_input_nodes
            if len(operands) != 1:
                break
            walk = operands[0]
        if parameter_of(walk):
            yield walk, flipped


def _fans(node: torch.fx.Node, op: str, record: ParameterRecord, flipped: bool) -> Fans:
    shape = record.shape
    if op in RECURRENT_OPS or op in {"multi_head_attention_forward", "bilinear"}:
        return effective_fans(shape[:2])
    if op.startswith("conv"):
        groups, stride = _plain(node, "groups", 6, 1), _plain(node, "stride", 3, 1)
        if op in TRANSPOSED_OPS:
            groups = _plain(node, "groups", 6, 1)
            return effective_fans(shape, transposed=True, groups=groups, stride=_stride(stride, len(shape) - 2))
        return effective_fans(shape, groups=groups, stride=_stride(stride, len(shape) - 2))
    if op == "linear":
        return effective_fans(shape[-2:])
    if len(shape) > 2:  # stacked matrices (experts), (in, out) as a batched product takes them
        return effective_fans(shape[-2:], transposed=not flipped)
    return effective_fans(shape, transposed=not flipped)


def _plain(node: torch.fx.Node, name: str, position: int, default: Any) -> Any:
    value = node.kwargs.get(name, node.args[position] if len(node.args) > position else default)
    return default if isinstance(value, torch.fx.Node) else value


def _stride(value: Any, dims: int) -> tuple[int, ...]:
    entries = tuple(int(v) for v in value) if isinstance(value, (tuple, list)) else (int(value),)
    return entries * dims if len(entries) == 1 else entries


def _what_follows(node: torch.fx.Node) -> tuple[Role, Activation]:
    """The first op on the way from ``node`` that is not transparent; a gate (x·σ(x)) counts as its activation."""
    seen: set[torch.fx.Node] = set()
    found: list[tuple[Role, Activation]] = []
    queue = list(node.users)
    while queue:
        user = queue.pop(0)
        if user in seen:
            continue
        seen.add(user)
        op = op_of(user)
        if user.op == "output":
            found.append(("output", NONE))
        elif op in ACTIVATION_OPS:
            found.append(("activation", _activation(user, op)))
        elif op in NORM_OPS:
            found.append(("norm", NONE))
        elif op in ATTENTION_OPS:
            found.append(("attention", NONE))
        elif op in WEIGHT_OPS or op in RECURRENT_OPS:
            weighted = any(parameter_of(n) for n in user.all_input_nodes)
            found.append(("weight" if weighted else "attention", NONE))
        elif op in {"add", "sub", "iadd"}:
            if _adds_constant(user):
                queue.extend(user.users)
            else:
                found.append(("add", NONE))
        elif op in {"mul", "div", "true_divide"}:
            if _adds_constant(user):
                queue.extend(user.users)
            else:
                found.append(("product", NONE))
        elif op in TRANSPARENT_OPS:
            queue.extend(user.users)
        else:
            found.append(("other", NONE))
    for role in ("activation", "norm", "attention", "product", "add", "weight", "other", "output"):
        for kind, name in found:
            if kind == role:
                return kind, name
    return "output", NONE


def _activation(node: torch.fx.Node, op: str) -> Activation:
    second = node.args[1] if len(node.args) > 1 else None
    if op == "gelu" and node.kwargs.get("approximate", second) == "tanh":
        return Activation("gelu_tanh")
    given = node.kwargs.get(_PARAMETERS.get(op, ""), second)
    if op in _PARAMETERS and isinstance(given, (int, float)):
        return Activation(ACTIVATION_OPS[op], float(given))
    return Activation(ACTIVATION_OPS[op])


_PARAMETERS = {"leaky_relu": "negative_slope", "elu": "alpha", "celu": "alpha"}


def _what_precedes(node: torch.fx.Node, weight: torch.fx.Node) -> Activation:
    """The activation that a weight's input comes from, through transparent ops."""
    current: torch.fx.Node | None = next((n for n in node.all_input_nodes if n is not weight), None)
    while current is not None:
        op = op_of(current)
        if op in ACTIVATION_OPS:
            return _activation(current, op)
        if op not in TRANSPARENT_OPS and not (op in {"mul", "div", "add", "sub"} and _adds_constant(current)):
            return NONE
        current = next((n for n in current.all_input_nodes if _carries_signal(n)), None)
    return NONE


def _adds_constant(node: torch.fx.Node) -> bool:
    """Whether an elementwise op has a single operand that carries signal (a bias, a number or a mask is the other)."""
    return (
        sum(1 for operand in node.all_input_nodes if _carries_signal(operand)) <= 1 and len(node.all_input_nodes) <= 2
    )


def _carries_signal(node: torch.fx.Node) -> bool:
    return node.op not in ("get_attr",) and "value" not in node.meta


def _branches(trace: Trace, order: dict[torch.fx.Node, int], uses: list[WeightUse]) -> list[Branch]:
    """Additions of a stream and a function of it.

    ``join = stream + branch``: seen from the operands' nearest common ancestor, the stream's side holds at most
    one weight (a projection shortcut) and the branch's side more.
    """
    at: dict[torch.fx.Node, list[str]] = {}
    for use in uses:
        at.setdefault(use.node, []).append(use.parameter)
    found: list[Branch] = []
    streams: dict[torch.fx.Node, int] = {}
    for node in trace.graph.nodes:
        if op_of(node) not in {"add", "iadd"}:
            continue
        operands = [n for n in node.all_input_nodes if _carries_signal(n)]
        if len(operands) != 2:
            continue
        pair = _split(operands[0], operands[1], at, order)
        if pair is None:
            continue
        inside, origin = pair
        weights = [p for n in sorted(inside, key=order.__getitem__) for p in at.get(n, ())]
        if not weights:
            continue
        norms = any(op_of(n) in NORM_OPS for n in inside)
        scaled = any(op_of(n) in {"mul", "div"} and _adds_constant(n) for n in _after_last_weight(inside, at, order))
        stream = streams.get(_joined_before(origin, streams), len(found))
        streams[node] = stream
        found.append(Branch(node, tuple(weights), weights[-1], norms, scaled, stream, origin, frozenset(inside)))
    return found


def _joined_before(origin: torch.fx.Node, joins: Mapping[torch.fx.Node, int]) -> torch.fx.Node:
    """The addition that the stream comes from at ``origin``: through activations and the like, not through weights."""
    current = origin
    while current not in joins and op_of(current) not in WEIGHT_OPS:
        operands = [n for n in current.all_input_nodes if _carries_signal(n)]
        if len(operands) != 1:
            break
        current = operands[0]
    return current


def _after_last_weight(
    inside: set[torch.fx.Node], at: dict[torch.fx.Node, list[str]], order: dict[torch.fx.Node, int]
) -> list[torch.fx.Node]:
    last = max((order[n] for n in inside if n in at), default=-1)
    return [n for n in inside if order[n] > last]


def _split(
    one: torch.fx.Node, other: torch.fx.Node, at: dict[torch.fx.Node, list[str]], order: dict[torch.fx.Node, int]
) -> tuple[set[torch.fx.Node], torch.fx.Node] | None:
    """(nodes of the branch, where it leaves the stream), or None if this is no residual addition."""
    found = _apart(one, other, order)
    if found is None or not _carries_signal(found[1]):
        return None
    both, origin = found
    sides = [{n for n in side if n.op.startswith("call")} for side in both]
    weights = [sum(len(at.get(n, ())) for n in side) for side in sides]
    small, large = (0, 1) if weights[0] <= weights[1] else (1, 0)
    if weights[large] == 0 or (weights[small] > 1 or weights[small] == weights[large]):
        return None
    return sides[large], origin


def _apart(
    one: torch.fx.Node, other: torch.fx.Node, order: dict[torch.fx.Node, int], reach: int = 400
) -> tuple[tuple[set[torch.fx.Node], set[torch.fx.Node]], torch.fx.Node] | None:
    """What each of two nodes depends on down to their nearest common ancestor, and that; the later nodes first.

    None if there is no common ancestor at most ``reach`` positions back in the graph.
    """
    floor = max(order[one], order[other]) - reach
    marks = {one: 1}
    marks[other] = marks.get(other, 0) | 2
    waiting = [(-order[node], node) for node in marks]
    heapq.heapify(waiting)
    sides: tuple[set[torch.fx.Node], set[torch.fx.Node]] = (set(), set())
    while waiting:
        place, node = heapq.heappop(waiting)
        if -place < floor:
            return None
        mark = marks[node]
        if mark == 3:
            return sides, node
        sides[mark - 1].add(node)
        for operand in node.all_input_nodes:
            if _carries_signal(operand):
                if operand not in marks:
                    heapq.heappush(waiting, (-order[operand], operand))
                marks[operand] = marks.get(operand, 0) | mark
    return None


def short_segments(graph: torch.fx.Graph, uses: list[WeightUse], most: int) -> frozenset[str]:
    """Weights in a run too short to gather drift: at most ``most`` of them between two places that set the scale.

    These are normalisations, to which the shortest path counts (a residual stream passes its blocks by, and each block
    starts or ends with a norm of its own), and the model's inputs and output, to which the longest one counts (in a
    norm-free residual net every block adds its part). A weight whose output is normalised at once is always in.
    """
    weighted = {use.node for use in uses}
    nodes = list(graph.nodes)
    since = [_distances(nodes, weighted, forward=True, ends=ends) for ends in (False, True)]
    until = [_distances(nodes, weighted, forward=False, ends=ends) for ends in (False, True)]

    def short(use: WeightUse) -> bool:
        behind = min(found.get(use.node, math.inf) for found in since)
        ahead = min(found.get(use.node, math.inf) for found in until)
        return use.feeds == "norm" or behind + ahead - 1 <= most

    return frozenset(use.parameter for use in uses if short(use))


def between_norms(graph: torch.fx.Graph, uses: list[WeightUse], most: int) -> frozenset[str]:
    """Weights on a way of at most ``most`` weights from one norm layer to another, both of which reset the scale."""
    weighted = {use.node for use in uses}
    nodes = list(graph.nodes)
    since = _distances(nodes, weighted, forward=True, ends=False)
    until = _distances(nodes, weighted, forward=False, ends=False)
    return frozenset(
        use.parameter
        for use in uses
        if use.feeds == "norm" or since.get(use.node, math.inf) + until.get(use.node, math.inf) - 1 <= most
    )


def _distances(
    nodes: list[torch.fx.Node], weighted: set[torch.fx.Node], *, forward: bool, ends: bool
) -> dict[torch.fx.Node, int]:
    """Number of weights, its own included, from each node to a norm (shortest), or to the model's ends (longest)."""
    found: dict[torch.fx.Node, int] = {}
    for node in nodes if forward else reversed(nodes):
        if op_of(node) in NORM_OPS or (ends and node.op == ("placeholder" if forward else "output")):
            found[node] = 0
            continue
        near = [found[n] for n in (node.all_input_nodes if forward else node.users) if n in found]
        if near:
            found[node] = (max(near) if ends else min(near)) + (node in weighted)
    return found


def output_weights(structure: Structure) -> set[str]:
    """Weights whose output is the model's output (through no other weight or nonlinearity)."""
    return {use.parameter for use in structure.uses if use.feeds == "output"}
