"""``initcheck.measure``, and predicted beside measured, before and after the suggested initialisation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from initcheck.init.apply import apply_suggestions
from initcheck.init.distributions import with_suggestions
from initcheck.init.suggest import Suggestion, suggest
from initcheck.library import class_location, split_inputs
from initcheck.measuring.passes import RealPass, measure_pass
from initcheck.results import LayerRow, MeasuredRow, Measurement, Report
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Signal
from initcheck.tracing.trace import Trace


def measure(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    mode: Literal["train", "eval"] = "train",
    device: str = "cpu",
    seeds: int = 1,
) -> Report:
    """Run a live model for real: the layer table of ``analyze``, measured.

    One forward and one backward pass per seed on a throw-away copy: the caller's weights, buffers, gradients, hooks,
    flags and random number generators are exactly as before. The first seed uses the inputs as given, each further one
    fresh inputs of the same kind; the gradient comes from independent N(0, 1) numbers at the primary output.

    Args:
        model: the model.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        mode: ``"train"`` (dropout active, batch norm uses the batch) or ``"eval"``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        seeds: number of passes to average over.

    Returns:
        A report whose ``layers`` are measured; ``notes`` name the first layer that yields NaN or inf, if one does,
        and a batch that had to be made smaller.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
        ValueError: for an unknown mode or fewer than one seed.
        initcheck.measuring.errors.DeviceError: if the device is not there; lists those that are.
        initcheck.measuring.errors.MeasureError: if the pass raises; says where.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    started = time.perf_counter()
    args, kwargs = split_inputs(example_inputs)
    passed = measure_pass(model, args, kwargs, device=device, seeds=seeds, mode=mode)
    return Report(
        model=type(model).__name__,
        layers=passed.rows,
        coverage=1.0,
        rung="real pass",
        mode=mode,
        inputs=_described(args, kwargs),
        built_by="live model",
        location=class_location(type(model)),
        parameters=sum(1 for _ in model.parameters()),
        parameter_elements=sum(p.numel() for p in model.parameters()),
        notes=(*passed.notes, *_spread_note(passed, seeds)),
        seconds=time.perf_counter() - started,
    )


def measure_suggested(
    model: nn.Module,
    trace: Trace,
    signal: Signal,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    device: str = "cpu",
    seeds: int = 1,
) -> Measurement:
    """Predicted beside measured, as the model is; then, with the suggested initialisers applied to a copy, once more.

    Args:
        model: the model with real weights; it stays as it is.
        trace: its trace.
        signal: its predicted signal.
        args: positional inputs.
        kwargs: keyword inputs.
        device: where to run.
        seeds: number of passes; each draws the suggested weights anew.

    Raises:
        DeviceError: if the device is not there.
        MeasureError: if the pass raises.
    """
    started = time.perf_counter()
    before = measure_pass(model, args, kwargs, device=device, seeds=seeds, mode=trace.mode)
    suggestions = suggest(trace, signal)
    after: RealPass | None = None
    predicted_after: Signal | None = None
    if suggestions:
        predicted_after = propagate(with_suggestions(trace, suggestions))
        after = measure_pass(
            model, args, kwargs, device=device, seeds=seeds, mode=trace.mode, redraw=_redraw(suggestions)
        )
    notes = list(dict.fromkeys([*before.notes, *(after.notes if after else ())]))
    return Measurement(
        device=device,
        seeds=seeds,
        rows=_side_by_side(signal, before, predicted_after, after),
        changed=tuple(str(s) for s in suggestions),
        seconds=time.perf_counter() - started,
        note="; ".join([*notes, *_spread_note(before, seeds)]),
    )


def _redraw(suggestions: list[Suggestion]) -> Any:
    def draw(model: nn.Module, generator: torch.Generator) -> None:
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        if on_cpu:
            apply_suggestions(model, suggestions, generator)
        else:  # a CPU generator cannot fill tensors elsewhere
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            apply_suggestions(model, suggestions)

    return draw


def _side_by_side(
    signal: Signal, before: RealPass, predicted_after: Signal | None, after: RealPass | None
) -> tuple[MeasuredRow, ...]:
    """One row per predicted layer, in its order, then the layers that only the real pass saw."""
    measured = {row.name: row for row in before.rows}
    later = {row.name: row for row in predicted_after.layers} if predicted_after else {}
    measured_later = {row.name: row for row in after.rows} if after else {}
    listed = [*signal.layers, *(row for name, row in measured.items() if name not in {r.name for r in signal.layers})]
    predicted = {row.name for row in signal.layers}
    rows = []
    for row in listed:
        known = row if row.name in predicted else None
        rows.append(
            MeasuredRow(
                name=row.name,
                kind=row.kind,
                predicted_forward_std=_forward(known),
                measured_forward_std=_forward(measured.get(row.name)),
                predicted_grad_std=_gradient(known),
                measured_grad_std=_gradient(measured.get(row.name)),
                after_predicted_forward_std=_forward(later.get(row.name)),
                after_forward_std=_forward(measured_later.get(row.name)),
                after_predicted_grad_std=_gradient(later.get(row.name)),
                after_grad_std=_gradient(measured_later.get(row.name)),
            )
        )
    return tuple(rows)


def _forward(row: LayerRow | None) -> float | None:
    return row.forward_std if row is not None else None


def _gradient(row: LayerRow | None) -> float | None:
    return row.grad_std if row is not None else None


def _described(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [_one(value) for value in args] + [f"{name}={_one(value)}" for name, value in kwargs.items()]
    return ", ".join(parts)


def _one(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    return type(value).__name__


def _spread_note(passed: RealPass, seeds: int) -> tuple[str, ...]:
    if seeds < 2 or not passed.spread:
        return ()
    forward = max((f for f, _ in passed.spread.values() if f == f), default=0.0)
    gradient = max((g for _, g in passed.spread.values() if g == g), default=0.0)
    return (f"standard error over {seeds} seeds: forward std ≤ {forward:.1%}, gradient std ≤ {gradient:.1%}",)
