"""Unhealthy nets that the suggested init was not tuned on: other widths, depths, activations and architectures.

Nothing in ``initcheck/init`` may be adjusted to them; what fails here is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


def mlp(widths: list[int], act: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths[:-1]):
        layers += [nn.Linear(i, o), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def small(model: nn.Module, std: float) -> nn.Module:
    """Every weight matrix N(0, std²)."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return model


def without_norms(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, (nn.BatchNorm2d, nn.LayerNorm)):
            setattr(model, name, nn.Identity())
        else:
            without_norms(child)
    return model


def convs(dims: int, channels: int, depth: int, kernel: int, act: Callable[[], nn.Module]) -> nn.Sequential:
    conv: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool: Any = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    layers: list[nn.Module] = []
    for index in range(depth):
        stride = 2 if index in (depth // 3, 2 * depth // 3) else 1
        layers += [conv(3 if index == 0 else channels, channels, kernel, stride=stride, padding=kernel // 2), act()]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(channels, 7))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions in turn, without norm."""

    def __init__(self, blocks: int = 12, channels: int = 48) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.depth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(blocks))
        self.point = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(blocks))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        for depth, point in zip(self.depth, self.point, strict=True):
            x = F.relu(point(depth(x)))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Every layer sees all layers before it (concatenated), without norm."""

    def __init__(self, layers: int = 12, growth: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(growth * (i + 1), growth, 3, padding=1) for i in range(layers))
        self.head = nn.Linear(growth * (layers + 1), 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """Residual blocks with a SiLU gate, without norm, weights of unit gain."""

    def __init__(self, blocks: int = 16, width: int = 96) -> None:
        super().__init__()
        self.gate = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        small(self, 2 / width**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for gate, up, down in zip(self.gate, self.up, self.down, strict=True):
            x = x + down(F.silu(gate(x)) * up(x))
        return self.head(x)


class Mixer(nn.Module):
    """MLP-Mixer without norm, He-initialised."""

    def __init__(self, blocks: int = 12, tokens: int = 16, width: int = 64) -> None:
        super().__init__()
        self.mix = nn.ModuleList(nn.Linear(tokens, tokens) for _ in range(blocks))
        self.fc1 = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.fc2 = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for mix, fc1, fc2 in zip(self.mix, self.fc1, self.fc2, strict=True):
            x = x + mix(x.transpose(1, 2)).transpose(1, 2)
            x = x + fc2(F.gelu(fc1(x)))
        return self.head(x.mean(1))


class DeepLSTM(nn.Module):
    def __init__(self, layers: int = 4, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = mlp([width] * 12 + [5], nn.ReLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Generator(nn.Module):
    """DCGAN's generator without batch norm, weights N(0, 0.02²)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [64, 128, 64, 32, 16]
        ups: list[nn.Module] = []
        for i, o in pairwise(sizes):
            ups += [nn.ConvTranspose2d(i, o, 4, 2, 1), nn.ReLU()]
        self.ups, self.out = nn.Sequential(*ups), nn.Conv2d(16, 3, 3, padding=1)
        small(self, 0.02)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(self.ups(z)))


class TwoTowers(nn.Module):
    """Two branches of different depth, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = mlp([96] * 16, nn.Tanh), mlp([96] * 9, nn.ReLU)
        self.head = mlp([192] * 8 + [4], nn.ReLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.tanh(self.one(x)), F.relu(self.two(x))], 1))


def vgg() -> nn.Module:
    """VGG-16's convolutions with its three linear layers at an eighth of their width."""
    head = [nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return small(nn.Sequential(*torchvision.models.vgg16().features, *head), 0.01)


TAPERED = [512, 384, 384, 256, 256, 192, 192, 128, 128, 96, 96, 64, 64, 10]


def resnet(name: str) -> nn.Module:
    """A torchvision ResNet without its norms."""
    return without_norms(getattr(torchvision.models, name)(num_classes=10))


def encoder(layers: int = 6) -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, activation="gelu", norm_first=True)
    model = without_norms(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    return model


PICTURES = (4, 3, 32, 32)
HELD_OUT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ReLU MLP, 40 x 512": (lambda: mlp([512] * 41 + [10], nn.ReLU), (64, 512)),
    "ReLU MLP, 60 x 48": (lambda: mlp([48] * 61 + [10], nn.ReLU), (64, 48)),
    "tanh MLP, tapered": (lambda: mlp(TAPERED, nn.Tanh), (64, 512)),
    "ReLU MLP, widening": (lambda: mlp([32 + 16 * i for i in range(20)] + [10], nn.ReLU), (64, 32)),
    "GELU MLP, 40 x 200": (lambda: mlp([200] * 41 + [3], nn.GELU), (64, 200)),
    "CELU MLP, 24 x 160": (lambda: mlp([160] * 25 + [3], nn.CELU), (64, 160)),
    "softplus MLP, 15 x 128": (lambda: mlp([128] * 16 + [3], nn.Softplus), (64, 128)),
    "sigmoid MLP, 8 x 256": (lambda: mlp([256] * 9 + [3], nn.Sigmoid), (64, 256)),
    "ReLU6 MLP, 25 x 100": (lambda: mlp([100] * 26 + [3], nn.ReLU6), (64, 100)),
    "PReLU CNN, 18 x 24": (lambda: convs(2, 24, 18, 3, nn.PReLU), PICTURES),
    "SELU CNN, 24 x 40": (lambda: convs(2, 40, 24, 3, nn.SELU), PICTURES),
    "GELU 1-d CNN, 21 x 48, kernel 5": (lambda: convs(1, 48, 21, 5, nn.GELU), (4, 3, 128)),
    "ReLU 3-d CNN, 12 x 16": (lambda: convs(3, 16, 12, 3, nn.ReLU), (2, 3, 12, 12, 12)),
    "separable CNN": (Separable, PICTURES),
    "dense CNN": (Dense, PICTURES),
    "VGG-16 without BN, std 0.01": (vgg, PICTURES),
    "ResNet-18 without BN": (lambda: resnet("resnet18"), (2, 3, 64, 64)),
    "ResNet-50 without BN": (lambda: resnet("resnet50"), (2, 3, 64, 64)),
    "ResNeXt-50 without BN": (lambda: resnet("resnext50_32x4d"), (2, 3, 64, 64)),
    "gated residual MLP": (Gated, (64, 96)),
    "mixer without norm": (Mixer, (8, 16, 64)),
    "torch encoder without norm": (encoder, (8, 16, 64)),
    "deep LSTM with a deep head": (DeepLSTM, (16, 12, 32)),
    "DCGAN generator without BN": (Generator, (8, 64, 4, 4)),
    "two towers": (TwoTowers, (64, 96)),
}  # fmt: skip
"""Name to (constructor, input shape)."""
