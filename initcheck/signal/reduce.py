"""Sums, means and copies along roles: how pair kernels change when atoms disappear or appear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.smoothing import REACH
from initcheck.signal.value import Atom, Dims, settle


def mean_covariance(k: Kernel, dims: Dims, over: Sequence[int]) -> Kernel:
    """Covariance of the mean over the dims ``over``.

    Channels are independent given their mean, so n_C of them divide every class by n_C; positions average the
    same-sample (and other-sample) kernel over all their pairs; samples likewise.
    """
    gone = [a for i in over for a in dims[i]]
    n_c, n_s = _count(gone, "C"), _count(gone, "S")
    k = k * (1.0 / n_c)
    profile = remaining_profile(k, dims, set(over))
    everywhere = tuple(a.size for dim in dims for a in dim if a.role == "P")
    sizes = tuple(a.size for a in gone if a.role == "P")
    if sizes:
        n = math.prod(sizes)
        if len(sizes) == len(everywhere):
            same, cross = k.within_position_mean(sizes), k.across_position_mean(sizes)
            k = Kernel(same, same, cross, cross)
        else:
            k = Kernel(k.far + (k.same - k.far) / n, k.far, k.sample + (k.cross - k.sample) / n, k.sample)
    if n_s > 1:
        k = Kernel(
            k.cross + (k.same - k.cross) / n_s,
            k.sample + (k.far - k.sample) / n_s,
            k.cross,
            k.sample,
        )
    rest: Dims = tuple(() if i in set(over) else dim for i, dim in enumerate(dims))
    return settle(replace(k, profile=profile), rest)


def remaining_profile(k: Kernel, dims: Dims, over: set[int]) -> Profile:
    """The profile of the position axes that a reduction leaves."""
    owners = [i for i, dim in enumerate(dims) for a in dim if a.role == "P"]
    if len(k.profile) != len(owners):
        return ()
    return tuple(p for p, owner in zip(k.profile, owners, strict=True) if owner not in over)


def sum_kernel(k: Kernel, dims: Dims, over: Sequence[int]) -> Kernel:
    """Kernel of the sum over ``over`` of something with zero mean (a gradient)."""
    n = math.prod(a.size for i in over for a in dims[i])
    return mean_covariance(k, dims, over) * float(n) ** 2


def spread_kernel(k: Kernel, dims: Dims, over: Sequence[int]) -> Kernel:
    """Kernel of a gradient copied along the dims ``over`` that the output lacks (backward of a sum).

    ``dims``: those of the operand. Positions that appear all hold the same copy, so other position counts as the
    same one; with positions left in the output, another position is mostly another of those.
    """
    left = any(a.role == "P" for i, dim in enumerate(dims) if i not in set(over) for a in dim)
    if not left:
        k = Kernel(k.same, k.same, k.cross, k.cross)
    local = copied_local(k, dims, over) if left else None
    if any(a.role == "S" for i in over for a in dims[i]):
        k = Kernel(k.same, k.far, k.same, k.far)
    return Kernel(k.same, k.far, k.cross, k.sample, local)


def copied_local(k: Kernel, dims: Dims, over: Sequence[int]) -> Array | None:
    """The local kernel where axes appear along which all is alike; None if they are long."""
    axes = [(i in set(over), a.size) for i, dim in enumerate(dims) for a in dim if a.role == "P"]
    if k.local is None or k.local.ndim != sum(not new for new, _ in axes):
        return None
    if any(new and size > REACH for new, size in axes):
        return None
    kept = iter(k.local.shape)
    local = k.local.reshape([1 if new else next(kept) for new, _ in axes])
    return np.broadcast_to(local, [size if new else n for (new, size), n in zip(axes, local.shape, strict=True)])


def missing_dims(dims: Dims, shape: Sequence[int]) -> list[int]:
    """Dims that an operand of ``shape`` lacks (absent or of size 1) beside an output with ``dims``."""
    offset = len(dims) - len(shape)
    return [i for i, dim in enumerate(dims) if dim and (i < offset or shape[i - offset] == 1)]


def unbroadcast(k: Kernel, dims: Dims, shape: Sequence[int]) -> Kernel:
    """Gradient of an operand of ``shape`` that was broadcast to ``dims``: summed over what it lacks."""
    over = missing_dims(dims, shape)
    return sum_kernel(k, dims, over) if over else k


def variance_fluctuation(rho: Kernel, channels: int, sizes: tuple[int, ...]) -> float:
    """Relative variance of s², the centred variance over independent channels and the positions ``sizes`` of each.

    Var[s²] / E[s²]² = 2 sum(lambda²) / sum(lambda)² over the eigenvalues of the correlations within a channel
    (Isserlis), of which the common mean takes the one along all positions away once.
    """
    whole, square = rho.within_position_mean(sizes), (rho * rho).within_position_mean(sizes)
    left = max(channels - whole, 1e-6)
    return min(max(2.0 * (channels * square - whole * whole) / left**2, 0.0), 2.0)


def inverse_bias(rho: Kernel, channels: int, sizes: tuple[int, ...]) -> float:
    """E[1/s²] E[s²] for the s² of ``variance_fluctuation``: a sum of squares of normals, weighted by the eigenvalues.

    E[1/X] is the integral of E[exp(-t X)] = prod (1 + 2 lambda t)^(-1/2) over t > 0. The eigenvalue along all
    positions counts once per channel but one; the others are as many equal ones as have their sum and sum of squares.
    """
    places = math.prod(sizes)
    whole = min(max(rho.within_position_mean(sizes), 1.0 / places), 1.0)
    square = (rho * rho).within_position_mean(sizes)
    common, rest = whole * (channels - 1), channels * (1.0 - whole)
    total = common + rest
    t = np.geomspace(1e-4, 1e4, 800)
    decay = (1.0 + 2.0 * t * whole / total) ** (-0.5 * (channels - 1))
    others = channels * max(square - whole * whole, 0.0)
    if rest > 0 and others > 0:
        count = rest * rest / others
        decay = decay * (1.0 + 2.0 * t * rest / total / count) ** (-0.5 * count)
    return float(np.trapezoid(decay, t)) if total > 0 else 1.0


def recast(k: Kernel, dims: Dims, seen: Dims) -> Kernel:
    """A gradient in the dims of an operand where copies along the channels count as positions (an expanded dim).

    Most of its other positions are other channels, whose gradients are independent.
    """
    own = math.prod(a.size for dim in dims for a in dim if a.role == "P")
    more = math.prod(a.size for dim in seen for a in dim if a.role == "P")
    if more <= own or math.prod(a.size for d in dims for a in d) != math.prod(a.size for d in seen for a in d):
        return k
    share = (own - 1) / (more - 1)
    return Kernel(k.same, k.far * share, k.cross, k.sample * share)


def _count(atoms: Sequence[Atom], role: str) -> int:
    return math.prod(a.size for a in atoms if a.role == role)
