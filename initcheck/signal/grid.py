"""One-dimensional Gaussian expectations of arbitrary elementwise functions, for every pair correlation at once.

A Gaussian element u = M + sqrt(V) z is put on a fine grid of z; the function is evaluated there *by torch itself*. With
the Hermite coefficients c_k = E[f(z) He_k(z)] / sqrt(k!) the second moment of any pair with correlation rho is

    F(rho) = E[f(z) f(z')] = sum_k c_k^2 rho^k                                   (Mehler's formula)

so that one evaluation gives the kernels of all classes of pairs. F(1) = E[f^2] is computed directly; what the
truncated series misses at rho = 1 is carried in a few high powers, so that F is exact at 1 and smooth below.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from initcheck.signal.kernel import Array, Kernel

HALF_WIDTH = 8.5
POINTS = 2048
ORDER = 64
PHASES = 16
_STEP = 2 * HALF_WIDTH / POINTS
_POWERS = np.arange(ORDER)
_TABLE = np.linspace(0.0, np.sqrt(2.0), 384)
_OCTAVES = np.arange(8)
_TABLE_RHO = np.clip(1.0 - _TABLE**2, -1.0, 1.0)
_KEPT = 512
"""So many expansions are remembered."""


def _powers(rho: Array) -> Array:
    """rho^k by repeated multiplication, which costs a tenth of a power for each."""
    powers = np.empty((len(rho), ORDER))
    powers[:, 0] = 1.0
    powers[:, 1:] = rho[:, None]
    return np.multiply.accumulate(powers, axis=1, out=powers)


def _tail_powers(rho: Array) -> Array:
    """The powers that carry the remainder, each the square of the one before."""
    return np.asarray(np.power.outer(np.maximum(rho, 0.0), 1.4 * ORDER * 2.0**_OCTAVES))


@dataclass(frozen=True, slots=True)
class Correlations:
    """Correlations at which many functions are expanded: their powers."""

    powers: Array
    tail: Array

    @classmethod
    def of(cls, rho: Array) -> Correlations:
        """Of correlations between -1 and 1."""
        return cls(_powers(rho), _tail_powers(rho))


_AT_TABLE = Correlations.of(_TABLE_RHO)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Quadrature points ``z``, their weights under N(0, 1), and the weighted orthonormal Hermite functions.

    ``halves``: of points that lie evenly about zero, the even and the odd functions of ``basis`` below zero.
    """

    phase: int
    z: Array
    weights: Array
    basis: Array
    halves: tuple[Array, Array] | None = None

    def coefficients(self, values: Array) -> Array:
        """E[f(z) He_k(z)] / sqrt(k!), by parity where that halves the work."""
        if self.halves is None:
            return np.asarray(self.basis @ values)
        below, above = values[: POINTS // 2], values[: POINTS // 2 - 1 : -1]
        result = np.empty(ORDER)
        result[0::2], result[1::2] = self.halves[0] @ (below + above), self.halves[1] @ (below - above)
        return result


@functools.lru_cache(maxsize=PHASES)
def nodes(phase: int) -> Nodes:
    """The midpoint rule, shifted by ``phase`` sixteenths of a step; spectrally accurate for any shift."""
    z = -HALF_WIDTH + (np.arange(POINTS) + 0.5 + phase / PHASES) * _STEP
    weights = np.exp(-0.5 * z * z)
    weights /= weights.sum()
    basis = np.empty((ORDER, POINTS))
    basis[0] = 1.0
    basis[1] = z
    for k in range(1, ORDER - 1):
        basis[k + 1] = (z * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
    basis *= weights
    half = basis[:, : POINTS // 2]
    halves = (half[0::2].copy(), half[1::2].copy()) if phase == 0 else None
    return Nodes(phase, np.asarray(z, dtype=np.float64), np.asarray(weights, dtype=np.float64), basis, halves)


def on_grid(points: Array, z: Array, values: Array) -> Array:
    """``np.interp`` for the evenly spaced ``z`` of ``nodes``, whose cells need no search."""
    place: Array = points - z[0]
    place *= 1.0 / _STEP
    np.maximum(place, 0.0, out=place)
    np.minimum(place, len(z) - 1.0, out=place)
    cell = place.astype(np.intp)
    np.minimum(cell, len(z) - 2, out=cell)
    place -= cell
    place *= np.diff(values).take(cell)
    place += values.take(cell)
    return place


def phase_for_kink_at(z: float) -> int:
    """The shift that puts ``z`` on the border of two cells, where kinks and jumps do no harm."""
    return round(((z + HALF_WIDTH) / _STEP % 1.0) * PHASES) % PHASES if abs(z) < HALF_WIDTH else 0


@dataclass(frozen=True, slots=True)
class Spectrum:
    """F(rho) of one function: squared Hermite coefficients, and the remainder at rho = 1 as one high power."""

    mean: float
    squares: Array
    total: float
    remainder: Array | None = None
    """What the series misses at rho = 1, by the powers that carry it."""

    @classmethod
    def of(cls, values: Array, at: Nodes) -> Spectrum:
        """From the function's values on the grid."""
        return _spectrum(np.asarray(values, dtype=np.float64).tobytes(), at.phase)

    @classmethod
    def by_squares(cls, mean: float, squares: Array, total: float) -> Spectrum:
        """From the squared coefficients; the remainder continues the decay of the last two octaves of k."""
        rest = total - float(squares.sum())
        if not rest > 1e-12 * abs(total):
            return cls(mean, squares, total)
        last, before = float(squares[ORDER // 2 :].sum()), float(squares[ORDER // 4 : ORDER // 2].sum())
        ratio = min(max(last / before, 0.0), 0.95) if before > 0 else 0.0
        shares = ratio**_OCTAVES
        return cls(mean, squares, total, rest * (shares / shares.sum()))

    def __call__(self, rho: Array) -> Array:
        """E[f f'] at those correlations; 0 where one is no number."""
        rho = np.minimum(np.maximum(rho, -1.0), 1.0)
        undefined = np.isnan(rho)
        if undefined.any():
            rho[undefined] = 0.0
        if rho.size <= len(_TABLE):
            result = _powers(rho) @ self.squares
            return result if self.remainder is None else np.asarray(result + _tail_powers(rho) @ self.remainder)
        # many pairs: F is smooth in sqrt(1 - rho), kinks of f included
        return np.asarray(np.interp(np.sqrt(1.0 - rho), _TABLE, self.at(_AT_TABLE)))

    def at(self, rho: Correlations) -> Array:
        """E[f f'] at correlations whose powers are known."""
        result = rho.powers @ self.squares
        return result if self.remainder is None else np.asarray(result + rho.tail @ self.remainder)

    def kernel(self, correlation: Kernel) -> Kernel:
        """Second moments (not centred) for all classes of pairs."""
        return correlation.map(self)


@functools.lru_cache(maxsize=_KEPT)
def _spectrum(values: bytes, phase: int) -> Spectrum:
    """Blocks repeat, and a slope is asked for more than once: half of all expansions are of a function seen before."""
    at, function = nodes(phase), np.frombuffer(values)
    coefficients = at.coefficients(function)
    return Spectrum.by_squares(float(coefficients[0]), coefficients**2, float(at.weights @ (function * function)))


TABLE = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 129))
_TABLE_POWERS = np.power.outer(TABLE, _POWERS)
_TABLE_TAIL = np.maximum(TABLE, 0.0) ** (4.0 * ORDER)


def scaled_moments(values: Array, u: Array, mean: float, at: Nodes, scales: Array) -> ScaledMoments:
    """Moments of f(mean + s (u - mean)) for several scales s; ``u`` rises."""
    functions = np.stack([values if s == 1.0 else np.interp(mean + s * (u - mean), u, values) for s in scales])
    coefficients = functions @ at.basis.T
    totals = (functions * at.weights) @ functions.T
    first, second = _upper(len(scales))
    products = coefficients[first] * coefficients[second]
    rest = totals[first, second] - products.sum(1)
    rest[np.abs(rest) <= 1e-12 * np.abs(totals[first, second])] = 0.0
    tables = np.empty((len(scales), len(scales), len(TABLE)))
    tables[first, second] = tables[second, first] = products @ _TABLE_POWERS.T + np.multiply.outer(rest, _TABLE_TAIL)
    return ScaledMoments(coefficients[:, 0], totals, tables)


@functools.cache
def _upper(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(size)


@dataclass(frozen=True, slots=True)
class ScaledMoments:
    """E[f_s], E[f_s f_t] at equal arguments, and E[f_s f_t'] at the correlations ``TABLE``, by pairs of scales."""

    means: Array
    totals: Array
    tables: Array
