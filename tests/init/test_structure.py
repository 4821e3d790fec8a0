from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from nets import NormFreeResNet, NormFreeTransformer, PreActivationMLP, UNet
from torch import nn

from initcheck.init import fixup_
from initcheck.init.fixup import fixup_plan
from initcheck.init.structure import Activation, analyse, short_segments
from initcheck.tracing.ladder import trace


def structure_of(model, *args):
    return analyse(trace(model, args, {}))


def test_branches_of_known_nets():
    images = torch.randn(2, 3, 32, 32)
    resnet = structure_of(torchvision.models.resnet18(), torch.randn(2, 3, 64, 64))
    assert len(resnet.branches) == 8
    assert all(branch.normalised for branch in resnet.branches)
    assert resnet.branches[0].parameters == ("layer1.0.conv1.weight", "layer1.0.conv2.weight")
    plain = structure_of(NormFreeResNet(5), images)
    assert [branch.last for branch in plain.branches] == [f"second.{i}.weight" for i in range(5)]
    assert len({branch.stream for branch in plain.branches}) == 1
    assert not any(branch.normalised for branch in plain.branches)
    attention = structure_of(NormFreeTransformer(3), torch.randn(2, 8, 64))
    assert [branch.parameters for branch in attention.branches[:2]] == [
        ("qkv.0.weight", "proj.0.weight"), ("fc.0.weight", "back.0.weight"),
    ]  # fmt: skip
    assert structure_of(torchvision.models.squeezenet1_1(), torch.randn(2, 3, 64, 64)).branches == []


def test_what_weights_feed_and_read():
    net = nn.Sequential(
        nn.Linear(8, 16), nn.LeakyReLU(0.3), nn.Dropout(0.1), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.GELU("tanh"),
        nn.Linear(16, 4),
    )  # fmt: skip
    first, second, third = structure_of(net, torch.randn(4, 8)).uses
    assert (first.feeds, first.activation, first.reads) == ("activation", Activation("leaky_relu", 0.3), Activation())
    assert (second.feeds, second.reads) == ("norm", Activation("leaky_relu", 0.3))
    assert (third.feeds, third.reads) == ("output", Activation("gelu_tanh"))


def test_fans_are_the_effective_ones():
    uses = structure_of(UNet(), torch.randn(2, 3, 16, 16)).by_parameter()
    assert uses["up2.weight"].fans.fan_in == 64  # 64 channels, 2x2 kernel, stride 2: one tap reaches each output
    assert uses["up2.weight"].fans.fan_out == 32 * 4
    grouped = structure_of(nn.Sequential(nn.Conv2d(8, 16, 3, groups=4)), torch.randn(1, 8, 8, 8)).uses[0].fans
    assert (grouped.fan_in, grouped.fan_out) == (18, 36)

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 7))

        def forward(self, x):
            return x @ self.weight

    assert structure_of(Product(), torch.randn(3, 5)).uses[0].fans.fan_in == 5


def test_short_segments_gather_no_drift():
    def short(model, *args):
        traced = trace(model, args, {})
        return short_segments(traced.graph, analyse(traced).uses, 4)

    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
    )
    assert {n for n, p in encoder.named_parameters() if p.dim() == 2} == short(encoder, torch.randn(2, 4, 16))
    assert short(PreActivationMLP(10), torch.randn(2, 128)) == frozenset()
    assert len(short(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4))) == 2


def test_fixup_scales_zeroes_and_says_what_is_missing():
    torch.manual_seed(0)
    model, x = NormFreeResNet(16, 32), torch.randn(2, 3, 16, 16)
    report = fixup_(model, x)
    assert report.branches == 16
    for first, second in zip(model.first, model.second, strict=True):
        assert not second.weight.any()
        # m = 2 layers per branch: He × L^(-1/2)
        assert float(first.weight.detach().std()) == pytest.approx((2 / 288) ** 0.5 / 4, rel=0.05)
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert float(model.stem.weight.detach().std()) == pytest.approx((2 / 27) ** 0.5, rel=0.1)
    assert "scalar multiplier" in report.lacks[0]
    with pytest.raises(ValueError, match="no residual branch"):
        fixup_(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 4))


def test_fixup_finds_bottlenecks():
    plan = fixup_plan(structure_of(timm.create_model("resnet26"), torch.randn(2, 3, 64, 64)))
    assert plan.branches == 8
    assert plan.scaled["layer1.0.conv1.weight"] == pytest.approx(8 ** (-1 / 4))  # m = 3
    assert "layer1.0.conv3.weight" in plan.zeroed
