"""Sizes of memory as people write them."""

from __future__ import annotations

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_size(text: str) -> int:
    """``8 GiB``, ``500M``, ``2g`` in bytes (units of 1024).

    Raises:
        ValueError: if it is not a positive number with such a unit.
    """
    number = text.strip().lower()
    for ending in ("ib", "b"):
        number = number.removesuffix(ending)
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        size = float(number.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf") or (not unit and size < 2**20):
        raise ValueError(f"expected a size such as '8 GiB' or '500 MiB', got {text!r}")
    return int(size)


def size_text(size: int) -> str:
    """``8 GiB``: the largest unit that makes a short number."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{round(size / unit, 1):g} {name}"
    return f"{size} B"
