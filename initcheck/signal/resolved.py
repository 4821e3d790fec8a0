"""Second moments resolved by position: what zero padding does to a feature map, layer upon layer.

A convolution that pads sees fewer taps at the border, and after a rectifier what it sees has a mean: the border shows
in every channel, as a pattern that all samples share. How strong that pattern is decides what batch norm divides by.
Positions of an axis are put into classes (each of the first and last few on its own, the inside as one), so that
E[x_p x_q'] over two samples is a small array however large the map. Convolution, pooling and up-sampling act on
each axis by the share of each class's positions that see each other class through a tap (Novak et al. 2019, eq. 7).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from initcheck.signal.grid import TABLE, Nodes, scaled_moments
from initcheck.signal.kernel import Array

Indices = NDArray[np.intp]

EDGE = 3
"""So many positions from each end of an axis have a class of their own."""
SCALES = 5
"""At most so many scales stand for all that positions may have."""


@functools.lru_cache(maxsize=256)
def shares(size: int) -> Array:
    """The share of an axis's positions that each class holds."""
    if size <= 2 * EDGE + 2:
        return np.full(size, 1.0 / size)
    inside = size - 2 * EDGE
    return np.array([1.0] * EDGE + [float(inside)] + [1.0] * EDGE) / size


@functools.lru_cache(maxsize=256)
def _weight(sizes: tuple[int, ...]) -> Array:
    total = np.ones(1)
    for n in sizes:
        total = np.multiply.outer(total, shares(n)).ravel()
    return total


@functools.lru_cache(maxsize=256)
def class_of(size: int) -> Indices:
    """The class of each position of an axis."""
    position = np.arange(size)
    if size <= 2 * EDGE + 2:
        return np.asarray(position, dtype=np.intp)
    return np.asarray(np.minimum(position, EDGE) + np.maximum(position - (size - EDGE) + 1, 0), dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Axis:
    """How an op connects classes along one axis.

    ``single``: how often an output of one class sees an input of another, over all taps; ``joint``: how often two do
    through the same tap, (p q) -> (p' q'); ``mean``: the plain mean over the taps that there are; ``outputs``: size of
    the axis afterwards.
    """

    single: Array
    joint: Array
    mean: Array
    outputs: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[Indices, Indices]], inputs: int, outputs: int) -> Axis:
        """From, for each tap, the outputs that see an input through it, and which input."""
        counts = shares(outputs) * outputs
        taps = []
        for seen, source in pairs:
            tap = np.zeros((len(counts), len(shares(inputs))))
            np.add.at(tap, (class_of(outputs)[seen], class_of(inputs)[source]), 1.0)
            taps.append(tap / counts[:, None])
        single = np.asarray(sum(taps))
        seen = single.sum(1, keepdims=True)
        joint = np.asarray(sum(np.kron(tap, tap) for tap in taps))
        return cls(single, joint, single / np.where(seen > 0, seen, 1.0), outputs)


@dataclass(frozen=True, slots=True)
class Resolved:
    """``own``: E[x_p²] by class, one axis per position axis; ``pairs``: E[x_p x_q'] of two samples, (p..., q...)."""

    sizes: tuple[int, ...]
    own: Array
    pairs: Array

    @classmethod
    def flat(cls, sizes: tuple[int, ...], same: float, sample: float) -> Resolved:
        """No pattern: every position alike."""
        shape = tuple(len(shares(n)) for n in sizes)
        return cls(sizes, np.full(shape, same), np.full(shape + shape, sample))

    def _over(self, values: Array) -> float:
        for n in reversed(self.sizes[: values.ndim]):
            values = values @ shares(n)
        return float(values)

    @property
    def weight(self) -> Array:
        """The share of positions in each class, flattened."""
        return _weight(self.sizes)

    @property
    def matrix(self) -> Array:
        """``pairs`` with all of p in the rows, all of q in the columns."""
        n = self.own.size
        return self.pairs.reshape(n, n)

    @property
    def same(self) -> float:
        """E[x²]."""
        return float(self.weight @ self.own.ravel())

    @property
    def cross(self) -> float:
        """Two samples at one position."""
        return float(self.weight @ np.diagonal(self.matrix))

    @property
    def average(self) -> float:
        """Two samples at any two positions, equal ones included."""
        return float(self.weight @ self.matrix @ self.weight)

    @property
    def sample(self) -> float:
        """Two samples at two different positions."""
        count = math.prod(self.sizes)
        return (count * self.average - self.cross) / (count - 1) if count > 1 else self.average

    def combined(self, other: Resolved, op: Callable[[Array, Array], Array]) -> Resolved:
        """Elementwise with another of the same sizes."""
        return Resolved(self.sizes, np.asarray(op(self.own, other.own)), np.asarray(op(self.pairs, other.pairs)))

    def scaled(self, op: Callable[[Array, float], Array], number: float) -> Resolved:
        """Elementwise with a number."""
        return Resolved(self.sizes, np.asarray(op(self.own, number)), np.asarray(op(self.pairs, number)))

    def applied(self, values: Array, u: Array, mean: float, at: Nodes) -> tuple[float, Resolved]:
        """Mean and second moments of f(u), this being the correlations of u; ``values``: f on the (rising) ``u``.

        Positions differ in scale: f is expanded at up to ``SCALES`` of them, and interpolated between.
        """
        scale = np.sqrt(np.maximum(self.own.ravel(), 1e-12))
        scales, between = _levels(scale)
        moments = scaled_moments(values, u, mean, at, scales)
        rho = np.clip(self.matrix / np.multiply.outer(scale, scale), -1.0, 1.0)
        pairs = np.zeros_like(rho)
        for i in range(len(scales)):
            for j in range(len(scales)):
                pairs += np.multiply.outer(between[i], between[j]) * np.interp(rho, TABLE, moments.tables[i, j])
        own = np.einsum("ip,ij,jp->p", between, moments.totals, between)
        average = float(self.weight @ (moments.means @ between))
        return average, Resolved(self.sizes, own.reshape(self.own.shape), pairs.reshape(self.pairs.shape))

    def recorrelated(self, function: Callable[[Array], Array]) -> Resolved:
        """``function`` applied to the correlation of every pair; each position keeps its scale."""
        scale = np.sqrt(np.maximum(self.own.ravel(), 1e-12))
        both = np.multiply.outer(scale, scale)
        pairs = function(np.clip(self.matrix / both, -1.0, 1.0).ravel()).reshape(both.shape) * both
        return Resolved(self.sizes, self.own, pairs.reshape(self.pairs.shape))

    def through(self, axes: Sequence[Axis]) -> Resolved:
        """Summed over taps with weights of their own, E[w²] = 1 in all."""
        own, pairs = self.own, self.pairs
        dims = len(axes)
        for i, axis in enumerate(axes):
            own = np.moveaxis(np.tensordot(axis.single, own, (1, i)), 0, i)
            pairs = _on_pairs(pairs, axis.joint, i, dims, len(axis.single))
        return Resolved(tuple(a.outputs for a in axes), own, pairs)

    def averaged(self, axes: Sequence[Axis], own: float) -> Resolved:
        """Each position the mean over its window; ``own``: E[y²] over all positions."""
        pairs, dims = self.pairs, len(axes)
        level = self.own
        for i, axis in enumerate(axes):
            level = np.moveaxis(np.tensordot(axis.mean, level, (1, i)), 0, i)
            pairs = _on_pairs(pairs, np.asarray(np.kron(axis.mean, axis.mean)), i, dims, len(axis.mean))
        result = Resolved(tuple(a.outputs for a in axes), level, pairs)
        shared = np.diagonal(result.matrix).reshape(level.shape)
        rest = np.maximum(level - shared, 0.0)
        size = float(result.weight @ rest.ravel())
        left = own - result.cross
        return Resolved(result.sizes, shared + (rest * (left / size) if size > 0 else left), pairs)

    def centred(self, average: float) -> Resolved:
        """(x_p - m)(x_q' - m) with m the mean over positions and samples: K(p,q) - r(p) - r(q) + avg."""
        matrix, weight = self.matrix, self.weight
        rows = matrix @ weight + (average - self.average)
        pairs = matrix - rows[:, None] - rows[None, :] + average
        own = self.own.ravel() - 2 * rows + average
        return Resolved(self.sizes, own.reshape(self.own.shape), pairs.reshape(self.pairs.shape))

    def mean_square(self) -> float:
        """Mean over all pairs of positions of E[x_p x_q']²."""
        return float(self.weight @ self.matrix**2 @ self.weight)

    def normalised(self, eps: float) -> Resolved:
        """x / sqrt(s² + eps), s² the variance of each unit's own map, which fluctuates from unit to unit.

        E[x_p x_q / s²] = K/sigma² (1 + Var[s²]/sigma⁴) - Cov[x_p x_q, s²]/sigma⁴ to first order, with Isserlis'
        Cov[x_p x_q, s²] = 2 mean_r K_pr K_qr and Var[s²] = 2 mean K²: units with a strong pattern are divided by more.
        """
        variance = self.same
        if variance <= 0:
            return self
        share = variance / (variance + eps)  # how far 1/(s² + eps) follows s²
        weight = self.weight
        matrix = self.matrix / variance
        product = 2.0 * share * (matrix * weight) @ matrix
        spread = min(2.0 * float(weight @ matrix**2 @ weight), 0.5)
        pairs = matrix * (1.0 + share**2 * spread) - product
        own = self.own.ravel() / variance * (1.0 + share**2 * spread) - np.diagonal(product)
        shape = self.own.shape
        return Resolved(self.sizes, (own * share).reshape(shape), (pairs * share).reshape(self.pairs.shape))


def _levels(scale: Array) -> tuple[Array, Array]:
    """Scales to expand at (Chebyshev's points of the range), and each position's Lagrange weights of them."""
    low, high = float(scale.min()), float(scale.max())
    count = 1 if high - low < 0.01 * high else 3 if high < 1.8 * low else SCALES
    if count == 1:
        middle = (low + high) / 2
        return np.array([1.0 if abs(middle - 1.0) < 0.01 else middle]), np.ones((1, len(scale)))
    nodes = np.cos((2 * np.arange(count) + 1) * math.pi / (2 * count))
    levels = (low + high) / 2 + (high - low) / 2 * nodes / nodes[0]
    weights = np.ones((count, len(scale)))
    for i in range(count):
        for j in range(count):
            if j != i:
                weights[i] *= (scale - levels[j]) / (levels[i] - levels[j])
    return levels, weights


def _on_pairs(pairs: Array, operator: Array, axis: int, dims: int, rows: int) -> Array:
    """Apply ``operator`` to the axes (p_axis, q_axis) of ``pairs``."""
    moved = np.moveaxis(pairs, (axis, dims + axis), (0, 1))
    rest = moved.shape[2:]
    result = (operator @ moved.reshape(moved.shape[0] * moved.shape[1], -1)).reshape(rows, rows, *rest)
    return np.moveaxis(result, (0, 1), (axis, dims + axis))
