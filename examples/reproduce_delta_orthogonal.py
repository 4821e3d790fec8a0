"""Xiao et al. 2018: delta-orthogonal kernels let a very deep plain convolutional net be trained; Gaussian ones do not.

Plain tanh nets (no skips, no norm), circular padding, weights at the edge of chaos in both cases (σ_w² = 1, no bias).
A Gaussian kernel's singular values spread, and the signal's spatial modes die at different rates; with the delta-
orthogonal kernel every mode keeps its norm. Prints, for a growing depth, what is left of input and gradient, and the loss
after a short training at the deepest. The paper: 10,000 layers train at once.

    python examples/reproduce_delta_orthogonal.py [--quick]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import initcheck.init

CHANNELS, SIZE, CLASSES, BATCH = 16, 6, 6, 32


def network(depth: int, fill: Callable[[torch.Tensor], object]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        conv = nn.Conv2d(3 if index == 0 else CHANNELS, CHANNELS, 3, padding=1, padding_mode="circular", bias=False)
        fill(conv.weight)
        layers += [conv, nn.Tanh()]
    head = nn.Linear(CHANNELS * SIZE * SIZE, CLASSES)
    return nn.Sequential(*layers, nn.Flatten(), head)


def kept(model: nn.Sequential, x: torch.Tensor) -> tuple[float, float]:
    """Norm of the difference of two inputs at the end, and of the gradient at the start, relative to the other side."""
    x = x.clone().requires_grad_(True)
    hidden = model[:-2](x)
    (gradient,) = torch.autograd.grad(hidden, x, torch.randn_like(hidden))
    apart = hidden.detach()[1:] - hidden.detach()[:-1]
    given = x.detach()[1:] - x.detach()[:-1]
    return float(apart.norm() / given.norm()), float(gradient.norm() / math.sqrt(hidden.numel()))


def trained(model: nn.Sequential, patterns: torch.Tensor, steps: int) -> float:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    last: list[float] = []
    for _ in range(steps):
        target = torch.randint(CLASSES, (BATCH,))
        loss = F.cross_entropy(model(patterns[target] + 0.05 * torch.randn(BATCH, 3, SIZE, SIZE)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last.append(float(loss.detach()))
    return sum(last[-5:]) / 5


def main(argv: list[str]) -> None:
    quick = "--quick" in argv
    depths, steps = ((10, 30), 4) if quick else ((25, 100, 400), 50)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, patterns = 0.1 * torch.randn(4, 3, SIZE, SIZE), 0.1 * torch.randn(CLASSES, 3, SIZE, SIZE)
    schemes: dict[str, Callable[[torch.Tensor], object]] = {
        "Gaussian": lambda w: initcheck.init.lecun_normal_(w),
        "delta-orthogonal": lambda w: initcheck.init.delta_orthogonal_(w),
    }
    deepest = f"loss, {depths[1]} layers"
    heads = "".join(f"  {f'{depth} layers':>20}" for depth in depths)
    print(f"{'input | gradient kept at':24}{heads}  {deepest:>18}  expected")
    for name, fill in schemes.items():
        cells, loss = "", math.nan
        for depth in depths:
            torch.manual_seed(1)
            model = network(depth, fill)
            forward, backward = kept(model, x)
            cells += f"  {f'{forward:.2g} | {backward:.2g}':>20}"
            if depth == depths[1]:
                loss = trained(model, patterns, steps)
        expected = "kept, learns" if name == "delta-orthogonal" else "fades, does not learn"
        print(f"{name:24}{cells}  {loss:18.3f}  {expected}")
    print(f"(chance: {math.log(CLASSES):.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
