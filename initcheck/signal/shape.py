"""The distribution of a sum of unlike variables: a residual stream fed by rectified branches is skewed, not normal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from initcheck.signal.grid import Nodes, Spectrum, nodes
from initcheck.signal.kernel import Array, Kernel

_POINTS = 96
_LEVELS = (np.arange(_POINTS) + 0.5) / _POINTS
_RHO = np.linspace(-1.0, 1.0, 81)


def normal_cdf(x: Array) -> Array:
    """Phi(x)."""
    return np.asarray(torch.special.ndtr(torch.from_numpy(np.ascontiguousarray(x))).numpy())


def quantiles(values: Array, weights: Array) -> Array:
    """Values at equally likely levels, of a function known on weighted points."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return np.asarray(np.interp(_LEVELS, cumulated - 0.5 * weights[order], values[order]))


def sum_shape(skewed: Sequence[Array], normal_variance: float) -> Array:
    """Standardised quantile function, on the nodes of ``grid``, of a sum of independent parts.

    ``skewed``: quantiles of the parts that are not normal; ``normal_variance``: of all that are.
    """
    total = skewed[0]
    for part in skewed[1:]:
        sums = np.sort(np.add.outer(total, part).ravel())
        total = np.interp(_LEVELS * (len(sums) - 1), np.arange(len(sums)), sums)
    at = nodes(0)
    level = normal_cdf(at.z)
    width = math.sqrt(max(normal_variance, 0.0))
    spread = float(np.ptp(total))
    if width < 1e-3 * spread:
        x, cdf = total, _LEVELS
    else:
        x = np.linspace(total.min() - 7 * width, total.max() + 7 * width, 400)
        cdf = normal_cdf((x[:, None] - total[None, :]) / width).mean(1)
    result = np.interp(level, cdf, x)
    result = result - at.weights @ result
    size = math.sqrt(float(at.weights @ (result * result)))
    return np.asarray(result / size) if size > 0 else at.z.copy()


def copula(shape: Array, correlation: Kernel) -> Kernel:
    """The correlations of z for which the quantile function has the given correlations."""
    reached = Spectrum.of(shape, nodes(0))(_RHO)
    reached = np.maximum.accumulate(reached)

    def normal(c: Array) -> Array:
        return np.asarray(np.interp(c, reached, _RHO))

    result = correlation.map(normal)
    by_position = correlation.resolved
    return result if by_position is None else replace(result, resolved=by_position.recorrelated(normal))


def given_part(square: Array, u: Array, part: Array, rest: Array) -> Array:
    """E[w(u)² | part] for u = part + rest, with w² known on the (rising) values ``u``.

    ``part``: the operand's values on its grid; ``rest``: quantiles of everything else in the sum.
    """
    coarse = np.linspace(part.min(), part.max(), 200)
    expected = np.interp(coarse[:, None] + rest[None, :], u, square).mean(1)
    return np.asarray(np.interp(part, coarse, expected))


def matched(total: Kernel, slope: Array, source_nodes: Nodes, correlation: Kernel) -> Kernel:
    """The kernel that, times the kernel of ``slope``, gives ``total``."""
    own = Spectrum.of(slope, source_nodes).kernel(correlation.without_local())
    if total.pairs is not None:
        size = len(total.pairs)
        whole, part = total.between_positions(size), own.between_positions(size)
        every = np.divide(whole, part, out=np.zeros_like(whole), where=np.abs(part) > 1e-9 * own.same)
        other = replace(total, pairs=None, profile=())
        other = matched(other, slope, source_nodes, correlation)
        return Kernel.by_pairs(every, other.cross, other.sample)

    def ratio(a: float, b: float) -> float:
        return a / b if abs(b) > 1e-9 * own.same else 0.0

    return Kernel(
        ratio(total.same, own.same),
        ratio(total.far, own.far),
        ratio(total.cross, own.cross),
        ratio(total.sample, own.sample),
        None,
        total.profile,
    )
