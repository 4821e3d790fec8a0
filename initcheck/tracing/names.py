"""One name for each op, however called: ``F.relu``, ``x.relu_()``, ``torch.relu``, ``aten.relu.default`` → ``relu``."""

from __future__ import annotations

import functools
import types
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
    "__iand__": "bitwise_and", "__ior__": "bitwise_or", "__ixor__": "bitwise_xor", "__rand__": "bitwise_and",
    "__ror__": "bitwise_or", "__rxor__": "bitwise_xor", "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le",
    "__gt__": "gt", "__ge__": "ge", "__mod__": "remainder", "__imod__": "remainder", "__floordiv__": "floor_divide",
    "__rfloordiv__": "floor_divide", "__ifloordiv__": "floor_divide", "__lshift__": "bitwise_left_shift",
    "__rshift__": "bitwise_right_shift",
}  # fmt: skip
_INPLACE_DUNDER = frozenset(name for name in _DUNDER if name.startswith("__i") and name != "__invert__")
_SAME = {
    "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub", "negative": "neg", "absolute": "abs",
    "clip": "clamp", "concat": "cat", "concatenate": "cat", "_softmax": "softmax", "_log_softmax": "log_softmax",
    "_native_batch_norm_legit": "native_batch_norm", "not_equal": "ne", "greater": "gt", "less": "lt",
    "greater_equal": "ge", "less_equal": "le", "special_expit": "sigmoid", "special_softmax": "softmax",
    "special_erf": "erf", "special_gammaln": "lgamma", "special_expm1": "expm1", "special_log_softmax": "log_softmax",
    "_weight_norm": "weight_norm", "_weight_norm_interface": "weight_norm", "_max_pool1d": "max_pool1d",
    "_max_pool2d": "max_pool2d", "_max_pool3d": "max_pool3d", "_adaptive_max_pool1d": "adaptive_max_pool1d",
    "_adaptive_max_pool2d": "adaptive_max_pool2d", "_adaptive_max_pool3d": "adaptive_max_pool3d",
    "_threshold": "threshold", "arctan": "atan", "arcsin": "asin", "arccos": "acos", "arctanh": "atanh",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim", "fix": "trunc", "_unsafe_view": "view",
    "logsigmoid": "log_sigmoid", "unsafe_chunk": "chunk", "unsafe_split": "split",
}  # fmt: skip
_PROPERTIES_OF_DATA = {"T": "T", "mT": "mT", "H": "adjoint", "mH": "adjoint"}

COMPOSITES = frozenset((
    "multi_head_attention_forward", "gumbel_softmax", "softmin", "local_response_norm", "lp_pool1d", "lp_pool2d",
    "lp_pool3d", "triplet_margin_loss", "triplet_margin_with_distance_loss", "gaussian_nll_loss",
    "linear_cross_entropy", "soft_margin_loss", "tensordot", "block_diag", "cartesian_prod", "atleast_1d",
    "atleast_2d", "atleast_3d", "chain_matmul", "__contains__", "__reversed__", "multilabel_soft_margin_loss",
))  # fmt: skip
"""Functions that torch writes in Python out of others: what they call is recorded, not they themselves."""

METADATA = frozenset((
    "size", "dim", "numel", "shape", "dtype", "device", "is_contiguous", "stride", "requires_grad",
    "requires_grad_", "register_hook", "layout", "ndim", "is_floating_point", "is_complex", "storage_offset",
    "data_ptr", "__len__", "ndimension", "nelement", "element_size", "is_cuda", "is_leaf", "grad", "grad_fn",
    "retain_grad", "_version", "names", "is_sparse", "is_quantized", "is_mkldnn", "is_meta", "is_nested",
    "is_cpu", "is_mps", "is_xpu", "itemsize", "nbytes", "is_signed", "is_conj", "is_neg", "is_inference",
    "is_same_size", "untyped_storage", "storage", "_typed_storage", "get_device", "output_nr", "_base",
    "_backward_hooks", "__hash__", "is_shared", "is_sparse_csr", "is_mtia", "is_xla", "is_ipu", "is_vulkan",
    "is_ort", "is_maia", "register_post_accumulate_grad_hook", "_is_view", "is_coalesced", "retains_grad",
    "backward", "_cdata", "__dir__", "result_type", "promote_types", "can_cast", "finfo", "_nested_tensor_size",
    "is_set_to", "is_pinned", "is_distributed",
))  # fmt: skip
"""Questions about a tensor: no op, no node."""

RANDOM = frozenset((
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "normal",
    "uniform", "exponential", "cauchy", "geometric", "log_normal", "random", "multinomial", "poisson", "dropout",
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "rrelu", "gumbel_softmax",
    "alpha_dropout", "feature_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
    "native_dropout", "binomial",
))  # fmt: skip
"""Ops whose values are random (or whatever memory held): their results are no constants."""


@functools.cache
def op_name(func: Any) -> tuple[str, bool]:
    """(normalised name, whether it writes to its first operand).

    Args:
        func: what a ``__torch_function__`` handler is given, or an ``OpOverload``.
    """
    name = raw_name(func)
    if name in _DUNDER:
        return _DUNDER[name], name in _INPLACE_DUNDER or name == "__setitem__"
    inplace = name.endswith("_") and not name.endswith("__")
    if inplace:
        name = name[:-1]
    return _SAME.get(name, name), inplace


def raw_name(func: Any) -> str:
    """The function's own name: ``relu_``, ``__getitem__``; a property's for its getter."""
    if isinstance(func, torch._ops.OpOverload):
        return func._schema.name.rpartition("::")[2]
    if isinstance(func, torch._ops.OpOverloadPacket):
        return func.__name__
    resolved = resolve_name(func) or getattr(func, "__qualname__", "") or getattr(func, "__name__", "") or str(func)
    parts = resolved.split(".")
    if parts[-1] == "__get__" and len(parts) > 1:
        return _PROPERTIES_OF_DATA.get(parts[-2], parts[-2])
    if parts[-1] in ("__set__", "__delete__") and len(parts) > 1:
        return f"set_{parts[-2]}_" if parts[-2] == "data" else "requires_grad_"
    return parts[-1]


@functools.cache
def is_composite(func: Any) -> bool:
    """Whether a function is to be opened: one of ``COMPOSITES``, in the form that torch wrote in Python."""
    if not isinstance(func, types.FunctionType) or raw_name(func) not in COMPOSITES:
        return False
    return any(name.startswith("has_torch_function") for name in func.__code__.co_names)
