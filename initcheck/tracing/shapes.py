"""What a call yields, worked out from the operands' layouts alone, for the functions that most passes consist of.

A fake kernel takes from .2 to 5 ms, most of it spent in torch's Python reference of the op. Views, products and what
keeps its operand's shape need none of that: their result is made here, as a fake tensor that shares memory where the
real one would. Anything out of the ordinary (another dtype or device, broadcasting of layouts that are not contiguous,
shapes that do not fit, autocast) is left to the fake kernels, which also know what to raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from initcheck.tracing.map_layouts import (
    adaptive_pooling,
    alike,
    channels_last,
    convolution,
    interpolation,
    ordinary,
    pooling,
    transposed_convolution,
)

_CPU = torch.device("cpu")
_Args = tuple[Any, ...]
Twin = tuple[FakeTensor, torch.Tensor]
"""A fake tensor, and a plain meta tensor that shares its memory."""
_Layout = Callable[[Any, _Args, Mapping[str, Any]], Any]
"""(function, arguments with meta tensors, keyword arguments) to the result on the meta device, or None: not known."""


class Shapes:
    """Makes results for one recorded pass.

    ``made``: ids of tensors that were made here and, for real, would have a gradient (they have no ``grad_fn``).
    What the fake kernels made of a call is remembered: blocks repeat.

    Args:
        fake: the mode that the results belong to.
        twins: of tensors that there are already (on the CPU), by their ids.
    """

    def __init__(self, fake: FakeTensorMode, twins: Mapping[int, Twin]) -> None:
        self.fake = fake
        self.made: set[int] = set()
        self._seen: dict[Any, tuple[_Made, ...] | _Made] = {}
        self._twins = dict(twins)

    def result(
        self,
        func: Any,
        name: str,
        inplace: bool,
        args: _Args,
        kwargs: Mapping[str, Any],
        operands: Sequence[torch.Tensor],
    ) -> Any:
        """The call's result; None where it is not known here."""
        layout = _LAYOUTS.get(name)
        if layout is None or not operands or torch.is_autocast_enabled("cpu"):
            return None
        for operand in operands:
            if id(operand) not in self._twins and (type(operand) is not FakeTensor or operand.device != _CPU):
                return None
        if inplace or kwargs.get("inplace"):
            return self._in_place(name, args, kwargs, operands)
        by, same = {}, {}
        gradient = False
        for operand in operands:
            twin = by[id(operand)] = self._twin(operand)
            same[id(twin)] = operand
            gradient = gradient or operand.requires_grad
        try:
            with torch._C._DisableTorchDispatch():
                out = layout(func, tuple([_with(a, by) for a in args]), {k: _with(v, by) for k, v in kwargs.items()})
        except Exception:
            return None  # the fake kernel raises what the real one would
        if out is None:
            return None
        gradient = gradient and name != "detach" and torch.is_grad_enabled()
        if isinstance(out, torch.Tensor):
            return self._wrapped(out, same, gradient)
        return type(out)(self._wrapped(part, same, gradient) for part in out)

    def computed(self, func: Any, name: str, args: _Args, kwargs: Mapping[str, Any]) -> Any:
        """The result by the fake kernel, or as that made it of operands with the same layouts."""
        key = _signature((name, torch.is_grad_enabled(), args, kwargs)) if self._repeats(name, kwargs) else None
        layouts = self._seen.get(key)
        if layouts is None:
            out = func(*args, **kwargs)
            if key is not None and (layouts := _made(out)) is not None:
                self._seen[key] = layouts
            return out
        return self._again(layouts) if isinstance(layouts, _Made) else tuple(map(self._again, layouts))

    def _repeats(self, name: str, kwargs: Mapping[str, Any]) -> bool:
        return name in _FRESH and not kwargs.get("inplace") and not torch.is_autocast_enabled("cpu")

    def _again(self, layout: _Made) -> torch.Tensor:
        with torch._C._DisableTorchDispatch():
            out = torch.empty_strided(layout.shape, layout.stride, dtype=layout.dtype, device="meta")
        return self._wrapped(out, {}, layout.gradient)

    def _in_place(self, name: str, args: _Args, kwargs: Mapping[str, Any], operands: Sequence[torch.Tensor]) -> Any:
        """The first operand itself, where what is written surely fits it."""
        target = operands[0]
        if not args or args[0] is not target:
            return None
        if name not in _IN_PLACE or (target.requires_grad and id(target) not in self.made and torch.is_grad_enabled()):
            return None
        for other in operands[1:]:
            if other.dtype != target.dtype or _broadcast(target.shape, other.shape) != tuple(target.shape):
                return None
        if not target.is_floating_point() and any(isinstance(a, float) for a in (*args, *kwargs.values())):
            return None
        if torch.is_grad_enabled() and any(t.requires_grad for t in operands[1:]) and not target.requires_grad:
            return None
        return target

    def is_leaf(self, tensor: torch.Tensor) -> bool:
        """Whether autograd takes the tensor, or what it is a view of, for a leaf because it was made here."""
        return id(tensor) in self.made or id(tensor._base) in self.made

    def changed(self, tensor: torch.Tensor) -> None:
        """A fake kernel wrote to the tensor: its layout may be another now."""
        self._twins.pop(id(tensor), None)

    def _twin(self, tensor: Any) -> torch.Tensor:
        """A plain meta tensor that shares the fake tensor's memory."""
        entry = self._twins.get(id(tensor))
        if entry is not None:
            twin = entry[1]
            if twin.shape == tensor.shape and twin.stride() == tensor.stride():
                return twin
        with torch.no_grad(), in_kernel_invocation_manager(self.fake):
            twin = torch.Tensor.detach(tensor)
        self._twins[id(tensor)] = (tensor, twin)
        return twin

    def _wrapped(self, out: torch.Tensor, same: Mapping[int, torch.Tensor], gradient: bool) -> torch.Tensor:
        known = same.get(id(out))
        if known is not None:
            return known
        gradient = gradient and (out.is_floating_point() or out.is_complex())
        fake = FakeTensor(self.fake, out, _CPU, requires_grad=gradient)
        self._twins[id(fake)] = (fake, out)
        if gradient:
            self.made.add(id(fake))
        return fake


@dataclass(frozen=True, slots=True)
class _Made:
    """The layout of a tensor that shares no memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    gradient: bool


def _made(out: Any) -> tuple[_Made, ...] | _Made | None:
    if type(out) is tuple:
        parts = [_made(part) for part in out]
        return tuple(p for p in parts if isinstance(p, _Made)) if all(isinstance(p, _Made) for p in parts) else None
    if type(out) is not FakeTensor or out.device != _CPU or out.layout is not torch.strided:
        return None
    return _Made(tuple(out.shape), out.stride(), out.dtype, out.requires_grad)


def _signature(value: Any) -> Any:
    """All of a call that its result's layout depends on, to be looked up by; None where something else plays a part."""
    if isinstance(value, torch.Tensor):
        if type(value) is not FakeTensor or value.device != _CPU or value.layout is not torch.strided:
            return None
        return tuple(value.shape), value.stride(), value.dtype, value.requires_grad
    if isinstance(value, Mapping):
        return _signature(tuple(value.items()))
    if type(value) in (tuple, list, torch.Size):
        parts = tuple(_signature(part) for part in value)
        return None if None in parts else (type(value), parts)
    return (type(value), value) if value is None or type(value) in (int, float, bool, str, torch.dtype) else None


def _with(value: Any, by: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return by[id(value)]
    if type(value) in (tuple, list):
        return type(value)(_with(part, by) for part in value)
    return value


def _broadcast(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...] | None:
    if tuple(one) == tuple(other):
        return tuple(one)
    short, long = sorted((tuple(one), tuple(other)), key=len)
    padded = (1,) * (len(long) - len(short)) + short
    if any(a != b and a != 1 and b != 1 for a, b in zip(padded, long, strict=True)):
        return None
    return tuple(b if a == 1 else a for a, b in zip(padded, long, strict=True))


def _plain(args: Sequence[Any], types: tuple[type, ...] = (int, float, bool, str, type(None))) -> bool:
    return all(isinstance(a, types) or (type(a) in (tuple, list, torch.Size) and _plain(a, types)) for a in args)


def _as_is(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """The op itself on the meta device: for those that torch computes there in C++, views above all."""
    return func(*args, **kwargs)


def _view(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs) if _plain(args[1:]) and _plain(tuple(kwargs.values())) else None


def _index(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Basic indexing only: an index with tensors, lists or booleans copies."""
    x, index = args
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, bool) or not isinstance(part, (int, slice, type(None), type(Ellipsis))):
            return None
        if isinstance(part, slice) and not _plain((part.start, part.stop, part.step), (int, type(None))):
            return None
    return func(x, index)


def _convert(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``to(dtype)``, ``float()``."""
    return func(*args) if not kwargs and all(isinstance(a, torch.dtype) for a in args[1:]) else None


def _like(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Elementwise functions of one floating tensor: its shape and layout (``clone`` keeps both)."""
    x = args[0] if args else None
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or kwargs.get("out") is not None:
        return None
    return x.clone() if _plain(args[1:]) and _plain(tuple(kwargs.values())) else None


def _dropout(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Dropout of every kind in torch.nn.functional's form; without effect, it hands its operand back."""
    if len(args) != 1 or not {"p", "training"} <= set(kwargs) or not args[0].is_floating_point():
        return None
    return _like(func, args, kwargs) if kwargs["training"] and kwargs["p"] > 0 else args[0]


def _norm(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Batch and group norm of a map of shape (N, C, ...), whose parameters have C elements: its layout."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
    x = tensors[0]
    plain = alike(*tensors) and all(t.is_contiguous() for t in tensors[1:])
    if args[0] is not x or not plain or x.dim() < 2 or x.numel() == 0:
        return None
    if not x.is_contiguous() and not (func.__name__ == "batch_norm" and channels_last(x)):
        return None
    if any(t.shape != (x.shape[1],) for t in tensors[1:]) or x.numel() == x.shape[1]:
        return None
    groups = [a for a in (*args[1:2], kwargs.get("num_groups")) if type(a) is int]
    return None if any(x.shape[1] % g for g in groups) else x.clone()


def _layer_norm(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Layer and RMS norm: the last dims are those that it is made for; the result is contiguous."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else None)
    if shape is None or args[0] is not tensors[0] or not alike(*tensors):
        return None
    x, shape = tensors[0], tuple(shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape or any(tuple(t.shape) != shape for t in tensors[1:]):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _binary(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Elementwise functions of two operands, by broadcasting; layouts are contiguous, or the same."""
    if len(args) != 2 or any(k != "alpha" for k in kwargs):
        return None
    x, y = args
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        if x.dtype != y.dtype or not x.is_floating_point():
            return None
        if x.shape == y.shape and x.stride() == y.stride():
            return x.clone()
        shape = _broadcast(x.shape, y.shape)
        if shape is None or not (x.is_contiguous() and y.is_contiguous()):
            return None
        return torch.empty(shape, dtype=x.dtype, device="meta")
    x, y = (x, y) if isinstance(x, torch.Tensor) else (y, x)
    return x.clone() if isinstance(y, (int, float)) and x.is_floating_point() else None


def _linear(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    x, weight, *rest = args
    bias = kwargs.get("bias", rest[0] if rest else None)
    if weight.dim() != 2 or not x.dim() or not alike(x, weight) or x.shape[-1] != weight.shape[1]:
        return None
    if bias is not None and (bias.dtype != x.dtype or tuple(bias.shape) != (weight.shape[0],)):
        return None
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device="meta")


def _recurrent(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """GRU and plain RNN over padded sequences; their fake kernels unroll them step by step."""
    if len(args) != 9 or kwargs or type(args[2]) is not list:  # packed: the sizes of the steps come second
        return None
    x, state, weights, _, layers, _, _, both_ways, batch_first = args
    samples = x.shape[0 if batch_first else 1]
    ways = 2 if both_ways else 1
    if not ordinary(state, *weights) or x.dtype != state.dtype or x.dim() != 3 or not x.numel():
        return None
    if tuple(state.shape[:2]) != (layers * ways, samples) or x.shape[2] != weights[0].shape[1]:
        return None
    steps, units = x.shape[1 if batch_first else 0], ways * state.shape[2]
    out = torch.empty((steps, samples, units), dtype=x.dtype, device="meta")
    return out.transpose(0, 1) if batch_first else out, torch.empty_like(state)


def _contiguous(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``roll``: a contiguous result of the same shape."""
    x = args[0]
    if not _plain(args[1:]) or not _plain(tuple(kwargs.values())):
        return None
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _cat(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    parts = args[0] if args else kwargs.get("tensors")
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if type(parts) not in (list, tuple) or type(dim) is not int or not parts or not ordinary(*parts):
        return None
    shape = list(parts[0].shape)
    dim %= len(shape)
    if any(p.dim() != len(shape) or [*p.shape[:dim], *p.shape[dim + 1 :]] != [*shape[:dim], *shape[dim + 1 :]]
           for p in parts):  # fmt: skip
        return None
    shape[dim] = sum(p.shape[dim] for p in parts)
    return torch.empty(shape, dtype=parts[0].dtype, device="meta")


def _reduced(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``mean`` and ``sum`` over given dims of a contiguous tensor."""
    x, *rest = args
    dims = kwargs.get("dim", rest[0] if rest else None)
    keep = kwargs.get("keepdim", rest[1] if len(rest) > 1 else False)
    known = set(kwargs) <= {"dim", "keepdim"} and len(rest) <= 2 and type(keep) is bool
    dims = (dims,) if type(dims) is int else dims
    if not known or type(dims) not in (tuple, list) or not dims or not ordinary(x) or not _plain(dims, (int,)):
        return None
    if any(not -x.dim() <= d < x.dim() for d in dims):
        return None
    gone = {d % x.dim() for d in dims}
    if len(gone) < len(dims):
        return None
    shape = [1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _embedding(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``F.embedding``: indices first, then the table."""
    if len(args) != 2 or not set(kwargs) <= {"padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"}:
        return None
    indices, table = args
    if indices.dtype not in (torch.int64, torch.int32) or table.dim() != 2 or not table.is_floating_point():
        return None
    if kwargs.get("max_norm") is not None or not 0 <= (kwargs.get("padding_idx") or 0) < len(table):
        return None
    return torch.empty((*indices.shape, table.shape[1]), dtype=table.dtype, device="meta")


def _attention(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """Attention: as one kernel its result on the CPU is laid out as the queries are, as two products contiguous."""
    if len(args) != 3 or not set(kwargs) <= {"attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"}:
        return None
    if not alike(*args) or any(t.dim() != 4 or not t.numel() for t in args) or kwargs.get("enable_gqa"):
        return None
    q, k, v = args
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        return None
    mask = kwargs.get("attn_mask")
    if mask is not None and (mask.dtype is not torch.bool or kwargs.get("is_causal")):
        return None
    if mask is not None and tuple(mask.shape[-2:]) != (q.shape[2], k.shape[2]):
        return None
    if mask is not None and mask.dim() != 2 and (mask.dim() != 4 or not _spans(mask.shape[:2], q.shape[:2])):
        return None
    if kwargs.get("dropout_p") or v.shape[3] != q.shape[3] or any(t.stride(3) != 1 for t in args):
        return torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device="meta")
    return torch.empty_like(q) if torch.backends.cuda.flash_sdp_enabled() else None  # type: ignore[no-untyped-call]


def _spans(sizes: Sequence[int], full: Sequence[int]) -> bool:
    return all(n in (1, m) for n, m in zip(sizes, full, strict=True))


def _spread(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``var`` and ``std`` over given dims of a contiguous tensor."""
    if len(args) != 1 or not set(kwargs) <= {"dim", "keepdim", "unbiased", "correction"}:
        return None
    return _reduced(func, args, {key: value for key, value in kwargs.items() if key in ("dim", "keepdim")})


def _length(func: Any, args: _Args, kwargs: Mapping[str, Any]) -> Any:
    """``norm`` over given dims."""
    known = len(args) == 1 and set(kwargs) <= {"p", "dim", "keepdim", "dtype"} and kwargs.get("dtype") is None
    if not known or (type(kwargs.get("p", 2)) not in (int, float) and kwargs["p"] != "fro"):
        return None
    x = args[0]
    if channels_last(x) and kwargs.get("keepdim") is True and tuple(kwargs.get("dim") or ()) in ((2, 3), (-2, -1)):
        return torch.empty((*x.shape[:2], 1, 1), dtype=x.dtype, device="meta") if x.is_floating_point() else None
    return _reduced(func, args, {key: value for key, value in kwargs.items() if key in ("dim", "keepdim")})


_ELEMENTWISE = (
    "relu", "relu6", "gelu", "silu", "elu", "selu", "celu", "leaky_relu", "mish", "hardswish", "hardsigmoid",
    "hardtanh", "softplus", "log_sigmoid", "sigmoid", "tanh", "sin", "cos", "exp", "log", "sqrt", "rsqrt", "abs", "neg",
    "square", "reciprocal", "erf", "clamp", "softsign", "tanhshrink", "softshrink", "hardshrink", "clone",
    "log1p", "expm1", "floor", "round",
)  # fmt: skip
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_BINARY = ("add", "sub", "rsub", "mul", "div", "rdiv", "pow", "maximum", "minimum")
_LAYOUTS: dict[str, _Layout] = {
    **dict.fromkeys(_ELEMENTWISE, _like),
    **dict.fromkeys(_DROPOUTS, _dropout),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(
        ("view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "chunk", "split", "unbind", "expand",
         "unsqueeze", "squeeze", "select", "narrow", "contiguous", "movedim", "detach", "T", "mT"),
        _view,
    ),
    **dict.fromkeys(("to", "float", "double", "half", "bfloat16"), _convert),
    **dict.fromkeys(("matmul", "bmm", "mm", "softmax"), _as_is),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), adaptive_pooling),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    **dict.fromkeys(("avg_pool2d", "max_pool2d"), pooling),
    "interpolate": interpolation,
    "embedding": _embedding,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("mean", "sum"), _reduced),
    **dict.fromkeys(("var", "std"), _spread),
    "norm": _length,
    "getitem": _index,
    "roll": _contiguous,
    "linear": _linear,
    "cat": _cat,
    "batch_norm": _norm,
    "group_norm": _norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    **dict.fromkeys(("gru", "rnn_tanh", "rnn_relu"), _recurrent),
}  # fmt: skip
_FRESH = frozenset(
    (*_ELEMENTWISE, *_BINARY, "mean", "sum", "softmax", "log_softmax", "matmul", "bmm", "mm", "baddbmm", "addmm",
     "scaled_dot_product_attention", "interpolate", "norm", "cat", "stack", "addcmul", "addcdiv", "masked_fill",
     "where", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding",
     "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "var", "std", "eq",
     "ne", "lt", "le", "gt", "ge", "layer_norm", "group_norm", "batch_norm", "rms_norm", "linear", "einsum"),
)  # fmt: skip
"""Functions whose results share no memory with their operands."""
_IN_PLACE = frozenset((*_ELEMENTWISE, *_DROPOUTS, *_BINARY)) - {"clone"}
