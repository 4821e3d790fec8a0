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
        suggestions = _suggestions(model, _need_inputs(name, example_inputs), mode)
        return apply_suggestions(model, suggestions, generator)
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
    parameters = dict(model.named_parameters(remove_duplicate=False))
    listed = list(suggestions)
    with _all_or_nothing(model) as before:
        for suggestion in listed:
            if suggestion.parameter not in parameters:
                raise ValueError(f"the model has no parameter {suggestion.parameter!r}")
            _call(suggestion)(parameters[suggestion.parameter], generator)
    return _changes(model, before, {s.parameter: (str(s), s.reason) for s in listed})


def _need_inputs(scheme: str, example_inputs: Any) -> Any:
    if example_inputs is None:
        raise ValueError(f"scheme {scheme!r} needs example_inputs")
    return example_inputs


def _suggestions(model: nn.Module, example_inputs: Any, mode: str) -> list[Suggestion]:
    from initcheck.init.suggest import suggest
    from initcheck.library import split_inputs
    from initcheck.signal.propagate import propagate
    from initcheck.tracing.ladder import trace

    args, kwargs = split_inputs(example_inputs)
    traced = trace(model, args, kwargs, mode=mode, name=type(model).__name__)
    return suggest(traced, propagate(traced))


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
