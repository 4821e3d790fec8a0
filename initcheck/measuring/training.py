"""A short training on a copy: does the net learn from where it starts?"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initcheck.measuring.device import map_tensors, tensors_of
from initcheck.measuring.inputs import fresh_inputs
from initcheck.measuring.loss import class_dim, cross_entropy, labels_fit, random_labels
from initcheck.results import TrainingRun
from initcheck.tracing.outputs import primary_output

BATCHES = 4
"""Synthetic batches, seen over and over."""
MARKS = 5
LEARNT = 0.9
"""A run learns if its loss ends below this share of the start's and of what ignoring the input can reach."""

OPTIMISERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD 0.01, momentum 0.9": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9),
    "Adam 0.001": lambda ps: torch.optim.Adam(ps, lr=1e-3),
}

Batch = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional inputs, keyword inputs, target (None: none)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Batches with targets, the loss, and what a net that ignores its input can reach."""

    batches: Sequence[Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    chance: float


def synthetic_task(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], real: Sequence[Batch], generator: torch.Generator
) -> Task:
    """A task for a model: the data's own labels if they are classes, else one that a healthy net learns at once.

    Outputs with several channels are scored as classes: each class has an offset of its own in the channels of a float
    input, each token a class of its own where every token is scored, else the labels are random and have to be
    memorised. Outputs of an input's shape have to give it back; a single number has to be a fixed random one.

    Raises:
        ValueError: if the model gives no floating-point output to train.
    """
    output = _output(model, args, kwargs)
    if real and labels_fit(output, real[0][2]):
        return Task(real, cross_entropy, math.log(output.shape[class_dim(output)]))
    given = [(a, k) for a, k, _ in real] or [
        (args, kwargs),
        *(fresh_inputs(args, kwargs, generator) for _ in range(BATCHES - 1)),
    ]
    twin = _twin(args, kwargs, output)
    if twin is not None:
        variance = float(tensors_of((args, kwargs))[twin].float().var())
        return Task([(a, k, tensors_of((a, k))[twin]) for a, k in given], _squares, variance)
    if output.dim() >= 2 and output.shape[class_dim(output)] >= 2:
        classes = output.shape[class_dim(output)]
        return Task(_labelled(given, output, classes, generator), cross_entropy, math.log(classes))
    numbers = [(a, k, torch.randn(output.shape, generator=generator)) for a, k in given]
    return Task(numbers, _squares, 1.0)


def _labelled(
    given: Sequence[tuple[Any, Any]], output: Tensor, classes: int, generator: torch.Generator
) -> list[Batch]:
    """The inputs with a class for everything that is scored, and with something in them that tells it."""
    first = next((t for t in tensors_of(given[0]) if t.dim() > 0), None)
    scored = random_labels(output, generator).shape
    if first is not None and not first.is_floating_point() and first.shape == scored:
        classes_of_tokens = torch.randint(classes, (int(first.max()) + 1,), generator=generator)
        return [(a, k, classes_of_tokens[tensors_of((a, k))[0].cpu().long()]) for a, k in given]
    if first is None or not first.is_floating_point() or first.shape[0] != output.shape[0] or first.dim() < 2:
        return [(a, k, random_labels(output, generator)) for a, k in given]
    channel = first.dim() - 1 if first.dim() == 3 else 1
    shape = [classes, *(size if d == channel else 1 for d, size in enumerate(first.shape) if d > 0)]
    offsets = torch.randn(shape, generator=generator) * float(first.float().std())
    batches: list[Batch] = []
    for args, kwargs in given:
        labels = torch.randint(classes, (output.shape[0],), generator=generator)
        moved = iter([True])

        def shift(tensor: Tensor, labels: Tensor = labels, first_one: Iterator[bool] = moved) -> Tensor:
            if tensor.dim() == 0 or not next(first_one, False):
                return tensor
            return tensor + offsets[labels].to(tensor)

        moved_args, moved_kwargs = map_tensors((args, kwargs), shift)
        batches.append((moved_args, moved_kwargs, labels.view(-1, *[1] * (len(scored) - 1)).expand(scored)))
    return batches


def _squares(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.float(), target.float())


def _twin(args: Any, kwargs: Any, output: Tensor) -> int | None:
    found = tensors_of((args, kwargs))
    return next((i for i, t in enumerate(found) if t.is_floating_point() and t.shape == output.shape), None)


def _output(model: nn.Module, args: Any, kwargs: Any) -> Tensor:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        moved_args, moved_kwargs = map_tensors((tuple(args), dict(kwargs)), lambda t: t.to(device))
        output = primary_output(model(*moved_args, **moved_kwargs))
    if output is None or not output.is_floating_point():
        raise ValueError("the model gives no floating-point output that could be trained")
    return output


def train(
    model: nn.Module,
    task: Task,
    steps: int,
    optimiser: str,
    init: str,
    tell: Callable[[int], None] | None = None,
    autocast: Callable[[], Any] = contextlib.nullcontext,
) -> TrainingRun:
    """Train ``model`` in place.

    Args:
        model: a throw-away copy, in train mode.
        task: what to learn.
        steps: optimiser steps.
        optimiser: a key of ``OPTIMISERS``.
        init: for the record.
        tell: called with the number of steps done.
        autocast: context of the forward passes.
    """
    parameters = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    moved = list(_on_device(task, next((p.device for p in parameters), torch.device("cpu"))))
    engine = OPTIMISERS[optimiser](parameters)
    losses: list[float] = []
    for step in range(steps):
        args, kwargs, target = moved[step % len(moved)]
        with autocast():
            output = primary_output(model(*args, **kwargs))
        assert output is not None
        loss = task.loss(output, target)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]) or not loss.requires_grad:
            break
        engine.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        engine.step()
        if tell is not None:
            tell(step + 1)
    return TrainingRun(init, optimiser, _marked(losses), task.chance, _learns(losses, task, steps))


def _on_device(task: Task, device: torch.device) -> Iterator[Batch]:
    for args, kwargs, target in task.batches:
        moved: Batch = map_tensors((tuple(args), dict(kwargs), target), lambda t: t.detach().to(device))
        yield moved


def _marked(losses: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The first, the last and a few in between, doubling their distance to the end."""
    last = len(losses) - 1
    wanted = sorted({0, last, *(last >> shift for shift in range(1, MARKS - 1))})
    return tuple((index + 1, losses[index]) for index in wanted if index >= 0)


def _learns(losses: Sequence[float], task: Task, steps: int) -> bool:
    if len(losses) < steps or not losses or not all(math.isfinite(value) for value in losses):
        return False
    tail = losses[-max(len(task.batches), 1) :]
    return sum(tail) / len(tail) < LEARNT * min(losses[0], task.chance)
