"""Klambauer et al. 2017: SELU with LeCun's init pulls mean and variance to its fixed point (0, 1), from wherever they are.

A plain net of SELU layers is fed inputs that are neither centred nor scaled. For each init: mean and variance of the
activations on the way. The paper's theorem 1: with weights of variance 1/fan_in they converge to (0, 1). He's
variance, twice that, makes them grow; under smaller ones, and under ReLU, the signal fades.

    python examples/reproduce_selu.py [--quick]
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import initcheck.init

WIDTH = 256


def moments(act: nn.Module, std: float, mean: float, scale: float, depth: int) -> list[tuple[float, float]]:
    """(mean, variance) of the activations after each layer, averaged over samples."""
    x = mean + scale * torch.randn(512, WIDTH)
    seen = []
    for _ in range(depth):
        layer = nn.Linear(WIDTH, WIDTH)
        initcheck.init.lecun_normal_(layer.weight)
        with torch.no_grad():
            layer.weight.mul_(std)
            layer.bias.zero_()
            x = act(layer(x))
        seen.append((float(x.mean()), float(x.var())))
    return seen


def main(argv: list[str]) -> None:
    depth = 16 if "--quick" in argv else 64
    torch.set_num_threads(1)
    torch.manual_seed(0)
    marks = [0, 1, 3, 7, depth // 2 - 1, depth - 1]
    rows = [
        ("SELU, LeCun, input (0, 1)", nn.SELU(), 1.0, 0.0, 1.0, "stays at (0, 1)"),
        ("SELU, LeCun, input (1, 4)", nn.SELU(), 1.0, 1.0, 2.0, "pulled to (0, 1)"),
        ("SELU, LeCun, input (0.2, 0.04)", nn.SELU(), 1.0, 0.2, 0.2, "pulled to (0, 1)"),
        ("SELU, He's variance", nn.SELU(), 2**0.5, 0.0, 1.0, "grows"),
        ("SELU, torch's default variance", nn.SELU(), 3**-0.5, 0.0, 1.0, "shrinks"),
        ("ReLU, LeCun", nn.ReLU(), 1.0, 0.0, 1.0, "no fixed point but 0"),
    ]
    print(f"{'mean, variance after layer':31}" + "".join(f"{mark + 1:>14}" for mark in marks) + "  expected")
    for label, act, std, mean, scale, expected in rows:
        seen = moments(act, std, mean, scale, depth)
        cells = "".join(f"{seen[m][0]:>7.2f} {seen[m][1]:>6.2g}" for m in marks)
        print(f"{label:31}{cells}  {expected}")


if __name__ == "__main__":
    main(sys.argv[1:])
