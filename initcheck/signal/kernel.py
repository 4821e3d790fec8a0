"""Second moments over pairs of elements of one channel: the common currency of both passes.

Four classes of pairs (x, x'), by whether sample and position agree, describe an activation or a gradient:

======  ===============  ==================
class   sample           position
======  ===============  ==================
same    equal            equal
far     equal            other
cross   other            equal
sample  other            other
======  ===============  ==================

Different channels are taken as independent given the mean (random weights). ``local`` refines ``far`` for short
displacements along the position axes (pooling, up-sampling); most values have none: with independent weights a
convolution of white input stays white on average over weights (Novak et al. 2019, eq. 7). ``pairs`` spells ``same``
and ``far`` out for every pair of positions, where these are not alike (causal attention).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from initcheck.signal.resolved import Resolved

Array = NDArray[np.float64]
Profile = tuple["Array | None", ...]
"""Relative second moment along each position axis (mean 1); None: flat. Zero padding bends it."""


@dataclass(eq=False, slots=True)
class Kernel:
    """E[x x'] (of a gradient) or Cov[x, x'] (of an activation) for each class of pairs. Never changed once made.

    (Not declared frozen: a net has thousands of them, and frozen ones take four times as long to make.)

    ``local``: same-sample kernel by displacement, one axis per position atom, ``local[0, ..., 0] == same``; beyond
    its end, and along axes of length 1, the kernel is ``far``. None: white. ``profile``: how the elementwise moment is
    spread over positions, one entry per position atom, () for flat. ``pairs``: for one position atom, the same-sample
    kernel of every two positions relative to ``same`` (mean of the diagonal 1); ``far`` and ``profile`` agree with it.
    ``resolved``: same, cross and sample by position, where a border has left its mark; the classes are its averages.
    """

    same: float
    far: float
    cross: float
    sample: float
    local: Array | None = None
    profile: Profile = ()
    pairs: Array | None = None
    resolved: Resolved | None = None

    @classmethod
    def by_pairs(cls, pairs: Array, cross: float, sample: float) -> Kernel:
        """From the same-sample moment of every two positions."""
        size = len(pairs)
        diagonal = np.maximum(pairs.diagonal(), 0.0)
        same = float(diagonal.mean())
        far = float((pairs.sum() - diagonal.sum()) / (size * (size - 1))) if size > 1 else same
        if not (same > 0 and np.isfinite(same)):
            return cls(same, far, cross, sample)
        return cls(same, far, cross, sample, None, (diagonal / same,), pairs / same)

    @classmethod
    def constant(cls, value: float) -> Kernel:
        """The same second moment for every pair."""
        return cls(value, value, value, value)

    @classmethod
    def independent(cls, variance: float, samples: bool, positions: bool) -> Kernel:
        """Independent elements along those of the sample and position axes that exist."""
        return cls(
            variance,
            0.0 if positions else variance,
            0.0 if samples else variance,
            0.0 if samples or positions else variance,
        )

    @property
    def classes(self) -> tuple[float, float, float, float]:
        """Same, far, cross and sample."""
        return self.same, self.far, self.cross, self.sample

    def map(self, function: Callable[[Array], Array]) -> Kernel:
        """``function`` applied to every entry (it must act elementwise)."""
        classes = np.array([self.same, self.far, self.cross, self.sample])
        if self.pairs is not None:
            pairs = function(classes)
            every = function(self.same * self.pairs.ravel()).reshape(self.pairs.shape)
            return Kernel.by_pairs(every, float(pairs[2]), float(pairs[3]))
        mapped = function(classes if self.local is None else np.concatenate((classes, self.local.ravel())))
        same, far, cross, sample = mapped[:4].tolist()
        local = None if self.local is None else mapped[4:].reshape(self.local.shape)
        return Kernel(same, far, cross, sample, local, self.profile)

    def between_positions(self, size: int) -> Array:
        """The same-sample moment of every two of ``size`` positions."""
        if self.pairs is not None and len(self.pairs) == size:
            return self.same * self.pairs
        result = np.full((size, size), self.far)
        bent = [p for p in self.profile if p is not None]
        shape = bent[0] if len(bent) == 1 else None
        if shape is None or len(shape) != size:
            np.fill_diagonal(result, self.same)
            return result
        root = np.sqrt(np.maximum(shape, 0.0))
        outer = np.multiply.outer(root, root)
        others = (outer.sum() - outer.trace()) / max(size * (size - 1), 1)
        result = result * (outer / others if others > 0 else 1.0)
        np.fill_diagonal(result, self.same * shape)
        return np.asarray(result)

    def flat(self) -> Kernel:
        """Every position brought to the same second moment, correlations kept."""
        if self.pairs is None:
            return replace(self, profile=()) if self.profile else self
        root = np.sqrt(np.maximum(self.pairs.diagonal(), 1e-30))
        return replace(
            Kernel.by_pairs(self.same * self.pairs / np.multiply.outer(root, root), self.cross, self.sample), profile=()
        )

    def levelled(self) -> Kernel:
        """``flat``, and where positions are resolved every one of them, as norms of each position make them."""
        return self.flat() if self.resolved is None else self.flat().with_resolved(self.resolved.levelled())

    def bent(self, profile: Profile) -> Kernel:
        """The second moments spread over positions as a profile (mean 1) says, correlations kept."""
        if not profile and self.pairs is not None:
            return self.flat()
        if self.pairs is None or len(profile) != 1 or profile[0] is None or len(profile[0]) != len(self.pairs):
            return replace(self, profile=profile, pairs=None)
        root = np.sqrt(profile[0] / np.maximum(self.pairs.diagonal(), 1e-30))
        return Kernel.by_pairs(self.same * self.pairs * np.multiply.outer(root, root), self.cross, self.sample)

    def __add__(self, other: Kernel | float) -> Kernel:
        if not isinstance(other, Kernel) and not other:
            return self
        if not isinstance(other, Kernel) and self.pairs is None:
            return self._shifted(float(other), self._mixed_profile(other))
        return self._combine(other, operator.add, self._mixed_profile(other))

    def __sub__(self, other: Kernel | float) -> Kernel:
        if not isinstance(other, Kernel) and not other:
            return self
        if not isinstance(other, Kernel) and self.pairs is None:
            return self._shifted(-float(other), self.profile)
        return self._combine(other, operator.sub, self.profile)

    def _shifted(self, by: float, profile: Profile) -> Kernel:
        return Kernel(
            self.same + by,
            self.far + by,
            self.cross + by,
            self.sample + by,
            None if self.local is None else self.local + by,
            profile,
            None,
            None if self.resolved is None else self.resolved.scaled(np.add, by),
        )

    def __mul__(self, other: Kernel | float) -> Kernel:
        """Elementwise (Hadamard) product: the kernel of a product of independent factors."""
        if not isinstance(other, Kernel):
            if other == 1.0:
                return self
            return Kernel(
                self.same * other,
                self.far * other,
                self.cross * other,
                self.sample * other,
                None if self.local is None else self.local * other,
                self.profile,
                self.pairs,
                None if self.resolved is None else self.resolved.scaled(np.multiply, other),
            )
        paired = self.pairs is not None or other.pairs is not None
        if self.profile and other.profile and not paired:
            profile, overlap = _profile_product(self.profile, other.profile)
            # far and sample are those of the many positions, whichever few are large in one factor
            result = self._combine(other, operator.mul, profile)
            if result.resolved is not None:  # by position already
                return result
            local = None if result.local is None else result.far + (result.local - result.far) * overlap
            return replace(result, same=result.same * overlap, cross=result.cross * overlap, local=local)
        return self._combine(other, operator.mul, self.profile or other.profile)

    def _mixed_profile(self, other: Kernel | float) -> Profile:
        theirs = other.profile if isinstance(other, Kernel) else ()
        if not self.profile and not theirs:
            return ()
        if self.profile and theirs and len(self.profile) != len(theirs):  # one was cut into windows: it counts as flat
            if len(self.profile) > len(theirs):
                return replace(self, profile=())._mixed_profile(other)
            theirs = ()
        mine_share, their_share = abs(self.same), abs(other.same if isinstance(other, Kernel) else other)
        total = mine_share + their_share
        if not (total > 0 and np.isfinite(total)):
            return self.profile or theirs
        length = len(self.profile or theirs)
        pairs = zip(self.profile or (None,) * length, theirs or (None,) * length, strict=True)
        return tuple(_mixed(a, b, mine_share / total) for a, b in pairs)

    def _combine(
        self,
        other: Kernel | float,
        op: Callable[[float, float], float],
        profile: Profile,
    ) -> Kernel:
        resolved = self._combined_resolved(other, op)
        if not isinstance(other, Kernel):
            other = Kernel.constant(float(other))
        if self.pairs is not None or other.pairs is not None:
            size = len(self.pairs) if self.pairs is not None else len(other.pairs)  # type: ignore[arg-type]
            if other.pairs is None or self.pairs is None or len(self.pairs) == len(other.pairs):
                every = np.asarray(op(self.between_positions(size), other.between_positions(size)))  # type: ignore[arg-type]
                return Kernel.by_pairs(every, op(self.cross, other.cross), op(self.sample, other.sample))
        local = None
        mine, theirs = by_displacement(self, other)
        if mine is not None and theirs is not None:
            local = np.asarray(op(mine, theirs))  # type: ignore[arg-type]
        result = Kernel(
            op(self.same, other.same),
            op(self.far, other.far),
            op(self.cross, other.cross),
            op(self.sample, other.sample),
            local,
            profile,
        )
        if resolved is not None and op in (operator.add, operator.sub):  # the averages add as well
            return replace(result, resolved=resolved)
        return result.with_resolved(resolved)

    def with_resolved(self, resolved: Resolved | None) -> Kernel:
        """The averages taken from ``resolved``, where it knows them."""
        if resolved is None:
            return self
        same, cross, sample = resolved.same, resolved.cross, resolved.sample
        local, far = self.local, resolved.far
        if far is None:  # what positions of one sample share beyond other samples stays
            far = sample + (self.far - self.sample)
        if local is not None:
            local = local.copy()
            local[(0,) * local.ndim] = same
        return Kernel(same, far, cross, sample, local, resolved.profile(resolved.own), resolved=resolved)

    def _combined_resolved(self, other: Kernel | float, op: Callable[[float, float], float]) -> Resolved | None:
        mine = self.resolved
        if not isinstance(other, Kernel):
            return None if mine is None else mine.scaled(op, other)  # type: ignore[arg-type]
        theirs = other.resolved
        if mine is None and theirs is None:
            return None
        if mine is None and theirs is not None:
            mine = theirs.even(self, theirs.sizes)
        if theirs is None and mine is not None:
            theirs = mine.even(other, mine.sizes)
        if mine is None or theirs is None or mine.sizes != theirs.sizes:
            return None
        return mine.combined(theirs, op)  # type: ignore[arg-type]

    def spread_evenly(self, sizes: tuple[int, ...]) -> Kernel:
        """What neighbours share goes to all other positions alike: for what sums over all of them."""
        count = math.prod(sizes)
        if self.local is None or self.local.ndim != len(sizes) or count < 2:
            return self.without_local()
        far = (count * self.within_position_mean(sizes) - self.same) / (count - 1)
        return replace(self, far=far, local=None)

    def without_local(self) -> Kernel:
        """The same classes, displacements forgotten."""
        return self if self.local is None else replace(self, local=None)

    def within_position_mean(self, sizes: tuple[int, ...]) -> float:
        """Mean of the same-sample kernel over all pairs of positions (p, p'), both running over ``sizes``."""
        count = float(math.prod(sizes))
        if count <= 1:
            return self.same
        if self.local is None or self.local.ndim != len(sizes):
            return self.far + (self.same - self.far) / count
        excess = self.local - self.far
        for axis, size in enumerate(sizes):
            length = min(excess.shape[axis], size)
            excess = excess[(slice(None),) * axis + (slice(0, length),)]
            pairs = _pairs_at(length, size)
            excess = excess * pairs.reshape([-1 if a == axis else 1 for a in range(excess.ndim)])
        return self.far + float(excess.sum())

    def across_position_mean(self, sizes: tuple[int, ...]) -> float:
        """Mean of the other-sample kernel over all pairs of positions."""
        count = float(math.prod(sizes))
        return self.sample + (self.cross - self.sample) / count

    def mean_over(self, samples: int, sizes: tuple[int, ...]) -> float:
        """Mean over all pairs of (sample, position): what a per-channel batch mean keeps."""
        within, across = self.within_position_mean(sizes), self.across_position_mean(sizes)
        return across + (within - across) / max(samples, 1)

    @property
    def finite(self) -> bool:
        """Whether the elementwise second moment is a finite number."""
        return bool(np.isfinite(self.same) and np.isfinite(self.sample))


@functools.lru_cache(maxsize=1024)
def _pairs_at(length: int, size: int) -> Array:
    """The share of an axis's pairs of positions that are 0, 1, ... apart."""
    shift = np.arange(length)
    return np.asarray(np.where(shift == 0, 1.0, 2.0) * (size - shift) / size**2)


def _mixed(a: Array | None, b: Array | None, share: float) -> Array | None:
    if a is None and b is None:
        return None
    if a is not None and b is not None and a.shape != b.shape:
        return None
    return np.asarray(share * (1.0 if a is None else a) + (1 - share) * (1.0 if b is None else b))


def _profile_product(a: Profile, b: Profile) -> tuple[Profile, float]:
    """The normalised product, and its mean (by how much in-phase profiles raise the mean of the product)."""
    if len(a) != len(b):
        return (), 1.0
    result: list[Array | None] = []
    overlap = 1.0
    for x, y in zip(a, b, strict=True):
        if x is None or y is None or x.shape != y.shape:
            result.append(y if x is None else x)
            continue
        product = x * y
        mean = float(product.mean())
        overlap *= mean
        result.append(product / mean if mean > 0 else None)
    return tuple(result), overlap


def by_displacement(a: Kernel, b: Kernel) -> tuple[Array | None, Array | None]:
    """The two local kernels on one common grid of displacements, filled with ``far``; None where there is none."""
    if a.local is None and b.local is None:
        return None, None
    ndim = a.local.ndim if a.local is not None else b.local.ndim if b.local is not None else 0
    if (a.local is not None and a.local.ndim != ndim) or (b.local is not None and b.local.ndim != ndim):
        return None, None
    shapes = [k.local.shape if k.local is not None else (1,) * ndim for k in (a, b)]
    shape = tuple(max(x, y) for x, y in zip(*shapes, strict=True))
    return _filled(a, shape), _filled(b, shape)


def _filled(kernel: Kernel, shape: tuple[int, ...]) -> Array:
    full = np.full(shape, kernel.far)
    full[(0,) * len(shape)] = kernel.same
    if kernel.local is not None:
        full[tuple(slice(0, n) for n in kernel.local.shape)] = kernel.local
    return full
