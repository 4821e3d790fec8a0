"""Example inputs: shown, declared, or found by a search that reads torch's errors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from files import found, run

from initcheck.config import Config, InputSpec, ModelSpec
from initcheck.discovery.inputs import InputsNotFound, find_inputs
from initcheck.tracing.build import build
from initcheck.tracing.ladder import Trial

_MODEL = """
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
{layers}

    def forward(self, {arguments}):
{body}
"""


def model(folder: Path, layers: str, body: str, arguments: str = "x", more: str = "") -> Path:
    def indent(code: str) -> str:
        return "\n".join(f"        {line}" for line in code.strip().splitlines())

    text = _MODEL.format(layers=indent(layers), body=indent(body), arguments=arguments) + more
    path = folder / "model.py"
    path.write_text(text)
    return path


_CASES = {
    "two convolutions say 32x32": (
        "self.a = nn.Conv2d(3, 6, 5)\nself.b = nn.Conv2d(6, 16, 5)\nself.fc = nn.Linear(400, 10)",
        "x = F.max_pool2d(self.a(x), 2)\nx = F.max_pool2d(self.b(x), 2)\nreturn self.fc(x.flatten(1))",
        "x",
        "float32[8,3,32,32]",
    ),
    "a view says 28x28": (
        "self.a = nn.Conv2d(1, 10, 5)\nself.b = nn.Conv2d(10, 20, 5)\nself.fc = nn.Linear(320, 10)",
        "x = F.max_pool2d(self.a(x), 2)\nx = F.max_pool2d(self.b(x), 2)\nreturn self.fc(x.view(-1, 320))",
        "x",
        "float32[8,1,28,28]",
    ),
    "an odd size is computed": (
        "self.a = nn.Conv2d(1, 4, 3)\nself.fc = nn.Linear(4 * 48 * 48, 3)",
        "return self.fc(self.a(x).flatten(1))",
        "x",
        "float32[8,1,50,50]",
    ),
    "features": ("self.fc = nn.Linear(13, 2)", "return self.fc(x)", "x", "float32[8,13]"),
    "tokens": (
        "self.e = nn.Embedding(77, 16)\nself.p = nn.Embedding(12, 16)",
        "T = idx.shape[1]\nassert T <= 12, f'length {T} over 12'\nreturn self.e(idx) + self.p(torch.arange(T))",
        "idx, targets=None",
        "int64[8,12]<77",
    ),
    "a sequence, batch second": (
        "self.rnn = nn.GRU(5, 6)",
        "return self.rnn(x)[0]",
        "x",
        "float32[16,8,5]",
    ),
    "a state": (
        "self.rnn = nn.LSTM(5, 6, num_layers=2, batch_first=True)",
        "return self.rnn(x, hidden)[0]",
        "x, hidden",
        "float32[8,16,5], (float32[2,8,6], float32[2,8,6])",
    ),
    "patches": (
        "self.proj = nn.Conv2d(3, 8, 8, 8)\nself.pos = nn.Parameter(torch.zeros(1, 37, 8))",
        "x = self.proj(x).flatten(2).transpose(1, 2)\nx = torch.cat([x[:, :1], x], 1)\nreturn x + self.pos",
        "x",
        "float32[8,3,48,48]",
    ),
    "two vectors, concatenated": (
        "self.fc = nn.Linear(11, 1)",
        "return self.fc(torch.cat([state, action], 1))",
        "state, action",
        "float32[8,7], float32[8,4]",
    ),
    "a noise vector": (
        "self.up = nn.ConvTranspose2d(100, 8, 4)",
        "return self.up(z)",
        "z",
        "float32[8,100,1,1]",
    ),
    "an image and a time step": (
        "self.conv = nn.Conv2d(3, 8, 3, padding=1)\nself.time = nn.Embedding(1000, 8)",
        "return self.conv(x) + self.time(t)[:, :, None, None]",
        "x, t",
        "float32[8,3,32,32], int64[8]<1000",
    ),
    "a dict": (
        "self.fc = nn.Linear(3, 2)",
        "return self.fc(inputs['coords'])",
        "inputs",
        "{coords: float32[8,3]}",
    ),
    "a graph": (
        "self.weight = nn.Parameter(torch.randn(9, 4))",
        "return adj @ x @ self.weight",
        "x, adj",
        "float32[32,9], float32[32,32]",
    ),
    "a pair": (
        "self.fc = nn.Linear(6, 2)",
        "a, b = pair\nreturn self.fc(a) + self.fc(b)",
        "pair",
        "(float32[8,6], float32[8,6])",
    ),
    "double precision": (
        "self.fc = nn.Linear(6, 2)\nself.double()",
        "return self.fc(x)",
        "x",
        "float64[8,6]",
    ),
    "a volume": ("self.conv = nn.Conv3d(1, 4, 3)", "return self.conv(x)", "x", "float32[8,1,16,16,16]"),
}


@pytest.mark.parametrize("name", _CASES)
def test_inputs_are_found(tmp_path: Path, name: str) -> None:
    layers, body, arguments, expected = _CASES[name]
    result = run(model(tmp_path, layers, body, arguments))
    assert result.inputs.description == expected


def test_a_call_in_the_file_shows_the_inputs(tmp_path: Path) -> None:
    path = model(
        tmp_path,
        "self.conv = nn.Conv2d(3, 8, 3)\nself.pool = nn.AdaptiveAvgPool2d(1)",
        "return self.pool(self.conv(x))",
        more="\n\ndef test():\n    size = 40\n    net = Net()\n    x = torch.zeros(2, 3, size, size)\n    net(x)\n",
    )
    result = run(path)
    assert result.inputs.description == "float32[8,3,40,40]"  # with a batch that means something
    assert abs(float(result.inputs.args[0].std()) - 1) < 0.05  # N(0, 1), whatever the file fills it with


def test_the_configuration_says_the_inputs(tmp_path: Path) -> None:
    path = model(tmp_path, "self.e = nn.Embedding(9, 4)", "return self.e(x) * scale", "x, scale")
    spec = ModelSpec(
        str(path), "Net", inputs=(InputSpec("int64", (2, 3), 9),), keyword_inputs={"scale": InputSpec("float32", (4,))}
    )
    result = run(path, config=Config(models=(spec,)))
    assert result.inputs.description == "int64[2,3]<9, scale=float32[4]"
    assert int(result.inputs.args[0].max()) < 9


def test_configured_inputs_that_do_not_run_say_why(tmp_path: Path) -> None:
    path = model(tmp_path, "self.fc = nn.Linear(4, 2)", "return self.fc(x)")
    spec = ModelSpec(str(path), "Net", inputs=(InputSpec("float32", (2, 5)),))
    with pytest.raises(InputsNotFound, match=r"configured inputs \(float32\[2,5\]\) do not run: RuntimeError"):
        run(path, config=Config(models=(spec,)))


def test_a_forward_that_always_raises_is_reported_with_its_line(tmp_path: Path) -> None:
    path = model(tmp_path, "self.fc = nn.Linear(4, 2)", "raise OSError('no camera')")
    candidate = found(path)["Net"]
    built = build(candidate.construct).model
    with pytest.raises(InputsNotFound) as caught:
        find_inputs(built, candidate, Trial(built))
    assert "OSError: no camera, at line 13" in caught.value.reason
    assert caught.value.tried
    assert caught.value.hint.startswith("[[tool.initcheck.models]]\ntarget = ")


def test_the_global_generators_are_not_touched(tmp_path: Path) -> None:
    path = model(tmp_path, "self.fc = nn.Linear(4, 2)\nself.drop = nn.Dropout()", "return self.drop(self.fc(x))")
    candidate = found(path)["Net"]
    built = build(candidate.construct).model
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = find_inputs(built, candidate, Trial(built))
    after = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]
    assert torch.equal(first.args[0], find_inputs(built, candidate, Trial(built)).args[0])
