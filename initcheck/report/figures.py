"""Numbers and severities as the text report writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from initcheck.findings import Severity

STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}


def number(value: float | None, missing: str = "?") -> str:
    """Three significant digits; ``missing`` for what is not known."""
    return missing if value is None or math.isnan(value) else f"{value:.3g}"


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
    every = list(values)
    known = [(value, name) for value, name in every if value is not None and not math.isnan(value)]
    if not known:
        return f"{what} unknown"
    missing = f", {len(every) - len(known)} of {len(every)} unknown" if len(known) < len(every) else ""
    low, low_name = min(known, key=lambda item: item[0])
    high, high_name = max(known, key=lambda item: item[0])
    if number(low) == number(high):
        return f"{what} {number(low)}{missing}"
    return f"{what} {number(low)} ({low_name}) to {number(high)} ({high_name}){missing}"


def counted(counts: Mapping[Severity, int]) -> str:
    """``1 error, 2 warnings``."""
    names = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    parts = [
        plural(counts.get(severity, 0), names[severity]) if severity in names else f"{counts.get(severity, 0)} info"
        for severity in reversed(Severity)
        if counts.get(severity, 0)
    ]
    return ", ".join(parts)
