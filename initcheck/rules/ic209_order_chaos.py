"""IC209: a run of alike layers that is deeper than mean-field theory lets a signal or a gradient survive."""

from __future__ import annotations

import math
from collections.abc import Iterator

from initcheck.findings import Finding, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.scale import cause_of
from initcheck.rules.writes import call_location, class_location, counted, final_write

CODE = "IC209"

_FAR = 2.0
"""Trainable depths (of 6 xi) from which on it is a warning."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each stretch deeper than 6 xi, where the predicted scales alone do not already tell."""
    from initcheck.signal.stretches import stretches

    verdict = cause_of(context).consequence
    if verdict.severity is not None and verdict.severity >= Severity.WARNING:
        return  # the line to blame is named
    said: set[tuple[str, ...]] = set()  # a head may be applied to several maps
    for stretch in stretches(context.trace):
        if not stretch.too_deep or not math.isfinite(stretch.chi) or stretch.layers in said:
            continue
        said.add(stretch.layers)
        first = next((r for r in context.trace.parameters.values() if r.module == stretch.layers[0]), None)
        write = final_write(first) if first is not None else None
        where = call_location(write, context) if write is not None else class_location(context)
        ordered = stretch.chi < 1
        yield finding(
            CODE,
            f"{counted(len(stretch.layers), 'alike layer')} in a row, chi_1 = {stretch.chi:.3g}: "
            + ("inputs become alike" if ordered else "close inputs drift apart and gradients grow")
            + f" within {stretch.depth_scale:.1f} layers, and about {stretch.trainable_depth:.0f} layers can be "
            "trained",
            where,
            severity=Severity.WARNING if len(stretch.layers) > _FAR * stretch.trainable_depth else Severity.INFO,
            model=context.trace.model,
            parameter=first.name if first is not None else "",
            evidence=(
                f"sigma_w^2 = {stretch.weight_variance:.3g}, sigma_b^2 = {stretch.bias_variance:.3g}: q* = "
                f"{stretch.fixed_point:.3g}, chi_1 = sigma_w^2 E[phi'(sqrt(q*) z)^2] = {stretch.chi:.3g}, "
                f"xi = 1/|ln chi_1| = {stretch.depth_scale:.2g}",
            ),
            suggestion=_suggestion(stretch.activation),
            chi=stretch.chi,
            layers=len(stretch.layers),
        )


def _suggestion(activation: str) -> str:
    from initcheck.init.gain import gain

    try:
        return (
            f"the edge of chaos: zero biases and gain {gain(activation):.3g}, or norm layers, or residual connections"
        )
    except ValueError:
        return "zero biases and a gain at the edge of chaos (chi_1 = 1), or norm layers, or residual connections"
