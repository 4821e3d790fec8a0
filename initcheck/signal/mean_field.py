"""Mean-field theory of a homogeneous stack: fixed point, chi_1, depth scale.

Poole et al. 2016, Schoenholz et al. 2017.

For x_{l+1} = phi(h_l), h = W x + b with Var[w] = sigma_w²/fan_in and Var[b] = sigma_b²:

    q_{l+1} = sigma_w² E[phi(sqrt(q_l) z)²] + sigma_b²        chi_1 = sigma_w² E[phi'(sqrt(q*) z)²]

chi_1 < 1: ordered, correlations go to one and gradients vanish; chi_1 > 1: chaotic, gradients explode; signals survive
about 6 depth scales xi = 1/|ln chi_1|.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from initcheck.signal.grid import nodes

Activation = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Response:
    """E[phi], E[phi²] and E[phi'²] at pre-activations N(mean, variance)."""

    mean: float
    second: float
    slope: float

    @property
    def variance(self) -> float:
        """Var[phi]."""
        return self.second - self.mean**2


def response(activation: Activation, variance: float, mean: float = 0.0) -> Response:
    """Gaussian averages of an activation, by the quadrature that propagation uses."""
    at = nodes(0)
    u = torch.from_numpy(mean + math.sqrt(max(variance, 0.0)) * at.z).requires_grad_(True)
    with torch.enable_grad():
        values = activation(u)
        (slope,) = torch.autograd.grad(values.sum(), u)
    weights = torch.from_numpy(at.weights)
    values = values.detach()
    return Response(float(weights @ values), float(weights @ values**2), float(weights @ slope**2))


def _second_moment(activation: Activation, variance: float) -> float:
    """E[phi²] at N(0, variance): what the iteration needs, without the derivative."""
    at = nodes(0)
    with torch.no_grad():
        values = activation(torch.from_numpy(math.sqrt(max(variance, 0.0)) * at.z))
    return float(torch.from_numpy(at.weights) @ values**2)


@dataclass(frozen=True, slots=True)
class Stack:
    """A homogeneous stack at its fixed point. ``variance``: q*, nan if there is none (it grows without bound)."""

    variance: float
    chi: float

    @property
    def depth_scale(self) -> float:
        """xi = 1/|ln chi_1|, in layers; infinite at the edge of chaos."""
        if not self.chi > 0 or not math.isfinite(self.chi):
            return math.nan if math.isnan(self.chi) else 0.0
        distance = abs(math.log(self.chi))
        return 1.0 / distance if distance > 0 else math.inf

    @property
    def trainable_depth(self) -> float:
        """About six depth scales (Schoenholz et al. 2017, sec. 5)."""
        return 6.0 * self.depth_scale


def fixed_point(activation: Activation, weight_variance: float, bias_variance: float = 0.0) -> Stack:
    """q* and chi_1 of a stack, by iteration from q = 1; homogeneous activations keep q or leave it geometrically."""
    q = 1.0
    for _ in range(2000):
        following = weight_variance * _second_moment(activation, q) + bias_variance
        if not math.isfinite(following) or following > 1e30:
            return Stack(math.nan, weight_variance * response(activation, q).slope)
        if abs(following - q) <= 1e-12 * max(q, 1e-300) or following < 1e-30:
            q = following
            break
        q = following
    return Stack(q, weight_variance * response(activation, q).slope)


def critical_weight_variance(activation: Activation, bias_variance: float = 0.0, high: float = 16.0) -> float:
    """The sigma_w² at which chi_1 = 1 (edge of chaos), by bisection."""
    low = 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if fixed_point(activation, middle, bias_variance).chi < 1.0:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def variance_preserving_gain(activation: Activation) -> float:
    """1/std of phi(z), z ~ N(0, 1): the factor of NF-Nets (Brock et al. 2021, sec. 3)."""
    return 1.0 / math.sqrt(response(activation, 1.0).variance)
