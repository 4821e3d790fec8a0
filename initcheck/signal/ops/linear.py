"""Sums with random weights: linear, convolution, transposed convolution, embedding."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from initcheck.signal.fixed_filters import fixed_filter
from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.grid import nodes, on_grid
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.ops.normalisation import FEW
from initcheck.signal.resolved import Axis, Resolved
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.shape import weight_shares
from initcheck.signal.smoothing import Smoother, smoothed, smoothed_profile
from initcheck.signal.texture import Texture, kernels_of, reached
from initcheck.signal.unlike_channels import variance_spread
from initcheck.signal.value import Atom, Dim, Dims, Echo, Value, settle

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Weights:
    """First two moments of the weights and of the bias."""

    mean: float
    variance: float
    bias_mean: float = 0.0
    bias_variance: float = 0.0
    zero_sum: bool = False

    @property
    def second(self) -> float:
        """E[w²]."""
        return self.mean**2 + self.variance


def weights_of(call: Call, weight: str = "weight", bias: str = "bias") -> Weights:
    """Moments of a call's weight and bias operands."""
    w, b = call.value(weight), call.optional(bias)
    return Weights(w.mean, w.variance, b.mean if b else 0.0, b.variance if b else 0.0, w.zero_sum)


def random_sum(x: Value, fan: float, w: Weights) -> tuple[float, Kernel]:
    """Mean and covariance of sum_i w_i x_i + b for each class of pairs.

    Cov[y, y'] = fan (Var[w] E[x x'] + E[w]² Cov[x, x']) + Var[b]: M² of the input becomes variance between channels
    (Poole et al. 2016, eq. 3; a non-zero weight mean is kept).
    """
    source = x.covariance if w.zero_sum else x.second
    covariance = source * (fan * w.variance) + w.bias_variance
    if w.mean != 0.0:
        covariance = covariance + x.covariance * (fan * w.mean**2)
    return fan * w.mean * x.mean + w.bias_mean, covariance


def weight_gradient_std(g: Kernel, x: Kernel, samples: int, positions: int) -> float:
    """Std of dL/dW = sum over samples and positions of g x: the sum over all pairs of E[g g'] E[x x']."""
    per_row = g.same * x.same + (positions - 1) * g.far * x.far
    other_rows = (samples - 1) * (g.cross * x.cross + (positions - 1) * g.sample * x.sample)
    return math.sqrt(max(samples * positions * (per_row + other_rows), 0.0))


@register
class Linear(Rule):
    """y = x Wᵀ + b over the last dim.

    Forward: ``random_sum`` with the number of contracted elements. Contracting channels keeps the classes of pairs;
    contracting positions (a flattened feature map) leaves sample pairs only; contracting positions *alone*
    (token mixing) makes the units the new positions, whose weights are independent. Backward:
    K_g' = fan_out E[w²] K_g (Schoenholz et al. 2017, eq. 17), and independent between contracted positions.
    """

    ops: tuple[str, ...] = ("linear",)
    signature: tuple[str, ...] = ("input", "weight", "bias")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        out = call.shape[-1] if call.shape else 1
        if len(shape_of(call.node_of("weight"))) == 1:
            raise Unknown("linear with a vector as weight")
        return contract(x, (len(x.dims) - 1,), weights_of(call), out)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        w = weights_of(call)
        units = call.shape[-1] if call.shape else 1
        kernel = gradient.collapsed() * (1.0 / gradient.weight_bias)
        call.memo["weight_grad"] = weight_gradient_std(kernel, x.second, *_left_over(x, (len(x.dims) - 1,)))
        yield call.node_of("input"), Gradient.fresh(uncontract(kernel, x, (len(x.dims) - 1,), w, units))
        yield from _to_weight(call, "weight", call.memo["weight_grad"])


def _left_over(x: Value, over: tuple[int, ...]) -> tuple[int, int]:
    left = [a for i, dim in enumerate(x.dims) if i not in over for a in dim]
    samples = math.prod(a.size for a in left if a.role == "S")
    return samples, math.prod(a.size for a in left) // max(samples, 1)


def _to_weight(call: Call, name: str, std: float) -> Flow:
    """The gradient of a weight that was itself computed (weight norm, standardisation, a tied scale)."""
    node = call.node_of(name)
    if node.op != "get_attr":
        yield node, Gradient.fresh(Kernel(std**2, 0.0, 0.0, 0.0))


def contract(x: Value, over: tuple[int, ...], w: Weights, units: int) -> Value:
    """Sum over the dims ``over`` (the last ones) with weights of their own for each of ``units`` outputs."""
    gone = [a for i in over for a in x.dims[i]]
    left = tuple(dim for i, dim in enumerate(x.dims) if i not in over)
    fan = math.prod(a.size for a in gone)
    mean, k = random_sum(x, fan, w)
    if any(a.role == "S" for a in gone):
        raise Unknown("sum over samples with weights")
    mixing = is_mixing(x, over)
    if mixing:
        shared = w.bias_variance
        k = Kernel(k.same, -0.0, k.cross, 0.0) if shared == 0 else Kernel(k.same, 0.0, k.cross, 0.0)
    elif any(a.role == "P" for a in gone) and not any(a.role == "P" for dim in left for a in dim):
        k = Kernel(k.same, k.same, k.cross, k.cross)
    unit: Dim = (Atom("P" if mixing else "C", units),) if units > 1 else ()
    if any(a.role == "P" for a in gone) and k.profile:
        k = Kernel(k.same, k.far, k.cross, k.sample)
    return Value((*left, unit), mean, k, approximate=x.approximate, fluctuation=2.0 / max(fan, 2)).settled()


def is_mixing(x: Value, over: tuple[int, ...]) -> bool:
    """Whether the contraction mixes positions only, with channels left over (token mixing)."""
    gone = [a for i in over for a in x.dims[i]]
    left = [a for i, dim in enumerate(x.dims) if i not in over for a in dim]
    return bool(gone) and all(a.role == "P" for a in gone) and any(a.role == "C" for a in left)


def uncontract(k: Kernel, x: Value, over: tuple[int, ...], w: Weights, units: int) -> Kernel:
    """The gradient of ``contract``'s input."""
    k = k * (units * w.second)
    gone = [a for i in over for a in x.dims[i]]
    if mixed := any(a.role == "P" for a in gone):
        # weights of different positions are independent: only pairs at the same contracted place are correlated
        still = any(a.role == "P" for i, dim in enumerate(x.dims) if i not in over for a in dim)
        if not still or is_mixing(x, over):
            k = Kernel(k.same, 0.0, k.cross, 0.0)
        else:
            places = math.prod(a.size for a in gone if a.role == "P")
            k = Kernel(k.same, k.far / places, k.cross, k.sample / places)
    return settle(k.without_local() if mixed else k, x.dims)


@dataclass(frozen=True, slots=True)
class Taps:
    """How a window connects positions along one axis.

    ``mean``: number of taps of a position; ``joint``: sum over taps of the squared share of positions that have it;
    ``profile``: the number of taps by position, relative to the mean.
    """

    mean: float
    joint: float
    profile: Array | None

    @classmethod
    def of(cls, counts: Array, joint: float) -> Taps:
        """From the number of taps of each position."""
        mean = float(counts.mean()) if counts.size else 0.0
        flat = not mean > 0 or float(np.ptp(counts)) < 1e-9 * mean
        return cls(mean, float(joint), None if flat else counts / mean)


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution or pooling along one axis: which inputs each output sees."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    outputs: int

    def pairs(self) -> Iterator[tuple[Indices, Indices]]:
        """For each tap: which outputs see an input through it, and which input."""
        base = np.arange(self.outputs) * self.stride - self.padding
        for tap in range(self.kernel):
            inputs = base + tap * self.dilation
            inside = np.nonzero((inputs >= 0) & (inputs < self.size))[0]
            yield inside, np.asarray(inputs[inside], dtype=np.intp)

    def taps(self) -> tuple[tuple[Indices, Indices], ...]:
        """``pairs``, worked out once for all windows that are alike, as most of a net's are."""
        return _taps(self)

    def spread(self, profile: Array | None) -> Taps:
        """From inputs to outputs, the input's moments spread as ``profile`` says."""
        return _spread(self, None if profile is None else profile.tobytes())

    def gather(self, profile: Array | None) -> Taps:
        """From outputs back to inputs."""
        return _gathered(self, None if profile is None else profile.tobytes())

    def common(self, reach: int, back: bool = False) -> Array:
        """Number of taps through which two outputs both see an input, by their distance (0 ... reach - 1).

        ``back``: of two inputs that both reach an output. A mean over all pairs at that distance.
        """
        return _common(self, reach, back)

    def reach(self) -> tuple[float, ...]:
        """The share of outputs that see an input through each tap."""
        return tuple(len(outputs) / max(self.outputs, 1) for outputs, _ in self.taps())

    @property
    def concentration(self) -> float:
        """sum n_t² / (sum n_t)² over taps, n_t outputs using tap t: 1/kernel where all do."""
        return _concentration(self)

    @property
    def whole(self) -> bool:
        """Whether every output sees all its taps."""
        return self.padding == 0 and (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation < self.size


@dataclass(frozen=True, slots=True)
class AdaptiveWindow(Window):
    """Output i sees the inputs floor(i n/o) ... ceil((i+1) n/o) - 1."""

    def pairs(self) -> Iterator[tuple[Indices, Indices]]:
        """As for ``Window``; windows may differ in length by one."""
        i = np.arange(self.outputs)
        first, end = i * self.size // self.outputs, -((-(i + 1) * self.size) // self.outputs)
        for tap in range(self.kernel):
            inside = np.nonzero(first + tap < end)[0]
            yield inside, np.asarray(first[inside] + tap, dtype=np.intp)

    @property
    def whole(self) -> bool:
        """Whether the windows are all alike."""
        return self.size % self.outputs == 0


_KEPT = 1024
"""So many windows' views are remembered."""


@functools.lru_cache(maxsize=_KEPT)
def _taps(window: Window) -> tuple[tuple[Indices, Indices], ...]:
    return tuple(window.pairs())


@functools.lru_cache(maxsize=_KEPT)
def _spread(window: Window, moments: bytes | None) -> Taps:
    if moments is None and window.whole:
        return Taps(float(window.kernel), float(window.kernel), None)
    profile = None if moments is None else np.frombuffer(moments)
    result, joint = np.zeros(window.outputs), 0.0
    for outputs, inputs in window.taps():
        seen = np.ones(len(inputs)) if profile is None else profile[inputs]
        result[outputs] += seen
        joint += (np.sqrt(np.maximum(seen, 0.0)).sum() / window.outputs) ** 2
    return Taps.of(result, joint)


@functools.lru_cache(maxsize=_KEPT)
def _gathered(window: Window, moments: bytes | None) -> Taps:
    profile = None if moments is None else np.frombuffer(moments)
    result, joint = np.zeros(window.size), 0.0
    for outputs, inputs in window.taps():
        seen = np.ones(len(inputs)) if profile is None else profile[outputs]
        np.add.at(result, inputs, seen)
        joint += (np.sqrt(np.maximum(seen, 0.0)).sum() / window.size) ** 2
    return Taps.of(result, joint)


@functools.lru_cache(maxsize=_KEPT)
def _common(window: Window, reach: int, back: bool) -> Array:
    size = window.size if back else window.outputs
    counts = np.zeros(reach)
    for outputs, inputs in window.taps():
        there = np.zeros(size)
        there[inputs if back else outputs] = 1.0
        counts += [float(there[: size - d] @ there[d:]) / max(size - d, 1) for d in range(reach)]
    return counts


@functools.lru_cache(maxsize=_KEPT)
def _concentration(window: Window) -> float:
    uses = np.array([float(len(inside)) for inside, _ in window.taps()])
    total = float(uses.sum())
    return float((uses**2).sum()) / total**2 if total > 0 else 1.0


@functools.lru_cache(maxsize=512)
def axis_through(window: Window) -> Axis:
    """A window's view from outputs to inputs, by classes of positions."""
    return Axis.of(list(window.taps()), window.size, window.outputs)


@functools.lru_cache(maxsize=512)
def axis_back(window: Window) -> Axis:
    """The transposed view, from the window's inputs to its outputs."""
    return Axis.of([(inputs, outputs) for outputs, inputs in window.taps()], window.outputs, window.size)


def resolved_of(k: Kernel, x: Value, sizes: tuple[int, ...]) -> Resolved | None:
    """``k`` by position, for a map of these sizes; flat where there is no pattern yet, None where it is not known."""
    if not 1 <= len(sizes) <= 2 or x.positions != sizes or not x.atoms("S"):
        return None
    if k.resolved is not None:
        return k.resolved if k.resolved.sizes == sizes else None
    return Resolved.even(k, sizes)


def through(k: Kernel, taps: Sequence[Taps], places: int, dims: Dims, local: Array | None = None) -> Kernel:
    """``k`` summed over taps: one position counts its taps, two positions those that both have.

    Averaged over all pairs of ``places`` positions, the taps in common are prod_axis sum_t f_t², f_t being the share of
    positions that have tap t; the pairs of a position with itself are taken out. ``local``: what ``near``
    made of the kernel at short displacements.
    """
    own = math.prod(t.mean for t in taps)
    pairs = math.prod(t.joint for t in taps)
    other = max(places * pairs - own, 0.0) / (places - 1) if places > 1 else own
    profile = _by_atoms([t.profile for t in taps], dims)
    if local is not None:  # a bent profile makes the taps count for more or less than their number
        at_once = float(local[(0,) * local.ndim])
        local = local * (k.same * own / at_once) if at_once > 0 else None
    return Kernel(k.same * own, k.far * other, k.cross * own, k.sample * other, local, profile)


def near(local: Array | None, windows: Sequence[Window], back: bool = False) -> Array | None:
    """A local kernel summed over the taps that both positions have: at a border neighbours share few of theirs."""
    if local is None or local.ndim != len(windows):
        return None
    for axis, window in enumerate(windows):
        size = window.size if back else window.outputs
        local = np.take(local, range(min(local.shape[axis], size)), axis)
        counts = window.common(local.shape[axis], back)
        local = local * counts.reshape([-1 if a == axis else 1 for a in range(local.ndim)])
    return local


def per_axis(argument: Any, axes: int) -> tuple[int, ...]:
    """An int or sequence argument as one number per axis."""
    if isinstance(argument, (int, float)):
        return (int(argument),) * axes
    numbers = tuple(int(a) for a in argument)
    return numbers * axes if len(numbers) == 1 else numbers


def spatial(x: Value, axes: int) -> tuple[Value, bool]:
    """``x`` with its last ``axes`` dims in the role of positions, and whether it has a batch dim.

    Dims that were channels so far (a convolution over features) become positions whose contents are independent.
    """
    batched = len(x.dims) == axes + 2
    tail = x.dims[-axes:]
    if all(a.role == "P" for dim in tail for a in dim):
        return x, batched
    dims = (*x.dims[:-axes], *(tuple(Atom("P", a.size) for a in dim) for dim in tail))
    k = x.covariance
    return x.fresh(dims, covariance=settle(Kernel(k.same, 0.0, k.cross, 0.0), dims), approximate=x.approximate), batched


def axis_profiles(k: Kernel, dims: Dims) -> Profile:
    """One profile per *dim* of the position dims (a dim made of several atoms has none)."""
    result: list[Array | None] = []
    index = 0
    for dim in dims:
        n = sum(a.role == "P" for a in dim)
        own = k.profile[index] if n == 1 and index < len(k.profile) else None
        result.append(own if own is not None and len(own) == dim[0].size else None)
        index += n
    return tuple(result)


def strided_local(local: Array | None, strides: tuple[int, ...]) -> Array | None:
    """The local kernel at displacements that are multiples of the stride."""
    if local is None or local.ndim != len(strides):
        return None
    taken = local[tuple(slice(None, None, s) for s in strides)]
    return taken if taken.size > 1 else None


def tapped_sum(
    x: Value,
    channels: int,
    w: Weights,
    taps: Sequence[Taps],
    places: int,
    dims: Dims,
    local: Array | None,
    axes: Sequence[Axis] | None = None,
) -> tuple[float, Kernel]:
    """``random_sum`` over channels and the taps of a window; ``axes``: the same taps by classes of positions."""
    source = x.covariance if w.zero_sum else x.second
    resolved = None
    # weights that sum to zero see x - M, whose border also depends on the mean at each position, which is not kept
    if axes is not None and not (w.zero_sum and x.mean != 0.0):
        sizes = x.shape[-len(axes) :]
        second, centred = resolved_of(source, x, sizes), resolved_of(x.covariance, x, sizes)
        if second is not None and centred is not None:
            resolved = second.through(axes).scaled(np.multiply, channels * w.variance)
            if w.mean != 0.0:
                direct = centred.through(axes).scaled(np.multiply, channels * w.mean**2)
                resolved = resolved.combined(direct, np.add)
            resolved = resolved.scaled(np.add, w.bias_variance)
    random = through(source * (channels * w.variance), taps, places, dims, local)
    if w.mean != 0.0:
        random = random + through(x.covariance.without_local() * (channels * w.mean**2), taps, places, dims, None)
    reach = channels * math.prod(t.mean for t in taps)
    return reach * w.mean * x.mean + w.bias_mean, (random + w.bias_variance).with_resolved(resolved)


@register
class Convolution(Rule):
    """y[o] = sum over taps and channels of w x[o s - p + t d].

    Forward: ``random_sum`` with fan = C_in/groups times the mean number of taps inside the input (zero padding bends
    the profile along each axis, exactly). Averaged over independent weights the kernel at displacement D is that of
    the input at s D (Novak et al. 2019, eq. 7; Xiao et al. 2018, eq. 2). Backward: each input feeds k/s outputs per
    axis; with stride,
    two positions share weights only in the same phase, so their kernel is divided by the stride again.
    """

    ops: tuple[str, ...] = ("conv1d", "conv2d", "conv3d")
    signature: tuple[str, ...] = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        """The geometry, one window per axis."""
        axes = int(call.op[4])
        kernel = shape_of(call.node_of("weight"))[2:]
        stride = per_axis(call.plain("stride", 1), axes)
        dilation = per_axis(call.plain("dilation", 1), axes)
        given = call.plain("padding", 0)
        if given == "valid":
            padding = (0,) * axes
        elif given == "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
        else:
            padding = per_axis(given, axes)
        return tuple(
            Window(n, k, s, p, d, o)
            for n, k, s, p, d, o in zip(
                x.shape[-axes:], kernel, stride, padding, dilation, call.shape[-axes:], strict=True
            )
        )

    def forward(self, call: Call) -> Result:
        axes = int(call.op[4])
        x, batched = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        if (filters := self._filters(call, windows)) is not None:
            return self._filtered(call, x, filters, batched)
        channels = shape_of(call.node_of("weight"))[1]
        profiles = axis_profiles(x.covariance, x.dims[-axes:])
        taps = [window.spread(profile) for window, profile in zip(windows, profiles, strict=True)]
        dims = conv_dims(x, call.shape, axes, batched)
        w = weights_of(call)
        local = strided_local((x.covariance if w.zero_sum else x.second).local, tuple(v.stride for v in windows))
        local = near(local, windows)
        bent = x.covariance.resolved is not None or not all(window.whole for window in windows)
        views = [axis_through(window) for window in windows] if bent else None
        mean, k = tapped_sum(x, channels, w, taps, math.prod(call.shape[-axes:]), dims[-axes:], local, views)
        uses = math.prod(window.concentration for window in windows) / channels
        fluctuation = of_few_weights(uses, call.value("weight").kurtosis) if w.variance > 0 else 0.0
        result = Value(dims, mean, k, approximate=x.approximate, fluctuation=fluctuation).settled()
        if channels > 1 and w.variance > 0:
            result.inherited = of_alike_taps(x.covariance, windows) / channels
            result.fluctuation += result.inherited
        if channels == 1:
            share = x.own_source().correlation.mean_over(x.count("S"), x.positions)
            spread = min(variance_spread(x, share), 1.0)
            result.inherited = max(x.fluctuation, spread)
            result.fluctuation += result.inherited
            one_each = axes <= 2 and shape_of(call.node_of("weight"))[0] == x.shape[-axes - 1]
            if one_each and w.mean**2 < 0.1 * w.variance:
                before = Texture.of(x, axes)
                before = before if x.texture is not None else before.unlike(spread, str(call.node_of("weight").name))
                texture = before.filtered(self.kernels(call, windows)).level()
                result.texture = texture.folded() if any(window.stride > 1 for window in windows) else texture
        result.shape_on_grid = sum_of_few(x, channels * math.prod(t.mean for t in taps))
        centred = w.variance > 0 and w.mean**2 < 0.01 * w.variance
        if channels == 1 and centred and x is call.value("input") and result.shape == x.shape:
            result.echo = Echo(x, weight_shares(math.prod(window.kernel for window in windows)))
        return result

    def kernels(self, call: Call, windows: tuple[Window, ...]) -> NDArray[np.float32]:
        """The draws of a depthwise kernel."""
        weight = call.node_of("weight")
        name = str(weight.meta.get("parameter", weight.name))
        draws = kernels_of(name, shape_of(weight)[2:], call.of(weight).kurtosis)
        return reached(draws, [window.reach() for window in windows])

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        axes = int(call.op[4])
        x, _ = spatial(call.value("input"), axes)
        windows = self.windows(call, x)
        weight = shape_of(call.node_of("weight"))
        if (filters := self._filters(call, windows)) is not None:
            yield call.node_of("input"), self._unfiltered(call, gradient, x, filters)
            return
        groups = int(call.plain("groups", 1))
        kernel = gradient.collapsed() * (1.0 / gradient.weight_bias)
        seen = weight[1] * math.prod(window.spread(None).mean for window in windows)
        square = gradient.square_slope(call.out) if seen <= FEW else None
        gain = weight[0] / groups * weights_of(call).second
        if square is not None and not gradient.per_channel:
            gain *= chosen_by_size(square, call.out)
        profiles = axis_profiles(kernel, call.out.dims[-axes:])
        taps = [window.gather(profile) for window, profile in zip(windows, profiles, strict=True)]
        local = near(kernel.local, windows, back=True) if all(window.stride == 1 for window in windows) else None
        k = through(kernel * gain, taps, math.prod(x.shape[-axes:]), x.dims[-axes:], local)
        samples = call.out.count("S")
        outputs = math.prod(call.shape[-axes:])
        texture = None
        if call.out.texture is not None:
            before = gradient.texture if gradient.texture is not None else Texture.white(axes)
            if any(window.stride > 1 for window in windows):
                before = before.folded()
            after = before.filtered(self.kernels(call, windows), adjoint=True)
            k, texture = k * float(after.channels.mean()), after.level()
        yield call.node_of("input"), few_inputs(settle(k, x.dims), x, seen, square, call.out).textured(texture)
        if not gradient.unbounded:  # a weight that the norm behind it divides out has none
            call.memo["weight_grad"] = weight_gradient_std(kernel, x.second, samples, outputs)
            yield from _to_weight(call, "weight", call.memo["weight_grad"])

    def _filters(self, call: Call, windows: tuple[Window, ...]) -> tuple[Smoother, ...] | None:
        """A known filter for each channel by itself, its map along each axis."""
        groups, weight = int(call.plain("groups", 1)), call.value("weight")
        whole = groups > 1 and weight.constant is not None and weight.constant.shape[0] == groups
        return fixed_filter(weight, windows) if whole and call.optional("bias") is None else None

    def _filtered(self, call: Call, x: Value, filters: tuple[Smoother, ...], batched: bool) -> Value:
        """The same linear map for every channel: no random sum, neighbours stay alike."""
        axes = len(filters)
        mean = x.mean * math.prod(m.level for m in filters)
        profile = smoothed_profile(axis_profiles(x.covariance, x.dims[-axes:]), filters)
        k = replace(smoothed(x.second, filters), profile=profile) - mean**2
        return Value(conv_dims(x, call.shape, axes, batched), mean, k, approximate=x.approximate).settled()

    def _unfiltered(self, call: Call, gradient: Gradient, x: Value, filters: tuple[Smoother, ...]) -> Gradient:
        """The transposed map."""
        kernel = gradient.collapsed()
        maps = tuple(m.transposed for m in filters)
        profile = smoothed_profile(axis_profiles(kernel, call.out.dims[-len(maps) :]), maps)
        return Gradient.fresh(settle(replace(smoothed(kernel, maps), profile=profile), x.dims))


def of_few_weights(concentration: float, kurtosis: float) -> float:
    """Relative variance of sum w² over n = 1/``concentration`` weights, (kurtosis - 1)/n.

    Of fewer than three the inverse has no mean, whatever their distribution, as long as it reaches zero: as if normal.
    """
    return concentration * (kurtosis - 1.0 if concentration < 0.4 else 2.0)


def of_alike_taps(k: Kernel, windows: Sequence[Window]) -> float:
    """What like neighbours add to that relative variance, for one channel of inputs.

    Var[s²] / E[s²]² of s² = sum_{t,t'} w_t w_t' K(t - t') is 2 sum_{t,t'} rho(t - t')² / n² for n normal weights, of
    which 2/n is that of t = t': a kernel's lowest frequency counts most. What all samples share is no part of K.
    """
    own = k.same - k.sample
    taps = math.prod(window.kernel for window in windows)
    if not own > 0 or taps == 1:
        return 0.0
    base = (k.far - k.sample) / own
    if k.local is None or k.local.ndim != len(windows):
        return 2.0 * (1.0 - 1.0 / taps) * base**2
    square: Array = ((k.local - k.sample) / own) ** 2
    for axis, window in enumerate(windows):
        apart = np.arange(window.kernel) * window.dilation
        within = apart[apart < square.shape[axis]]
        beyond = [(0, window.kernel - len(within)) if a == axis else (0, 0) for a in range(square.ndim)]
        square = np.pad(np.take(square, within, axis), beyond, constant_values=base**2)
        pairs = np.where(apart == 0, 1.0, 2.0) * (window.kernel - np.arange(window.kernel))
        square = square * pairs.reshape([-1 if a == axis else 1 for a in range(square.ndim)])
    return max(2.0 * (float(square.sum()) / taps**2 - 1.0 / taps), 0.0)


def sum_of_few(x: Value, fan: float) -> Array | None:
    """Quantiles of sum_t w_t x_t / |w|: the excess kurtosis of x is divided by (n + 2)/3 for n normal weights.

    Its third cumulant has the sign of the weights: over units, it averages out. Cornish & Fisher (1938):
    z + k (z³ - 3z) / 24.
    """
    if round(fan, 6) > FEW or x.variance <= 0 or x.iid:  # a mean number of taps: 64 is not always 64.0
        return None
    square = (x.own_grid().double().numpy() - x.mean) ** 2
    weights = x.own_source().at.weights
    excess = float(weights @ (square * square)) / float(weights @ square) ** 2 - 3.0
    bend = min(max(3.0 * excess / (fan + 2.0), -0.5), 3.0) / 24.0
    if abs(bend) < 1e-3:
        return None
    z = nodes(0).z
    shape = z + bend * (z * (z * z - 3.0))
    return np.asarray(np.maximum.accumulate(shape) / math.sqrt(1.0 + 6.0 * bend**2))


def chosen_by_size(square: Array, y: Value) -> float:
    """E[g² |w|²] / (E[g²] E[|w|²]) where g knows y = w x (g² = ``square`` on y's grid): large weights, large y.

    With E[g² | y] = 1 + a (y² - 1) and f = Var[|w|²] / E[|w|²]² (2/n for n normal weights) it is 1 + a f.
    """
    source = y.own_source()
    weights, u = source.at.weights, source.u.double().numpy()
    size = (u - weights @ u) ** 2
    size = size / (weights @ size) - 1.0
    level = float(weights @ square)
    bend = float(weights @ (square * size)) / (level * float(weights @ size**2)) if level > 0 else 0.0
    return max(1.0 + bend * (y.fluctuation - y.inherited), 0.0)


def few_inputs(kernel: Kernel, x: Value, fan: float, square: Array | None, y: Value) -> Gradient:
    """The gradient of an input that is one of few: the slope that y met depends on it, and so on its own next slope.

    y = sum_t w_t x_t has correlation rho = w_t / |w| with x_t, so that y = rho x + sqrt(1 - rho²) z, z normal. The sum
    over outputs weighs by w_t²: E[g_x² | x] ~ E[rho² E_z[g²(rho x + sqrt(1 - rho²) z)]], with rho's density for n
    normal weights, (1 - rho²)^((n - 3)/2).
    """
    if fan > FEW or square is None or x.variance <= 0 or x.iid:
        return Gradient.fresh(kernel)
    source, at = x.own_source(), y.own_source().at
    behind = at.z
    mirrored = square[::-1] if at.phase == 0 else np.interp(-behind, behind, square)
    either = 0.5 * (square + mirrored)  # weights have either sign
    centred = (x.own_grid().double().numpy() - x.mean) / math.sqrt(x.variance)
    coarse = np.linspace(centred.min(), centred.max(), 96)
    rho, shares = weight_correlations(round(max(fan, 1.0), 2))
    z, weights = _FEW_NORMAL
    met = coarse[:, None, None] * rho[None, :, None] + np.sqrt(1.0 - rho**2)[None, :, None] * z
    expected = on_grid(met, behind, either) @ weights @ shares
    given = np.interp(centred, coarse, expected)
    level = float(source.at.weights @ given)
    if not level > 0:
        return Gradient.fresh(kernel)
    slope = np.sqrt(np.maximum(given / level, 0.0))
    return Gradient.of(Term.reaching(kernel, slope, source))


_HERMITE = np.polynomial.hermite_e.hermegauss(24)
_FEW_NORMAL = (_HERMITE[0], _HERMITE[1] / _HERMITE[1].sum())
"""A normal variable in a few points, and their weights."""


@functools.lru_cache(maxsize=256)
def weight_correlations(fan: float) -> tuple[Array, Array]:
    """Values of rho = w_t / |w| for that many normal weights, and their shares weighed by rho²."""
    if fan < 1.5:
        return np.ones(1), np.ones(1)
    angle = (np.arange(24) + 0.5) / 24 * (math.pi / 2)
    density = np.cos(angle) ** 2 * np.sin(angle) ** (fan - 2.0)
    return np.cos(angle), density / density.sum()


def _by_atoms(profiles: list[Array | None], dims: Dims) -> Profile:
    if all(p is None for p in profiles):
        return ()
    result: list[Array | None] = []
    for profile, dim in zip(profiles, dims, strict=True):
        result.extend([profile] if len(dim) == 1 else [None] * len(dim))
    return tuple(result)


def conv_dims(x: Value, shape: tuple[int, ...], axes: int, batched: bool) -> Dims:
    """Dims of a convolution's output: batch as in the input, channels, positions (atoms kept where sizes agree)."""
    channel: Dim = (Atom("C", shape[-axes - 1]),) if shape[-axes - 1] != 1 else ()
    tail = tuple(
        old if math.prod(a.size for a in old) == n else ((Atom("P", n),) if n != 1 else ())
        for old, n in zip(x.dims[-axes:], shape[-axes:], strict=True)
    )
    return (*(x.dims[:1] if batched else ()), channel, *tail)


@register
class TransposedConvolution(Convolution):
    """The adjoint of a convolution: each output sees C_in/groups * k/s inputs (effective fan, DESIGN: C_in k²/s²).

    The two directions of ``Convolution`` change places.
    """

    ops: tuple[str, ...] = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    signature: tuple[str, ...] = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
    )

    def windows(self, call: Call, x: Value) -> tuple[Window, ...]:
        axes = int(call.op[-2])
        kernel = shape_of(call.node_of("weight"))[2:]
        stride = per_axis(call.plain("stride", 1), axes)
        dilation = per_axis(call.plain("dilation", 1), axes)
        padding = per_axis(call.plain("padding", 0), axes)
        return tuple(
            Window(o, k, s, p, d, n)  # as the convolution that maps the output back onto the input
            for n, k, s, p, d, o in zip(
                x.shape[-axes:], kernel, stride, padding, dilation, call.shape[-axes:], strict=True
            )
        )

    def forward(self, call: Call) -> Result:
        axes = int(call.op[-2])
        x, batched = spatial(call.value("input"), axes)
        weight = shape_of(call.node_of("weight"))
        windows = self.windows(call, x)
        groups = int(call.plain("groups", 1))
        profiles = axis_profiles(x.covariance, x.dims[-axes:])
        taps = [window.gather(profile) for window, profile in zip(windows, profiles, strict=True)]
        dims = conv_dims(x, call.shape, axes, batched)
        w = weights_of(call)
        # with a stride, neighbours use different taps: positions of one class are then no longer alike
        views = None if any(window.stride > 1 for window in windows) else [axis_back(window) for window in windows]
        mean, k = tapped_sum(x, weight[0] // groups, w, taps, math.prod(call.shape[-axes:]), dims[-axes:], None, views)
        return Value(dims, mean, k, approximate=x.approximate).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        axes = int(call.op[-2])
        x, _ = spatial(call.value("input"), axes)
        weight = shape_of(call.node_of("weight"))
        windows = self.windows(call, x)
        kernel = gradient.collapsed()
        profiles = axis_profiles(kernel, call.out.dims[-axes:])
        taps = [window.spread(profile) for window, profile in zip(windows, profiles, strict=True)]
        gain = weight[1] * weights_of(call).second
        k = through(kernel * gain, taps, math.prod(x.shape[-axes:]), x.dims[-axes:])
        call.memo["weight_grad"] = weight_gradient_std(
            kernel, x.second, call.out.count("S"), math.prod(x.shape[-axes:])
        )
        yield call.node_of("input"), Gradient.fresh(settle(k, x.dims))
        yield from _to_weight(call, "weight", call.memo["weight_grad"])


def alike(example: torch.Tensor | None) -> torch.Tensor | None:
    """Computed indices that were the same for every sample (positions counted from a mask of padding); else None."""
    if example is None or example.dim() < 2 or example.shape[0] < 2:
        return None
    return example if bool((example == example[:1]).all()) else None


@register
class Embedding(Rule):
    """Rows of a table, looked up: independent draws for different tokens.

    Tokens are taken as uniform, so two positions hold the same row with probability 1/vocabulary. Known indices
    (position ids) are the same for every sample.
    """

    ops: tuple[str, ...] = ("embedding",)
    signature: tuple[str, ...] = ("input", "weight", "padding_idx")

    def forward(self, call: Call) -> Result:
        index, table = call.value("input"), call.value("weight")
        rows, width = shape_of(call.node_of("weight"))
        unit: Dim = (Atom("C", width),) if width > 1 else ()
        dims = (*index.dims, unit)
        known = index.constant if index.constant is not None else alike(call.node_of("input").meta.get("example"))
        if known is not None:
            # position ids: the same for all samples, another row at every position (token types: the same row)
            several = bool((known != known.reshape(-1)[:1]).any())
            given = index.constant is None  # one row of ids for each sample
            places = index.dims if given else tuple(tuple(Atom("P", a.size) for a in dim) for dim in index.dims)
            far = table.variance * (table.common if several else 1.0)
            k = Kernel(table.variance, far, table.variance, far)
            return Value((*places, unit), table.mean, k).settled()
        repeat = table.variance * max(table.common, 1 / max(rows, 1))
        k = Kernel(table.variance, repeat, repeat, repeat)
        return Value(dims, table.mean, k, approximate=index.approximate).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        index = call.value("input")
        rows, _ = shape_of(call.node_of("weight"))
        kernel = gradient.collapsed()
        uses = index.count("S") * index.count("P") * index.count("C") / max(rows, 1)
        call.memo["weight_grad"] = math.sqrt(max(kernel.same * uses, 0.0))
        return ()


@register
class WeightNorm(Rule):
    """w = g v/|v|: each unit's incoming weights get the norm g, E[w²] = E[g²]/fan_in (Salimans & Kingma 2016)."""

    ops: tuple[str, ...] = ("weight_norm",)
    signature: tuple[str, ...] = ("v", "g", "dim")

    def forward(self, call: Call) -> Result:
        v, g = call.value("v"), call.value("g")
        units = math.prod(shape_of(call.node_of("g")))
        fan = math.prod(v.shape) / max(units, 1)
        second = (g.mean**2 + g.variance) / max(fan, 1.0)
        share = v.mean**2 / (v.mean**2 + v.variance) if v.mean**2 + v.variance > 0 else 0.0
        mean = math.copysign(math.sqrt(second * share), v.mean * g.mean)
        variance = second * (1 - share)
        used = {a.role for a in v.atoms()}
        return v.fresh(mean=mean, covariance=Kernel.independent(variance, "S" in used, "P" in used), iid=True)
