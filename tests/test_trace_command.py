"""``initcheck trace``: the table, the JSON, and what cannot be traced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from initcheck.cli import main

NET = """\
from torch import nn


def init_weights(module):
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 16)
        self.norm = nn.BatchNorm1d(16)
        self.apply(init_weights)

    def forward(self, x):
        return self.norm(self.fc(x))


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        raise ValueError("no such width")

    def forward(self, x):
        return self.fc(x)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_text(NET, encoding="utf-8")
    return path


def test_the_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "net.py:Net"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("net.py:9:1: Net: built by Net")
    assert "4 parameters, 560 elements" in lines[0]
    table = {line.split()[0]: index for index, line in enumerate(lines) if line[:1].strip()}
    first, second = lines[table["fc.weight"]], lines[table["fc.weight"] + 1]
    assert "16x32   normal, mean 0, std 0.25" in first
    assert "overwritten: kaiming_uniform_(a=2.236" in first
    assert first.endswith(("net.py:12 in Net.__init__", "net.py:12 in __init__"))  # the latter: Python 3.10
    assert "kaiming_normal_(a=0.0, mode='fan_in', nonlinearity='relu')" in second.replace("a=0,", "a=0.0,")
    assert "net.py:6 in init_weights, from net.py:14 in" in second
    assert "constant 1" in lines[table["norm.weight"]]
    assert any(line.startswith("norm.running_var (buffer)") for line in lines)


def test_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "net.py:Net", "--output-format", "json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    weight = next(tensor for tensor in model["tensors"] if tensor["name"] == "fc.weight")
    assert [(write["function"], write["survives"]) for write in weight["writes"]] == [
        ("kaiming_uniform_", False), ("kaiming_normal_", True)
    ]  # fmt: skip
    assert weight["writes"][1]["stack"][0]["location"]["line"] == 6
    assert weight["distribution"]["std"] == pytest.approx(0.25)


def test_what_cannot_be_traced_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "net.py"]) == 2
    out = capsys.readouterr().out
    assert ": Net: built by" in out
    assert "net.py:20:1: IC002 model Broken could not be analysed" in out
    assert main(["trace", "gone.py"]) == 2
    assert "no such file" in capsys.readouterr().err
