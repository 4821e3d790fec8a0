"""One real forward and backward pass per seed, with hooks on a throw-away copy, as rows of the layer table."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.measuring.copying import random_state_kept, throwaway_copy
from initcheck.measuring.device import find_device, map_tensors
from initcheck.measuring.errors import MeasureError
from initcheck.measuring.inputs import batch_size, fresh_inputs, with_batch
from initcheck.results import LayerRow
from initcheck.tracing.outputs import primary_output


@dataclass(frozen=True, slots=True)
class RealPass:
    """What a real pass showed. ``rows``: in order of execution, averaged over the seeds.

    ``spread``: per layer the relative standard error of (forward std, gradient std) over the seeds; empty for one
    seed. ``first_nonfinite``: the first layer whose output holds NaN or inf, with what it holds; empty if none.
    """

    rows: tuple[LayerRow, ...]
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    first_nonfinite: str = ""
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Layer:
    """What the hooks saw of one layer in one pass (its first call, as in the traced graph)."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    mean: float = math.nan
    variance: float = math.nan
    sample_variance: float = math.nan
    dead_share: float | None = None
    gradient: float | None = None
    """E[g²] of the gradient with respect to the output; None: no gradient arrived."""
    weight_gradient: float | None = None
    nonfinite: str = ""


def measure_pass(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    device: str = "cpu",
    seeds: int = 1,
    mode: str = "train",
    redraw: Callable[[nn.Module, torch.Generator], None] | None = None,
) -> RealPass:
    """Run the model for real and measure every layer's output and the gradient that reaches it.

    The pass runs on a copy; the gradient comes from independent N(0, 1) numbers at the primary output. The first seed
    uses the inputs as given, each further one fresh inputs of the same kind, fresh numbers at the output and, in train
    mode, fresh dropout masks. Out of memory halves the batch and says so in the notes.

    Args:
        model: the model; it stays as it is.
        args: positional inputs of its forward.
        kwargs: keyword inputs.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        seeds: number of passes.
        mode: ``"train"`` or ``"eval"``.
        redraw: called with the copy and a seeded generator before each pass, to draw its weights anew.

    Raises:
        DeviceError: no such device.
        MeasureError: the forward or backward pass raised; says in which layer.
        ValueError: ``seeds`` < 1 or an unknown ``mode``.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if mode not in ("train", "eval"):
        raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
    where = find_device(device)
    notes: list[str] = []
    size = full = batch_size(tuple(args), dict(kwargs))
    passes: list[list[_Layer]] = []
    with random_state_kept():
        duplicate = _on_device(throwaway_copy(model), where)
        duplicate.train(mode == "train")
        for parameter in duplicate.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(True)
        buffers = {name: buffer.detach().clone() for name, buffer in duplicate.named_buffers()}
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            drawn = (tuple(args), dict(kwargs)) if seed == 0 else fresh_inputs(tuple(args), dict(kwargs), generator)
            if redraw is not None:
                redraw(duplicate, generator)
            while True:
                torch.manual_seed(seed)
                _restore(duplicate, buffers)
                given = drawn if size == full else with_batch(drawn[0], drawn[1], size)
                try:
                    passes.append(_one_pass(duplicate, given, where, generator))
                    break
                except MeasureError as error:
                    if not _out_of_memory(error.__cause__):
                        raise
                    if size == 1:
                        raise MeasureError(f"out of memory on {where} even with one sample") from error
                _free_memory()
                size = max(1, size // 2)
    if size < full:
        notes.append(f"out of memory with a batch of {full}: measured with {size}")
    return _summary(passes, notes)


def _on_device(model: nn.Module, device: torch.device) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, NotImplementedError) as error:
        if _out_of_memory(error):
            raise MeasureError(f"out of memory on {device}: the weights alone do not fit") from error
        raise MeasureError(f"the model cannot be moved to {device}: {error}") from error


def _restore(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in buffers and buffer.shape == buffers[name].shape:
                buffer.copy_(buffers[name])
    for parameter in model.parameters():
        parameter.grad = None


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


class _Hooks:
    """Forward hooks on every layer; each puts a hook on its output tensor for the gradient."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, _Layer] = {}
        self.running = ""
        self.backward_under_way = False
        self.entered: list[str] = []
        self._handles: list[Any] = []
        layers = [name for name, module in model.named_modules() if is_layer(module)]
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._entering(name), prepend=True))
            if name in layers and (name or len(layers) == 1):  # the root's output is the model's: no layer's
                self._handles.append(module.register_forward_hook(self._leaving(name)))

    def in_order(self) -> list[_Layer]:
        """The layers in the order in which their first calls began."""
        return [self.seen[name] for name in dict.fromkeys(self.entered) if name in self.seen]

    def remove(self) -> None:
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
                layer = self.seen[name] = _forward_statistics(name, module, tensor.detach())
            elif not self.backward_under_way:
                return  # a later call of a shared layer
            if layer is not None and tensor.requires_grad and layer.gradient is None:
                tensor.register_hook(_gradient_hook(layer))  # type: ignore[no-untyped-call]

        return hook


def _gradient_hook(layer: _Layer) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        layer.gradient = _mean_square(gradient)
        layer.dead_share = _dead_share(layer.module, gradient)

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


def _one_pass(
    model: nn.Module, inputs: tuple[Any, Any], device: torch.device, generator: torch.Generator
) -> list[_Layer]:
    hooks = _Hooks(model)
    try:
        args, kwargs = map_tensors(inputs, lambda tensor: tensor.detach().to(device))
        try:
            with torch.enable_grad():
                output = model(*args, **kwargs)
        except Exception as error:
            raise MeasureError(
                f"the forward pass raised in {hooks.running or 'the model itself'}: {type(error).__name__}: {error}"
            ) from error
        target = primary_output(output)
        if target is not None and target.requires_grad:
            noise = torch.randn(target.shape, generator=generator, dtype=torch.float32)
            hooks.backward_under_way = True
            try:
                torch.autograd.backward([target], [noise.to(device=target.device, dtype=target.dtype)])
            except Exception as error:
                raise MeasureError(f"the backward pass raised: {type(error).__name__}: {error}") from error
        for layer in hooks.seen.values():
            weight = _weight_of(layer.module)
            if weight is not None and weight.grad is not None:
                layer.weight_gradient = _mean_square(weight.grad)
        return hooks.in_order()
    finally:
        hooks.remove()


def _weight_of(module: nn.Module) -> nn.Parameter | None:
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


def _forward_statistics(name: str, module: nn.Module, output: Tensor) -> _Layer:
    layer = _Layer(name, module, tuple(output.shape))
    if output.numel() == 0:
        return layer
    values = _precise(output)
    layer.mean = float(values.mean())
    layer.variance = float(values.var(correction=0))
    if not math.isfinite(layer.variance):
        if bool(torch.isnan(output).any()):
            layer.nonfinite = "NaN"
        elif bool(torch.isinf(output).any()):
            layer.nonfinite = "inf"
    dim = channel_dim(module, output) if output.dim() > 1 else 0
    others = [d for d in range(output.dim()) if d != dim]
    count = output.numel() // output.shape[dim] if output.dim() > 1 else 1
    if count > 1:
        layer.sample_variance = float(values.var(dim=others, correction=1).mean())
    return layer


def _precise(tensor: Tensor) -> Tensor:
    """In a precision whose squares neither overflow nor underflow for any scale the tensor itself can hold."""
    if tensor.device.type == "mps":
        return tensor.float()
    peak = float(tensor.abs().max().float())
    return tensor.double() if not 1e-12 < peak < 1e12 or tensor.numel() < 4096 else tensor.float()


def _mean_square(tensor: Tensor) -> float:
    if tensor.is_sparse:
        tensor = tensor.coalesce().to_dense()
    return float(_precise(tensor.detach()).square().mean()) if tensor.numel() else math.nan


def _dead_share(module: nn.Module, gradient: Tensor) -> float | None:
    """Share of channels that no gradient reaches in any sample or position."""
    if gradient.dim() < 2:
        return None
    dim = channel_dim(module, gradient)
    return float((gradient.detach() == 0).movedim(dim, 0).flatten(1).all(1).float().mean())


def _summary(passes: list[list[_Layer]], notes: list[str]) -> RealPass:
    by_name: dict[str, list[_Layer]] = {}
    for layers in passes:
        for layer in layers:
            by_name.setdefault(layer.name, []).append(layer)
    rows = tuple(_row(name, layers) for name, layers in by_name.items())
    spread = {}
    if len(passes) > 1:
        for name, layers in by_name.items():
            spread[name] = (
                _relative_error([_root(layer.variance) for layer in layers]),
                _relative_error([_root(layer.gradient) for layer in layers]),
            )
    first = next((f"{layer.name or '(the model)'}: {layer.nonfinite}" for layer in passes[0] if layer.nonfinite), "")
    if first:
        notes = [*notes, f"the forward pass is not finite from {first} on"]
    return RealPass(rows, spread, first, tuple(notes))


def _row(name: str, layers: list[_Layer]) -> LayerRow:
    weight = _weight_of(layers[0].module)
    return LayerRow(
        name=name,
        kind=_kind(layers[0].module),
        forward_std=_root(_mean([layer.variance for layer in layers])),
        forward_mean=_mean([layer.mean for layer in layers]),
        grad_std=_root(_mean([layer.gradient for layer in layers])),
        sample_std=_root(_mean([layer.sample_variance for layer in layers])),
        weight_grad_std=_root(_mean([layer.weight_gradient for layer in layers])),
        output_shape=layers[0].shape,
        weight_std=float(weight.detach().float().std(correction=0)) if weight is not None else None,
        dead_share=_mean([layer.dead_share for layer in layers]),
    )


def _kind(module: nn.Module) -> str:
    parametrised = nn.utils.parametrize.is_parametrized(module)
    return (nn.utils.parametrize.type_before_parametrizations(module) if parametrised else type(module)).__name__


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value) if value >= 0 else math.nan


def _relative_error(values: list[float | None]) -> float:
    """Standard error of the mean over the seeds, relative to the mean."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return math.nan
    mean = sum(known) / len(known)
    variance = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return math.sqrt(variance / len(known)) / mean if mean else math.nan
