"""Sussillo and Abbott 2014: over 200 layers the logarithm of the signal's norm is a random walk; its drift can be undone.

He's gain keeps the mean of the squared norm, but a typical net of finite width loses about 1/(2N) per linear layer in
the logarithm, and more under ReLU. ``random_walk_`` corrects the gain so that the walk does not drift, forward and
backward. Mean and standard deviation, over several nets, of log(norm after layer 200 / norm before layer 1).

    python examples/reproduce_random_walk.py [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.nn import functional as F

import initcheck.init

Fill = Callable[[torch.Tensor], torch.Tensor]


def walk(fill: Fill, act: Callable[[torch.Tensor], torch.Tensor], width: int, depth: int) -> tuple[float, float]:
    """(forward, backward) log ratio of the norms through one net, at one input."""
    x = torch.randn(width, dtype=torch.float64, requires_grad=True)
    hidden = x
    for index in range(depth):
        weight = fill(torch.empty(width, width, dtype=torch.float64))
        hidden = weight @ (act(hidden) if index else hidden)
    gradient = torch.randn(width, dtype=torch.float64)
    (backward,) = torch.autograd.grad(hidden, x, gradient)
    forward = float((hidden.detach().norm() / x.detach().norm()).log())
    return forward, float((backward.norm() / gradient.norm()).log())


def main(argv: list[str]) -> None:
    depth, repeats = (40, 3) if "--quick" in argv else (200, 12)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{depth} layers, {repeats} nets{'forward log ratio':>31}{'backward log ratio':>22}{'expected drift':>17}")
    for kind, act in (("linear", lambda z: z), ("relu", F.relu)):
        for width in (50, 100):
            usual = "identity" if kind == "linear" else "relu"
            schemes: dict[str, Fill] = {
                "gain of the second moment": lambda w, usual=usual: initcheck.init.he_normal_(w, usual),
                "random_walk_": lambda w, kind=kind: initcheck.init.random_walk_(w, kind),
            }
            correction = 0.5 / width if kind == "linear" else 1.2 / (width - 2.4)
            for name, fill in schemes.items():
                walks = torch.tensor([walk(fill, act, width, depth) for _ in range(repeats)])
                mean, std = walks.mean(0), walks.std(0)
                expected = "0" if name == "random_walk_" else f"{-depth * correction:.2f}"
                print(
                    f"{kind:6} {width:4d} {name:26}{mean[0]:8.2f} ± {std[0]:4.2f}{mean[1]:15.2f} ± {std[1]:4.2f}{expected:>15}"
                )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
