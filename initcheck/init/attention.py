"""Which units of a projection are attention's values, and which its queries and keys: row numbers sent down the graph.

Each projection's output is replaced by the numbers of the units that it comes from; the views, splits and permutations
on the way to the attention run for real on those numbers. Where they arrive as values, the unit is a value unit, packed
however (q, k, v in blocks, heads interleaved, grouped queries).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor

from initcheck.init.structure import TRANSPARENT_OPS, WEIGHT_OPS, op_of, parameter_of
from initcheck.tracing.trace import Trace

_CASTS = {"to", "type", "float", "half", "bfloat16", "double", "type_as", "dropout", "contiguous", "clone", "detach"}
"""Left out: the numbers stay whole."""
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}
_BETWEEN = {"mul", "div", "add", "sub", "masked_fill", "true_divide", "where", "dropout", "neg"}
_MOST = 1 << 24


@dataclass(frozen=True, slots=True)
class Projection:
    """A weight that attention reads. ``value_units``: numbers of its value units; ``units``: of all."""

    value_units: tuple[int, ...]
    units: int

    @property
    def only_values(self) -> bool:
        """Whether all of its units are value units."""
        return len(self.value_units) == self.units


def projections(trace: Trace) -> dict[str, Projection]:
    """Weights with units that arrive at an attention as values, by parameter."""
    env: dict[torch.fx.Node, Any] = {}
    owners: dict[torch.fx.Node, str] = {}
    softmaxed = after_softmax(trace.graph)
    found: dict[str, set[int]] = {}
    for node in trace.graph.nodes:
        op = op_of(node)
        name = parameter_of(node)
        if name and name in trace.parameters and len(trace.parameters[name].shape) == 2:
            shape = trace.parameters[name].shape
            if math.prod(shape) <= _MOST:
                env[node], owners[node] = torch.arange(math.prod(shape)).view(shape), name
            continue
        weight = next((n for n in node.all_input_nodes if n in env and not _is_output(env[n])), None)
        value = value_operand(node, op, softmaxed)
        if value is not None and value in env and _is_output(env[value]):
            found.setdefault(owners[value], set()).update(_numbers(env[value]).flatten().tolist())
        elif weight is not None and op in WEIGHT_OPS:
            units = _units(op, env[weight], trace.parameters[owners[weight]].shape)
            made = _output(node, units)
            if made is not None:
                env[node], owners[node] = made, owners[weight]
        elif op in TRANSPARENT_OPS or op in {"getitem", "__getitem__"}:
            source = next((n for n in node.all_input_nodes if n in env), None)
            if source is not None:
                moved = _run(node, op, env)
                if moved is not None:
                    env[node], owners[node] = moved, owners[source]
    return {
        name: Projection(tuple(sorted(rows)), _unit_count(trace, name, rows)) for name, rows in found.items() if rows
    }


class _Output:
    """Numbers of the units of a projection's output (tells them from the numbers of a weight's elements)."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _is_output(held: Any) -> bool:
    return isinstance(held, _Output)


def _numbers(held: _Output) -> Tensor:
    value: Tensor = held.value
    return value


def _units(op: str, elements: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The number of each output unit, from the (sliced, transposed) numbers of the weight's elements."""
    if elements.dim() != 2:
        return torch.empty(0, dtype=torch.int64)
    line = elements[:, 0] if op == "linear" else elements[0]
    other = elements[0] if op == "linear" else elements[:, 0]
    along_rows = len(line) < 2 or int(line[1] - line[0]) == shape[1]
    if len(line) < 2 and len(other) > 1:
        along_rows = int(other[1] - other[0]) == 1
    return line // shape[1] if along_rows else line % shape[1]


def _unit_count(trace: Trace, name: str, rows: set[int]) -> int:
    record = trace.parameters[name]
    transposed = record.module_type.rpartition(".")[2] == "Conv1D" or max(rows) >= record.shape[0]
    return record.shape[1 if transposed else 0]


def _output(node: torch.fx.Node, units: Tensor) -> _Output | None:
    val = node.meta.get("val")
    if not isinstance(val, Tensor) or val.dim() == 0 or val.shape[-1] != len(units) or val.numel() > _MOST:
        return None
    return _Output(units.expand(val.shape).contiguous())


def _run(node: torch.fx.Node, op: str, env: Mapping[torch.fx.Node, Any]) -> Any:
    """The node's op on numbers instead of values; None if it cannot run on them."""
    operands = [n for n in node.all_input_nodes if n in env]
    as_output = any(_is_output(env[n]) for n in operands)
    if op in _CASTS:
        return env[operands[0]]

    def substitute(n: torch.fx.Node) -> Any:
        val = n.meta.get("val")
        if n in env:
            held: Tensor = env[n].value if _is_output(env[n]) else env[n]
            return held.contiguous() if isinstance(held, Tensor) else held
        if isinstance(val, Tensor) and val.numel() == 0:  # an empty cache that is joined on
            return torch.empty(val.shape, dtype=torch.int64)
        raise LookupError(n.name)

    try:
        args = torch.fx.map_arg(node.args, substitute)
        kwargs = torch.fx.map_arg(node.kwargs, substitute)
        target: Any = node.target
        with torch.no_grad():
            made = getattr(args[0], target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)
    except Exception:
        return None  # an op that needs more than these numbers: what comes after it is not followed
    return _Output(made) if as_output else made


def value_operand(node: torch.fx.Node, op: str, softmaxed: set[torch.fx.Node]) -> torch.fx.Node | None:
    """The operand that an attention takes as its values."""
    if op == "scaled_dot_product_attention":
        value = node.kwargs.get("value", node.args[2] if len(node.args) > 2 else None)
        return value if isinstance(value, torch.fx.Node) else None
    if op in _PRODUCTS:
        operands = node.all_input_nodes
        if len(operands) == 2 and sum(n in softmaxed for n in operands) == 1:
            return operands[0] if operands[1] in softmaxed else operands[1]
    return None


def after_softmax(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """Nodes that hold attention weights: a softmax and what only reshapes, masks or scales it."""
    found: set[torch.fx.Node] = set()
    for node in graph.nodes:
        op = op_of(node)
        follows = (op in TRANSPARENT_OPS or op in _BETWEEN) and any(n in found for n in node.all_input_nodes[:1])
        if op in {"softmax", "_softmax"} or follows:
            found.add(node)
    return found
