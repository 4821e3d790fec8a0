"""How far finite width alone moves a layer's scale from seed to seed.

The prediction is that of infinite width. With n units, the mean square of a layer is a mean over n draws, so that

    Var[ln q] grows by c/n per layer,   c = E[phi^4] / E[phi^2]^2 - 1   (2 for a linear layer, 5 for ReLU),

and these add up along the depth (Hanin & Nica 2019, thm 1: sum of 5/n for ReLU), unless a norm layer sets the scale
anew. Samples and positions that see the same weights are averaged too: c counts by the mean squared correlation of
their pairs. The gradient's mean square does the same on the way back, with phi' in place of phi. A band of b means that
the standard deviation of ln(std) over seeds is b.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.fx

from initcheck.signal.result import GradientKernel
from initcheck.signal.value import Value
from initcheck.signal.written_norms import normalises

_WEIGHTED = frozenset(
    ["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm", "mm"]
)
_NORMS = frozenset(["batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize", "softmax"])
_SUMS = frozenset(["add", "sub", "iadd", "isub", "cat", "stack"])
_PRODUCTS = frozenset(["mul", "imul", "div", "truediv", "idiv", "itruediv"])


@dataclass(frozen=True, slots=True)
class _Spread:
    """Var[ln q]: what came from earlier layers, and what the last weights add (their units' mean square)."""

    before: float = 0.0
    own: float = 0.0

    @property
    def total(self) -> float:
        return self.before + self.own


_NONE = _Spread()


@dataclass(frozen=True, slots=True)
class _Arriving:
    """Of a gradient: Var[ln q] from later layers; ``alike``: mean squared correlation of pairs; ``share``: 1/units."""

    before: float = 0.0
    alike: float = 0.0
    share: float = 0.0
    slopes: float = 0.0
    """What phi' has added: E[phi'^4]/E[phi'^2]^2 - 1 over pairs that see the same weights."""

    @property
    def total(self) -> float:
        """Mean over pairs of E[g² g'²] E[phi'² phi''²] / ... - 1, over the number of units."""
        return self.before + self.share * ((1.0 + 2.0 * self.alike) * (1.0 + self.slopes) - 1.0)

    def times(self, out: Any, value: Value) -> _Arriving:
        """Behind an elementwise function: a unit that is off is so for all samples that look alike to it."""
        if not isinstance(out, Value) or out.grid is None or out.source is None or out.grid is out.source.u:
            return self
        u = out.source.u.double().numpy()
        if len(u) != len(out.grid) or not (out.source.straight or (np.diff(u) > 0).all()):
            return self
        excess, _ = _excess(np.gradient(out.grid.double().numpy(), u[1] - u[0] if out.source.straight else u), out)
        k, same = value.second, value.second.same
        parts = [min(max(c / same, 0.0), 1.0) for c in (k.far, k.cross, k.sample)] if same > 0 else [1.0] * 3
        return _Arriving(self.before, self.alike, self.share, self.slopes + excess * _pairs(value, *parts))


def bands(
    graph: torch.fx.Graph,
    values: Mapping[torch.fx.Node, Any],
    backward: Mapping[torch.fx.Node, GradientKernel],
) -> tuple[dict[torch.fx.Node, float], dict[torch.fx.Node, float]]:
    """Standard deviation of ln(std) over seeds, of each node's output and of its gradient.

    Args:
        graph: the recorded graph.
        values: what is known of its nodes.
        backward: their gradients' second moments.
    """
    forward = _forward(graph, values)
    back = _backward(graph, values, backward, forward)
    return (
        {node: 0.5 * math.sqrt(max(spread.total, 0.0)) for node, spread in forward.items()},
        {node: 0.5 * math.sqrt(max(spread, 0.0)) for node, spread in back.items()},
    )


def _forward(graph: torch.fx.Graph, values: Mapping[torch.fx.Node, Any]) -> dict[torch.fx.Node, _Spread]:
    found: dict[torch.fx.Node, _Spread] = {}
    for node in graph.nodes:
        operands = [
            (values[n], found[n]) for n in node.all_input_nodes if n in found and isinstance(values.get(n), Value)
        ]
        value = values.get(node)
        value = value[0] if isinstance(value, tuple) and value else value
        if node.op == "placeholder" or not isinstance(value, Value) or not operands:
            if node.op != "get_attr":
                found[node] = _NONE
            continue
        op = _kind(node, values)
        found[node] = _through(op, value, operands, _bias_share(node, value, values) if op in _WEIGHTED else 0.0)
    return found


def _kind(node: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> str:
    """The op's name; that of a norm where a forward writes one out."""
    op = str(node.meta.get("op", ""))
    return "normalize" if op in _PRODUCTS and normalises(node, values) else op


def _through(op: str, value: Value, operands: list[tuple[Value, _Spread]], fresh: float) -> _Spread:
    """``fresh``: share of the mean square that biases add, which owes nothing to earlier layers."""
    inherited = max((spread for _, spread in operands), key=lambda s: s.total)
    if op in _NORMS:
        return _NONE
    if op in _WEIGHTED:
        return _Spread(inherited.total * (1 - fresh) ** 2, 2.0 * _shared(value) / max(value.count("C"), 1))
    if op in _PRODUCTS:
        return _Spread(sum(math.sqrt(s.total) for _, s in operands) ** 2)
    if op in _SUMS and len(operands) > 1:
        sizes = [max(v.mean**2 + v.variance, 0.0) for v, _ in operands]
        whole = sum(sizes)
        if not (whole > 0 and math.isfinite(whole)):
            return inherited
        return _Spread(sum(q / whole * math.sqrt(s.total) for q, (_, s) in zip(sizes, operands, strict=True)) ** 2)
    if len(operands) == 1 and value.grid is not None and value.source is not None and value.grid is not value.source.u:
        excess, power = _excess(value.grid.double().numpy(), value)
        return _Spread(inherited.before * power**2, inherited.own * excess / 2.0)
    return inherited


def _bias_share(node: torch.fx.Node, value: Value, values: Mapping[torch.fx.Node, Any]) -> float:
    index = 0 if node.meta.get("op") == "addmm" else 2
    raw = node.kwargs.get("bias", node.args[index] if len(node.args) > index else None)
    bias = values.get(raw) if isinstance(raw, torch.fx.Node) else None
    whole = value.second.same
    return min(bias.second.same / whole, 1.0) if isinstance(bias, Value) and whole > 0 else 0.0


def _backward(
    graph: torch.fx.Graph,
    values: Mapping[torch.fx.Node, Any],
    backward: Mapping[torch.fx.Node, GradientKernel],
    forward: Mapping[torch.fx.Node, _Spread],
) -> dict[torch.fx.Node, float]:
    arriving: dict[torch.fx.Node, list[_Arriving]] = {}
    found: dict[torch.fx.Node, float] = {}
    for node in reversed(list(graph.nodes)):
        if node not in backward:
            continue
        arrived = _mean(arriving.get(node, [_Arriving()]))
        found[node] = arrived.total
        op = _kind(node, values)
        for operand in node.all_input_nodes:
            value = values.get(operand)
            if operand not in backward or not isinstance(value, Value):
                continue
            passed = arrived
            if op in _WEIGHTED:
                passed = _Arriving(arrived.total, _alike(backward[operand], value), 1.0 / max(value.count("C"), 1))
            elif op in _NORMS:
                passed = _Arriving(arrived.total + forward.get(operand, _NONE).total)
            else:
                passed = arrived.times(values.get(node), value)
            arriving.setdefault(operand, []).append(passed)
    return found


def _mean(arriving: Sequence[_Arriving]) -> _Arriving:
    if len(arriving) == 1:
        return arriving[0]
    columns = zip(*((a.before, a.alike, a.share, a.slopes) for a in arriving), strict=True)
    return _Arriving(*(sum(column) / len(arriving) for column in columns))


def _shared(value: Value) -> float:
    """Mean squared correlation over all pairs of samples and positions."""
    second = value.second
    if not second.same > 0:
        return 1.0
    return _pairs(value, *((k / second.same) ** 2 for k in (second.far, second.cross, second.sample)))


def _alike(kernel: GradientKernel, value: Value) -> float:
    """Likewise of a gradient."""
    if not kernel.same > 0:
        return 1.0
    sample = (kernel.sample / kernel.same) ** 2
    return _pairs(value, (kernel.position / kernel.same) ** 2, sample, sample)


def _pairs(value: Value, far: float, cross: float, sample: float) -> float:
    samples, places = max(value.count("S"), 1), max(value.count("P"), 1)
    total = 1.0 + (places - 1) * far + (samples - 1) * (cross + (places - 1) * sample)
    return min(total / (samples * places), 1.0)


def _excess(numbers: np.ndarray, value: Value) -> tuple[float, float]:
    """E[f^4]/E[f^2]^2 - 1, and d ln E[f^2] / d ln Var[u] to first order."""
    assert value.source is not None
    z, weights = value.source.at.z, value.source.at.weights
    square = numbers * numbers
    second = float(weights @ square)
    if len(square) != len(weights) or not (second > 0 and math.isfinite(second)):
        return 2.0, 1.0
    square /= second  # before it is squared again: a large signal's fourth power overflows
    fourth = float(weights @ (square * square))
    power = float(weights @ ((z * z - 1) * square)) / 2
    return max(fourth - 1.0, 0.0), min(max(power, 0.0), 2.0)
