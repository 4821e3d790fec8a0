"""Mishkin and Matas 2016: LSUV makes the output of every layer of unit variance, whatever the activation, in one pass.

Orthonormal weights first, then each layer in turn is divided by the std of its own output on one batch. No formula for
the gain is needed: here the activations alternate (ReLU, tanh, sigmoid, ELU). Prints the std of the layers' outputs
before training and the loss after a short one, from small Gaussian weights, from torch's default and from LSUV.

    python examples/reproduce_lsuv.py [--quick]
"""

from __future__ import annotations

import math
import sys

import torch
from torch import nn
from torch.nn import functional as F

import initcheck

BATCH, WIDTH, CLASSES = 128, 64, 10
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU)
SCHEMES = ("normal, std .01", "torch's default", "LSUV")


def network(depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        layers += [nn.Linear(WIDTH, WIDTH), ACTIVATIONS[index % len(ACTIVATIONS)]()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def initialised(scheme: str, depth: int, x: torch.Tensor) -> nn.Sequential:
    model = network(depth)
    if scheme.startswith("normal"):
        for module in model[::2]:
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    elif scheme == "LSUV":
        initcheck.apply(model, "lsuv", x)
    return model


def stds(model: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Std of each linear layer's output over samples and units, which is what the method sets to 1."""
    found = []
    with torch.no_grad():
        for module in model:
            x = module(x)
            if isinstance(module, nn.Linear):
                found.append(float(x.std()))
    return found


def losses(model: nn.Sequential, centres: torch.Tensor, steps: int) -> list[float]:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    seen = []
    for _ in range(steps):
        target = torch.randint(CLASSES, (BATCH,))
        loss = F.cross_entropy(model(centres[target] + torch.randn(BATCH, WIDTH)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    return seen


def main(argv: list[str]) -> None:
    depth, steps = (8, 5) if "--quick" in argv else (16, 200)
    torch.set_num_threads(1)
    print(
        f"{'init':18} {'std in layers 1':>16} {depth // 2:>8} {depth:>8}  {f'loss after {steps} steps':>20}  expected"
    )
    for scheme in SCHEMES:
        torch.manual_seed(0)
        centres = torch.randn(CLASSES, WIDTH)
        x = centres[torch.randint(CLASSES, (BATCH,))] + torch.randn(BATCH, WIDTH)
        model = initialised(scheme, depth, x)
        std = stds(model, x)
        loss = losses(model, centres, steps)[-1]
        expected = "1 everywhere, learns" if scheme == "LSUV" else "fades, stays at chance"
        print(f"{scheme:18} {std[0]:16.2g} {std[depth // 2 - 1]:8.2g} {std[-1]:8.2g}  {loss:20.3f}  {expected}")
    print(f"(chance: {math.log(CLASSES):.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
