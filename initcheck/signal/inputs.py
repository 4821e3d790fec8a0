"""An input as it is given: mean, distribution, and covariance between channels, samples and positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from initcheck.signal.grid import nodes
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.shape import copula, normal_cdf
from initcheck.signal.value import Role, Source, Value, dims_of

_REACH = 64
"""Displacements along one axis that are told apart; pairs farther away are one class."""
_LARGEST = 1 << 22
"""Elements that are looked at: of larger inputs, the first samples."""
_NOT_NORMAL = 0.15
"""Distance between standardised quantiles (rms) from which the distribution is taken as it is, not as normal."""


def given_value(tensor: torch.Tensor, roles: Sequence[Role]) -> Value | None:
    """The value of an input with the statistics of ``tensor``.

    Args:
        tensor: floating point, any shape, real numbers on any device.
        roles: sample, channel or position for each dim.

    Returns:
        None where there is nothing to go by: no elements, values that are not finite, or all the same.
    """
    numbers = _numbers(tensor, roles)
    if numbers is None:
        return None
    arranged = _arranged(numbers, roles)
    mean = float(arranged.mean())
    covariance = _covariance(arranged - mean)
    if not covariance.same > 0:
        return None
    value = Value(dims_of(tuple(tensor.shape), roles), mean, covariance).settled()
    values = _quantiles(arranged.ravel())
    shape = (values - mean) / math.sqrt(covariance.same)
    at = nodes(0)
    if math.sqrt(float(at.weights @ (shape - at.z) ** 2)) > _NOT_NORMAL:
        value.shape_on_grid = shape
        correlation = copula(shape, value.covariance * (1.0 / covariance.same))
        value.source = Source(torch.from_numpy(values), at, correlation)
        value.grid = value.source.u
    return value


def described(value: Value) -> str:
    """``mean 0.45, std 0.28, neighbours correlate 0.97``."""
    text = f"mean {value.mean:.2g}, std {math.sqrt(value.variance):.2g}"
    local = value.covariance.local
    if local is not None:
        axes = [axis for axis in range(local.ndim) if local.shape[axis] > 1]
        steps = [local[tuple(int(i == axis) for i in range(local.ndim))] for axis in axes]
        text += f", neighbours correlate {float(np.mean(steps)) / value.variance:.2g}"
    return text


def _numbers(tensor: torch.Tensor, roles: Sequence[Role]) -> Array | None:
    """Some of the elements, as float64."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or len(roles) != tensor.dim():
        return None
    if roles and tensor.numel() > _LARGEST:
        axis = roles.index("S") if "S" in roles else 0
        tensor = tensor.narrow(
            axis, 0, max(1, min(tensor.shape[axis], _LARGEST * tensor.shape[axis] // tensor.numel()))
        )
    numbers = np.asarray(tensor.detach().to("cpu", torch.float64).numpy())
    return numbers if np.isfinite(numbers).all() else None


def _arranged(numbers: Array, roles: Sequence[Role]) -> Array:
    """(samples, channels, *positions), dims of size 1 dropped from the positions."""
    kept = [i for i, n in enumerate(numbers.shape) if not (roles[i] == "P" and n == 1)]
    order = [i for role in ("S", "C", "P") for i in kept if roles[i] == role]
    moved = numbers.reshape([numbers.shape[i] for i in kept]).transpose([kept.index(i) for i in order])
    sizes = [math.prod(numbers.shape[i] for i in kept if roles[i] == role) for role in ("S", "C")]
    return moved.reshape([*sizes, *(numbers.shape[i] for i in order if roles[i] == "P")])


def _covariance(x: Array) -> Kernel:
    """Of centred numbers (samples, channels, *positions): means of products over all pairs of each class."""
    samples, sizes = x.shape[0], x.shape[2:]
    positions = math.prod(sizes)
    flat = x.reshape(samples, x.shape[1], positions)
    squares = float((flat**2).sum((0, 2)).mean())
    per_sample = float((flat.sum(2) ** 2).sum(0).mean())
    per_position = float((flat.sum(0) ** 2).sum(1).mean())
    everything = float((flat.sum((0, 2)) ** 2).mean())

    def mean(total: float, pairs: int) -> float:
        return max(total / pairs, 0.0) if pairs else 0.0

    same = squares / (samples * positions)
    far = mean(per_sample - squares, samples * positions * (positions - 1))
    cross = mean(per_position - squares, positions * samples * (samples - 1))
    sample = mean(
        everything - per_sample - per_position + squares, samples * (samples - 1) * positions * (positions - 1)
    )
    local = _by_displacement(x, same) if sizes else None
    if local is not None:
        far = _beyond(local, far, sizes)
    return Kernel(same, min(far, same), min(cross, same), min(sample, same), local)


def _by_displacement(x: Array, same: float) -> Array | None:
    """Mean product at each displacement along the position axes (both signs together)."""
    sizes = x.shape[2:]
    reach = [min(n, _REACH) for n in sizes]
    axes = tuple(range(2, x.ndim))
    padded = [2 * n for n in sizes]
    power = np.zeros([*padded[:-1], padded[-1] // 2 + 1])
    for part in x:  # one sample at a time
        power += (np.abs(np.fft.rfftn(part, padded, tuple(a - 1 for a in axes))) ** 2).sum(0)
    products = np.fft.irfftn(power, padded)
    for axis, (size, kept) in enumerate(zip(sizes, reach, strict=True)):
        forth = np.take(products, range(kept), axis)
        back = np.take(products, [-i % (2 * size) for i in range(kept)], axis)
        counts = (size - np.arange(kept)).reshape([-1 if a == axis else 1 for a in range(products.ndim)])
        products = 0.5 * (forth + back) / counts
    local = products / (x.shape[0] * x.shape[1])
    local[(0,) * local.ndim] = same
    return np.asarray(local) if local.size > 1 else None


def _beyond(local: Array, far: float, sizes: Sequence[int]) -> float:
    """The mean over the pairs that ``local`` does not reach, so that the mean over all pairs stays."""
    pairs = np.ones(())
    for length, size in zip(local.shape, sizes, strict=True):
        shift = np.arange(length)
        pairs = np.multiply.outer(pairs, np.where(shift == 0, 1.0, 2.0) * (size - shift))
    everything = float(math.prod(sizes)) ** 2
    left = everything - float(pairs.sum())
    total = far * (everything - math.prod(sizes)) + float(local.ravel()[0]) * math.prod(sizes)
    return max((total - float((pairs * local).sum())) / left, 0.0) if left > 0.5 else far


def _quantiles(numbers: Array) -> Array:
    """Values at the levels of the grid's nodes: real ones, not interpolated, so that exact zeros stay zeros."""
    ordered = np.sort(numbers)
    level = normal_cdf(nodes(0).z)
    return np.asarray(ordered[np.minimum((level * len(ordered)).astype(np.intp), len(ordered) - 1)])
