"""Initialisation that looks at data: LSUV."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.init.orthogonal import orthogonal_
from initcheck.library import split_inputs

SCALED_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""Layers that compute weight × input: scaling the weight scales the output."""


@dataclass(frozen=True, slots=True)
class LsuvStep:
    """What LSUV did to one layer. ``converged``: the variance is within the tolerance of 1."""

    layer: str
    variance_before: float
    variance: float
    rescalings: int
    converged: bool


class _Rescaler:
    """A forward hook that rescales a layer until its output has unit variance, and hands that output on."""

    def __init__(self, tolerance: float, most: int, orthonormal: bool, generator: torch.Generator | None) -> None:
        self.tolerance, self.most = tolerance, most
        self.orthonormal, self.generator = orthonormal, generator
        self.steps: dict[str, LsuvStep] = {}

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], Tensor | None]:
        def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if name in self.steps:
                return None  # a later call of a shared layer: its weight is set
            weight = module.weight
            assert isinstance(weight, Tensor)
            if self.orthonormal:
                orthogonal_(weight, generator=self.generator)
                output = module.forward(*args, **kwargs)
            before = variance = float(output.double().var(correction=0))
            count = 0
            while abs(variance - 1.0) >= self.tolerance and count < self.most:
                if not math.isfinite(variance) or variance <= 0.0:
                    break
                weight.div_(math.sqrt(variance))
                output = module.forward(*args, **kwargs)
                variance = float(output.double().var(correction=0))
                count += 1
            self.steps[name] = LsuvStep(name, before, variance, count, abs(variance - 1.0) < self.tolerance)
            return output

        return run


def _has_own_weight(module: nn.Module) -> bool:
    """A weight that is a parameter with values (a parametrised one is recomputed: scaling it would be lost)."""
    if not isinstance(module, SCALED_LAYERS):
        return False
    weight = module._parameters.get("weight")
    return weight is not None and not weight.is_meta


def lsuv_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    tolerance: float = 0.05,
    t_max: int = 10,
    orthonormal: bool = True,
    generator: torch.Generator | None = None,
) -> list[LsuvStep]:
    """Layer-sequential unit variance (Mishkin and Matas 2016, algorithm 1), in one forward pass.

    In order of execution, every linear and convolutional layer gets an orthonormal weight, which is then divided by the
    standard deviation of the layer's output until |variance - 1| < ``tolerance`` or ``t_max`` rescalings; each layer
    is finished before the next one sees its output. Buffers and flags are as before.

    Args:
        model: the model, changed in place; if the forward pass fails, its weights are as they were.
        example_inputs: real data: one tensor, a sequence of arguments or a mapping of keyword arguments.
        tolerance: of the variance.
        t_max: most rescalings per layer.
        orthonormal: start from orthonormal weights (else from the weights as they are).
        generator: source of randomness of the orthonormal weights.

    Returns:
        What was done, layer by layer; a layer whose output has no variance is left unconverged.

    Raises:
        ValueError: if the model has no linear or convolutional layer with a weight of its own.
    """
    layers = {n: m for n, m in model.named_modules() if _has_own_weight(m)}
    if not layers:
        raise ValueError("lsuv_: the model has no linear or convolutional layer with a weight of its own")
    args, kwargs = split_inputs(example_inputs)
    saved = {n: m.weight.detach().clone() for n, m in layers.items()}
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    rescaler = _Rescaler(tolerance, t_max, orthonormal, generator)
    handles = [m.register_forward_hook(rescaler.hook(n), with_kwargs=True) for n, m in layers.items()]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except BaseException:
        with torch.no_grad():
            for name, module in layers.items():
                module.weight.copy_(saved[name])
        raise
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
    return list(rescaler.steps.values())
