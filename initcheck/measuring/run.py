"""``initcheck.measure``, and predicted beside measured, before and after the suggested initialisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from initcheck.init.apply import apply_suggestions
from initcheck.init.distributions import with_suggestions
from initcheck.init.structure import analyse
from initcheck.init.suggest import Suggestion, suggest
from initcheck.library import class_location, split_inputs
from initcheck.measuring.copying import random_state_kept, throwaway_copy
from initcheck.measuring.data import as_batch, described, load_batches
from initcheck.measuring.device import find_device
from initcheck.measuring.errors import DataError, MeasureError
from initcheck.measuring.inputs import as_read, batch_size, with_batch
from initcheck.measuring.memory import fitting_batch
from initcheck.measuring.passes import PRECISIONS, RealPass, measure_pass
from initcheck.measuring.table import Known, Passes, rows
from initcheck.measuring.training import OPTIMISERS, Batch, synthetic_task, train
from initcheck.results import Measurement, Report, TrainingRun
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Signal
from initcheck.tracing.ladder import TraceError, trace
from initcheck.tracing.trace import Trace

Tell = Callable[[str, int, int], None]
"""Called with what is under way, how many steps are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure. ``data``: a file, ``path.pt`` or ``path.py:loader``; empty: the example inputs."""

    device: str = "cpu"
    seeds: int = 1
    precision: str = "fp32"
    data: str = ""
    train_steps: int = 0

    def check(self) -> None:
        """Raises ValueError for an option that makes no sense, DeviceError for a device that is not there."""
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.train_steps < 0:
            raise ValueError(f"train_steps must not be negative, got {self.train_steps}")
        find_device(self.device)


def measure(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    mode: Literal["train", "eval"] = "train",
    device: str = "cpu",
    seeds: int = 1,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    data: str | Sequence[Any] | None = None,
    train_steps: int = 0,
    compare: bool = True,
    progress: Tell | None = None,
) -> Report:
    """Run a live model for real: the layer table of ``analyze``, measured.

    One forward and one backward pass per seed on a throw-away copy: the caller's weights, buffers, gradients, hooks,
    flags and random number generators are exactly as before. The first seed uses the inputs as given, each further one
    fresh inputs of the same kind (or the data's next batch); the gradient comes from independent N(0, 1) numbers at the
    primary output.

    Args:
        model: the model.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments. May be left
            out if ``data`` is given.
        mode: ``"train"`` (dropout active, batch norm uses the batch) or ``"eval"``.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
        seeds: number of passes to average over.
        precision: ``"bf16"`` or ``"fp16"`` adds a pass under autocast and the shares of elements that it loses.
        data: real batches, or a file of them (``"batches.pt"``, ``"loaders.py:train_loader"``).
        train_steps: optimiser steps of a short training from the init as given and from the suggested one; 0: none.
        compare: also predict, and measure once more with the suggested initialisation applied to a copy.
        progress: called with what is under way, steps done and steps in all.

    Returns:
        A report whose ``layers`` are measured, and whose ``measured`` puts predicted, measured and suggested side by
        side; ``notes`` name the first layer that yields NaN or inf, if one does, and a batch that had to be made
        smaller.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
        ValueError: for an unknown mode or precision, fewer than one seed, or neither inputs nor data.
        initcheck.measuring.errors.DeviceError: if the device is not there; lists those that are.
        initcheck.measuring.errors.DataError: if the data cannot be read or does not fit the model.
        initcheck.measuring.errors.MeasureError: if the pass raises; says where.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if mode not in ("train", "eval"):
        raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
    if example_inputs is None and not data:
        raise ValueError("measure needs example_inputs or data")
    options = Options(device, seeds, precision, data if isinstance(data, str) else "", train_steps)
    options.check()
    started = time.perf_counter()
    batches = _batches(model, data)
    args, kwargs = batches[0][:2] if batches else split_inputs(example_inputs)
    known, why = _prediction(model, args, kwargs, mode, batches) if compare else (None, "")
    run = _Run(model, args, kwargs, mode, options, batches, known, progress)
    measured = run.whole()
    assert run.before is not None
    return Report(
        model=type(model).__name__,
        layers=run.before.rows,
        coverage=1.0,
        rung="real pass",
        mode=mode,
        inputs=_described(args, kwargs),
        built_by="live model",
        location=class_location(type(model)),
        parameters=sum(1 for _ in model.parameters()),
        parameter_elements=sum(p.numel() for p in model.parameters()),
        notes=tuple(note for note in (*measured.note.split("; "), why) if note),
        seconds=time.perf_counter() - started,
        measured=measured,
    )


def _batches(model: nn.Module, data: str | Sequence[Any] | None) -> list[Batch]:
    if not data:
        return []
    return [as_batch(model, given) for given in (load_batches(data) if isinstance(data, str) else data)]


def _prediction(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], mode: str, batches: Sequence[Batch]
) -> tuple[Known | None, str]:
    try:
        traced = trace(
            model, tuple(args), dict(kwargs), mode=mode, name=type(model).__name__, inputs_given=bool(batches)
        )
    except TraceError as error:
        return None, f"nothing is predicted: {error}"
    signal = propagate(traced)
    return Known(traced, signal, analyse(traced)), ""


def measure_suggested(
    model: nn.Module,
    trace: Trace,
    signal: Signal,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    device: str = "cpu",
    seeds: int = 1,
    precision: str = "fp32",
    data: str = "",
    train_steps: int = 0,
    progress: Tell | None = None,
    partial: Callable[[Measurement], None] | None = None,
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
        precision: see ``measure``.
        data: a file of batches to run instead of the inputs; empty: none.
        train_steps: see ``measure``.
        progress: called with what is under way, steps done and steps in all.
        partial: called with the measurement as far as it is, after each part.

    Raises:
        DeviceError: if the device is not there.
        DataError: if the data cannot be read or does not fit the model.
        MeasureError: if the pass raises.
    """
    options = Options(device, seeds, precision, data, train_steps)
    options.check()
    known: Known | None = Known(trace, signal, analyse(trace))
    batches = _batches(model, data)
    if batches:
        args, kwargs = batches[0][:2]
        try:
            known, _ = _prediction(model, args, kwargs, trace.mode, batches)
        except RuntimeError as error:
            raise DataError(f"the data does not fit the model: {error} ({described(batches[0])})") from error
    else:
        args, kwargs = as_read(trace.graph, tuple(args), dict(kwargs), torch.Generator().manual_seed(0))
    return _Run(model, args, kwargs, trace.mode, options, batches, known, progress, partial).whole()


@dataclass(slots=True)
class _Run:
    """One measurement, part by part; ``result`` can be had after each."""

    model: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    mode: str
    options: Options
    batches: Sequence[Batch]
    known: Known | None
    tell: Tell | None = None
    partial: Callable[[Measurement], None] | None = None
    before: RealPass | None = None
    after: RealPass | None = None
    reduced: RealPass | None = None
    reduced_after: RealPass | None = None
    suggestions: list[Suggestion] = field(default_factory=list)
    predicted_after: Signal | None = None
    training: list[TrainingRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    done: int = 0

    def whole(self) -> Measurement:
        """Every part, in the order in which a user wants to see them."""
        self._fit_batch()
        for name, part in self._parts().items():
            try:
                part()
            except MeasureError as error:
                if self.before is None:
                    raise
                self.notes.append(f"{name} could not be made: {error}")
            if self.partial is not None and self.before is not None:
                self.partial(self.result(unfinished=f"broken off after: {name}"))
        return self.result()

    def _parts(self) -> dict[str, Callable[[], None]]:
        parts: dict[str, Callable[[], None]] = {"the pass as given": self._before}
        if self.known is not None:
            parts["the pass with the suggested init"] = self._after
        if self.options.precision != "fp32":
            parts[f"the passes in {self.options.precision}"] = self._reduced
        if self.options.train_steps:
            parts["the training"] = self._training
        return parts

    def _fit_batch(self) -> None:
        """Halve the batch until it fits into the memory of the CPU (an accelerator tells by itself)."""
        if self.known is None or find_device(self.options.device).type != "cpu":
            return
        full = batch_size(tuple(self.args), dict(self.kwargs))
        size = fitting_batch(self.known.trace, full)
        if size < full:
            self.args, self.kwargs = with_batch(tuple(self.args), dict(self.kwargs), size)
            self.notes.append(f"a batch of {full} does not fit into memory: measured with {size}")

    def _pass(self, what: str, redraw: Any = None, precision: str = "fp32") -> RealPass:
        try:
            return measure_pass(
                self.model,
                self.args,
                self.kwargs,
                device=self.options.device,
                seeds=self.options.seeds,
                mode=self.mode,
                redraw=redraw,
                precision=precision,
                activations=self._activations(),
                more=self.batches[1:],
                target=self.batches[0][2] if self.batches else None,
                tell=self._teller(what, self.options.seeds),
            )
        except MeasureError as error:
            if self.batches and "the forward pass raised" in str(error):
                text = f"the data does not fit the model: {error} ({described(self.batches[0])})"
                raise DataError(text) from error.__cause__
            raise

    def _teller(self, what: str, total: int) -> Callable[[int], None] | None:
        tell = self.tell
        return None if tell is None else lambda done: tell(what, done, total)

    def _activations(self) -> dict[str, str]:
        if self.known is None:
            return {}
        return {str(u.node.meta.get("module", "")): u.activation.name for u in self.known.structure.uses}

    def _before(self) -> None:
        self.before = self._pass("as given")

    def _after(self) -> None:
        assert self.known is not None
        self.suggestions = suggest(self.known.trace, self.known.signal)
        if self.suggestions:
            self.predicted_after = propagate(with_suggestions(self.known.trace, self.suggestions))
            self.after = self._pass("with the suggested init", _redraw(self.suggestions))

    def _reduced(self) -> None:
        precision = self.options.precision
        self.reduced = self._pass(f"in {precision}", None, precision)
        if self.suggestions:
            self.reduced_after = self._pass(
                f"in {precision} with the suggested init", _redraw(self.suggestions), precision
            )

    def _training(self) -> None:
        starts: dict[str, Any] = {"as given": None}
        if self.suggestions:
            starts["suggested"] = _redraw(self.suggestions)
        for optimiser in OPTIMISERS:
            for init, redraw in starts.items():
                self.training.append(self._train(init, redraw, optimiser))

    def _train(self, init: str, redraw: Any, optimiser: str) -> TrainingRun:
        steps = self.options.train_steps
        with random_state_kept():
            torch.manual_seed(0)
            generator = torch.Generator().manual_seed(0)
            duplicate = throwaway_copy(self.model).to(find_device(self.options.device)).train()
            if redraw is not None:
                redraw(duplicate, generator)
            try:
                task = synthetic_task(duplicate, tuple(self.args), dict(self.kwargs), self.batches, generator)
                return train(
                    duplicate, task, steps, optimiser, init, self._teller(f"training {init}, {optimiser}", steps)
                )
            except (RuntimeError, ValueError, IndexError) as error:
                raise MeasureError(f"the training raised {type(error).__name__}: {error}") from error

    def result(self, unfinished: str = "") -> Measurement:
        """The measurement as far as it is."""
        before, after = self.before, self.after
        assert before is not None
        loss = before.loss
        if loss is not None and after is not None and after.loss is not None:
            loss = replace(loss, after=after.loss.value)
        notes = dict.fromkeys([*self.notes, *before.notes, *(after.notes if after else ())])
        return Measurement(
            device=self.options.device,
            seeds=self.options.seeds,
            rows=rows(self.known, Passes(before, after, self.reduced, self.reduced_after), self.predicted_after),
            changed=tuple(str(s) for s in self.suggestions),
            seconds=time.perf_counter() - self.started,
            note="; ".join([*notes, *_spread_note(before)]),
            precision=self.options.precision,
            data=described(self.batches[0]) if self.batches else "",
            loss=loss,
            training=tuple(self.training),
            unfinished=unfinished,
            peak_bytes=before.peak_bytes,
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


def _described(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [_one(value) for value in args] + [f"{name}={_one(value)}" for name, value in kwargs.items()]
    return ", ".join(parts)


def _one(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    return type(value).__name__


def _spread_note(passed: RealPass) -> tuple[str, ...]:
    if passed.seeds < 2 or not passed.spread:
        return ()
    forward = max((f for f, _ in passed.spread.values() if f == f), default=0.0)
    gradient = max((g for _, g in passed.spread.values() if g == g), default=0.0)
    return (f"standard error over {passed.seeds} seeds: forward std ≤ {forward:.1%}, gradient std ≤ {gradient:.1%}",)
