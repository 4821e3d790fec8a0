"""Random weights whose variance is a gain over a fan: LeCun, Glorot, He and every mode between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from initcheck.init._tensors import initialiser, need_dims, sample_, write
from initcheck.init.fans import Mode, effective_fans
from initcheck.init.gain import gain

Kind = Literal["normal", "uniform", "truncated_normal"]
Activation = str | nn.Module | Callable[[Any], Any]

TRUNCATED_STD = 0.879625661034339
"""Standard deviation of N(0, 1) cut off at ±2."""


def draw_(tensor: Tensor, std: float, kind: str, generator: torch.Generator | None) -> Tensor:
    """Zero-mean numbers of that standard deviation, from one of the three families."""
    if kind == "normal":
        return sample_(tensor, lambda t: t.normal_(0.0, std, generator=generator), generator)
    if kind == "uniform":
        return uniform_(tensor, math.sqrt(3.0) * std, generator)
    if kind == "truncated_normal":
        wide = std / TRUNCATED_STD
        cut = 2.0 * wide
        return sample_(tensor, lambda t: nn.init.trunc_normal_(t, 0.0, wide, -cut, cut, generator=generator), generator)
    raise ValueError(f"distribution must be 'normal', 'uniform' or 'truncated_normal', got {kind!r}")


def uniform_(tensor: Tensor, bound: float, generator: torch.Generator | None) -> Tensor:
    """U(-bound, bound)."""
    return sample_(tensor, lambda t: t.uniform_(-bound, bound, generator=generator), generator)


@initialiser
def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Kind = "normal",
    *,
    transposed: bool = False,
    groups: int = 1,
    stride: int | Sequence[int] = 1,
    packed: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Zero-mean weights of variance ``scale / fan``, with the *effective* fan.

    ``mode``: ``fan_in`` keeps the forward variance, ``fan_out`` the backward one, ``fan_avg`` their compromise (Glorot
    and Bengio 2010, eq. 12), ``geometric`` the geometric mean of the fans, for which the forward and the backward
    factor are each other's inverse. The truncated normal is cut at two of its own standard deviations and widened so
    that ``scale / fan`` is the variance after the cut.

    Args:
        tensor: the weight, at least two-dimensional.
        scale: the gain squared (2 for ReLU).
        mode: which fan divides.
        distribution: the shape of the distribution; the variance is the same for all.
        transposed: the weight is laid out (in, out, ...): ``x @ W``, or a transposed convolution.
        groups: groups of the convolution.
        stride: stride of the convolution: a strided one feeds each input to 1/stride of its taps on average.
        packed: number of projections stacked in the weight (3 for q, k, v).
        generator: source of randomness.

    Raises:
        ValueError: fewer than two dimensions, ``scale`` not positive, an unknown mode or distribution.
    """
    need_dims("variance_scaling_", tensor, 2)
    if not scale > 0 or math.isinf(scale):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    fans = effective_fans(tensor.shape, transposed=transposed, groups=groups, stride=stride, packed=packed)
    return draw_(tensor, math.sqrt(scale / fans.by_mode(mode)), distribution, generator)


def lecun_normal_(tensor: Tensor, *, generator: torch.Generator | None = None, **layout: Any) -> Tensor:
    """N(0, 1/fan_in) (LeCun et al. 1998, §4.6). What SELU needs (Klambauer et al. 2017).

    ``layout``: ``transposed``, ``groups``, ``stride``, ``packed`` of ``variance_scaling_``.
    """
    return variance_scaling_(tensor, 1.0, "fan_in", "normal", generator=generator, **layout)


def lecun_uniform_(tensor: Tensor, *, generator: torch.Generator | None = None, **layout: Any) -> Tensor:
    """U(-√(3/fan_in), √(3/fan_in)): variance 1/fan_in (LeCun et al. 1998, §4.6)."""
    return variance_scaling_(tensor, 1.0, "fan_in", "uniform", generator=generator, **layout)


def glorot_normal_(
    tensor: Tensor, activation: Activation = "identity", *, generator: torch.Generator | None = None, **layout: Any
) -> Tensor:
    """N(0, gain²·2/(fan_in + fan_out)) with effective fans (Glorot and Bengio 2010)."""
    return variance_scaling_(tensor, gain(activation) ** 2, "fan_avg", "normal", generator=generator, **layout)


def glorot_uniform_(
    tensor: Tensor, activation: Activation = "identity", *, generator: torch.Generator | None = None, **layout: Any
) -> Tensor:
    """U(±gain·√(6/(fan_in + fan_out))) with effective fans (Glorot and Bengio 2010, eq. 16)."""
    return variance_scaling_(tensor, gain(activation) ** 2, "fan_avg", "uniform", generator=generator, **layout)


def he_normal_(
    tensor: Tensor,
    activation: Activation = "relu",
    mode: Mode = "fan_in",
    *,
    generator: torch.Generator | None = None,
    **layout: Any,
) -> Tensor:
    """N(0, gain²/fan) for any activation, with effective fans (He et al. 2015, eq. 10 and 14: gain² = 2 for ReLU)."""
    return variance_scaling_(tensor, gain(activation) ** 2, mode, "normal", generator=generator, **layout)


def he_uniform_(
    tensor: Tensor,
    activation: Activation = "relu",
    mode: Mode = "fan_in",
    *,
    generator: torch.Generator | None = None,
    **layout: Any,
) -> Tensor:
    """U(±gain·√(3/fan)) for any activation, with effective fans (He et al. 2015)."""
    return variance_scaling_(tensor, gain(activation) ** 2, mode, "uniform", generator=generator, **layout)


@initialiser
def random_walk_(
    tensor: Tensor,
    activation: Literal["relu", "linear"] = "relu",
    *,
    transposed: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """N(0, g²/N) with g such that the *logarithm* of the signal's norm does not drift (Sussillo and Abbott 2014).

    The usual gains keep E[‖h‖²]; with finite width N the log-norm still walks downward by about 1/(2N) (linear) or
    more (ReLU) per layer, which hundreds of layers make visible. Linear: g = exp(1/(2N)). ReLU:
    g = √2·exp(1.2/(max(N, 6) - 2.4)).

    Args:
        tensor: a matrix (out, in); N = in.
        activation: ``"relu"`` or ``"linear"``.
        transposed: the matrix is (in, out).
        generator: source of randomness.
    """
    need_dims("random_walk_", tensor, 2, 2)
    width = tensor.shape[0 if transposed else 1]
    gains = {
        "linear": math.exp(1.0 / (2.0 * width)),
        "relu": math.sqrt(2.0) * math.exp(1.2 / (max(width, 6) - 2.4)),
    }
    if activation not in gains:
        raise ValueError(f"random_walk_: activation must be 'relu' or 'linear', got {activation!r}")
    return draw_(tensor, gains[activation] / math.sqrt(width), "normal", generator)


@initialiser
def siren_(
    tensor: Tensor, omega: float = 30.0, first: bool = False, *, generator: torch.Generator | None = None
) -> Tensor:
    """Weights of a sine network, sin(ω·(Wx + b)) (Sitzmann et al. 2020, §3.2 and supplement §1.5).

    First layer U(-1/n, 1/n); all others U(-√(6/n)/ω, √(6/n)/ω), n = fan_in, so that every sine is fed N(0, 1).

    Raises:
        ValueError: fewer than two dimensions, or ω not positive.
    """
    need_dims("siren_", tensor, 2)
    if not omega > 0:
        raise ValueError(f"siren_: omega must be positive, got {omega}")
    fan_in = effective_fans(tensor.shape).fan_in
    bound = 1.0 / fan_in if first else math.sqrt(6.0 / fan_in) / omega
    return uniform_(tensor, bound, generator)


@initialiser
def sparse_(
    tensor: Tensor,
    nonzero: int = 15,
    std: float = 1.0,
    *,
    transposed: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``nonzero`` incoming weights per *unit* from N(0, std²), the rest zero (Martens 2010, §5).

    ``torch.nn.init.sparse_`` zeroes a share of each *column*, so its units get different numbers of inputs, some none.

    Args:
        tensor: a weight (out, in, ...) (``transposed``: (in, out)).
        nonzero: weights per unit that are not zero; all of them if a unit has no more.
        std: their standard deviation.
        transposed: units are the columns.
        generator: source of randomness.
    """
    need_dims("sparse_", tensor, 2)
    if nonzero < 1:
        raise ValueError(f"sparse_: nonzero must be at least 1, got {nonzero}")
    if transposed and tensor.dim() != 2:
        raise ValueError(f"sparse_: transposed needs a matrix, got shape {tuple(tensor.shape)}")
    rows = tensor.shape[1 if transposed else 0]
    incoming = tensor.numel() // rows
    device = generator.device if generator is not None else tensor.device
    order = torch.rand(rows, incoming, generator=generator, device=device).argsort(1)
    kept = order < min(nonzero, incoming)
    values = torch.randn(rows, incoming, generator=generator, device=device) * std * kept
    shaped = values.t() if transposed else values.reshape(tensor.shape)
    return write(tensor, shaped)
