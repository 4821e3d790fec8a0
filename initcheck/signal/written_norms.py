"""Norms that a forward writes out: x * rsqrt(mean(x²) + eps), f(x) / sqrt(var(x) + eps), recognised by their graph.

The factors are far from independent, so that the rules of products and quotients would be wrong for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.fx

from initcheck.signal.grid import HALF_WIDTH, Spectrum
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.rule import shape_of
from initcheck.signal.value import Value

_CASTS = ("to", "float", "type_as", "type", "contiguous", "identity")


def before_casts(node: torch.fx.Node) -> torch.fx.Node:
    """The node that a chain of casts starts from."""
    while str(node.meta.get("op", "")) in _CASTS and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def normalised_operand(nodes: tuple[torch.fx.Node, ...]) -> torch.fx.Node | None:
    """The x of x * rsqrt(mean(x²) + eps), an RMS (or filter response) norm written out; None for any other product."""
    if len(nodes) != 2:
        return None
    for x, inverse in (nodes, nodes[::-1]):
        chain = before_casts(inverse)
        if chain.meta.get("op") == "expand":
            chain = before_casts(chain.all_input_nodes[0])
        for op in ("rsqrt", "add", "mean"):
            if str(chain.meta.get("op", "")) != op or not chain.all_input_nodes:
                break
            chain = before_casts(chain.all_input_nodes[0])
        else:
            square = str(chain.meta.get("op", "")) in ("pow", "square") and chain.all_input_nodes
            if square and before_casts(chain.all_input_nodes[0]) is before_casts(x):
                return x
    return None


def added_to_mean(nodes: tuple[torch.fx.Node, ...]) -> float:
    """The eps of such a product."""
    for node in nodes:
        chain = before_casts(node)
        if chain.meta.get("op") == "expand":
            chain = before_casts(chain.all_input_nodes[0])
        if chain.meta.get("op") == "rsqrt":
            total = before_casts(chain.all_input_nodes[0])
            return next((float(a) for a in (*total.args, *total.kwargs.values()) if isinstance(a, (int, float))), 0.0)
    return 0.0


_RESHAPED = frozenset(
    [*_CASTS, "reshape", "view", "expand", "unsqueeze", "repeat", "add", "clamp", "clamp_min", "sqrt"]
)


def deviation(below: torch.fx.Node) -> torch.fx.Node | None:
    """The var or std that a divisor sqrt(var(x) + eps) or std(x) + eps is made of; None for any other."""
    chain, root = below, False
    while str(chain.meta.get("op", "")) in _RESHAPED and chain.all_input_nodes:
        root = root or chain.meta["op"] == "sqrt"
        chain = chain.all_input_nodes[0]
    return chain if str(chain.meta.get("op", "")) == ("var" if root else "std") and chain.all_input_nodes else None


_SIZES = np.linspace(0.0, HALF_WIDTH, 513)
"""|z| of the points at which what a group makes of an element is worked out; between them it is smooth."""


@dataclass(frozen=True, slots=True)
class Group:
    """What a written-out norm divides by the std of: ``x``, over ``channels`` and the positions of each."""

    x: Value
    channels: int

    @classmethod
    def of(cls, values: Mapping[torch.fx.Node, Any], above: Value, below: torch.fx.Node) -> Group | None:
        """The group of f(x) / sqrt(var(x) + eps), None for any other quotient."""
        measured = deviation(below)
        x = None if measured is None else values.get(measured.all_input_nodes[0])
        if measured is None or not isinstance(x, Value) or above.iid or above.own_source() is not x.own_source():
            return None
        grouped, places = math.prod(x.shape) // max(math.prod(shape_of(measured)), 1), math.prod(x.positions)
        return cls(x, grouped // places) if grouped % places == 0 and x.variance > 0 else None

    def inverse(self) -> Array:
        """(E[1/s² | x] E[s²])^(1/2) on the grid of x: a group of few channels, or of few positions, has its own std.

        Of a channel's elements x = sqrt(r) a + sqrt(1 - r) e, ``a`` is what all positions share, and
        s² = (1 - r) q + r sum_i (a_i - mean a)²/m over the group's m channels, q the mean of as many squares, e² among
        them, as have its variance. E[1/X] is the integral of E[exp(-t X)]: the other channels and squares give that in
        closed form, and so do a and e, which are normal for a given x: sqrt(r) x and sqrt(1 - r) x on average, with
        variances 1 - r and r.
        """
        source, m, sizes = self.x.own_source(), self.channels, self.x.positions
        rho = source.correlation
        r = min(max(rho.within_position_mean(sizes), 0.0), 1.0 - 1e-3)
        apart = Kernel(rho.same, rho.far, rho.cross, rho.sample, rho.local) + -rho.far  # a border's pattern is in a
        half = 0.5 * m * (1.0 - r) ** 2 / max((apart * apart).within_position_mean(sizes), 1e-6)
        t = np.geomspace(1e-3, 1e3, 200) / (1.0 - r / m)
        own = 0.5 * t * (1.0 - r) / half
        wide, among = 1.0 + 2.0 * t * r / m**2, (m - 1) / m * t * r / m
        bend = among / wide
        decay = (1.0 + 2.0 * own) ** (0.5 - half) * (1.0 + 2.0 * t * r / m) ** (-0.5 * max(m - 2, 0))
        decay = decay / np.sqrt((wide if m > 1 else 1.0) * (1.0 + 2.0 * own * r) * (1.0 + 2.0 * bend * (1.0 - r)))
        bend = r * bend / (1.0 + 2.0 * bend * (1.0 - r)) + (1.0 - r) * own / (1.0 + 2.0 * own * r)
        steps = 0.5 * np.diff(t)
        decay = decay * (np.append(steps, 0.0) + np.insert(steps, 0, 0.0))  # trapezoids
        shown = np.exp(np.multiply.outer(-(_SIZES**2), bend)) @ decay
        return np.asarray(np.interp(np.abs(source.at.z), _SIZES, np.sqrt((1.0 - r / m) * (shown + t[0]))))

    def left(self, kernel: Kernel, above: Value, scale: float) -> float:
        """The part of g f'(x) / s that is not taken off again by way of s.

        dx = (g f' - x_hat avg(g y)) / s with y = f/s. Of the averages over all pairs of the group, those of
        g y g' y' - 2 g f' x_hat g' y' are the kernel of the difference y - f' x_hat less that of f' x_hat.
        """
        source = above.own_source()
        u, y = source.u.double().numpy(), above.own_grid().double().numpy() * scale
        if not np.all(np.diff(u) > 0):
            return 1.0
        slope = np.gradient(y / scale, u)
        straight = slope * (u - self.x.mean) * scale

        def average(values: Array) -> float:
            pairs = kernel * Spectrum.of(values, source.at).kernel(source.correlation)
            return pairs.within_position_mean(above.positions) / self.channels

        direct = kernel.same * float(source.at.weights @ slope**2)
        taken = average(straight) - average(y - straight)
        return min(max(1.0 - taken / direct, 1e-3), 2.0) if direct > 0 else 1.0


def normalises(node: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> bool:
    """Whether a product or a quotient is a norm written out."""
    operands = tuple(node.all_input_nodes)
    if "mul" in str(node.meta.get("op", "")):
        return normalised_operand(operands) is not None
    above = values.get(operands[0]) if len(operands) == 2 else None
    return isinstance(above, Value) and Group.of(values, above, operands[1]) is not None


def keeps_alive(node: torch.fx.Node) -> bool:
    """Whether a node is a norm written out, by its graph alone: a product as above, or anything over a std."""
    op, operands = str(node.meta.get("op", "")), node.all_input_nodes
    if op in ("mul", "multiply"):
        return normalised_operand(tuple(operands)) is not None
    return op in ("div", "truediv", "true_divide") and len(operands) == 2 and deviation(operands[1]) is not None
