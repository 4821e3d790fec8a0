"""Fixing a file with analyses that are small enough to read: rules of a few lines over the text."""

import re
import subprocess
from pathlib import Path

import pytest

from initcheck.findings import Finding, Fix, InitStatement, InsertInit, Location, RewriteCall, Severity
from initcheck.fix.session import MAX_ANALYSES, diff, fix_file
from initcheck.results import FileResult, Report

RELU = (("nonlinearity", '"relu"'),)


class Analysis:
    """A stand-in for the rest of the program: ``rules`` map a pattern to the function that should stand there."""

    def __init__(self, path: str, rules: dict[str, str], severity: Severity = Severity.WARNING, brings: str = ""):
        self.path = path
        self.rules = rules
        self.severity = severity
        self.brings = brings
        self.runs = 0

    def __call__(self, text: str) -> FileResult:
        self.runs += 1
        lines = re.split("\r\n|\n", text)
        found = [finding for number, line in enumerate(lines, 1) for finding in self.line(number, line)]
        return FileResult(self.path, findings=tuple(found), models=(Report("Net"),))

    def line(self, number: int, line: str) -> list[Finding]:
        found = []
        for pattern, function in self.rules.items():
            for match in re.finditer(rf"nn\.init\.{pattern}\(", line):
                where = Location(self.path, number, match.start() + 1, number, match.end() + 20)
                fix = Fix("rewrite", (RewriteCall(Location(self.path, number, match.start() + 1), function, None),))
                found.append(Finding("IC801", "name", self.severity, f"{pattern} is old", where, fix=fix))
        if self.brings and self.brings in line:
            found.append(Finding("IC203", "exploding", Severity.ERROR, "worse", Location(self.path, number)))
        return found


def run(tmp_path: Path, text: str, rules: dict[str, str], newline: str = "\n", **options):
    path = tmp_path / "net.py"
    path.write_bytes(text.replace("\n", newline).encode())
    keys = ("severity", "brings")
    analysis = Analysis(str(path), rules, **{key: options.pop(key) for key in keys if key in options})
    outcome = fix_file(str(path), analysis(path.read_bytes().decode()).all_findings(), analysis, **options)
    return outcome, path, analysis


HEAD = "from torch import nn\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fixes_all_at_once_and_writes(tmp_path, newline):
    text = HEAD + "  \n".join(f"x{i} = nn.init.normal(w{i})" for i in range(20)) + "\n"
    outcome, path, analysis = run(tmp_path, text, {"normal": "normal_"}, newline)
    assert outcome.written
    assert path.read_bytes().decode() == outcome.new_text
    assert outcome.new_text == text.replace("normal(", "normal_(").replace("\n", newline)
    assert len(outcome.applied) == 20
    assert not outcome.refused
    assert analysis.runs <= 3


def test_fixing_twice_changes_nothing(tmp_path):
    _, path, analysis = run(tmp_path, HEAD + "nn.init.normal(w)\n", {"normal": "normal_"})
    once = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    again = fix_file(str(path), analysis(once.decode()).all_findings(), analysis)
    assert not again.written
    assert path.read_bytes() == once
    assert path.stat().st_mtime_ns == stamp


def test_a_fix_that_does_not_help_is_not_written(tmp_path):
    outcome, path, _ = run(tmp_path, HEAD + "nn.init.normal(w)\n", {"normal_?": "normal_"})
    assert not outcome.written
    assert path.read_text() == HEAD + "nn.init.normal(w)\n"
    ((finding, reason),) = outcome.refused
    assert finding.code == "IC801"
    assert reason == "with it, IC801 (name) would still be found"
    assert not outcome.applied


def test_a_fix_that_brings_up_something_as_bad_is_not_written(tmp_path):
    outcome, path, _ = run(tmp_path, HEAD + "nn.init.normal(w)\n", {"normal": "normal_"}, brings="normal_")
    assert not outcome.written
    assert path.read_text() == HEAD + "nn.init.normal(w)\n"
    assert outcome.refused[0][1] == "it would bring up IC203 (exploding) at line 2"


def test_the_good_fixes_are_kept_and_the_bad_one_is_named(tmp_path):
    good = [f"nn.init.normal(w{i})" for i in range(6)]
    text = HEAD + "\n".join([*good[:3], "nn.init.eye(bad)", *good[3:]]) + "\n"
    rules = {"normal": "normal_", "eye": "eye_"}
    outcome, path, analysis = run(tmp_path, text, rules, brings="eye_")
    assert outcome.written
    assert path.read_text() == text.replace("normal(", "normal_(")
    assert len(outcome.applied) == 6
    assert [(finding.location.line, reason[:18]) for finding, reason in outcome.refused] == [(5, "it would bring up ")]
    assert analysis.runs <= MAX_ANALYSES


def test_a_bound_on_the_attempts(tmp_path):
    text = HEAD + "\n".join(f"nn.init.eye(w{i})" for i in range(60)) + "\n"
    outcome, _, analysis = run(tmp_path, text, {"eye": "eye_"}, brings="eye_")
    assert not outcome.written
    assert len(outcome.refused) == 60
    assert all(reason for _, reason in outcome.refused)
    assert analysis.runs <= MAX_ANALYSES + 2


def test_a_fix_can_uncover_the_next(tmp_path):
    outcome, path, _ = run(tmp_path, HEAD + "nn.init.eye(w)\n", {"eye": "normal", "normal": "normal_"}, write=True)
    # eye -> normal is itself refused (it brings up the same code), unless the count of the code goes down
    assert path.read_text() in (HEAD + "nn.init.eye(w)\n", HEAD + "nn.init.normal_(w)\n")
    assert outcome.written == (path.read_text() != HEAD + "nn.init.eye(w)\n")


def test_fixes_that_undo_each_other_end(tmp_path):
    outcome, _, _ = run(tmp_path, HEAD + "nn.init.eye_(w)\n", {"eye_": "zeros_", "zeros_": "eye_"})
    assert not outcome.written


@pytest.mark.parametrize("comment", ["# noqa", "# noqa: IC801", "# noqa: E501, IC8"])
def test_a_suppressed_line_is_never_touched(tmp_path, comment):
    """Also where the finding itself stands on another line than the call that would be rewritten."""
    text = HEAD + f"x = 1\nnn.init.normal(w)  {comment}\n"
    path = tmp_path / "net.py"
    path.write_text(text)
    fix = Fix("rewrite", (RewriteCall(Location(str(path), 3), "normal_", None),))
    finding = Finding("IC801", "name", Severity.WARNING, "old", Location(str(path), 2), fix=fix)
    outcome = fix_file(str(path), [finding], lambda text: FileResult(str(path), findings=(finding,)))
    assert path.read_text() == text
    assert outcome.refused == ((finding, "a noqa comment forbids it"),)


def test_a_fix_after_which_the_model_is_not_analysed_is_refused(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(HEAD + "nn.init.normal(w)\n")
    analysis = Analysis(str(path), {"normal": "normal_"})
    before = analysis(path.read_text())
    outcome = fix_file(str(path), before.findings, lambda text: FileResult(str(path)), before=before)
    assert outcome.refused[0][1] == "with it, Net could no longer be analysed"


def test_an_info_may_remain_of_a_warning(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(HEAD + "nn.init.normal(w)\n")
    finding = Analysis(str(path), {"normal": "normal_"})(path.read_text()).findings[0]
    mild = Finding("IC801", "name", Severity.INFO, "mild", Location(str(path), 2))
    outcome = fix_file(
        str(path),
        [finding],
        lambda text: FileResult(str(path), findings=(mild,)),
        before=FileResult(str(path), findings=(finding,)),
    )
    assert outcome.written
    assert outcome.applied == (finding,)


def test_one_edit_for_two_findings(tmp_path):
    """The same insertion heals forward and backward scale; it must be made once."""
    text = HEAD + "class Net(nn.Module):\n    def __init__(self):\n        self.fc = nn.Linear(1, 2)\n"
    path = tmp_path / "net.py"
    path.write_text(text)
    statement = InitStatement("module.weight", "kaiming_normal_", RELU)

    def analyse(text: str) -> FileResult:
        line = text.split("\n").index("class Net(nn.Module):") + 1
        where = Location(str(path), line)
        fix = Fix("insert", (InsertInit(where, "Net", (statement,), ("nn.Linear",)),))
        found = [
            Finding(code, "name", Severity.ERROR, "vanishes", where, model="Net", parameter="fc.weight", fix=fix)
            for code in (("IC202", "IC204") if "kaiming" not in text else ("IC204",))
        ]
        return FileResult(str(path), findings=tuple(found))

    outcome = fix_file(str(path), analyse(text).findings, analyse)
    assert path.read_text().count("kaiming_normal_") == 1
    assert [finding.code for finding in outcome.applied] == ["IC202"]
    assert [(finding.code, reason) for finding, reason in outcome.refused] == [
        ("IC204", "its edit was made, but it is still found")
    ]


def test_nothing_is_written_for_a_diff(tmp_path):
    outcome, path, _ = run(tmp_path, HEAD + "nn.init.normal(w)\n", {"normal": "normal_"}, write=False)
    assert not outcome.written
    assert path.read_text() == HEAD + "nn.init.normal(w)\n"
    assert outcome.new_text == HEAD + "nn.init.normal_(w)\n"


def test_a_file_that_changes_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(HEAD + "nn.init.normal(w)\n")
    analysis = Analysis(str(path), {"normal": "normal_"})
    before = analysis(path.read_text())

    def slow(text: str) -> FileResult:
        path.write_text("# the user saved\n")
        return analysis(text)

    outcome = fix_file(str(path), before.findings, slow, before=before)
    assert path.read_text() == "# the user saved\n"
    assert not outcome.written
    assert "changed on disk" in outcome.refused[0][1]


@pytest.mark.parametrize(
    ("data", "old", "new"),
    [
        (b"\xef\xbb\xbffrom torch import nn\nnn.init.normal(w)\n", b"normal(", b"normal_("),
        (b"# coding: latin-1\nfrom torch import nn\nx = '\xe9'\nnn.init.normal(w)", b"normal(", b"normal_("),
        (b"from torch import nn\r\nnn.init.normal(w)\r\n\r\n   \r\n", b"normal(", b"normal_("),
    ],
    ids=["bom", "latin-1", "crlf and blanks"],
)
def test_bytes_are_kept(tmp_path, data, old, new):
    path = tmp_path / "net.py"
    path.write_bytes(data)
    analysis = Analysis(str(path), {"normal": "normal_"})
    encoding = "latin-1" if b"latin" in data else "utf-8-sig"
    outcome = fix_file(str(path), analysis(data.decode(encoding)).findings, analysis)
    assert outcome.written
    assert path.read_bytes() == data.replace(old, new)


def test_the_diff_applies_with_git(tmp_path):
    old = "a\n\x0cb\u2028c\nd"
    new = "a\n\x0cb\u2028C\nd\n"
    path = tmp_path / "net.py"
    path.write_text(old)
    (tmp_path / "patch").write_text(diff(old, new, "net.py"))
    subprocess.run(["git", "apply", "patch"], cwd=tmp_path, check=True)
    assert path.read_text() == new
    assert diff(old, old, "net.py") == ""


def test_the_diff_of_crlf_files(tmp_path):
    old, new = "a\r\nb\r\n", "a\r\nc\r\n"
    assert diff(old, new, "net.py").endswith(" a\r\n-b\r\n+c\r\n")
