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

from initcheck.signal.kernel import Array, Kernel

HALF_WIDTH = 8.5
POINTS = 2048
ORDER = 64
PHASES = 16
_STEP = 2 * HALF_WIDTH / POINTS
_POWERS = np.arange(ORDER)
_TABLE = np.linspace(0.0, np.sqrt(2.0), 384)
_TAIL_POWERS = 1.4 * ORDER * 2.0 ** np.arange(8)
_TABLE_RHO = np.clip(1.0 - _TABLE**2, -1.0, 1.0)
_TABLE_RHO_POWERS = (
    np.power.outer(_TABLE_RHO, _POWERS),
    np.power.outer(np.maximum(_TABLE_RHO, 0.0), _TAIL_POWERS),
)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Quadrature points ``z``, their weights under N(0, 1), and the weighted orthonormal Hermite functions."""

    z: Array
    weights: Array
    basis: Array


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
    return Nodes(np.asarray(z, dtype=np.float64), np.asarray(weights, dtype=np.float64), basis)


def phase_for_kink_at(z: float) -> int:
    """The shift that puts ``z`` on the border of two cells, where kinks and jumps do no harm."""
    return round(((z + HALF_WIDTH) / _STEP % 1.0) * PHASES) % PHASES if abs(z) < HALF_WIDTH else 0


@dataclass(frozen=True, slots=True)
class Spectrum:
    """F(rho) of one function: squared Hermite coefficients, and the remainder at rho = 1 as one high power."""

    mean: float
    squares: Array
    total: float

    @classmethod
    def of(cls, values: Array, at: Nodes) -> Spectrum:
        """From the function's values on the grid."""
        coefficients = at.basis @ values
        return cls(float(coefficients[0]), coefficients**2, float(at.weights @ (values * values)))

    def __call__(self, rho: Array) -> Array:
        """E[f f'] at those correlations; the remainder continues the decay of the last two octaves of k."""
        rho = np.clip(np.nan_to_num(rho, nan=0.0), -1.0, 1.0)
        if rho.size > len(_TABLE):  # many pairs: F is smooth in sqrt(1 - rho), kinks of f included
            return np.asarray(np.interp(np.sqrt(1.0 - rho), _TABLE, self._at(*_TABLE_RHO_POWERS)))
        return self._at(np.power.outer(rho, _POWERS), np.power.outer(np.maximum(rho, 0.0), _TAIL_POWERS))

    def _at(self, powers: Array, tail_powers: Array) -> Array:
        result = powers @ self.squares
        rest = self.total - float(self.squares.sum())
        if rest > 1e-12 * abs(self.total):
            last, before = float(self.squares[ORDER // 2 :].sum()), float(self.squares[ORDER // 4 : ORDER // 2].sum())
            ratio = min(max(last / before, 0.0), 0.95) if before > 0 else 0.0
            shares = ratio ** np.arange(len(_TAIL_POWERS))
            result = result + rest * (tail_powers @ (shares / shares.sum()))
        return np.asarray(result)

    def kernel(self, correlation: Kernel) -> Kernel:
        """Second moments (not centred) for all classes of pairs."""
        return correlation.map(self)

    def table(self) -> Array:
        """E[f f'] at the correlations ``TABLE``."""
        result = _TABLE_POWERS @ self.squares
        rest = self.total - float(self.squares.sum())
        return np.asarray(result + rest * _TABLE_TAIL) if abs(rest) > 1e-12 * abs(self.total) else result


TABLE = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 129))
_TABLE_POWERS = np.power.outer(TABLE, _POWERS)
_TABLE_TAIL = np.maximum(TABLE, 0.0) ** (4.0 * ORDER)


def scaled_moments(values: Array, u: Array, mean: float, at: Nodes, scales: Array) -> ScaledMoments:
    """Moments of f(mean + s (u - mean)) for several scales s; ``u`` rises."""
    functions = np.stack([values if s == 1.0 else np.interp(mean + s * (u - mean), u, values) for s in scales])
    coefficients = functions @ at.basis.T
    totals = (functions * at.weights) @ functions.T
    tables = np.empty((len(scales), len(scales), len(TABLE)))
    for i in range(len(scales)):
        for j in range(i + 1):
            products = Spectrum(0.0, coefficients[i] * coefficients[j], float(totals[i, j]))
            tables[i, j] = tables[j, i] = products.table()
    return ScaledMoments(coefficients[:, 0], totals, tables)


@dataclass(frozen=True, slots=True)
class ScaledMoments:
    """E[f_s], E[f_s f_t] at equal arguments, and E[f_s f_t'] at the correlations ``TABLE``, by pairs of scales."""

    means: Array
    totals: Array
    tables: Array
