"""Fixup on nets that a person would write, with and without the scalars that its third rule asks for."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from nets import NormFreeTransformer
from torch import nn
from torch.nn import functional as F

from initcheck import apply
from initcheck.init import fixup_


class Scalars(nn.Module):
    """A basic block with Fixup's multiplier and biases."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.full((1,), 3.0)) for _ in range(4))
        self.scale = nn.Parameter(torch.full((1,), 5.0))

    def forward(self, x):
        out = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        return F.relu(x + self.conv2(out + self.bias2a) * self.scale + self.bias2b)


class Complete(nn.Module):
    def __init__(self, blocks=8, channels=16):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*[Scalars(channels) for _ in range(blocks)])
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def test_the_recipe_to_the_letter():
    model, x = Complete(), torch.randn(2, 3, 8, 8)
    report = fixup_(model, x)
    assert report.branches == 8
    for block in model.blocks:
        assert float(block.conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 144) / math.sqrt(8), rel=0.06)
        assert not block.conv2.weight.any()
        assert float(block.scale) == 1
        assert float(block.bias1a) == float(block.bias1b) == float(block.bias2a) == float(block.bias2b) == 0
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert report.lacks == ()
    assert torch.equal(model(x), torch.zeros(2, 10))


def without_norm(model):
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, nn.Identity())
        else:
            without_norm(child)
    return model


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 2), ("resnet50", 3)])
def test_torchvision_resnets_without_norm(name, layers):
    model = without_norm(getattr(torchvision.models, name)())
    report = fixup_(model, torch.randn(1, 3, 64, 64))
    assert report.branches == {"resnet18": 8, "resnet50": 16}[name]
    inside = {n: f for n, f in report.scaled.items() if n.startswith("layer") and "downsample" not in n}
    assert list(inside.values()) == pytest.approx([report.branches ** (-1 / (2 * layers - 2))] * len(inside))
    assert report.scaled["layer2.0.downsample.0.weight"] == report.scaled["conv1.weight"] == 1.0
    assert "fc.weight" in report.zeroed
    multiplier, bias = report.lacks
    assert multiplier.startswith(
        f"a scalar multiplier (1) on {report.branches} of {report.branches} branches: layer1.0"
    )
    assert bias.startswith("a scalar bias (0) before")


def test_fan_out_and_packed_attention():
    model = Complete(4)
    model.stem = nn.Conv2d(3, 16, 3, padding=1)
    fixup_(model, torch.randn(2, 3, 8, 8), mode="fan_out")
    assert float(model.stem.weight.detach().std()) == pytest.approx(math.sqrt(2 / 144), rel=0.15)
    transformer = fixup_(NormFreeTransformer(5), torch.randn(2, 6, 64))
    assert transformer.scaled["qkv.0.weight"] == pytest.approx(10 ** (-1 / 6))  # m = 4: q, k, v and the projection
    assert transformer.scaled["fc.0.weight"] == pytest.approx(10 ** (-1 / 2))


def test_rezero_zeroes_the_multipliers():
    model, x = Complete(3), torch.randn(2, 3, 8, 8)
    before = model.blocks[0].conv1.weight.clone()
    changes = apply(model, "rezero", x)
    assert [c.parameter for c in changes] == [f"blocks.{i}.scale" for i in range(3)]
    assert all(float(block.scale.detach()) == 0 for block in model.blocks)
    assert torch.equal(before, model.blocks[0].conv1.weight)
    with pytest.raises(ValueError, match=r"rezero: no scalar multiplier after proj\.0"):
        apply(NormFreeTransformer(1), "rezero", torch.randn(2, 6, 64))


def test_a_net_without_branches_is_refused():
    with pytest.raises(ValueError, match="no residual branch"):
        fixup_(nn.Linear(4, 4), torch.randn(2, 4))
