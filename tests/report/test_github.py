"""GitHub annotations: one workflow command a finding, escaped so that no text can end a command or begin one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import report_samples as samples

from initcheck.config import Config
from initcheck.findings import Location
from initcheck.report import render
from initcheck.results import FileResult, RunResult


def commands(result: RunResult) -> list[str]:
    return render(result, samples.SOURCES, Config(output_format="github")).splitlines()


def test_one_command_a_finding_with_its_range() -> None:
    first, second = commands(samples.run())
    assert first.startswith(
        "::error file=models/deep.py,line=8,col=39,endLine=8,endColumn=70,title=IC202 forward-vanishing::the signal"
    )
    assert "%0Aσ² = n·σ_w²/2" in first
    assert second.startswith("::warning file=models/deep.py,line=10,")


def test_nothing_in_a_message_or_path_breaks_out() -> None:
    finding = replace(
        samples.DEPRECATED, message="100%\r\n::error::fake", location=Location("odd,name:x.py", 1, 2, 3, 4)
    )
    (line,) = commands(RunResult((FileResult("odd,name:x.py", findings=(finding,)),)))
    assert line.startswith("::warning file=odd%2Cname%3Ax.py,line=1,col=2,endLine=3,title=")  # no end column over lines
    assert "::100%25%0D%0A::error::fake" in line


def test_paths_are_relative_to_the_checkout() -> None:
    finding = replace(samples.DEPRECATED, location=Location(str(Path.cwd() / "a" / "b.py"), 1))
    (line,) = commands(RunResult((FileResult("a/b.py", findings=(finding,)),)))
    assert line.startswith("::warning file=a/b.py,line=1,")


def test_errors_of_the_run_are_annotations_too_and_a_clean_run_says_nothing() -> None:
    assert commands(RunResult((), ("gone.py: no such file",))) == ["::error title=initcheck::gone.py: no such file"]
    assert commands(samples.CLEAN) == []
