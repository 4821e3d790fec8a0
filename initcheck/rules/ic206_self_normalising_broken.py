"""IC206: a SELU network off its fixed point: weights without LeCun's scale, or Dropout where AlphaDropout belongs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Severity
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.chains import calls, moments_of, op_of
from initcheck.rules.edits import insertion
from initcheck.rules.scale import cause_of, structure_of
from initcheck.rules.writes import class_location, counted, layer_location

if TYPE_CHECKING:
    import torch.fx

    from initcheck.init.structure import WeightUse

CODE = "IC206"

_SELU = frozenset({"selu"})
_DROPOUT = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"})
_LEAST = 4
"""SELU layers from which a network relies on normalising itself."""

_DEEP = 8
_OFF = 2.0
"""Factor by which the std at the last SELU must be off its fixed point of 1."""


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for Dropout behind SELU, else one for a std that strays from 1 over the layers."""
    from initcheck.rules.consequence import is_norm

    selus = list(calls(context.trace.graph, _SELU))
    if len(selus) < _LEAST or any(is_norm(row.kind) for row in context.signal.layers):
        return
    dropped = [user for node in selus for user in node.users if op_of(user) in _DROPOUT and _rate(user) > 0]
    if len(dropped) >= 2:
        yield _dropout(context, selus, dropped)
    verdict = cause_of(context).consequence
    if verdict.severity is not None and verdict.severity >= Severity.WARNING:
        return  # IC201-IC205 name the line
    last = moments_of(selus[-1], context.signal)
    if last is None or dropped:
        return
    std = math.sqrt(last.mean**2 + last.variance)
    if max(std, 1 / max(std, 1e-30)) >= _OFF:
        yield _strayed(context, selus, std)


def _rate(node: torch.fx.Node) -> float:
    given = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
    active = node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True)
    return float(given) if isinstance(given, (int, float)) and active else 0.0


def _dropout(context: ModelContext, selus: list[torch.fx.Node], dropped: list[torch.fx.Node]) -> Finding:
    rate = _rate(dropped[0])
    module = str(dropped[0].meta.get("module", ""))
    stack = dropped[0].meta.get("stack", ())
    built = context.trace.modules.get(module)
    where = class_location(context)
    if built is not None and built.built_at and built.type_name.startswith("torch.nn"):
        where = built.built_at[0].location
    elif stack:
        where = stack[0].location
    # E[x^2] of kept units grows by 1/(1-p), the zeros lie off SELU's own zero mean
    return finding(
        CODE,
        f"{counted(len(dropped), 'dropout')} behind SELU: each multiplies the second moment by 1/(1 - {rate:g}) = "
        f"{1 / (1 - rate):.2f} and moves no unit to SELU's saturation value, so that {len(selus)} layers do not "
        "keep mean 0 "
        "and variance 1",
        where,
        severity=Severity.WARNING if len(dropped) >= _LEAST and rate >= 0.1 else Severity.INFO,
        model=context.trace.model,
        evidence=(
            f"alpha dropout sets dropped units to -lambda alpha = {-1.0507 * 1.6733:.3f} and rescales: (0, 1) stays",
        ),
        suggestion="nn.AlphaDropout (F.alpha_dropout) in place of Dropout",
        rate=rate,
    )


def _strayed(context: ModelContext, selus: list[torch.fx.Node], std: float) -> Finding:
    uses = [use for use in structure_of(context).uses if use.activation.name == "selu"]
    first = uses[0] if uses else None
    scale = _scale(first)
    where = class_location(context)
    if first is not None and len({layer_location(use.record, context) for use in uses}) == 1:
        where = layer_location(first.record, context)
    deep = len(selus) >= _DEEP
    fix = None
    if deep and uses:
        from initcheck.findings import Fix

        edit = insertion([use.record for use in uses], context)
        fix = Fix("initialise with LeCun's scheme", (edit,)) if edit is not None else None
    return finding(
        CODE,
        f"{counted(len(selus), 'SELU layer')} are meant to keep mean 0 and variance 1, and the rms at the last is "
        f"{std:.2g}: "
        f"fan_in x Var[w] is {scale:.2g} where LeCun's 1 is needed",
        where,
        severity=Severity.WARNING if deep else Severity.INFO,
        model=context.trace.model,
        parameter=first.parameter if first is not None else "",
        evidence=("SELU maps N(0, 1) to mean 0, variance 1 only if Var[w] = 1/fan_in (Klambauer et al. 2017)",),
        suggestion="nn.init.kaiming_normal_(m.weight, nonlinearity='linear'), which is LeCun's N(0, 1/fan_in)",
        fix=fix,
        rms=std,
    )


def _scale(use: WeightUse | None) -> float:
    return use.fans.fan_in * use.record.distribution.std**2 if use is not None else math.nan
