"""Homogeneous stretches of a real graph: runs of the same linear map and activation, where mean-field theory applies.

Between two weights there is nothing but one elementwise activation (dropout, casts and views apart), and sigma_w² =
fan_in Var[w] is the same from layer to layer. Norm layers, pooling and residual additions end a stretch: they reset or
reshape what the recursion of ``mean_field`` carries. Zero padding is not counted (circular or no padding assumed).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx

from initcheck.results import Stretch
from initcheck.signal import ops  # noqa: F401  (registers the rules)
from initcheck.signal.layers import fans
from initcheck.signal.mean_field import fixed_point
from initcheck.signal.ops.pointwise import Unary
from initcheck.signal.rule import RULES, Call
from initcheck.tracing.trace import ParameterRecord, Trace

SHORTEST = 4
"""Fewer layers are no stretch: a fixed point needs room to be reached."""
_SAME = 0.25
"""Weight variances within this relative distance of the first are the same."""
_INPUT = {"linear": (0, 1), "conv1d": (0, 1), "conv2d": (0, 1), "conv3d": (0, 1), "matmul": (0, 1), "addmm": (1, 2)}
"""Where a linear op has its input and its weight."""
_TRANSPARENT = frozenset(
    ["contiguous", "clone", "to", "float", "identity", "type_as", "view", "reshape", "flatten", "squeeze", "unsqueeze"]
)
_DROPOUT = frozenset(["dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"])


@dataclass(frozen=True, slots=True)
class _Layer:
    """One weight: its node, sigma_w², sigma_b², and the activation that follows (None: no further weight behind it)."""

    name: str
    node: torch.fx.Node
    op: str
    weight_variance: float
    bias_variance: float
    follower: torch.fx.Node | None = None
    activation: tuple[torch.fx.Node, ...] = ()
    keep: float = 1.0
    """Share that dropout keeps: it divides the second moment."""

    @property
    def kind(self) -> tuple[Any, ...]:
        """Layers with the same are alike."""
        return (self.op, *((n.meta.get("op"), _plain(n)) for n in self.activation), self.keep)


def stretches(trace: Trace) -> tuple[Stretch, ...]:
    """All homogeneous stretches of at least ``SHORTEST`` layers, in order of execution.

    Args:
        trace: a trace; weights of unknown distribution end a stretch.
    """
    layers = {layer.node: layer for layer in _layers(trace)}
    taken: set[torch.fx.Node] = set()
    found = []
    for first in layers.values():
        if first.node in taken:
            continue
        run = [first]
        while (after := layers.get(run[-1].follower)) is not None and _alike(run, after):  # type: ignore[arg-type]
            run.append(after)
        taken.update(layer.node for layer in run)
        if len(run) >= SHORTEST and (stretch := _stretch(run)) is not None:
            found.append(stretch)
    return tuple(found)


def _alike(run: list[_Layer], after: _Layer) -> bool:
    """Whether the run goes on with ``after``: the same map behind the same activation."""
    first = run[0]
    if after.op != first.op or abs(after.weight_variance / first.weight_variance - 1) > _SAME:
        return False
    return run[-1].kind == first.kind


def _stretch(run: list[_Layer]) -> Stretch | None:
    """None if the activation cannot be evaluated on numbers alone."""
    first = run[0]
    weights = sum(layer.weight_variance for layer in run) / len(run) / first.keep
    biases = sum(layer.bias_variance for layer in run) / len(run)
    try:
        settled = fixed_point(functools.partial(_apply, first.activation), weights, biases)
    except (RuntimeError, TypeError, ValueError):
        return None
    return Stretch(
        layers=tuple(layer.name for layer in run),
        kind=first.op,
        activation=" ".join(str(n.meta.get("op", "")) for n in first.activation),
        weight_variance=weights,
        bias_variance=biases,
        fixed_point=settled.variance,
        chi=settled.chi,
        depth_scale=settled.depth_scale,
        trainable_depth=settled.trainable_depth,
    )


def _layers(trace: Trace) -> Iterator[_Layer]:
    for node in trace.graph.nodes:
        op = str(node.meta.get("op", ""))
        if node.op != "call_function" or op not in _INPUT:
            continue
        weight = _parameter(node, _INPUT[op][1], "weight", trace)
        if weight is None or len(weight.shape) < 2 or not weight.distribution.known or weight.distribution.zero_sum:
            continue  # the recursion below takes the activation's mean along, which weights that sum to zero drop
        fan_in, _ = fans(Call(node, {}, RULES[op].signature, True), weight)
        variance = (fan_in or 0) * weight.distribution.std**2
        if not (variance > 0 and math.isfinite(variance)) or abs(weight.distribution.mean) > weight.distribution.std:
            continue
        bias = _parameter(node, 0 if op == "addmm" else 2, "bias", trace)
        spread = bias.distribution.std**2 if bias is not None and bias.distribution.known else 0.0
        follower, activation, keep = _behind(node, trace.mode == "train")
        yield _Layer(weight.module or weight.name, node, op, variance, spread, follower, activation, keep)


def _parameter(node: torch.fx.Node, index: int, name: str, trace: Trace) -> ParameterRecord | None:
    raw = node.kwargs.get(name, node.args[index] if index < len(node.args) else None)
    if not isinstance(raw, torch.fx.Node) or raw.op != "get_attr":
        return None
    return trace.parameters.get(str(raw.meta.get("parameter", "")))


def _behind(node: torch.fx.Node, training: bool) -> tuple[torch.fx.Node | None, tuple[torch.fx.Node, ...], float]:
    """(next weight's node, activation on the way, share kept by dropout); (None, ...) where more lies between."""
    current, keep = node, 1.0
    activation: list[torch.fx.Node] = []
    while True:
        users = [u for u in current.users if u.op == "call_function"]
        if len(users) != 1 or len(current.users) != 1:
            return None, (), 1.0
        user = users[0]
        op = str(user.meta.get("op", ""))
        if op in _INPUT:
            index = _INPUT[op][0]
            same_input = index < len(user.args) and user.args[index] is current
            return (user, tuple(activation), keep) if same_input and activation else (None, (), 1.0)
        if op in _DROPOUT:
            rate = user.kwargs.get("p", user.args[1] if len(user.args) > 1 else 0.5)
            keep *= 1.0 - float(rate) if training and isinstance(rate, (int, float)) else 1.0
        elif op not in _TRANSPARENT:
            if not isinstance(RULES.get(op), Unary) or len(user.all_input_nodes) != 1 or not keep > 0:
                return None, (), 1.0
            activation.append(user)
        current = user


def _plain(node: torch.fx.Node) -> str:
    """A call's arguments other than its tensor, as text."""
    others = [a for a in node.args if not isinstance(a, torch.fx.Node)]
    return repr((others, {k: v for k, v in node.kwargs.items() if k != "inplace"}))


def _apply(nodes: tuple[torch.fx.Node, ...], u: torch.Tensor) -> torch.Tensor:
    """The recorded functions, one after the other."""
    for node in nodes:
        function: Callable[..., Any] = node.target if callable(node.target) else getattr(torch, str(node.meta["op"]))
        held = u.clone()  # in-place functions write to it
        args = [held if isinstance(a, torch.fx.Node) else a for a in node.args]
        u = function(*args, **{k: v for k, v in node.kwargs.items() if k != "inplace"})
    return u
