"""Nets that a person would write and that do not train as they are, and some that do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def mlp(depth: int, width: int, act: Callable[[], nn.Module], out: int = 10, std: float | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), act()]
    net = nn.Sequential(*layers, nn.Linear(width, out))
    if std is not None:
        for module in net:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
    return net


def cnn(depth: int, channels: int, act: Callable[[], nn.Module], pool: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), act()]
    for index in range(1, depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), act()]
        if pool and index % 5 == 0:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class NormFreeResNet(nn.Module):
    """He-initialised residual blocks without normalisation: the stream doubles with every block."""

    def __init__(self, blocks: int = 16, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.head = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        for first, second in zip(self.first, self.second, strict=True):
            x = F.relu(x + second(F.relu(first(x))))
        return self.head(x.mean((2, 3)))


class PreActivationMLP(nn.Module):
    """Norm-free pre-activation residual MLP, He-initialised."""

    def __init__(self, blocks: int = 20, width: int = 128) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(width, width), nn.Linear(width, 10)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.relu(up(F.relu(x))))
        return self.out(x)


class NormFreeTransformer(nn.Module):
    """Attention and MLP blocks on a residual stream, no layer norm, weights of unit gain."""

    def __init__(self, layers: int = 12, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.proj = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.fc = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.back = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        for qkv, proj, fc, back in zip(self.qkv, self.proj, self.fc, self.back, strict=True):
            q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in qkv(x).split(width, dim=2))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + proj(mixed.transpose(1, 2).reshape(batch, length, width))
            x = x + back(F.gelu(fc(x)))
        return self.head(x)


class UNet(nn.Module):
    """Two levels down, two up, skips concatenated, no norm, weights far too small."""

    def __init__(self, base: int = 16, per_level: int = 3) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for index in range(per_level):
                layers += [nn.Conv2d(inputs if index == 0 else outputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers)

        self.down1, self.down2 = stage(3, base), stage(base, 2 * base)
        self.middle = stage(2 * base, 4 * base)
        self.up2 = nn.ConvTranspose2d(4 * base, 2 * base, 2, stride=2)
        self.merge2 = stage(4 * base, 2 * base)
        self.up1 = nn.ConvTranspose2d(2 * base, base, 2, stride=2)
        self.merge1 = stage(2 * base, base)
        self.out = nn.Conv2d(base, 2, 1)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([self.up2(x), two], 1))
        x = self.merge1(torch.cat([self.up1(x), one], 1))
        return self.out(x)


VECTORS, IMAGES, TOKENS = (64, 128), (4, 3, 16, 16), (4, 32, 64)
UNHEALTHY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "default ReLU MLP, 30 layers": (lambda: mlp(30, 128, nn.ReLU), VECTORS),
    "default ReLU MLP, 100 layers": (lambda: mlp(100, 128, nn.ReLU), VECTORS),
    "50x100, variance 0.001": (lambda: mlp(50, 100, nn.ReLU, 100, 0.001**0.5), (64, 100)),
    "50x100, variance 0.1": (lambda: mlp(50, 100, nn.ReLU, 100, 0.1**0.5), (64, 100)),
    "50x100, variance 1": (lambda: mlp(50, 100, nn.ReLU, 100, 1.0), (64, 100)),
    "leaky ReLU MLP": (lambda: mlp(30, 128, lambda: nn.LeakyReLU(0.2)), VECTORS),
    "ELU MLP": (lambda: mlp(30, 128, nn.ELU), VECTORS),
    "SELU MLP": (lambda: mlp(30, 128, nn.SELU), VECTORS),
    "SELU MLP, He": (lambda: mlp(30, 128, nn.SELU, std=(2 / 128) ** 0.5), VECTORS),
    "GELU MLP": (lambda: mlp(30, 128, nn.GELU), VECTORS),
    "SiLU MLP": (lambda: mlp(20, 128, nn.SiLU), VECTORS),
    "SiLU MLP, 30 layers": (lambda: mlp(30, 128, nn.SiLU), VECTORS),
    "Mish MLP": (lambda: mlp(30, 128, nn.Mish), VECTORS),
    "Hardswish MLP": (lambda: mlp(12, 128, nn.Hardswish), VECTORS),
    "tanh MLP, 20 layers": (lambda: mlp(20, 128, nn.Tanh), VECTORS),
    "tanh MLP, 50 layers": (lambda: mlp(50, 128, nn.Tanh), VECTORS),
    "tanh MLP, std 1": (lambda: mlp(20, 128, nn.Tanh, std=1.0), VECTORS),
    "softsign MLP": (lambda: mlp(20, 128, nn.Softsign), VECTORS),
    "linear MLP": (lambda: mlp(30, 128, nn.Identity), VECTORS),
    "ReLU CNN, 20 layers": (lambda: cnn(20, 32, nn.ReLU), IMAGES),
    "ReLU CNN with pooling": (lambda: cnn(20, 32, nn.ReLU, pool=True), (4, 3, 32, 32)),
    "GELU CNN": (lambda: cnn(20, 32, nn.GELU), IMAGES),
    "SiLU CNN": (lambda: cnn(16, 32, nn.SiLU), IMAGES),
    "tanh CNN": (lambda: cnn(20, 32, nn.Tanh), IMAGES),
    "ELU CNN": (lambda: cnn(20, 32, nn.ELU), IMAGES),
    "norm-free ResNet, 16 blocks": (NormFreeResNet, IMAGES),
    "norm-free ResNet, 40 blocks": (lambda: NormFreeResNet(40, 16), IMAGES),
    "norm-free residual MLP": (PreActivationMLP, VECTORS),
    "norm-free residual MLP, 60 blocks": (lambda: PreActivationMLP(60), VECTORS),
    "norm-free transformer": (NormFreeTransformer, TOKENS),
    "U-Net without norm": (UNet, IMAGES),
}
"""Name to (constructor, input shape)."""
