"""Zhang, Dauphin and Ma 2019: Fixup trains a deep ResNet without any normalisation, from the first step on.

Residual nets of 3x3 convolutions with Fixup's scalars and no norm layer: with He's init the stream doubles with every
block, so that the first step destroys the net; with ``fixup_`` it starts as the identity and learns. Data: eight random
patterns of 3x12x12, each with a tint, in noise. The paper: 10,000 layers train with Fixup, depth is no obstacle.

    python examples/reproduce_fixup.py [--quick]
"""

from __future__ import annotations

import math
import sys

import torch
from torch import nn
from torch.nn import functional as F

import initcheck
import initcheck.init

CLASSES, CHANNELS, BATCH, RATE = 8, 12, 32, 0.01


class Block(nn.Module):
    """Two convolutions with a multiplier and biases of one number each (the paper's figure 1, right)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.conv1(x + self.bias1a) + self.bias1b)
        return F.relu(x + (self.conv2(out + self.bias2a) * self.scale + self.bias2b))


class Net(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1, stride=2)
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def he(model: nn.Module, x: torch.Tensor) -> None:
    initcheck.apply(model, "kaiming_normal")


def fixup(model: nn.Module, x: torch.Tensor) -> None:
    initcheck.init.fixup_(model, x)


def trained(model: nn.Module, patterns: torch.Tensor, steps: int) -> list[float]:
    slow = [p for p in model.parameters() if p.numel() == 1]  # the paper: a tenth of the rate for the scalars
    fast = [p for p in model.parameters() if p.numel() > 1]
    optimiser = torch.optim.SGD([{"params": fast}, {"params": slow, "lr": RATE / 10}], lr=RATE, momentum=0.9)
    losses = []
    for _ in range(steps):
        target = torch.randint(CLASSES, (BATCH,))
        loss = F.cross_entropy(model(patterns[target] + 0.5 * torch.randn(BATCH, 3, 12, 12)), target)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses


def main(argv: list[str]) -> None:
    quick = "--quick" in argv
    steps, depths = (12, (6,)) if quick else (60, (10, 50))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 12, 12)
    patterns = torch.randn(CLASSES, 3, 1, 1) + 0.5 * torch.randn(CLASSES, 3, 12, 12)
    print(
        f"{'layers':>6}  {'init':6} {'std before the head':>20}  {'loss at first':>13} {'best':>8} {'last 5':>8}  expected"
    )
    for blocks in depths:
        for name, scheme in (("He", he), ("Fixup", fixup)):
            torch.manual_seed(1)
            model = Net(blocks)
            scheme(model, x)
            std = float(model.blocks(F.relu(model.stem(x))).detach().std())
            seen = trained(model, patterns, steps)
            expected = "learns" if name == "Fixup" else "diverges"
            print(
                f"{2 * blocks + 2:6d}  {name:6} {std:20.3g}  {seen[0]:13.4g} {min(seen):8.3g} {sum(seen[-5:]) / len(seen[-5:]):8.3g}  {expected}"
            )  # fmt: skip
    print(f"(chance: {math.log(CLASSES):.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
