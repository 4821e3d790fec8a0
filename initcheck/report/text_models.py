"""A model as the text report prints it: one line that says what was checked, so that a clean run shows its work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from initcheck.config import Config
from initcheck.findings import Severity
from initcheck.report.excerpt import folded, printable
from initcheck.report.figures import STYLES, counted, number, plural, scale_range, share
from initcheck.results import FileResult, Report, Stretch


def model_lines(file: FileResult, config: Config) -> Iterator[Text]:
    """One line for each model of a file (folded where the terminal is narrower)."""
    for report in file.models:
        where = str(report.location) if report.location is not None else file.path
        line = Text.assemble((where, "bold"), ": ", (report.model, "bold"), ": ", _verdict(report, config))
        line.append("; " + printable("; ".join(_facts(report, config))).replace("\n", " "))
        yield from folded(line, config.width, len(where))


def _facts(report: Report, config: Config) -> Iterator[str]:
    """How it was built, what it was fed, how far it was understood, and the range of the scales."""
    if report.built_by:
        yield f"built by {report.built_by}"
    if report.inputs:
        yield f"input {report.inputs}"
    yield f"{plural(len(report.layers), 'layer')}, {share(report.coverage)} of the graph known ({report.rung})"
    yield scale_range("forward std", [(row.forward_std, row.name) for row in report.layers])
    yield scale_range("gradient std", [(row.grad_std, row.name) for row in report.layers])
    yield from _chance(report)
    yield from (_stretch(s) for s in report.stretches if s.too_deep or config.shows(Severity.INFO))
    yield from report.notes


def _chance(report: Report) -> Iterator[str]:
    """How far finite width alone moves the scales, 95 % of seeds, where that is more than a tenth."""
    found = {
        "forward": max((row.forward_band or 0.0 for row in report.layers), default=0.0),
        "gradient": max((row.grad_band or 0.0 for row in report.layers), default=0.0),
    }
    parts = [f"{direction} std ×/÷ {_factor(2 * band)}" for direction, band in found.items() if 2 * band > 0.1]
    if parts:
        yield f"finite width alone moves {', '.join(parts)} from seed to seed"


def _factor(logarithm: float) -> str:
    """Of a net whose units are nearly all dead the next seed says nothing, and the factor may be beyond a float."""
    return f"{math.exp(logarithm):.3g}" if logarithm < math.log(_ANY_FACTOR) else f"more than {_ANY_FACTOR:g}"


_ANY_FACTOR = 1000.0


def _stretch(stretch: Stretch) -> str:
    """What mean-field theory says of a run of alike layers."""
    run = f"{len(stretch.layers)} × {stretch.kind}+{stretch.activation} ({stretch.layers[0]} to {stretch.layers[-1]})"
    settles = "q grows" if math.isnan(stretch.fixed_point) else f"q* {number(stretch.fixed_point)}"
    facts = f"{run}: χ₁ {number(stretch.chi)}, {settles}, depth scale ξ {number(stretch.depth_scale)} layers"
    return facts + (f", trainable to about {stretch.trainable_depth:.0f}" if stretch.too_deep else "")


def _verdict(report: Report, config: Config) -> tuple[str, str]:
    """The findings counted; ``ok`` only where everything was understood."""
    shown = [finding.severity for finding in report.findings if config.shows(finding.severity)]
    if shown:
        return counted(Counter(shown)), STYLES[max(shown)]
    scales = [scale for row in report.layers for scale in (row.forward_std, row.grad_std)]
    known = [scale for scale in scales if scale is not None and not math.isnan(scale)]
    if not known:
        return "not judged", "yellow"
    if report.coverage < 1 or len(known) < len(scales):
        return "ok as far as known", "green"
    return "ok", "green"
