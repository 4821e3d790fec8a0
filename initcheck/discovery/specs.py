"""Tensors for input specifications: N(0, 1) floats and random ids, from a generator of their own."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from initcheck.config import InputSpec

_SEED = 0
_DEFAULT_HIGH = 2
"""Integers without a bound are ids of something; 0 and 1 are ids of anything."""


def generator() -> torch.Generator:
    """A generator that nothing else uses: the global one stays as it is."""
    return torch.Generator().manual_seed(_SEED)


def tensor(spec: InputSpec, source: torch.Generator) -> torch.Tensor:
    """A CPU tensor of that dtype and shape."""
    dtype = getattr(torch, spec.dtype)
    if spec.dtype == "bool":
        return torch.ones(spec.shape, dtype=torch.bool)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, spec.high or _DEFAULT_HIGH, spec.shape, generator=source).to(dtype)
    return torch.randn(spec.shape, generator=source, dtype=dtype if dtype.is_complex else torch.float64).to(dtype)


def materialise(value: Any, source: torch.Generator) -> Any:
    """``value`` with a tensor in place of every specification (containers kept)."""
    if isinstance(value, InputSpec):
        return tensor(value, source)
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{key: materialise(item, source) for key, item in vars(value).items()})
    if isinstance(value, Mapping):
        return {key: materialise(item, source) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(materialise(item, source) for item in value)
    return value


def describe(value: Any) -> str:
    """An argument in the notation of the configuration: ``float32[8,3,32,32]``, ``(float32[2,8,64], ...)``."""
    if isinstance(value, (InputSpec, int, float, str, type(None))):
        return str(value)
    if isinstance(value, SimpleNamespace):
        return "namespace(" + ", ".join(f"{key}={describe(item)}" for key, item in vars(value).items()) + ")"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(describe(item) for item in value) + ")"
    return type(value).__name__


def spec_of(value: torch.Tensor, high: int | None = None) -> InputSpec:
    """The specification of a tensor; integers are bounded by their largest value, if no bound is given."""
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype.startswith(("int", "uint")) and high is None and value.numel():
        high = max(int(value.max()) + 1, 2)
    return InputSpec(dtype, tuple(value.shape), high if dtype.startswith(("int", "uint")) else None)
