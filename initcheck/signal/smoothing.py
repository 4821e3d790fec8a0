"""Fixed linear maps along position axes (pooling, interpolation): y_p = sum_i A_pi x_i, the same for every channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from initcheck.signal.kernel import Array, Kernel, Profile

REACH = 16
"""Correlation is followed over so many displacements."""


@dataclass(frozen=True, slots=True)
class Smoother:
    """One axis. ``lags[d', d]``: mean over p of the sum of A_pi A_(p+d')j over |i - j| = d."""

    matrix: Array
    lags: Array
    level: float
    level_square: float
    _transposed: list[Smoother] = field(init=False, repr=False, compare=False, default_factory=list)

    @classmethod
    def of(cls, matrix: Array) -> Smoother:
        """From the matrix A, outputs in the rows."""
        rows = matrix.sum(1)
        return cls(matrix, _lags(matrix), float(rows.mean()), float((rows**2).mean()))

    @property
    def transposed(self) -> Smoother:
        """The map of the gradient."""
        if not self._transposed:
            self._transposed.append(Smoother.of(np.ascontiguousarray(self.matrix.T)))
        return self._transposed[0]


def _lags(matrix: Array) -> Array:
    outputs, inputs = matrix.shape
    used = matrix != 0.0
    first, last = used.argmax(1), inputs - 1 - used[:, ::-1].argmax(1)
    width = int((last - first).max()) + 1 if used.any() else 1
    far = 0
    for d in range(1, min(outputs, REACH)):
        if not (used[:-d] & used[d:]).any():
            break
        far = d
    reach = min(far + math.ceil(REACH * outputs / inputs), outputs - 1, REACH - 1) + 1
    columns = min(max(width, REACH), inputs)
    result = np.zeros((reach, columns))
    for d in range(reach):
        sums = _diagonals(matrix[: outputs - d].T @ matrix[d:] / (outputs - d))
        result[d] = sums[inputs - 1 : inputs - 1 + columns]
        result[d, 1:] += sums[inputs - columns : inputs - 1][::-1]
    return result


def _diagonals(product: Array) -> Array:
    """The sums along all diagonals of a square matrix, the lowest first: its rows, each shifted by one more."""
    size = len(product)
    shifted = np.zeros((size, 2 * size))
    shifted[:, :size] = product[::-1]
    return np.asarray(shifted.ravel()[: size * (2 * size - 1)].reshape(size, -1).sum(0))


def smoothed(k: Kernel, maps: Sequence[Smoother]) -> Kernel:
    """The kernel of y for that of x: what all positions share passes by row sums, the rest by common inputs."""
    level = math.prod(m.level for m in maps) ** 2
    square = math.prod(m.level_square for m in maps)
    local = k.local if k.local is not None and k.local.ndim == len(maps) else None
    excess: Array = np.full((1,) * len(maps), k.same - k.far) if local is None else local - k.far
    for axis, m in enumerate(maps):
        length = min(excess.shape[axis], m.lags.shape[1])
        taken = np.moveaxis(excess, axis, 0)[:length]
        excess = np.moveaxis(np.tensordot(m.lags[:, :length], taken, (1, 0)), 0, axis)
    white = math.prod(float(m.lags[0, 0]) for m in maps)
    far, sample = k.far * level, k.sample * level
    same = k.far * square + float(excess.ravel()[0])
    cross = k.sample * square + (k.cross - k.sample) * white
    result = _trimmed(far + excess, far, same)
    return Kernel(same, far, cross, sample, result, ())


def _trimmed(local: Array, far: float, same: float) -> Array | None:
    """Without displacements at which nothing is left."""
    local = local.copy()
    local[(0,) * local.ndim] = same
    seen = np.argwhere(np.abs(local - far) > 1e-4 * abs(same - far))
    if not len(seen):
        return None
    local = local[tuple(slice(0, int(n) + 1) for n in seen.max(0))]
    return local if local.size > 1 else None


def smoothed_profile(profile: Sequence[Array | None], maps: Sequence[Smoother]) -> Profile:
    """The mean of the profile over what each output sees, weighted by A²."""
    result: list[Array | None] = []
    for own, m in zip(profile, maps, strict=True):
        squares = m.matrix**2
        seen = squares.sum(1) if own is None else squares @ own
        mean = float(seen.mean())
        result.append(None if not mean > 0 or float(np.ptp(seen)) < 1e-9 * mean else seen / mean)
    return tuple(result) if any(p is not None for p in result) else ()
