"""Numbers as the text report writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable


def number(value: float | None) -> str:
    """Three significant digits; unknown is ``?``."""
    return "?" if value is None or math.isnan(value) else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share as a percentage that says 100 % only when nothing is missing."""
    if value is None or math.isnan(value):
        return "?"
    percent = math.floor(value * 100) if value < 1 else 100
    return f"{percent} %"


def plural(count: int, noun: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def scale_range(what: str, values: Iterable[tuple[float | None, str]]) -> str:
    """``what 0.1 (fc1) to 2 (fc3)`` over the known values; says so where none is known."""
    known = [(value, name) for value, name in values if value is not None and not math.isnan(value)]
    if not known:
        return f"{what} unknown"
    (low, low_name), (high, high_name) = min(known), max(known, key=lambda item: item[0])
    if number(low) == number(high):
        return f"{what} {number(low)}" + (" (all layers)" if len(known) > 1 else f" ({low_name})")
    return f"{what} {number(low)} ({low_name}) to {number(high)} ({high_name})"
