"""Whether a real pass can fit into memory, asked before the weights are drawn."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from initcheck.measuring.errors import MeasureError
from initcheck.tracing.trace import ParameterRecord, Trace

COPIES = 3
"""A real pass holds the weights, a throw-away copy of them, and their gradients."""
_CGROUP = Path("/sys/fs/cgroup")


def need_memory_for(parameters: Iterable[ParameterRecord]) -> None:
    """Make sure that a real pass of a model with these parameters has a chance.

    Raises:
        MeasureError: if the weights alone, ``COPIES`` times, take more than the free memory; says how much of each.
    """
    needed = COPIES * sum(_bytes(record) for record in parameters)
    free = free_memory()
    if free is not None and needed > free:
        raise MeasureError(
            f"a real pass needs about {_gib(needed)} (the weights, a copy and their gradients), "
            f"{_gib(free)} are free: not measured; predictions need no memory"
        )


def free_memory() -> int | None:
    """Bytes of memory that this process can still take; None where the system does not say."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:  # pages that hold files can be given up
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = max(free, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if limit != "max":
            free = min(free, int(limit) - int(used))
    except (OSError, ValueError):
        pass
    return free


def fitting_batch(trace: Trace, size: int) -> int:
    """The largest of size, size/2, size/4, ... whose pass fits into the memory that is free now; at least 1.

    A forward pass keeps about every tensor it makes until the backward pass, which makes as many gradients at most.
    """
    free = free_memory()
    if free is None or size <= 1:
        return size
    made = [node.meta.get("val") for node in trace.graph.nodes if node.op.startswith("call")]
    held = sum(v.numel() * v.element_size() for v in made if isinstance(v, torch.Tensor))
    room = free - (COPIES - 1) * sum(_bytes(record) for record in trace.parameters.values())
    needed = 1.5 * held
    fitting = size
    while fitting > 1 and needed * fitting / size > max(room, 0):
        fitting //= 2
    return fitting


def _bytes(record: ParameterRecord) -> int:
    dtype = getattr(torch, record.dtype.removeprefix("torch."), torch.float32)
    size = dtype.itemsize if isinstance(dtype, torch.dtype) else 4
    return math.prod(record.shape) * size


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
