"""Which of a forward's outputs the gradient starts from: one definition for prediction and measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_PREFERRED = ("logits", "last_hidden_state")


def output_tensors(out: Any) -> list[torch.Tensor]:
    """Every tensor in a forward's result, in order (dicts, dataclasses, tuples, whatever is nested)."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()

    def walk(value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            if id(value) not in seen:
                seen.add(id(value))
                found.append(value)
        elif depth < 6:
            if isinstance(value, Mapping):
                for item in value.values():
                    walk(item, depth + 1)
            elif isinstance(value, (list, tuple)):
                for item in value:
                    walk(item, depth + 1)
            elif hasattr(value, "__dataclass_fields__"):
                for name in value.__dataclass_fields__:
                    walk(getattr(value, name, None), depth + 1)
            elif not isinstance(value, (str, bytes, int, float, bool, type(None))):
                for leaf in tree_leaves(value):
                    if isinstance(leaf, torch.Tensor):
                        walk(leaf, depth + 1)

    walk(out, 0)
    return found


def _has_gradient(tensor: torch.Tensor) -> bool:
    return tensor.grad_fn is not None


def primary_output(out: Any, differentiable: Callable[[torch.Tensor], bool] = _has_gradient) -> torch.Tensor | None:
    """The tensor that receives the unit gradient.

    A mapping's (or a dataclass's) ``logits``, else its ``last_hidden_state``, else the first floating-point tensor
    with more than one element, else the first floating-point tensor. Where autograd is on, tensors that depend on no
    parameter (inputs handed back; ``differentiable`` tells) come last. None if there is no floating-point tensor.
    """
    if isinstance(out, torch.Tensor):
        return out if out.is_floating_point() or out.is_complex() else None
    for name in _PREFERRED:
        value = out.get(name) if isinstance(out, Mapping) else getattr(out, name, None) if _is_record(out) else None
        if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
            return value
    floating = [t for t in output_tensors(out) if t.is_floating_point() or t.is_complex()]
    floating.sort(key=lambda t: not differentiable(t))  # stable: the order of the outputs decides otherwise
    return next((t for t in floating if t.dim() > 0 and t.numel() > 1), floating[0] if floating else None)


def _is_record(out: Any) -> bool:
    return hasattr(out, "__dataclass_fields__") or (isinstance(out, tuple) and hasattr(out, "_fields"))
