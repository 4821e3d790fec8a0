"""Notebooks: cells as one module, magics blanked out, findings by cell and line in every format."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from initcheck.cli import main
from initcheck.findings import Location
from initcheck.source.decoding import SourceError
from initcheck.source.notebook import Notebook, physical_line


def notebook(*cells: str | tuple[str, str], **metadata: object) -> str:
    """A notebook as Jupyter writes it; a pair is (cell type, source)."""
    made = []
    for cell in cells:
        kind, text = cell if isinstance(cell, tuple) else ("code", cell)
        made.append({"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)})
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def test_lines_lead_back_to_cells() -> None:
    read = Notebook.parse(notebook(("markdown", "# Title"), "a = 1\nb = 2", ("raw", "x"), "", "c = 3"))
    assert read.text == "a = 1\nb = 2\n\nc = 3\n"
    assert [read.locate(line) for line in (1, 2, 3, 4)] == [(2, 1), (2, 2), (4, 1), (5, 1)]
    assert read.in_cells(Location("n.ipynb", 2, 3, 4, 6)) == Location("n.ipynb", 2, 3, 4, 6, 2)


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\nx = 1",
        "!pip install torch \\\n  --quiet\nx = 1",
        "print?\nnn.Linear??\n?print\nx = 1",
        "files = !ls\nx = %timeit f()\nx = 1",
        "if True:\n    %cd ..\n    !ls\nx = 1",
        "%%time\nx = 1",
        "%%bash\nls | while read x; do echo $x; done",
        "value = (7\n  % 2)\nx = 1",
    ],
)
def test_what_is_no_python_is_ignored_and_lines_keep_their_numbers(cell: str) -> None:
    text = Notebook.parse(notebook(cell, "y = 2")).text
    lines = text.splitlines()
    ast.parse(text)
    assert len(lines) == len(cell.splitlines()) + 1
    assert lines[-1] == "y = 2"
    assert ("x = 1" in lines) == ("%%bash" not in cell)
    assert ("  % 2)" in lines) == ("% 2)" in cell)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("{", "not a Jupyter notebook"),
        ("[]", "has no cells"),
        (notebook("1 + 1", language_info={"name": "R"}), "a notebook in r, not in Python"),
    ],
)
def test_what_is_no_notebook_is_said(raw: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        Notebook.parse(raw)


MODEL = (
    "%pip install torch\nimport torch\nfrom torch import nn",
    ("markdown", "The model"),
    """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 16)
        self.out = nn.Linear(16, 4)
        nn.init.zeros_(self.fc.weight)
        nn.init.xavier_uniform(self.out.weight){noqa}

    def forward(self, x):
        return self.out(torch.relu(self.fc(x)))""",
    "net = Net()\nnet.to('nowhere')\nraise SystemExit",
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.ipynb"
    cells = [cell if isinstance(cell, tuple) else cell.replace("{noqa}", "") for cell in MODEL]
    path.write_text(notebook(*cells), encoding="utf-8")
    return path


def test_findings_are_by_cell_and_line_in_every_format(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["."]) == 1
    out = capsys.readouterr().out
    assert "net.ipynb:cell 3:6:9: IC701" in out
    assert "6 |         nn.init.zeros_(self.fc.weight)" in out
    assert "net.ipynb:cell 3:1:1: Net: " in out
    assert "(line 1 of cell 4)" in out

    assert main([".", "--output-format", "json"]) == 1
    found = {f["code"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert (found["IC801"]["path"], found["IC801"]["cell"], found["IC801"]["line"]) == ("net.ipynb", 3, 7)

    raw = file.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(raw, start=1) if "zeros_" in text)
    assert physical_line(Location("net.ipynb", 6, 9, 0, 0, 3)) == line
    assert main([".", "--output-format", "github"]) == 1
    assert f"file=net.ipynb,line={line}" in capsys.readouterr().out
    assert main([".", "--output-format", "sarif"]) == 1
    results = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    places = [result["locations"][0]["physicalLocation"]["region"]["startLine"] for result in results]
    assert places == [line, line + 1]


def test_noqa_works_in_cells(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell if isinstance(cell, tuple) else cell.replace("{noqa}", "  # noqa: IC801") for cell in MODEL]
    file.write_text(notebook(*cells), encoding="utf-8")
    assert main(["net.ipynb", "--select", "IC8,IC004"]) == 0
    assert "IC801" not in capsys.readouterr().out


def test_a_notebook_is_not_rewritten_and_that_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    assert main(["net.ipynb", "--fix"]) == 1
    assert "net.ipynb:cell 3:7:9: IC801 [deprecated-init-name] not fixed: notebooks are not" in capsys.readouterr().out
    assert file.read_bytes() == before


def test_a_cell_that_does_not_parse_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(notebook("x = 1", "y = 2\nz = = 3"), encoding="utf-8")
    assert main(["net.ipynb"]) == 1
    assert "net.ipynb:cell 2:2:5: IC001" in capsys.readouterr().out


def test_trace_names_cells(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "net.ipynb"]) == 0
    assert "net.ipynb:cell 3:6 in" in capsys.readouterr().out
