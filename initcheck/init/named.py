"""Schemes that ``apply`` knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.init import orthogonal, scaling
from initcheck.init.data_dependent import SCALED_LAYERS, lsuv_
from initcheck.init.fans import Fans, fans_of
from initcheck.init.fixup import fixup_, rezero_model_
from initcheck.init.transformer import (
    RecipeReport,
    deepnorm_model_,
    ds_init_model_,
    gpt2_model_,
    subln_model_,
    t_fixup_,
)

Calls = Mapping[str, tuple[str, str]]
"""Parameter to (the call that wrote it, why)."""
Generator = torch.Generator | None


@dataclass(frozen=True, slots=True)
class NamedScheme:
    """A scheme for a whole model. ``needs_inputs``: it runs or traces the model."""

    run: Callable[[nn.Module, Any, Generator], Calls]
    needs_inputs: bool = False


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolutional layers whose weight is a parameter of their own, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, SCALED_LAYERS) or type(module).__name__ == "Conv1D")
        and module._parameters.get("weight") is not None
    }


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _joined(name: str) -> str:
    return f"{name}.weight" if name else "weight"


def _each(label: str, write: Callable[[Tensor, Fans, Generator], object]) -> NamedScheme:
    """A scheme that treats every layer alike, with its effective fans; biases stay."""

    def run(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
        calls = {}
        for name, module in _layers(model).items():
            with torch.no_grad():
                write(_weight(module), fans_of(module), generator)
            calls[_joined(name)] = (f"{label}({_joined(name)})", "")
        return calls

    return NamedScheme(run)


def _scaled(label: str, factor: float, mode: str, kind: str) -> NamedScheme:
    def write(weight: Tensor, fans: Fans, generator: Generator) -> None:
        scaling.draw_(weight, (factor / fans.by_mode(mode)) ** 0.5, kind, generator)

    return _each(label, write)


def _lsuv(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
    steps = lsuv_(model, inputs, generator=generator)
    return {_joined(s.layer): (f"lsuv_({_joined(s.layer)})", f"output variance {s.variance:.3g}") for s in steps}


def _fixup(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
    report = fixup_(model, inputs, generator=generator)
    calls = {name: (f"fixup_({name})", f"He × {factor:.3g}") for name, factor in report.scaled.items()}
    return {**calls, **{name: (f"fixup_({name})", "zero") for name in report.zeroed}}


def _rezero(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
    return {name: (f"rezero_({name})", "multiplier of a residual branch") for name in rezero_model_(model, inputs)}


def _recipe(label: str, recipe: Callable[..., RecipeReport]) -> NamedScheme:
    """A recipe for a whole transformer or residual net."""

    def run(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
        report = recipe(model, inputs, generator=generator)
        return {name: (f"{label}({name})", f"× {factor:.3g}") for name, factor in report.scaled.items()}

    return NamedScheme(run, needs_inputs=True)


def _looks_linear(model: nn.Module, inputs: Any, generator: Generator) -> Calls:
    layers = list(_layers(model).items())
    calls = {}
    for index, (name, module) in enumerate(layers):
        position = "first" if index == 0 else "last" if index == len(layers) - 1 else "hidden"
        try:
            orthogonal.looks_linear_(_weight(module), position, generator=generator)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{_joined(name)}: {error}") from error
        calls[_joined(name)] = (f"looks_linear_({_joined(name)})", position)
    return calls


SCHEMES: dict[str, NamedScheme] = {
    "kaiming_normal": _scaled("kaiming_normal_", 2.0, "fan_in", "normal"),
    "kaiming_uniform": _scaled("kaiming_uniform_", 2.0, "fan_in", "uniform"),
    "xavier_normal": _scaled("xavier_normal_", 1.0, "fan_avg", "normal"),
    "xavier_uniform": _scaled("xavier_uniform_", 1.0, "fan_avg", "uniform"),
    "lecun_normal": _scaled("lecun_normal_", 1.0, "fan_in", "normal"),
    "lecun_uniform": _scaled("lecun_uniform_", 1.0, "fan_in", "uniform"),
    "orthogonal": _each("orthogonal_", lambda w, f, g: orthogonal.orthogonal_(w, generator=g)),
    "delta_orthogonal": _each(
        "delta_orthogonal_",
        lambda w, f, g: (orthogonal.delta_orthogonal_ if w.dim() > 2 else orthogonal.orthogonal_)(w, generator=g),
    ),
    "random_walk": _each("random_walk_", lambda w, f, g: scaling.random_walk_(w, generator=g)),
    "sparse": _each("sparse_", lambda w, f, g: scaling.sparse_(w, std=(2.0 / 15.0) ** 0.5, generator=g)),
    "lsuv": NamedScheme(_lsuv, needs_inputs=True),
    "fixup": NamedScheme(_fixup, needs_inputs=True),
    "rezero": NamedScheme(_rezero, needs_inputs=True),
    "t_fixup": _recipe("t_fixup_", t_fixup_),
    "deepnorm": _recipe("deepnorm_", deepnorm_model_),
    "subln": _recipe("subln_", subln_model_),
    "ds_init": _recipe("ds_init_", ds_init_model_),
    "gpt2": _recipe("gpt2_", gpt2_model_),
    "looks_linear": NamedScheme(_looks_linear),
}
