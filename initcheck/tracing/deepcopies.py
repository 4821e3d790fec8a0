"""``copy.deepcopy`` of a tree of modules, whose attributes are mostly numbers and empty tables, without its detours."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

ATOMS = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device,
     types.FunctionType, types.BuiltinFunctionType)
)  # fmt: skip
"""Types whose values ``copy.deepcopy`` hands back as they are."""

_TABLES = frozenset((OrderedDict, dict, set, list))
"""Every module has a dozen empty ones, for hooks."""


def copied_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """As ``copy.deepcopy(module, memo)``."""
    known = memo.get(id(module))
    if known is not None:
        found: nn.Module = known
        return found
    if not _is_copied_by_its_attributes(type(module)):
        return copy.deepcopy(module, memo)
    made: Any = type(module).__new__(type(module))
    memo[id(module)] = made
    state = {}
    for key, value in vars(module).items():
        state[key] = value if type(value) in ATOMS else _copied(value, memo)
    made.__setstate__(state)
    return made  # type: ignore[no-any-return]


def _is_copied_by_its_attributes(cls: type[nn.Module]) -> bool:
    """Whether what a copy is made of are the attributes, with no say of the class's own (but in ``__setstate__``)."""
    return (
        not hasattr(cls, "__deepcopy__")
        and not hasattr(cls, "__getnewargs_ex__")
        and not hasattr(cls, "__getnewargs__")
        and getattr(cls, "__getstate__", None) is getattr(nn.Module, "__getstate__", None)
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
    )


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in _TABLES and not value:
        memo[id(value)] = empty = kind()
        return empty
    if kind is dict:
        table = memo[id(value)] = {}
        for key, item in value.items():
            table[_copied(key, memo)] = _copied(item, memo)
        return table
    if kind is list:
        items: list[Any] = []
        memo[id(value)] = items
        items.extend(_copied(item, memo) for item in value)
        return items
    if kind is tuple and all(type(item) in ATOMS for item in value):
        return value
    return copied_module(value, memo) if isinstance(value, nn.Module) else copy.deepcopy(value, memo)
