"""What every initialiser shares: no gradients, meta tensors left alone, writing into any kind of tensor."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

logger = logging.getLogger("initcheck.init")

P = ParamSpec("P")


def initialiser(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Let ``function(tensor, ...) -> tensor`` run under ``no_grad``, and be a logged no-op on meta tensors."""

    @functools.wraps(function)
    def wrapper(tensor: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function.__name__}: expected a tensor, got {type(tensor).__name__}")
        if tensor.is_meta:
            logger.info("%s: a meta tensor of shape %s holds no values; left as it is", function.__name__, tensor.shape)
            return tensor
        if tensor.numel() == 0:
            return tensor
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"{function.__name__}: expected a floating-point or complex tensor, got {tensor.dtype}")
        with torch.no_grad():
            return function(tensor, *args, **kwargs)

    return wrapper


def need_dims(name: str, tensor: Tensor, least: int, most: int | None = None) -> None:
    """Raise ``ValueError`` unless the tensor has ``least`` to ``most`` dimensions."""
    if least <= tensor.dim() and (most is None or tensor.dim() <= most):
        return
    wanted = f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"
    raise ValueError(f"{name}: expected a tensor with {wanted} dimensions, got shape {tuple(tensor.shape)}")


def sample_(tensor: Tensor, draw: Callable[[Tensor], object], generator: torch.Generator | None = None) -> Tensor:
    """Fill ``tensor`` by ``draw``, an in-place sampler.

    Low precisions are drawn in float32 and rounded, so that the values are those of a float32 tensor; a distributed
    tensor gets rank 0's values of the whole, so that it is what it would be in one piece; a generator of another
    device than the tensor's draws there.
    """
    elsewhere = generator is not None and generator.device.type != tensor.device.type
    if tensor.dtype in _NATIVE and not is_distributed(tensor) and not elsewhere:
        draw(tensor)
        return tensor
    device = generator.device if generator is not None else tensor.device
    values = torch.empty(tensor.shape, dtype=working_dtype(tensor.dtype), device=device)
    draw(values)
    return write(tensor, values)


_NATIVE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def is_distributed(tensor: Tensor) -> bool:
    """Whether this is a DTensor."""
    return getattr(tensor, "placements", None) is not None


def whole(tensor: Tensor) -> Tensor:
    """A copy of all values, of a DTensor too."""
    full: Any = tensor
    return full.full_tensor().detach().clone() if is_distributed(tensor) else tensor.detach().clone()


def write(tensor: Tensor, values: Tensor) -> Tensor:
    """Copy ``values`` (any floating dtype) into ``tensor`` (any dtype, device or distribution); returns ``tensor``."""
    placements = getattr(tensor, "placements", None)
    if placements is not None:  # a DTensor: rank 0's values, sharded as the tensor is
        from torch.distributed.tensor import distribute_tensor

        local: Any = tensor
        values = distribute_tensor(values.to(tensor.device, tensor.dtype), local.device_mesh, placements)
    tensor.copy_(values)
    return tensor


def gaussian(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) numbers in a precision fit for linear algebra, on the device of ``like`` (or of the generator)."""
    dtype = working_dtype(like.dtype)
    device = generator.device if generator is not None else like.device
    return torch.randn(shape, dtype=dtype, device=device, generator=generator).to(like.device)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision that values for a tensor of ``dtype`` are computed in."""
    if dtype.is_complex:
        return torch.complex128 if dtype == torch.complex128 else torch.complex64
    return torch.float64 if dtype == torch.float64 else torch.float32
