"""IC804: ``trunc_normal_(w, std=.02, a=-2, b=2)``: the bounds are absolute, so nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, RewriteCall
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes, literal

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC804"
_FAR = 5.0
"""Bounds beyond so many standard deviations cut one weight in two million."""


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Calls that give literal bounds far outside of a literal std."""
    if "trunc_normal_" not in source.text:
        return
    for write in init_writes(source):
        if write.function != "trunc_normal_":
            continue
        arguments = write.arguments
        std, low, high = (literal(arguments.get(name)) for name in ("std", "a", "b"))
        mean = literal(arguments["mean"]) if "mean" in arguments else 0.0
        if std is None or mean is None or std <= 0 or (low is None and high is None):
            continue
        bounds = [bound for bound in (low, high) if bound is not None]
        nearest = min(abs(bound - mean) for bound in bounds) / std
        if nearest < _FAR:
            continue
        where = source.location(write.node)
        new = (("mean", f"{mean:g}"), ("std", f"{std:g}"), ("a", f"{mean - 2 * std:g}"), ("b", f"{mean + 2 * std:g}"))
        yield finding(
            CODE,
            f"the bounds of `trunc_normal_` are absolute values: at std {std:g} the nearest, "
            f"{min(bounds, key=lambda b: abs(b - mean)):g}, is {nearest:.0f} standard deviations away and cuts nothing",
            where,
            suggestion=", ".join(f"{name}={value}" for name, value in new),
            fix=Fix("cut at two standard deviations", (RewriteCall(where, "trunc_normal_", new),)),
            bound_in_std=nearest,
        )
