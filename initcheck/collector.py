"""Python's garbage collector, held off while many short-lived objects are made that need none."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_RARELY = 1_000_000


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic collection inside the block: each would walk through all objects that are alive, torch's included."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def collector_slowed() -> Iterator[None]:
    """Rare collections inside the block, for one that runs long: where they are on, only every million objects."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _RARELY) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
