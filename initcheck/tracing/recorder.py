"""One forward pass into a torch.fx graph, at the level of torch's functions, on fake tensors.

Beside the fake tensors the recorder carries the real values of whatever depends on constants only (position ids,
masks, sizes as tensors), so that ``.item()`` and branching on them work, and a rule can look at a mask. Values that
depend on integer inputs are carried too, but only for control flow: to the other rooms they are data.
"""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from initcheck.tracing.frames import kind_of, user_stack
from initcheck.tracing.names import COMPOSITES, METADATA, RANDOM, is_composite, op_name
from initcheck.tracing.outputs import output_tensors, primary_output
from initcheck.tracing.shapes import Shapes, Twin

VALUE_LIMIT = 1 << 22
"""Real values are carried for tensors of at most so many elements."""


class UntrackedError(Exception):
    """A tensor turned up that no recorded call made: some code bypasses torch's function protocol."""


class AutogradError(Exception):
    """The pass asks autograd for gradients, which it has of the results of fake kernels only."""


@dataclass(frozen=True, slots=True)
class Known:
    """A real value. ``constant``: it depends on constants only, not on an input."""

    value: torch.Tensor
    constant: bool


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
    constants: dict[str, torch.Tensor] = field(default_factory=dict)


class Recorder(TorchFunctionMode):
    """Records every torch function on tensors as a node; see ``Trace`` for what ``node.meta`` holds.

    Args:
        fake: the mode that the pass runs under; None for a pass on real tensors.
        names: tensor id to (meta key, name), for parameters and buffers.
        values: tensor id to real value, for buffers that are small.
        twins: see ``Shapes``.
        keep_graph: False to run the pass only (values of constants are still carried).
        autograd: True to run every call through the fake kernels, which autograd can differentiate (slower).
    """

    def __init__(
        self,
        fake: FakeTensorMode | None,
        names: Mapping[int, tuple[str, str]],
        values: Mapping[int, torch.Tensor],
        *,
        twins: Mapping[int, Twin],
        keep_graph: bool = True,
        autograd: bool = False,
    ) -> None:
        super().__init__()
        self.shapes = Shapes(fake, twins) if fake is not None and not autograd else None
        self.graph = torch.fx.Graph()
        self.fake = fake
        self.names = names
        self.keep_graph = keep_graph
        self.nodes: dict[int, torch.fx.Node] = {}
        self.kept: list[Any] = []
        self.known: dict[int, Known] = {key: Known(value, True) for key, value in values.items()}
        self.aliases: dict[int, list[int]] = {}
        self.writes: dict[int, list[_Write]] = {}
        self.seen: dict[int, int] = {}
        self.places: dict[tuple[Any, ...], torch.Tensor] = {}
        self.owners: dict[int, torch.Tensor] = {}
        self.path: list[str] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.dispatching = False
        self.inside = 0

    # ---- tensors and nodes

    def placeholder(self, tensor: torch.Tensor, name: str, real: torch.Tensor | None) -> None:
        """Enter an input. Integer inputs keep their real value for control flow."""
        node = self.graph.placeholder(name)
        node.meta.update(op="placeholder", val=tensor, module="", modules=(), stack=(), example=real)
        self._enter(tensor, node)
        if self.fake is not None and real is not None and _discrete(real) and real.numel() <= VALUE_LIMIT:
            self._know(tensor, Known(real, False))

    def _enter(self, tensor: torch.Tensor, node: torch.fx.Node) -> None:
        self.nodes[id(tensor)] = node
        self.kept.append(tensor)
        if self.dispatching:
            self.places[_place(tensor)] = tensor
            self.owners.setdefault(_storage(tensor), tensor)
        writes = self.writes.get(_storage(tensor)) if self.writes else None
        if writes is not None:
            self.seen[id(tensor)] = len(writes)

    def _same_place(self, tensor: torch.Tensor) -> None:
        """Autograd hands saved tensors back as new objects: the same memory in the same layout is the same tensor."""
        known = self.places.get(_place(tensor))
        if known is None or known.dtype != tensor.dtype:
            self._view_of(tensor)
            return
        self.kept.append(tensor)
        self.nodes[id(tensor)] = self.nodes[id(known)]
        if id(known) in self.seen:
            self.seen[id(tensor)] = self.seen[id(known)]
        if id(known) in self.known:
            self.known[id(tensor)] = self.known[id(known)]

    def _view_of(self, tensor: torch.Tensor) -> None:
        """A view that was made out of sight (``weight.t()`` inside ``linear``'s backward)."""
        base = self.owners.get(_storage(tensor))
        if base is None or base.dtype != tensor.dtype:
            return
        geometry = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        node = self.graph.call_function(torch.as_strided, (self.node_of(base), *geometry))
        node.meta.update({**self.node_of(base).meta, "op": "as_strided", "val": tensor})
        for key in ("value", "parameter", "buffer", "constant", "inplace"):
            node.meta.pop(key, None)
        if base.dim() == 2 and _place(tensor)[1:] == _place(base.detach().t())[1:]:
            node.meta["op"] = "t"
        self._enter(tensor, node)

    def node_of(self, tensor: torch.Tensor) -> torch.fx.Node:
        """The node that stands for the tensor's present contents."""
        if self.dispatching and id(tensor) not in self.nodes and id(tensor) not in self.names:
            self._same_place(tensor)
        node = self.nodes.get(id(tensor))
        if node is None:
            node = self._attribute(tensor)
            self._enter(tensor, node)
        writes = self.writes.get(_storage(tensor), ()) if self.writes else ()
        for write in writes[self.seen.get(id(tensor), 0) :]:
            written = self.graph.call_function(write_view, (node, write.node))
            share = min(1.0, write.numel / max(tensor.numel(), 1))
            written.meta.update({**write.node.meta, "op": "write_view", "val": tensor, "share": share})
            written.meta.pop("value", None)
            written.meta.pop("inplace", None)
            node = self.nodes[id(tensor)] = written
        if writes:
            self.seen[id(tensor)] = len(writes)
        return node

    def _attribute(self, tensor: torch.Tensor) -> torch.fx.Node:
        entry = self.names.get(id(tensor))
        if entry is None and isinstance(tensor, FakeTensor) and id(tensor) not in self.known:
            raise UntrackedError("a tensor that no recorded call made")
        key, name = entry or ("constant", f"constant_{len(self.kept)}")
        node = self.graph.get_attr(name)
        node.meta.update(op="get_attr", val=tensor, module="", modules=(), stack=())
        known = self.known.get(id(tensor))
        value = known.value if known is not None and known.constant else None
        node.meta[key] = name if key != "constant" else value
        if key == "constant" and value is not None:
            self.constants[name] = value
        if value is not None and key != "parameter":
            node.meta["value"] = value
        return node

    # ---- real values

    def _know(self, tensor: torch.Tensor, known: Known | None) -> None:
        if known is None or known.value.numel() > VALUE_LIMIT:
            self.known.pop(id(tensor), None)
            return
        self.known[id(tensor)] = known
        self.aliases.setdefault(_storage(tensor), []).append(id(tensor))

    def _before_write(self, tensor: torch.Tensor, real: bool) -> None:
        """Values under a storage about to be written to: forgotten, or moved so that earlier nodes keep theirs."""
        members = [key for key in self.aliases.get(_storage(tensor), ()) if key in self.known]
        if not real:
            for key in members:
                del self.known[key]
            self.known.pop(id(tensor), None)
            return
        with unset_fake_temporarily():
            self._move([*dict.fromkeys([*members, id(tensor)])])

    def _move(self, keys: list[int]) -> None:
        moved: dict[int, torch.Tensor] = {}
        for key in keys:
            known = self.known[key]
            storage = known.value.untyped_storage()
            base = moved.get(storage._cdata)
            if base is None:
                base = moved[storage._cdata] = torch.empty(0, dtype=known.value.dtype)
                base.set_(storage.clone())  # type: ignore[no-untyped-call]
            view = torch.empty(0, dtype=known.value.dtype).set_(
                base.untyped_storage(), known.value.storage_offset(), known.value.shape, known.value.stride()
            )
            self.known[key] = Known(view, known.constant)

    def _as_fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """The fake tensor that stands for a real one that the code holds (a constant, a cached table)."""
        assert self.fake is not None
        fresh = self.fake.from_tensor(tensor, static_shapes=True)
        if id(fresh) not in self.names and id(fresh) not in self.known and id(fresh) not in self.nodes:
            self.kept += [fresh, tensor]
            small = tensor.numel() <= VALUE_LIMIT and tensor.device.type != "meta" and not tensor.is_sparse
            with unset_fake_temporarily(), torch.no_grad():
                self._know(fresh, Known(tensor.detach().clone(), True) if small else None)
            if not small:
                self.names = {**self.names, id(fresh): ("buffer", f"constant_{len(self.kept)}")}
        return fresh

    # ---- calls

    def __torch_function__(
        self, func: Any, types_: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the call on fake tensors and record it."""
        name, inplace = op_name(func)
        if name in METADATA or (isinstance(func, torch._ops.OpOverload) and _inner()):
            if self.shapes is not None and (func is torch.autograd.grad or name == "backward"):
                raise AutogradError(f"{name} is called in the forward pass")
            return func(*args, **(kwargs or {}))
        if is_composite(func):
            with self:
                return func(*args, **(kwargs or {}))
        return self._call(func, name, inplace, tuple(args), dict(kwargs or {}))

    def _call(self, func: Any, name: str, inplace: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = _tensors(args, kwargs)
        if any(map(is_functorch_wrapped_tensor, operands)):
            if not self.dispatching:
                raise UntrackedError("a functorch transform is under way")
            return func(*args, **kwargs)
        if inplace and self._counts(name, args, kwargs):
            return args[0]
        if self.fake is not None:
            exchanged = {
                id(t): self._as_fake(t) for t in operands if type(t) is torch.Tensor or type(t) is nn.Parameter
            }
            if exchanged:
                args, kwargs = _with(args, kwargs, exchanged)
                operands = _tensors(args, kwargs)
        target = kwargs["out"] if isinstance(kwargs.get("out"), torch.Tensor) else None
        if inplace and operands and args and args[0] is operands[0]:
            target = operands[0]
        sources = {id(t): self.node_of(t) for t in operands} if self.keep_graph else {}
        self.inside += 1
        try:
            out, real = self._run(func, name, target, args, kwargs, operands)
        finally:
            self.inside -= 1
        if target is None and not isinstance(out, torch.Tensor) and not output_tensors(out):
            return out
        if self.keep_graph:
            node = self._call_node(func if callable(func) else _opaque, *_with(args, kwargs, sources))
            node.meta.update(
                op=name,
                val=target if target is not None else out,
                module=self.path[-1] if self.path else "",
                modules=tuple(self.path),
                stack=user_stack(6, exact=False, start=sys._getframe(2)),
            )
            if inplace:
                node.meta["inplace"] = True
        else:
            node = None
        if target is not None:
            if node is not None:
                self.writes.setdefault(_storage(target), []).append(_Write(node, target.numel()))
                self._enter(target, node)
                known = self.known.get(id(target))
                if known is not None and known.constant:
                    node.meta["value"] = known.value
            return out
        constant = real is not None and all(self.known[id(t)].constant for t in operands if id(t) in self.known)
        constant = constant and name not in RANDOM
        self._enter_results(node, out, real, constant)
        return out

    def _counts(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the call advances a counter among the buffers (batch norm's of batches), which is done here.

        A counter that no node reads needs none itself; whoever reads it later finds its value.
        """
        if name != "add" or kwargs or len(args) != 2 or type(args[1]) is not int:
            return False
        counter = args[0]
        known = self.known.get(id(counter))
        if known is None or id(counter) not in self.names or id(counter) in self.nodes:
            return False
        if known.value.dtype is not torch.int64 or known.value.dim() or self.aliases.get(_storage(counter)):
            return False
        with unset_fake_temporarily():
            self.known[id(counter)] = Known(known.value + args[1], known.constant)
        return True

    def _call_node(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.fx.Node:
        """``graph.call_function``, without its search for symbolic numbers in the arguments: here there are none."""
        node = self.graph.call_function(func)
        node.args = args
        if kwargs:
            node.kwargs = kwargs
        return node

    def _enter_results(self, node: torch.fx.Node | None, out: Any, real: Any, constant: bool) -> None:
        if isinstance(out, torch.Tensor):
            if node is not None:
                self._enter(out, node)
            else:
                self.kept.append(out)
            if isinstance(real, torch.Tensor):
                self._know(out, Known(real, constant))
                if node is not None and id(out) in self.known and (constant or _discrete(real)):
                    node.meta["value" if constant else "example"] = real
            elif self.fake is not None:
                self._know(out, None)
            return
        if isinstance(out, (tuple, list)):
            for index, item in enumerate(out):
                if not output_tensors(item):
                    continue
                part = None
                if node is not None:
                    part = self.graph.call_function(operator.getitem, (node, index))
                    part.meta.update({**node.meta, "op": "getitem", "val": item})
                same = isinstance(real, (tuple, list)) and index < len(real)
                self._enter_results(part, item, real[index] if same else None, constant)
        elif isinstance(out, Mapping) and node is not None:
            for key, item in out.items():
                if output_tensors(item):
                    part = self.graph.call_function(operator.getitem, (node, key))
                    part.meta.update({**node.meta, "op": "getitem", "val": item})
                    self._enter_results(part, item, None, False)

    def _run(
        self, func: Any, name: str, target: torch.Tensor | None, args: Any, kwargs: Any, operands: list[torch.Tensor]
    ) -> tuple[Any, Any]:
        """(result on fake tensors, result on real ones where the operands' values are known)."""
        if self.fake is None:
            return func(*args, **kwargs), None
        _check_dtypes(name, operands)
        if name == "embedding" and len(operands) == 2:
            self._check_indices(*sorted(operands, key=torch.is_floating_point))
        if name in _TYPICAL and not operands:
            return self._typical(func, name, args, kwargs)
        computable = name not in RANDOM and all(id(t) in self.known for t in operands)
        if not operands and not _small_factory(name, args, kwargs):
            computable = False
        if target is not None:
            self._before_write(target, computable)
        done, real = self._real_call(func, args, kwargs, operands) if computable else (False, None)
        if target is not None and computable and not done:
            self._before_write(target, False)
        if done and target is None and not output_tensors(real):
            return real, None  # a number, a list: ``.item()``, ``.tolist()``, ``bool``
        try:
            out = self._fake_call(func, name, target, args, kwargs, operands)
        except Exception:
            if not done or target is not None:
                raise
            out = self._faked(real)  # its shape depends on values (``nonzero``), which are known here
        return out, real if done else None

    def _fake_call(
        self, func: Any, name: str, target: torch.Tensor | None, args: Any, kwargs: Any, operands: list[torch.Tensor]
    ) -> Any:
        if self.shapes is None or self.dispatching:
            return func(*args, **kwargs)
        out = self.shapes.result(func, name, target is not None, args, kwargs, operands)
        if out is not None:
            return out
        if target is None:
            return self.shapes.computed(func, name, args, kwargs)
        self.shapes.changed(target)
        with torch.no_grad() if self.shapes.is_leaf(target) else contextlib.nullcontext():
            return func(*args, **kwargs)

    def differentiable(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor depends on something that has a gradient."""
        return tensor.grad_fn is not None or (self.shapes is not None and id(tensor) in self.shapes.made)

    def _check_indices(self, indices: torch.Tensor, table: torch.Tensor) -> None:
        """Fake kernels do not look at indices; those whose values are known can be."""
        known = self.known.get(id(indices))
        if known is not None and known.value.numel() and table.dim() == 2:
            with unset_fake_temporarily():
                low, high = (int(v) for v in torch.aminmax(known.value))
            if low < 0 or high >= table.shape[0]:
                raise IndexError("index out of range in self")

    def _typical(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """A small random tensor made from nothing: control flow (layer drop) goes by a typical value of it."""
        out = func(*args, **kwargs)
        if not isinstance(out, torch.Tensor) or out.numel() > 64:
            return out, None
        with unset_fake_temporarily():
            value = torch.full(out.shape, _TYPICAL[name], dtype=out.dtype)
        self._know(out, Known(value, False))
        return out, value

    def _faked(self, real: Any) -> Any:
        assert self.fake is not None
        if isinstance(real, torch.Tensor):
            return self.fake.from_tensor(real, static_shapes=True)
        return type(real)(self._faked(r) for r in real) if type(real) in (tuple, list) else real

    def _real_call(self, func: Any, args: Any, kwargs: Any, operands: list[torch.Tensor]) -> tuple[bool, Any]:
        by = {id(t): self.known[id(t)].value for t in operands}
        try:
            with unset_fake_temporarily(), torch.no_grad():
                real_args, real_kwargs = _with(args, kwargs, by)
                return True, func(*real_args, **real_kwargs)
        except Exception:
            return False, None


def _inner() -> bool:
    """Whether torch itself calls an ATen op here: the work of a fake kernel, not of the model."""
    return kind_of(sys._getframe(3).f_code.co_filename) == "torch"


_SAME_DTYPE = frozenset(
    ("linear", "bilinear", "matmul", "rmatmul", "mm", "bmm", "mv", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d",
     "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell",
     "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
)  # fmt: skip


_TYPE_NAMES = {
    torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16",
    torch.int64: "Long", torch.int32: "Int", torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte",
    torch.bool: "Bool",
}  # fmt: skip


def _check_dtypes(name: str, operands: list[torch.Tensor]) -> None:
    """Fake kernels promote dtypes where the real ones refuse to."""
    if name in _SAME_DTYPE and len(operands) > 1 and not torch.is_autocast_enabled(operands[0].device.type):
        first, second = (_TYPE_NAMES.get(t.dtype, str(t.dtype)) for t in operands[:2])
        if first != second:
            raise RuntimeError(f"mat1 and mat2 must have the same dtype, but got {first} and {second}")


class _Dispatches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records ATen ops that reached the dispatcher past the function protocol (TorchScript, C++ extensions)."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types_: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        recorder = self.recorder
        name, inplace = op_name(func)
        if recorder.inside or name in METADATA or name in ("detach", "lift_fresh"):
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            return recorder._call(func, name, inplace, tuple(args), dict(kwargs or {}))


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def write_view(base: Any, value: Any) -> Any:
    """Target of the nodes that say: ``base`` after ``value`` was written to (a part of) its storage."""
    return base


def _opaque(*args: Any, **kwargs: Any) -> Any:
    """Target of nodes whose function is not callable from Python."""
    raise RuntimeError("an opaque node of a recorded graph cannot be run")


def _discrete(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


_TYPICAL = {"rand": 0.5, "randn": 0.0}
_SIZED = frozenset(("zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "tril_indices", "triu_indices"))
_FACTORIES = _SIZED | {
    "tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "scalar_tensor", "range", "complex", "polar",
    "hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window", "fftfreq", "rfftfreq",
    "empty_permuted", "sparse_coo_tensor", "vander",
}  # fmt: skip


def _small_factory(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call without tensor operands (``arange``, ``zeros``) surely makes something small, on the CPU."""
    device = kwargs.get("device")
    if name not in _FACTORIES or (device is not None and torch.device(device).type == "meta"):
        return False  # what sets a state (``set_grad_enabled``) must run once, and for good
    if name not in _SIZED:
        return True
    count = 1.0
    for value in (*args, kwargs.get("size", ()), kwargs.get("end", 1)):
        for size in value if isinstance(value, (tuple, list, torch.Size)) else (value,):
            if isinstance(size, (int, float)) and not isinstance(size, bool) and math.isfinite(size):
                count *= max(abs(size), 1)
    return count <= 64 * VALUE_LIMIT


_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))
"""Types of most arguments: neither tensors nor holding any."""


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tensors in call arguments, in order, each once."""
    found: dict[int, torch.Tensor] = {}

    def walk(items: Iterable[Any]) -> None:
        for item in items:
            if type(item) in _PLAIN:
                continue
            if isinstance(item, torch.Tensor):
                found.setdefault(id(item), item)
            elif isinstance(item, (tuple, list)):
                walk(item)
            elif isinstance(item, dict):
                walk(item.values())
            elif isinstance(item, slice):
                walk((item.start, item.stop, item.step))

    walk(args)
    if kwargs:
        walk(kwargs.values())
    return list(found.values())


def _with(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], by: Mapping[int, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Call arguments with tensors exchanged."""
    return tuple([_replace(arg, by) for arg in args]), {key: _replace(arg, by) for key, arg in kwargs.items()}


def _replace(value: Any, by: Mapping[int, Any]) -> Any:
    if type(value) in _PLAIN:
        return value
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


_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@contextlib.contextmanager
def composites_opened() -> Iterator[None]:
    """Let composite functions run their own body under a recorder instead of handing themselves to it again.

    Such a function asks ``has_torch_function(...)`` first; while this context lasts, the answer to a composite is no.
    """
    spaces = [vars(sys.modules[name]) for name in ("torch.nn.functional", "torch.functional", "torch._tensor")]
    saved = [(space, key, space[key]) for space in spaces for key in _CHECKS if key in space]

    def answering(original: Any) -> Any:
        def answer(*args: Any) -> bool:
            if sys._getframe(1).f_code.co_name in COMPOSITES:
                return False
            return bool(original(*args))

        return answer

    try:
        for space, key, original in saved:
            space[key] = answering(original)
        yield
    finally:
        for space, key, original in saved:
            space[key] = original


@contextlib.contextmanager
def recording(recorder: Recorder, paths: Mapping[int, str], *, dispatch: bool = False) -> Iterator[None]:
    """Run a forward pass under the recorder, which is told which submodule's forward is under way.

    ``dispatch``: also catch ops that bypass the function protocol (slower).
    """

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in paths:
            recorder.path.append(paths[id(module)])

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if recorder.keep_graph and id(module) in paths:
            node = recorder.nodes.get(id(primary_output(out, recorder.differentiable)))
            if node is not None and node.op == "call_function":
                node.meta.setdefault("output_of", []).append(paths[id(module)])
        if id(module) in paths and recorder.path:
            recorder.path.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        with contextlib.ExitStack() as stack:
            if recorder.fake is not None:
                stack.enter_context(recorder.fake)
            if dispatch:
                recorder.dispatching = True
                stack.enter_context(_Dispatches(recorder))
            stack.enter_context(composites_opened())
            stack.enter_context(recorder)
            yield
    finally:
        for handle in handles:
            handle.remove()


def finish(recorder: Recorder, output: Any) -> Recording:
    """Close the graph: the output node holds the primary output first, then the other tensors."""
    primary = primary_output(output, recorder.differentiable)
    tensors = output_tensors(output)
    ordered = ([primary] if primary is not None else []) + [t for t in tensors if t is not primary]
    graph = recorder.graph
    graph.output(tuple(recorder.node_of(t) for t in ordered))
    for node in reversed(list(graph.nodes)):  # counters and index arithmetic that nothing reads
        if node.op in ("call_function", "get_attr") and not node.users and not _floating(node.meta.get("val")):
            graph.erase_node(node)
    return Recording(graph, output, recorder.constants)


def _floating(val: Any) -> bool:
    return any(t.is_floating_point() or t.is_complex() for t in output_tensors(val))
