"""Messages along the edges of a graph: sums, means and maxima of the rows that an index sends to the same place."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.fx

from initcheck.signal.degrees import Degrees, example_of
from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.reduction import extreme
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.scattered_softmax import EdgeWeights, Messages, behind_views, message_sum
from initcheck.signal.value import Value, settle


@register
class ScatterSum(Rule):
    """y_i = sum of the d_i rows sent to place i (message passing, Gilmer et al. 2017).

    Var[y] = E[d] v_own + E[d²] v_shared + Var[d] mean²; other places share v_shared only. Backward: each row gets the
    gradient of its place, rows of one place the same one.
    """

    ops: tuple[str, ...] = ("scatter_add", "index_add", "scatter_reduce", "index_reduce")
    signature: tuple[str, ...] = ("input", "dim", "index", "source", "reduce")

    def _source(self, call: Call) -> tuple[torch.fx.Node, Value]:
        node = call.raw("source", call.node.kwargs.get("src"))
        if not isinstance(node, torch.fx.Node):
            raise Unknown(f"{call.op} of a number")
        if int(call.plain("dim", 0)) != 0:
            raise Unknown(f"{call.op} along another dim than the first")
        return node, call.of(node)

    def _reduction(self, call: Call) -> str:
        return str(call.plain("reduce", "sum")) if "reduce" in call.op else "sum"

    def _degrees(self, call: Call, x: Value) -> Degrees:
        places = call.shape[0] if call.shape else 1
        return Degrees.of(example_of(call.node_of("index")), x.shape[0] if x.shape else 1, places)

    def forward(self, call: Call) -> Result:
        node, x = self._source(call)
        base, d = call.value("input"), self._degrees(call, x)
        if base.variance > 0 or base.mean != 0:
            raise Unknown(f"{call.op} onto a tensor that is not zero")
        k = x.covariance
        shared = min(max(k.cross, 0.0), k.same)
        own = k.same - shared
        kind = self._reduction(call)
        filled = 1.0 - float(d.shares[d.counts == 0].sum())
        if kind == "sum":
            mean, same = d.mean * x.mean, d.mean * own + d.square * shared + (d.square - d.mean**2) * x.mean**2
            cross = d.mean**2 * shared
        elif kind == "mean":
            inverse = float((d.shares / np.maximum(d.counts, 1.0))[d.counts > 0].sum())
            mean, same = filled * x.mean, inverse * own + filled * shared + filled * (1 - filled) * x.mean**2
            cross = filled**2 * shared
        elif kind in ("amax", "amin"):
            moments = [extreme(int(n)) for n in d.counts if n > 0]
            shares = d.shares[d.counts > 0]
            sign = 1.0 if kind == "amax" else -1.0
            best = np.array([x.mean + sign * level * math.sqrt(own) for level, _ in moments])
            spread = np.array([variance * own for _, variance in moments])
            mean = float(shares @ best)
            same = float(shares @ (spread + best**2)) + filled * shared - mean**2
            cross = filled**2 * shared
        else:
            raise Unknown(f"{call.op} with reduce={kind}")
        messages = Messages.of(behind_views(node)) if kind == "sum" else None
        edges = None if messages is None else EdgeWeights.of(messages.quotient)
        if messages is not None and edges is not None:
            mean, summed = message_sum(d, edges.inner(call.values), messages.keep, call.of(messages.x))
            same, cross = summed.same, summed.cross
        dims = (base.dims[0], *x.dims[1:]) if len(base.dims) == len(x.dims) else base.dims
        call.memo.update(degrees=d, kind=kind)
        result = Value(dims, mean, Kernel(same, same, cross, cross), approximate=x.approximate)
        result.positive = x.positive
        return result.settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node, x = self._source(call)
        if x.iid or x.constant is not None:
            return
        d: Degrees = call.memo["degrees"]
        k = gradient.collapsed().without_local()
        rows = max(x.shape[0], 1)
        if call.memo["kind"] == "mean":
            weights = d.shares * d.counts / np.maximum(d.counts, 1.0) ** 2
            k = k * float(weights.sum() / max(d.mean, 1e-12))
        elif call.memo["kind"] != "sum":
            k = k * (1.0 / max(d.mean, 1.0))  # the winner takes it
            k = Kernel(k.same, k.far, k.cross / max(d.mean, 1.0), k.sample / max(d.mean, 1.0))
        together = max(d.square / max(d.mean, 1e-12) - 1.0, 0.0) / max(rows - 1, 1)
        if call.memo["kind"] in ("amax", "amin"):
            together = 0.0
        cross, sample = k.cross + together * (k.same - k.cross), k.sample + together * (k.far - k.sample)
        yield node, Gradient.fresh(settle(Kernel(k.same, k.far, cross, sample), x.dims))


@register
class Outer(Rule):
    """a bᵀ of two vectors: second moments multiply."""

    ops: tuple[str, ...] = ("outer", "ger")
    signature: tuple[str, ...] = ("input", "vec2")

    def forward(self, call: Call) -> Result:
        a, b = call.value("input"), call.value("vec2")
        dims = (*a.dims, *b.dims)
        second = Kernel.constant(a.second.same * b.second.same)
        mean = a.mean * b.mean
        return Value(dims, mean, second - mean**2, iid=a.iid and b.iid, approximate=True).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        k = gradient.collapsed()
        for name, other in (("input", "vec2"), ("vec2", "input")):
            value, factor = call.value(name), call.value(other)
            if not (value.iid or value.constant is not None):
                n = math.prod(factor.shape)
                yield call.node_of(name), Gradient.fresh(settle(k * (n * factor.second.same), value.dims))


@register
class MeshGrid(Rule):
    """Coordinates copied along the axes of the others."""

    ops: tuple[str, ...] = ("meshgrid",)

    def forward(self, call: Call) -> Result:
        values = [call.of(n) for n in call.node.all_input_nodes]
        outputs = call.node.meta["val"]
        dims = tuple(d for v in values for d in v.dims)
        if len(values) != len(outputs) or len(dims) != len(shape_of(call.node)):
            raise Unknown("meshgrid of other than vectors")
        if tuple(math.prod(a.size for a in d) for d in dims) != shape_of(call.node):
            dims = (dims[1], dims[0], *dims[2:])
        return tuple(Value(dims, v.mean, v.covariance.without_local(), iid=v.iid).settled() for v in values)
