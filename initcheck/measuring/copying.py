"""A throw-away copy of a live model, and a fence around every random number generator."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from initcheck.measuring.errors import MeasureError


def throwaway_copy(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with ``model``.

    Tensors that modules keep as plain attributes and that hang on an autograd graph (the ``weight`` that the old
    ``weight_norm`` leaves behind, caches) cannot be deep-copied by torch; their values are copied instead.

    Raises:
        MeasureError: if some attribute cannot be copied at all.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, torch.Tensor) and not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
                elif isinstance(tensor, torch.Generator):
                    memo[id(tensor)] = tensor.clone_state()
    gradients = {id(p.grad) for p in model.parameters() if p.grad is not None}
    memo.update(dict.fromkeys(gradients))
    try:
        duplicate = copy.deepcopy(model, memo)
    except Exception as error:
        raise MeasureError(
            f"the model cannot be copied for a throw-away pass ({type(error).__name__}: {error}); "
            "measure it right after building it, before it keeps such an object"
        ) from error
    for parameter in duplicate.parameters():
        parameter.grad = None
    return duplicate


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's generators (of every device) leave this block as they entered it."""
    python, legacy = random.getstate(), np.random.get_state()
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        if mps is not None:
            torch.mps.set_rng_state(mps)
