"""Results made from layouts alone are what the fake kernels yield, and where they cannot be, the kernels are asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from initcheck.tracing import ladder
from initcheck.tracing.copies import fake_copy
from initcheck.tracing.ladder import Trial, trace
from initcheck.tracing.shapes import Shapes


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
        self.depth = nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False)
        self.norm, self.groups = nn.BatchNorm2d(8), nn.GroupNorm(4, 8)
        self.gate = nn.Parameter(torch.ones(8, 1, 1))
        self.drop = nn.Dropout2d(0.1)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        y = self.groups(self.depth(x)) * self.gate
        y += x
        y = self.drop(torch.cat([x, 2 - y / 2], dim=1))
        y = y.to(memory_format=torch.channels_last)
        y = F.hardswish(y) + F.adaptive_avg_pool2d(y, 1) * y.mean((2, 3), keepdim=True)
        return F.adaptive_avg_pool2d(y.contiguous(), (2, None)).flatten(1)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.rms = nn.Linear(16, 48), nn.LayerNorm(16), nn.RMSNorm(16)
        self.position = nn.Parameter(torch.zeros(1, 9, 16))

    def forward(self, x):
        x = self.norm(x) + self.position[:, : x.shape[1]]
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * 4**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x[:, 0] = 0
        first = x[..., :2]
        first.mul_(2)
        low, high = self.rms(x).chunk(2, dim=-1)
        return (low.double() ** 2 + torch.maximum(high, low)).float().sum(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(5, 6, 2, bidirectional=True, batch_first=True)
        self.second, self.third = nn.RNN(12, 4), nn.RNN(4, 4, nonlinearity="relu", bias=False)
        self.drop = nn.Dropout(0.0)

    def forward(self, x):
        y, state = self.first(x)
        y, _ = self.second(self.drop(y.transpose(0, 1)))
        y, last = self.third(y, state.new_ones(1, len(x), 4))
        return y.sum(0) + last[0] + state.sum()


class Maps(nn.Module):
    """Resized and pooled, contiguous and with the channels last; tables and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 6, (3, 2), stride=2, padding=(1, 0), output_padding=(1, 0), groups=2)
        self.wide = nn.ConvTranspose1d(6, 4, 3, dilation=2, bias=False)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.table = nn.Embedding(5, 8, padding_idx=0)

    def forward(self, x):
        found = []
        for y in (x, x.to(memory_format=torch.channels_last), x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
            y = self.norm(self.conv(y))
            found += [F.avg_pool2d(y, 3, ceil_mode=True), F.avg_pool2d(y, (2, 3), (1, 2), 1, count_include_pad=False)]
            found += [F.max_pool2d(y, 2), F.max_pool2d(y, 3, 2, 1, 2, True), F.max_pool2d(y, 3, return_indices=True)]
            found += [F.interpolate(y, scale_factor=1.7), F.interpolate(y, (3, 4), mode="bilinear", align_corners=True)]
            found += [y.var(1), y.var((2, 3), unbiased=False, keepdim=True), y.std(dim=1, correction=0), y.var()]
            found += [y.norm(p=2, dim=(2, 3), keepdim=True), y.norm(dim=1), y.norm(p=1, dim=(1, 2)), y.norm()]
            found += [F.interpolate(y, 5, mode="bicubic"), self.up(y), self.wide(self.up(y).flatten(2))]
        rows = self.table(torch.arange(5).repeat(2, 1)).view(2, 5, 2, 4)
        wide = torch.stack([rows, rows, rows], 2).permute(2, 0, 3, 1, 4)
        attend = F.scaled_dot_product_attention
        for q in (rows, rows.transpose(1, 2), rows.transpose(2, 3).contiguous().transpose(2, 3), wide[1]):
            found += [attend(q, q, q), attend(q, q, q, is_causal=True), attend(q, q, q[..., :3])]
            found += [attend(q, q, q, scale=2), attend(q, q, q, dropout_p=0.1), attend(q, q[:, :, :1], q[:, :, :1])]
            size = q.shape[2]
            for mask in (
                torch.ones(2, 1, size, size) > 0,
                torch.zeros(size, size),
                torch.zeros(1, q.shape[1], size, size),
            ):
                found += [attend(q, q, q, attn_mask=mask), attend(q, q, q, attn_mask=mask, dropout_p=0.1)]
        return found


class Repeated(nn.Module):
    """The same calls again, on the same layouts and on others."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = x.to(memory_format=torch.channels_last)
        for conv in self.convs:
            x = F.avg_pool2d(F.interpolate(conv(x), scale_factor=2), 2) + x.mean((2, 3), keepdim=True)
        x = x.contiguous()
        for conv in self.convs:
            x = F.avg_pool2d(F.interpolate(conv(x), scale_factor=2), 2) + x.mean((2, 3), keepdim=True)
            x = torch.where(x > 0, x, x.double().float() + 1)
        with torch.no_grad():
            y = F.avg_pool2d(x, 2)
        tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens) + tokens
        return F.avg_pool2d(x, 2).norm(dim=1) + y.norm(dim=1), F.scaled_dot_product_attention(tokens, tokens, tokens)


def described(val):
    if isinstance(val, torch.Tensor):
        # the stride of a dim of size 1 means nothing
        strides = tuple(s for s, n in zip(val.stride(), val.shape, strict=True) if n > 1)
        return tuple(val.shape), strides, val.dtype, val.storage_offset(), str(val.device)
    return tuple(described(v) for v in val) if isinstance(val, (tuple, list)) else type(val)


def nodes(model, x, autograd):
    graph = ladder._pass(fake_copy(model, "train"), (x,), {}, dispatch=False, autograd=autograd).graph
    return [
        (n.name, n.meta.get("op"), [a.name for a in n.all_input_nodes], described(n.meta.get("val")),
         n.meta.get("output_of"))
        for n in graph.nodes
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Conv(), torch.randn(2, 3, 8, 8)),
        (Tokens(), torch.randn(2, 9, 16)),
        (Recurrent(), torch.randn(3, 7, 5)),
        (Repeated(), torch.randn(2, 8, 6, 6)),
        (Maps(), torch.randn(2, 8, 7, 6)),
        (Maps(), torch.randn(1, 8, 6, 9)),
    ],
    ids=["conv", "tokens", "recurrent", "repeated", "maps", "one map"],
)
def test_the_graph_is_the_one_that_fake_kernels_yield(model, x):
    assert nodes(model, x, autograd=False) == nodes(model, x, autograd=True)


class Energy(nn.Module):
    """A gradient inside the forward pass: results made from layouts have no history."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.layers(x).sum()
        return -torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_gradient_inside_the_forward_pass():
    assert trace(Energy(), (torch.randn(4, 3),), {}).rung == "recorder"
    assert Trial(Energy()).attempt((torch.randn(4, 3),)) is None


class HandsBack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return x * 2, self.fc(x)


def test_the_primary_output_is_the_one_that_depends_on_a_parameter():
    graph = trace(HandsBack(), (torch.randn(4, 3),), {}).graph
    assert next(n for n in graph.nodes if n.op == "output").args[0][0].meta["op"] == "linear"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 4), (2, 5)), (nn.Conv2d(3, 4, 3), (2, 5, 8, 8)), (nn.Conv2d(3, 4, 3), (2, 3, 2, 2)),
        (nn.BatchNorm2d(4), (2, 3, 8, 8)), (nn.BatchNorm1d(4), (1, 4)), (nn.LayerNorm(4), (2, 3)),
        (nn.GroupNorm(2, 4), (2, 3, 4)), (nn.ConvTranspose2d(3, 4, 3), (2, 5, 8, 8)), (nn.AvgPool2d(9), (2, 3, 8, 8)),
        (nn.MaxPool2d(3, padding=2), (2, 3, 8, 8)), (nn.Upsample((0, 3)), (2, 3, 8, 8)),
    ],
)  # fmt: skip
def test_what_does_not_fit_raises_as_it_does_for_real(layer, shape):
    with pytest.raises((RuntimeError, ValueError)) as real:
        layer(torch.randn(shape))
    assert type(Trial(layer).attempt((torch.randn(shape),))) is type(real.value)


def test_writing_to_a_parameter_under_autograd_is_an_error():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.w.mul_(2)
            return x * self.w

    assert "leaf" in str(Trial(Writes()).attempt((torch.randn(2, 3),)))


def test_a_fake_kernel_is_not_asked_again():
    asked = []

    def pooled(x, *args, **kwargs):
        asked.append(tuple(x.shape))
        return F.avg_pool2d(x, *args, **kwargs)

    shapes = Shapes(FakeTensorMode(), {})
    with shapes.fake:
        x, other = torch.empty(2, 3, 8, 8), torch.empty(2, 3, 8, 8, requires_grad=True)
    for operand in (x, x, other, other):
        out = shapes.computed(pooled, "avg_pool2d", (operand, 2), {})
        assert tuple(out.shape) == (2, 3, 4, 4)
        assert out.requires_grad == operand.requires_grad
    assert len(asked) == 2
    assert shapes.computed(pooled, "avg_pool2d", (x, 4), {}).shape == (2, 3, 2, 2)


def test_resizing_pooling_and_attention_need_no_fake_kernel(monkeypatch):
    class Attends(nn.Module):
        def forward(self, x):
            y = F.scaled_dot_product_attention(x, x, x)
            return y.norm(dim=(2, 3), keepdim=True) * y.var(dim=3, keepdim=True)

    def asked(self, func, *args):
        raise AssertionError(f"{func} is asked of a fake kernel")

    monkeypatch.setattr(Shapes, "computed", asked)
    resized = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1)
    )
    model = nn.Sequential(*resized, nn.Upsample(scale_factor=2, mode="bilinear"), Attends())
    for x in (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)):
        assert trace(model, (x,), {}).notes == []
