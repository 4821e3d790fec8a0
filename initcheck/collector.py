"""Memory where many short-lived objects are made: no needless collections, and no pages given back in between."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_RARELY = 1_000_000
_BLOCK = 2**25 - 2**16
"""Bytes, a little less than the largest block that glibc learns from (DEFAULT_MMAP_THRESHOLD_MAX, 32 MiB)."""


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


def pages_kept() -> None:
    """From now on, keep freed memory for what is made next instead of giving it back to the system (glibc).

    By default glibc returns what is free at the end of its heap from 128 KiB on, after every file that was parsed, and
    takes it again page by page for the next: 60,000 page faults for 382 files. Once a larger block has been freed, it
    returns only what exceeds twice that block's size (mallopt(3), "dynamic mmap threshold"). Nothing is written to
    the block, so it costs no memory.
    """
    bytes(_BLOCK)
