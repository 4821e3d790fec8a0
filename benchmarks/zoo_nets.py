"""Nets of the benchmark zoo that are written out here: stacks, recurrent nets, and well-known small examples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


def mlp(
    depth: int, width: int, activation: Activation, init: Callable[[torch.Tensor], object] | None = None
) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for module in net.modules() if init else ():
        if isinstance(module, nn.Linear):
            init(module.weight)
            nn.init.zeros_(module.bias)
    return net


def lecun_(weight: torch.Tensor) -> torch.Tensor:
    return nn.init.normal_(weight, 0.0, 1 / math.sqrt(weight.shape[1]))


class ResidualMLP(nn.Module):
    """Pre-norm residual blocks, each Linear-GELU-Linear."""

    def __init__(self, depth: int = 8, width: int = 128) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return self.head(x)


class Siren(nn.Module):
    def __init__(self, width: int = 256, depth: int = 4, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        widths = [2] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(width, 3)
        for i, layer in enumerate([*self.layers, self.out]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.out(x)


class RecurrentTagger(nn.Module):
    """Embedding, a stack of LSTM, GRU or RNN layers, a label for every token."""

    def __init__(self, kind: str, layers: int = 2, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.rnn = getattr(nn, kind)(64, 128, layers, batch_first=True, bidirectional=bidirectional)
        self.out = nn.Linear(256 if bidirectional else 128, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.embed(x))[0])


class ByHand(nn.Module):
    """Two LSTM cells stepped over a sequence of numbers, one prediction per step."""

    def __init__(self, width: int = 51) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(1, width), nn.LSTMCell(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = h2 = c2 = x.new_zeros(x.shape[0], self.first.hidden_size)
        steps = []
        for step in x.split(1, dim=1):
            h, c = self.first(step, (h, c))
            h2, c2 = self.second(h, (h2, c2))
            steps.append(self.out(h2))
        return torch.cat(steps, 1)


class LanguageModel(nn.Module):
    """Word-level language model with dropout, time first."""

    def __init__(self, kind: str, words: int = 2000, width: int = 200) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(words, width)
        self.rnn = getattr(nn, kind)(width, width, 2, dropout=0.2)
        self.decoder = nn.Linear(width, words)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out, _ = self.rnn(self.drop(self.encoder(tokens)))
        return self.decoder(self.drop(out)).log_softmax(-1)


class TransformerLM(nn.Module):
    """Causal transformer over tokens with sinusoidal positions, from torch's own encoder layers."""

    def __init__(self, words: int = 2000, width: int = 200) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 2, width, 0.2)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.decoder = nn.Linear(width, words)
        self.drop = nn.Dropout(0.2)
        angles = torch.arange(512)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        table = torch.zeros(512, 1, width)
        table[:, 0, 0::2], table[:, 0, 1::2] = angles.sin(), angles.cos()
        self.register_buffer("positions", table)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = len(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.drop(self.embed(tokens) * math.sqrt(self.width) + self.positions[:length])
        return self.decoder(self.encoder(x, mask=mask)).log_softmax(-1)


class Attention(nn.Module):
    """Causal self-attention as small GPTs write it: one projection, split into heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))


class SmallGPT(nn.Module):
    def __init__(self, depth: int = 4, width: int = 128, words: int = 1000) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(64, width)
        self.norm1 = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mix = nn.ModuleList(Attention(width, 4) for _ in range(depth))
        self.norm2 = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("proj.weight", ".2.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * depth) if last else 0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for norm1, mix, norm2, mlp_ in zip(self.norm1, self.mix, self.norm2, self.mlp, strict=True):
            x = x + mix(norm1(x))
            x = x + mlp_(norm2(x))
        return self.head(self.norm(x))


class DigitNet(nn.Module):
    """The convolutional net of the MNIST example."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.drop1, self.drop2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.relu(self.fc1(torch.flatten(self.drop1(x), 1)))
        return F.log_softmax(self.fc2(self.drop2(x)), dim=1)


class RowReader(nn.Module):
    """Images read row by row by an LSTM; the last step decides."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(28, 64, batch_first=True)
        self.norm = nn.BatchNorm1d(64)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.rnn(x)
        x = F.relu(self.fc1(self.norm(out[:, -1])))
        return F.log_softmax(self.fc2(x), dim=1)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.mean, self.spread = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.back, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.hidden(x))
        mean, spread = self.mean(h), torch.exp(0.5 * self.spread(h))
        z = mean + spread * torch.randn_like(spread)
        return torch.sigmoid(self.out(F.relu(self.back(z))))


def dcgan_init(module: nn.Module) -> None:
    name = type(module).__name__
    if name.startswith("Conv"):
        nn.init.normal_(module.weight, 0.0, 0.02)  # type: ignore[arg-type]
    elif name.startswith("BatchNorm"):
        nn.init.normal_(module.weight, 1.0, 0.02)  # type: ignore[arg-type]
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def dcgan_generator() -> nn.Module:
    layers: list[nn.Module] = []
    widths = [100, 512, 256, 128, 64]
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers += [nn.ConvTranspose2d(a, b, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False)]
        layers += [nn.BatchNorm2d(b), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()).apply(dcgan_init)


def dcgan_discriminator() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for a, b in itertools.pairwise([64, 128, 256, 512]):
        layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Sigmoid()).apply(dcgan_init)


def super_resolution(factor: int = 2) -> nn.Module:
    convs = [nn.Conv2d(1, 64, 5, 1, 2), nn.Conv2d(64, 64, 3, 1, 1), nn.Conv2d(64, 32, 3, 1, 1)]
    last = nn.Conv2d(32, factor**2, 3, 1, 1)
    for conv in convs:
        nn.init.orthogonal_(conv.weight, nn.init.calculate_gain("relu"))
    nn.init.orthogonal_(last.weight)
    return nn.Sequential(*(m for conv in convs for m in (conv, nn.ReLU())), last, nn.PixelShuffle(factor))


class StyleNet(nn.Module):
    """Image to image: reflection padding, instance norm, residual blocks, nearest up-sampling."""

    def __init__(self, width: int = 32, blocks: int = 3) -> None:
        super().__init__()

        def conv(a: int, b: int, size: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(nn.ReflectionPad2d(size // 2), nn.Conv2d(a, b, size, stride))

        def normed(a: int, b: int, size: int, stride: int = 1) -> list[nn.Module]:
            return [conv(a, b, size, stride), nn.InstanceNorm2d(b, affine=True)]

        w = width
        self.down = nn.Sequential(
            *normed(3, w, 9), nn.ReLU(), *normed(w, 2 * w, 3, 2), nn.ReLU(), *normed(2 * w, 4 * w, 3, 2), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*normed(4 * w, 4 * w, 3), nn.ReLU(), *normed(4 * w, 4 * w, 3)) for _ in range(blocks)
        )
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), *normed(4 * w, 2 * w, 3), nn.ReLU(),
            nn.Upsample(scale_factor=2), *normed(2 * w, w, 3), nn.ReLU(), conv(w, 3, 9),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        for block in self.blocks:
            x = x + block(x)
        return self.up(x)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def _double(a: int, b: int, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inner in (a, b):
        layers += [nn.Conv2d(inner, b, 3, padding=1, bias=not norm)]
        layers += [nn.BatchNorm2d(b), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Max pooling down, transposed (or bilinear) convolutions up, skips by concatenation."""

    def __init__(self, norm: bool = True, bilinear: bool = False, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b, norm) for a, b in itertools.pairwise([3, *widths]))
        steps = list(itertools.pairwise(reversed(widths)))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(a, b, 1))
            if bilinear
            else nn.ConvTranspose2d(a, b, 2, 2)
            for a, b in steps
        )
        self.merge = nn.ModuleList(_double(2 * b, b, norm) for _, b in steps)
        self.out = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for block in self.down:
            if kept:
                x = F.max_pool2d(x, 2)
            x = block(x)
            kept.append(x)
        for skip, up, merge in zip(reversed(kept[:-1]), self.up, self.merge, strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.out(x)


class Siamese(nn.Module):
    """Two images through one net; the distance of their features is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * 16, 128), nn.Sigmoid(),
        )  # fmt: skip
        self.out = nn.Linear(128, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.out((self.features(a) - self.features(b)).abs())


class GraphConvolutions(nn.Module):
    """Kipf and Welling's two layers on a dense, row-normalised adjacency matrix."""

    def __init__(self, inputs: int = 64, hidden: int = 16, classes: int = 7) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, classes, bias=False)
        nn.init.kaiming_normal_(self.first.weight, mode="fan_out")
        nn.init.kaiming_normal_(self.second.weight, mode="fan_out")
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        x = F.relu(adjacency @ self.first(x))
        return F.log_softmax(adjacency @ self.second(self.drop(x)), dim=1)


class GraphAttentionLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.proj = nn.Linear(inputs, heads * outputs, bias=False)
        self.left, self.right = nn.Parameter(torch.empty(heads, outputs)), nn.Parameter(torch.empty(heads, outputs))
        for weight in (self.proj.weight, self.left, self.right):
            nn.init.xavier_normal_(weight)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        h = F.dropout(self.proj(x), 0.2, self.training).view(len(x), self.heads, -1)
        scores = (h * self.left).sum(-1).T[:, :, None] + (h * self.right).sum(-1).T[:, None, :]
        scores = F.leaky_relu(scores, 0.2).masked_fill(adjacency == 0, -9e15).softmax(-1)
        mixed = F.dropout(scores, 0.2, self.training) @ h.transpose(0, 1)
        return mixed.mean(0) if self.last else mixed.transpose(0, 1).flatten(1)


class GraphAttention(nn.Module):
    def __init__(self, inputs: int = 64, hidden: int = 16, classes: int = 7) -> None:
        super().__init__()
        self.first = GraphAttentionLayer(inputs, hidden, 4, last=False)
        self.second = GraphAttentionLayer(4 * hidden, classes, 1, last=True)

    def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.second(F.elu(self.first(x, adjacency)), adjacency), dim=1)


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 128)
        self.actor, self.critic = nn.Linear(128, 2), nn.Linear(128, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.body(x))
        return F.softmax(self.actor(x), -1), self.critic(x)
