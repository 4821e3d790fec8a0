"""Softmax, products of activations, scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.mixing import (
    centred_square,
    coherence,
    concentration,
    mix,
    seen_by_query,
    ties_occur,
    to_scores,
    unmix,
)
from initcheck.signal.ops.joining import mixture
from initcheck.signal.ops.linear import Weights, contract, uncontract
from initcheck.signal.products import (
    activation_gradients,
    activation_product,
    alike,
    channel_mixture,
    compared,
    is_score,
    mixed_by,
    over_channels,
)
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.value import MASKED, Atom, Dim, Dims, Mixing, Value, settle


@register
class Softmax(Rule):
    """softmax over keys: mean 1/n, E[p²] = E[sum p²]/n. Only the part of the logits that varies along the keys counts.

    Backward: dx = p (g - sum_k p_k g_k), for independent g E[sum dx²] = E[sum p² (1 - 2p) + (sum p²)²] E[g²].
    """

    ops: tuple[str, ...] = ("softmax", "log_softmax", "softmin")
    signature: tuple[str, ...] = ("input", "dim")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        given = call.plain("dim", -1)
        dim = call.dim(-1 if given is None else int(given), len(x.dims))
        n = math.prod(a.size for a in x.dims[dim])
        roles = {a.role for a in x.dims[dim]}
        k = x.covariance
        inner = k.same if roles == {"C"} else k.same - (k.far if roles == {"P"} else 0.0)
        inner = max(inner, 0.0)
        call.memo["inner"], call.memo["n"], call.memo["roles"] = inner, n, roles
        if call.op == "log_softmax":
            level = x.mean - math.log(max(n, 1)) - (x.mean + inner / 2)
            return Value(x.dims, level, Kernel(inner, 0.0, k.cross, k.sample), approximate=x.approximate).settled()
        keys = x.kept if x.kept is not None and x.kept.size else np.array([float(max(n, 1))])
        square = float(concentration(keys, inner).mean())
        rows = math.prod(x.shape) / max(n, 1)
        call.memo["centred"] = (
            float(centred_square(keys, inner).mean()) if ties_occur(float(keys.mean()), inner, rows) else 0.0
        )
        # other queries, other samples: what they share of the logits
        shared = max(min(k.cross - k.sample, inner), 0.0) if roles == {"P"} else max(k.sample, 0.0)
        smaller = float(np.mean(1.0 / np.maximum(keys, 1.0)))
        overlap = smaller * math.exp(min(shared, 50.0)) if shared < inner else square
        overlap = min(overlap, square)
        second = square / max(n, 1)
        mean = 1.0 / max(n, 1)
        other = overlap / max(n, 1) - mean**2
        covariance = Kernel(second - mean**2, 0.0, max(other, 0.0), 0.0)
        result = Value(x.dims, mean, covariance, approximate=x.approximate).settled()
        queries = math.prod(a.size for a in x.dims[dim - 1]) if dim else 1
        seen = seen_by_query(keys, queries, n) if x.kept is not None else None
        result.mixing = Mixing(square, overlap, n, dim, inner, shared if shared < inner else 0.0, seen)
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        n = call.memo["n"]
        g = gradient.collapsed()
        if call.op == "log_softmax":
            yield call.node_of("input"), Gradient.fresh(g * max(1 - 1 / max(n, 1), 1e-3))
            return
        mixing = call.out.mixing
        spread = g.same - (g.far if call.memo["roles"] == {"P"} else 0.0)
        square = mixing.square
        same = call.memo["centred"] / n * max(spread, 0.0)
        relative = same / g.same if g.same > 0 else 0.0
        far = -same / (n - 1) if n > 1 and call.memo["roles"] == {"P"} else 0.0  # dx sums to zero over the keys
        k = Kernel(same, far, g.cross * relative * mixing.overlap / square, 0.0)
        yield call.node_of("input"), Gradient.fresh(settle(k, x.dims))


def score_kernel(q: Value, k: Value, width: int, scale: float) -> Kernel:
    """q k^T: independent projections, so that second moments multiply and sum over the width.

    Classes: ``same`` one score; ``far`` same query, other key; ``cross`` other query (or sample), same key.
    """
    a, b = q.second, k.second
    factor = width * scale**2
    return Kernel(a.same * b.same * factor, a.same * b.far * factor, a.far * b.same * factor, a.far * b.far * factor)


@register
class MatMul(Rule):
    """Products of two tensors.

    With a weight, a random sum; with softmax rows, a mixture; of two activations, a score.
    """

    ops: tuple[str, ...] = ("matmul", "bmm", "mm", "mv", "dot", "rmatmul")
    signature: tuple[str, ...] = ("input", "other")

    def forward(self, call: Call) -> Result:
        a, b = call.value("input"), call.value("other")
        if len(a.dims) < 2 or len(b.dims) < 2:
            if is_weight(b):
                return self._with_weight(a, b, call.shape)
            raise Unknown("product of vectors")
        if is_weight(b):
            return self._with_weight(a, b, call.shape)
        if is_weight(a):
            return self._weight_first(a, b, call.shape)
        factors = call.node_of("input"), call.node_of("other")
        return product(a, b, self._dims(a, b, call.shape), alike(*factors, call.values), lean(call, *factors))

    def _dims(self, a: Value, b: Value, shape: tuple[int, ...]) -> Dims:
        lead = len(shape) - 2
        longer = a if len(a.dims) >= len(b.dims) else b
        return (*longer.dims[:lead], a.dims[-2], b.dims[-1])

    def _with_weight(self, a: Value, b: Value, shape: tuple[int, ...]) -> Value:
        units = b.shape[-1] if len(b.dims) > 1 else 1
        value = contract(a, (len(a.dims) - 1,), Weights(b.mean, b.variance), units)
        if len(b.dims) == 1:
            value.dims = value.dims[:-1]
        return value

    def _weight_first(self, a: Value, b: Value, shape: tuple[int, ...]) -> Value:
        swapped = transposed(b)
        value = contract(swapped, (len(b.dims) - 1,), Weights(a.mean, a.variance), a.shape[-2])
        return transposed(value)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        a, b = call.value("input"), call.value("other")
        node_a, node_b = call.node_of("input"), call.node_of("other")
        g = gradient.collapsed()
        if is_weight(b):
            units = b.shape[-1] if len(b.dims) > 1 else 1
            yield node_a, Gradient.fresh(uncontract(g, a, (len(a.dims) - 1,), Weights(b.mean, b.variance), units))
            return
        if is_weight(a):
            swapped = transposed(b)
            back = uncontract(g, swapped, (len(b.dims) - 1,), Weights(a.mean, a.variance), a.shape[-2])
            yield node_b, Gradient.fresh(settle(back, b.dims))
            return
        to_a, to_b = product_gradients(g, a, b, coherent(call, (node_a, node_b)))
        yield node_a, Gradient.fresh(settle(to_a, a.dims))
        yield node_b, Gradient.fresh(settle(to_b, b.dims))


def lean(call: Call, first: torch.fx.Node, second: torch.fx.Node) -> Kernel | None:
    """For a mixture by softmax rows: how the rows lean towards what is mixed, see ``mixing.mix``."""
    rows, mixed = call.values.get(first), second
    made_of = compared(first)
    if not made_of:
        rows, mixed, made_of = call.values.get(second), first, compared(second)
    if not made_of or not isinstance(rows, Value) or rows.mixing is None:
        return None
    queries, keys = made_of if rows.mixing.dim == len(rows.dims) - 1 else made_of[::-1]
    asking = call.values.get(queries)
    return leaning(asking.second, alike(keys, mixed, call.values)) if isinstance(asking, Value) else None


def leaning(queries: Kernel, tokens: float) -> Kernel | None:
    """1/C times how queries are alike; nothing where there are no tokens in common."""
    if not tokens or not queries.same > 0:
        return None
    k = queries * (tokens / queries.same)
    return Kernel(k.same, k.far, k.cross, k.sample)


def coherent(call: Call, factors: tuple[torch.fx.Node, torch.fx.Node]) -> tuple[float, float]:
    """For scores: ``mixing.coherence`` of the keys, for the factor that queries them; else nothing."""
    found = mixed_by(call.node)
    rows = call.values.get(found[0]) if found else None
    if found is None or not isinstance(rows, Value) or rows.mixing is None:
        return 0.0, 0.0
    last = rows.mixing.dim == len(rows.dims) - 1
    chance = alike(factors[1] if last else factors[0], found[1], call.values)
    beyond = coherence(rows.mixing, chance) if chance else 0.0
    return (beyond, 0.0) if last else (0.0, beyond)


def product(a: Value, b: Value, dims: Dims, common: float = 0.0, rows: Kernel | None = None) -> Value:
    """a @ b of two activations (the last two dims of each); ``common``, ``rows``: ``alike`` and ``lean`` of them."""
    if a.mixing is not None and a.mixing.dim == len(a.dims) - 1:
        return channel_mixture(a, b, dims) if over_channels(b.dims[-2]) else mix(b, a.mixing, dims, rows)
    if b.mixing is not None and b.mixing.dim == len(b.dims) - 2:
        if over_channels(a.dims[-1]):
            return transposed(channel_mixture(transposed(b), transposed(a), (*dims[:-2], dims[-1], dims[-2])))
        return mix(transposed(a), b.mixing, dims, rows)
    return scores(a, b, dims) if is_score(a, b) else activation_product(a, b, dims, common)


def product_gradients(g: Kernel, a: Value, b: Value, beyond: tuple[float, float] = (0.0, 0.0)) -> tuple[Kernel, Kernel]:
    """Gradients of both operands of ``product``; ``beyond``: ``coherent`` of scores."""
    rows, columns = a.shape[-2], b.shape[-1]
    if not is_score(a, b) and not mixes_positions(a, b):
        to_a, to_b = activation_gradients(g, a, b)
        return to_a * (1 + beyond[0]), to_b * (1 + beyond[1])
    if a.mixing is not None and a.mixing.dim == len(a.dims) - 1:
        m, v = a.mixing, b.second
        own = Kernel(
            columns * g.same * v.same, columns * g.same * v.far, columns * g.far * v.same, columns * g.far * v.far
        )
        return own, unmix(apart(g, a.dims[-2]), m, rows, m.keys, b.dims, b.positions)
    if b.mixing is not None and b.mixing.dim == len(b.dims) - 2:
        m, v = b.mixing, a.second
        own = Kernel(rows * g.same * v.same, rows * g.far * v.same, rows * g.same * v.far, rows * g.far * v.far)
        return unmix(apart(g, b.dims[-1]), m, columns, m.keys, a.dims, a.positions), own
    # two activations: the gradient of one is g times the other, summed over the dim that the other brings
    to_a = summed_product(g, b.second, columns, b.dims[-1], first=True)
    to_b = summed_product(g, a.second, rows, a.dims[-2], first=False)
    return to_a * (1 + beyond[0]), to_b * (1 + beyond[1])


def mixes_positions(a: Value, b: Value) -> bool:
    """Whether one of the factors holds softmax rows over positions."""
    if a.mixing is not None and a.mixing.dim == len(a.dims) - 1:
        return not over_channels(b.dims[-2])
    return b.mixing is not None and b.mixing.dim == len(b.dims) - 2 and not over_channels(a.dims[-1])


def apart(g: Kernel, rows: Dim) -> Kernel:
    """The gradient for different rows: independent where the rows are channels."""
    return Kernel(g.same, 0.0, g.cross, 0.0) if over_channels(rows) else g


def scores(a: Value, b: Value, dims: Dims) -> Value:
    """q k^T."""
    width = math.prod(x.size for x in a.dims[-1])
    k = score_kernel(a, b, width, 1.0)
    mean = a.mean * b.mean * width
    covariance = k
    if mean**2 > 1e-12 * width * abs(k.same):  # beyond rounding
        covariance = (a.second * b.second - (a.mean * b.mean) ** 2) * width
        covariance = Kernel(covariance.same, covariance.far, covariance.cross, covariance.sample)
    return Value(dims, mean, covariance, approximate=a.approximate or b.approximate).settled()


def summed_product(g: Kernel, x: Kernel, n: int, dim: tuple[Atom, ...], first: bool) -> Kernel:
    """Kernel of sum_j g_ij x_j: n terms; positions j share what x has in common (and g has) between them."""
    positional = any(a.role == "P" for a in dim)
    g_other = g.far if first else g.cross
    same = n * g.same * x.same + (n * (n - 1) * g_other * x.far if positional else 0.0)
    g_rows = g.cross if first else g.far
    far = n * g_rows * x.same + (n * (n - 1) * g.sample * x.far if positional else 0.0)
    return Kernel(same, min(far, same), n * g.cross * x.cross * 0.0, 0.0)


def is_weight(value: Value) -> bool:
    """Whether an operand is made of parameters (or constants) only."""
    return value.iid or value.constant is not None


def transposed(value: Value) -> Value:
    """The last two dims swapped."""
    dims = (*value.dims[:-2], value.dims[-1], value.dims[-2])
    return value.fresh(dims, covariance=value.covariance.without_local())


@register
class ScaledDotProductAttention(Rule):
    """softmax(q k^T scale + mask) v, heads apart (Vaswani et al. 2017), grouped keys and dropout included."""

    ops: tuple[str, ...] = ("scaled_dot_product_attention",)
    signature: tuple[str, ...] = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")

    def _rows(self, call: Call, queries: int, keys: int) -> Array:
        """Number of keys that each query may attend to."""
        if call.plain("is_causal", False):
            return np.minimum(np.arange(1, queries + 1), keys).astype(float)
        mask = call.optional("attn_mask")
        if mask is not None and mask.kept is not None and mask.kept.size:
            return mask.kept
        return np.array([float(keys)])

    def forward(self, call: Call) -> Result:
        q, k, v = call.value("query"), call.value("key"), call.value("value")
        width = q.shape[-1]
        scale = call.plain("scale", None)
        scale = 1 / math.sqrt(width) if scale is None else float(scale)
        score = score_kernel(q, k, width, scale)
        queries, keys = q.shape[-2], k.shape[-2]
        rows = self._rows(call, queries, keys)
        inner = max(score.same - score.far, 0.0)
        mask = call.optional("attn_mask")
        if mask is not None and mask.variance > 0 and not mask.integer:
            inner += mask.variance
        square = float(concentration(rows, inner).mean())
        shared = max(score.cross - score.sample, 0.0)
        overlap = min(float(np.mean(1.0 / rows)) * math.exp(min(shared, 50.0)), square)
        keep = 1.0 - float(call.plain("dropout_p", 0.0) or 0.0)
        seen = seen_by_query(rows, queries, keys)
        mixing = Mixing(square, overlap, keys, -1, inner, min(shared, inner), seen, 1 / max(keep, 1e-9) - 1)
        tokens = alike(call.node_of("key"), call.node_of("value"), call.values)
        call.memo.update(mixing=mixing, scale=scale, tokens=tokens)
        return mix(v, mixing, (*q.dims[:-1], v.dims[-1]), leaning(q.second, tokens))

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        q, k, v = call.value("query"), call.value("key"), call.value("value")
        m: Mixing = call.memo["mixing"]
        g = gradient.collapsed().spread_evenly(q.positions)
        queries, keys, width = q.shape[-2], k.shape[-2], v.shape[-1]
        groups = math.prod(q.shape[:-2]) / max(math.prod(k.shape[:-2]), 1)
        to_value = unmix(g, m, queries, keys, v.dims, q.positions) * groups
        yield call.node_of("value"), Gradient.fresh(settle(to_value, v.dims))
        by_query, by_key = to_scores(g, v, k, q, m, call.memo["tokens"])
        scale = width * call.memo["scale"] ** 2
        yield call.node_of("query"), Gradient.fresh(settle(by_query * scale, q.dims))
        yield call.node_of("key"), Gradient.fresh(settle(by_key * (scale * groups), k.dims))


@register
class MaskedFill(Rule):
    """masked_fill/where with a known mask: a mixture; a fill of -inf (or a huge negative) only removes keys."""

    ops: tuple[str, ...] = ("masked_fill", "where")
    signature: tuple[str, ...] = ("input", "mask", "value")

    def _order(self, call: Call) -> tuple[Any, Any, Any]:
        if call.op == "where":
            names = list(call.node.args) + [call.node.kwargs[n] for n in ("input", "other") if n in call.node.kwargs]
            if len(names) < 3:
                raise Unknown("where with one argument")
            return names[0], names[1], names[2]
        return call.raw("mask"), call.raw("value"), call.raw("input")

    def _sides(self, call: Call) -> tuple[Array | None, float, Any, Any]:
        """The mask (known or None), its share of True, the value where True, and where False."""
        mask_raw, if_true, if_false = self._order(call)
        mask = call.of(mask_raw) if isinstance(mask_raw, torch.fx.Node) else None
        known = mask.constant if mask is not None else None
        share = float(known.double().mean()) if known is not None and known.numel() else mask.mean if mask else 0.5
        array = known.numpy() if known is not None else None
        return array, min(max(share, 0.0), 1.0), if_true, if_false

    def forward(self, call: Call) -> Result:
        mask, share, if_true, if_false = self._sides(call)
        values = [self._as_value(call, side) for side in (if_true, if_false)]
        huge = [is_minus_infinity(v) for v in values]
        if any(huge):
            kept = values[1] if huge[0] else values[0]
            result = kept.viewed(kept.dims, kept.covariance.profile, kept.covariance.local)
            if result.shape != call.shape:
                from initcheck.signal.value import broadcast_dims

                result = kept.fresh(broadcast_dims([kept], call.shape)).settled()
            if mask is not None:
                allowed = ~mask.astype(bool) if huge[0] else mask.astype(bool)
                result.kept = allowed.sum(-1).astype(float).ravel()
            elif 0.0 < share < 1.0 and result.dims and call.shape:
                result.kept = np.array([max((1 - share if huge[0] else share) * call.shape[-1], 1.0)])
            return result
        from initcheck.signal.value import broadcast_dims

        dims = broadcast_dims(values, call.shape)
        if values[0] is values[1] or share in (0.0, 1.0):
            chosen = values[0] if share == 1.0 else values[1]
            return chosen.fresh(dims).settled()
        mean, k = mixture([(share, values[0]), (1 - share, values[1])])
        result = Value(dims, mean, k, iid=all(v.iid for v in values))
        result.positive = all(v.positive or (v.variance == 0 and v.mean >= 0) for v in values)
        result.negative = all(v.negative or (v.variance == 0 and v.mean <= 0) for v in values)
        return result.settled()

    def _as_value(self, call: Call, side: Any) -> Value:
        if isinstance(side, torch.fx.Node):
            return call.of(side)
        return Value((), float(side), Kernel.constant(0.0), constant=torch.tensor(float(side)))

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        _, share, if_true, if_false = self._sides(call)
        values = [self._as_value(call, side) for side in (if_true, if_false)]
        huge = [is_minus_infinity(v) for v in values]
        for side, value, part in ((if_true, values[0], share), (if_false, values[1], 1 - share)):
            if not isinstance(side, torch.fx.Node) or value.iid or value.constant is not None:
                continue
            if any(huge):
                yield side, gradient
            else:
                from initcheck.signal.reduce import unbroadcast

                kernel = unbroadcast(gradient.collapsed() * part, call.out.dims, shape_of(side))
                yield side, Gradient.fresh(settle(kernel, value.dims))


def is_minus_infinity(value: Value) -> bool:
    """A number that softmax turns into zero."""
    return value.variance == 0 and value.mean <= MASKED


@register
class Triangle(Rule):
    """tril/triu of an activation: half of it is zero."""

    ops: tuple[str, ...] = ("tril", "triu")
    signature: tuple[str, ...] = ("input", "diagonal")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        rows, columns = call.shape[-2:]
        ones = torch.ones(rows, columns)
        diagonal = int(call.plain("diagonal", 0) or 0)
        kept = float((torch.tril(ones, diagonal) if call.op == "tril" else torch.triu(ones, diagonal)).mean())
        second = x.second * kept
        call.memo["kept"] = kept
        return Value(x.dims, x.mean * kept, second - (x.mean * kept) ** 2, approximate=True).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        yield call.node_of("input"), gradient.mapped(lambda k: k * call.memo["kept"])


@register
class CrossEntropy(Rule):
    """Mean cross entropy of n-class logits against any target: ln n + v/2 for Gaussian logits of variance v.

    The gradient starts at the logits (the primary output), not here.
    """

    ops: tuple[str, ...] = ("cross_entropy",)
    signature: tuple[str, ...] = ("input", "target")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        dim = 1 if len(x.dims) > 1 else 0
        classes = math.prod(a.size for a in x.dims[dim])
        dims: Dims = () if not call.shape else tuple(d for i, d in enumerate(x.dims) if i != dim)
        return Value(dims, math.log(max(classes, 1)) + x.variance / 2, Kernel.constant(0.0)).settled()
