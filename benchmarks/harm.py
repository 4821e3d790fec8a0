"""Whether a mutant is harmful, measured: real passes, the consequence thresholds, and steps of gradient descent."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initcheck.findings import Severity
from initcheck.measuring.errors import MeasureError
from initcheck.measuring.passes import measure_pass
from initcheck.rules.consequence import judge
from initcheck.signal.result import Signal
from initcheck.tracing.outputs import primary_output
from initcheck.tracing.trace import Trace

RATE = 0.05
STEPS = 3
NOISE = 1e-13
"""Gradients below this part of the largest one are zeros that were rounded, in double precision."""


@dataclass(frozen=True, slots=True)
class Harm:
    """``harmful``: yes or no; ``error``: so harmful that an error is due; ``why``: the figure behind it."""

    harmful: bool
    why: str


def signal_harm(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], traced: Trace, predicted: Signal
) -> Harm:
    """The verdict of ``rules.consequence`` on measured scales in place of predicted ones.

    Without dropout, whose noise differs from sample to sample where nothing of the input is left.
    """
    model = _without_dropout(copy.deepcopy(model))
    try:
        real = measure_pass(model, args, kwargs, seeds=2)
    except MeasureError as error:
        return Harm(True, str(error))
    if real.first_nonfinite:
        return Harm(True, f"not finite: {real.first_nonfinite}")
    seen = {row.name: row for row in real.rows}
    rows = [
        dataclasses.replace(
            row,
            forward_std=seen[row.name].forward_std,
            forward_mean=seen[row.name].forward_mean,
            sample_std=seen[row.name].sample_std,
            grad_std=seen[row.name].grad_std,
        )
        for row in predicted.layers
        if row.name in seen
    ]
    reads = _input_stds(model, args, kwargs, set(seen))
    nodes = {name: _Read(std) for name, std in reads.items()}
    forward = {node: node for node in nodes.values()}
    measured = dataclasses.replace(predicted, layers=rows, layer_nodes=nodes, forward=forward)
    verdict = judge(traced, measured)
    if rows and any(row.grad_std for row in rows[-1:]) and not any(row.grad_std for row in rows[:-1]):
        return Harm(True, "no gradient reaches any hidden layer")
    if rows and not any(row.sample_std for row in rows):
        return Harm(True, "no layer's output depends on the input")
    if rows and rows[-1].weight_std and rows[-1].sample_std == 0:
        return Harm(True, "nothing of the input is left at the output")
    if verdict.steps and verdict.reach == 0:
        return Harm(True, "no gradient comes back to any layer that the input reaches")
    loud = verdict.severity is not None and verdict.severity >= Severity.WARNING
    return Harm(loud, f"{verdict.kind or 'healthy'}, reach {verdict.reach:.1e}, share {verdict.share:.1e}")


class _Read:
    """Stands for what a layer reads: as a node of the graph, and as that node's moments."""

    op = "placeholder"

    def __init__(self, sample_std: float) -> None:
        self.sample_std = sample_std


def _input_stds(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], names: set[str]) -> dict[str, float]:
    """The part of every layer's input that differs from sample to sample or place to place, as a std."""
    found: dict[str, float] = {}

    def watch(name: str, channels: int) -> Any:
        def hook(module: nn.Module, given: Any) -> None:
            x = given[0] if given else None
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim() >= 2:
                per_channel = x.detach().double().movedim(channels, 0).flatten(1)
                found.setdefault(name, float(per_channel.var(1, correction=0).mean().sqrt()))

        return hook

    copied = copy.deepcopy(model).train()
    modules = {n: m for n, m in copied.named_modules() if n in names and "Norm" not in type(m).__name__}
    for name, module in modules.items():
        spatial = any(part in type(module).__name__ for part in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose"))
        module.register_forward_pre_hook(watch(name, 1 if spatial else -1))
    with torch.no_grad():
        copied(*args, **kwargs)
    return found


def unit_harm(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> Harm:
    """Whether a spoiled layer's units are still copies of one another, or its weights unmoved, after descent.

    Steps of the steepest descent, each tensor's largest entry moved by ``RATE``; without dropout, whose noise would
    tell units apart. The loss is a fixed random functional of the output for each sample. In double precision where the
    model allows it: a norm layer makes signals of the rounding noise that a constant has in single precision.
    """
    try:
        return _unit_harm(copy.deepcopy(model).double(), *_doubled((args, kwargs)), names)
    except RuntimeError:  # mixes in tensors of single precision
        return _unit_harm(copy.deepcopy(model), args, kwargs, names)


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)):
            module.p = 0.0
    return model


def _doubled(given: Any) -> Any:
    if isinstance(given, torch.Tensor):
        return given.double() if given.is_floating_point() else given
    if isinstance(given, Mapping):
        return {key: _doubled(value) for key, value in given.items()}
    return tuple(map(_doubled, given)) if isinstance(given, (tuple, list)) else given


def _unit_harm(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> Harm:
    model = _without_dropout(model.train())
    generator = torch.Generator().manual_seed(0)
    watched = {name: model.get_submodule(name).weight for name in names}
    transposed = {name for name in names if "Transpose" in type(model.get_submodule(name)).__name__}
    before = {name: value.detach().clone() for name, value in watched.items()}
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    for _ in range(STEPS):
        output = primary_output(model(*args, **kwargs))
        cotangent = torch.randn(output.shape, generator=generator)
        loss = (output - cotangent).square().mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        tops = [float(gradient.abs().max()) if gradient is not None else 0.0 for gradient in gradients]
        largest = max((top for top in tops if top < float("inf")), default=0.0)
        noise = NOISE * largest if loss.dtype == torch.float64 else 0.0
        with torch.no_grad():
            for parameter, gradient, top in zip(parameters, gradients, tops, strict=True):
                if noise < top < float("inf"):
                    parameter.sub_(gradient * (RATE / top))
    output_layer = list(watched)[-1] if len(watched) > 1 else ""
    for name, value in watched.items():
        if name == output_layer:
            continue
        if torch.equal(value, before[name]):
            return Harm(True, f"{name} does not move")
        units = value.transpose(0, 1) if name in transposed else value
        if units.dim() >= 2 and units.shape[0] > 1 and _alike(units):
            return Harm(True, f"the units of {name} stay alike")
    return Harm(False, "units move apart")


def _alike(weight: torch.Tensor) -> bool:
    rows = weight.detach().flatten(1).double()
    spread = (rows - rows.mean(0)).abs().max()
    return bool(spread <= 1e-5 * rows.abs().max())
