"""The rows of the measured table: predicted beside measured, as given and with the suggested init."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from initcheck.init.health import BAND, judge
from initcheck.init.solve import protected_weights
from initcheck.init.structure import Structure
from initcheck.measuring.passes import RealPass
from initcheck.results import LayerRow, MeasuredRow, PrecisionLoss
from initcheck.signal.result import Signal
from initcheck.tracing.trace import Trace

OFF = 1.25
"""A measured scale further from its prediction than this factor, and two standard deviations of what finite width
alone makes, is marked."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known without running: the trace, its signal and its structure."""

    trace: Trace
    signal: Signal
    structure: Structure


@dataclass(frozen=True, slots=True)
class Passes:
    """The real passes made so far: in full and in reduced precision, as given and with the suggested init."""

    before: RealPass
    after: RealPass | None = None
    reduced: RealPass | None = None
    reduced_after: RealPass | None = None


def rows(known: Known | None, passes: Passes, predicted_after: Signal | None) -> tuple[MeasuredRow, ...]:
    """One row per predicted layer, in its order, then the layers that only the real pass saw."""
    before, after = passes.before, passes.after
    measured = _by_name(before.rows)
    predicted = _by_name(known.signal.layers) if known else {}
    later = _by_name(predicted_after.layers) if predicted_after else {}
    measured_later = _by_name(after.rows) if after else {}
    outside = _outside(known, before, "")
    outside_later = _outside(known, after, "after_")
    found = []
    for name, row in {**predicted, **measured}.items():
        real = measured.get(name)
        forward_error, grad_error = before.interval(name)
        made = MeasuredRow(
            name=name,
            kind=row.kind,
            predicted_forward_std=_forward(predicted.get(name)),
            measured_forward_std=_forward(real),
            predicted_grad_std=_gradient(predicted.get(name)),
            measured_grad_std=_gradient(real),
            after_predicted_forward_std=_forward(later.get(name)),
            after_forward_std=_forward(measured_later.get(name)),
            after_predicted_grad_std=_gradient(later.get(name)),
            after_grad_std=_gradient(measured_later.get(name)),
            forward_error=forward_error,
            grad_error=grad_error,
            forward_band=predicted[name].forward_band if name in predicted else None,
            grad_band=predicted[name].grad_band if name in predicted else None,
            forward_mean=real.forward_mean if real else None,
            sample_std=real.sample_std if real else None,
            dead_share=real.dead_share if real else None,
            saturated_share=real.saturated_share if real else None,
            weight_gradient_ratio=real.weight_gradient_ratio if real else None,
            outside=(*outside.get(name, ()), *outside_later.get(name, ())),
            precision_loss=_lost(before, passes.reduced, name),
            after_precision_loss=_lost(after, passes.reduced_after, name),
        )
        found.append(replace(made, off=_off(made)))
    return tuple(found)


def _by_name(layers: tuple[LayerRow, ...] | list[LayerRow]) -> Mapping[str, LayerRow]:
    return {row.name: row for row in layers}


def _outside(known: Known | None, passed: RealPass | None, prefix: str) -> dict[str, tuple[str, ...]]:
    """Layers whose measured scale is outside their healthy band, and in which direction of the pass."""
    if known is None or passed is None:
        return {}
    found = {}
    finite = [row for row in passed.rows if row.forward_std is not None and not math.isnan(row.forward_std)]
    for layer in judge(known.structure, finite, protected_weights(known.trace, known.structure)):
        directions = layer.outside(BAND)
        if directions:
            found[layer.row.name] = tuple(prefix + direction for direction in directions)
    return found


def _off(row: MeasuredRow) -> tuple[str, ...]:
    """Columns whose measurement disagrees with the prediction."""
    pairs = {
        "forward": (row.predicted_forward_std, row.measured_forward_std, row.forward_error, row.forward_band),
        "gradient": (row.predicted_grad_std, row.measured_grad_std, row.grad_error, row.grad_band),
        "after_forward": (row.after_predicted_forward_std, row.after_forward_std, row.forward_error, row.forward_band),
        "after_gradient": (row.after_predicted_grad_std, row.after_grad_std, row.grad_error, row.grad_band),
    }
    return tuple(name for name, numbers in pairs.items() if _disagree(*numbers))


def _disagree(predicted: float | None, measured: float | None, error: float | None, band: float | None) -> bool:
    if predicted is None or measured is None or math.isnan(measured):
        return False
    if predicted <= 0.0 or measured <= 0.0:
        return (predicted <= 0.0) != (measured <= 0.0)
    return abs(math.log(predicted / measured)) > math.log(OFF) + 2.0 * (band or 0.0) + min(error or 0.0, 1.0)


def _lost(full: RealPass | None, reduced: RealPass | None, name: str) -> PrecisionLoss | None:
    if full is None or reduced is None or name not in full.shares or name not in reduced.shares:
        return None
    one, other = full.shares[name], reduced.shares[name]
    return PrecisionLoss(
        max(other.forward_zero - one.forward_zero, 0.0),
        max(other.forward_infinite - one.forward_infinite, 0.0),
        max(other.grad_zero - one.grad_zero, 0.0),
        max(other.grad_infinite - one.grad_infinite, 0.0),
    )


def _forward(row: LayerRow | None) -> float | None:
    return row.forward_std if row is not None else None


def _gradient(row: LayerRow | None) -> float | None:
    return row.grad_std if row is not None else None
