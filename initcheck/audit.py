"""From a trace to a report: propagate the signal, run the model-level rules. The same for files and for live models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initcheck.collector import collector_paused
from initcheck.findings import Location
from initcheck.results import Report
from initcheck.rules import registry
from initcheck.rules.base import ModelContext
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Signal
from initcheck.signal.stretches import stretches
from initcheck.source.file import SourceFile
from initcheck.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class Audit:
    """A report with the signal behind it. ``defects``: rules that crashed, as text."""

    report: Report
    signal: Signal
    defects: tuple[str, ...]


def audit(traced: Trace, fallback: Location, source: SourceFile | None = None) -> Audit:
    """Audit a traced model.

    Args:
        traced: the model's graph and init log.
        fallback: where findings point that have no place of their own.
        source: the file that is being checked, if there is one.
    """
    with collector_paused():
        signal = propagate(traced)
        findings, defects = registry.check_model(ModelContext(traced, signal, fallback, source))
    report = Report(
        model=traced.model,
        findings=tuple(sorted(findings, key=lambda f: f.sort_key)),
        layers=tuple(signal.layers),
        coverage=signal.coverage,
        unknown_ops=dict(signal.unknown_ops),
        rung=traced.rung,
        mode=traced.mode,
        inputs=traced.inputs,
        location=fallback,
        parameters=len(traced.parameters),
        parameter_elements=sum(math.prod(record.shape) for record in traced.parameters.values()),
        notes=(*traced.notes, *signal.notes),
        stretches=stretches(traced),
    )
    return Audit(report, signal, tuple(defects))
