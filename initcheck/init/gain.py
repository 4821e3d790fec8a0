"""The gain of an activation: the factor on the weights' scale that undoes what the activation does to the signal.

With z ~ N(0, 1) and an activation φ, ``gain(φ) = 1 / sqrt(E[φ(z)²])``: a layer with weights of variance
gain² / fan_in that reads φ(z) gives outputs of variance 1 again (He et al. 2015, eq. 10, for any φ). All expectations
are integrals over the standard normal density, solved to 1e-9 by a quadrature that halves its panels where the
integrand is not smooth, so kinks (ReLU) and jumps (hard shrinkage) need no special care.

Names need no torch.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]
Convention = Literal["second_moment", "variance", "torch"]

_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717
_REACH = 14.0
"""Beyond this many standard deviations the normal density is below 1e-42."""
_TOLERANCE = 1e-12
_MOST_HALVINGS = 48


def _erf(x: Array) -> Array:
    return np.asarray(_erf_each(x), dtype=np.float64)


_erf_each = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, x))


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return np.where(x > 0, x, slope * x)


def _hard_sigmoid(x: Array) -> Array:
    return np.asarray(np.clip(x / 6.0 + 0.5, 0.0, 1.0))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


ACTIVATIONS: dict[str, Function] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "leaky_relu": _leaky_relu,
    "prelu": functools.partial(_leaky_relu, slope=0.25),
    "rrelu": functools.partial(_leaky_relu, slope=(1.0 / 8.0 + 1.0 / 3.0) / 2.0),
    "squared_relu": lambda x: np.maximum(x, 0.0) ** 2,
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "elu": _elu,
    "celu": _elu,
    "selu": lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    "softplus": _softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "tanh": np.tanh,
    "lecun_tanh": lambda x: 1.7159 * np.tanh(2.0 * x / 3.0),
    "hardtanh": lambda x: np.clip(x, -1.0, 1.0),
    "sigmoid": _sigmoid,
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda x: x * _hard_sigmoid(x),
    "logsigmoid": lambda x: -_softplus(-x),
    "tanhshrink": lambda x: x - np.tanh(x),
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0.0),
    "hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0.0),
    "sin": np.sin,
}
"""Activations by name, at torch's default parameters."""

_ALIASES = {
    "": "identity",
    "none": "identity",
    "linear": "identity",
    "conv1d": "identity",
    "conv2d": "identity",
    "conv3d": "identity",
    "conv_transpose1d": "identity",
    "conv_transpose2d": "identity",
    "conv_transpose3d": "identity",
    "swish": "silu",
    "hard_tanh": "hardtanh",
    "hard_sigmoid": "hardsigmoid",
    "hard_swish": "hardswish",
    "log_sigmoid": "logsigmoid",
    "gelu_new": "gelu_tanh",
    "relu2": "squared_relu",
    "relu_squared": "squared_relu",
}

_SLOPED: dict[str, Callable[[Array, float], Array]] = {
    "leaky_relu": _leaky_relu,
    "prelu": _leaky_relu,
    "rrelu": _leaky_relu,
    "elu": _elu,
    "celu": lambda x, alpha: _elu(x / alpha, alpha),
}
"""Activations with one parameter: the negative slope, or alpha."""

_TORCH_GAINS: dict[str, float] = {
    "identity": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4.0,
}
"""``torch.nn.init.calculate_gain``: conventions rather than integrals for tanh, sigmoid and SELU."""


def canonical_name(activation: str) -> str:
    """The name under which an activation is known here (``"linear"`` is ``"identity"``, ``"swish"`` is ``"silu"``).

    Raises:
        ValueError: for an unknown name; lists those there are.
    """
    name = activation.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"unknown activation {activation!r}: expected one of {known}, an nn.Module or a callable")
    return name


def gain(
    activation: str | nn.Module | Callable[[Any], Any],
    param: float | None = None,
    *,
    convention: Convention = "second_moment",
) -> float:
    """The gain of an activation.

    ``convention``:

    - ``"second_moment"`` (default): 1 / sqrt(E[φ(z)²]), z ~ N(0, 1): √2 for ReLU, 1 for SELU (its fixed point),
      1.5925 for tanh. What keeps the second moment of pre-activations from layer to layer.
    - ``"variance"``: 1 / sqrt(Var[φ(z)]), the γ of scaled weight standardisation (Brock et al. 2021, NF-Nets).
    - ``"torch"``: the constants of ``torch.nn.init.calculate_gain`` where that function has one (tanh 5/3, sigmoid 1,
      SELU 3/4); a ``ValueError`` where it has none.

    Args:
        activation: a name (``"relu"``, ``"gelu"``, ``"lecun_tanh"`` for 1.7159·tanh(2x/3), ...), a module, or any
            elementwise function of a tensor. A module is evaluated as in eval mode, in float64, on a copy.
        param: the negative slope of ``"leaky_relu"``/``"prelu"``/``"rrelu"``, or alpha of ``"elu"``/``"celu"``.

    Returns:
        The gain, with an absolute error below 1e-6 (for the named ones below 1e-9).

    Raises:
        ValueError: unknown name or convention; ``param`` for an activation that has none; an activation that is not
            elementwise, or whose moment is zero, infinite or undefined.
    """
    if convention == "torch":
        return _torch_gain(activation, param)
    if convention not in ("second_moment", "variance"):
        raise ValueError(f"convention must be 'second_moment', 'variance' or 'torch', got {convention!r}")
    if isinstance(activation, str):
        mean, second = _named_moments(canonical_name(activation), param)
    else:
        if param is not None:
            raise ValueError("param is for activations given by name; bind it into the module or function instead")
        mean, second = moments(_torch_function(activation))
    moment = second if convention == "second_moment" else second - mean * mean
    if not math.isfinite(moment) or moment <= 1e-15:
        what = "E[φ(z)²]" if convention == "second_moment" else "Var[φ(z)]"
        raise ValueError(f"{_label(activation)} has no gain: {what} is {moment:g} for z ~ N(0, 1)")
    return 1.0 / math.sqrt(moment)


def moments(function: Function) -> tuple[float, float]:
    """(E[φ(z)], E[φ(z)²]) for z ~ N(0, 1)."""

    def integrand(x: Array) -> Array:
        density = np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        value = np.asarray(function(x), dtype=np.float64)
        return np.stack([value * density, value * value * density])

    first, second = _integrate(integrand)
    return first, second


@functools.cache
def _named_moments(name: str, param: float | None) -> tuple[float, float]:
    return moments(ACTIVATIONS[name] if param is None else parametrised(name, float(param)))


def parametrised(name: str, param: float) -> Function:
    """The activation with its one parameter (slope or alpha) bound.

    Raises:
        ValueError: if the activation has none.
    """
    if name not in _SLOPED:
        raise ValueError(f"{name!r} takes no param; only {', '.join(sorted(_SLOPED))} do")
    sloped = _SLOPED[name]
    return lambda x: sloped(x, param)


def _torch_gain(activation: object, param: float | None) -> float:
    if not isinstance(activation, str):
        raise ValueError("convention='torch' knows activations by name only")
    name = canonical_name(activation)
    if name == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1.0 + slope * slope))
    if name not in _TORCH_GAINS:
        raise ValueError(f"torch.nn.init.calculate_gain has no gain for {name!r}; use convention='second_moment'")
    return _TORCH_GAINS[name]


def _label(activation: object) -> str:
    return repr(activation) if isinstance(activation, str) else getattr(activation, "__name__", repr(activation))


def _torch_function(activation: Callable[[Any], Any]) -> Function:
    """The activation as a numpy function; checked to be elementwise."""
    import torch
    from torch import nn

    if not callable(activation):
        raise ValueError(f"activation must be a name, an nn.Module or a callable, got {type(activation).__name__}")
    call: Callable[[Any], Any] = activation
    if isinstance(activation, nn.Module):
        call = copy.deepcopy(activation).double().eval()

    def function(x: Array) -> Array:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(x))
            value = call(given.clone())
        if not isinstance(value, torch.Tensor) or value.shape != given.shape:
            raise ValueError(f"{_label(activation)} is not elementwise: it does not keep the shape of its input")
        return np.asarray(value.double().cpu().numpy())

    probe = np.array([-2.0, -0.5, 0.25, 1.0])
    together, apart = function(probe), np.concatenate([function(probe[i : i + 1]) for i in range(4)])
    if not np.allclose(together, apart, rtol=1e-5, atol=1e-7, equal_nan=True):
        raise ValueError(f"{_label(activation)} is not elementwise: its value at one element depends on the others")
    return function


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(15)


def _panels(integrand: Callable[[Array], Array], left: Array, right: Array) -> Array:
    """Gauss-Legendre value of every component over each panel, shape (components, panels)."""
    centre, half = 0.5 * (left + right), 0.5 * (right - left)
    points = centre[:, None] + half[:, None] * _NODES[None, :]
    values = integrand(points.reshape(-1)).reshape(-1, *points.shape)
    return np.asarray((values * _WEIGHTS).sum(-1) * half)


def _integrate(integrand: Callable[[Array], Array]) -> list[float]:
    """Integral of each component over the reach, halving panels until the two halves agree with the whole."""
    edges = np.linspace(-_REACH, _REACH, int(4 * _REACH) + 1)
    left, right = edges[:-1], edges[1:]
    whole = _panels(integrand, left, right)
    total = np.zeros(whole.shape[0])
    for _ in range(_MOST_HALVINGS):
        middle = 0.5 * (left + right)
        lower, upper = _panels(integrand, left, middle), _panels(integrand, middle, right)
        error = np.abs(lower + upper - whole).max(0)
        rough = error > _TOLERANCE * np.maximum(1.0, np.abs(whole).max(0))
        total += (lower + upper)[:, ~rough].sum(1)
        if not rough.any():
            break
        left, right = np.concatenate([left[rough], middle[rough]]), np.concatenate([middle[rough], right[rough]])
        whole = np.concatenate([lower[:, rough], upper[:, rough]], axis=1)
    else:
        total += whole.sum(1)
    return [float(value) for value in total]
