"""``initcheck capture``: scripts as people write them, run in processes of their own, ended before they train."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from initcheck.cli import main

NUMBER = str(800_000 + os.getpid())  # of seconds; tells this run's processes from others'
TRAIN = """
    import atexit, subprocess, sys
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    atexit.register(lambda: open("atexit", "w"))
    subprocess.Popen(["sleep", "NUMBER"])
    width = int(sys.argv[1])


    def closure():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(width, 400)
                self.head = nn.Linear(400, 10)
                nn.init.zeros_(self.hidden.weight)

            def forward(self, x):
                return self.head(torch.relu(self.hidden(x)))

        return Net()


    if __name__ == "__main__":
        net = closure()
        data = TensorDataset(torch.randn(64, width), torch.zeros(64, dtype=torch.long))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net.eval()
        net(torch.randn(3, width))
        net.train()
        normalise = nn.BatchNorm1d(width, affine=False)
        print("training")
        try:
            for x, y in DataLoader(data, batch_size=16, num_workers=1):
                loss = nn.functional.cross_entropy(net(normalise(x)), y)
                loss.backward()
                optimizer.step()
                open("trained", "w")
        finally:
            open("finally", "w")
""".replace("NUMBER", NUMBER)

AGENT = """
    import torch
    from torch import nn


    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = nn.Linear(8, 1)
            self.actor = nn.Linear(8, 4)

        def act(self, x, action=None):
            logits = self.actor(x)
            action = logits.argmax(-1) if action is None else action
            return logits, self.critic(x)


    Agent().act(torch.randn(5, 8))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(folder: Path, text: str, name: str = "train.py") -> None:
    (folder / name).write_text(dedent(text), encoding="utf-8")


def line_of(word: str) -> int:
    return next(number for number, line in enumerate(TRAIN.splitlines(), start=1) if word in line)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["python", "train.py", "12"], ["-m", "train", "12"]])
def test_the_first_training_forward_is_analysed_and_nothing_is_trained(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    script(folder, TRAIN)
    command = [sys.executable if word == "python" else word for word in command]
    assert main(["capture", "--output-format", "json", "--", *command]) == 1
    data = json.loads(capsys.readouterr().out)  # what the command prints goes elsewhere
    (model,) = data["models"]
    assert (model["model"], model["inputs"]) == ("Net", "float32[16,12]")
    assert f"called at train.py:{line_of('cross_entropy')}" in model["built_by"]
    (finding,) = data["findings"]
    assert (finding["code"], finding["path"], finding["line"]) == ("IC701", "train.py", line_of("zeros_"))
    assert finding["fix"] is None
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"train.py"}
    processes = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert not any(NUMBER in words for words in processes)


@pytest.mark.slow
def test_an_agent_without_forward_is_run_by_its_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(folder, AGENT)
    assert main(["capture", "--", "train.py"]) == 0
    out = capsys.readouterr().out
    assert "train.py:6:1: Agent: " in out
    assert "run by act(); input float32[5,8], None; 2 layers" in out


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("print('no model here')", ["train.py"], "without importing torch"),
        ("import torch; raise ValueError('no data')", ["train.py"], "failed with exit code 1 before a model"),
        ("import torch; torch.nn.Linear(2, 2).eval()(torch.ones(1, 2))", ["train.py"], "only: Linear (train.py:1)"),
        ("import torch; torch.nn.Linear(2, 2)(torch.ones(1, 2))", ["--only", "Net", "train.py"], "no Net was called"),
        ("import torch; torch.nn.ReLU()(torch.ones(2))", ["train.py"], "without calling a module that has"),
        ("", ["pyton", "train.py"], "there is no program 'pyton'"),
        ("", ["gone.py"], "there is no script 'gone.py'"),
    ],
)  # fmt: skip
def test_where_nothing_is_captured_the_reason_is_said(
    folder: Path, capfd: pytest.CaptureFixture[str], text: str, arguments: list[str], says: str
) -> None:
    script(folder, text)
    options, command = arguments[:-1], arguments[-1:]
    if "pyton" in options:
        options, command = [], arguments
    assert main(["capture", *options, "--", *command]) == 2
    captured = capfd.readouterr()
    assert says in captured.err
    assert captured.out == ""
