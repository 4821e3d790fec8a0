"""Distributions that ``torch.nn.init`` functions give, for those whose bodies need data to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from initcheck.tracing.trace import Distribution


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0


def _cumulative(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def truncated_normal(shape: tuple[int, ...], a: Mapping[str, Any]) -> Distribution:
    """N(mean, std²) conditioned on [a, b] (bounds are absolute).

    With α = (a−μ)/σ, β = (b−μ)/σ, Z = Φ(β)−Φ(α): mean = μ + σ(φ(α)−φ(β))/Z,
    var = σ²[1 + (αφ(α)−βφ(β))/Z − ((φ(α)−φ(β))/Z)²] (Johnson, Kotz and Balakrishnan 1994, §13.10).
    """
    mean, std, low, high = (float(a[key]) for key in ("mean", "std", "a", "b"))
    if std == 0:
        return Distribution("constant", mean, 0.0)
    alpha, beta = (low - mean) / std, (high - mean) / std
    mass = _cumulative(beta) - _cumulative(alpha)
    if mass <= 1e-12:
        return Distribution("unknown", math.nan, math.nan, note="truncation bounds leave no mass")
    shift = (_density(alpha) - _density(beta)) / mass
    spread = 1 + (alpha * _density(alpha) - beta * _density(beta)) / mass - shift * shift
    return Distribution("truncated_normal", mean + std * shift, std * math.sqrt(max(spread, 0.0)), low, high)


def orthogonal(shape: tuple[int, ...], a: Mapping[str, Any]) -> Distribution:
    """gain × a semi-orthogonal r×c matrix: E[w²] = gain²·min(r, c)/(r·c) = gain²/max(r, c) (Saxe et al. 2014)."""
    rows, columns = shape[0], math.prod(shape[1:])
    return Distribution("orthogonal", 0.0, abs(float(a["gain"])) / math.sqrt(max(rows, columns, 1)))


def sparse(shape: tuple[int, ...], a: Mapping[str, Any]) -> Distribution:
    """ceil(sparsity·rows) zeros in every column, N(0, std²) elsewhere."""
    rows = shape[0]
    kept = 1 - math.ceil(float(a["sparsity"]) * rows) / max(rows, 1)
    return Distribution("sparse", 0.0, float(a["std"]) * math.sqrt(kept))


def identity(shape: tuple[int, ...], a: Mapping[str, Any]) -> Distribution:
    """Ones on the diagonal of an r×c matrix, zeros elsewhere."""
    share = min(shape) / math.prod(shape)
    return Distribution("identity", share, math.sqrt(share * (1 - share)))


def dirac(shape: tuple[int, ...], a: Mapping[str, Any]) -> Distribution:
    """One 1 at the centre tap for each of min(out/groups, in) channels a group."""
    groups = int(a.get("groups", 1))
    ones = groups * min(shape[0] // groups, shape[1])
    share = ones / math.prod(shape)
    return Distribution("identity", share, math.sqrt(share * (1 - share)))


ANALYTIC: dict[str, Callable[[tuple[int, ...], Mapping[str, Any]], Distribution]] = {
    "trunc_normal_": truncated_normal,
    "orthogonal_": orthogonal,
    "sparse_": sparse,
    "eye_": identity,
    "dirac_": dirac,
}
