"""What hooks see of a real pass: statistics of every layer's output and of the gradient that reaches it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.measuring.device import tensors_of
from initcheck.tracing.outputs import primary_output

_SATURATED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: x.abs() > 2.1827,  # sech² < 0.05
    "sigmoid": lambda x: x.abs() > 4.357,  # 4σ(1 - σ) < 0.05
    "softsign": lambda x: x.abs() > 3.4721,  # (1 + |x|)⁻² < 0.05
    "hardtanh": lambda x: x.abs() > 1.0,
    "hardsigmoid": lambda x: x.abs() > 3.0,
    "relu6": lambda x: x > 6.0,
}
"""Where a bounded activation has less than 5 % of its largest slope."""


@dataclass(slots=True)
class LayerView:
    """What the hooks saw of one layer in one pass (its first call, as in the traced graph)."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    mean: float = math.nan
    variance: float = math.nan
    sample_variance: float = math.nan
    dead_share: float | None = None
    saturated_share: float | None = None
    gradient: float | None = None
    """E[g²] of the gradient with respect to the output; None: no gradient arrived."""
    weight_gradient: float | None = None
    nonfinite: str = ""
    """NaN or inf, if the output holds it."""
    cause: str = ""
    """Where that comes from, if it does not arise in the layer itself."""
    forward_zero: float = 0.0
    forward_infinite: float = 0.0
    grad_zero: float = 0.0
    grad_infinite: float = 0.0
    """Shares of elements that are zero, and that are not finite."""


class Hooks:
    """Forward hooks on every layer; each puts a hook on its output tensor for the gradient.

    ``activations``: layer to the name of the activation that its output meets.
    """

    def __init__(self, model: nn.Module, activations: Mapping[str, str]) -> None:
        self.seen: dict[str, LayerView] = {}
        self.running = ""
        self.backward_under_way = False
        self.first_bad_gradient = ""
        self.entered: list[str] = []
        self._activations = activations
        self._handles: list[Any] = []
        layers = [name for name, module in model.named_modules() if is_layer(module)]
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._entering(name), prepend=True))
            if name in layers and (name or len(layers) == 1):  # the root's output is the model's: no layer's
                self._handles.append(module.register_forward_hook(self._leaving(name)))

    def in_order(self) -> list[LayerView]:
        """The layers in the order in which their first calls began."""
        return [self.seen[name] for name in dict.fromkeys(self.entered) if name in self.seen]

    def remove(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if not self.backward_under_way:
                self.running = name
                self.entered.append(name)

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = layer_output(output)
            if tensor is None:
                return
            layer = self.seen.get(name)
            if layer is None and not self.backward_under_way:
                layer = _forward_statistics(name, module, tensor.detach(), self._activations.get(name, ""))
                if layer.nonfinite:
                    layer.cause = _cause(module, inputs)
                self.seen[name] = layer
            elif not self.backward_under_way:
                return  # a later call of a shared layer
            if layer is not None and tensor.requires_grad and layer.gradient is None:
                tensor.register_hook(self._gradient_hook(layer))  # type: ignore[no-untyped-call]

        return hook

    def _gradient_hook(self, layer: LayerView) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            layer.gradient = mean_square(gradient)
            layer.dead_share = _dead_share(layer.module, gradient)
            layer.grad_zero, layer.grad_infinite = _lost_shares(gradient)
            if layer.grad_infinite and not self.first_bad_gradient:
                self.first_bad_gradient = layer.name

        return hook


def is_layer(module: nn.Module) -> bool:
    """Whether a module itself owns a weight: a parameter that is no bias (parametrised modules: indirectly)."""
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        return False  # holds the numbers that a layer's weight is computed from; the layer itself has the row
    own = any(p is not None and "bias" not in name.lower() for name, p in module._parameters.items())
    return own or "parametrizations" in module._modules


def layer_output(output: Any) -> Tensor | None:
    """The tensor that stands for a layer's output (of an LSTM its sequence output); None if there is none."""
    tensor = primary_output(output)
    return tensor if tensor is not None and tensor.is_floating_point() else None


def weight_of(module: nn.Module) -> nn.Parameter | None:
    """The layer's weight: the one called so, else its largest parameter."""
    named = module._parameters.get("weight")
    if named is not None:
        return named
    own = [p for name, p in module._parameters.items() if p is not None and "bias" not in name.lower()]
    return max(own, key=lambda p: p.numel()) if own else None


def channel_dim(module: nn.Module, tensor: Tensor) -> int:
    """Which dimension of a layer's output holds its channels: 1 after convolutions and their norms, else the last."""
    name = type(module).__name__.lower()
    if tensor.dim() > 2 and any(part in name for part in ("conv", "batchnorm", "groupnorm", "instancenorm")):
        return 1
    return 1 if tensor.dim() >= 4 and "norm" not in name and "linear" not in name else tensor.dim() - 1


def _forward_statistics(name: str, module: nn.Module, output: Tensor, activation: str) -> LayerView:
    layer = LayerView(name, module, tuple(output.shape))
    if output.numel() == 0:
        return layer
    values = precise(output)
    layer.mean = float(values.mean())
    layer.variance = float(values.var(correction=0))
    layer.forward_zero, layer.forward_infinite = _lost_shares(output)
    if layer.forward_infinite:
        layer.nonfinite = "NaN" if bool(torch.isnan(output).any()) else "inf"
    if activation in _SATURATED:
        layer.saturated_share = float(_SATURATED[activation](values).float().mean())
    dim = channel_dim(module, output) if output.dim() > 1 else 0
    others = [d for d in range(output.dim()) if d != dim]
    count = output.numel() // output.shape[dim] if output.dim() > 1 else 1
    if count > 1:
        layer.sample_variance = float(values.var(dim=others, correction=1).mean())
    return layer


def _cause(module: nn.Module, inputs: Any) -> str:
    """Where a layer's NaN or inf comes from, if not from the layer's own arithmetic."""
    if any(not bool(torch.isfinite(t).all()) for t in tensors_of(inputs) if t.is_floating_point()):
        return "already in its input"
    for name, parameter in module.named_parameters(recurse=False):
        if not bool(torch.isfinite(parameter).all()):
            return f"its {name} holds it"
    return ""


def _lost_shares(tensor: Tensor) -> tuple[float, float]:
    """(share of zeros, share of NaN and inf)."""
    if tensor.is_sparse or tensor.numel() == 0:
        return 0.0, 0.0
    held = tensor.detach()
    return float((held == 0).float().mean()), float((~torch.isfinite(held)).float().mean())


def precise(tensor: Tensor) -> Tensor:
    """In a precision whose squares neither overflow nor underflow for any scale the tensor itself can hold."""
    if tensor.device.type == "mps":
        return tensor.float()
    peak = float(tensor.abs().max().float())
    return tensor.double() if not 1e-12 < peak < 1e12 or tensor.numel() < 4096 else tensor.float()


def mean_square(tensor: Tensor) -> float:
    """E[x²] over all elements."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().to_dense()
    return float(precise(tensor.detach()).square().mean()) if tensor.numel() else math.nan


def _dead_share(module: nn.Module, gradient: Tensor) -> float | None:
    """Share of channels that no gradient reaches in any sample or position."""
    if gradient.dim() < 2:
        return None
    dim = channel_dim(module, gradient)
    return float((gradient.detach() == 0).movedim(dim, 0).flatten(1).all(1).float().mean())
