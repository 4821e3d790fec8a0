"""Ops between grids of positions: padding, up-sampling, pixel shuffle, unfold and fold."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.ops.joining import by_element, part_of
from initcheck.signal.ops.linear import Window, axis_through, resolved_of
from initcheck.signal.ops.views import Passing
from initcheck.signal.resolved import Resolved
from initcheck.signal.rule import Call, Flow, Result, Rule, register
from initcheck.signal.shape import quantiles, sum_shape
from initcheck.signal.smoothing import Smoother, smoothed
from initcheck.signal.value import Atom, Dim, Dims, Role, Value, settle


@register
class Pad(Rule):
    """F.pad: zeros dilute (exactly, as a profile); reflected, replicated and circular padding repeats what is there.

    Padding with -inf is for a maximum that never takes it: the moments are those of what was there.
    """

    ops: tuple[str, ...] = ("pad", "constant_pad_nd")
    signature: tuple[str, ...] = ("input", "pad", "mode", "value")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        dims: list[Dim] = []
        for dim, size in zip(value.dims, call.shape, strict=True):
            had = math.prod(a.size for a in dim)
            role: Role = dim[0].role if dim else "P"
            dims.append(dim if had == size else ((Atom(role, size),) if size > 1 else ()))
        share = math.prod(value.shape) / max(math.prod(call.shape), 1)
        new = tuple(dims)
        mode = call.plain("mode", "constant") or "constant"
        fill = float(call.plain("value", 0.0) or 0.0)
        if fill == -math.inf:
            return value.viewed(new, local=value.covariance.local).settled()
        if mode != "constant":
            shape = None if value.normal or value.iid else padded_shape(value, 1.0, 0.0)
            changes = {} if shape is None else {"shape_on_grid": shape, "positive": False, "negative": False}
            return value.fresh(new, **changes).settled()
        if share >= 1:
            return value.fresh(new, covariance=value.covariance.without_local()).settled()
        mean = value.mean * share + fill * (1 - share)
        inside, places = value.count("P"), math.prod(a.size for d in new for a in d if a.role == "P")
        pairs = inside * (inside - 1) / (places * (places - 1)) if places > inside > 0 else share
        k = value.second
        second = Kernel(k.same * share, k.far * pairs, k.cross * share, k.sample * pairs) + fill**2 * (1 - share)
        local = self._local(call, value, new) if fill == 0.0 else None
        second = Kernel(second.same, second.far, second.cross, second.sample, local, self._profile(call, value, new))
        second = second.with_resolved(self._resolved(call, value, new) if fill == 0.0 else None)
        padded = Value(new, mean, second - mean**2, approximate=value.approximate)
        if value.normal or value.iid or (value.own_grid() is value.own_source().u and value.one_sided):
            padded.positive, padded.negative = value.positive and fill >= 0, value.negative and fill <= 0
        else:
            padded.shape_on_grid = padded_shape(value, share, fill)
        return padded.settled()

    def _local(self, call: Call, value: Value, dims: Dims) -> Array | None:
        """Of two positions so far apart, the share that both lie inside."""
        local, sizes = value.second.local, value.positions
        outputs = [a.size for d in dims for a in d if a.role == "P"]
        if local is None or local.ndim != len(sizes) or len(outputs) != len(sizes) or min(call.plain("pad")) < 0:
            return None
        for axis, (had, size) in enumerate(zip(sizes, outputs, strict=True)):
            apart = np.arange(local.shape[axis])
            inside = np.maximum(had - apart, 0) / np.maximum(size - apart, 1)
            local = local * inside.reshape([-1 if a == axis else 1 for a in range(local.ndim)])
        return local

    def _resolved(self, call: Call, value: Value, dims: Dims) -> Resolved | None:
        """By position: a window of one tap, which positions of the padding do not have."""
        pads, sizes = [int(p) for p in call.plain("pad")], value.positions
        known = resolved_of(value.second, value, sizes)
        outputs = tuple(a.size for d in dims for a in d if a.role == "P")
        last = len(sizes)
        if known is None or min(pads) < 0 or value.shape[-last:] != sizes or len(outputs) != last:
            return None
        if any(before != after for before, after in zip(value.shape[:-last], call.shape[:-last], strict=True)):
            return None
        lows = [*pads[::2], *[0] * last][:last]
        windows = [Window(n, 1, 1, low, 1, o) for n, low, o in zip(sizes, reversed(lows), outputs, strict=True)]
        return known.through([axis_through(window) for window in windows])

    def _profile(self, call: Call, value: Value, dims: Dims) -> Any:

        pads = [int(p) for p in call.plain("pad")]
        old = iter(value.covariance.profile or (None,) * len(value.positions))
        result: list[Any] = []
        for i, (before, after) in enumerate(zip(value.dims, dims, strict=True)):
            mine = [next(old) for a in before if a.role == "P"]
            count = sum(a.role == "P" for a in after)
            if not count:
                continue
            fits = 2 * (len(dims) - i) <= len(pads)
            if before == after or count != 1 or not fits:
                result.extend(mine if len(mine) == count else [None] * count)
                continue
            low, high = pads[2 * (len(dims) - i) - 2], pads[2 * (len(dims) - i) - 1]
            inner = mine[0] if mine and mine[0] is not None else np.ones(math.prod(a.size for a in before))
            if low < 0 or high < 0:
                inner = inner[max(-low, 0) : len(inner) - max(-high, 0)]
            full = np.concatenate([np.zeros(max(low, 0)), inner, np.zeros(max(high, 0))])
            size = math.prod(a.size for a in after)
            result.append(full / full.mean() if len(full) == size and full.mean() > 0 else None)
        return tuple(result)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        kernel, square = gradient.collapsed(), gradient.square_slope(call.out)
        if call.plain("mode", "constant") not in ("constant", None):  # what was repeated hears from all its copies
            folded = replace(kernel.flat(), resolved=None) * (math.prod(call.shape) / math.prod(value.shape))
            yield call.node_of("input"), self._inside(call, folded, square)
            return
        kernel = kernel.without_local()
        if call.plain("value", 0.0) == -math.inf:
            kernel = kernel * (math.prod(call.shape) / math.prod(value.shape))
        yield call.node_of("input"), self._inside(call, self._unpadded(call, kernel), square)

    def _inside(self, call: Call, kernel: Kernel, square: Array | None) -> Gradient:
        """The gradient of what was padded, with the slope that it met behind (a maximum's winner, say)."""
        value = call.value("input")
        if square is None:
            return Gradient.fresh(settle(kernel, value.dims))
        by_position = any(p is not None and float(np.ptp(p)) > 1e-6 for p in kernel.profile)
        return by_element(kernel, square, call.out, value, of_whole=not by_position)

    def _unpadded(self, call: Call, k: Kernel) -> Kernel:
        """The part of the gradient that falls on what was there before (class tokens that were padded do not count)."""
        if len(k.profile) != len(call.out.positions):
            return k
        pads = [int(p) for p in call.plain("pad")]
        axes: list[Array | None] = []
        level, axis = 1.0, 0
        for i, dim in enumerate(call.out.dims):
            for _ in range(sum(a.role == "P" for a in dim)):
                own = k.profile[axis]
                axis += 1
                last = 2 * (len(call.out.dims) - i)
                if own is not None and last <= len(pads) and len(dim) == 1:
                    low, high = max(pads[last - 2], 0), max(pads[last - 1], 0)
                    inner = own[low : len(own) - high]
                    mean = float(inner.mean()) if len(inner) else 0.0
                    level *= mean
                    own = inner / mean if mean > 0 else None
                axes.append(own)
        return part_of(replace(k, profile=tuple(axes), pairs=None), level)


def padded_shape(value: Value, share: float, fill: float) -> Array | None:
    """Standardised quantile function of a share of a value's elements among others that are all ``fill``."""
    if not value.variance > 0:
        return None
    values = np.append(value.own_grid().double().numpy(), fill)
    weights = np.append(share * value.own_source().at.weights, 1.0 - share)
    return sum_shape([quantiles(values, weights)], 0.0)


@register
class Upsample(Rule):
    """Each new position is a weighted mean of old ones (one copy, two or four neighbours per axis); back, the adjoint.

    What neighbours share stays: behind bilinear copies they are alike, and so are their gradients before them, so that
    the next smoothing averages less out and sums up more.
    """

    ops: tuple[str, ...] = ("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
    signature: tuple[str, ...] = ("input", "size", "scale_factor", "mode", "align_corners")

    def maps(self, call: Call, value: Value) -> tuple[Smoother, ...]:
        """The matrix of each axis, as torch makes it."""
        mode = "bilinear" if call.op == "upsample_bilinear" else str(call.plain("mode", "nearest"))
        kind = "bicubic" if "cubic" in mode else "linear" if "linear" in mode else mode
        corners = bool(call.plain("align_corners", call.op == "upsample_bilinear"))
        sizes = zip(value.shape[2:], call.shape[2:], strict=True)
        return tuple(interpolation(old, new, kind, corners) for old, new in sizes)

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        dims: list[Dim] = []
        for dim, size in zip(value.dims, call.shape, strict=True):
            had = math.prod(a.size for a in dim)
            dims.append(dim if had == size else ((Atom("P", size),) if size > 1 else ()))
        new = tuple(dims)
        k = value.covariance
        if not value.positions:
            return value.fresh(new, covariance=settle(Kernel(k.same, k.same, k.cross, k.cross), new))
        return value.fresh(new, covariance=smoothed(k, self.maps(call, value))).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        maps = tuple(m.transposed for m in self.maps(call, value))
        yield call.node_of("input"), Gradient.fresh(settle(smoothed(gradient.collapsed(), maps), value.dims))


@functools.lru_cache(maxsize=256)
def interpolation(old: int, new: int, mode: str, corners: bool) -> Smoother:
    """Interpolation along one axis, by what it makes of each single position."""
    single = torch.eye(old, dtype=torch.float64)[None]
    fits = corners if mode in ("linear", "bicubic") else None
    if mode == "bicubic":
        matrix = interpolate(single[..., None], size=(new, 1), mode=mode, align_corners=fits)[0, ..., 0]
    else:
        matrix = interpolate(single, size=new, mode=mode, align_corners=fits)[0]
    return Smoother.of(np.ascontiguousarray(matrix.numpy().T))


@register
class PixelShuffle(Passing):
    """pixel_shuffle/unshuffle: channels become positions (independent ones), or positions channels."""

    ops: tuple[str, ...] = ("pixel_shuffle", "pixel_unshuffle")

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        roles: tuple[Role, ...] = ("S", "C", "P", "P")
        dims = tuple(
            () if n == 1 else (Atom(r, n),) for r, n in zip(roles[-len(call.shape) :], call.shape, strict=True)
        )
        k = value.covariance
        return value.viewed(dims).fresh(dims, covariance=Kernel(k.same, k.far, k.cross, k.sample)).settled()


@register
class Unfold(Rule):
    """unfold: windows of positions side by side; F.unfold puts the taps into the channels, x.unfold into a new dim."""

    ops: tuple[str, ...] = ("unfold",)
    signature: tuple[str, ...] = ("input", "dimension", "size", "step")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        shape = call.shape
        k = value.covariance
        if len(shape) == len(value.dims) + 1:
            dim = call.dim(int(call.plain("dimension")), len(value.dims))
            role: Role = value.dims[dim][0].role if value.dims[dim] else "P"
            windows: Dim = (Atom(role, shape[dim]),) if shape[dim] > 1 else ()
            inner: Dim = (Atom(role, shape[-1]),) if shape[-1] > 1 else ()
            dims = (*value.dims[:dim], windows, *value.dims[dim + 1 :], inner)
        else:
            taps = shape[1] // max(value.shape[1], 1)
            count: Dim = (Atom("P", shape[2]),) if shape[2] > 1 else ()
            dims = (value.dims[0], (*value.dims[1], *((Atom("P", taps),) if taps > 1 else ())), count)
        return value.fresh(dims, covariance=Kernel(k.same, k.far, k.cross, k.sample)).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        k = gradient.collapsed().without_local()
        uses = math.prod(call.shape) / max(math.prod(value.shape), 1)
        same = uses * (k.same + max(uses - 1, 0.0) * k.far)
        cross = uses * (k.cross + max(uses - 1, 0.0) * k.sample)
        k = Kernel(same, uses**2 * k.far, cross, uses**2 * k.sample)
        yield call.node_of("input"), Gradient.fresh(settle(k, value.dims))


@register
class Fold(Rule):
    """F.fold: overlapping windows add up (their overlapping taps taken as independent)."""

    ops: tuple[str, ...] = ("fold",)
    signature: tuple[str, ...] = ("input", "output_size", "kernel_size")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        uses = math.prod(value.shape) / max(math.prod(call.shape), 1)
        roles: tuple[Role, ...] = ("S", "C", "P", "P")
        dims = tuple((Atom(r, n),) if n > 1 else () for r, n in zip(roles[-len(call.shape) :], call.shape, strict=True))
        k = value.covariance
        own = Kernel(uses * k.same, uses**2 * k.far, uses * k.cross, uses**2 * k.sample)
        return Value(dims, value.mean * uses, own, approximate=True).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        k = gradient.collapsed()
        yield call.node_of("input"), Gradient.fresh(settle(Kernel(k.same, k.far, k.cross, k.sample), value.dims))
