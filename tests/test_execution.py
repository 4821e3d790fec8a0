"""What is executed: nothing under --no-exec, definitions by default, everything under --import full."""

from __future__ import annotations

from pathlib import Path

import pytest

from initcheck.cli import main

TRAINS = """
import os
from torch import nn

open(os.path.join({marker!r}), "w").close()
width = [8]
width.append(16)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, 4)
        nn.init.xavier_uniform(self.fc.weight)

    def forward(self, x):
        return self.fc(x)


print("training")
net = Net(width[-1])
os.makedirs({marker!r} + "-folder")
if __name__ == "__main__":
    raise SystemExit("main")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAINS.format(marker=str(tmp_path / "marker")), encoding="utf-8")
    return path


def test_no_exec_executes_nothing_and_reads_the_source(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(script), "--no-exec"]) == 1
    out = capsys.readouterr().out
    assert "IC801" in out
    assert "Not checked: what needs a built model (--no-exec)" in out
    assert list(script.parent.iterdir()) == [script]


@pytest.mark.parametrize("arguments", [["timm:resnet18", "--no-exec"], ["--no-exec", "--measure"]])
def test_no_exec_refuses_what_cannot_be_had_without(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "--no-exec forbids that" in capsys.readouterr().err


def test_by_default_a_file_is_loaded_for_its_definitions(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(script), "--fail-on", "never"]) == 0
    assert ": Net: " in capsys.readouterr().out
    assert not list(script.parent.glob("marker*"))


def test_a_full_import_executes_the_file_but_not_its_main_guard(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(script), "--import", "full", "--fail-on", "never"]) == 0
    captured = capsys.readouterr()
    assert "input float32[8,16]" in captured.out
    assert "training" not in captured.out + captured.err
    assert len(list(script.parent.glob("marker*"))) == 2


def test_a_full_import_that_raises_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.py"
    path.write_text("from torch import nn\n\nnn.Linear(2, 3)(7)\n", encoding="utf-8")
    assert main([str(path), "--import", "full"]) == 1
    out = capsys.readouterr().out
    assert "broken.py:3" in out
    assert "executing it raised TypeError" in out


def test_a_module_is_a_target(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(script.parent)
    assert main(["train:Net(width=5)", "-q", "--output-format", "json", "--fail-on", "never"]) == 0
    assert '"float32[8,5]"' in capsys.readouterr().out
    assert main(["train.py:Net(width=6)", "--fail-on", "never"]) == 0
    assert "input float32[8,6]" in capsys.readouterr().out
    assert main(["train:Net(width=5)", "."]) == 2
    assert "check them in two runs" in capsys.readouterr().err
