"""Balduzzi et al. 2017: gradients of deep plain ReLU nets shatter into white noise; the looks-linear init keeps them whole.

Along a line of inputs, the gradient of a deep He-initialised net at neighbouring points is almost uncorrelated, however
close they are; with mirrored weights the net is linear at the start, and the gradient is the same everywhere. The paper
(figure 6): with it, plain nets of 200 layers train.

    python examples/reproduce_looks_linear.py [--quick]
"""

from __future__ import annotations

import math
import sys

import torch
from torch import nn
from torch.nn import functional as F

import initcheck

WIDTH, CLASSES, BATCH = 64, 5, 64


def network(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth - 1):
        layers += [nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES, bias=False))


def neighbours(model: nn.Module, points: int = 128) -> float:
    """Correlation of the gradient with respect to the input at neighbouring points of a line through input space."""
    line = torch.linspace(-2, 2, points)[:, None] * torch.randn(WIDTH) + 0.5 * torch.randn(WIDTH)
    line.requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(line)[:, 0].sum(), line)
    gradient = gradient - gradient.mean(1, keepdim=True)
    return float(F.cosine_similarity(gradient[1:], gradient[:-1]).mean())


def trained(model: nn.Module, centres: torch.Tensor, steps: int) -> float:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9)
    losses = []
    for _ in range(steps):
        target = torch.randint(CLASSES, (BATCH,))
        loss = F.cross_entropy(model(centres[target] + torch.randn(BATCH, WIDTH)), target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / len(losses[-10:])


def main(argv: list[str]) -> None:
    quick = "--quick" in argv
    depths, steps = ((2, 10), 5) if quick else ((2, 20, 50, 200), 120)
    torch.set_num_threads(1)
    print(f"{'init':14} {'layers':>6} {'gradient correlation':>21} {f'loss after {steps}':>16}  expected")
    for scheme, label in (("kaiming_normal", "He"), ("looks_linear", "looks-linear")):
        for depth in depths:
            torch.manual_seed(0)
            centres = torch.randn(CLASSES, WIDTH)
            model = network(depth)
            initcheck.apply(model, scheme)
            expected = "1, learns at any depth" if label != "He" else "shatters with depth, stalls"
            print(f"{label:14} {depth:6d} {neighbours(model):21.3f} {trained(model, centres, steps):16.3f}  {expected}")
    print(f"(chance: {math.log(CLASSES):.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
