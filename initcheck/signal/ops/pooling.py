"""Pooling and resampling along positions."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import torch

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.grid import nodes
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.ops.joining import mixture
from initcheck.signal.ops.linear import (
    AdaptiveWindow,
    Window,
    axis_profiles,
    axis_through,
    conv_dims,
    per_axis,
    resolved_of,
    spatial,
)
from initcheck.signal.resolved import Axis, Resolved
from initcheck.signal.rule import Call, Flow, Result, Rule, register
from initcheck.signal.shape import copula, normal_cdf, quantiles, straightened, sum_shape
from initcheck.signal.smoothing import Smoother, smoothed, smoothed_profile
from initcheck.signal.value import Source, Value, settle


class Pooling(Rule):
    """Geometry shared by the pooling ops."""

    signature: tuple[str, ...] = ("input", "kernel_size", "stride", "padding")

    def axes(self, call: Call) -> int:
        """Number of spatial axes, from the op's name."""
        return int(next(c for c in call.op if c.isdigit()))

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        """One window per axis."""
        axes = self.axes(call)
        kernel = per_axis(call.plain("kernel_size"), axes)
        given = call.plain("stride", None)
        stride = per_axis(given, axes) if given not in (None, (), []) else kernel
        padding = per_axis(call.plain("padding", 0), axes)
        return tuple(
            Window(n, k, s, p, 1, o)
            for n, k, s, p, o in zip(x.shape[-axes:], kernel, stride, padding, call.shape[-axes:], strict=True)
        )

    def output(self, call: Call, x: Value, batched: bool, mean: float, k: Kernel) -> Value:
        """The result with the input's channels and new positions."""
        axes = self.axes(call)
        dims = conv_dims(x, call.shape, axes, batched)
        dims = (*x.dims[: len(x.dims) - axes], *dims[-axes:])
        return Value(dims, mean, k, approximate=x.approximate).settled()


@register
class AveragePooling(Pooling):
    """Mean over windows: v_p shrinks by the number of independent taps, v_c and v_s stay.

    Zero padding counts as values (``count_include_pad``). Backward: each input gets 1/k² of the gradients of the
    windows that it is
    in. (Novak et al. 2019, sec. 3.2.2.)
    """

    ops: tuple[str, ...] = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
    signature: tuple[str, ...] = (
        "input",
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
    )

    def maps(self, call: Call, x: Value) -> tuple[Smoother, ...]:
        """The matrix of each axis."""
        padded = bool(call.plain("count_include_pad", True))
        return tuple(averaging(window, padded) for window in self.windows(call, x))

    def forward(self, call: Call) -> Result:
        axes = self.axes(call)
        x, batched = spatial(call.value("input"), axes)
        maps = self.maps(call, x)
        k = smoothed(x.second, maps)
        mean = x.mean * math.prod(m.level for m in maps)
        resolved = resolved_of(x.second, x, x.shape[-axes:])
        if resolved is not None and x.covariance.resolved is not None and math.prod(call.shape[-axes:]) > 1:
            views = [axis_of_matrix(w, bool(call.plain("count_include_pad", True))) for w in self.windows(call, x)]
            beyond = k.same - smoothed(x.second.without_local(), maps).same
            k = k.with_resolved(resolved.averaged(views, beyond))
        profile = smoothed_profile(axis_profiles(x.covariance, x.dims[-axes:]), maps)
        result = self.output(call, x, batched, mean, replace(k, profile=profile) - mean**2)
        if x.texture is not None and math.prod(call.shape[-axes:]) == 1 and len(x.positions) == axes:
            result.texture = x.texture.pooled(x.positions)
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        axes = self.axes(call)
        x, _ = spatial(call.value("input"), axes)
        kernel = gradient.collapsed()
        maps = tuple(m.transposed for m in self.maps(call, x))
        k = smoothed(kernel, maps)
        profile = smoothed_profile(axis_profiles(kernel, call.out.dims[-axes:]), maps)
        flow = Gradient.fresh(settle(replace(k, profile=profile), x.dims))
        if gradient.texture is not None and x.texture is not None and call.out.texture is not None:
            flow.texture = gradient.texture.copied(x.positions, axes)
        yield call.node_of("input"), flow


@functools.lru_cache(maxsize=256)
def averaging(window: Window, padded: bool) -> Smoother:
    """Mean over a window; ``padded``: zeros of the padding count as values."""
    matrix = np.zeros((window.outputs, window.size))
    for outputs, inputs in window.taps():
        np.add.at(matrix, (outputs, inputs), 1.0)
    counts = matrix.sum(1, keepdims=True)
    return Smoother.of(matrix / (window.kernel if padded and window.padding else np.maximum(counts, 1.0)))


@functools.lru_cache(maxsize=256)
def axis_of_matrix(window: Window, padded: bool) -> Axis:
    """The same by classes of positions."""
    view = axis_through(window)
    return replace(view, mean=view.single / window.kernel) if padded and window.padding else view


@register
class AdaptiveAveragePooling(AveragePooling):
    """Mean over the inputs floor(i n/o) ... ceil((i+1) n/o); over all of them when the output is one."""

    ops: tuple[str, ...] = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
    signature: tuple[str, ...] = ("input", "output_size")

    def maps(self, call: Call, x: Value) -> tuple[Smoother, ...]:
        return tuple(averaging(window, False) for window in self.windows(call, x))

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        return adaptive_windows(x, call.shape, self.axes(call))


def adaptive_windows(x: Value, shape: tuple[int, ...], axes: int) -> tuple[Window, ...]:
    """One window per axis; where the output is larger than the input, windows of one that repeat."""
    return tuple(
        AdaptiveWindow(n, max(-(-n // o) + (n % o != 0), 1), max(n // o, 1), 0, 1, o)
        for n, o in zip(x.shape[-axes:], shape[-axes:], strict=True)
    )


class Maximum(Pooling):
    """Max over m positions.

    The outer variables (v_c, v_s, what the window shares) stay, the inner one is an order statistic.

    With u = outer + sqrt(v) e and a monotone expression f, max f(u) = f(max u), and max e has the density
    m Phi(e)^(m-1) phi(e). An expression that does not rise throughout (SiLU) counts as the rising function of the same
    distribution. Backward: only the winner gets the gradient, so that its slope is that of a typical *maximum*. The
    channels of a concatenation are pooled part by part, each on its own source.
    """

    def forward(self, call: Call) -> Result:
        x, batched = spatial(call.value("input"), self.axes(call))
        windows = self.windows(call, x)
        if not x.parts:
            return self._pooled(call, x, batched, windows)
        parts = [(share, self._pooled(call, part, batched, windows)) for share, part in x.parts]
        mean, k = mixture(parts)
        result = self.output(call, x, batched, mean, k)
        result.parts = tuple(parts)
        return result

    def _pooled(self, call: Call, x: Value, batched: bool, windows: tuple[Window, ...]) -> Value:
        """The result for one population of channels."""
        axes = len(windows)
        taps = math.prod(w.spread(None).mean for w in windows)
        source, values = rising(x)
        best = order_statistic(source.correlation, windows, taps)
        f = np.interp(best.points, source.at.z, values)
        best.expand(f)
        mean, second = best.moments(f)
        k = Kernel(second.same, second.far, second.cross, second.sample, None) - mean**2
        shares = [in_common(w)[0] for w in windows]
        if math.prod(len(share) for share in shares) > 1:
            excess: Array = np.array(k.same - k.far)
            for share in shares:
                excess = np.multiply.outer(excess, share / share[0])
            k = Kernel(k.same, k.far, k.cross, k.sample, k.far + excess)
        call.memo["taps"] = taps
        profiles = pooled_profiles(windows, x)
        k = Kernel(k.same, k.far, k.cross, k.sample, k.local, profiles)
        flat = not x.covariance.profile and all(w.whole for w in windows)
        rho = None if flat else resolved_of(source.correlation, x, x.shape[-axes:])
        if rho is not None:
            mean, by_position = maximum_by_position(rho, best, source.at.z, values, windows, mean, k)
            k = k.with_resolved(by_position)
        result = self.output(call, x, batched, mean, k)
        chances = np.multiply.outer(best.weights, best.inner_weights)
        result.shape_on_grid = sum_shape([quantiles(f.ravel(), chances.ravel())], 0.0) if k.same > 0 else None
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x, _ = spatial(call.value("input"), self.axes(call))
        windows = self.windows(call, x)
        if not x.parts:
            yield call.node_of("input"), self._won(call, x, gradient, windows)
            return
        received = gradient.parts if len(gradient.parts) == len(x.parts) else (gradient,) * len(x.parts)
        parts = tuple(self._won(call, part, g, windows) for (_, part), g in zip(x.parts, received, strict=True))
        shares = [share for share, _ in x.parts]
        whole = sum((g.collapsed() * share for share, g in zip(shares, parts, strict=True)), Kernel.constant(0.0))
        flow = Gradient.fresh(settle(whole, x.dims))
        flow.parts = parts
        yield call.node_of("input"), flow

    def _won(self, call: Call, x: Value, gradient: Gradient, windows: tuple[Window, ...]) -> Gradient:
        """The gradient of one population of channels."""
        kernel = gradient.collapsed()
        source, values = rising(x)
        inputs = math.prod(w.size for w in windows)
        outputs = math.prod(w.outputs for w in windows)
        density = winner_density(source.correlation, call.memo["taps"], source.at.z)
        # E[slope²] = 1: the winner's share of the inputs is in the kernel, its typical value in the slope
        density = density / float(source.at.weights @ density)
        share = outputs / inputs
        same = max(kernel.same + won_together(windows, kernel), 0.0)
        k = Kernel(same * share, kernel.far * share**2, kernel.cross * share**2, kernel.sample * share**2)
        mean_slope = float(source.at.weights @ np.sqrt(density))
        own, grid = x.own_source(), x.own_grid().double().numpy()
        if own is not source:  # each element has the chance of its rank
            density = np.interp(np.interp(grid, values, source.at.z), source.at.z, density)
        # each window has a winner, wherever it lies
        profile, level = straightened((), own.profile(np.sqrt(density)))
        shared = level / mean_slope**2
        k = Kernel(k.same * level, k.far / mean_slope**2, k.cross * shared, k.sample / mean_slope**2, None, profile)
        return Gradient.of(Term(settle(k, x.dims), torch.from_numpy(np.sqrt(density)), own))


@register
class MaxPooling(Maximum):
    """F.max_pool; padding never wins."""

    ops: tuple[str, ...] = (
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "max_pool2d_with_indices",
        "max_pool1d_with_indices",
    )
    signature: tuple[str, ...] = (
        "input",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "ceil_mode",
        "return_indices",
    )


@register
class AdaptiveMaxPooling(Maximum):
    """Max over about size/output positions."""

    ops: tuple[str, ...] = ("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
    signature: tuple[str, ...] = ("input", "output_size")

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        return adaptive_windows(x, call.shape, self.axes(call))


@functools.lru_cache(maxsize=256)
def in_common(window: Window) -> tuple[Array, Array, Array]:
    """For windows 0, 1, ... apart, while they overlap: inputs of both, inputs of one, and the share of such pairs."""
    sees = np.zeros((window.outputs, window.size))
    for outputs, inputs in window.taps():
        sees[outputs, inputs] = 1.0
    own = sees.sum(1)
    both, one, pairs = [], [], []
    for apart in range(window.outputs):
        here, there = sees[: window.outputs - apart], sees[apart:]
        common = float((here * there).sum(1).mean())
        if common == 0.0:
            break
        both.append(common)
        one.append(float((own[: window.outputs - apart] + own[apart:]).mean()) / 2)
        pairs.append((window.outputs - apart) / window.outputs)
    return np.array(both), np.array(one), np.array(pairs)


def won_together(windows: tuple[Window, ...], k: Kernel) -> float:
    """What an input adds to E[g²] by winning several windows at once: sum over displacements d of P(d) K(d).

    Two windows of n inputs with o in common have the same winner with probability o/(2n - o), that the largest of all
    is one of those. Gradients of neighbouring windows that are alike, as behind a pooled head, then add up.
    """
    axes = [in_common(window) for window in windows]
    total = 0.0
    for apart in itertools.product(*(range(len(both)) for both, _, _ in axes)):
        if not any(apart):
            continue
        common, size, pairs = (
            math.prod(float(axis[i][d]) for axis, d in zip(axes, apart, strict=True)) for i in range(3)
        )
        directions = 2.0 ** sum(d > 0 for d in apart)
        total += directions * pairs * common / (2 * size - common) * _displaced(k, apart)
    return total


def _displaced(k: Kernel, apart: tuple[int, ...]) -> float:
    """The same-sample moment of two positions so far apart."""
    if k.local is None or k.local.ndim != len(apart) or any(d >= n for d, n in zip(apart, k.local.shape, strict=True)):
        return k.far
    return float(k.local[apart])


def pooled_profiles(windows: tuple[Window, ...], x: Value) -> Profile:
    """The mean of the input's profile over each window."""
    axes = axis_profiles(x.covariance, x.dims[-len(windows) :])
    if all(p is None for p in axes):
        return ()
    return tuple(None if p is None else w.spread(p).profile for w, p in zip(windows, axes, strict=True))


def rising(x: Value) -> tuple[Source, Array]:
    """A source on which the values of ``x`` rise: its own, or the normal variable of their ranks."""
    source, grid = x.own_source(), x.own_grid()
    values = grid.detach().double().numpy()
    if np.all(np.diff(values) >= -1e-12):
        return source, values
    order = np.argsort(values, kind="stable")
    weights = source.at.weights[order]
    ranks = np.cumsum(weights) - 0.5 * weights
    at = nodes(0)
    values = np.interp(normal_cdf(at.z), ranks, values[order])
    centred = values - at.weights @ values
    shape = centred / math.sqrt(float(at.weights @ centred**2))
    correlation = copula(shape, x.covariance.flat() * (1.0 / x.variance))
    return Source(torch.from_numpy(values), at, correlation), values


def maximum_by_position(
    rho: Resolved, best: OrderStatistic, z: Array, values: Array, windows: tuple[Window, ...], mean: float, k: Kernel
) -> tuple[float, Resolved]:
    """Mean and covariance of the maximum by position: at the border fewer taps, of another scale, take part."""
    axes = [axis_through(window) for window in windows]
    pooled = rho.averaged(axes, 0.0)
    level = rho.own
    for i, axis in enumerate(axes):
        level = np.moveaxis(np.tensordot(axis.mean, level, (1, i)), 0, i)
    scale = np.sqrt(np.maximum(level.ravel(), 0.0))
    taps = np.ones(1)
    for axis in axes:
        taps = np.multiply.outer(taps, axis.single.sum(1)).ravel()
    means, seconds = np.empty(len(taps)), np.empty(len(taps))
    for count in np.unique(np.round(taps, 3)):
        chosen = np.abs(taps - count) < 1e-2
        one = OrderStatistic(best.rho, best.shared, float(count))
        for size in np.unique(np.round(scale[chosen], 1)):
            here = chosen & (np.abs(np.round(scale, 1) - size) < 1e-6)
            own = float(scale[here].mean())
            f = np.interp(one.points * own, z, values)
            conditional = f @ one.inner_weights
            means[here] = one.weights @ conditional
            seconds[here] = one.weights @ (f**2 @ one.inner_weights)
    weight = pooled.weight
    average = float(weight @ means)
    correlation = np.clip(pooled.matrix / np.maximum(np.multiply.outer(scale, scale), 1e-12), -1.0, 1.0)
    shared = best.between(correlation) * np.multiply.outer(scale, scale)
    pairs = np.multiply.outer(means - average, means - average) + shared
    shape = level.shape
    own_part = (seconds - 2 * average * means + average**2).reshape(shape)
    return average, Resolved(pooled.sizes, own_part, pairs.reshape(shape + shape))


class OrderStatistic:
    """Nested quadrature: outer N(0, rho) times the maximum of m inner N(0, 1 - rho)."""

    def __init__(self, rho: Kernel, shared: float, taps: float) -> None:
        outer, weights = np.polynomial.hermite_e.hermegauss(48)
        self.weights = weights / weights.sum()
        e = (np.arange(400) + 0.5) / 400 * 16 - 8
        density = winner_density_inner(taps, e)
        self.inner_weights = density / density.sum()
        self.points = math.sqrt(max(shared, 0.0)) * outer[:, None] + math.sqrt(max(1 - shared, 0.0)) * e[None, :]
        self.rho, self.shared = rho, shared
        self.basis = _hermite(outer, 32) * self.weights
        self.squares = np.zeros(32)

    def moments(self, f: Array) -> tuple[float, Kernel]:
        """Mean and second moments (by class of pairs) of the maximum."""
        conditional = f @ self.inner_weights
        mean = float(self.weights @ conditional)
        same = float(self.weights @ ((f**2) @ self.inner_weights))
        squares = (self.basis @ conditional) ** 2
        rest = max(float(self.weights @ conditional**2) - float(squares.sum()), 0.0)
        shared = max(self.shared, 1e-12)

        def at(rho: float) -> float:
            r = min(max(rho / shared, -1.0), 1.0)
            return float(np.sum(squares * r ** np.arange(len(squares)))) + rest * max(r, 0.0) ** 64

        # What positions share across samples (the pattern that zero padding leaves) sits in the inner variable: where
        # it is all of it (inner correlation 1), another sample has the same maximum; where it is none, only the outer
        # part is shared.
        inner = max(same - float(self.weights @ conditional**2), 0.0)
        pattern = min(max((self.rho.cross - self.rho.sample) / max(1 - self.shared, 1e-300), 0.0), 1.0)
        if self.shared <= 1e-9:
            return mean, Kernel(same, mean**2, mean**2 + inner * pattern, mean**2)
        outer = at(self.rho.sample)
        return mean, Kernel(same, at(self.rho.far), outer + inner * pattern, outer)

    def expand(self, f: Array) -> None:
        """Keep the expansion of E[f | outer], for ``between``."""
        self.squares = (self.basis @ (f @ self.inner_weights)) ** 2

    def between(self, rho: Array) -> Array:
        """Covariance of the maxima of windows whose elements have that correlation."""
        ratio = np.clip(rho / max(self.shared, 1e-12), -1.0, 1.0) if self.shared > 1e-9 else np.zeros_like(rho)
        result = np.zeros_like(ratio)
        for square in self.squares[:0:-1]:
            result = (result + square) * ratio
        return result


def _hermite(z: Array, order: int) -> Array:
    basis = np.empty((order, len(z)))
    basis[0], basis[1] = 1.0, z
    for k in range(1, order - 1):
        basis[k + 1] = (z * basis[k] - math.sqrt(k) * basis[k - 1]) / math.sqrt(k + 1)
    return basis


def order_statistic(rho: Kernel, windows: tuple[Window, ...], taps: float) -> OrderStatistic:
    """The maximum over windows of a source with these correlations; what neighbours share counts as outer."""
    shared = max(rho.far, 0.0)
    if rho.local is not None and rho.local.ndim == len(windows):
        average = rho.within_position_mean(tuple(w.kernel for w in windows))
        n = math.prod(w.kernel for w in windows)
        if n > 1:
            shared = max((n * average - 1.0) / (n - 1), shared)
    return OrderStatistic(rho, min(shared, 1.0), taps)


def winner_density_inner(taps: float, e: Array) -> Array:
    """m Phi(e)^(m-1) phi(e), the density of the largest of m."""
    return np.asarray(np.exp(-0.5 * e * e) * np.power(_normal_cdf(e), max(taps - 1, 0.0)))


def _normal_cdf(e: Array) -> Array:
    return np.asarray(torch.special.ndtr(torch.from_numpy(e)).numpy())


def winner_density(rho: Kernel, taps: float, z: Array) -> Array:
    """How much likelier than average an element at z is to win, given what the window shares (the outer part)."""
    outer, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    shared = min(max(rho.far, 0.0), 1 - 1e-9)
    # outer given z: mean shared z, variance shared (1 - shared)
    given = shared * z[:, None] + math.sqrt(shared * (1 - shared)) * outer[None, :]
    e = (z[:, None] - given) / math.sqrt(1 - shared)
    return np.asarray(np.power(_normal_cdf(e), max(taps - 1, 0.0)) @ weights)
