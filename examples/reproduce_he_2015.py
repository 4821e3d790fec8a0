"""He et al. 2015, figure 3: a 30-layer ReLU net stalls with Xavier's scale and learns with He's.

The same net, data and optimiser; only the init differs. Data: ten Gaussian clusters in 64 dimensions, told apart after a
random rotation. Prints the loss as it goes and the std of the last hidden layer before training.

    python examples/reproduce_he_2015.py [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import initcheck

BATCH, WIDTH, DEPTH, CLASSES = 128, 64, 30, 10


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(DEPTH - 1):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def initialised(scheme: Callable[[torch.Tensor], object]) -> nn.Sequential:
    model = network()
    for module in model:
        if isinstance(module, nn.Linear):
            scheme(module.weight)
            nn.init.zeros_(module.bias)
    return model


def losses(model: nn.Sequential, centres: torch.Tensor, steps: int) -> list[float]:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
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
    steps = 20 if "--quick" in argv else 600
    torch.set_num_threads(1)
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH)
    schemes: dict[str, Callable[[torch.Tensor], object]] = {
        "xavier_normal_": nn.init.xavier_normal_,
        "kaiming_normal_": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    }
    expected = {"xavier_normal_": "stalls at chance", "kaiming_normal_": "learns"}
    marks = [0, steps // 12, steps // 6, steps // 2, steps - 1]
    print(f"{'':16} {'hidden std':>10}  loss after " + " ".join(f"{m + 1:>6}" for m in marks) + " steps  expected")
    for name, scheme in schemes.items():
        torch.manual_seed(1)
        model = initialised(scheme)
        std = initcheck.measure(model, (torch.randn(BATCH, WIDTH),), compare=False).layers[-2].forward_std or 0.0
        seen = losses(model, centres, steps)
        print(
            f"{name:16} {std:10.2g}             "
            + " ".join(f"{seen[m]:6.3f}" for m in marks)
            + f"        {expected[name]}"
        )
    print(f"(chance: {torch.tensor(CLASSES).log():.3f})")


if __name__ == "__main__":
    main(sys.argv[1:])
