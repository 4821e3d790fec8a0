"""While a model is built, the functions of ``torch.nn.init`` report to the log, under whatever name they were imported.

Their code objects are exchanged (not the attributes), so a reference that someone saved earlier is caught too.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.init

from initcheck.tracing.analytic import ANALYTIC
from initcheck.tracing.initlog import InitLog
from initcheck.tracing.trace import Distribution

NAMES = (
    "uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "xavier_uniform_",
    "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_",
)  # fmt: skip

_ACTIVE: list[tuple[InitLog, int]] = []
_ORIGINALS: dict[str, Callable[..., Any]] = {}


def call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the exchanged functions do: run (or put down) the original, and report it."""
    original = _ORIGINALS[name]
    if not _ACTIVE or _ACTIVE[-1][1] != threading.get_ident():
        return original(*args, **kwargs)
    log = _ACTIVE[-1][0]
    try:
        bound = inspect.signature(original).bind(*args, **kwargs)
    except TypeError:
        return original(*args, **kwargs)  # raises, as it would without us
    bound.apply_defaults()
    tensor = next(iter(bound.arguments.values()), None)
    if log.depth or not isinstance(tensor, torch.Tensor):
        return original(*args, **kwargs)
    arguments = {
        key: value
        for key, value in list(bound.arguments.items())[1:]
        if isinstance(value, (int, float, str, bool, type(None))) and key != "generator"
    }
    dist: Distribution | None = None
    if name in ANALYTIC and tensor.dim() > (0 if name == "trunc_normal_" else 1) and tensor.numel():
        dist = ANALYTIC[name](tuple(tensor.shape), arguments)
    log.depth += 1
    try:
        rest = {k: v for k, v in list(bound.arguments.items())[1:] if k != "generator"}
        shape = tensor.shape
        if dist is None or not log.set_analytic(tensor, dist, lambda flat: original(flat.view(shape), **rest)):
            original(*args, **kwargs)
            if dist is not None and math.isfinite(dist.std):
                log.exact(tensor, dist)
    finally:
        log.depth -= 1
    deprecated = sys._getframe(2).f_code.co_name == "deprecated_init"
    log.init_call(name.removesuffix("_") if deprecated else name, tensor, arguments)
    return tensor


@contextlib.contextmanager
def reporting(log: InitLog) -> Iterator[None]:
    """Exchange the code of the init functions for the length of the block (nested blocks share the exchange)."""
    exchanged: list[tuple[types.FunctionType, types.CodeType]] = []
    if not _ACTIVE:
        for name in NAMES:
            function = getattr(torch.nn.init, name, None)
            if not isinstance(function, types.FunctionType) or function.__closure__:
                continue
            duplicate = types.FunctionType(
                function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
            )
            duplicate.__kwdefaults__ = function.__kwdefaults__
            duplicate.__annotations__ = function.__annotations__
            _ORIGINALS[name] = duplicate
            exchanged.append((function, function.__code__))
            function.__code__ = _trampoline(name)
    _ACTIVE.append((log, threading.get_ident()))
    try:
        yield
    finally:
        _ACTIVE.pop()
        for function, code in exchanged:
            function.__code__ = code


def _trampoline(name: str) -> types.CodeType:
    space: dict[str, Any] = {}
    source = (
        f"def {name}(*args, **kwargs):\n"
        "    from initcheck.tracing.initfuncs import call\n"
        f"    return call({name!r}, args, kwargs)\n"
    )
    exec(compile(source, __file__, "exec"), space)
    code = space[name].__code__
    assert isinstance(code, types.CodeType)
    return code
