"""Softmax over the edges that meet at a place, by scatter: exp(x - max) / sum (Velickovic et al. 2018, eq. 3).

Numerator and denominator are made of the same logits, so that the rules of exponentials and quotients would be wrong
for them: as in a softmax along a dim, what all edges of a place share drops out, and weights of one place sum to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.fx

from initcheck.signal.degrees import Degrees, example_of
from initcheck.signal.grid import Spectrum
from initcheck.signal.kernel import Kernel
from initcheck.signal.mixing import centred_square, concentration
from initcheck.signal.value import Value

_VIEWS = frozenset(
    ["view", "reshape", "unsqueeze", "squeeze", "expand", "expand_as", "detach", "to", "contiguous", "dropout"]
)
_PICKS = frozenset(["index_select", "getitem", "gather"])
_ACTIVATIONS = frozenset(["leaky_relu", "relu", "tanh", "elu", "gelu", "silu", "sigmoid"])


def _op(node: Any) -> str:
    return str(node.meta.get("op", "")) if isinstance(node, torch.fx.Node) else ""


def _is_view(node: torch.fx.Node) -> bool:
    if _op(node) == "getitem":  # x[:, None]
        items = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return all(i is None or i is Ellipsis or i == slice(None) for i in items)
    return _op(node) in _VIEWS and bool(node.all_input_nodes)


def behind_views(node: torch.fx.Node) -> torch.fx.Node:
    """The node that a chain of views, casts and dropout starts from."""
    while _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _picked(node: Any) -> tuple[torch.fx.Node, Any] | None:
    """What rows are picked from, and by which index."""
    if _op(node) not in _PICKS or len(node.all_input_nodes) != 2:
        return None
    source, index = node.all_input_nodes
    return source, _origin(index)


def _origin(index: torch.fx.Node) -> Any:
    """What names an index: the same slice of the same tensor is the same index."""
    index = behind_views(index)
    if _op(index) == "getitem" and len(index.args) == 2 and isinstance(index.args[1], int):
        return index.args
    return index


def _scattered(node: torch.fx.Node, op: tuple[str, ...]) -> tuple[torch.fx.Node, torch.fx.Node] | None:
    """Index and source of a scatter."""
    if _op(node) not in op or len(node.all_input_nodes) < 3:
        return None
    return node.all_input_nodes[1], behind_views(node.all_input_nodes[2])


def beyond_maximum(node: torch.fx.Node) -> torch.fx.Node | None:
    """The x of x - max(x), the maximum being that of the rows that an index sends to the same place."""
    if _op(node) not in ("sub", "subtract") or len(node.all_input_nodes) != 2:
        return None
    x, other = node.all_input_nodes
    picked = _picked(other)
    found = None if picked is None else _scattered(picked[0], ("scatter_reduce", "index_reduce"))
    return x if found is not None and found[1] is x else None


@dataclass(frozen=True, slots=True)
class EdgeWeights:
    """Softmax weights of edges: their ``logits``, the ``index`` that sends them to places, the number of places."""

    logits: torch.fx.Node
    index: torch.fx.Node
    places: int

    @classmethod
    def of(cls, quotient: torch.fx.Node) -> EdgeWeights | None:
        """None for any other quotient."""
        if _op(quotient) not in ("div", "truediv", "true_divide") or len(quotient.all_input_nodes) != 2:
            return None
        above, below = quotient.all_input_nodes
        picked = _picked(below)
        if _op(above) != "exp" or picked is None:
            return None
        total = picked[0]
        while _op(total) == "add" and len(total.all_input_nodes) == 1:
            total = total.all_input_nodes[0]
        found = _scattered(total, ("scatter_add", "index_add"))
        if found is None or found[1] is not above or _origin(found[0]) != picked[1]:
            return None
        logits = beyond_maximum(above.all_input_nodes[0])
        shape = tuple(total.meta["val"].shape)
        return None if logits is None else cls(logits, found[0], int(shape[0]))

    def degrees(self) -> Degrees:
        """The number of edges of a place."""
        return Degrees.of(example_of(self.index), int(self.logits.meta["val"].shape[0]), self.places)

    def inner(self, values: Mapping[torch.fx.Node, Any]) -> float:
        """The variance of the logits among the edges of one place: without what was picked by that place."""
        x: Value = values[self.logits]
        before = self.logits
        while _op(before) in _ACTIVATIONS:
            before = before.all_input_nodes[0]
        k = x.covariance
        shared = k.cross
        if _op(before) == "add" and isinstance(values.get(before), Value):
            for operand in before.all_input_nodes:
                picked = _picked(operand)
                if picked is None or picked[1] != _origin(self.index):
                    continue
                own, whole = values[operand].covariance, values[before].covariance
                rho = min((max(whole.cross, 0.0) + own.same - max(own.cross, 0.0)) / max(whole.same, 1e-300), 1.0)
                spectrum = Spectrum.of(x.own_grid().double().numpy(), x.own_source().at)
                shared = spectrum.kernel(Kernel.constant(rho)).same - x.mean**2
        return max(k.same - max(shared, 0.0), 0.0)


def moments(d: Degrees, inner: float) -> tuple[float, float, float]:
    """Of a place: the chance of any edge, E[sum p²], and E[sum p² (a - sum p a)²] for independent a of variance 1."""
    some = d.counts > 0
    keys, chances = d.counts[some], d.shares[some]
    left = float(chances @ centred_square(keys, inner))
    return float(chances.sum()), float(chances @ concentration(keys, inner)), left


@dataclass(frozen=True, slots=True)
class Messages:
    """What such weights weigh: ``quotient``, the operand ``x`` of the product, what dropout keeps of the weights."""

    quotient: torch.fx.Node
    x: torch.fx.Node
    keep: float

    @classmethod
    def of(cls, product: torch.fx.Node) -> Messages | None:
        """None for any other product."""
        if _op(product) != "mul" or len(product.all_input_nodes) != 2:
            return None
        for one, other in (product.all_input_nodes, product.all_input_nodes[::-1]):
            quotient, keep = one, 1.0
            while _is_view(quotient):
                keep *= 1.0 - dropped(quotient)
                quotient = quotient.all_input_nodes[0]
            if EdgeWeights.of(quotient) is not None:
                return cls(quotient, other, max(keep, 1e-9))
        return None

    @classmethod
    def made_with(cls, quotient: torch.fx.Node) -> Messages | None:
        """The product that a quotient goes into."""
        node = quotient
        while len(node.users) == 1:
            node = next(iter(node.users))
            if not _is_view(node):
                return cls.of(node)
        return None


def dropped(node: torch.fx.Node) -> float:
    """The rate of a dropout; 0 of any other node."""
    if _op(node) != "dropout":
        return 0.0
    given = (*node.args[1:], *(0.5, True)[len(node.args) - 1 :])
    rate, training = node.kwargs.get("p", given[0]), node.kwargs.get("training", given[1])
    return float(rate) if training else 0.0  # type: ignore[arg-type]


def message_sum(d: Degrees, inner: float, keep: float, x: Value) -> tuple[float, Kernel]:
    """Mean and covariance of sum p x: what edges share is kept, what is their own is averaged."""
    filled, square, _ = moments(d, inner)
    shared = max(x.covariance.cross, 0.0)
    own = max(x.covariance.same - shared, 0.0)
    mean, cross = filled * x.mean, filled**2 * shared
    same = own * square / keep + (shared + x.mean**2) * (filled + square * (1.0 / keep - 1.0)) - mean**2
    return mean, Kernel(same, same, cross, cross)
