"""Standard schemes by name: the scale a weight should have, and the torch.nn.init call that gives it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from initcheck.init.fans import Fans
from initcheck.init.gain import ACTIVATIONS, Array, Function, canonical_name, moments, parametrised
from initcheck.init.structure import Activation

Arguments = tuple[tuple[str, str], ...]

NEAR = 0.005
"""Two scales this close (relative) are the same: a named scheme is preferred to a number."""
_GRID = tuple(0.55 * 1.05**i for i in range(27))  # 0.55 to 1.96: well inside the healthy band
_SPREAD = 0.075
"""Typical relative error of a layer's std at some hundred units; instability multiplies it from layer to layer."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A call of ``torch.nn.init`` (function, keyword arguments as source text), its std, and why."""

    function: str
    arguments: Arguments
    std: float
    why: str


_CONVENTIONAL: dict[str, tuple[float, float]] = {"selu": (1.0, math.inf), "tanh": (1.0853, 8)}
"""Scale that the field's convention gives, and the depth up to which it serves: SELU's fixed point; torch's
5/3 for tanh (1.0853/√E[tanh²(1.0853 z)] = 5/3), whose gradients grow by a fifth per layer."""


MOSTLY_MEAN = 0.5
"""An activation more of whose second moment than this is its squared mean (sigmoid: .7) drowns the input in depth."""


@functools.cache
def target_std(activation: Activation, depth: int, centred: bool = False) -> float:
    """The std that an activation's input should have in a net with ``depth`` layers of that activation.

    ReLU-like activations keep any scale; theirs makes the *output*'s second moment 1 (√2 for ReLU: He's convention).
    Others have one scale s at which a gain g(s) = s/√E[φ(sz)²] keeps the second moment, at the price of a gradient
    that changes by χ = g²·E[φ'(sz)²] per layer, and of a slope d ln q'/d ln q by which an error in the second moment q
    grows or shrinks. The scale taken is the one whose worst deviation over ``depth`` layers is least. ``centred``: the
    layers behind have weights that sum to zero, and see the activation without its mean.
    """
    function = _function(activation)
    if function is None:
        return 1.0
    if centred:
        return min(_GRID, key=lambda s: _cost(function, s, min(depth, 100), _spread))
    if _homogeneous(function):
        return 1.0 / math.sqrt(moments(function)[1])
    usual, most = _CONVENTIONAL.get(activation.name, (1.0, 0))
    if depth <= most:
        return usual
    depth = min(depth, 100)
    return min(_GRID, key=lambda s: _cost(function, s, depth))


def _function(activation: Activation) -> Function | None:
    try:
        name = canonical_name(activation.name)
    except ValueError:
        return None  # a gate, or an op that is no elementwise activation
    return ACTIVATIONS[name] if activation.param is None else parametrised(name, activation.param)


def _homogeneous(function: Function) -> bool:
    return abs(_rms(function, 2.0) - 2.0 * _rms(function, 1.0)) < 1e-9


def _rms(function: Function, s: float) -> float:
    return math.sqrt(moments(lambda x: function(s * x))[1])


def _spread(function: Function, s: float) -> float:
    mean, second = moments(lambda x: function(s * x))
    return math.sqrt(max(second - mean**2, 0.0))


def _cost(function: Function, s: float, depth: int, size: Callable[[Function, float], float] = _rms) -> float:
    """The largest log deviation that ``depth`` layers at scale ``s`` come to."""
    gain, step = s / size(function, s), 1.02
    chi = gain**2 * _slope_moment(function, s)
    slope = math.log(size(function, s * step) / size(function, s / step)) / math.log(step**2)
    gradient = 0.25 * depth * abs(math.log(chi))  # half of the range of the std
    wobble = _SPREAD * max(slope, 0.0) ** min(depth, 60)
    return max(1.2 * abs(math.log(s)), gradient, wobble)


def _slope_moment(function: Function, s: float) -> float:
    """E[φ'(sz)²], by central differences (kinks have no weight in it)."""
    h = 1e-5

    def slope(x: Array) -> Array:
        return (function(s * x + h) - function(s * x - h)) / (2.0 * h)

    return moments(slope)[1]


@functools.cache
def activation_rms(activation: Activation, s: float) -> float:
    """√E[φ(sz)²]: what a layer reads from that activation; 1 for none."""
    function = _function(activation)
    return _rms(function, s) if function is not None else 1.0


@functools.cache
def activation_spread(activation: Activation, s: float) -> float:
    """Std of φ(sz): what a layer whose weights sum to zero reads from that activation; 1 for none."""
    function = _function(activation)
    return _spread(function, s) if function is not None else 1.0


@functools.cache
def is_mostly_mean(activation: Activation) -> bool:
    """Whether the mean of the activation's output at unit scale outweighs what varies (sigmoid, softplus)."""
    function = _function(activation)
    return function is not None and moments(function)[0] ** 2 > MOSTLY_MEAN * moments(function)[1]


def centred_scheme(shape: tuple[int, ...], std: float) -> Scheme:
    """Weights of that std whose rows sum to zero."""
    gain = f"{std * math.sqrt(max(shape[0], math.prod(shape[1:]))):.4g}"
    exact = float(gain) / math.sqrt(max(shape[0], math.prod(shape[1:])))
    return Scheme("centred_orthogonal_", (("gain", gain),), exact, "rows that sum to zero let no mean pass")


def scheme_for(shape: tuple[int, ...], fans: Fans, std: float, activation: Activation, transposed: bool) -> Scheme:
    """The call that gives ``std``: a named scheme if one does (within ``NEAR``), else ``normal_`` with the number."""
    for scheme in _named(shape, fans, activation, transposed, std):
        if abs(math.log(scheme.std / std)) <= NEAR:
            return scheme
    value = f"{std:.4g}"
    gain = std * math.sqrt(fans.fan_in)
    return Scheme("normal_", (("mean", "0.0"), ("std", value)), float(value), f"{gain:.4g}/√fan_in = {value}")


def _named(shape: tuple[int, ...], fans: Fans, activation: Activation, transposed: bool, std: float) -> list[Scheme]:
    """Candidate calls, the most usual first, with the std that torch gives them (it reads its fans off the shape)."""
    taps = math.prod(shape[2:])
    torch_in, torch_out = shape[1] * taps, shape[0] * taps
    mode, fan = ("fan_out", torch_out) if transposed else ("fan_in", torch_in)
    prefix: Arguments = (("mode", "'fan_out'"),) if transposed else ()
    found = []
    factors: list[tuple[str, Arguments, float]] = [
        ("relu", (), math.sqrt(2.0)),
        ("linear", (), 1.0),
        ("tanh", (), 5.0 / 3.0),
    ]
    if activation.name == "leaky_relu":
        slope = 0.01 if activation.param is None else activation.param
        factors.insert(0, ("leaky_relu", (("a", f"{slope:g}"),), math.sqrt(2.0 / (1.0 + slope**2))))
    for name, extra, factor in factors:
        arguments = (*prefix, *extra, ("nonlinearity", f"'{name}'"))
        found.append(Scheme("kaiming_normal_", arguments, factor / math.sqrt(fan), f"{factor:.4g}/√{mode}"))
    both = math.sqrt(2.0 / (torch_in + torch_out))
    found.append(Scheme("xavier_normal_", (), both, "1/√(mean of the fans)"))
    ratio = float(f"{std / both:.4g}")
    if 0.05 < ratio < 20.0 and torch_in == torch_out:
        found.append(Scheme("xavier_normal_", (("gain", f"{ratio:g}"),), both * ratio, f"gain {ratio:g}"))
    return found
