"""The library: audit a live module as it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from initcheck.collector import collector_paused
from initcheck.findings import Location
from initcheck.results import Report

if TYPE_CHECKING:
    from torch import Tensor, nn


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a forward call.

    Args:
        example_inputs: one tensor; a sequence of positional arguments; a mapping of keyword arguments; or a pair
            ``(args, kwargs)`` of a tuple and a dict.
    """
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple) and len(example_inputs) == 2:
        args, kwargs = example_inputs
        if isinstance(args, tuple) and isinstance(kwargs, dict):
            return args, kwargs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def analyze(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    mode: Literal["train", "eval"] = "train",
    *,
    input_statistics: Literal["normal", "given"] = "normal",
) -> Report:
    """Audit a live model: predict the scale of every layer's output and gradient from its weights as they are.

    Nothing of the model is changed: weights, buffers, gradients, hooks, train/eval flags and the random number
    generators are exactly as before; no data flows.

    Args:
        model: the model, on any device, with its weights as they are.
        example_inputs: one tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        mode: ``"train"`` (dropout active, batch norm uses the batch) or ``"eval"``.
        input_statistics: ``"normal"``: of the inputs only shapes and dtypes count, they are taken to be independent
            N(0, 1) numbers (bytes, where the forward divides them by 255), tokens uniform; ``"given"``: the examples
            are data, and their mean, variance, distribution and correlation between positions and samples are used (and
            said in ``notes``).

    Returns:
        The report: ``findings``, ``layers`` (in execution order), ``coverage``, ``unknown_ops``, ``to_dict()``.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
        ValueError: if ``mode`` is neither ``"train"`` nor ``"eval"``, or ``input_statistics`` none of the two.
        initcheck.tracing.ladder.TraceError: if no forward pass could be recorded; says why.
    """
    from torch import nn

    from initcheck.audit import audit
    from initcheck.tracing.ladder import trace

    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if mode not in ("train", "eval"):
        raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}")
    if input_statistics not in ("normal", "given"):
        raise ValueError(f"input_statistics must be 'normal' or 'given', got {input_statistics!r}")
    started = time.perf_counter()
    args, kwargs = split_inputs(example_inputs)
    given = input_statistics == "given"
    with collector_paused():  # a collection between the two would walk through the whole graph
        traced = trace(model, args, kwargs, mode=mode, name=type(model).__name__, inputs_given=given)
        audited = audit(traced, _known_location(type(model)) or _callers_line())
    return replace(
        audited.report,
        built_by="live model",
        notes=(*audited.report.notes, *(f"defect in initcheck: {defect}" for defect in audited.defects)),
        seconds=time.perf_counter() - started,
    )


def class_location(cls: type) -> Location:
    """Where a class is defined; its module's name and line 1 if its source cannot be had."""
    return _known_location(cls) or Location(f"<{cls.__module__}>", 1)


def _known_location(cls: type) -> Location | None:
    """Where a class outside torch is defined."""
    from initcheck.tracing.definitions import class_location

    return class_location(cls)


def _callers_line() -> Location:
    """The line that calls ``analyze``: for a model whose class is torch's own (``nn.Sequential``)."""
    frame = sys._getframe(2)
    return Location(frame.f_code.co_filename, frame.f_lineno)
