"""How the second moment is spread over position axes, where reshapes cut and join them, and over windows of attention.

Profiles are one array per position axis (mean 1), the whole being their product. A map that was padded and cut into
windows has full windows, partly filled ones and empty ones: with a share a_w of the average in window w, what one
window sums over m of its positions goes as a_w where they are independent, as a_w² where they are alike.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initcheck.signal.kernel import Array, Profile


def regrouped(profile: Profile, old: Sequence[int], new: Sequence[int]) -> Profile:
    """The profile of the same positions along other axes: an axis that is cut is averaged over the others' places."""
    if len(profile) != len(old):
        return ()
    result: list[Array | None] = []
    taken = 0
    for axis, size in enumerate(new):
        if len(result) > axis:
            continue
        first, mine, theirs = taken, size, old[taken] if taken < len(old) else 0
        last, taken = axis + 1, taken + 1
        while mine != theirs:
            if theirs > mine and last < len(new):
                mine, last = mine * new[last], last + 1
            elif mine > theirs > 0 and taken < len(old):
                theirs, taken = theirs * old[taken], taken + 1
            else:
                return ()
        result.extend(_axes(profile[first:taken], old[first:taken], new[axis:last]))
    return tuple(result) if any(p is not None for p in result) else ()


def _axes(pieces: Sequence[Array | None], old: Sequence[int], new: Sequence[int]) -> list[Array | None]:
    if all(p is None for p in pieces):
        return [None] * len(new)
    if len(old) == len(new) == 1:
        return [pieces[0]]
    return list(marginals(joined(pieces, old), new))


def joined(pieces: Sequence[Array | None], sizes: Sequence[int]) -> Array:
    """Several axes as one, the first outermost."""
    every = (np.ones(n) if p is None else p for p, n in zip(pieces, sizes, strict=True))
    return np.asarray(functools.reduce(np.multiply.outer, every)).ravel()


def marginals(whole: Array, sizes: Sequence[int]) -> list[Array]:
    """One axis as several, each averaged over the others, mean 1."""
    grid = whole.reshape(tuple(sizes))
    mean = max(float(grid.mean()), 1e-300)
    others = [tuple(a for a in range(grid.ndim) if a != axis) for axis in range(grid.ndim)]
    return [np.asarray(grid.mean(over)) / mean for over in others]


def product_mean(*profiles: Profile) -> float:
    """Mean over all positions of the product of several profiles (() for a flat one)."""
    axes = max(len(p) for p in profiles)
    result = 1.0
    for axis in range(axes):
        own = [piece for p in profiles if len(p) == axes and (piece := p[axis]) is not None]
        result *= float(functools.reduce(operator.mul, own).mean()) if own else 1.0
    return result


@dataclass(frozen=True, slots=True)
class Windows:
    """The profile of a tensor within which attention mixes the last ``inner`` position axes.

    ``outer``: over windows; ``whole``: over all positions; ``squared``: E[a_w²]; ``filled``: E of the whole's square,
    the inverse of the share of positions that hold anything, where the others hold nothing.
    """

    outer: Profile
    whole: Profile
    squared: float
    filled: float

    @classmethod
    def of(cls, profile: Profile, outer: int, variance: float) -> Windows:
        """Of a profile whose first ``outer`` axes number the windows; flat for rows of large logits.

        ``variance``: of the logits over all keys. Empty keys have logits of zero: where those of the others are large,
        rows are not the same over both.
        """
        filled = product_mean(profile, profile)
        if not variance * filled**2 <= 1.0:
            return cls((), (), 1.0, 1.0)
        over = profile[:outer] if any(p is not None for p in profile[:outer]) else ()
        return cls(over, profile, product_mean(over, over), filled)

    def own(self, same: float, far: float) -> float:
        """What positions have of their own, by the averages over all of them, the empty ones included."""
        return max(same - self.filled * far, (same - far) / self.filled)

    def unlike(self, count: float) -> float:
        """E[a_w a_w'] of two of ``count`` different windows."""
        return max(count - self.squared, 0.0) / (count - 1) if count > 1 else 1.0

    def mixed(self, apart: float, alike: float, axes: int) -> Profile:
        """Over ``axes`` axes: a part of the moment goes as a_w, another as a_w²; within a window all are alike."""
        if not self.outer or not apart + alike > 0:
            return ()
        share = alike / (apart + alike)
        over = [None if a is None else (1 - share) * a + share * a**2 / np.mean(a**2) for a in self.outer]
        return (*over, *[None] * (axes - len(over)))


def window_axes(sizes: Sequence[int], keys: int) -> int:
    """How many of the position axes number windows, the last ones holding the ``keys``."""
    inner, axis = 1, len(sizes)
    while inner < keys and axis > 0:
        axis -= 1
        inner *= sizes[axis]
    return axis if inner == keys else 0


def product(*profiles: Profile) -> Profile:
    """The product of several profiles of the same axes (mean 1)."""
    axes = max(len(p) for p in profiles)
    result: list[Array | None] = []
    for axis in range(axes):
        own = [p[axis] for p in profiles if len(p) > axis and p[axis] is not None]
        whole = functools.reduce(operator.mul, own) if own else None
        result.append(None if whole is None else whole / max(float(whole.mean()), 1e-300))
    return tuple(result) if any(p is not None for p in result) else ()
