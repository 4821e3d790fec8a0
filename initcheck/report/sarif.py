"""``--output-format sarif``: SARIF 2.1.0 (OASIS), as code scanning services read it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from initcheck import __version__
from initcheck.catalogue import RulePage, rule_pages
from initcheck.config import Config
from initcheck.exit_codes import exit_code
from initcheck.findings import Finding, Location, Severity
from initcheck.report.summary import shown_findings
from initcheck.results import RunResult
from initcheck.source.notebook import physical_line

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The run as one SARIF log."""
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(result, sources, config)]}
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _run(result: RunResult, sources: Mapping[str, str], config: Config) -> dict[str, Any]:
    findings = shown_findings(result, config)
    pages = rule_pages()
    codes = sorted({finding.code for finding in findings})
    fingerprints = _fingerprints(findings, sources)
    artifacts = sorted({file.path for file in result.files} | {finding.location.path for finding in findings})
    return {
        "tool": {
            "driver": {
                "name": "initcheck",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(pages[code]) if code in pages else {"id": code} for code in codes],
            }
        },
        "invocations": [_invocation(result, config)],
        "originalUriBaseIds": {_ROOT: {"uri": Path.cwd().as_uri() + "/"}},
        "artifacts": [{"location": _uri(path)} for path in artifacts],
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(finding, codes, artifacts, fingerprint)
            for finding, fingerprint in zip(findings, fingerprints, strict=True)
        ],
    }


def _invocation(result: RunResult, config: Config) -> dict[str, Any]:
    notifications = [{"level": "error", "message": {"text": error}} for error in result.errors]
    return {
        "executionSuccessful": not result.errors,
        "exitCode": exit_code(result, config),
        "workingDirectory": {"uri": Path.cwd().as_uri() + "/"},
        "toolExecutionNotifications": notifications,
    }


def _rule(page: RulePage) -> dict[str, Any]:
    return {
        "id": page.code,
        "name": "".join(word.capitalize() for word in page.name.split("-")),
        "shortDescription": {"text": page.summary},
        "help": {"text": page.text, "markdown": page.text},
        "defaultConfiguration": {"level": _LEVELS[page.severity]},
        "properties": {"tags": ["weight-initialization", page.level], "fix": page.fix},
    }


def _result(finding: Finding, codes: Sequence[str], artifacts: Sequence[str], fingerprint: str) -> dict[str, Any]:
    text = finding.message
    if finding.location.cell:
        text = f"cell {finding.location.cell}, line {finding.location.line}: {text}"
    if finding.evidence:
        text += "\n" + "\n".join(line.text for line in finding.evidence)
    if finding.suggestion:
        text += f"\nhelp: {finding.suggestion}"
    place = _physical(finding.location)
    place["artifactLocation"]["index"] = artifacts.index(finding.location.path)
    data: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [{"physicalLocation": place, **_logical(finding)}],
        "partialFingerprints": {"initcheck/v1": fingerprint},
    }
    related = [
        {"id": number, "physicalLocation": _physical(line.location), "message": {"text": line.text}}
        for number, line in enumerate(finding.evidence, start=1)
        if line.location is not None
    ]
    if related:
        data["relatedLocations"] = related
    if finding.fix is not None:
        data["properties"] = {"fix": finding.fix.description, "fixIsSafe": finding.fix.safe}
    return data


def _logical(finding: Finding) -> dict[str, Any]:
    if not finding.model:
        return {}
    name = ".".join(part for part in (finding.model, finding.parameter) if part)
    return {"logicalLocations": [{"fullyQualifiedName": name, "kind": "member" if finding.parameter else "type"}]}


def _physical(location: Location) -> dict[str, Any]:
    if location.cell:  # what services show is the file as it is
        return {"artifactLocation": _uri(location.path), "region": {"startLine": physical_line(location)}}
    region = {"startLine": location.line, "startColumn": location.column}
    if location.end_line:
        region |= {"endLine": location.end_line, "endColumn": location.end_column}
    return {"artifactLocation": _uri(location.path), "region": region}


def _uri(path: str) -> dict[str, Any]:
    """Relative to the current folder if below it, else absolute."""
    relative = os.path.relpath(path)
    if relative.startswith(".."):
        return {"uri": Path(path).absolute().as_uri()}
    return {"uri": quote(relative.replace(os.sep, "/")), "uriBaseId": _ROOT}


def _fingerprints(findings: Sequence[Finding], sources: Mapping[str, str]) -> list[str]:
    """One for each finding; those alike in everything but their line are numbered in order."""
    seen: Counter[str] = Counter()
    numbered = []
    for finding in findings:
        digest = _fingerprint(finding, sources)
        seen[digest] += 1
        numbered.append(f"{digest}:{seen[digest]}")
    return numbered


def _fingerprint(finding: Finding, sources: Mapping[str, str]) -> str:
    """What stays the same when lines above move: the code, what it is about, and the text of its line."""
    lines = sources.get(finding.location.file, "").splitlines()
    line = lines[finding.location.line - 1].strip() if 0 < finding.location.line <= len(lines) else ""
    parts = (finding.code, _uri(finding.location.path)["uri"], finding.model, finding.parameter, line)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
