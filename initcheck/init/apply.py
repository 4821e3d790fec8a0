"""Write an initialisation into a live model: the suggested one, or a scheme by name. All or nothing."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initcheck.init.suggest import Suggestion

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter that was written. ``std_before``/``std_after``: of its elements. ``call``: what wrote it."""

    parameter: str
    call: str
    std_before: float
    std_after: float
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.parameter}: {self.call} (std {self.std_before:.4g} → {self.std_after:.4g})"


def apply(
    model: nn.Module,
    scheme: str = "suggested",
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    mode: str = "train",
    generator: torch.Generator | None = None,
) -> list[Change]:
    """Initialise a live model in place.

    Args:
        model: the model. If anything fails, its parameters are as they were.
        scheme: ``"suggested"`` (what ``suggest`` solves for this model's graph; parameters that are good stay), a
            data-dependent or structural scheme (``"lsuv"``, ``"fixup"``, ``"looks_linear"``), or a scheme for every
            linear and convolutional weight: see ``SCHEMES``.
        example_inputs: as for ``analyze``; needed for ``"suggested"``, ``"lsuv"`` and ``"fixup"``.
        mode: ``"train"`` or ``"eval"``, how the model is traced.
        generator: source of randomness.

    Returns:
        What was changed, in order; empty for a model that is healthy as it is.

    Raises:
        ValueError: unknown scheme (lists those there are), missing example inputs, or a shape the scheme cannot serve.
        TypeError: if ``model`` is not an ``nn.Module``.
    """
    from torch import nn

    from initcheck.init.named import SCHEMES

    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    name = scheme.removesuffix("_")
    if name != "suggested" and name not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: expected one of suggested, {', '.join(sorted(SCHEMES))}")
    if name == "suggested":
        return _apply_suggested(model, _need_inputs(name, example_inputs), mode, generator)
    chosen = SCHEMES[name]
    inputs = _need_inputs(name, example_inputs) if chosen.needs_inputs else example_inputs
    with _all_or_nothing(model) as before:
        calls = chosen.run(model, inputs, generator)
    return _changes(model, before, calls)


def apply_suggestions(
    model: nn.Module, suggestions: Iterable[Suggestion], generator: torch.Generator | None = None
) -> list[Change]:
    """Write suggestions into a live model.

    Raises:
        ValueError: for a suggestion whose parameter the model does not have, or whose call fails. The model is then as
            it was.
    """
    listed = list(suggestions)
    with _all_or_nothing(model) as before:
        _write(model, listed, generator)
    return _changes(model, before, {s.parameter: (str(s), s.reason) for s in listed})


def _write(model: nn.Module, suggestions: Iterable[Suggestion], generator: torch.Generator | None) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for suggestion in suggestions:
        if suggestion.parameter not in parameters:
            raise ValueError(f"the model has no parameter {suggestion.parameter!r}")
        _call(suggestion)(parameters[suggestion.parameter], generator)


def _need_inputs(scheme: str, example_inputs: Any) -> Any:
    if example_inputs is None:
        raise ValueError(f"scheme {scheme!r} needs example_inputs")
    return example_inputs


def _apply_suggested(
    model: nn.Module, example_inputs: Any, mode: str, generator: torch.Generator | None
) -> list[Change]:
    """Write what ``suggest`` says; then pull back the layers that the draw happened to carry off in a deep net."""
    from initcheck.init.data_dependent import pull_back_
    from initcheck.init.distributions import with_suggestions
    from initcheck.init.suggest import suggest
    from initcheck.library import split_inputs
    from initcheck.signal.propagate import propagate
    from initcheck.tracing.ladder import trace

    args, kwargs = split_inputs(example_inputs)
    traced = trace(model, args, kwargs, mode=mode, name=type(model).__name__)
    suggestions = suggest(traced, propagate(traced))
    if not suggestions:
        return []
    calls = {s.parameter: (str(s), s.reason) for s in suggestions}
    written = {traced.parameters[name].module: name for name in calls}
    predicted = propagate(with_suggestions(traced, suggestions))
    targets = {row.name: row.forward_std for row in predicted.layers if row.name in written and row.forward_std}
    flags = {module: module.training for module in model.modules()}
    with _all_or_nothing(model) as before:
        _write(model, suggestions, generator)
        try:
            model.train(mode == "train")
            pulled = pull_back_(model, targets, args, kwargs)
        finally:
            for module, training in flags.items():
                module.training = training
    for step in pulled:
        name = written[step.layer]
        factor = (step.variance / step.variance_before) ** 0.5
        calls[name] = (calls[name][0], f"{calls[name][1]}; as drawn × {factor:.3g} (measured on the example inputs)")
    return _changes(model, before, calls)


def _call(suggestion: Suggestion) -> Callable[[Tensor, torch.Generator | None], Any]:
    """The suggestion as a function of a tensor."""
    import torch

    function = getattr(torch.nn.init, suggestion.function, None)
    if function is None:
        from initcheck import init

        function = getattr(init, suggestion.function)
    arguments = {key: ast.literal_eval(text) for key, text in suggestion.arguments}
    fixed = suggestion.function in ("zeros_", "ones_", "constant_", "eye_")

    def run(tensor: Tensor, generator: torch.Generator | None) -> Any:
        given = arguments if fixed or generator is None else {**arguments, "generator": generator}
        with torch.no_grad():
            return function(tensor, **given)

    return run


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The parameters as they are; put back if the block raises."""
    import torch

    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.is_meta}
    try:
        yield before
    except BaseException:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in before:
                    parameter.copy_(before[name])
        raise


def _changes(model: nn.Module, before: Mapping[str, Tensor], calls: Mapping[str, tuple[str, str]]) -> list[Change]:
    import torch

    found = []
    for name, parameter in model.named_parameters():
        if name not in before or torch.equal(before[name], parameter.detach()):
            continue
        call, reason = calls.get(name, ("", ""))
        found.append(Change(name, call, _std(before[name]), _std(parameter.detach()), reason))
    return found


def _std(tensor: Tensor) -> float:
    return float(tensor.double().std(correction=0)) if tensor.numel() else math.nan
