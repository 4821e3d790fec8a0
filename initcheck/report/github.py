"""``--output-format github``: workflow commands that GitHub Actions shows as annotations on the changed lines."""

from __future__ import annotations

import os
from collections.abc import Mapping

from initcheck.config import Config
from initcheck.findings import Finding, Location, Severity
from initcheck.report.summary import shown_findings
from initcheck.results import RunResult
from initcheck.source.notebook import physical_line

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """One command per finding, and one per error of the run."""
    lines = [_annotation(finding) for finding in shown_findings(result, config)]
    lines += [f"::error title=initcheck::{_data(error)}" for error in result.errors]
    return "".join(f"{line}\n" for line in lines)


def _annotation(finding: Finding) -> str:
    where = finding.location
    if where.cell:
        where = Location(where.path, physical_line(where))
    properties = {
        "file": _relative(where.path),
        "line": str(where.line),
        "col": str(where.column),
        "endLine": str(where.end_line or where.line),
    }
    if where.end_column and where.end_line in (0, where.line):  # GitHub takes an end column within one line only
        properties["endColumn"] = str(where.end_column)
    properties["title"] = f"{finding.code} {finding.name}"
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    told = f"cell {finding.location.cell}, line {finding.location.line}: " if finding.location.cell else ""
    text = [told + finding.message]
    if finding.model and finding.model not in finding.message:
        text.append(f"model: {finding.model}")
    text += [line.text for line in finding.evidence]
    if finding.suggestion:
        text.append(f"help: {finding.suggestion}")
    message = "\n".join(text)
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(message)}"


def _relative(path: str) -> str:
    """As GitHub wants it: from the folder of the checkout, with forward slashes."""
    relative = os.path.relpath(path)
    return (path if relative.startswith("..") else relative).replace(os.sep, "/")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
