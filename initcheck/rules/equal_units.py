"""The common half of IC701 and IC702: layers of equal units, grouped by the line that made them so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initcheck.findings import Evidence, Finding, Fix, Location, RewriteCall, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.scale import structure_of
from initcheck.rules.symmetry import Symmetric, symmetry_of
from initcheck.rules.writes import (
    agreed,
    as_code,
    call_location,
    counted,
    final_write,
    layer_location,
    listed,
    suggestions_for,
)

_STANDARD: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "tanh": ("xavier_normal_", (("gain", "5 / 3"),)),
    "sigmoid": ("xavier_normal_", ()),
    "softsign": ("xavier_normal_", ()),
    "selu": ("kaiming_normal_", (("nonlinearity", "'linear'"),)),
}
"""Glorot's scheme for activations that are linear at zero, LeCun's for SELU, He's for all others."""


def equal_unit_findings(context: ModelContext, code: str, *, zero: bool) -> Iterator[Finding]:
    """Findings for the symmetric layers whose weights are (not) zero."""
    symmetry = symmetry_of(context)
    groups: dict[tuple[Location, bool], list[Symmetric]] = defaultdict(list)
    for layer in symmetry.layers:
        if layer.zero is zero:
            write = final_write(layer.record)
            where = call_location(write, context) if write is not None else layer_location(layer.record, context)
            groups[where, write is not None].append(layer)
    for (where, is_call), layers in groups.items():
        several = symmetry.equal_weights > 1
        severe = any(layer.exact or (several and not layer.told_apart) for layer in layers)
        yield _finding(context, code, where, is_call, layers, severe)


def _finding(
    context: ModelContext, code: str, where: Location, is_call: bool, layers: list[Symmetric], severe: bool
) -> Finding:
    first = layers[0]
    names = [layer.record.module or layer.record.name for layer in layers]
    value = first.record.distribution.mean
    what = "zero" if first.zero else f"{value:.3g}" if first.record.distribution.std == 0 else "equal rows"
    if len(layers) == 1:
        who = f"all {first.units} units of `{names[0]}`"
    else:
        who = f"the units of {counted(len(layers), 'layer')} ({listed(names)})"
    function, arguments = _scheme(context, layers)
    edit = None
    if is_call and context.source is not None and where.path == context.source.path and where.end_line:
        edit = RewriteCall(where, function, arguments)
    return finding(
        code,
        f"{who} start with the same weights ({what}){_outcome(first)}",
        where,
        severity=Severity.ERROR if severe else Severity.WARNING,
        model=context.trace.model,
        parameter=first.record.name,
        evidence=tuple(_evidence(layer) for layer in layers[:3]),
        suggestion=as_code(function, arguments, _target(first)),
        fix=_fix(edit, function),
        layers=len(layers),
        units=first.units,
    )


def _scheme(context: ModelContext, layers: list[Symmetric]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The suggested call if it is one named scheme for all the layers, else the standard one of their activation."""
    main = agreed(suggestions_for([layer.record for layer in layers], context))
    if main is not None and main.function not in ("normal_", "uniform_"):
        return main.function, main.arguments
    uses = structure_of(context).by_parameter()
    activation = next((uses[e.record.name].activation.name for e in layers if e.record.name in uses), "")
    return _STANDARD.get(activation, ("kaiming_normal_", (("nonlinearity", "'relu'"),)))


def _outcome(layer: Symmetric) -> str:
    if layer.dead:
        return " and no gradient ever reaches them: they never learn"
    if layer.exact:
        return " and get equal gradients: they stay copies of one another, and act as one unit"
    return ": only their biases, or what reads them, can tell them apart, and they learn far slower"


def _evidence(layer: Symmetric) -> Evidence:
    d = layer.record.distribution
    rows = f"{layer.record.name} {tuple(layer.record.shape)}: mean {d.mean:.3g}, std {d.std:.3g}"
    if layer.dead:
        return Evidence(f"{rows}; dL/dW = sum delta x^T with delta = 0 for every unit")
    if layer.exact:
        return Evidence(f"{rows}; dL/dW[i] = sum delta_i x^T with delta_i the same for all {layer.units} units")
    return Evidence(f"{rows}; its output does not depend on which unit computes it, but for the bias")


def _target(layer: Symmetric) -> str:
    return f"{layer.record.module}.{layer.record.attribute}" if layer.record.module else layer.record.attribute


def _fix(edit: RewriteCall | None, function: str) -> Fix | None:
    return None if edit is None else Fix(f"draw the weights with {function}", (edit,))
