"""Assignments to ``tensor.data``: the tensor gets another storage, what it held is gone, and no dispatcher sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from initcheck.tracing.initlog import InitLog

_SET = torch.Tensor.data.__set__  # type: ignore[attr-defined]


class DataAssignments(TorchFunctionMode):
    """While active, the log learns of them."""

    def __init__(self, log: InitLog) -> None:
        super().__init__()
        self._log = log

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note it if it is the setter."""
        if getattr(func, "__name__", "") != "__set__" or func != _SET:  # a new object at each look-up
            return func(*args, **(kwargs or {}))
        before = self._log.writes_of(args[0])
        result = func(*args, **(kwargs or {}))
        self._log.data_assigned(args[0], before)
        return result
