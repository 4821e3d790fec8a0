"""A throw-away copy of a model, its weights fake tensors: nothing is allocated, the caller's object not touched."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from initcheck.tracing.deepcopies import ATOMS, copied_module
from initcheck.tracing.members import modules_of, named_modules, named_tensors
from initcheck.tracing.recorder import VALUE_LIMIT, Recorder
from initcheck.tracing.shapes import Twin

_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
}
_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``DataParallel``, ``DistributedDataParallel``, ``torch.compile`` wrappers."""
    while True:
        attribute = _WRAPPERS.get(f"{type(model).__module__}.{type(model).__qualname__}")
        if attribute is None:
            return model
        model = getattr(model, attribute)


@dataclass(slots=True)
class Copy:
    """A copy to run, and what its tensors stand for.

    ``names``: id of a parameter's or buffer's tensor to (meta key, name); ``values``: id to real value, where small;
    ``paths``: id of a submodule to its path; ``twins``: see ``Shapes``.
    """

    model: nn.Module
    fake: FakeTensorMode | None
    names: dict[int, tuple[str, str]] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    twins: dict[int, Twin] = field(default_factory=dict)

    def recorder(self, *, keep_graph: bool = True, autograd: bool = False) -> Recorder:
        """A fresh recorder for one pass of this copy."""
        return Recorder(self.fake, self.names, self.values, twins=self.twins, keep_graph=keep_graph, autograd=autograd)


class _Tensors(TorchFunctionMode):
    """While something is deep-copied: decides what a plain tensor becomes."""

    def __init__(self, become: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.become = become

    def __torch_function__(
        self, func: Any, types_: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args[0], args[1]
            if id(tensor) not in memo:
                memo[id(tensor)] = self.become(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def fake_copy(model: nn.Module, mode: str) -> Copy:
    """Copy with fake parameters and buffers, in train or eval mode, without the user's hooks."""
    fake = FakeTensorMode(allow_non_fake_inputs=True, static_shapes=True)
    made = Copy(model, fake)
    memo: dict[int, Any] = {}
    parameters = named_tensors(model, "_parameters", repeats=True)
    memo.update({id(p.grad): None for _, p in parameters if p.grad is not None})
    for name, parameter in parameters:
        if id(parameter) not in memo:
            memo[id(parameter)] = made_fake = _fake(made, fake, parameter)
            made.names[id(made_fake)] = ("parameter", name)
    for name, buffer in named_tensors(model, "_buffers", repeats=True):
        if id(buffer) not in memo:
            memo[id(buffer)] = made_fake = _fake(made, fake, buffer)
            made.names.setdefault(id(made_fake), ("buffer", name))
            if _small(buffer):
                made.values[id(made_fake)] = buffer.detach().clone()
    for value in held_tensors(model):
        if id(value) not in memo:
            memo[id(value)] = stand_in = _become(made, fake, value)
            if isinstance(stand_in, FakeTensor):
                made.names[id(stand_in)] = ("buffer", f"unregistered_{len(memo)}")
    made.kept += list(memo.values())
    with _Tensors(functools.partial(_become, made, fake)):
        made.model = _copied(model, memo)
    made.kept.append(memo)
    _rebind_closures(made.model, memo)
    _prepare(made, mode)
    return made


def real_copy(model: nn.Module, mode: str) -> Copy:
    """A full copy, weights and all, for a pass on real tensors."""
    made = Copy(model, None)
    parameters = named_tensors(model, "_parameters")
    memo: dict[int, Any] = {id(p.grad): None for _, p in parameters if p.grad is not None}
    for value in held_tensors(model):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    made.model = _copied(model, memo)
    _rebind_closures(made.model, memo)
    for name, parameter in named_tensors(made.model, "_parameters", repeats=True):
        made.names.setdefault(id(parameter), ("parameter", name))
        made.kept.append(parameter)
    for name, buffer in named_tensors(made.model, "_buffers", repeats=True):
        made.names.setdefault(id(buffer), ("buffer", name))
        made.kept.append(buffer)
    _prepare(made, mode)
    return made


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; where some attribute cannot be copied (a lock, an open file), only that is shared."""
    known = dict(memo)
    try:
        return copied_module(model, memo)
    except Exception:
        memo.clear()
        memo.update(known)
        return _piecewise(model, memo)


def _piecewise(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        found: nn.Module = memo[id(module)]
        return found
    made = memo[id(module)] = type(module).__new__(type(module))
    for key, value in vars(module).items():
        if key == "_modules":
            vars(made)[key] = {
                name: None if child is None else _piecewise(child, memo) for name, child in value.items()
            }
        elif key in ("_parameters", "_buffers"):
            vars(made)[key] = {name: copy.deepcopy(tensor, memo) for name, tensor in value.items()}
        else:
            attempt = dict(memo)
            try:
                vars(made)[key] = copy.deepcopy(value, attempt)
                memo.update(attempt)
            except Exception:
                vars(made)[key] = value
    return made


def _prepare(made: Copy, mode: str) -> None:
    for path, module in named_modules(made.model):
        made.paths.setdefault(id(module), path)
        skipped = _drop_hooks(module)
        if skipped:
            made.notes.append(f"hook not run on {path or 'the model'}: {', '.join(skipped)}")
        for name, child in module._modules.items():
            if child is not None and unwrapped(child) is not child:
                module._modules[name] = unwrapped(child)
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) in ("eager", "grouped_mm"):
            config._experts_implementation = "batched_mm"  # the one form whose shapes do not depend on the routing
    _set_mode(made.model, mode == "train")


def _set_mode(model: nn.Module, training: bool) -> None:
    """As ``model.train(training)``, but a method of that name that is something else (a training loop) is not run."""
    modules = modules_of(model)
    for module in modules:
        module.training = training
    for module in reversed(modules):
        method = type(module).train
        if method is not nn.Module.train and list(inspect.signature(method).parameters)[1:2] == ["mode"]:
            module.train(training)


def _rebind_closures(copied: nn.Module, memo: Mapping[int, Any]) -> None:
    """Let functions that modules keep (``self.mlpf = lambda x: m.c_proj(x)``) hold the copy, not the original.

    ``copy.deepcopy`` takes functions as they are.
    """
    for module in modules_of(copied):
        functions = [item for item in vars(module).items() if isinstance(item[1], types.FunctionType)]
        for name, value in functions:
            if value.__closure__:
                cells = [_rebound_cell(cell, memo) for cell in value.__closure__]
                if any(new is not old for new, old in zip(cells, value.__closure__, strict=True)):
                    fresh = types.FunctionType(
                        value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells)
                    )
                    fresh.__kwdefaults__ = value.__kwdefaults__
                    vars(module)[name] = fresh


def _rebound_cell(cell: types.CellType, memo: Mapping[int, Any]) -> types.CellType:
    try:
        held = cell.cell_contents
    except ValueError:  # not filled yet
        return cell
    copied = memo.get(id(held)) if isinstance(held, (nn.Module, torch.Tensor)) else None
    return cell if copied is None else types.CellType(copied)


def held_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Tensors that modules keep as plain attributes, in lists or in dicts."""
    found: list[torch.Tensor] = []

    def walk(value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif depth and type(value) in (list, tuple, dict):
            for item in list(value.values()) if isinstance(value, dict) else value:
                walk(item, depth - 1)

    for module in modules_of(model):
        for key, value in vars(module).items():
            if type(value) in ATOMS or (type(value) in (dict, OrderedDict) and not value):
                continue
            if key not in ("_parameters", "_buffers", "_modules"):
                walk(value, 2)
    return found


def _small(tensor: torch.Tensor) -> bool:
    return tensor.numel() <= VALUE_LIMIT and tensor.device.type != "meta" and tensor.layout is torch.strided


def _become(made: Copy, fake: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor outside of parameters and buffers becomes: itself in small, a fake one in large."""
    if not _small(tensor) or (isinstance(tensor, nn.Parameter) and tensor.numel() > 65536):
        return _fake(made, fake, tensor)
    with torch._C.DisableTorchFunctionSubclass():
        clone = tensor.detach().clone()
    return clone.requires_grad_(tensor.requires_grad) if tensor.is_leaf else clone


def _fake(made: Copy, fake: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    stand_in: torch.Tensor
    if tensor.device.type == "meta":
        with fake:
            stand_in = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
        return stand_in
    if not tensor.is_leaf:
        tensor = tensor.detach()
    return _stand_in(made, fake, tensor) if _owns_its_memory(tensor) else fake.from_tensor(tensor, static_shapes=True)


def _owns_its_memory(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a plain one, and all there is in its storage."""
    plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.is_quantized or not tensor.is_contiguous():
        return False
    if tensor.is_complex() or tensor.is_inference() or tensor._base is not None or vars(tensor):
        return False
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() and tensor.numel() > 0


def _stand_in(made: Copy, fake: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """What ``from_tensor`` makes of such a tensor, a tenth of the time."""
    known = fake.fake_tensor_converter._get_memo(tensor)
    if known is not None:
        return known
    layout = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    is_parameter = isinstance(tensor, nn.Parameter)
    stand_in = FakeTensor(fake, layout, tensor.device, requires_grad=tensor.requires_grad, _is_param=is_parameter)
    fake.fake_tensor_converter.set_tensor_memo(tensor, stand_in)
    made.twins[id(stand_in)] = stand_in, layout
    return stand_in


def _drop_hooks(module: nn.Module) -> list[str]:
    """Take the hooks off that belong neither to torch nor to the copy itself; their names."""
    dropped: list[str] = []
    for attribute in _HOOKS:
        hooks = getattr(module, attribute, None)
        if not hooks or attribute in ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
            continue
        for key, hook in list(hooks.items()):
            if attribute.startswith("_forward") and (hook is True or _belongs(hook)):
                continue
            del hooks[key]
            if attribute in ("_forward_hooks", "_forward_pre_hooks"):
                dropped.append(_hook_name(hook))
    return dropped


def _belongs(hook: Any) -> bool:
    """Whether a hook is torch's own (weight norm, pruning) or a method of an object that was copied along."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    if isinstance(hook, types.MethodType):
        return True
    owner = hook if inspect.isfunction(hook) or inspect.isclass(hook) else type(hook)
    return str(getattr(owner, "__module__", "")).startswith("torch.")


def _hook_name(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__qualname__", type(hook).__qualname__))


def enter_inputs(
    made: Copy, recorder: Recorder, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments with every tensor exchanged for its stand-in, entered as a placeholder of the graph."""
    memo: dict[int, Any] = {}
    entered: list[Any] = []
    for name, value in _named(made.model, args, kwargs):
        stand_in = functools.partial(_enter_input, made, recorder, name)
        with _Tensors(stand_in):
            entered.append(copy.deepcopy(value, memo))
    return tuple(entered[: len(args)]), dict(zip(kwargs, entered[len(args) :], strict=True))


def _enter_input(made: Copy, recorder: Recorder, name: str, tensor: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        detached = tensor.detach()
        if made.fake is not None:
            inner = _fake(made, made.fake, detached)
        else:
            inner = detached.clone()
        if tensor.requires_grad:
            inner.requires_grad_()
    real = None if detached.device.type == "meta" else detached
    recorder.placeholder(inner, name, real)
    return inner


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names for positional arguments, from forward's signature where it says."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [positional[i] if i < len(positional) else f"input_{i}" for i in range(len(args))]
    return [*zip(names, args, strict=True), *kwargs.items()]
