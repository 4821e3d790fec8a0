"""Inputs of a real pass: the caller's for the first seed, fresh ones of the same kind for the next, halved batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from initcheck.measuring.device import map_tensors, tensors_of
from initcheck.signal.raw_inputs import reads_bytes


def fresh_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], generator: torch.Generator) -> tuple[Any, Any]:
    """Inputs of the same shapes and types.

    Floating tensors are redrawn from a normal distribution with the mean and standard deviation of the given one;
    integer tensors (tokens, edge lists, labels, time steps) get their own values in another order, so that every value
    stays valid; boolean masks stay.
    """

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.numel() > 1:
            std, mean = torch.std_mean(tensor.detach().float())
            noise = torch.randn(tensor.shape, generator=generator)
            return (noise * std.cpu() + mean.cpu()).to(tensor.dtype)
        if tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
            order = torch.randperm(tensor.numel(), generator=generator)
            return tensor.detach().cpu().reshape(-1)[order].reshape(tensor.shape)
        return tensor

    return map_tensors(args, change), map_tensors(kwargs, change)


def as_read(
    graph: torch.fx.Graph, args: tuple[Any, ...], kwargs: dict[str, Any], generator: torch.Generator
) -> tuple[Any, Any]:
    """Inputs that only stand for a shape, as the forward reads them: bytes where it divides them by 255."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    given = tensors_of((args, kwargs))
    if len(placeholders) != len(given):
        return args, kwargs
    raw = {id(tensor) for node, tensor in zip(placeholders, given, strict=True) if reads_bytes(node)}

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in raw:
            return tensor
        return torch.randint(0, 256, tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    return map_tensors(args, change), map_tensors(kwargs, change)


def batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The leading size that the inputs' tensors share; 1 if they share none."""
    sizes = {tensor.shape[0] for tensor in tensors_of((args, kwargs)) if tensor.dim() > 0}
    return int(sizes.pop()) if len(sizes) == 1 else 1


def with_batch(args: tuple[Any, ...], kwargs: dict[str, Any], size: int) -> tuple[Any, Any]:
    """The first ``size`` samples of every input tensor."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:size] if tensor.dim() > 0 else tensor

    return map_tensors(args, change), map_tensors(kwargs, change)
