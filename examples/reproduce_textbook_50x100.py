"""The textbook figure of 50 ReLU layers of 100 units: weights of variance 0.001 to 1, forward and backward.

Weights of variance 2/100 = 0.02 keep both signals (He et al. 2015); smaller ones vanish, larger ones explode. For each
variance: the std of the pre-activations and of their gradients in the first, a middle and the last layer, predicted
without running data and measured by a real pass.

    python examples/reproduce_textbook_50x100.py [--quick]
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import initcheck


def network(variance: float, depth: int = 50, width: int = 100) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        nn.init.normal_(linear.weight, std=variance**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def verdict(first: float, last: float) -> str:
    ratio = last / first
    return "vanishes" if ratio < 1e-3 else "explodes" if ratio > 1e3 else "keeps"


def expected(variance: float, width: int = 100) -> str:
    """He et al. 2015: each layer multiplies the variance by width·variance/2, forward and backward."""
    per_layer = (variance * width / 2) ** 0.5
    return f"x {per_layer:.3g} per layer"


def main(argv: list[str]) -> None:
    variances = (0.001, 0.02) if "--quick" in argv else (0.001, 0.01, 0.02, 0.1, 1.0)
    torch.set_num_threads(1)
    x = torch.randn(256, 100, dtype=torch.float64)  # variance 1 reaches 1e42, beyond float32
    print(
        f"{'variance':>8}  {'':9} {'forward std in layers 1, 25, 50':^34} {'gradient std in layers 50, 25, 1':^34} expected"
    )
    for variance in variances:
        torch.manual_seed(0)
        model = network(variance).double()
        for how, report in (
            ("predicted", initcheck.analyze(model, (x,))),
            ("measured", initcheck.measure(model, (x,), compare=False)),
        ):
            rows = [report.layers[i] for i in (0, 24, 49)]
            forward = [row.forward_std or 0.0 for row in rows]
            gradient = [row.grad_std or 0.0 for row in reversed(rows)]
            print(
                f"{variance:8g}  {how:9} " + " ".join(f"{v:8.2g}" for v in forward) + f" {verdict(forward[0], forward[2])}"
                "  " + " ".join(f"{v:8.2g}" for v in gradient) + f" {verdict(gradient[0], gradient[2])}"
                f"   {expected(variance)}"
            )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
