"""Products of two activations that are no attention scores: channel attention, linear attention, Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.fx

from initcheck.signal.kernel import Kernel
from initcheck.signal.likeness import likeness
from initcheck.signal.rule import shape_of
from initcheck.signal.value import Dim, Dims, Value

_WEIGHTED = frozenset(["linear", "conv1d", "conv2d", "matmul", "addmm", "mm"])
_PRODUCTS = frozenset(["matmul", "bmm", "einsum", "baddbmm"])
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Contraction:
    """y[i, j] = sum_k a[i, k] b[k, j]: which of the dims hold positions, and how many elements are summed.

    ``first`` and ``second``: whether a's and b's own dims (batch dims included) hold positions; ``channels`` and
    ``places``: numbers of summed channels and positions.
    """

    first: bool
    second: bool
    channels: int
    places: int

    @classmethod
    def of(cls, batch: Dims, own_first: Dim, summed: Dim, own_second: Dim) -> Contraction:
        """From the dims themselves."""
        shared = any(_positional(dim) for dim in batch)
        places = math.prod(a.size for a in summed if a.role == "P")
        channels = math.prod(a.size for a in summed if a.role != "P")
        return cls(shared or _positional(own_first), shared or _positional(own_second), channels, places)

    def second_moments(self, a: Kernel, b: Kernel, alike: float = 0.0) -> Kernel:
        """E[y y'] for factors whose channels have no common mean.

        Channels k are independent; positions share what a and b each have in common between them:
        n_C [n_P A B + n_P (n_P - 1) A_far B_far], A and B taken at the pair in question. ``alike``: 1/C where a and b
        are projections of the same C-dimensional tokens x. Then E[a_k a_l] E[b_k b_l] is the mean of (x_k x_l/C)²,
        which exceeds the square of the mean by the fluctuation 1/C, for each of the n_P² pairs.
        """
        others = self.places - 1
        chance = alike * max(a.same - a.far, 0.0) * max(b.same - b.far, 0.0)

        def summed(samples: bool, places: bool) -> float:
            near = _at(a, samples, places and self.first) * _at(b, samples, places and self.second)
            far = _at(a, samples, True) * _at(b, samples, True) if others else 0.0
            pairs = self.places if samples or (places and self.first and self.second) else others
            return self.channels * self.places * (near + others * far + (pairs * chance if others else 0.0))

        result = Kernel(summed(False, False), summed(False, True), summed(True, False), summed(True, True))
        kept = () if self.places > 1 else (a.profile if not self.second else b.profile if not self.first else ())
        return replace(result, profile=kept)


def _at(k: Kernel, samples: bool, places: bool) -> float:
    """The class of pairs that differ in sample, in position."""
    if samples:
        return k.sample if places else k.cross
    return k.far if places else k.same


def _positional(dim: Dim) -> bool:
    return any(a.role == "P" for a in dim)


def is_score(a: Value, b: Value) -> bool:
    """Whether a @ b compares positions with positions over channels, as queries with keys."""
    return _positional(a.dims[-2]) and _positional(b.dims[-1]) and not _positional(a.dims[-1])


def over_channels(dim: Dim) -> bool:
    """Whether a dim holds channels only."""
    return bool(dim) and all(a.role == "C" for a in dim)


def activation_product(a: Value, b: Value, dims: Dims, alike: float) -> Value:
    """a @ b over their inner dim: mean n M_a M_b; the common means of n_C channels are no fluctuation."""
    summed = b.dims[-2] if over_channels(b.dims[-2]) else a.dims[-1]
    geometry = Contraction.of(a.dims[:-2], a.dims[-2], summed, b.dims[-1])
    mean = geometry.channels * geometry.places * a.mean * b.mean
    second = geometry.second_moments(a.second, b.second, alike)
    covariance = second - (mean**2 / max(geometry.channels, 1))
    # where other positions are correlated negatively (their mean is taken off), the rest can come out below nothing
    least = geometry.channels * geometry.places * a.variance * b.variance
    if covariance.same < least:
        far, cross, sample = (min(max(k, 0.0), least) for k in (covariance.far, covariance.cross, covariance.sample))
        covariance = replace(covariance, same=least, far=far, cross=cross, sample=sample)
    return Value(dims, mean, covariance, approximate=a.approximate or b.approximate).settled()


def channel_mixture(p: Value, v: Value, dims: Dims) -> Value:
    """p @ v where the rows of p run over channels and sum to one: Cov = n E[p p'] Cov[v, v'], the mean stays."""
    geometry = Contraction.of(p.dims[:-2], p.dims[-2], v.dims[-2], v.dims[-1])
    k = geometry.second_moments(p.second, v.covariance)
    return Value(dims, v.mean, k, approximate=v.approximate).settled()


def activation_gradients(g: Kernel, a: Value, b: Value) -> tuple[Kernel, Kernel]:
    """dL/da = g bᵀ and dL/db = aᵀ g, products of the same kind."""
    batch, rows, columns = a.dims[:-2], a.dims[-2], b.dims[-1]
    to_a = Contraction.of(batch, rows, columns, a.dims[-1]).second_moments(g, b.second)
    to_b = Contraction.of(batch, b.dims[-2], rows, columns).second_moments(a.second, g)
    return to_a, to_b


def alike(first: torch.fx.Node, second: torch.fx.Node, values: Mapping[torch.fx.Node, Any]) -> float:
    """E[(x x'/C)²] of the C-dimensional tokens that both are made of by at most two layers each; 0 if there are none.

    Their ``likeness``; where that is not known 1/C for independent channels, and where a layer made them of F inputs,
    E over its weights, 1/C + 1/F.
    """
    parts = joined_tokens(first), joined_tokens(second)
    if parts[0] and len(parts[0]) == len(parts[1]):  # tokens of several streams, each by layers of its own
        sizes = [math.prod(shape_of(part)) for part in parts[0]]
        pairs = zip(sizes, *parts, strict=True)
        return sum((size / sum(sizes)) ** 2 * alike(one, other, values) for size, one, other in pairs)
    mine = dict(_tokens(first))
    for node, channels in _tokens(second):
        if node in mine and (summed := max(channels, mine[node])):
            made_of = _inputs(node)
            return max(likeness(node, values) or (1.0 / made_of if made_of else 0.0) + 1.0 / summed, 1.0 / summed)
    return 0.0


def joined_tokens(node: torch.fx.Node) -> tuple[torch.fx.Node, ...]:
    """The streams whose tokens stand one after the other in a tensor of keys or values; () where there is one."""
    for _ in range(_STEPS):
        op = str(node.meta.get("op", ""))
        if op == "cat":
            whole = shape_of(node)
            streams = tuple(node.all_input_nodes)
            apart = [i for i, n in enumerate(whole) if any(shape_of(s)[i : i + 1] != (n,) for s in streams)]
            return streams if apart and 0 < apart[0] < len(whole) - 1 and len(streams) > 1 else ()
        if op in _WEIGHTED or node.op != "call_function" or not node.all_input_nodes:
            return ()
        node = node.all_input_nodes[0]
    return ()


def _inputs(tokens: torch.fx.Node) -> int:
    """Number of inputs that the layer sums which made these tokens; 0 where none is found."""
    node = tokens
    for _ in range(_STEPS):
        if str(node.meta.get("op", "")) in _WEIGHTED:
            weight = shape_of(node.all_input_nodes[1]) if len(node.all_input_nodes) > 1 else ()
            if len(weight) > 1 and weight[1] > 1:
                return math.prod(weight[1:])
        if node.op != "call_function" or not node.all_input_nodes:
            return 0
        node = node.all_input_nodes[0]
    return 0


def compared(rows: torch.fx.Node) -> tuple[torch.fx.Node, ...]:
    """The two tensors whose product these softmax rows were made of; () where there are none."""
    node, normalised = rows, False
    for _ in range(_STEPS):
        op = str(node.meta.get("op", ""))
        if normalised and op in _PRODUCTS:
            return tuple(node.all_input_nodes[-2:])
        normalised = normalised or op == "softmax"
        if not node.all_input_nodes:
            break
        node = node.all_input_nodes[0]
    return ()


def mixed_by(scores: torch.fx.Node) -> tuple[torch.fx.Node, torch.fx.Node] | None:
    """The softmax of these scores, and the tensor that its rows mix."""
    node, rows = scores, None
    for _ in range(_STEPS):
        user = next(iter(node.users), None)
        if user is None:
            break
        op = str(user.meta.get("op", ""))
        if rows is not None and op in _PRODUCTS:
            others = [n for n in user.all_input_nodes if n is not node]
            return (rows, others[-1]) if others else None
        if op == "softmax":
            rows = user
        node = user
    return None


def _tokens(node: torch.fx.Node) -> Iterator[tuple[torch.fx.Node, int]]:
    """The node and those that it is made of, along the first operand, with the number of channels summed last."""
    layers, channels = 0, 0
    for _ in range(_STEPS):
        yield node, channels
        if str(node.meta.get("op", "")) in _WEIGHTED:
            weight = shape_of(node.all_input_nodes[1]) if len(node.all_input_nodes) > 1 else ()
            summed = weight[1] if len(weight) > 1 else 0
            if summed > 1:  # a depthwise convolution sums no channels
                layers += 1
                if layers > 2:
                    return
                channels = max(channels, summed)
        if node.op != "call_function" or not node.all_input_nodes:
            return
        node = node.all_input_nodes[0]
