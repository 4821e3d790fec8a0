"""Second moments resolved by position: what zero padding does to a feature map, layer upon layer.

A convolution that pads sees fewer taps at the border, and after a rectifier what it sees has a mean: the border shows
in every channel, as a pattern that all samples share. How strong that pattern is decides what batch norm divides by.
Positions of an axis are put into classes (each of the first and last few on its own, the inside as one), so that
E[x_p x_q'] over two samples is a small array however large the map. Convolution, pooling and up-sampling act on
each axis by the share of each class's positions that see each other class through a tap (Novak et al. 2019, eq. 7).
Positions of one sample that are correlated beyond their neighbourhood (the input was an even colour) obey the same
recursion from another start; they have an array of their own, ``within``, where that is so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from initcheck.signal.grid import TABLE, Nodes, nodes, scaled_moments
from initcheck.signal.kernel import Array, Kernel, Profile

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


def _held(sizes: tuple[int, ...]) -> Array:
    """The number of positions in each class, flattened."""
    return np.rint(_weight(sizes) * math.prod(sizes))


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

    @property
    def squares(self) -> Array:
        """``mean`` with the squares of its weights."""
        return np.divide(self.mean**2, self.single, out=np.zeros_like(self.mean), where=self.single > 0)


@dataclass(eq=False, slots=True)
class Resolved:
    """``own``: E[x_p²] by class, one axis per position axis; ``pairs``: E[x_p x_q'] of two samples, (p..., q...).

    ``within``: E[x_p x_q] of one sample, p = q included; None where positions share no more than samples do.
    """

    sizes: tuple[int, ...]
    own: Array
    pairs: Array
    within: Array | None = None

    @classmethod
    def even(cls, k: Kernel, sizes: tuple[int, ...]) -> Resolved | None:
        """``k`` with no position unlike the others.

        None where it is not so, or not known: ``k`` has a profile, or two samples share single positions of a map so
        large that a class holds many.
        """
        held, shape = _held(sizes), tuple(len(shares(n)) for n in sizes)
        if k.profile or (abs(k.cross - k.sample) > 1e-9 * abs(k.same) and held.max() > 1):
            return None

        def every(equal: float, other: float) -> Array:
            pairs = np.full((len(held), len(held)), other)
            np.fill_diagonal(pairs, other + (equal - other) / held)
            return pairs.reshape(shape + shape)

        apart = k.local is None and k.pairs is None and abs(k.far - k.sample) > 1e-3 * abs(k.same)
        within = every(k.same, k.far) if apart or k.cross != k.sample else None
        return cls(sizes, np.full(shape, k.same), every(k.cross, k.sample), within)

    def _pairwise(self, sizes: tuple[int, ...], own: Array, change: Callable[[Array], Array]) -> Resolved:
        """With both arrays of pairs changed alike."""
        within = None if self.within is None else np.asarray(change(self.within))
        return Resolved(sizes, own, np.asarray(change(self.pairs)), within)

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

    @property
    def far(self) -> float | None:
        """Two different positions of one sample; None where ``within`` is not kept."""
        if self.within is None:
            return None
        count, n = math.prod(self.sizes), self.own.size
        average = float(self.weight @ self.within.reshape(n, n) @ self.weight)
        return (count * average - self.same) / (count - 1) if count > 1 else average

    def combined(self, other: Resolved, op: Callable[[Array, Array], Array]) -> Resolved:
        """Elementwise with another of the same sizes."""
        within = None
        if self.within is not None and other.within is not None:
            within = np.asarray(op(self.within, other.within))
        return Resolved(
            self.sizes, np.asarray(op(self.own, other.own)), np.asarray(op(self.pairs, other.pairs)), within
        )

    def scaled(self, op: Callable[[Array, float], Array], number: float) -> Resolved:
        """Elementwise with a number."""
        return self._pairwise(self.sizes, np.asarray(op(self.own, number)), lambda pairs: op(pairs, number))

    def applied(self, values: Array, u: Array, mean: float, at: Nodes) -> tuple[float, Resolved]:
        """Mean and second moments of f(u), this being the correlations of u; ``values``: f on the (rising) ``u``.

        Positions differ in scale: f is expanded at up to ``SCALES`` of them, and interpolated between.
        """
        scale = np.sqrt(np.maximum(self.own.ravel(), 1e-12))
        scales, between = _levels(scale)
        moments = scaled_moments(values, u, mean, at, scales)
        each, count, length = len(scale), len(scales), len(TABLE)
        # for every p its table against the scales of q: (p, place in the table, scale of q)
        tables = (between.T @ moments.tables.reshape(count, -1)).reshape(each, count, length).transpose(0, 2, 1)
        rows = np.ascontiguousarray(tables).reshape(each * length, count)

        def expanded(pairs: Array) -> Array:
            rho = np.clip(pairs.reshape(each, each) / np.multiply.outer(scale, scale), -1.0, 1.0)
            place = np.interp(rho, TABLE, np.arange(length))  # where in the table
            below = np.clip(np.nan_to_num(place), 0, length - 2).astype(np.intp)
            beyond = (place - below)[..., None]
            below += length * np.arange(each)[:, None]
            met = rows.take(below, axis=0)
            met += beyond * (rows.take(below + 1, axis=0) - met)
            return np.asarray(np.einsum("pqj,jq->pq", met, between).reshape(pairs.shape))

        own = np.einsum("ip,ij,jp->p", between, moments.totals, between)
        average = float(self.weight @ (moments.means @ between))
        return average, self._pairwise(self.sizes, own.reshape(self.own.shape), expanded)

    def squares(self, values: Array, u: Array | None, mean: float, at: Nodes) -> Array:
        """E[f(u)²] by class, as ``applied`` expands it; ``u`` None: it is normal."""
        scales, between = _levels(np.sqrt(np.maximum(self.own.ravel(), 1e-12)))
        if len(scales) == 1:
            return np.full(self.own.shape, float(at.weights @ values**2))
        if u is None:
            return np.asarray((_normal_weights(at.phase, scales.tobytes()) @ values**2) @ between).reshape(
                self.own.shape
            )
        functions = np.stack([np.interp(mean + s * (u - mean), u, values) for s in scales])
        return np.asarray((at.weights @ functions.T**2) @ between).reshape(self.own.shape)

    def profile(self, pattern: Array) -> Profile:
        """A pattern over classes as what each axis makes of it (mean 1), the others averaged; () where it is flat."""
        total = self._over(pattern)
        if not (total > 0 and float(np.ptp(pattern)) > 1e-9 * total):
            return ()
        result = []
        for axis, size in enumerate(self.sizes):
            marginal = pattern
            for other in reversed(range(len(self.sizes))):  # what is left of the others stands next to the axis
                if other > axis:
                    marginal = marginal @ shares(self.sizes[other])
                elif other < axis:
                    marginal = shares(self.sizes[other]) @ marginal
            result.append(np.asarray(marginal / total)[class_of(size)])
        return tuple(result)

    def recorrelated(self, function: Callable[[Array], Array]) -> Resolved:
        """``function`` applied to the correlation of every pair; each position keeps its scale."""
        scale = np.sqrt(np.maximum(self.own.ravel(), 1e-12))
        both = np.multiply.outer(scale, scale).reshape(self.pairs.shape)

        def changed(pairs: Array) -> Array:
            return function(np.clip(pairs / both, -1.0, 1.0).ravel()).reshape(both.shape) * both

        return self._pairwise(self.sizes, self.own, changed)

    def levelled(self) -> Resolved:
        """Every position brought to the same second moment, correlations kept."""
        level = self.same
        scale = np.sqrt(np.maximum(self.own.ravel(), 1e-12 * abs(level)))
        both = (np.multiply.outer(scale, scale) / level).reshape(self.pairs.shape) if level > 0 else 1.0
        return self._pairwise(self.sizes, np.full_like(self.own, level), lambda pairs: pairs / both)

    def through(self, axes: Sequence[Axis]) -> Resolved:
        """Summed over taps with weights of their own, E[w²] = 1 in all."""
        own = self.own
        for i, axis in enumerate(axes):
            own = np.moveaxis(np.tensordot(axis.single, own, (1, i)), 0, i)

        def summed(pairs: Array) -> Array:
            for i, axis in enumerate(axes):
                pairs = _on_pairs(pairs, axis.joint, i, len(axes), len(axis.single))
            return pairs

        return self._pairwise(tuple(a.outputs for a in axes), own, summed)

    def averaged(self, axes: Sequence[Axis], excess: float) -> Resolved:
        """Each position the mean over its window.

        E[y²] = sum_{p,q} A_p A_q E[x_p x_q]; ``excess``: what neighbours have in common beyond other positions adds to
        it, on average.
        """

        def mean(pairs: Array) -> Array:
            for i, axis in enumerate(axes):
                pairs = _on_pairs(pairs, np.asarray(np.kron(axis.mean, axis.mean)), i, len(axes), len(axis.mean))
            return pairs

        apart = self._apart()
        n = self.own.size
        own = self.own - np.diagonal(apart.reshape(n, n)).reshape(self.own.shape)
        for i, axis in enumerate(axes):
            own = np.moveaxis(np.tensordot(axis.squares, own, (1, i)), 0, i)
        n = own.size
        own = own + np.diagonal(mean(apart).reshape(n, n)).reshape(own.shape)
        result = self._pairwise(tuple(a.outputs for a in axes), own, mean)
        if excess == 0.0:
            return result
        rest = np.maximum(own - np.diagonal(result.matrix).reshape(own.shape), 0.0)
        size = float(result.weight @ rest.ravel())
        return replace(result, own=own + (rest * (excess / size) if size > 0 else excess))

    def _apart(self) -> Array:
        """E[x_p x_q] of one sample for p != q (of a class of one position: anything)."""
        if self.within is None:
            return self.pairs
        n = self.own.size
        held = _held(self.sizes)
        apart = self.within.reshape(n, n).copy()
        own = np.diagonal(apart)
        np.fill_diagonal(apart, np.where(held > 1, (held * own - self.own.ravel()) / np.maximum(held - 1, 1), own))
        return apart.reshape(self.within.shape)

    def centred(self, average: float) -> Resolved:
        """(x_p - m)(x_q' - m) with m the mean over positions and samples: K(p,q) - r(p) - r(q) + avg."""
        rows = self.matrix @ self.weight + (average - self.average)
        both = (average - np.add.outer(rows, rows)).reshape(self.pairs.shape)
        own = self.own.ravel() - 2 * rows + average
        return self._pairwise(self.sizes, own.reshape(self.own.shape), lambda pairs: pairs + both)

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
        factor = (1.0 + share**2 * spread) / variance
        own = self.own.ravel() * factor - np.diagonal(product)
        product = product.reshape(self.pairs.shape)
        return self._pairwise(
            self.sizes, (own * share).reshape(self.own.shape), lambda pairs: (pairs * factor - product) * share
        )


def _levels(scale: Array) -> tuple[Array, Array]:
    """Scales to expand at (Chebyshev's points of the range), and each position's Lagrange weights of them."""
    return _levels_of(scale.tobytes())


@functools.lru_cache(maxsize=64)
def _levels_of(scales: bytes) -> tuple[Array, Array]:
    scale = np.frombuffer(scales)
    low, high = float(scale.min()), float(scale.max())
    count = 1 if high - low < 0.01 * high else 3 if high < 1.8 * low else SCALES
    if count == 1:
        middle = (low + high) / 2
        return np.array([1.0 if abs(middle - 1.0) < 0.01 else middle]), np.ones((1, len(scale)))
    points = np.cos((2 * np.arange(count) + 1) * math.pi / (2 * count))
    levels = (low + high) / 2 + (high - low) / 2 * points / points[0]
    own = np.eye(count, dtype=bool)
    apart = np.where(own, 1.0, levels[:, None] - levels)
    factors = np.where(own[..., None], 1.0, (scale - levels[:, None]) / apart[..., None])
    return levels, np.asarray(factors.prod(1))


@functools.lru_cache(maxsize=64)
def _normal_weights(phase: int, scales: bytes) -> Array:
    """Weights of the grid's points under N(0, s²) for each scale s."""
    weights = np.exp(np.multiply.outer(-0.5 / np.frombuffer(scales) ** 2, nodes(phase).z ** 2))
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _on_pairs(pairs: Array, operator: Array, axis: int, dims: int, rows: int) -> Array:
    """Apply ``operator`` to the axes (p_axis, q_axis) of ``pairs``."""
    moved = np.moveaxis(pairs, (axis, dims + axis), (0, 1))
    rest = moved.shape[2:]
    result = (operator @ moved.reshape(moved.shape[0] * moved.shape[1], -1)).reshape(rows, rows, *rest)
    return np.moveaxis(result, (0, 1), (axis, dims + axis))
