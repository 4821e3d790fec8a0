"""Every place of a report is named as the user named the file, whatever the analysed code calls it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from initcheck.findings import Evidence, Finding, Fix, Location, RewriteCall, Severity
from initcheck.places import as_given, relocated
from initcheck.results import LayerRow, Report


def test_paths_are_written_as_the_file_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = str(tmp_path / "models" / "net.py")
    shown = as_given("./models/net.py")
    assert shown(absolute) == shown("models/net.py") == "./models/net.py"
    assert shown(str(tmp_path / "models" / "helper.py")) == os.path.join("models", "helper.py")
    assert shown("/elsewhere/lib.py") == "/elsewhere/lib.py"
    assert shown("<torch>") == "<torch>"
    assert as_given(absolute)("models/net.py") == absolute
    assert as_given(absolute)(str(tmp_path / "helper.py")) == str(tmp_path / "helper.py")


def test_every_location_is_reached() -> None:
    old = Location("/a/net.py", 3, 5, 3, 9)
    finding = Finding(
        *("IC202", "forward-vanishing", Severity.ERROR, "message", old),
        evidence=(Evidence("written", old), Evidence("a number")),
        fix=Fix("rewrite", (RewriteCall(old, "kaiming_normal_"),)),
    )
    report = Report("Net", (finding,), (LayerRow("fc", "Linear", 1.0, 0.0, 1.0, location=old),), location=old)
    moved = relocated(report, lambda path: "net.py")
    assert "/a/net.py" not in repr(moved)
    assert repr(moved) == repr(report).replace("/a/net.py", "net.py")
