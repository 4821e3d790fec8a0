"""What differs from channel to channel behind an activation, and what a norm of each channel makes of it.

A channel of u has a mean of its own (what all of its elements share) and, where few weights made it, a scale of its
own: u = M + sigma sqrt(q) (sqrt(r) a + sqrt(1 - r) e), a and q one draw per channel, e one per element. The variance
s²(a, q) = Var[f(u) | a, q] then differs from channel to channel: a GELU whose input is mostly negative passes little,
and batch norm divides by that. For the gradient E[1/s²] counts, which is more than 1/E[s²]; and since the channels of
small s² are those of small slopes, not the mean alone but E[1/s² | u] goes with what f' makes of it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch.fx

from initcheck.signal.kernel import Array
from initcheck.signal.rule import shape_of
from initcheck.signal.value import Value

_MEANS = np.polynomial.hermite_e.hermegauss(9)
_WITHIN = np.linspace(-6.0, 6.0, 161)
_WEIGHTS = np.exp(-0.5 * _WITHIN**2) / np.exp(-0.5 * _WITHIN**2).sum()
_POINTS = 160
_WIDEST = 0.6
"""Scales spread further than this (one or two weights per channel) have no mean of 1/q."""


@dataclass(frozen=True, slots=True)
class InverseVariance:
    """1/s² of the channels relative to 1/E[s²]: its ``mean``, its mean ``given`` u on the source's grid (relative to
    ``mean``), and how far it exceeds, times f'², what is left of that once multiplied by the scale q (``weights``).
    """

    mean: float
    given: Array
    weights: float


@dataclass(frozen=True, slots=True)
class _Channels:
    """Typical channels of u: how likely, where (``middle``, ``width``), of which scale q, and what f makes of them."""

    chance: Array
    middle: Array
    width: Array
    scale: Array
    variance: Array
    slopes: Array

    @classmethod
    def of(cls, x: Value, share: float, spread: float) -> _Channels | None:
        """For an expression f(u), of whose variation ``share`` (of that of u) lies between the means of channels.

        None where x is no expression, or channels are all alike.
        """
        source = x.own_source()
        spread = min(spread, _WIDEST)
        r = min(max(share, 0.0), 0.95)
        if x.grid is source.u or (r < 1e-3 and spread < 1e-3) or x.variance <= 0:
            return None
        u, values = source.u.double().numpy(), x.own_grid().double().numpy()
        centre = float(source.at.weights @ u)
        sigma = float(np.sqrt(source.at.weights @ (u - centre) ** 2))
        if not sigma > 0 or bool(np.any(np.diff(u) < 0)):
            return None
        scales, likely = _scales(spread)
        middle = centre + sigma * np.sqrt(r) * np.multiply.outer(_MEANS[0], np.sqrt(scales)).ravel()
        width = sigma * np.sqrt(1.0 - r) * np.tile(np.sqrt(scales), len(_MEANS[0]))
        chance = np.multiply.outer(_MEANS[1] / _MEANS[1].sum(), likely).ravel()
        elements = middle[:, None] + width[:, None] * _WITHIN
        reached = np.interp(elements, u, values)
        variance = np.maximum(reached**2 @ _WEIGHTS - (reached @ _WEIGHTS) ** 2, 0.0)
        steps = np.gradient(u)
        slope = np.divide(np.gradient(values), steps, out=np.zeros_like(u), where=steps > 0)
        slopes = np.interp(elements, u, slope**2) @ _WEIGHTS
        return cls(chance, middle, width, np.tile(scales, len(_MEANS[0])), variance, slopes)


def variance_spread(x: Value, share: float) -> float:
    """Relative variance, between channels, of a channel's own variance behind an activation (0: no expression)."""
    channels = _Channels.of(x, share, x.own_source().fluctuation)
    if channels is None:
        return 0.0
    mean = float(channels.chance @ channels.variance)
    return max(float(channels.chance @ channels.variance**2) / mean**2 - 1.0, 0.0) if mean > 0 else 0.0


def inverse_variance(x: Value, share: float, spread: float, eps: float) -> InverseVariance | None:
    """1/s² of f(u), ``share`` of u's variation being between the means of channels; None where they are all alike.

    ``spread``: relative variance of the scale q.
    """
    channels = _Channels.of(x, share, spread)
    if channels is None:
        return None
    source, chance, slopes, width = x.own_source(), channels.chance, channels.slopes, channels.width
    inverse = (float(chance @ channels.variance) + eps) / (channels.variance + eps)
    mean = float(chance @ inverse)
    passed = float(chance @ (inverse * slopes))
    own = 1.0 - source.inherited / source.fluctuation if source.fluctuation > 0 else 0.0  # E[q_w | q] - 1 ~ own (q - 1)
    scaled = float(chance @ (inverse * slopes * np.maximum(1.0 + own * (channels.scale - 1.0), 0.0)))
    u = source.u.double().numpy()
    centre = float(source.at.weights @ u)
    sigma = float(np.sqrt(source.at.weights @ (u - centre) ** 2))
    points = np.linspace(centre - 5 * sigma, centre + 5 * sigma, _POINTS)
    distance = (points[:, None] - channels.middle) / width
    density = np.maximum(chance / width * np.exp(-0.5 * distance**2), 1e-300)
    given = (density @ inverse) / density.sum(1) / mean
    return InverseVariance(mean, np.interp(u, points, given), passed / scaled if scaled > 0 else 1.0)


def _scales(spread: float) -> tuple[Array, Array]:
    """Values and chances of q, gamma distributed (a sum of squares) with mean 1 and that variance."""
    if spread < 1e-3:
        return np.ones(1), np.ones(1)
    order = 1.0 / spread
    log = np.linspace(-4.0, 3.0, 24) * np.sqrt(spread)
    chance = np.exp(order * (log - np.expm1(log)))  # over that of q = 1, which is tiny for many weights
    scales = np.exp(log)
    chance = chance / chance.sum()
    return scales / float(chance @ scales), chance


_VIEWS = frozenset(["permute", "transpose", "view", "reshape", "flatten", "contiguous"])
_SAME = _VIEWS | {"batch_norm", "layer_norm", "dropout", "mul"}
_STEPS = 16


def sum_fluctuation(
    parts: Sequence[tuple[float, torch.fx.Node, Value]], variance: float, value_of: Callable[[torch.fx.Node], object]
) -> tuple[float, float]:
    """Relative variance, between channels, of a channel's variance in a sum, and the part of it that was there before.

    A branch that leaves channels apart (depthwise convolutions, norms, activations) has in each channel something of
    the stream that it is added to: Var_c = V_x + V_f + 2 rho_c sqrt(V_x V_f), where E[rho_c²] = 1/n for n taps.
    """
    if not variance > 0:
        return 0.0, 0.0
    shares = [factor**2 * value.variance / variance for factor, _, value in parts]
    total = sum(share**2 * value.fluctuation for share, (_, _, value) in zip(shares, parts, strict=True))
    inherited = sum(share**2 * value.inherited for share, (_, _, value) in zip(shares, parts, strict=True))
    for i, (_, branch, _) in enumerate(parts):
        for j, (_, stream, _) in enumerate(parts):
            if i != j:
                total += 4.0 * shares[i] * shares[j] * echoed(branch, stream, value_of)
    return min(total, 1.0), min(inherited, total, 1.0)


def echoed(branch: torch.fx.Node, stream: torch.fx.Node, value_of: Callable[[torch.fx.Node], object]) -> float:
    """E[rho²] over channels, rho the correlation of ``branch`` with ``stream`` in a channel; 0 if channels are mixed.

    Of the composed kernel of n taps each, the one at the same position has 1/n of the energy; an activation keeps the
    squared correlation of f(u) with u.
    """
    taps, kept, same = 0, 1.0, _origins(stream)
    for _ in range(_STEPS):
        if branch in same:
            return kept / taps if taps else 0.0
        operand, op = _operand(branch, value_of), str(branch.meta.get("op", ""))
        if operand is None:
            return 0.0
        if op.startswith("conv") and op[4:5].isdigit():
            weight = shape_of(branch.all_input_nodes[1]) if len(branch.all_input_nodes) > 1 else ()
            if weight[1:2] != (1,) or shape_of(branch) != shape_of(operand):
                return 0.0
            count = int(np.prod(weight[2:]))
            taps = min(taps, count) if taps else count
        elif op not in _SAME:
            value, before = value_of(branch), value_of(operand)
            if not (isinstance(value, Value) and isinstance(before, Value)) or value.source is None:
                return 0.0
            if value.source is not before.own_source():
                return 0.0
            kept *= linear_share(before, value)
        branch = operand
    return 0.0


def _operand(node: torch.fx.Node, value_of: Callable[[torch.fx.Node], object]) -> torch.fx.Node | None:
    """The only operand that is no parameter."""
    if node.op != "call_function":
        return None
    found = [o for o in node.all_input_nodes if not (isinstance(v := value_of(o), Value) and v.iid)]
    return found[0] if len(found) == 1 else None


def _origins(node: torch.fx.Node) -> set[torch.fx.Node]:
    """The node, and what it is a view of."""
    found = {node}
    while str(node.meta.get("op", "")) in _VIEWS:
        node = node.all_input_nodes[0]
        found.add(node)
    return found


def linear_share(u: Value, f: Value) -> float:
    """Squared correlation of f(u) with u, on the grid that they share."""
    weights = u.own_source().at.weights
    a, b = u.own_grid().double().numpy(), f.own_grid().double().numpy()
    a, b = a - weights @ a, b - weights @ b
    norm = float(weights @ (a * a)) * float(weights @ (b * b))
    return float(weights @ (a * b)) ** 2 / norm if norm > 0 else 0.0
