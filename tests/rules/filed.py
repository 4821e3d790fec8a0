"""Check a text as a file, in this process: source rules, then every model of the file, with the init log."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from initcheck.analysis import analyse
from initcheck.config import Config
from initcheck.findings import Finding
from initcheck.results import Report
from initcheck.rules import registry
from initcheck.source.file import SourceFile
from initcheck.worker import FileJob

HEAD = "import math\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def audit_text(text: str, folder: Path) -> list[Finding]:
    """Every finding in ``text`` (behind the usual imports) but IC003; fails if a rule crashes or a model is refused."""
    path = folder / "model.py"
    path.write_text(HEAD + textwrap.dedent(text).lstrip("\n"))
    source = SourceFile.read(path)
    findings, defects = registry.check_source(source)
    reports: list[Report] = []

    def emit(kind: str, value: Any) -> None:
        if kind == "report":
            reports.append(value)
        elif kind in ("defect", "finding"):
            defects.append(str(value))

    analyse(FileJob(source.path, source.text, Config(show_info=True)), emit)
    assert defects == []
    assert reports, "no model was found"
    found = [*findings, *(f for report in reports for f in report.findings)]
    return sorted((f for f in found if f.code != "IC003"), key=lambda f: f.sort_key)


def line_of(finding: Finding) -> str:
    """The text of the line that a finding points at."""
    return Path(finding.location.path).read_text().splitlines()[finding.location.line - 1].strip()
