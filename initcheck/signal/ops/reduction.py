"""Reductions: means, sums, variances, norms, extremes; cumulative sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.reduce import mean_covariance, spread_kernel, variance_fluctuation
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register
from initcheck.signal.value import Dims, Value, settle


def reduced_dims(call: Call, x: Value, name: str = "dim") -> tuple[int, ...]:
    """The dims that a reduction runs over."""
    given = call.plain(name, None)
    ndim = len(x.dims)
    if isinstance(given, bool):
        given = None
    if given is None or given in ((), []):
        return tuple(range(ndim))
    numbers = (given,) if isinstance(given, int) else tuple(given)
    return tuple(sorted(int(d) % ndim for d in numbers)) if ndim else ()


def without(dims: Dims, over: tuple[int, ...], shape: tuple[int, ...]) -> Dims:
    """Dims of the result, kept as () where the reduction keeps them."""
    if len(shape) == len(dims):
        return tuple(() if i in over else dim for i, dim in enumerate(dims))
    return tuple(dim for i, dim in enumerate(dims) if i not in over)


def over_positions(x: Value, over: tuple[int, ...]) -> bool:
    """Whether a reduction is over all positions, and nothing else."""
    gone = [a for i in over for a in x.dims[i]]
    return all(a.role == "P" for a in gone) and len(gone) == len(x.positions) > 0


@register
class Mean(Rule):
    """Mean over dims: channels and positions average out, pair by pair. Backward: 1/n of the gradient to each."""

    ops: tuple[str, ...] = ("mean", "nanmean", "sum", "nansum")
    signature: tuple[str, ...] = ("input", "dim", "keepdim")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        over = reduced_dims(call, x)
        scale = self.scale(call, x, over)
        dims = without(x.dims, over, call.shape)
        k = mean_covariance(x.covariance, x.dims, over) * scale**2
        result = Value(dims, x.mean * scale, k, approximate=x.approximate, positive=x.positive).settled()
        if x.texture is not None and over_positions(x, over):
            result.texture = x.texture.pooled(x.positions)
        return result

    def scale(self, call: Call, x: Value, over: tuple[int, ...]) -> float:
        """1 for a mean, the number of elements for a sum."""
        return float(math.prod(a.size for i in over for a in x.dims[i])) if "sum" in call.op else 1.0

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        over = reduced_dims(call, x)
        n = math.prod(a.size for i in over for a in x.dims[i])
        scale = self.scale(call, x, over) / max(n, 1)
        k = spread_kernel(gradient.collapsed(), x.dims, over) * scale**2
        flow = Gradient.fresh(settle(k, x.dims))
        if gradient.texture is not None and x.texture is not None and over_positions(x, over):
            flow.texture = gradient.texture.copied(x.positions, len(x.positions))
        yield call.node_of("input"), flow


@register
class Spread(Rule):
    """var/std/norm over dims: nearly deterministic for many elements, relative fluctuation sqrt(2/n)."""

    ops: tuple[str, ...] = ("var", "std", "norm", "linalg_vector_norm", "linalg_norm", "vector_norm")
    signature: tuple[str, ...] = ("input", "dim", "correction", "keepdim")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        if "norm" in call.op:
            self._euclidean(call)
            given: Any = call.node.kwargs.get("dim", call.node.args[2] if len(call.node.args) > 2 else None)
            over = tuple(range(len(x.dims))) if given is None else tuple(
                int(d) % len(x.dims) for d in ((given,) if isinstance(given, int) else given)
            )  # fmt: skip
            centred, root, summed = False, True, True
        else:
            over = reduced_dims(call, x)
            centred, root, summed = True, call.op == "std", False
        n = math.prod(a.size for i in over for a in x.dims[i])
        channels = math.prod(a.size for i in over for a in x.dims[i] if a.role == "C")
        kept = mean_covariance(x.covariance, x.dims, over).same if centred else 0.0
        level = x.variance - kept if centred else x.second.same
        if centred and n > 1:
            level *= n / (n - 1)
        fluctuation = 2.0 / max(n, 1)
        sizes = tuple(a.size for i in over for a in x.dims[i] if a.role == "P")
        if centred and sizes == x.positions and x.variance > 0 and n == channels * math.prod(sizes):
            fluctuation = variance_fluctuation(x.covariance * (1.0 / x.variance), channels, sizes)
        if summed:
            level *= n
        mean = math.sqrt(max(level, 0.0)) if root else level
        relative = fluctuation / (4.0 if root else 1.0)
        dims = without(x.dims, over, call.shape)
        positions, samples = any(a.role == "P" for d in dims for a in d), any(a.role == "S" for d in dims for a in d)
        k = Kernel.independent(mean**2 * relative, samples, positions)
        call.memo["over"], call.memo["mean"] = over, mean
        return Value(dims, mean, k, iid=x.iid, approximate=x.approximate, positive=True).settled()

    def _euclidean(self, call: Call) -> None:
        order = call.node.kwargs.get(
            "p", call.node.kwargs.get("ord", call.node.args[1] if len(call.node.args) > 1 else 2)
        )
        if order not in (2, 2.0, None, "fro"):
            raise Unknown(f"norm of order {order}")

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        # d norm / dx = x/norm; d var / dx = 2 (x - mean)/n: n small contributions of random sign
        x = call.value("input")
        over, mean = call.memo["over"], call.memo["mean"]
        n = math.prod(a.size for i in over for a in x.dims[i])
        if mean <= 0:
            return
        slope = {"var": 4 * x.variance / n**2, "std": x.variance / (n * mean) ** 2}.get(
            call.op, x.second.same / mean**2
        )
        k = spread_kernel(gradient.collapsed(), x.dims, over) * slope
        yield call.node_of("input"), Gradient.fresh(settle(k * x.own_source().correlation.without_local(), x.dims))


@register
class Extreme(Rule):
    """amax/max/min over a dim: expected extreme of n normals (Blom's approximation); the winner gets the gradient."""

    ops: tuple[str, ...] = ("amax", "amin", "max", "min", "logsumexp")
    signature: tuple[str, ...] = ("input", "dim", "keepdim")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        if any(isinstance(a, type(call.node)) for a in call.node.args[1:]):
            raise Unknown(f"{call.op} of two tensors")
        over = reduced_dims(call, x)
        n = math.prod(a.size for i in over for a in x.dims[i])
        kept = mean_covariance(x.covariance, x.dims, over)
        inner = max(x.variance - kept.same, 0.0)
        dims = without(x.dims, over, call.shape)
        if call.op == "logsumexp":
            shift, spread = math.log(max(n, 1)) + inner / 2, 0.0
        else:
            level, spread = extreme(n)
            shift, spread = (level if "max" in call.op else -level) * math.sqrt(inner), spread * inner
        k = Kernel.independent(spread, True, True) + kept
        value = Value(dims, x.mean + shift, k, approximate=x.approximate).settled()
        many = isinstance(call.node.meta.get("val"), (tuple, list))
        return (value, Value(dims, 0.0, Kernel.constant(0.0), integer=True)) if many else value

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        over = reduced_dims(call, x)
        n = math.prod(a.size for i in over for a in x.dims[i])
        k = gradient.collapsed() * (1 / max(n, 1))
        alone = any(a.role == "P" for i in over for a in x.dims[i])  # two positions never win both
        k = Kernel(k.same, 0.0 if alone else k.far / max(n, 1), k.cross / max(n, 1), k.sample / max(n, 1))
        yield call.node_of("input"), Gradient.fresh(settle(k, x.dims))


def extreme(n: int) -> tuple[float, float]:
    """Mean and variance of the largest of n standard normals, by quadrature."""
    import torch

    z = np.linspace(-9, 9, 4001)
    cdf = torch.special.ndtr(torch.from_numpy(z)).numpy()
    density = np.exp(-0.5 * z * z) * cdf ** max(n - 1, 0)
    density /= density.sum()
    mean = float(density @ z)
    return mean, float(density @ (z * z)) - mean**2


@register
class Cumulative(Rule):
    """cumsum over positions: on average half of them, plus what they share."""

    ops: tuple[str, ...] = ("cumsum",)
    signature: tuple[str, ...] = ("input", "dim")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        dim = call.dim(int(call.plain("dim", -1)), len(x.dims))
        n = math.prod(a.size for a in x.dims[dim])
        steps, pairs = (n + 1) / 2, (n + 1) * (2 * n + 1) / 6
        k = x.covariance
        same = steps * (k.same - k.far) + pairs * k.far
        cross = steps * (k.cross - k.sample) + pairs * k.sample
        spread = x.mean**2 * (pairs - steps**2)
        along = self._along(x, n)
        far, sample = steps**2 * k.far, steps**2 * k.sample  # of two sums that run side by side
        far, sample = far + along * (same * 2 / 3 - far), sample + along * (cross * 2 / 3 - sample)
        k = Kernel(same + spread, far, cross + spread, sample)
        total = Value(x.dims, x.mean * steps, k, approximate=x.approximate)
        total.positive, total.negative = x.positive, x.negative
        return total.settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        dim = call.dim(int(call.plain("dim", -1)), len(x.dims))
        n = math.prod(a.size for a in x.dims[dim])
        k = gradient.collapsed()
        same = (n + 1) / 2 * (k.same - k.far) + (n + 1) * (2 * n + 1) / 6 * k.far
        far = ((n + 1) / 2) ** 2 * k.far
        far += self._along(x, n) * (same * 2 / 3 - far)
        yield call.node_of("input"), Gradient.fresh(settle(Kernel(same, far, k.cross, k.sample), x.dims))

    @staticmethod
    def _along(x: Value, n: int) -> float:
        """The share of pairs of positions that lie on one and the same sum."""
        return (n - 1) / (x.count("P") - 1) if x.count("P") > n else 1.0
