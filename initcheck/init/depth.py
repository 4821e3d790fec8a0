"""Recipes whose scales depend on the depth or the width: GPT-2, DS-Init, T-Fixup, DeepNorm, SubLN, muP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from initcheck.init._tensors import initialiser, need_dims
from initcheck.init.fans import effective_fans
from initcheck.init.scaling import draw_, uniform_


def _need_depth(name: str, layers: int) -> None:
    if layers < 1:
        raise ValueError(f"{name}: the number of layers must be at least 1, got {layers}")


@initialiser
def depth_scaled_normal_(
    tensor: Tensor, layers: int, std: float = 0.02, *, generator: torch.Generator | None = None
) -> Tensor:
    """N(0, std²/(2·layers)) for a projection back into the residual stream (Radford et al. 2019, §2.3).

    A block of GPT-2 adds two branches to its stream, so the stream's variance grows by 2·layers of them.
    """
    _need_depth("depth_scaled_normal_", layers)
    return draw_(tensor, std / math.sqrt(2.0 * layers), "normal", generator)


@initialiser
def ds_init_(tensor: Tensor, layer: int, alpha: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """U(±√(6/(fan_in + fan_out))·α/√l) in layer l = 1, 2, ... (Zhang, Titov and Sennrich 2019, eq. 6)."""
    need_dims("ds_init_", tensor, 2)
    _need_depth("ds_init_", layer)
    fans = effective_fans(tensor.shape)
    bound = math.sqrt(6.0 / (fans.fan_in + fans.fan_out)) * alpha / math.sqrt(layer)
    return uniform_(tensor, bound, generator)


@dataclass(frozen=True, slots=True)
class TFixupScales:
    """Factors of T-Fixup on Glorot-initialised weights; query and key projections stay as they are.

    ``embedding_std``: of the embeddings, after scaling. ``encoder``, ``decoder``: on fc1, fc2, value and output.
    """

    embedding_std: float
    encoder: float
    decoder: float


def t_fixup_scales(width: int, encoder_layers: int, decoder_layers: int) -> TFixupScales:
    """T-Fixup: a transformer without layer norm and warm-up (Huang et al. 2020, §3.2).

    Embeddings N(0, d^-½)·(9N)^-¼; encoder weights × 0.67·N^-¼; decoder weights × (9M)^-¼.
    """
    _need_depth("t_fixup_scales", encoder_layers)
    _need_depth("t_fixup_scales", decoder_layers)
    return TFixupScales(
        embedding_std=width**-0.5 * (9.0 * encoder_layers) ** -0.25,
        encoder=0.67 * encoder_layers**-0.25,
        decoder=(9.0 * decoder_layers) ** -0.25,
    )


@dataclass(frozen=True, slots=True)
class DeepNormConstants:
    """LN(α·x + f(x)), and β on the Glorot gain of fc1, fc2, value and output projection."""

    alpha: float
    beta: float


def deepnorm_constants(layers: int, other_layers: int = 0, *, part: str = "encoder") -> DeepNormConstants:
    """DeepNorm (Wang et al. 2022, table 1).

    One stack of N layers: α = (2N)^¼, β = (8N)^-¼. With both stacks, N encoder and M decoder layers: encoder
    α = 0.81·(N⁴M)^(1/16), β = 0.87·(N⁴M)^(-1/16); decoder α = (3M)^¼, β = (12M)^-¼.

    Args:
        layers: of this stack.
        other_layers: of the other stack; 0 if there is none.
        part: ``"encoder"`` or ``"decoder"``, which stack this is.
    """
    _need_depth("deepnorm_constants", layers)
    if part not in ("encoder", "decoder"):
        raise ValueError(f"deepnorm_constants: part must be 'encoder' or 'decoder', got {part!r}")
    if other_layers == 0:
        return DeepNormConstants((2.0 * layers) ** 0.25, (8.0 * layers) ** -0.25)
    if part == "decoder":
        return DeepNormConstants((3.0 * layers) ** 0.25, (12.0 * layers) ** -0.25)
    both = (layers**4 * other_layers) ** (1.0 / 16.0)
    return DeepNormConstants(0.81 * both, 0.87 / both)


def subln_gain(layers: int, other_layers: int = 0, *, part: str = "encoder") -> float:
    """SubLN (Wang et al. 2022, Foundation Transformers, table 1): the gain of fc1, fc2, value and output projection.

    One stack of N layers: √(ln 2N). With both: encoder √(⅓·ln 3M·ln 2N), decoder √(ln 3M).
    """
    _need_depth("subln_gain", layers)
    if part not in ("encoder", "decoder"):
        raise ValueError(f"subln_gain: part must be 'encoder' or 'decoder', got {part!r}")
    if other_layers == 0:
        return math.sqrt(math.log(2.0 * layers))
    if part == "decoder":
        return math.sqrt(math.log(3.0 * layers))
    return math.sqrt(math.log(3.0 * other_layers) * math.log(2.0 * layers) / 3.0)


@initialiser
def deepnorm_(
    tensor: Tensor,
    layers: int,
    other_layers: int = 0,
    part: str = "encoder",
    *,
    packed: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Glorot-normal × β for fc1, fc2, value and output projection of DeepNorm (Wang et al. 2022, figure 2).

    Query and key take the plain Glorot scale; the forward has to compute LN(α·x + f(x)), α from
    ``deepnorm_constants``.
    """
    need_dims("deepnorm_", tensor, 2)
    beta = deepnorm_constants(layers, other_layers, part=part).beta
    return _glorot_(tensor, beta, packed, generator)


@initialiser
def subln_(
    tensor: Tensor,
    layers: int,
    other_layers: int = 0,
    part: str = "encoder",
    *,
    packed: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Glorot-normal × ``subln_gain`` for fc1, fc2, value and output projection (Wang et al. 2022, figure 2)."""
    need_dims("subln_", tensor, 2)
    return _glorot_(tensor, subln_gain(layers, other_layers, part=part), packed, generator)


def _glorot_(tensor: Tensor, gain: float, packed: int, generator: torch.Generator | None) -> Tensor:
    fans = effective_fans(tensor.shape, packed=packed)
    return draw_(tensor, gain / math.sqrt(fans.by_mode("fan_avg")), "normal", generator)


@initialiser
def rezero_(tensor: Tensor) -> Tensor:
    """0: the multiplier α of a residual branch in x + α·f(x), so that the net starts as the identity.

    ReZero (Bachlechner et al. 2021, eq. 2).

    Raises:
        ValueError: more than one element (for a multiplier per channel see LayerScale).
    """
    return _scalar_("rezero_", tensor, 0.0)


@initialiser
def skipinit_(tensor: Tensor, branches: int | None = None) -> Tensor:
    """The multiplier at the end of a residual branch: 0, or 1/√branches (De and Smith 2020, §4).

    Raises:
        ValueError: more than one element, or fewer than one branch.
    """
    if branches is not None:
        _need_depth("skipinit_", branches)
    return _scalar_("skipinit_", tensor, 0.0 if branches is None else branches**-0.5)


def _scalar_(name: str, tensor: Tensor, value: float) -> Tensor:
    if tensor.numel() != 1:
        raise ValueError(f"{name}: a branch's multiplier is one number, got shape {tuple(tensor.shape)}")
    return tensor.fill_(value)


def mup_std(shape: tuple[int, ...], base_shape: tuple[int, ...], std: float) -> float:
    """Standard deviation under muP of a weight that had ``std`` in the base model (Yang et al. 2022, table 8).

    Hidden weights (both dimensions grow): std·(width multiplier of fan_in)^-½. Output weights (only fan_in grows):
    std ÷ multiplier. Input weights and vectors (fan_in stays): std.
    """
    if len(shape) != len(base_shape):
        raise ValueError(f"mup_std: shapes {shape} and {base_shape} differ in their number of dimensions")
    if len(shape) < 2:
        return std
    fans, base = effective_fans(shape), effective_fans(base_shape)
    multiplier = fans.fan_in / base.fan_in
    return std / multiplier if shape[0] == base_shape[0] else std / math.sqrt(multiplier)


@initialiser
def mup_normal_(
    tensor: Tensor, base_shape: tuple[int, ...], std: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """N(0, ``mup_std``²): the base model's scale carried over to this width."""
    return draw_(tensor, mup_std(tuple(tensor.shape), tuple(base_shape), std), "normal", generator)
