"""Initialisation that looks at data: LSUV, and pulling layers back to the scale that was predicted for them."""

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
    """Forward hooks that rescale a layer until its output has the variance it should, and hand that output on."""

    def __init__(self, tolerance: float, most: int, start: Callable[[Tensor], object] | None = None) -> None:
        self.tolerance, self.most, self.start = tolerance, most, start
        self.steps: dict[str, LsuvStep] = {}

    def hook(
        self, name: str, target: float = 1.0
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], Tensor | None]:
        def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
            if name in self.steps:
                return None  # a later call of a shared layer: its weight is set
            weight = module.weight
            assert isinstance(weight, Tensor)
            if self.start is not None:
                self.start(weight)
                output = module.forward(*args, **kwargs)
            before = variance = float(output.double().var(correction=0)) / target
            count = 0
            while abs(variance - 1.0) >= self.tolerance and count < self.most:
                if not math.isfinite(variance) or variance <= 0.0:
                    break
                weight.div_(math.sqrt(variance))
                output = module.forward(*args, **kwargs)
                variance = float(output.double().var(correction=0)) / target
                count += 1
            converged = abs(variance - 1.0) < self.tolerance
            self.steps[name] = LsuvStep(name, before * target, variance * target, count, converged)
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
    start = (lambda weight: orthogonal_(weight, generator=generator)) if orthonormal else None
    rescaler = _Rescaler(tolerance, t_max, start)
    _run(model, args, kwargs, {module: rescaler.hook(name) for name, module in layers.items()})
    return list(rescaler.steps.values())


def pull_back_(
    model: nn.Module,
    targets: Mapping[str, float],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    slack: float = 1.1,
) -> list[LsuvStep]:
    """Rescale the weights of layers whose output is further than a factor ``slack`` from the std it should have.

    A scheme fixes the *expected* scale; in a deep net of finite width what is drawn wanders off by chance. One forward
    pass in order of execution, as in LSUV; layers that are near enough keep their weights.

    Args:
        model: the model, changed in place; if the pass fails, its weights are as they were.
        targets: layer name to the std of its output.
        args: positional inputs.
        kwargs: keyword inputs.
        slack: the factor.

    Returns:
        The layers that were rescaled.
    """
    modules = dict(model.named_modules())
    rescaler = _Rescaler(tolerance=0.05, most=3)
    hooks = {}
    for name, std in targets.items():
        module = modules.get(name)
        if module is not None and _has_own_weight(module) and std > 0.0:
            hooks[module] = _if_far(rescaler.hook(name, std**2), std, slack)
    _run(model, args, kwargs, hooks)
    return [step for step in rescaler.steps.values() if step.rescalings]


def _if_far(hook: Callable[..., Any], std: float, slack: float) -> Callable[..., Any]:
    def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Any:
        found = float(output.double().std(correction=0))
        near = std / slack <= found <= std * slack
        return None if near or not math.isfinite(found) else hook(module, args, kwargs, output)

    return run


def _run(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], hooks: Mapping[nn.Module, Callable[..., Any]]
) -> None:
    """One forward pass under the hooks; weights put back if it fails, buffers in any case."""
    saved = {module: module.weight.detach().clone() for module in hooks}  # type: ignore[operator]
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m, hook in hooks.items()]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except BaseException:
        with torch.no_grad():
            for module, weight in saved.items():
                module.weight.copy_(weight)  # type: ignore[operator]
        raise
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
