"""One name for each op, however it was called: ``F.relu``, ``x.relu_()``, ``torch.relu``, ``aten.relu.default`` → ``relu``."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.overrides import resolve_name

_DUNDER = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add", "__sub__": "sub", "__isub__": "sub", "__rsub__": "rsub",
    "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul", "__truediv__": "div", "__itruediv__": "div",
    "__div__": "div", "__idiv__": "div", "__rtruediv__": "rdiv", "__rdiv__": "rdiv", "__matmul__": "matmul",
    "__rmatmul__": "rmatmul", "__pow__": "pow", "__ipow__": "pow", "__rpow__": "rpow", "__neg__": "neg",
    "__pos__": "positive", "__abs__": "abs", "__getitem__": "getitem", "__setitem__": "setitem",
    "__invert__": "bitwise_not", "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor",
    "__iand__": "bitwise_and", "__ior__": "bitwise_or", "__rand__": "bitwise_and", "__ror__": "bitwise_or",
    "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__mod__": "remainder", "__imod__": "remainder", "__floordiv__": "floor_divide", "__rfloordiv__": "floor_divide",
    "__lshift__": "bitwise_left_shift", "__rshift__": "bitwise_right_shift",
}  # fmt: skip
_INPLACE_DUNDER = {name for name in _DUNDER if name.startswith("__i") and name not in ("__invert__", "__index__")}
_SAME = {
    "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub", "negative": "neg", "absolute": "abs",
    "clip": "clamp", "concat": "cat", "concatenate": "cat", "_softmax": "softmax", "_log_softmax": "log_softmax",
    "_native_batch_norm_legit": "native_batch_norm", "not_equal": "ne", "greater": "gt", "less": "lt",
    "greater_equal": "ge", "less_equal": "le", "special_expit": "sigmoid", "special_softmax": "softmax",
    "special_erf": "erf", "_weight_norm": "weight_norm", "_weight_norm_interface": "weight_norm",
}  # fmt: skip


@functools.cache
def op_name(func: Any) -> tuple[str, bool]:
    """(normalised name, whether it writes to its first operand).

    Args:
        func: what a ``__torch_function__`` handler is given, or an ``OpOverload``.
    """
    if isinstance(func, torch._ops.OpOverload):
        name = func._schema.name.rpartition("::")[2]
    elif isinstance(func, torch._ops.OpOverloadPacket):
        name = func.__name__
    else:
        resolved = resolve_name(func) or getattr(func, "__qualname__", "") or getattr(func, "__name__", "") or str(func)
        parts = resolved.split(".")
        name = parts[-2] if parts[-1] in ("__get__", "__set__") and len(parts) > 1 else parts[-1]
    if name in _DUNDER:
        return _DUNDER[name], name in _INPLACE_DUNDER or name == "__setitem__"
    inplace = name.endswith("_") and not name.endswith("__")
    if inplace:
        name = name[:-1]
    return _SAME.get(name, name), inplace
