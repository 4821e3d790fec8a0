"""One forward pass into a torch.fx graph, at the level of torch's functions, on fake tensors.

Beside the fake tensors the recorder carries the real values of whatever depends on constants only (position ids,
masks, sizes as tensors), so that ``.item()`` and branching on them work, and a rule can look at a mask.
"""

from __future__ import annotations

import contextlib
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from initcheck.tracing.frames import user_stack
from initcheck.tracing.names import op_name
from initcheck.tracing.outputs import output_tensors, primary_output

VALUE_LIMIT = 1 << 22
"""Real values are carried for tensors of at most so many elements."""

_RANDOM = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "normal", "uniform",
    "exponential", "cauchy", "geometric", "log_normal", "random", "multinomial", "poisson", "dropout", "empty",
    "empty_like", "new_empty", "empty_strided", "rrelu", "gumbel_softmax", "alpha_dropout", "feature_dropout",
    "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
}  # fmt: skip
_NO_NODE = {"size", "dim", "numel", "shape", "dtype", "device", "is_contiguous", "stride", "requires_grad", "register_hook",
            "requires_grad_", "layout", "is_floating_point", "ndim", "storage_offset", "data_ptr", "__len__"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Write:
    """An in-place write to a storage: who wrote, and how many elements."""

    node: torch.fx.Node
    numel: int


@dataclass(slots=True)
class Recording:
    """A recorded pass. ``output``: what the model returned."""

    graph: torch.fx.Graph
    output: Any
    values: dict[str, torch.Tensor] = field(default_factory=dict)


class Recorder(TorchFunctionMode):
    """Records every torch function on tensors as a node; see ``Trace`` for what ``node.meta`` holds.

    Args:
        fake: the mode the pass runs under; None for a real pass.
        names: tensor id to (meta key, name), for parameters and buffers.
        values: tensor id to real value, for buffers that are small.
        is_leaf: whether an op is recorded as it is; a Python function that is not is opened, and what it calls is
            recorded instead.
    """

    def __init__(
        self,
        fake: FakeTensorMode | None,
        names: Mapping[int, tuple[str, str]],
        values: Mapping[int, torch.Tensor],
        is_leaf: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self.graph = torch.fx.Graph()
        self.fake = fake
        self.names = names
        self.is_leaf = is_leaf
        self.nodes: dict[int, torch.fx.Node] = {}
        self.kept: list[Any] = []
        self.real: dict[int, tuple[torch.Tensor, bool]] = {key: (value, True) for key, value in values.items()}
        self.writes: dict[int, list[_Write]] = {}
        self.seen: dict[int, int] = {}
        self.path: list[str] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.opening: list[Any] = []

    # ---- tensors and nodes

    def placeholder(self, tensor: torch.Tensor, name: str, real: torch.Tensor | None) -> None:
        """Enter an input. Integer inputs keep their real value for ``.item()``, but count as data."""
        node = self.graph.placeholder(name)
        node.meta.update(op="placeholder", val=tensor, module="", modules=(), stack=())
        self._enter(tensor, node)
        if real is not None and not real.is_floating_point() and not real.is_complex() and real.numel() <= VALUE_LIMIT:
            self.real[id(tensor)] = (real, False)

    def _enter(self, tensor: torch.Tensor, node: torch.fx.Node) -> None:
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)
        storage = _storage(tensor)
        if storage in self.writes:
            self.seen[id(tensor)] = len(self.writes[storage])

    def node_of(self, tensor: torch.Tensor) -> torch.fx.Node:
        """The node that stands for the tensor's present contents."""
        node = self.nodes.get(id(tensor))
        if node is None:
            node = self._attribute(tensor)
            self._enter(tensor, node)
        writes = self.writes.get(_storage(tensor), ())
        for write in writes[self.seen.get(id(tensor), 0) :]:
            written = self.graph.call_function(_write_view, (node, write.node))
            share = min(1.0, write.numel / max(tensor.numel(), 1))
            written.meta.update({**write.node.meta, "op": "write_view", "val": tensor, "share": share})
            written.meta.pop("value", None)
            node = self.nodes[id(tensor)] = written
        if writes:
            self.seen[id(tensor)] = len(writes)
        return node

    def _attribute(self, tensor: torch.Tensor) -> torch.fx.Node:
        key, name = self.names.get(id(tensor), ("constant", f"constant_{len(self.kept)}"))
        with _unchecked():
            node = self.graph.get_attr(name)
        node.meta.update(op="get_attr", val=tensor, module="", modules=(), stack=())
        value = self._value(tensor)
        if key == "constant":
            node.meta["constant"] = value
            if value is not None:
                self.constants[name] = value
        else:
            node.meta[key] = name
        if value is not None and key != "parameter":
            node.meta["value"] = value
        return node

    def _value(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The real value of a tensor that depends on constants only."""
        known = self.real.get(id(tensor))
        if known is not None:
            return known[0] if known[1] else None
        if not isinstance(tensor, FakeTensor) and id(tensor) not in self.nodes and id(tensor) not in self.names:
            small = tensor.numel() <= VALUE_LIMIT and tensor.device.type != "meta"
            return tensor.detach() if small and not isinstance(tensor, nn.Parameter) else None
        return None

    # ---- calls

    def __torch_function__(
        self, func: Any, types_: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the call on fake tensors and record it."""
        args, kwargs = tuple(args), dict(kwargs or {})
        name, inplace = op_name(func)
        inplace = inplace or kwargs.get("inplace") is True
        if name in _NO_NODE:
            return func(*args, **kwargs)
        if isinstance(func, types.FunctionType) and not self.is_leaf(name) and func not in self.opening:
            self.opening.append(func)  # should it hand itself to the mode again, it is recorded as it is
            try:
                with _opened(), self:
                    return func(*args, **kwargs)
            finally:
                self.opening.pop()
        operands = _tensors((args, kwargs))
        sources = {id(t): self.node_of(t) for t in operands}
        out, real = self._run(func, name, inplace, args, kwargs, operands)
        results = output_tensors(out)
        if not results and not inplace:
            return out
        meta_args, meta_kwargs = _replace((args, kwargs), sources)
        node = self.graph.call_function(func if callable(func) else _opaque, meta_args, meta_kwargs)
        node.meta.update(
            op=name,
            val=out if out is not None else (operands[0] if operands else None),
            module=self.path[-1] if self.path else "",
            modules=tuple(self.path),
            stack=user_stack(6, exact=False),
        )
        if inplace:
            node.meta["inplace"] = True
        self._enter_results(node, name, inplace, out, results, operands, kwargs, real)
        return out

    def _enter_results(
        self,
        node: torch.fx.Node,
        name: str,
        inplace: bool,
        out: Any,
        results: list[torch.Tensor],
        operands: list[torch.Tensor],
        kwargs: Mapping[str, Any],
        real: Any,
    ) -> None:
        target = kwargs.get("out") if isinstance(kwargs.get("out"), torch.Tensor) else None
        if inplace and operands:
            target = operands[0]
        if target is not None:
            node.meta["val"] = target
            self.writes.setdefault(_storage(target), []).append(_Write(node, target.numel()))
            self._enter(target, node)
            self._keep_real(target, node, real)
            return
        if isinstance(out, torch.Tensor):
            self._enter(out, node)
            self._keep_real(out, node, real)
            return
        flat_real = output_tensors(real) if real is not None else []
        flat = list(out) if isinstance(out, (tuple, list)) else results
        for index, item in enumerate(flat):
            if not isinstance(item, torch.Tensor):
                continue
            part = self.graph.call_function(operator.getitem, (node, index))
            part.meta.update({**node.meta, "op": "getitem", "val": item})
            self._enter(item, part)
            if len(flat_real) == len(results):
                position = next(i for i, t in enumerate(results) if t is item)
                constant = all(self.real.get(id(t), (None, False))[1] for t in operands)
                self._keep_real(item, part, (flat_real[position], constant))

    def _keep_real(self, tensor: torch.Tensor, node: torch.fx.Node, real: Any) -> None:
        if isinstance(real, tuple) and len(real) == 2 and isinstance(real[0], torch.Tensor):
            value, constant = real
            if value.numel() <= VALUE_LIMIT:
                self.real[id(tensor)] = (value, constant)
                if constant:
                    node.meta["value"] = value
                return
        self.real.pop(id(tensor), None)

    def _run(
        self, func: Any, name: str, inplace: bool, args: Any, kwargs: Any, operands: list[torch.Tensor]
    ) -> tuple[Any, Any]:
        """(result on fake tensors, (real result, whether constant) where the operands' real values are known)."""
        real = self._real_call(func, name, inplace, args, kwargs, operands)
        try:
            out = func(*args, **kwargs)
        except Exception:
            if real is None or self.fake is None:
                raise
            out = self._faked(real[0])
        if real is not None and not output_tensors(real[0]) and not inplace:
            return real[0], None  # a number, a list: ``.item()``, ``.tolist()``, ``bool``
        return out, real

    def _faked(self, real: Any) -> Any:
        fake = self.fake
        assert fake is not None
        return tree_map_only(torch.Tensor, lambda t: fake.from_tensor(t, static_shapes=True), real)

    def _real_call(
        self, func: Any, name: str, inplace: bool, args: Any, kwargs: Any, operands: list[torch.Tensor]
    ) -> tuple[Any, bool] | None:
        if self.fake is None or name in _RANDOM or name == "to" and not operands:
            return None
        known: dict[int, torch.Tensor] = {}
        constant = True
        for tensor in operands:
            entry = self.real.get(id(tensor))
            if entry is None:
                value = self._value(tensor)
                if value is None:
                    return None
                entry = (value, True)
            known[id(tensor)] = entry[0]
            constant &= entry[1]
        if not operands and not _small_factory(args, kwargs):
            return None
        if inplace and operands:
            known[id(operands[0])] = known[id(operands[0])].clone()
        try:
            with unset_fake_temporarily(), torch.no_grad():
                real_args, real_kwargs = _replace((args, kwargs), known)
                result = func(*real_args, **real_kwargs)
        except Exception:
            return None
        if inplace and operands:
            result = known[id(operands[0])]
        return result, constant

    # ---- modules

    def enter_module(self, path: str) -> None:
        """A submodule's forward begins."""
        self.path.append(path)

    def leave_module(self) -> None:
        """It ends."""
        if self.path:
            self.path.pop()


def _write_view(base: Any, value: Any) -> Any:
    """Target of the nodes that say: ``base`` after ``value`` was written to a part of its storage."""
    return base


def _opaque(*args: Any, **kwargs: Any) -> Any:
    """Target of nodes whose function is not callable from Python."""
    raise RuntimeError("an opaque node of a recorded graph cannot be run")


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def _small_factory(args: Any, kwargs: Any) -> bool:
    """Whether a call without tensor operands (``arange``, ``zeros``) surely makes something small."""
    count = 1
    for value in args:
        sizes = value if isinstance(value, (tuple, list, torch.Size)) else (value,)
        for size in sizes:
            if isinstance(size, int) and not isinstance(size, bool):
                count *= max(abs(size), 1)
    size = kwargs.get("size", ())
    for entry in size if isinstance(size, (tuple, list)) else (size,):
        count *= max(int(entry), 1) if isinstance(entry, int) else 1
    device = kwargs.get("device")
    return count <= VALUE_LIMIT and (device is None or torch.device(device).type == "cpu")


def _tensors(value: Any) -> list[torch.Tensor]:
    """Tensors in call arguments, in order, each once."""
    found: dict[int, torch.Tensor] = {}

    def walk(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            found.setdefault(id(item), item)
        elif isinstance(item, (tuple, list)):
            for part in item:
                walk(part)
        elif isinstance(item, dict):
            for part in item.values():
                walk(part)
        elif isinstance(item, slice):
            for part in (item.start, item.stop, item.step):
                walk(part)

    walk(value)
    return list(found.values())


def _replace(value: Any, by: Mapping[int, Any]) -> Any:
    """The arguments with tensors exchanged."""
    if isinstance(value, torch.Tensor):
        return by.get(id(value), value)
    if isinstance(value, tuple):
        parts = [_replace(part, by) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_replace(part, by) for part in value]
    if isinstance(value, dict):
        return {key: _replace(part, by) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_replace(part, by) for part in (value.start, value.stop, value.step)))
    return value


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """fx warns of ``get_attr`` nodes whose owning module it does not know; here there is none to know."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _opened() -> Iterator[None]:
    """Let a Python function of ``torch.nn.functional`` run its body instead of handing itself to the mode again."""
    spaces = (vars(torch.nn.functional), vars(torch.functional))
    saved = [(space, key, space[key]) for space in spaces for key in _CHECKS if key in space]
    try:
        for space, key, _ in saved:
            space[key] = _no
        yield
    finally:
        for space, key, original in saved:
            space[key] = original


_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _no(*args: Any) -> bool:
    return False


@contextlib.contextmanager
def module_paths(recorder: Recorder, paths: Mapping[int, str]) -> Iterator[None]:
    """Tell the recorder which submodule's forward is under way."""

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            recorder.enter_module(paths[id(module)])

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if id(module) in paths:
            recorder.leave_module()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def finish(recorder: Recorder, output: Any) -> Recording:
    """Close the graph: the output node holds the primary output first, then the other tensors."""
    primary = primary_output(output)
    tensors = output_tensors(output)
    ordered = ([primary] if primary is not None else []) + [t for t in tensors if t is not primary]
    recorder.graph.output(tuple(recorder.node_of(t) for t in ordered))
    return Recording(recorder.graph, output, recorder.constants)
