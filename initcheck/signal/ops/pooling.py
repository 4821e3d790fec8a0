"""Pooling and resampling along positions."""

from __future__ import annotations

import math

import numpy as np
import torch

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.ops.linear import AdaptiveWindow, Window, axis_profiles, conv_dims, per_axis, spatial
from initcheck.signal.rule import Call, Flow, Result, Rule, register
from initcheck.signal.value import Source, Value, settle


def windowed_mean(k: Kernel, kernel: tuple[int, ...], stride: tuple[int, ...], sizes: tuple[int, ...]) -> Kernel:
    """Kernel of the mean over a window: average over all pairs of taps; overlapping windows stay correlated."""
    count = math.prod(kernel)
    if k.local is None:
        same = k.far + (k.same - k.far) / count
        excess: Array = np.array((k.same - k.far) / count)
        for taps, step in zip(kernel, stride, strict=True):
            shifts = np.arange(0, max(taps, 1), step)
            excess = np.multiply.outer(excess, (taps - shifts) / taps)
        local = k.far + excess if excess.size > 1 else None
    else:
        excess = _smoothed(k.local - k.far, kernel, stride)
        local = k.far + excess
        same = float(local.ravel()[0])
    cross = k.sample + (k.cross - k.sample) / count
    return Kernel(same, k.far, cross, k.sample, local, ())


def _smoothed(excess: Array, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Array:
    for axis, (taps, step) in enumerate(zip(kernel, stride, strict=True)):
        n = excess.shape[axis]
        reach = n + taps - 1
        lags = np.arange(-(reach + taps), reach + taps + 1)
        mirrored = np.take(excess, np.minimum(np.abs(lags), n - 1), axis=axis)
        mask = (np.abs(lags) < n).reshape([-1 if a == axis else 1 for a in range(excess.ndim)])
        mirrored = mirrored * mask
        triangle = (taps - np.abs(np.arange(-taps + 1, taps))) / taps**2
        centre = reach + taps
        smooth = sum(
            weight * np.take(mirrored, np.arange(centre, centre + reach, step) + shift, axis=axis)
            for shift, weight in zip(range(-taps + 1, taps), triangle, strict=True)
        )
        excess = np.asarray(smooth)
    return excess


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

    def forward(self, call: Call) -> Result:
        axes = self.axes(call)
        x, batched = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        k = windowed_mean(x.covariance, tuple(w.kernel for w in windows), tuple(w.stride for w in windows), x.positions)
        share = 1.0
        if any(w.padding for w in windows) and call.plain("count_include_pad", True):
            for w in windows:
                share *= w.spread(None).mean / w.kernel
        profiles = pooled_profiles(windows, x)
        k = Kernel(k.same, k.far, k.cross, k.sample, k.local, profiles)
        # an average over padding loses `share` of the mean; its variance falls a little less than share²
        return self.output(call, x, batched, x.mean * share, k * share)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        axes = self.axes(call)
        x, _ = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        kernel = gradient.collapsed()
        yield call.node_of("input"), Gradient.fresh(settle(spread_back(kernel, windows), x.dims))


def spread_back(kernel: Kernel, windows: tuple[Window, ...]) -> Kernel:
    """Gradient of a mean over windows: the sum of the gradients of the windows that an input is in, over their size."""
    uses = math.prod(w.gather(None).mean for w in windows)
    count = math.prod(w.kernel for w in windows)
    overlapping = max(uses, 1.0)
    pairs = kernel.same + (overlapping - 1) * kernel.far
    cross = kernel.cross + (overlapping - 1) * kernel.sample
    far = kernel.far * uses**2
    same = uses * pairs
    # neighbours inside one window share its gradient
    length = tuple(min(max(w.kernel, 1), w.size) for w in windows)
    local = None
    if count > 1 and math.prod(length) <= 4096:
        shape = np.array((same - far) * 1.0)
        for w, n in zip(windows, length, strict=True):
            shape = np.multiply.outer(shape, (w.kernel - np.arange(n)) / w.kernel)
        local = far + shape
    scale = 1.0 / count**2
    local = None if local is None else local * scale
    return Kernel(same * scale, far * scale, uses * cross * scale, kernel.sample * uses**2 * scale, local)


@register
class AdaptiveAveragePooling(AveragePooling):
    """Mean over the inputs floor(i n/o) ... ceil((i+1) n/o); over all of them when the output is one."""

    ops: tuple[str, ...] = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
    signature: tuple[str, ...] = ("input", "output_size")

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        return adaptive_windows(x, call.shape, self.axes(call))


def adaptive_windows(x: Value, shape: tuple[int, ...], axes: int) -> tuple[Window, ...]:
    """One window per axis; where the output is larger than the input, windows of one that repeat."""
    return tuple(
        AdaptiveWindow(n, max(math.ceil(n / o), 1), max(n // o, 1), 0, 1, o)
        for n, o in zip(x.shape[-axes:], shape[-axes:], strict=True)
    )


class Maximum(Pooling):
    """Max over m positions.

    The outer variables (v_c, v_s, what the window shares) stay, the inner one is an order statistic.

    With u = outer + sqrt(v) e and a monotone expression f, max f(u) = f(max u), and max e has the density
    m Phi(e)^(m-1) phi(e). Non-monotone expressions and non-expressions are treated as Gaussian. Backward: only the
    winner gets the gradient, so that its slope is that of a typical *maximum*.
    """

    def forward(self, call: Call) -> Result:
        axes = self.axes(call)
        x, batched = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        taps = math.prod(w.spread(None).mean for w in windows)
        source, values = monotone(x)
        best = order_statistic(source.correlation, windows, taps)
        f = np.interp(best.points, source.at.z, values)
        mean, second = best.moments(f)
        k = Kernel(second.same, second.far, second.cross, second.sample, None) - mean**2
        overlap = [max(w.kernel - w.stride, 0) / w.kernel for w in windows]
        if any(overlap) and math.prod(w.outputs for w in windows) > 1:
            excess: Array = np.array(k.same - k.far)
            for o in overlap:
                excess = np.multiply.outer(excess, np.array([1.0, o]))
            k = Kernel(k.same, k.far, k.cross, k.sample, k.far + excess)
        call.memo["taps"] = taps
        profiles = pooled_profiles(windows, x)
        k = Kernel(k.same, k.far, k.cross, k.sample, k.local, profiles)
        return self.output(call, x, batched, mean, k)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        axes = self.axes(call)
        x, _ = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        kernel = gradient.collapsed()
        source, _ = monotone(x)
        inputs = math.prod(w.size for w in windows)
        outputs = math.prod(w.outputs for w in windows)
        density = winner_density(source.correlation, call.memo["taps"], source.at.z)
        # E[slope²] = 1: the winner's share of the inputs is in the kernel, its typical value in the slope
        density = density / float(source.at.weights @ density)
        share = outputs / inputs
        k = Kernel(kernel.same * share, kernel.far * share**2, kernel.cross * share**2, kernel.sample * share**2)
        value = x
        slope = torch.from_numpy(np.sqrt(density))
        mean_slope = float(source.at.weights @ np.sqrt(density))
        k = Kernel(k.same, k.far / mean_slope**2, k.cross / mean_slope**2, k.sample / mean_slope**2)
        term = Term(settle(k, x.dims), slope, value.own_source())
        yield call.node_of("input"), Gradient.of(term)


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


def pooled_profiles(windows: tuple[Window, ...], x: Value) -> Profile:
    """The mean of the input's profile over each window."""
    axes = axis_profiles(x.covariance, x.dims[-len(windows) :])
    if all(p is None for p in axes):
        return ()
    return tuple(None if p is None else w.spread(p).profile for w, p in zip(windows, axes, strict=True))


def monotone(x: Value) -> tuple[Source, Array]:
    """The source and grid values of ``x`` if they rise monotonically, else of a Gaussian with its moments."""
    source, grid = x.own_source(), x.own_grid()
    values = grid.detach().double().numpy()
    if np.all(np.diff(values) >= -1e-12):
        return source, values
    blank = x.fresh()
    source = blank.own_source()
    return source, blank.own_grid().numpy()


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
