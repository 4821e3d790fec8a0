"""What convolutions, pooling and resizing make of maps (N, C, ...) that are contiguous or have their channels last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_Args = tuple[Any, ...]


def alike(*tensors: torch.Tensor) -> bool:
    """Floating, of one dtype."""
    first = tensors[0]
    return first.is_floating_point() and all(t.dtype == first.dtype for t in tensors)


def ordinary(*tensors: torch.Tensor) -> bool:
    """Floating, of one dtype, contiguous."""
    return alike(*tensors) and all(t.is_contiguous() for t in tensors)


def channels_last(x: torch.Tensor) -> bool:
    """Whether the channels, and they alone, were moved to the end in memory."""
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _map_like(x: torch.Tensor, channels: int, sizes: Sequence[int]) -> torch.Tensor | None:
    """A map of another size in the format of ``x``; None where that has neither of the two."""
    if x.is_contiguous():
        return torch.empty((x.shape[0], channels, *sizes), dtype=x.dtype, device="meta")
    if not channels_last(x):
        return None
    shape = (x.shape[0], channels, *sizes)
    return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last)


def _given(args: _Args, kwargs: Mapping[str, Any], names: Sequence[str], known: Mapping[str, Any]) -> list[Any] | None:
    """The arguments after the first few tensors, in the order of ``names``; None where there are others."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(args) > len(names) or not set(given) <= set(names):
        return None
    return [given.get(name, known.get(name)) for name in names]


def _per_axis(value: Any, axes: int) -> tuple[int, ...] | None:
    if type(value) is int:
        return (value,) * axes
    plain = type(value) in (tuple, list) and len(value) in (1, axes) and all(type(v) is int for v in value)
    return tuple(value) * (axes // len(value)) if plain else None


def convolution(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Convolution, with contiguous weights."""
    x, weight, *rest = args
    bias = kwargs.get("bias", rest[0] if rest else None)
    groups = kwargs.get("groups", rest[4] if len(rest) > 4 else 1)
    if not alike(x, weight) or not weight.is_contiguous() or x.dim() != weight.dim():
        return None
    if x.shape[1] != weight.shape[1] * groups:
        return None
    if weight.shape[0] % groups or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        return None
    axes = x.dim() - 2
    stride, padding, dilation = (
        kwargs.get(name, rest[i] if len(rest) > i else default)
        for i, name, default in ((1, "stride", 1), (2, "padding", 0), (3, "dilation", 1))
    )
    if isinstance(padding, str):
        return func(*args, **kwargs)
    strides, paddings, dilations = (_per_axis(value, axes) for value in (stride, padding, dilation))
    if axes < 1 or strides is None or paddings is None or dilations is None:
        return None
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True)
    ]
    if min(*sizes, x.numel()) < 1:
        return None
    return _map_like(x, weight.shape[0], sizes)


def transposed_convolution(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Transposed convolution, with contiguous weights."""
    names = ("bias", "stride", "padding", "output_padding", "groups", "dilation")
    known = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
    x, weight, *rest = args
    given = _given(tuple(rest), kwargs, names, known)
    if given is None or not alike(x, weight) or not weight.is_contiguous() or not x.numel():
        return None
    if x.dim() != weight.dim() or x.dim() < 3:
        return None
    bias, stride, padding, more, groups, dilation = given
    channels = weight.shape[1] * groups
    if x.shape[1] != weight.shape[0] or x.shape[1] % groups or (bias is not None and tuple(bias.shape) != (channels,)):
        return None
    numbers = [n for n in (_per_axis(value, x.dim() - 2) for value in (stride, padding, more, dilation)) if n]
    if len(numbers) < 4:
        return None
    sizes = []
    for n, k, (s, p, m, d) in zip(x.shape[2:], weight.shape[2:], zip(*numbers, strict=True), strict=True):
        if m >= max(s, d):
            return None
        sizes.append((n - 1) * s - 2 * p + d * (k - 1) + m + 1)
    return _map_like(x, channels, sizes) if min(sizes) > 0 else None


def pooling(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Average and max pooling over two dims."""
    x, *rest = args
    names = ["kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"]
    if func.__name__ != "avg_pool2d":
        names = ["kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"]
    given = _given(tuple(rest), kwargs, names, {"padding": 0, "dilation": 1, "ceil_mode": False})
    if given is None or x.dim() != 4 or not x.is_floating_point() or not x.numel():
        return None
    by = dict(zip(names, given, strict=True))
    ceil = by["ceil_mode"]
    kernel = _per_axis(by["kernel_size"], 2)
    stride = kernel if by["stride"] in (None, [], ()) else _per_axis(by["stride"], 2)
    padding, dilation = _per_axis(by["padding"], 2), _per_axis(by.get("dilation", 1), 2)
    if kernel is None or stride is None or padding is None or dilation is None or by.get("return_indices"):
        return None
    sizes = []
    for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        if 2 * p > k or s < 1:
            return None
        size = (n + 2 * p - d * (k - 1) - 1 + (s - 1 if ceil else 0)) // s + 1
        if ceil and (size - 1) * s >= n + p:
            size -= 1
        sizes.append(size)
    return _map_like(x, x.shape[1], sizes) if min(sizes) > 0 else None


def adaptive_pooling(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Adaptive average pooling of a contiguous map to a size that is given."""
    x, *rest = args
    size = kwargs.get("output_size", rest[0] if rest else None)
    axes = {"adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3}[func.__name__]
    size = (size,) * axes if type(size) is int else size
    if type(size) not in (tuple, list) or len(size) != axes or x.dim() != axes + 2 or not ordinary(x):
        return None
    if math.prod(x.shape) == 0 or not all(type(s) in (int, type(None)) for s in size):
        return None
    shape = [*x.shape[:2], *(own if s is None else s for own, s in zip(x.shape[2:], size, strict=True))]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def interpolation(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``F.interpolate`` of a map over two dims, to a size or by a factor."""
    x, *rest = args
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    given = _given(tuple(rest), kwargs, names, {"mode": "nearest"})
    if given is None or x.dim() != 4 or not x.is_floating_point() or not x.numel() or x.shape[1] == 1:
        return None
    size, factor, mode, align, recompute, antialias = given
    if mode not in ("nearest", "bilinear", "bicubic") or (mode == "nearest" and align is not None):
        return None
    if recompute or antialias or (size is None) == (factor is None):
        return None
    if size is not None:
        sizes = _per_axis(size if type(size) is int else tuple(size), 2)
    else:
        factors = factor if type(factor) in (tuple, list) else (factor, factor)
        if len(factors) != 2 or not all(type(f) in (int, float) for f in factors):
            return None
        sizes = tuple(math.floor(n * f) for n, f in zip(x.shape[2:], factors, strict=True))
    return _map_like(x, x.shape[1], sizes) if sizes is not None and min(sizes) > 0 else None
