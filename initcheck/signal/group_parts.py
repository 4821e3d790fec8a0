"""Group norm: what the mean and the std of a group take from its channels, and from the parts of a concatenation.

Channels of a group lie side by side, so that most groups of a concatenation hold those of one part only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.ops.joining import leaves
from initcheck.signal.reduce import inverse_bias
from initcheck.signal.value import Value, settle


def group_mean(k: Kernel, channels: int, sizes: tuple[int, ...]) -> Kernel:
    """Second moments of the mean over independent channels and all positions of each."""
    within, across = k.within_position_mean(sizes), k.across_position_mean(sizes)
    return Kernel(within, within, across, across) * (1.0 / channels)


def normalised(k: Kernel, channels: int, sizes: tuple[int, ...], inverse: float) -> tuple[Kernel, float]:
    """Covariance behind the norm of a group, and E[1/s²] E[s²]. ``inverse``: 1/(E[s²] + eps).

    The mean of all is taken from what positions share: K - avg(K)/channels. s² holds the means of few channels, and
    is large where they are: sigma² E[1/s²] is what positions have of their own, and what they share is the rest.
    """
    mean = group_mean(k, channels, sizes)
    left = (k - mean) * inverse
    share = left.same
    if not (share > 0 and k.same > 0):
        return left, 1.0
    bias = 1.0 + (inverse_bias(k * (1.0 / k.same), channels, sizes) - 1.0) * share**2
    if channels == 1 or left.far <= 0:
        return left, bias
    bias_of_own = min(bias, share / max(share - left.far, 1e-12))
    taken = share * (bias_of_own - 1.0)
    own = left * bias_of_own - taken
    kept = own.far / left.far
    return replace(own, cross=left.cross * kept, sample=left.sample * kept), bias


@dataclass(frozen=True, slots=True)
class GroupParts:
    """By leaf of the concatenation: its share, covariance behind the norm, E[1/s²] and E[(mean - group's)²/s²]."""

    shares: Array
    covariances: tuple[Kernel, ...]
    inverse: Array
    offset: Array

    @classmethod
    def of(cls, x: Value, groups: int, eps: float) -> GroupParts | None:
        """Of ``x``, normalised in that many groups; None where it is no concatenation, or all is one group."""
        parts = leaves(x)
        if not parts or groups < 2:
            return None
        shares = np.array([share for share, _ in parts])
        ends = np.cumsum(shares) * groups
        starts, first = np.concatenate(([0.0], ends[:-1])), np.arange(groups)[:, None]
        weights = np.clip(np.minimum(ends, first + 1) - np.maximum(starts, first), 0.0, 1.0)  # of a group, by leaf
        channels = max(x.count("C") // groups, 1)
        means = np.array([part.mean for _, part in parts])
        same = np.array([part.covariance.same for _, part in parts])
        common = np.array([part.covariance.within_position_mean(part.positions) for _, part in parts])
        middle = weights @ means
        variance = weights @ (same + means**2 - common / channels) - middle**2
        inverse = 1.0 / (np.maximum(variance, 0.0) + eps)
        if not np.all(np.isfinite(inverse)):
            return None
        of_leaf = weights / weights.sum(0)
        offset = (of_leaf * (means - middle[:, None]) ** 2 * inverse[:, None]).sum(0)
        inverse = inverse @ of_leaf
        found = [
            normalised(part.covariance, channels, part.positions, float(level))
            for (_, part), level in zip(parts, inverse, strict=True)
        ]
        biases = np.array([bias for _, bias in found])
        return cls(shares, tuple(k for k, _ in found), inverse * biases, offset)

    def covariance(self) -> Kernel:
        """Of the norm's output, over all channels."""
        total = Kernel.constant(0.0)
        for share, k, offset in zip(self.shares, self.covariances, self.offset, strict=True):
            total = total + (k + float(offset)) * float(share)
        return total

    def gradient(self, kernel: Kernel, x: Value) -> Gradient:
        """What ``x`` receives where it would receive ``kernel`` at a std of one: each part by its own std."""
        found, ratio = self._parts(x, kernel, 0)
        flow = Gradient.fresh(settle(kernel * ratio, x.dims))
        flow.parts = found
        return flow

    def _parts(self, x: Value, kernel: Kernel, leaf: int) -> tuple[tuple[Gradient, ...], float]:
        """Gradients of the parts of ``x``, of which ``leaf`` is the first leaf, and the mean of their 1/s²."""
        gradients, average = [], 0.0
        for share, part in x.parts:
            inner, ratio = self._parts(part, kernel, leaf) if part.parts else ((), float(self.inverse[leaf]))
            leaf += len(leaves(part)) or 1
            gradient = Gradient.fresh(settle(kernel * ratio, x.dims))
            gradient.parts = inner
            gradients.append(gradient)
            average += share * ratio
        return tuple(gradients), average
