"""Who wrote each parameter, in which order, from which line, and what it ended up as, without touching big tensors.

A model is built for real, but lazily: memory from ``torch.empty`` costs address space only until it is touched, so
factories and elementwise writes on big tensors are put down in the log instead of being run. Small tensors are written
for real, so that control flow on values, ``.item()``, position tables and the like just work. Whatever else reads a big
tensor has its log replayed first (within a budget; beyond it the result is unknown, and said to be).
"""

from __future__ import annotations

import itertools
import math
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from initcheck.findings import Location
from initcheck.tracing.chain import ELEMENTWISE, FILLS, Op, distribution, mixture, op_base
from initcheck.tracing.definitions import assignment, attribute_location, class_location
from initcheck.tracing.frames import kind_of, user_stack
from initcheck.tracing.live import equal_slices, measured, type_name
from initcheck.tracing.recorder import VALUE_LIMIT
from initcheck.tracing.trace import Distribution, Frame, ModuleRecord, ParameterRecord, Write

LAZY = 1 << 16
"""Tensors of more elements are not written, only logged."""
_MANY_STORAGES = 1 << 14
BUDGET = 1 << 27
"""So many elements of big tensors are written after all, where something reads them."""

UNKNOWN = Distribution("unknown", math.nan, math.nan)
UNINITIALISED = Distribution("uninitialised", math.nan, math.nan)

_EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}
_COPIES = {"clone", "_to_copy", "contiguous", "detach_copy", "view_copy", "lift_fresh_copy"}
_VIEWS = {
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "detach", "alias", "select", "slice", "expand",
    "unsqueeze", "squeeze", "narrow", "as_strided", "diagonal", "split", "split_with_sizes", "unbind", "unfold",
    "lift_fresh", "_reshape_alias", "unsafe_split", "chunk", "movedim", "view_as_real", "view_as_complex", "set",
    "is_same_size", "_has_compatible_shallow_copy_type", "sym_size", "sym_stride", "sym_numel", "stride", "size",
    "is_pinned", "set_", "resize_", "resize", "record_stream", "is_contiguous",
}  # fmt: skip
_UNLOGGED = {"requires_grad", "detach", "set", "resize", "squeeze", "unsqueeze", "transpose", "t", "as_strided"}


@dataclass(slots=True)
class _Storage:
    """What is known of one storage.

    ``fill``, ``chain``, ``parts``: what to run, in order, to have its contents (only if ``pending``). ``covered``:
    which elements of uninitialised memory have been written by parts. ``activation``: the call that wrote last.
    """

    reference: StorageWeakRef
    numel: int
    dist: Distribution
    pending: bool = False
    fill: Op | None = None
    chain: list[Op] = field(default_factory=list)
    parts: list[tuple[Any, ...]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    clone_of: int = 0
    writes_at_clone: int = 0
    lost: bool = False
    covered: torch.Tensor | None = None
    activation: Any = None

    @property
    def iid(self) -> bool:
        """Whether every element is made in the same way, so that any part of it looks like the whole."""
        return self.fill is not None and not self.parts


class InitLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a constructor; see ``build``. With ``lazy`` False, all of a process: everything is written for real.

    ``awake``: False to let every op pass unseen.
    """

    def __init__(self, *, lazy: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.awake = True
        self._lazy_above = LAZY if lazy else sys.maxsize
        self._forget_at = sys.maxsize if lazy else _MANY_STORAGES
        self.storages: dict[int, _Storage] = {}
        self.depth = 0
        self.spent = 0
        self.notes: list[str] = []
        self.built_at: dict[int, tuple[Frame, ...]] = {}
        self.alive: list[weakref.ref[nn.Module]] = []

    # ---- storages

    def _of(self, tensor: torch.Tensor) -> _Storage | None:
        return self.storages.get(self._key(tensor))

    def _enter(self, tensor: torch.Tensor, dist: Distribution) -> _Storage:
        storage = tensor.untyped_storage()
        numel = max(1, storage.nbytes() // max(tensor.element_size(), 1))
        made = _Storage(StorageWeakRef(storage), numel, dist)  # type: ignore[no-untyped-call]
        self.storages[storage._cdata] = made
        if len(self.storages) > self._forget_at:
            self._forget()
        return made

    def _forget(self) -> None:
        """Drop the histories of tensors that are gone: a process that reads data makes millions."""
        gone = [key for key, storage in self.storages.items() if storage.reference.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self.storages[key]
        self._forget_at = max(_MANY_STORAGES, 2 * len(self.storages))

    def _share(self, tensor: torch.Tensor, storage: _Storage) -> float:
        return min(1.0, tensor.numel() / storage.numel)

    # ---- the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the op, or put it down."""
        kwargs = kwargs or {}
        if not self.awake:
            return func(*args, **kwargs)
        name = op_base(func)
        inplace = func._schema.name.endswith("_") and not func._schema.name.endswith("__")
        if not inplace:
            if name in _EMPTY:
                out = func(*args, **kwargs)
                self._enter(out, UNINITIALISED)
                return out
            if name in FILLS:
                return self._factory(func, args, kwargs)
        elif name in FILLS and args and isinstance(args[0], torch.Tensor):
            return self._fill(func, args, kwargs)
        operands = [a for a in _flat(args, kwargs) if isinstance(a, torch.Tensor)]
        pending = [s for s in (self._of(t) for t in operands) if s is not None and s.pending]
        if pending:
            if (not inplace and name in _VIEWS) or name in ("set", "resize"):
                return func(*args, **kwargs)
            done, out = self._lazily(func, name, inplace, args, kwargs)
            if done:
                return out
            if not all(self._materialise(t) for t in operands):
                return self._unknown(func, inplace, args, kwargs)
        out = func(*args, **kwargs)
        if inplace and name not in _UNLOGGED and operands:
            self._written(func, name, args, kwargs)
        elif not inplace and isinstance(out, torch.Tensor) and name not in _VIEWS:
            self._derived(func, name, args, kwargs, out)
            if self._of(out) is None:
                self._log(self._enter(out, UNKNOWN), name, {}, 1.0)  # ``eye``, ``linspace``, ``cat``: values are real
        return out

    def _factory(self, func: Any, args: Any, kwargs: Any) -> Any:
        rest = tuple(args[1:]) if args and isinstance(args[0], (torch.Tensor, list, tuple)) else ()
        fill = Op(func, rest, tuple((k, v) for k, v in kwargs.items() if isinstance(v, (int, float, bool))))
        shape, like = _wanted_shape(args)
        options = {
            k: v for k, v in kwargs.items() if k in ("dtype", "device", "layout", "pin_memory") and v is not None
        }
        lazy = math.prod(shape) > self._lazy_above and str(options.get("device", "cpu")).startswith("cpu")
        if lazy:
            if like is not None:
                options.setdefault("dtype", like.dtype)
            out = torch.ops.aten.empty.memory_format(list(shape), **options)
        else:
            out = func(*args, **kwargs)
        storage = self._enter(out, UNKNOWN)
        self._filled(storage, fill, lazy)
        self._log(storage, op_base(func), _plain_arguments(fill), 1.0)
        return out

    def _fill(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor: torch.Tensor = args[0]
        if any(isinstance(a, torch.Tensor) for a in _flat(args[1:], kwargs)):
            values = [a.item() if isinstance(a, torch.Tensor) and a.numel() == 1 else a for a in args[1:]]
            if any(isinstance(v, torch.Tensor) for v in values):
                out = func(*args, **kwargs)
                self._written(func, op_base(func), args, kwargs)
                return out
        else:
            values = list(args[1:])
        plain = tuple((k, v) for k, v in kwargs.items() if k != "generator")
        fill = Op(func, tuple(values), plain)
        storage = self._of(tensor) or self._enter(tensor, UNINITIALISED)
        share = self._share(tensor, storage)
        before = storage.dist
        whole = share >= 1.0
        lazy = (
            tensor.numel() > self._lazy_above
            and tensor.device.type == "cpu"
            and (whole or storage.pending or not _touched(storage))
        )
        if whole:
            if not lazy:
                func(*args, **kwargs)
            self._filled(storage, fill, lazy)
        else:
            if storage.pending:
                storage.parts.append((fill, tensor.size(), tensor.stride(), tensor.storage_offset()))
            else:
                func(*args, **kwargs)
                storage.fill = None
            storage.dist = mixture(before, distribution(fill, []), share)
            self._cover(storage, tensor)
        self._log(storage, f"{op_base(func)}_", _plain_arguments(fill), share)
        return tensor

    def _filled(self, storage: _Storage, fill: Op, lazy: bool) -> None:
        storage.fill, storage.chain, storage.parts = fill, [], []
        storage.pending, storage.lost, storage.clone_of = lazy, False, 0
        storage.dist = distribution(fill, [])

    def _lazily(self, func: Any, name: str, inplace: bool, args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Copies and elementwise ops with plain numbers, on big tensors: put down instead of run."""
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if inplace and name == "copy" and source is not None and isinstance(args[1], torch.Tensor):
            return self._copy_lazily(source, args[1])
        storage = self._of(source) if source is not None else None
        if source is None or storage is None or not storage.pending or not storage.iid:
            return False, None
        if name in _COPIES:
            out = _empty_like(source, kwargs)
            made = self._adopt(out, storage)
            made.clone_of, made.writes_at_clone = source.untyped_storage()._cdata, len(storage.writes)
            return True, out
        if name not in ELEMENTWISE:
            return False, None
        plain = [_scalar(a) for a in args[1:]]
        if any(p is None for p in plain) or any(isinstance(v, torch.Tensor) for v in kwargs.values()):
            return False, None
        op = Op(func, tuple(plain), tuple(kwargs.items()))
        if inplace:
            if self._share(source, storage) < 1.0:
                return False, None
            target, out = storage, source
        else:
            out = _empty_like(source, {})
            target = self._adopt(out, storage)
        target.chain.append(op)
        assert target.fill is not None
        target.dist = distribution(target.fill, target.chain)
        self._log(target, name + ("_" if inplace else ""), _plain_arguments(op), 1.0)
        return True, out

    def _copy_lazily(self, target: torch.Tensor, source: torch.Tensor) -> tuple[bool, Any]:
        into, of = self._of(target), self._of(source)
        if (
            of is None
            or not of.iid
            or into is None
            or self._share(target, into) < 1.0
            or source.numel() != target.numel()
        ):
            return False, None
        if not of.pending or target.numel() <= self._lazy_above:
            return False, None
        into.fill, into.chain, into.parts = of.fill, list(of.chain), []
        into.pending, into.dist = True, of.dist
        into.writes.extend(of.writes)
        self._log(into, "copy_", {}, 1.0, carries=len(of.writes))
        return True, target

    def _adopt(self, out: torch.Tensor, source: _Storage) -> _Storage:
        made = self._enter(out, source.dist)
        made.fill, made.chain, made.pending = source.fill, list(source.chain), True
        made.writes = list(source.writes)
        return made

    def _derived(self, func: Any, name: str, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        """A small tensor made from another: it keeps the history (``randn(n) * scale``)."""
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        storage = self._of(source) if source is not None else None
        if storage is None or source is None or out.untyped_storage()._cdata == source.untyped_storage()._cdata:
            return
        if name in _COPIES or name in ELEMENTWISE:
            made = self._enter(out, UNKNOWN)
            made.writes = list(storage.writes)
            if name in _COPIES:
                made.clone_of, made.writes_at_clone = source.untyped_storage()._cdata, len(storage.writes)
            plain = [_scalar(a) for a in args[1:]]
            if storage.iid and (name in _COPIES or None not in plain):
                made.fill, made.chain = storage.fill, list(storage.chain)
                if name not in _COPIES:
                    made.chain.append(Op(func, tuple(plain), tuple(kwargs.items())))
                assert made.fill is not None
                made.dist = distribution(made.fill, made.chain)
            if storage.dist.kind == "uninitialised":
                made.dist = UNINITIALISED
            if name not in _COPIES:
                self._log(made, name, _named(func, plain, kwargs), 1.0)

    def _written(self, func: Any, name: str, args: Any, kwargs: Any) -> None:
        """A write that was run: what the tensor looks like is measured at the end."""
        tensor = args[0]
        if not isinstance(tensor, torch.Tensor):
            return
        storage = self._of(tensor) or self._enter(tensor, UNKNOWN)
        share = self._share(tensor, storage)
        plain = [_scalar(a) for a in args[1:]]
        if storage.iid and share >= 1.0 and name in ELEMENTWISE and None not in plain:
            storage.chain.append(Op(func, tuple(plain), tuple(kwargs.items())))
            assert storage.fill is not None
            storage.dist = distribution(storage.fill, storage.chain)
        else:
            uninitialised = storage.dist.kind == "uninitialised" and (share < 1.0 or name != "copy")
            storage.fill, storage.chain = None, []
            storage.dist = UNINITIALISED if uninitialised and share < 1.0 else UNKNOWN
            self._cover(storage, tensor)
        carries = 0
        if name == "copy":
            storage.clone_of = 0
            source = self._of(args[1]) if isinstance(args[1], torch.Tensor) else None
            if source is not None and source is not storage and share >= 1.0:
                storage.writes.extend(source.writes)
                carries = len(source.writes)
        self._log(storage, f"{name}_", _named(func, plain, kwargs), share, carries)

    def _cover(self, storage: _Storage, tensor: torch.Tensor) -> None:
        """A part of uninitialised memory was written; once every element has been, its values can be measured."""
        if storage.dist.kind != "uninitialised" or storage.numel > BUDGET:
            return
        with torch._C._DisableTorchDispatch():
            if storage.covered is None:
                storage.covered = torch.zeros(storage.numel, dtype=torch.bool)
            torch.as_strided(storage.covered, tensor.size(), tensor.stride(), tensor.storage_offset()).fill_(True)
            if bool(storage.covered.all()):
                storage.dist, storage.covered = UNKNOWN, None
            else:
                storage.dist = replace(UNINITIALISED, note="written in part only")

    def _unknown(self, func: Any, inplace: bool, args: Any, kwargs: Any) -> Any:
        """Over budget: the result has its shape, and nothing is known of its values."""
        if inplace:
            storage = self._of(args[0])
            if storage is not None:
                storage.dist, storage.fill, storage.pending, storage.lost = UNKNOWN, None, False, True
                self._log(storage, op_base(func) + "_", {}, 1.0)
            return args[0]
        meta = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to("meta"), (args, kwargs))
        with torch._C._DisableTorchDispatch():
            result = func(*meta[0], **meta[1])

        def lazily(tensor: torch.Tensor) -> torch.Tensor:
            out = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._enter(out, UNKNOWN).lost = True
            return out

        return torch.utils._pytree.tree_map_only(torch.Tensor, lazily, result)

    # ---- replay

    def _materialise(self, tensor: torch.Tensor) -> bool:
        """Run what was put down for this tensor's storage; False if that would cost too much."""
        storage = self._of(tensor)
        if storage is None or not storage.pending:
            return storage is None or not storage.lost
        if self.spent + storage.numel > BUDGET:
            return False
        self.spent += storage.numel
        self.replay(tensor, storage)
        return True

    def settle(self, tensors: list[torch.Tensor]) -> None:
        """Write tables (buffers, plain attributes) for real: forwards branch on them, and rules look at masks."""
        for tensor in tensors:
            storage = None if is_lazy(tensor) or isinstance(tensor, nn.Parameter) else self._of(tensor)
            if storage is not None and storage.pending and storage.numel <= VALUE_LIMIT:
                self._materialise(tensor.detach())

    def replay(self, tensor: torch.Tensor, storage: _Storage) -> None:
        """Write a pending storage's contents for real."""
        flat = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, (storage.numel,), (1,))
        assert storage.fill is not None
        _run(storage.fill, flat)
        for op in storage.chain:
            _run(op, flat)
        for op, size, stride, offset in storage.parts:
            _run(op, torch.as_strided(flat, size, stride, offset))
        storage.pending = False

    # ---- the log

    def _log(
        self, storage: _Storage, function: str, arguments: Mapping[str, Any], share: float, carries: int = 0
    ) -> None:
        if self.depth:
            return
        stack, origin, activation = _who()
        goes_on = activation is not None and storage.activation is activation and function[:-1] in ELEMENTWISE
        if goes_on and storage.writes and storage.writes[-1].share == share:
            storage.writes[-1] = _merged(storage.writes[-1], function, activation, storage.dist)
            return
        storage.activation = activation
        storage.writes.append(Write(function, arguments, storage.dist, origin, stack, share, carries))

    def init_call(self, name: str, tensor: torch.Tensor, arguments: Mapping[str, Any]) -> None:
        """A ``torch.nn.init`` function has run: one write, however many ops it took."""
        storage = self._of(tensor)
        if storage is not None:
            stack, origin, _ = _who()
            share = self._share(tensor, storage)
            storage.activation = None
            storage.writes.append(Write(name, arguments, storage.dist, origin, stack, share))

    def data_assigned(self, tensor: torch.Tensor, before: tuple[Write, ...]) -> None:
        """``tensor.data`` was set: ``before`` is overwritten, unless the new values were made from the old ones."""
        storage = self._of(tensor)
        if storage is None or not before or storage.writes[: len(before)] == list(before):
            return
        carries = len(storage.writes)
        storage.writes[:0] = before
        self._log(storage, "data.set", {}, 1.0, carries)

    def set_analytic(self, tensor: torch.Tensor, dist: Distribution, call: Any) -> bool:
        """Put down an init whose body needs data; False if it has to be run (a small or partly covered tensor)."""
        storage = self._of(tensor) or self._enter(tensor, UNINITIALISED)
        if tensor.numel() <= self._lazy_above or self._share(tensor, storage) < 1.0 or tensor.device.type != "cpu":
            return False
        storage.fill = Op(_InitFill(call, dist))
        storage.chain, storage.parts, storage.pending, storage.clone_of = [], [], True, 0
        storage.dist = dist
        return True

    def exact(self, tensor: torch.Tensor, dist: Distribution) -> None:
        """The distribution of a tensor that an init function has written for real."""
        storage = self._of(tensor)
        if storage is not None and self._share(tensor, storage) >= 1.0:
            storage.dist = dist

    # ---- what came of it

    def parameters(self, model: nn.Module) -> dict[str, ParameterRecord]:
        """Every parameter with its history."""
        aliases: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(parameter), []).append(name)
        modules = dict(model.named_modules())
        first_of: dict[tuple[int, int], str] = {}
        names = {self._key(p): name for name, p in model.named_parameters()}
        records: dict[str, ParameterRecord] = {}
        for name, parameter in model.named_parameters():
            path, _, attribute = name.rpartition(".")
            storage = self._of(parameter)
            dist, rows, columns = self._ended_as(parameter, storage)
            clone = ""
            if storage is not None and storage.clone_of and len(storage.writes) == storage.writes_at_clone:
                origin = self.storages.get(storage.clone_of)
                if origin is not None and len(origin.writes) == storage.writes_at_clone and dist.kind != "constant":
                    group = (storage.clone_of, storage.writes_at_clone)
                    clone = names.get(storage.clone_of) or first_of.get(group, "")
                    first_of.setdefault(group, name)
            frames = self._frames(modules, path)
            records[name] = ParameterRecord(
                name=name,
                module=path,
                module_type=type_name(modules[path]),
                attribute=attribute,
                shape=() if is_lazy(parameter) else tuple(parameter.shape),
                dtype=str(parameter.dtype).removeprefix("torch."),
                requires_grad=parameter.requires_grad,
                distribution=dist,
                writes=_completed(storage.writes, dist) if storage is not None else (),
                aliases=tuple(a for a in aliases[id(parameter)] if a != name),
                equal_rows=rows,
                equal_columns=columns,
                clone_of=clone if clone != name else "",
                location=attribute_location(type(modules[path]), attribute)
                or _site(frames)
                or assignment(modules, path),
            )
        return records

    def modules(self, model: nn.Module) -> dict[str, ModuleRecord]:
        """Every submodule with where it was built."""
        known = dict(model.named_modules())
        return {
            path: ModuleRecord(path, type_name(module), class_location(type(module)), self._frames(known, path))
            for path, module in known.items()
        }

    def _frames(self, modules: Mapping[str, nn.Module], path: str) -> tuple[Frame, ...]:
        """Where the module was built; a deepcopied one has no constructor, its container has."""
        while True:
            frames = self.built_at.get(id(modules.get(path)))
            if frames or not path:
                return frames or ()
            path = path.rpartition(".")[0]

    def _key(self, tensor: torch.Tensor) -> int:
        """The address of the storage; 0 for tensors without one (sparse, or lazy parameters: ValueError)."""
        try:
            return int(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError, ValueError):
            return 0

    def _ended_as(self, parameter: torch.Tensor, storage: _Storage | None) -> tuple[Distribution, bool, bool]:
        if is_lazy(parameter):
            return UNKNOWN, False, False
        if storage is None:
            return measured(parameter), equal_slices(parameter, 0), equal_slices(parameter, 1)
        several = parameter.dim() > 1
        if storage.pending or storage.lost:
            constant = storage.dist.kind == "constant" and several
            return storage.dist, constant, constant
        if storage.dist.kind == "uninitialised":
            return storage.dist, False, False
        exact = storage.dist.known and (storage.iid or storage.dist.kind in ("orthogonal", "identity", "sparse"))
        dist = storage.dist if exact else measured(parameter)
        return dist, equal_slices(parameter, 0), equal_slices(parameter, 1)

    def writes_of(self, tensor: torch.Tensor) -> tuple[Write, ...]:
        """The history of any tensor."""
        storage = self._of(tensor)
        return tuple(storage.writes) if storage is not None else ()

    def buffers(self, model: nn.Module) -> dict[str, Distribution]:
        """What every buffer ended up as."""
        found: dict[str, Distribution] = {}
        for name, buffer in model.named_buffers():
            storage = self._of(buffer)
            lazy = storage is not None and (storage.pending or storage.lost)
            found[name] = storage.dist if lazy and storage is not None else measured(buffer)
        return found

    def materialised(self, model: nn.Module) -> nn.Module:
        """The model with every pending parameter and buffer written for real (it then takes its full memory)."""
        for tensor in [*model.parameters(), *model.buffers()]:
            storage = self._of(tensor)
            if storage is not None and storage.pending:
                self.replay(tensor.detach(), storage)
        return model


class _InitFill:
    """Stands in for an overload in a log: an init function that is to be run as a whole."""

    def __init__(self, call: Any, dist: Distribution) -> None:
        self.call = call
        self.dist = dist


def _run(op: Op, tensor: torch.Tensor) -> None:
    if isinstance(op.func, _InitFill):
        op.func.call(tensor)
        return
    name = op.name
    kwargs = {k: v for k, v in op.kwargs if k not in ("dtype", "device", "layout", "pin_memory", "memory_format")}
    with torch.no_grad():
        if name in ("zeros", "zeros_like", "new_zeros", "zero"):
            tensor.zero_()
        elif name in ("ones", "ones_like", "new_ones"):
            tensor.fill_(1)
        elif name in ("full", "full_like", "new_full", "fill"):
            values = [v for v in (*op.args, *kwargs.values()) if isinstance(v, (int, float, bool))]
            tensor.fill_(values[-1])
        elif name in ("rand", "rand_like"):
            tensor.uniform_()
        elif name in ("randn", "randn_like"):
            tensor.normal_()
        elif name in FILLS:
            getattr(tensor, name + "_")(*op.args, **kwargs)
        elif name == "rsub":
            tensor.neg_().add_(op.args[0])
        else:
            tensor.copy_(getattr(torch.ops.aten, name)(tensor, *op.args, **kwargs))


def _touched(storage: _Storage) -> bool:
    return storage.dist.kind != "uninitialised"


def _scalar(value: Any) -> Any:
    """A plain number, or what a one-element real tensor holds; None for any other tensor."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 and value.device.type == "cpu" else None
    return value if isinstance(value, (int, float, bool, str)) else None


def _empty_like(tensor: torch.Tensor, kwargs: Mapping[str, Any]) -> torch.Tensor:
    dtype = kwargs.get("dtype") or tensor.dtype
    made: torch.Tensor = torch.ops.aten.empty.memory_format(list(tensor.shape), dtype=dtype)
    return made


def _wanted_shape(args: Any) -> tuple[tuple[int, ...], torch.Tensor | None]:
    first = args[0] if args else ()
    if isinstance(first, torch.Tensor):
        second = args[1] if len(args) > 1 else None
        return (tuple(second) if isinstance(second, (list, tuple)) else tuple(first.shape)), first
    return tuple(int(s) for s in first), None


def _plain_arguments(op: Op) -> dict[str, Any]:
    if isinstance(op.func, _InitFill):
        return {}
    names = [a.name for a in op.func._schema.arguments][1:]
    found = dict(zip(names, op.args, strict=False))
    found.update({k: v for k, v in op.kwargs if isinstance(v, (int, float, bool, str))})
    return {k: v for k, v in found.items() if k not in ("dtype", "layout", "device", "pin_memory", "memory_format")}


def _flat(args: Any, kwargs: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves((args, kwargs))


def _completed(writes: list[Write], dist: Distribution) -> tuple[Write, ...]:
    """The last write's distribution, where only the finished tensor could tell it."""
    if writes and not writes[-1].distribution.known and dist.known:
        return (*writes[:-1], replace(writes[-1], distribution=dist))
    return tuple(writes)


def _merged(write: Write, function: str, activation: Any, dist: Distribution) -> Write:
    """A helper's further op on what it has just written: still one write (``uniform_``, ``erfinv_``, ``mul_``, ...)."""
    if function != "erfinv_" and write.function != "trunc_normal_":
        return replace(write, distribution=dist)
    local = activation.f_locals
    wanted = {key: local.get(key) for key in ("mean", "std", "a", "b")}
    arguments = {key: value for key, value in wanted.items() if isinstance(value, (int, float))}
    return replace(write, function="trunc_normal_", arguments=arguments, distribution=dist)


def _named(func: Any, plain: list[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Plain arguments after the tensor, by the names of the op's schema."""
    names = [a.name for a in func._schema.arguments][1:]
    found = {name: value for name, value in zip(names, plain, strict=False) if value is not None}
    return {**found, **{k: v for k, v in kwargs.items() if isinstance(v, (int, float, str))}}


def _who() -> tuple[tuple[Frame, ...], str, Any]:
    """(user frames, origin, the call of a helper named like an init function, if one writes) of the write under way."""
    frame = sys._getframe(1)
    default = False
    walker: Any = frame
    while walker is not None:
        kind = kind_of(walker.f_code.co_filename)
        if kind == "torch" and walker.f_code.co_name in ("__init__", "initialize_parameters"):
            default = True
        if kind in ("user", "library"):
            break
        walker = walker.f_back
    stack = user_stack(start=frame)
    name = walker.f_code.co_name if walker is not None else ""
    activation = walker if name.endswith("_") and not name.endswith("__") else None
    if default:
        return stack, "default", None
    helpers = list(itertools.takewhile(lambda f: kind_of(f.location.path) == "library", stack))
    asked = len(helpers) < len(stack) and all(f.function.rpartition(".")[2].endswith("_") for f in helpers)
    return stack, "user" if asked or not helpers else "library", activation


def _site(frames: tuple[Frame, ...]) -> Location | None:
    """The innermost frame of the user's own code, else the innermost at all."""
    own = next((f for f in frames if kind_of(f.location.path) == "user"), None)
    return own.location if own is not None else frames[0].location if frames else None
