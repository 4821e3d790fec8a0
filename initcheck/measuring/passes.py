"""One real forward and backward pass per seed, with hooks on a throw-away copy, as rows of the layer table."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.measuring.copying import random_state_kept, throwaway_copy
from initcheck.measuring.device import find_device, map_tensors, tensors_of
from initcheck.measuring.errors import MeasureError
from initcheck.measuring.hooks import Hooks, LayerView, mean_square, weight_of
from initcheck.measuring.inputs import batch_size, fresh_inputs, with_batch
from initcheck.measuring.loss import classes_of, cross_entropy, labels_fit, random_labels
from initcheck.results import InitialLoss, LayerRow
from initcheck.tracing.outputs import primary_output

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name to the dtype of autocast; None: no autocast."""

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % for 1 to 10 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a layer's elements that are zero, and not finite: forward, then gradient."""

    forward_zero: float
    forward_infinite: float
    grad_zero: float
    grad_infinite: float


@dataclass(frozen=True, slots=True)
class RealPass:
    """What a real pass showed. ``rows``: in order of execution, averaged over the seeds.

    ``spread``: per layer the relative standard error of (forward std, gradient std) over the seeds; empty for one
    seed. ``first_nonfinite``: the first layer whose output holds NaN or inf, with what it holds; empty if none.
    ``peak_bytes``: of accelerator memory; None on the CPU. ``batch``: the size that was run.
    """

    rows: tuple[LayerRow, ...]
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    first_nonfinite: str = ""
    notes: tuple[str, ...] = ()
    seeds: int = 1
    loss: InitialLoss | None = None
    shares: Mapping[str, Shares] = field(default_factory=dict)
    peak_bytes: int | None = None
    batch: int = 1

    def interval(self, name: str) -> tuple[float | None, float | None]:
        """Half of the 95 % confidence intervals of a layer's (forward, gradient) std, relative to them."""
        if name not in self.spread:
            return None, None
        freedom = self.seeds - 1
        t = _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.4 / freedom
        forward, gradient = (None if math.isnan(e) else t * e for e in self.spread[name])
        return forward, gradient


@dataclass(slots=True)
class _Pass:
    """One pass: its layers, its loss, and what went wrong in it."""

    layers: list[LayerView]
    loss: float | None = None
    classes: int = 0
    real_labels: bool = False
    bad_gradient: str = ""
    bad_output: str = ""


def measure_pass(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    device: str = "cpu",
    seeds: int = 1,
    mode: str = "train",
    redraw: Callable[[nn.Module, torch.Generator], None] | None = None,
    precision: str = "fp32",
    activations: Mapping[str, str] | None = None,
    more: Sequence[tuple[tuple[Any, ...], dict[str, Any], Any]] = (),
    target: Any = None,
    tell: Callable[[int], None] | None = None,
) -> RealPass:
    """Run the model for real and measure every layer's output and the gradient that reaches it.

    The pass runs on a copy; the gradient comes from independent N(0, 1) numbers at the primary output. The first seed
    uses the inputs as given, each further one the next of ``more`` or fresh inputs of the same kind, fresh numbers at
    the output and, in train mode, fresh dropout masks. Out of memory halves the batch and says so in the notes.

    Args:
        model: the model; it stays as it is.
        args: positional inputs of its forward.
        kwargs: keyword inputs.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        seeds: number of passes.
        mode: ``"train"`` or ``"eval"``.
        redraw: called with the copy and a seeded generator before each pass, to draw its weights anew.
        precision: ``"fp32"``, or ``"bf16"`` or ``"fp16"`` for a pass under autocast.
        activations: layer to the name of the activation that its output meets, for the share of saturated units.
        more: batches (positional inputs, keyword inputs, target) for the seeds after the first.
        target: class labels of the first batch; without, the initial loss is that of random ones.
        tell: called with the number of passes done.

    Raises:
        DeviceError: no such device.
        MeasureError: the forward or backward pass raised; says in which layer.
        ValueError: ``seeds`` < 1, or an unknown ``mode`` or ``precision``.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if mode not in ("train", "eval"):
        raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    where = find_device(device)
    notes: list[str] = []
    size = full = batch_size(tuple(args), dict(kwargs))
    passes: list[_Pass] = []
    peak: int | None = None
    with random_state_kept():
        duplicate = _on_device(throwaway_copy(model), where)
        duplicate.train(mode == "train")
        for parameter in duplicate.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(True)
        buffers = {name: buffer.detach().clone() for name, buffer in duplicate.named_buffers()}
        _reset_peak(where)
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            label = target if seed == 0 else None
            drawn = (tuple(args), dict(kwargs))
            if 0 < seed <= len(more):
                drawn, label = more[seed - 1][:2], more[seed - 1][2]
            elif seed:
                drawn = fresh_inputs(tuple(args), dict(kwargs), generator)
            if redraw is not None:
                redraw(duplicate, generator)
            while True:
                torch.manual_seed(seed)
                _restore(duplicate, buffers)
                given = drawn if size == full else with_batch(drawn[0], drawn[1], size)
                fitting = label[:size] if isinstance(label, Tensor) and size < full else label
                try:
                    passes.append(
                        _one_pass(duplicate, given, where, generator, PRECISIONS[precision], activations or {}, fitting)
                    )
                    break
                except MeasureError as error:
                    if not _out_of_memory(error.__cause__):
                        raise
                    if size == 1:
                        raise MeasureError(f"out of memory on {where} even with one sample") from error
                _free_memory()
                size = max(1, size // 2)
            if tell is not None:
                tell(seed + 1)
        peak = _peak(where)
    if size < full:
        notes.append(f"out of memory with a batch of {full}: measured with {size}")
    return _summary(passes, notes, peak, size)


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


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    """The most memory of the accelerator that was taken at a time."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(torch.mps.driver_allocated_memory()) if device.type == "mps" else None


def _out_of_memory(error: BaseException | None) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _one_pass(
    model: nn.Module,
    inputs: tuple[Any, Any],
    device: torch.device,
    generator: torch.Generator,
    dtype: torch.dtype | None,
    activations: Mapping[str, str],
    label: Any,
) -> _Pass:
    hooks = Hooks(model, activations)
    try:
        args, kwargs = map_tensors(inputs, lambda tensor: tensor.detach().to(device))
        try:
            with torch.enable_grad(), _autocast(device, dtype):
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
            weight = weight_of(layer.module)
            if weight is not None and weight.grad is not None:
                layer.weight_gradient = mean_square(weight.grad)
        done = _Pass(hooks.in_order(), bad_gradient=hooks.first_bad_gradient)
        done.bad_output = _bad(inputs, target)
        if target is not None:
            _first_loss(done, model, (args, kwargs), target.detach(), label, generator)
        return done
    finally:
        hooks.remove()


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _bad(inputs: Any, output: Tensor | None) -> str:
    """What is not finite: the inputs, or else the output."""
    if any(not bool(torch.isfinite(t).all()) for t in tensors_of(inputs) if t.is_floating_point()):
        return "the inputs hold NaN or inf"
    if output is not None and not bool(torch.isfinite(output).all()):
        return "the model's output is not finite"
    return ""


def _first_loss(
    done: _Pass, model: nn.Module, inputs: Any, output: Tensor, label: Any, generator: torch.Generator
) -> None:
    if labels_fit(output, label):
        labels, done.real_labels = label.to(output.device), True
        done.classes = output.shape[1 if output.dim() >= 4 else -1]
    else:
        done.classes = classes_of(model, inputs, output)
        labels = random_labels(output, generator) if done.classes else None
    if labels is not None:
        try:
            done.loss = float(cross_entropy(output, labels))
        except (RuntimeError, IndexError):  # labels that are no class numbers
            done.classes = 0


def _summary(passes: list[_Pass], notes: list[str], peak: int | None, size: int) -> RealPass:
    by_name: dict[str, list[LayerView]] = {}
    for one in passes:
        for layer in one.layers:
            by_name.setdefault(layer.name, []).append(layer)
    rows = tuple(_row(name, layers) for name, layers in by_name.items())
    spread = {}
    if len(passes) > 1:
        for name, layers in by_name.items():
            spread[name] = (
                _relative_error([_root(layer.variance) for layer in layers]),
                _relative_error([_root(layer.gradient) for layer in layers]),
            )
    first = next((layer for layer in passes[0].layers if layer.nonfinite), None)
    label = f"{first.name or '(the model)'}: {first.nonfinite}" if first is not None else ""
    if passes[0].bad_output == "the inputs hold NaN or inf":
        notes = [*notes, passes[0].bad_output]
    elif first is not None:
        notes = [*notes, f"the forward pass is not finite from {label} on{_because(first, passes[0].layers)}"]
    elif passes[0].bad_output:
        notes = [*notes, f"{passes[0].bad_output}, though every layer's is: it arises after {_last(passes[0].layers)}"]
    elif passes[0].bad_gradient:
        notes = [*notes, f"the gradient is not finite from {passes[0].bad_gradient} on back"]
    return RealPass(
        rows, spread, label, tuple(notes), len(passes), _loss(passes), _shares(by_name), peak, size
    )  # fmt: skip


def _because(layer: LayerView, layers: Sequence[LayerView]) -> str:
    if layer.cause != "already in its input":
        return f" ({layer.cause})" if layer.cause else ""
    index = [one.name for one in layers].index(layer.name)
    before = f"after {layers[index - 1].name}" if index else "before it"
    return f" ({layer.cause}: it arises {before})"


def _last(layers: Sequence[LayerView]) -> str:
    return layers[-1].name if layers else "the inputs"


def _loss(passes: Sequence[_Pass]) -> InitialLoss | None:
    if any(one.loss is None for one in passes):
        return None
    values = [one.loss for one in passes if one.loss is not None]
    labels = "the data's" if passes[0].real_labels else "random"
    return InitialLoss(sum(values) / len(values), math.log(passes[0].classes), passes[0].classes, labels)


def _shares(by_name: Mapping[str, list[LayerView]]) -> dict[str, Shares]:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return {
        name: Shares(
            mean([v.forward_zero for v in views]),
            mean([v.forward_infinite for v in views]),
            mean([v.grad_zero for v in views]),
            mean([v.grad_infinite for v in views]),
        )
        for name, views in by_name.items()
    }


def _row(name: str, layers: list[LayerView]) -> LayerRow:
    weight = weight_of(layers[0].module)
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
        saturated_share=_mean([layer.saturated_share for layer in layers]),
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
