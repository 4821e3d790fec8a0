"""What a run returns: per model the layer table, coverage and findings; per file; for the run. No torch here.

These cross a process boundary (user code runs in a worker), so they are plain, picklable data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from initcheck.findings import Finding, Location
from initcheck.history import ModelHistory


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One parametrised layer, in execution order.

    ``forward_std``/``forward_mean``: of the layer's output over all its elements. ``sample_std``: the part of it that
    depends on the input, sqrt(v_s + v_p). ``grad_std``: of the gradient with respect to the layer's output, for a
    gradient of unit variance (independent elements) at the model's output. ``weight_grad_std``: likewise for its
    weight. None: unknown (predicted) or not reached (measured).
    """

    name: str
    kind: str
    forward_std: float | None
    forward_mean: float | None
    grad_std: float | None
    sample_std: float | None = None
    weight_grad_std: float | None = None
    output_shape: tuple[int, ...] = ()
    fan_in: int | None = None
    fan_out: int | None = None
    weight_std: float | None = None
    activation: str = ""
    location: Location | None = None
    forward_band: float | None = None
    grad_band: float | None = None
    """Standard deviation over seeds of ln(forward std), ln(gradient std) that finite width alone makes (predicted)."""
    dead_share: float | None = None
    """Share of the layer's channels that no gradient reaches in any sample (measured only)."""
    saturated_share: float | None = None
    """Share of the layer's outputs where the bounded activation after it has < 5 % of its slope (measured only)."""

    @property
    def weight_gradient_ratio(self) -> float | None:
        """``weight_grad_std / weight_std``: the relative size of a step of plain SGD at learning rate 1."""
        if self.weight_grad_std is None or not self.weight_std:
            return None
        return self.weight_grad_std / self.weight_std


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of the same linear map and activation, by mean-field theory (``signal.stretches``, ``signal.mean_field``).

    ``layers``: module paths in order. ``weight_variance``: sigma_w² = fan_in Var[w] (divided by what dropout keeps);
    ``bias_variance``: sigma_b². ``fixed_point``: q*, the variance of pre-activations that the stretch settles at, nan
    where it grows without bound. ``chi``: chi_1 at q*, the factor per layer of the gradient's second moment.
    ``depth_scale``: xi = 1/|ln chi_1| in layers, infinite at the edge of chaos; ``trainable_depth``: 6 xi.
    """

    layers: tuple[str, ...]
    kind: str
    activation: str
    weight_variance: float
    bias_variance: float
    fixed_point: float
    chi: float
    depth_scale: float
    trainable_depth: float

    @property
    def too_deep(self) -> bool:
        """Whether it has more layers than signals (chi_1 < 1) or gradients (chi_1 > 1) survive."""
        return len(self.layers) > self.trainable_depth


@dataclass(frozen=True, slots=True)
class Report:
    """The audit of one model.

    ``rung``: how the graph was had ("recorder", "export", "real forward"). ``coverage``: share of the graph's
    computing nodes with a known scale, 0 to 1. ``unknown_ops``: op name to number of nodes, for ops without a rule.
    ``stretches``: runs of alike layers, with their depth scales.
    """

    model: str
    findings: tuple[Finding, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    coverage: float = 0.0
    unknown_ops: Mapping[str, int] = field(default_factory=dict)
    rung: str = ""
    mode: str = "train"
    inputs: str = ""
    built_by: str = ""
    location: Location | None = None
    parameters: int = 0
    parameter_elements: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    measured: Measurement | None = None
    stretches: tuple[Stretch, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data (the same shape as one model of ``--output-format json``)."""
        from initcheck.report.json import report_to_dict

        return report_to_dict(self)

    def measured_table(self, width: int = 100) -> str:
        """What ``--measure`` prints, ``width`` columns wide (0: no limit); empty if nothing was measured."""
        from initcheck.report.measured import measured_tables

        return "" if self.measured is None else "\n".join(line.plain for line in measured_tables(self, width))


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """Predicted beside measured for one layer, as given ("before") and with the suggested init ("after").

    ``..._error``: half of the 95 % confidence interval over the seeds, relative to the value; None for one seed.
    ``outside``: which of the measured columns (``forward``, ``gradient``, ``after_forward``, ``after_gradient``) lie
    outside the healthy band of the layer. ``off``: which lie outside the interval that was predicted.
    ``..._band``: standard deviation over seeds of ln(std) that finite width alone makes (see ``LayerRow``).
    ``precision_loss``: see ``PrecisionLoss``; None for a run in full precision.
    """

    name: str
    kind: str
    predicted_forward_std: float | None
    measured_forward_std: float | None
    predicted_grad_std: float | None
    measured_grad_std: float | None
    after_predicted_forward_std: float | None = None
    after_forward_std: float | None = None
    after_predicted_grad_std: float | None = None
    after_grad_std: float | None = None
    forward_error: float | None = None
    grad_error: float | None = None
    forward_band: float | None = None
    grad_band: float | None = None
    forward_mean: float | None = None
    sample_std: float | None = None
    dead_share: float | None = None
    saturated_share: float | None = None
    weight_gradient_ratio: float | None = None
    outside: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    precision_loss: PrecisionLoss | None = None
    after_precision_loss: PrecisionLoss | None = None


@dataclass(frozen=True, slots=True)
class PrecisionLoss:
    """Shares of a layer's elements that autocast loses: zero or not finite in low precision, but not in float32."""

    forward_underflow: float
    forward_overflow: float
    grad_underflow: float
    grad_overflow: float

    @property
    def worst(self) -> float:
        """The largest of the four."""
        return max(self.forward_underflow, self.forward_overflow, self.grad_underflow, self.grad_overflow)


@dataclass(frozen=True, slots=True)
class InitialLoss:
    """Cross entropy before any training. ``chance``: log(classes). ``labels``: ``"the data's"`` or ``"random"``."""

    value: float
    chance: float
    classes: int
    labels: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """A short training. ``init``: ``"as given"`` or ``"suggested"``. ``losses``: (step, loss), a few of them.

    ``chance``: what a net that ignores its input can reach. ``learns``: the loss ended 10 % below that and the start.
    """

    init: str
    optimiser: str
    losses: tuple[tuple[int, float], ...]
    chance: float
    learns: bool


@dataclass(frozen=True, slots=True)
class Measurement:
    """A real forward and backward pass beside the prediction. ``changed``: what the suggested init rewrote.

    ``unfinished``: what was still to be done when the run was broken off. ``peak_bytes``: of accelerator memory.
    """

    device: str
    seeds: int
    rows: tuple[MeasuredRow, ...]
    changed: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
    precision: str = "fp32"
    data: str = ""
    loss: InitialLoss | None = None
    training: tuple[TrainingRun, ...] = ()
    unfinished: str = ""
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FixSummary:
    """What ``--fix`` or ``--diff`` did to one file. ``refused``: findings with a fix that was not written, and why."""

    applied: tuple[Finding, ...] = ()
    refused: tuple[tuple[Finding, str], ...] = ()
    diff: str = ""
    written: bool = False


@dataclass(frozen=True, slots=True)
class FileResult:
    """All that was found in one file. ``findings``: source-level ones and IC0xx; each model keeps its own.

    ``defects``: rules that crashed, one line each with a traceback after it (the tool's own fault: exit code 2).
    ``errors``: what was asked for and could not be done, such as a measured pass on a device that is not there (exit
    code 2 too).
    """

    path: str
    models: tuple[Report, ...] = ()
    findings: tuple[Finding, ...] = ()
    defects: tuple[str, ...] = ()
    fixes: FixSummary | None = None
    debug: str = ""
    errors: tuple[str, ...] = ()
    histories: tuple[ModelHistory, ...] = ()
    """Of ``initcheck trace``."""

    def all_findings(self) -> list[Finding]:
        """Of the file and of its models, sorted, without repeats."""
        found = [*self.findings, *(f for model in self.models for f in model.findings)]
        return sorted(_unique(found), key=lambda f: f.sort_key)


def _unique(findings: list[Finding]) -> list[Finding]:
    seen: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        seen.setdefault((finding.code, finding.location, finding.message), finding)
    return list(seen.values())


@dataclass(frozen=True, slots=True)
class RunResult:
    """Files in, findings out. ``errors``: what the tool itself could not do (exit code 2).

    ``interrupted``: the run was broken off; this is what had been done by then.
    """

    files: tuple[FileResult, ...]
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
    interrupted: bool = False

    def all_findings(self) -> list[Finding]:
        """Every finding of the run, sorted by path, line, column, code."""
        return sorted((f for file in self.files for f in file.all_findings()), key=lambda f: f.sort_key)
