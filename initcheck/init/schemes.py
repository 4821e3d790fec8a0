"""Standard schemes by name: for a weight and the activation it feeds, the torch.nn.init call and the scale it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initcheck.init.fans import Fans
from initcheck.init.gain import gain

Arguments = tuple[tuple[str, str], ...]

NEAR = 0.02
"""Two scales this close (relative) are the same: a named scheme is preferred to a number."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A call of ``torch.nn.init`` (function, keyword arguments as source text), its std, and why."""

    function: str
    arguments: Arguments
    std: float
    why: str


def wanted_gain(activation: str) -> float:
    """The gain of the weights that feed an activation, by the field's convention (tanh: torch's 5/3); 1 if unknown."""
    if activation in ("", "identity", "glu"):
        return 1.0
    if activation in _CONVENTIONAL:
        return _CONVENTIONAL[activation]
    try:
        return gain(activation)
    except ValueError:
        return 1.0


_CONVENTIONAL = {"tanh": 5.0 / 3.0, "sigmoid": 1.0, "hardtanh": 1.0, "softsign": 1.0, "sin": 1.0}
"""Saturating activations: their exact gain would drive a deep net into saturation."""


def standard(shape: tuple[int, ...], fans: Fans, activation: str, transposed: bool) -> Scheme:
    """The standard scheme for a weight that feeds ``activation``."""
    wanted = wanted_gain(activation)
    return scheme_for(shape, fans, wanted / math.sqrt(fans.fan_in), activation, transposed)


def scheme_for(shape: tuple[int, ...], fans: Fans, std: float, activation: str, transposed: bool) -> Scheme:
    """The call that gives ``std``: a named scheme if one does (within ``NEAR``), else ``normal_`` with the number."""
    for scheme in _named(shape, fans, activation, transposed, std):
        if abs(math.log(scheme.std / std)) <= NEAR:
            return scheme
    value = f"{std:.4g}"
    return Scheme("normal_", (("mean", "0.0"), ("std", value)), float(value), f"std {value}")


def _named(shape: tuple[int, ...], fans: Fans, activation: str, transposed: bool, std: float) -> list[Scheme]:
    """Candidate calls, the most usual first, with the std that torch gives them (it reads its fans off the shape)."""
    taps = math.prod(shape[2:])
    torch_in, torch_out = shape[1] * taps, shape[0] * taps
    found = []
    for mode, fan in (("fan_in", torch_in), ("fan_out", torch_out)):
        if mode == "fan_out" and not transposed:
            break
        keyword: Arguments = () if mode == "fan_in" else (("mode", "'fan_out'"),)
        for nonlinearity, factor in (("relu", math.sqrt(2.0)), ("linear", 1.0), ("selu", 0.75), ("tanh", 5.0 / 3.0)):
            if nonlinearity in ("selu",):
                continue  # torch's 3/4 is not the fixed point's gain: SELU takes 'linear'
            if nonlinearity == "tanh" and activation != "tanh":
                continue
            reason = f"gain({nonlinearity}) = {factor:.4g} over √fan_in = √{fans.fan_in:g}"
            found.append(
                Scheme("kaiming_normal_", (*keyword, ("nonlinearity", f"'{nonlinearity}'")), factor / fan**0.5, reason)
            )
        if activation == "leaky_relu":
            factor = gain("leaky_relu")
            arguments = (*keyword, ("a", "0.01"), ("nonlinearity", "'leaky_relu'"))
            found.append(Scheme("kaiming_normal_", arguments, factor / fan**0.5, f"gain(leaky_relu) = {factor:.4g}"))
    both = math.sqrt(2.0 / (torch_in + torch_out))
    found.append(Scheme("xavier_normal_", (), both, f"gain 1 over the mean of the fans {torch_in} and {torch_out}"))
    ratio = std / both
    rounded = float(f"{ratio:.4g}")
    if 0.05 < ratio < 20.0 and torch_in == torch_out:
        found.append(Scheme("xavier_normal_", (("gain", f"{rounded:g}"),), both * rounded, f"gain {rounded:g}"))
    return found
