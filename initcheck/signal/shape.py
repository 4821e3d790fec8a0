"""The distribution of a sum of unlike variables: a residual stream fed by rectified branches is skewed, not normal."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from initcheck.signal.grid import Correlations, Spectrum, nodes
from initcheck.signal.kernel import Array, Kernel, Profile, by_displacement

if TYPE_CHECKING:
    from initcheck.signal.value import Source

_POINTS = 96
_LEVELS = (np.arange(_POINTS) + 0.5) / _POINTS
SHARES = np.full(_POINTS, 1.0 / _POINTS)
"""What each quantile stands for."""
_PAIRED = (np.arange(_POINTS**2) + 0.5) / _POINTS**2
"""Levels of all pairs of two variables' quantiles, in order."""
_RHO = np.linspace(-1.0, 1.0, 81)
_CELLS = 1024
"""Cells of the even grid that a sum of two variables lies on."""
_AT_RHO = Correlations.of(_RHO)


def normal_cdf(x: Array) -> Array:
    """Phi(x), to an absolute 1e-16: by erf, which costs a fraction of what exact tails do."""
    return np.asarray(0.5 + 0.5 * torch.erf(torch.from_numpy(np.ascontiguousarray(x) * math.sqrt(0.5))).numpy())


@functools.cache
def normal_levels() -> Array:
    """Phi(z) on the nodes of ``grid``."""
    return np.asarray(torch.special.ndtr(torch.from_numpy(nodes(0).z)).numpy())


def quantiles(values: Array, weights: Array) -> Array:
    """Values at fixed levels (of probability ``SHARES``), of a function known on weighted points."""
    if not (values[1:] >= values[:-1]).all():
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
    return np.asarray(np.interp(_LEVELS, np.cumsum(weights) - 0.5 * weights, values))


def _of_pairs(values: Array) -> Array:
    """Quantiles of what is known for every pair of two variables' quantiles; rows in order, which are merged."""
    return np.asarray(np.interp(_LEVELS, _PAIRED, np.sort(values, axis=None, kind="stable")))


def sum_quantiles(parts: Sequence[Array]) -> Array:
    """Quantiles of a sum of independent parts."""
    total = parts[0]
    for part in parts[1:]:
        total = _of_pairs(np.add.outer(total, part))
    return total


def product_quantiles(first: Array, second: Array) -> Array:
    """Quantiles of a product of two independent factors."""
    return _of_pairs(np.multiply.outer(first, second))


def weight_shares(count: int) -> Array:
    """Quantiles of w_1 / |w| for that many normal weights: -1 and 1 for one, else density (1 - r²)^((n - 3)/2)."""
    if count == 1:
        return np.where(_LEVELS < 0.5, -1.0, 1.0)
    angle = (np.arange(400) + 0.5) / 400 * math.pi
    density = np.sin(angle) ** (count - 2.0)
    return quantiles(np.cos(angle), density / density.sum())


def sum_shape(skewed: Sequence[Array], normal_variance: float) -> Array:
    """Standardised quantile function, on the nodes of ``grid``, of a sum of independent parts.

    ``skewed``: quantiles of the parts that are not normal; ``normal_variance``: of all that are.
    """
    total = sum_quantiles(skewed)
    at = nodes(0)
    level = normal_levels()
    width = math.sqrt(max(normal_variance, 0.0))
    spread = float(np.ptp(total))
    if width < 1e-3 * spread:
        x, cdf = total, _LEVELS
    else:
        x, cdf = _beside_normal(total, width)
    result = np.interp(level, cdf, x)
    result = result - at.weights @ result
    size = math.sqrt(float(at.weights @ (result * result)))
    return np.asarray(result / size) if size > 0 else at.z.copy()


def _beside_normal(total: Array, width: float) -> tuple[Array, Array]:
    """Points, and what lies below them, of ``total`` (quantiles) plus a normal variable of std ``width``.

    Where the cells of an even grid are narrow beside that std, what lies in each is spread over its neighbours as the
    normal variable says.
    """
    low, high = float(total.min()) - 7 * width, float(total.max()) + 7 * width
    step = (high - low) / _CELLS
    if not 0.0 < step <= 0.1 * width:
        x = np.linspace(low, high, 400)
        return x, normal_cdf((x[:, None] - total[None, :]) / width) @ SHARES
    reach = math.ceil(7 * width / step)
    below = normal_cdf(np.asarray((np.arange(-reach, reach + 2) - 0.5) * (step / width)))
    held = in_cells(total, low, step, _CELLS)
    size = len(held)
    kernel = np.zeros(size)
    kernel[np.arange(-reach, reach + 1) % size] += np.diff(below)
    spread = np.fft.irfft(np.fft.rfft(held) * np.fft.rfft(kernel), size)
    return np.asarray(low + step * (np.arange(size) + 0.5)), np.asarray(np.maximum.accumulate(np.cumsum(spread)))


def in_cells(quantiles: Array, low: float, step: float, count: int) -> Array:
    """The share of a variable at each point low + k step of an even grid: each quantile lies between two of them."""
    place = (quantiles - low) / step
    cell = place.astype(np.intp)
    above = (place - cell) * SHARES
    return np.asarray(np.bincount(cell, SHARES - above, count + 3) + np.bincount(cell + 1, above, count + 3))


_EVEN = 0.15
"""By how much of itself the std of values that count as evenly spread may differ from range/sqrt(12)."""


def even_shape(mean: float, std: float, low: float, high: float) -> Array | None:
    """Standardised quantile function of known values that lie evenly between their bounds; None for any other spread.

    A state-space model's ln A = ln 1 ... ln N and its bias of the step size (log-uniform in [0.001, 0.1], Gu & Dao
    2023, section 3.6) lie so: the tails of a normal of that std would be what exp sees most of.
    """
    if not std > 0 or abs(std * math.sqrt(12.0) / (high - low) - 1.0) > _EVEN:
        return None
    at = nodes(0)
    spread = np.clip(mean + std * math.sqrt(12.0) * (normal_levels() - 0.5), low, high)
    spread = spread - at.weights @ spread
    return np.asarray(spread / math.sqrt(float(at.weights @ (spread * spread))))


def even_kurtosis(mean: float, std: float) -> float:
    """E[w⁴] / E[w²]² of an even spread, whose fourth central moment is 9/5 of the squared variance."""
    second = mean**2 + std**2
    return (mean**4 + 6 * mean**2 * std**2 + 1.8 * std**4) / second**2 if second > 0 else 3.0


def copula(shape: Array, correlation: Kernel) -> Kernel:
    """The correlations of z for which the quantile function has the given correlations."""
    reached = np.maximum.accumulate(Spectrum.of(shape, nodes(0)).at(_AT_RHO))

    def normal(c: Array) -> Array:
        return np.asarray(np.interp(c, reached, _RHO))

    result = correlation.map(normal)
    by_position = correlation.resolved
    return result if by_position is None else replace(result, resolved=by_position.recorrelated(normal))


def cell_means(values: Array, u: Array, borders: Array) -> Array:
    """Means between neighbouring ``borders`` of what is known on the (rising) ``u``: a jump stays where it is."""
    integral = np.zeros_like(u)
    np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(u), out=integral[1:])
    reached = np.interp(borders, u, integral)
    reached += np.maximum(borders - u[-1], 0.0) * values[-1] + np.minimum(borders - u[0], 0.0) * values[0]
    return np.asarray(np.diff(reached) / np.diff(borders))


def given_part(square: Array, u: Array, part: Array, rest: Array) -> Array:
    """E[w(u)² | part] for u = part + rest, with w² known on the (rising) values ``u``.

    ``part``: the operand's values on its grid; ``rest``: quantiles of everything else in the sum.
    """
    low, least = float(part.min()), float(rest.min())
    wide, spread = float(part.max()) - low, float(rest.max()) - least
    step = (wide + spread) / _CELLS
    if not (step > 1e-12 * (abs(low) + abs(least)) and math.isfinite(step)):
        return np.full_like(part, np.interp(low + rest, u, square) @ SHARES)
    # at every point of an even grid the correlation of w² with what of ``rest`` lies in each of its cells
    even = cell_means(square, u, np.asarray(low + least + step * (np.arange(_CELLS + 4) - 0.5)))
    held = in_cells(rest, least, step, _CELLS)
    size = 2 * _CELLS
    expected = np.fft.irfft(np.fft.rfft(even, size) * np.fft.rfft(held, size).conj(), size)
    seen = int(wide / step) + 2
    return np.asarray(np.interp(part, low + step * np.arange(seen), expected[:seen]))


def given_factor(square: Array, u: Array, factor: Array, rest: Array, weighted: bool) -> Array:
    """E[w(u)² | factor] for u = factor r, with w² known on the (rising) values ``u``.

    ``factor``: the operand's values on its grid; ``rest``: quantiles r of the product of all others; ``weighted``:
    E[r² w(u)² | factor] / E[r²] instead, as the gradient of that operand has it.
    """
    coarse = np.linspace(factor.min(), factor.max(), 200)
    weights = SHARES * rest**2 if weighted else SHARES
    weights = weights / max(float(weights.sum()), 1e-300)
    expected = np.interp(np.multiply.outer(coarse, rest), u, square) @ weights
    return np.asarray(np.interp(factor, coarse, expected))


def by_value(square: Array, u: Array, weights: Array) -> Array:
    """``square`` averaged wherever the rising u repeats itself: a rectifier's zeros are one value."""
    rounded = np.round(u / max(float(np.abs(u).max()), 1e-300), 9)
    other = rounded[1:] != rounded[:-1]
    if other.all():
        return square
    which = np.concatenate(([0], np.cumsum(other)))
    return np.asarray((np.bincount(which, weights * square) / np.bincount(which, weights))[which])


def matched(total: Kernel, slope: Array, source: Source) -> Kernel:
    """The kernel that, times the kernel of ``slope``, gives ``total``."""
    own = Spectrum.of(slope, source.at).kernel(source.correlation)
    if total.pairs is not None:
        size = len(total.pairs)
        whole, part = total.between_positions(size), own.between_positions(size)
        every = np.divide(whole, part, out=np.zeros_like(whole), where=np.abs(part) > 1e-9 * own.same)
        other = replace(total, pairs=None, profile=())
        other = matched(other, slope, source)
        return Kernel.by_pairs(every, other.cross, other.sample)

    def ratio(a: float, b: float) -> float:
        return a / b if abs(b) > 1e-9 * own.same else 0.0

    profile, level = straightened(total.profile, source.profile(slope))
    same, local = ratio(total.same, own.same) * level, None
    near, near_own = by_displacement(total, own)
    if near is not None and near_own is not None:
        local = np.divide(near, near_own, out=np.zeros_like(near), where=np.abs(near_own) > 1e-9 * own.same)
        local[(0,) * local.ndim] = same
    return Kernel(
        same,
        ratio(total.far, own.far),
        ratio(total.cross, own.cross) * level,
        ratio(total.sample, own.sample),
        local,
        profile,
    )


def straightened(profile: Profile, by: Profile) -> tuple[Profile, float]:
    """A profile (mean 1) divided by another, and the mean of what that leaves, which undoes their common rise."""
    if len(by) != len(profile):
        profile = profile or (None,) * len(by)
    if len(by) != len(profile):
        return profile, 1.0
    result: list[Array | None] = []
    level = 1.0
    for mine, theirs in zip(profile, by, strict=True):
        if theirs is None or (mine is not None and len(mine) != len(theirs)):
            result.append(mine)
            continue
        left = (1.0 if mine is None else mine) / np.maximum(theirs, 1e-9)
        level *= float(left.mean())
        result.append(np.asarray(left / left.mean()))
    return tuple(result), level
