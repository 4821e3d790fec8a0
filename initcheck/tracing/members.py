"""What a tree of modules holds, in torch's order, listed at once.

torch's own generators (``named_parameters``, ``modules``) pass each item on through as many generators as the module is
deep, and an analysis asks a dozen times.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def named_modules(model: nn.Module, *, repeats: bool = False) -> list[tuple[str, nn.Module]]:
    """As ``model.named_modules()``. ``repeats``: a module that is held twice is listed twice."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()

    def walk(module: nn.Module, path: str) -> None:
        if not repeats:
            if id(module) in seen:
                return
            seen.add(id(module))
        found.append((path, module))
        prefix = f"{path}." if path else ""
        for name, child in module._modules.items():
            if child is not None:
                walk(child, prefix + name)

    walk(model, "")
    return found


def modules_of(model: nn.Module) -> list[nn.Module]:
    """As ``model.modules()``."""
    return [module for _, module in named_modules(model)]


def named_tensors(
    model: nn.Module, kind: Literal["_parameters", "_buffers"], *, repeats: bool = False
) -> list[tuple[str, torch.Tensor]]:
    """As ``model.named_parameters()`` or ``named_buffers()``. ``repeats``: with every name that a tensor has."""
    found: list[tuple[str, torch.Tensor]] = []
    seen: set[int] = set()
    for path, module in named_modules(model, repeats=repeats):
        prefix = f"{path}." if path else ""
        for name, tensor in getattr(module, kind).items():
            if tensor is not None and (repeats or id(tensor) not in seen):
                seen.add(id(tensor))
                found.append((prefix + name, tensor))
    return found
