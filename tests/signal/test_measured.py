"""Prediction beside real forward and backward passes, on networks wide enough for a few seeds to settle."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace


def mlp() -> nn.Module:
    return nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(512, 512), nn.GELU())), nn.Linear(512, 256))


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 128, 3, padding=1), nn.SiLU(),
        nn.AvgPool2d(2), nn.Conv2d(128, 128, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 9, 128),
    )  # fmt: skip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(), Block(128), Block(128), Block(128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 128),
    )  # fmt: skip


def unit(inputs: int, outputs: int, size: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Inception(nn.Module):
    """Branches of one input side by side, one of them pooled from the last such concatenation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = unit(width, width), nn.Sequential(unit(width, width), unit(width, width, 3))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.c, self.after = unit(2 * width, width), unit(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x), self.b(x)], 1)
        return self.after(torch.cat([self.c(both), self.pool(both)], 1))


def inception() -> nn.Module:
    return nn.Sequential(unit(16, 64), Inception(64), Inception(64), nn.Flatten(), nn.Linear(64 * 64, 64))


class DualPath(nn.Module):
    """Some channels go on as a residual stream, which grows, the others side by side with new ones."""

    def __init__(self, residual: int, dense: int, more: int) -> None:
        super().__init__()
        self.residual = residual
        self.norm, self.conv = nn.BatchNorm2d(residual + dense), nn.Conv2d(residual + dense, residual + more, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = self.conv(torch.relu(self.norm(x)))
        stream = x[:, : self.residual] + 6.0 * new[:, : self.residual]
        return torch.cat([stream, x[:, self.residual :], new[:, self.residual :]], 1)


def dual_paths() -> nn.Module:
    blocks = [DualPath(96, 32 * (1 + i), 32) for i in range(6)]
    return nn.Sequential(nn.Conv2d(16, 128, 1), *blocks, nn.BatchNorm2d(320), nn.ReLU(), nn.Conv2d(320, 64, 1))


def pooled_silu() -> nn.Module:
    """The largest of several SiLUs: it does not rise throughout, but nearly."""
    first = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.BatchNorm2d(64), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(first, unit(64, 64), nn.Conv2d(64, 64, 1))


def pooled_head() -> nn.Module:
    """One input wins several windows, whose gradients are alike behind the mean over all positions."""
    pool = nn.MaxPool2d(3, stride=1, padding=1)
    return nn.Sequential(unit(16, 64), pool, unit(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64))


class Pyramid(nn.Module):
    """Maxima over windows larger than the map beside the map itself: one element wins all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in (5, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, *(pool(x) for pool in self.pools)], 1)


def pyramid() -> nn.Module:
    return nn.Sequential(unit(16, 64, 3), Pyramid(), unit(192, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Blurred(nn.Module):
    """Every second position behind a binomial filter that is no parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", torch.outer(line, line)[None, None].repeat(width, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return nn.functional.conv2d(padded, self.get_buffer("filter"), stride=2, groups=x.shape[1])


def blurred() -> nn.Module:
    return nn.Sequential(unit(16, 64, 3), Blurred(64), unit(64, 64), Blurred(64), unit(64, 64), nn.Conv2d(64, 64, 1))


class Gated(nn.Module):
    """A rectifier, gated by channel, then max-pooled: what wins is positive, before the gate as behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit, self.fc = unit(width, width, 3), nn.Conv2d(width, width, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.unit(x)
        return self.pool(x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True))))


def gated() -> nn.Module:
    return nn.Sequential(unit(16, 64), Gated(64), unit(64, 64), nn.Flatten(), nn.Linear(64 * 16, 64))


class ActivatedShortcut(nn.Module):
    """The shortcut starts behind the activation: one skewed stream meets the same slope again and again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.norm(x))
        return x + 0.5 * self.conv(x)


def activated_shortcuts() -> nn.Module:
    blocks = [ActivatedShortcut(128) for _ in range(6)]
    return nn.Sequential(nn.Conv2d(16, 128, 1), *blocks, nn.BatchNorm2d(128), nn.Conv2d(128, 64, 1))


class JoinedStream(nn.Module):
    """Rectified branches side by side, as a stream that is rectified again: what is zero is likely to be so then."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = unit(16, width), unit(16, width, 3)
        self.branches = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 1) for _ in range(4))
        self.head = nn.Conv2d(2 * width, 64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1)
        for branch in self.branches:
            x = torch.relu(x + 0.2 * branch(x))
        return self.head(x)


def padded_maximum() -> nn.Module:
    """What is padded is rectified, neither normal nor log-normal, and the winners know that."""
    pooled = [m for _ in range(2) for m in (nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1), unit(64, 64, 3))]
    return nn.Sequential(unit(16, 64, 3), *pooled, nn.Conv2d(64, 64, 1))


def depthwise() -> nn.Module:
    """Few weights to a unit and no norm by channel: what a large kernel makes large meets another slope."""

    def block() -> tuple[nn.Module, ...]:
        each = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        nn.init.normal_(each.weight, std=1 / 3)
        return (each, nn.GroupNorm(8, 128), nn.SiLU(), nn.Conv2d(128, 128, 1), nn.GroupNorm(8, 128), nn.SiLU())

    return nn.Sequential(nn.Conv2d(16, 128, 1), *block(), *block(), *block(), nn.Conv2d(128, 64, 1))


class Apart(nn.Module):
    """A residual branch that leaves channels apart; a norm divides each by a std that activation and stream decide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.norm = nn.GroupNorm(1, width), nn.BatchNorm2d(width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.norm(nn.functional.gelu(self.first(self.before(x)))))


def channels_apart() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 512, 1), *(Apart(512) for _ in range(3)), nn.Conv2d(512, 64, 1))


class Scaled(nn.Module):
    """No norm by channel: behind an activation, and a few weights, channels differ in size, which makes heavy tails."""

    def __init__(self, width: int) -> None:
        super().__init__()
        each = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        nn.init.normal_(each.weight)
        layers = nn.Conv2d(width, 2 * width, 1), nn.GroupNorm(8, 2 * width), nn.SiLU(), each
        self.layers = nn.Sequential(*layers, nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Conv2d(2 * width, width, 1))
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.layers(x))


def scaled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(64, 128, 1), *(Scaled(128) for _ in range(9)), nn.Conv2d(128, 64, 1))


def bordered(apart: bool = False) -> nn.Module:
    """Padding makes the border small, and there this slope is small, too: unit upon unit the middle gets more."""

    def block() -> tuple[nn.Module, ...]:
        pad = (nn.ZeroPad2d(2),) if apart else ()
        return *pad, nn.Conv2d(96, 96, 5, padding=0 if apart else 2, bias=False), nn.BatchNorm2d(96), nn.Hardswish()

    return nn.Sequential(*(m for _ in range(8) for m in block()), nn.Conv2d(96, 96, 1))


class Spectra(nn.Module):
    """Depthwise kernels upon each other, a shortcut beside each: every channel has a spectrum of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.each = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.scale = nn.Conv2d(width, width, 1, groups=width)
        self.norm, self.after = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.norm(self.each(x)) + self.scale(x) + x)


def chain_of_spectra() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 256, 1), *(Spectra(256) for _ in range(6)), nn.Conv2d(256, 64, 1))


class Branches(nn.Module):
    """Norms of a rectified tensor itself and of its depthwise convolution; of it times one weight per channel, too."""

    def __init__(self, width: int, scaled: bool) -> None:
        super().__init__()
        self.first, self.plain, self.spread = unit(width, width), nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.each = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        nn.init.normal_(self.each.weight)
        if scaled:
            self.unbounded = nn.Conv2d(width, width, 1, groups=width, bias=False)
            nn.init.normal_(self.unbounded.weight)
            self.scaled = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        branches = self.spread(self.each(x)) + self.plain(x)
        return torch.relu(branches + self.scaled(self.unbounded(x)) if hasattr(self, "scaled") else branches)


def branches(*scaled: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 256, 1), *(Branches(256, each) for each in scaled), nn.Conv2d(256, 64, 1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(64, 128, 2, batch_first=True)
        self.out = nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0])


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, norm_first=True)


class CausalBlock(nn.Module):
    """Attention that no query's own past can dilute: early positions get most of the gradient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.silu(self.up(x)))


def causal() -> nn.Module:
    blocks = [CausalBlock(128) for _ in range(3)]
    return nn.Sequential(nn.Linear(128, 128), *blocks, nn.LayerNorm(128), nn.Linear(128, 128))


class ChannelAttention(nn.Module):
    """Channels attend to channels over all positions, as in XCiT and DaViT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 4, 1)
        rows = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return x + self.out((rows @ v).permute(0, 3, 1, 2).flatten(2))


class LinearAttention(nn.Module):
    """Keys normalised over the positions, as in CoaT: queries meet what all positions have written."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        written = k.softmax(-2).transpose(-2, -1) @ v
        return x + self.out((q @ written).transpose(1, 2).flatten(2))


class Interpolated(nn.Module):
    """x + a (f(x) - x): the input cancels part of itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((width,), 0.6))
        self.layer = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.share * (self.layer(torch.relu(x)) - x)


class ClassToken(nn.Module):
    """A few small tokens in front of large ones, which a head over the mean of the others does not read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 5, width) * 0.02)
        self.embed, self.block = nn.Linear(width, width), encoder()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head(self.norm(self.block(x))[:, 5:].mean(1))


class OnePositionEncoding(nn.Module):
    """x + conv(x) before every block, by one and the same depthwise convolution, as in a stage of CoaT."""

    def __init__(self, channels: int, tokens: bool) -> None:
        super().__init__()
        self.encoding = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.stem = nn.Conv2d(4, channels, 1)
        self.blocks = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.last = nn.Linear(channels, 16)
        self.tokens = tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block, norm in zip(self.blocks, self.norms, strict=False):
            x = x.transpose(1, 2).unflatten(2, size)
            x = x + F.conv2d(x, self.encoding.weight, padding=1, groups=x.shape[1])
            x = x.flatten(2).transpose(1, 2)
            x = x + 0.2 * block(norm(x))
        return self.last(self.norms[-1](x) if self.tokens else x)


class WrittenRms(nn.Module):
    """x / sqrt(mean over channels of x² + eps), written out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class Little(nn.Module):
    """A norm of each position behind a padded convolution, and one of values so small that eps decides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 5, padding=2)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.third = nn.Conv2d(channels, channels, 1)
        self.last = nn.Conv2d(channels, 16, 1)
        self.norm = WrittenRms()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm(self.first(x)))
        x = F.gelu(self.norm(self.second(x)))
        return self.last(F.gelu(self.norm(1e-4 * self.third(x)) * 10))


class SampleEvoNorm(nn.Module):
    """x sigmoid(x) / std of its group, written out (Liu et al. 2020, EvoNorm-S0)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
        variance = grouped.var(dim=(2, 3, 4), unbiased=False, keepdim=True)
        return x * x.sigmoid() / (variance + 1e-5).sqrt().expand(grouped.shape).reshape(x.shape)


def per_group(norm: Callable[[], nn.Module]) -> nn.Module:
    blocks = [m for _ in range(6) for m in (nn.Conv2d(64, 64, 3, padding=1, bias=False), norm())]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64)
    return nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), *blocks, *head)


def groups_of_two() -> nn.Module:
    """Channels differ most in their means: the std of a group of two is mostly the distance between these."""
    blocks = [m for _ in range(4) for m in (nn.Conv2d(64, 64, 3, padding=1), SampleEvoNorm(32))]
    for conv in blocks[::2]:
        nn.init.normal_(conv.bias, std=0.3)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(16, 64, 1), *blocks, nn.Conv2d(64, 64, 1))


def group_norms() -> nn.Module:
    return per_group(lambda: nn.Sequential(nn.GroupNorm(8, 64), nn.ReLU()))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (64, 512)),
    "plain-cnn": (plain_cnn, (8, 8, 32, 32)),
    "residual": (residual, (8, 64, 8, 8)),
    "inception": (inception, (8, 16, 8, 8)),
    "dual-paths": (dual_paths, (8, 16, 8, 8)),
    "pooled-silu": (pooled_silu, (8, 16, 16, 16)),
    "pooled-head": (pooled_head, (8, 16, 7, 7)),
    "pyramid": (pyramid, (8, 16, 4, 4)),
    "blurred": (blurred, (8, 16, 24, 24)),
    "gated": (gated, (8, 16, 8, 8)),
    "activated-shortcuts": (activated_shortcuts, (8, 16, 8, 8)),
    "padded-maximum": (padded_maximum, (8, 16, 20, 20)),
    "joined-stream": (lambda: JoinedStream(64), (8, 16, 8, 8)),
    "depthwise": (depthwise, (8, 16, 12, 12)),
    "channels-apart": (channels_apart, (8, 16, 10, 10)),
    "scaled": (scaled, (8, 64, 6, 6)),
    "bordered": (bordered, (8, 96, 6, 6)),
    "chain-of-spectra": (chain_of_spectra, (8, 16, 16, 16)),
    "group-norms": (group_norms, (8, 16, 6, 6)),
    "evo-norms": (lambda: per_group(lambda: SampleEvoNorm(4)), (8, 16, 6, 6)),
    "evo-norms-of-two": (groups_of_two, (8, 16, 6, 6)),
    "branches": (lambda: branches(False, False, False), (8, 16, 8, 8)),
    "one-weight": (lambda: branches(True), (8, 16, 8, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), (8, 24, 64)),
    "gru": (lambda: Recurrent(nn.GRU), (8, 24, 64)),
    "rnn": (lambda: Recurrent(nn.RNN), (8, 24, 64)),
    "encoder": (encoder, (8, 16, 128)),
    "causal": (causal, (16, 48, 128)),
    "channel-attention": (lambda: nn.Sequential(*(ChannelAttention(128) for _ in range(3))), (8, 64, 128)),
    "linear-attention": (lambda: nn.Sequential(*(LinearAttention(128) for _ in range(3))), (8, 64, 128)),
    "interpolated": (lambda: nn.Sequential(*(Interpolated(256) for _ in range(4)), nn.Linear(256, 64)), (64, 256)),
    "one-position-encoding": (lambda: OnePositionEncoding(256, tokens=True), (8, 4, 16, 16)),
    "little": (lambda: Little(192), (8, 192, 6, 6)),
    "one-kernel": (lambda: OnePositionEncoding(256, tokens=False), (8, 4, 16, 16)),
    "class-token": (lambda: ClassToken(128), (8, 48, 128)),
}


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradient_std_of_every_layer(name: str) -> None:
    build, shape = CASES[name]
    torch.manual_seed(0)
    signal = propagate(trace(build(), (torch.randn(shape),), {}), strict=True)
    assert signal.unknown_ops == {}
    forward: dict[str, list[float]] = {}
    gradient: dict[str, list[float]] = {}
    for seed in range(4):
        torch.manual_seed(seed)
        model = build().train()

        def watch(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
                tensor = output if isinstance(output, torch.Tensor) else output[0]
                forward.setdefault(path, []).append(float(tensor.detach().var()))
                tensor.register_hook(lambda g: gradient.setdefault(path, []).append(float(g.square().mean())))

            return hook

        names = {row.name for row in signal.layers}
        for path, module in model.named_modules():
            if path in names:
                module.register_forward_hook(watch(path))
        out = model(torch.randn(shape))
        cotangent = torch.randn_like(out)
        out.backward(cotangent / cotangent.square().mean().sqrt())
    assert any(".unbounded" in note for note in signal.notes) == (name == "one-weight")
    for row in signal.layers:
        if row.name not in forward:
            continue
        real = math.sqrt(sum(forward[row.name]) / 4)
        assert row.forward_std == pytest.approx(real, rel=0.12), f"forward std of {row.name}"
        if row.name.endswith("unbounded"):
            assert row.grad_std is None
            assert row.weight_grad_std is None
        elif row.name in gradient:
            real = math.sqrt(sum(gradient[row.name]) / 4)
            assert row.grad_std == pytest.approx(real, rel=0.15), f"gradient std of {row.name}"


def test_zeros_put_around_a_map_are_the_padding_of_the_convolution_behind_them() -> None:
    signals = [propagate(trace(bordered(apart), (torch.randn(8, 96, 4, 4),), {})) for apart in (False, True)]
    for inside, apart in zip(*(signal.layers for signal in signals), strict=True):
        assert apart.forward_std == pytest.approx(inside.forward_std, rel=0.01)
        assert apart.grad_std == pytest.approx(inside.grad_std, rel=0.02)


class FilterResponseNorm(nn.Module):
    """x / sqrt(mean(x²)) over the positions of each channel, written out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.square().mean(dim=(2, 3), keepdim=True).add(1e-5).rsqrt().expand(x.shape)


def test_behind_a_filter_response_norm_the_signal_has_unit_scale_and_the_gradient_is_unknown() -> None:
    x = torch.randn(4, 16, 12, 12)
    net = nn.Sequential(nn.Conv2d(16, 32, 3), FilterResponseNorm(), nn.Conv2d(32, 32, 3))
    signal = propagate(trace(net, (x,), {}))
    first, last = signal.layers
    with torch.no_grad():
        assert last.forward_std == pytest.approx(float(net(x).std()), rel=0.1)
    assert first.grad_std is None
    assert last.grad_std == pytest.approx(1.0, rel=1e-6)


def test_what_a_norm_divides_out_is_not_multiplied_again_before_the_scales_that_it_divided_by() -> None:
    def build() -> nn.Sequential:
        net = nn.Sequential(
            nn.Conv2d(16, 256, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.BatchNorm2d(256), nn.Conv2d(256, 64, 1)
        )
        nn.init.uniform_(net[1].weight, 0.3, 1.7)  # type: ignore[arg-type]
        return net

    squares = torch.zeros(2)
    for seed in range(4):
        torch.manual_seed(seed)
        net = build()
        first = net[0](torch.randn(8, 16, 8, 8))
        scaled = net[1](first)
        out = net[2:](scaled)
        squares += torch.stack(
            [g.square().mean() for g in torch.autograd.grad((out * torch.randn_like(out)).sum(), (first, scaled))]
        )
    conv, norm, *_ = propagate(trace(build(), (torch.randn(8, 16, 8, 8),), {})).layers
    assert conv.grad_std is not None
    assert norm.grad_std is not None
    assert conv.grad_std / norm.grad_std == pytest.approx(float((squares[0] / squares[1]).sqrt()), rel=0.12)


def test_few_channels_with_like_neighbours_make_the_stds_of_units_differ() -> None:
    def build() -> nn.Sequential:
        conv = nn.Conv2d(3, 256, 5, padding=2, bias=False)
        return nn.Sequential(nn.Upsample(scale_factor=4), conv, nn.BatchNorm2d(256), nn.ReLU(), nn.Conv2d(256, 64, 1))

    square = 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        net, x = build(), torch.randn(8, 3, 10, 10)
        first = net[:2](x)
        out = net[2:](first)
        (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), first)
        square += float(gradient.square().mean()) / 4
    conv, *_ = propagate(trace(build(), (torch.randn(8, 3, 10, 10),), {})).layers
    assert conv.grad_std == pytest.approx(math.sqrt(square), rel=0.03)
