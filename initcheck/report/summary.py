"""What every format says at the end: what was checked, what was not, what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from initcheck.config import Config
from initcheck.exit_codes import exit_code
from initcheck.findings import Finding, Severity
from initcheck.results import RunResult

NOT_PARSED, NOT_ANALYSED = "IC001", "IC002"


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a run. ``findings`` counts all of a severity, ``hidden`` those of them that are not shown."""

    files: int
    models: int
    layers: int
    parameters: int
    coverage: float | None
    findings: Mapping[Severity, int]
    hidden: int
    fixable: int
    fixed: int
    files_not_parsed: int
    models_not_analysed: int
    unknown_ops: Mapping[str, int]
    errors: int
    seconds: float
    exit_code: int


def shown_findings(result: RunResult, config: Config) -> list[Finding]:
    """The findings of a run that are printed, in order."""
    return [finding for finding in result.all_findings() if config.shows(finding.severity)]


def summarise(result: RunResult, config: Config) -> Summary:
    """Count."""
    found = result.all_findings()
    reports = [report for file in result.files for report in file.models]
    shown = [finding for finding in found if config.shows(finding.severity)]
    codes = Counter(finding.code for finding in found)
    ops: Counter[str] = Counter()
    for report in reports:
        ops.update(report.unknown_ops)
    return Summary(
        files=len(result.files),
        models=len(reports),
        layers=sum(len(report.layers) for report in reports),
        parameters=sum(report.parameter_elements for report in reports),
        coverage=sum(report.coverage for report in reports) / len(reports) if reports else None,
        findings={severity: sum(f.severity is severity for f in found) for severity in reversed(Severity)},
        hidden=len(found) - len(shown),
        fixable=sum(finding.fix is not None for finding in shown),
        fixed=sum(len(file.fixes.applied) for file in result.files if file.fixes is not None and file.fixes.written),
        files_not_parsed=codes[NOT_PARSED],
        models_not_analysed=codes[NOT_ANALYSED],
        unknown_ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        errors=len(result.errors),
        seconds=result.seconds,
        exit_code=exit_code(result, config),
    )
