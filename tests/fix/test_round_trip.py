"""Whole runs with ``--fix``: the file is mended, runs, and a new run finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from initcheck.config import Config
from initcheck.engine import run


def fixed(tmp_path: Path, text: str, code: str) -> dict[str, object]:
    """What the mended file defines; the file as given has a finding of ``code``, the mended one has none."""
    path = tmp_path / "net.py"
    path.write_text(text)
    outcome = run([path], Config(fix=True)).result
    (file,) = outcome.files
    assert file.fixes is not None
    assert [finding.code for finding in file.fixes.applied] == [code]
    assert outcome.all_findings() == []
    defined: dict[str, object] = {"__name__": "net"}
    exec(path.read_text(), defined)
    return defined


@pytest.mark.slow
def test_a_model_without_a_class_is_initialised_behind_its_assignment(tmp_path):
    text = """\
import torch
from torch import nn

layers = []
for _ in range(30):
    layers += [nn.Linear(64, 64), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(64, 10))

if __name__ == "__main__":
    model(torch.randn(2, 64))
"""
    model = fixed(tmp_path, text, "IC202")["model"]
    assert model[2].weight.detach().std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["return nn.Sequential(*layers)", "net = nn.Sequential(*layers)\n    return net"])
def test_a_model_that_a_function_makes_is_initialised_before_it_is_returned(tmp_path, end):
    text = f"""\
import torch
from torch import nn


def make(depth=30):
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    {end}


if __name__ == "__main__":
    make()(torch.randn(2, 64))
"""
    model = fixed(tmp_path, text, "IC202")["make"](3)
    assert model[2].weight.detach().std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


@pytest.mark.slow
def test_copies_are_drawn_anew_as_the_original_was(tmp_path):
    text = """\
import copy

import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64))
        nn.init.trunc_normal_(self.left[0].weight, std=0.2)
        self.right = copy.deepcopy(self.left)
        self.head = nn.Linear(128, 4)

    def forward(self, x):
        return self.head(torch.cat([self.left(x), self.right(x)], -1))


if __name__ == "__main__":
    Pair()(torch.randn(2, 16))
"""
    pair = fixed(tmp_path, text, "IC109")["Pair"]()
    for index in (0, 2):
        one, other = pair.left[index].weight.detach(), pair.right[index].weight.detach()
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.15
        assert other.std().item() == pytest.approx(one.std().item(), rel=0.1)


@pytest.mark.slow
def test_copies_in_a_list_of_any_length(tmp_path):
    text = """\
import copy

import torch
from torch import nn


class Stack(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        layer = nn.Linear(32, 32)
        self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(depth)])
        self.norm = nn.LayerNorm(32)

    def forward(self, x):
        for layer in self.layers:
            x = self.norm(torch.tanh(layer(x)))
        return x


if __name__ == "__main__":
    Stack()(torch.randn(2, 32))
"""
    stack = fixed(tmp_path, text, "IC109")["Stack"](6)
    weights = [layer.weight.detach().flatten() for layer in stack.layers]
    correlations = torch.corrcoef(torch.stack(weights)) - torch.eye(6)
    assert correlations.abs().max() < 0.15


@pytest.mark.slow
def test_residual_branches_of_two_stages_start_at_zero(tmp_path):
    text = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class Net(nn.Module):
    def __init__(self, depth=20):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.early = nn.Sequential(*[Block(16) for _ in range(depth)])
        self.late = nn.ModuleList([Block(16) for _ in range(depth)])
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.early(self.stem(x))
        for block in self.late:
            x = block(x)
        return self.head(x.mean((2, 3)))


if __name__ == "__main__":
    Net()(torch.randn(2, 3, 16, 16))
"""
    net = fixed(tmp_path, text, "IC401")["Net"](3)
    for block in (*net.early, *net.late):
        assert not block.conv2.weight.any()
        assert block.conv1.weight.any()


LINES = {
    "IC107": [
        ('if "conv" or "body" in name:', 'if "conv" in name or "body" in name:'),
        ("if name == 'a' or 'b':", "if name == 'a' or name == 'b':"),
        ("if isinstance(m, nn.Linear) or nn.Conv2d:", "if isinstance(m, (nn.Linear, nn.Conv2d)):"),
        ("if isinstance(m, (nn.Linear, nn.GRU)) or nn.Conv2d:", "if isinstance(m, (nn.Linear, nn.GRU, nn.Conv2d)):"),
    ],
    "IC803": [
        ("if m.weight:", "if m.weight is not None:"),
        ("if bias and m.weight.data:", "if bias and m.weight is not None:"),
    ],
}


@pytest.mark.parametrize(("code", "bad", "good"), [(code, *pair) for code, pairs in LINES.items() for pair in pairs])
def test_a_guard_is_mended_in_place(tmp_path, code, bad, good):
    text = """\
from torch import nn


def init(m, name, bias):
    GUARD  # why
        nn.init.normal_(m.weight, std=0.1)
"""
    path = tmp_path / "net.py"
    path.write_text(text.replace("GUARD", bad))
    (file,) = run([path], Config(fix=True, execute=False)).result.files
    assert file.fixes is not None
    assert [finding.code for finding in file.fixes.applied] == [code]
    assert path.read_text() == text.replace("GUARD", good)


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("nn.init.xavier_uniform_(self.fc)", "nn.init.xavier_uniform_(self.fc.weight)"),
        ("nn.init.xavier_uniform_(self.fc.bias)", "nn.init.zeros_(self.fc.bias)"),
        ("nn.init.kaiming_normal_(self.norm.weight)", "nn.init.ones_(self.norm.weight)"),
        ("nn.init.zeros_(self.bare.bias)  # none", ""),
    ],
)
def test_a_call_that_raises_is_mended(tmp_path, bad, good):
    text = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.bare = nn.Linear(4, 4, bias=False)
        CALL
        self.last = 1
"""
    path = tmp_path / "net.py"
    path.write_text(text.replace("CALL", bad))
    (file,) = run([path], Config(fix=True, execute=False)).result.files
    assert file.fixes is not None
    assert [finding.code for finding in file.fixes.applied] == ["IC803"]
    assert path.read_text() == (text.replace("CALL", good) if good else text.replace("        CALL\n", ""))
    defined: dict[str, object] = {"__name__": "net"}
    exec(path.read_text(), defined)
    defined["Net"]()


@pytest.mark.parametrize(
    "call",
    [
        "nn.init.zeros_(self.fc)",
        "nn.init.xavier_uniform_(self.act.weight)",
        "_ = nn.init.zeros_(self.bare.bias)",
    ],
)
def test_what_may_be_meant_otherwise_is_left_alone(tmp_path, call):
    text = f"""\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.act = nn.PReLU()
        self.bare = nn.Linear(4, 4, bias=False)
        {call}
"""
    path = tmp_path / "net.py"
    path.write_text(text)
    (file,) = run([path], Config(fix=True, execute=False)).result.files
    assert [finding.code for finding in file.findings] == ["IC803"]
    assert path.read_text() == text
