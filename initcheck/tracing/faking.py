"""A throw-away copy of a model whose tensors are fake: structure copied, weights not."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from initcheck.tracing.recorder import VALUE_LIMIT


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's model inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@dataclass(slots=True)
class FakeModel:
    """``module``: the copy. ``names``: fake tensor id to (kind, name). ``values``: fake tensor id to small real buffer."""

    module: nn.Module
    mode: FakeTensorMode
    names: dict[int, tuple[str, str]] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    hooks_left_out: int = 0

    def again(self) -> FakeModel:
        """Another copy, for a pass that may leave things on the modules."""
        memo: dict[int, Any] = {id(t): t for t in _state(self.module).values()}
        with self.mode:
            module = copy.deepcopy(self.module, memo)
        return FakeModel(module, self.mode, self.names, self.values, _paths(module), self.hooks_left_out)


def _state(module: nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    """Parameters and buffers by (kind, name), under every name they have."""
    found: dict[tuple[str, str], torch.Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found["parameter", name] = parameter
    for name, buffer in module.named_buffers(remove_duplicate=False):
        found["buffer", name] = buffer
    return found


def _paths(module: nn.Module) -> dict[int, str]:
    paths: dict[int, str] = {}
    for name, child in module.named_modules():
        paths.setdefault(id(child), name)
    return paths


def fake_model(model: nn.Module) -> FakeModel:
    """Copy ``model`` with fake tensors in the place of its own; the caller's object is not touched.

    Raises:
        Exception: whatever ``copy.deepcopy`` raises on an attribute that cannot be copied.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    names: dict[int, tuple[str, str]] = {}
    values: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        made = memo.get(id(tensor))
        if made is None:
            made = memo[id(tensor)] = mode.from_tensor(tensor, static_shapes=True)
        assert isinstance(made, torch.Tensor)
        return made

    for (kind, name), tensor in _state(model).items():
        made = fake(tensor)
        names.setdefault(id(made), (kind, name))
        if kind == "buffer" and tensor.numel() <= VALUE_LIMIT and tensor.device.type != "meta":
            values[id(made)] = tensor.detach()
        if tensor.grad is not None:
            memo[id(tensor.grad)] = None
    for module in model.modules():
        for value in vars(module).values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, torch.Tensor) and (not item.is_leaf or item.numel() > VALUE_LIMIT):
                    memo.setdefault(id(item), mode.from_tensor(item.detach(), static_shapes=True))
    duplicate = copy.deepcopy(model, memo)
    left_out = sum(_drop_user_hooks(module) for module in duplicate.modules())
    return FakeModel(duplicate, mode, names, values, _paths(duplicate), left_out)


def _drop_user_hooks(module: nn.Module) -> int:
    """Remove hooks that are not torch's own (those compute weights); they may have effects outside the model."""
    dropped = 0
    for key in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        hooks = vars(module).get(key)
        for handle, hook in list((hooks or {}).items()):
            owner = getattr(hook, "__module__", None) or type(hook).__module__
            if not str(owner).startswith("torch"):
                del hooks[handle]
                dropped += 1
    return dropped


def fake_inputs(mode: FakeTensorMode, value: Any) -> Any:
    """Call arguments with every tensor made fake (containers kept)."""
    from torch.utils._pytree import tree_map_only

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor.detach(), static_shapes=True)

    return tree_map_only(torch.Tensor, convert, value)
