"""Devices: name to ``torch.device``, with an error that lists what there is; moving nested inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from initcheck.measuring.errors import DeviceError


def available_devices() -> list[str]:
    """The devices of this machine that a pass can run on (``cpu`` always; ``cuda``, ``cuda:1``, ``mps``)."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{i}" for i in range(1, torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def find_device(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        DeviceError: if there is no such device here; lists those there are.
    """
    here = available_devices()
    if name == "cuda:0" and "cuda" in here:
        return torch.device(name)
    if name not in here:
        raise DeviceError(f"device {name!r} is not available; available: {', '.join(here)}")
    return torch.device(name)


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with ``change`` applied to every tensor in it (tuples, named tuples, lists, mappings, nested)."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: map_tensors(item, change) for key, item in value.items()}
    if hasattr(value, "to") and hasattr(value, "keys"):  # a BatchEncoding or the like: a mapping that holds tensors
        return {key: map_tensors(value[key], change) for key in value.keys()}  # noqa: SIM118
    return value


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Every tensor in a nested structure, in order."""
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found
