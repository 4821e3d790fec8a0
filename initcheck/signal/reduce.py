"""Sums, means and copies along roles: how pair kernels change when atoms disappear or appear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from initcheck.signal.kernel import Kernel, Profile
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
    if any(a.role == "S" for i in over for a in dims[i]):
        k = Kernel(k.same, k.far, k.same, k.far)
    return Kernel(k.same, k.far, k.cross, k.sample)


def missing_dims(dims: Dims, shape: Sequence[int]) -> list[int]:
    """Dims that an operand of ``shape`` lacks (absent or of size 1) beside an output with ``dims``."""
    offset = len(dims) - len(shape)
    return [i for i, dim in enumerate(dims) if dim and (i < offset or shape[i - offset] == 1)]


def unbroadcast(k: Kernel, dims: Dims, shape: Sequence[int]) -> Kernel:
    """Gradient of an operand of ``shape`` that was broadcast to ``dims``: summed over what it lacks."""
    over = missing_dims(dims, shape)
    return sum_kernel(k, dims, over) if over else k


def _count(atoms: Sequence[Atom], role: str) -> int:
    return math.prod(a.size for a in atoms if a.role == role)
