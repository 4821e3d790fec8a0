"""``--output-format json``: the whole run as data; what is unknown, not a number or infinite is null."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from initcheck import __version__
from initcheck.config import Config
from initcheck.findings import Edit, Evidence, Finding, Fix, InsertInit, Location, RewriteCall, Substitute
from initcheck.report.summary import shown_findings, summarise
from initcheck.results import FileResult, FixSummary, LayerRow, Measurement, Report, RunResult

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or goes; new keys do not raise it."""


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The run as a JSON document."""
    return json.dumps(run_to_dict(result, config), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def run_to_dict(result: RunResult, config: Config) -> dict[str, Any]:
    """The run as JSON-ready data."""
    summary = summarise(result, config)
    data = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "initcheck", "version": __version__},
        "findings": [finding_to_dict(finding) for finding in shown_findings(result, config)],
        "models": [
            report_to_dict(_with_shown_findings(report, config)) for file in result.files for report in file.models
        ],
        "files": [_file(file) for file in result.files],
        "errors": list(result.errors),
        "summary": {
            **{field.name: getattr(summary, field.name) for field in dataclasses.fields(summary)},
            "findings": {severity.label: count for severity, count in summary.findings.items()},
        },
    }
    ready: dict[str, Any] = plain(data)
    return ready


def _with_shown_findings(report: Report, config: Config) -> Report:
    return dataclasses.replace(report, findings=tuple(f for f in report.findings if config.shows(f.severity)))


def report_to_dict(report: Report) -> dict[str, Any]:
    """The audit of one model as JSON-ready data."""
    data = {
        "model": report.model,
        **_place(report.location),
        "built_by": report.built_by,
        "inputs": report.inputs,
        "mode": report.mode,
        "rung": report.rung,
        "coverage": report.coverage,
        "unknown_ops": report.unknown_ops,
        "parameters": report.parameters,
        "parameter_elements": report.parameter_elements,
        "seconds": report.seconds,
        "notes": report.notes,
        "layers": [_layer(row) for row in report.layers],
        "stretches": [dataclasses.asdict(stretch) for stretch in report.stretches],
        "findings": [finding_to_dict(finding) for finding in report.findings],
        "measured": None if report.measured is None else _measured(report.measured),
    }
    ready: dict[str, Any] = plain(data)
    return ready


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON-ready data."""
    data = {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.label,
        "message": finding.message,
        **_place(finding.location),
        "model": finding.model or None,
        "parameter": finding.parameter or None,
        "evidence": [_evidence(line) for line in finding.evidence],
        "suggestion": finding.suggestion or None,
        "fix": None if finding.fix is None else _fix(finding.fix),
        "data": finding.data,
    }
    ready: dict[str, Any] = plain(data)
    return ready


def _place(location: Location | None) -> dict[str, Any]:
    """Path, line, column and the end; a location without an end ends where it begins."""
    if location is None:
        return dict.fromkeys(("path", "line", "column", "end_line", "end_column", "cell"))
    return {
        "path": location.path,
        "line": location.line,
        "column": location.column,
        "end_line": location.end_line or location.line,
        "end_column": location.end_column or location.column,
        "cell": location.cell or None,
    }


def _evidence(line: Evidence) -> dict[str, Any]:
    return {"text": line.text, "location": None if line.location is None else _place(line.location)}


def _fix(fix: Fix) -> dict[str, Any]:
    return {"description": fix.description, "safe": fix.safe, "edits": [_edit(edit) for edit in fix.edits]}


def _edit(edit: Edit) -> dict[str, Any]:
    if isinstance(edit, RewriteCall):
        arguments = None if edit.arguments is None else dict(edit.arguments)
        return {
            "kind": "rewrite-call",
            "location": _place(edit.location),
            "function": edit.function,
            "arguments": arguments,
        }
    if isinstance(edit, Substitute):
        return {"kind": "substitute", "location": _place(edit.location), "text": edit.text}
    assert isinstance(edit, InsertInit)
    return {
        "kind": "insert-init",
        "location": _place(edit.location),
        "class": edit.class_name,
        "module_types": edit.module_types,
        "over": edit.over,
        "last": edit.last,
        "statements": [
            {"target": s.target, "function": s.function, "arguments": dict(s.arguments)} for s in edit.statements
        ],
    }


def _layer(row: LayerRow) -> dict[str, Any]:
    data = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    data["location"] = None if row.location is None else _place(row.location)
    return data


def _measured(measured: Measurement) -> dict[str, Any]:
    return dataclasses.asdict(measured)


def _file(file: FileResult) -> dict[str, Any]:
    return {
        "path": file.path,
        "models": [report.model for report in file.models],
        "fixes": None if file.fixes is None else _fixes(file.fixes),
    }


def _fixes(fixes: FixSummary) -> dict[str, Any]:
    return {
        "written": fixes.written,
        "applied": [finding_to_dict(finding) for finding in fixes.applied],
        "refused": [{"finding": finding_to_dict(finding), "reason": reason} for finding, reason in fixes.refused],
        "diff": fixes.diff,
    }


def plain(value: Any) -> Any:
    """Only what JSON has: tuples as lists, mappings with text keys, no NaN or infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
