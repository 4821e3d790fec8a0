"""Nets that do not train as they are: torch's default (or the net's own init), plain LSUV, and ``apply("suggested")``.

For each net, over a few seeds and measured by a real pass: the range of the forward std over its layers, that of the
gradient (its energy per sample, as a std, against the middle of its range), and the time of the initialisation. Layers
outside [1/3, 3] are marked. The model's output and the last layers of residual branches are free to be small.

    python benchmarks/initialisers.py [--seeds 3] [--only NAME]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "init"))
from nets import UNHEALTHY

from initcheck.init import apply, lsuv_
from initcheck.init.structure import analyse
from initcheck.measuring.passes import measure_pass
from initcheck.tracing.ladder import trace

BAND = 3.0
METHODS = ("as it is", "LSUV", "suggested")


@dataclass
class Ranges:
    """Smallest and largest over layers and seeds."""

    forward: tuple[float, float] = (math.inf, 0.0)
    gradient: tuple[float, float] = (math.inf, 0.0)
    seconds: float = 0.0

    def widen(self, forward: list[float], gradient: list[float], seconds: float) -> None:
        self.forward = (min(self.forward[0], *forward), max(self.forward[1], *forward))
        energies = [g for g in gradient if g > 0]
        middle = math.sqrt(min(energies) * max(energies)) if energies else math.nan
        low, high = (min(energies) / middle, max(energies) / middle) if energies else (0.0, math.inf)
        self.gradient = (min(self.gradient[0], low), max(self.gradient[1], high))
        self.seconds = max(self.seconds, seconds)

    @property
    def healthy(self) -> bool:
        return all(low >= 1 / BAND and high <= BAND for low, high in (self.forward, self.gradient))

    def __str__(self) -> str:
        mark = " " if self.healthy else "*"
        return f"{_number(*self.forward):>17} {_number(*self.gradient):>17} {mark} {self.seconds:5.2f}s"


def _number(low: float, high: float) -> str:
    return f"{low:.2g}..{high:.2g}"


def initialise(model: nn.Module, x: torch.Tensor, method: str) -> float:
    started = time.perf_counter()
    if method == "LSUV":
        lsuv_(model, x)
    elif method == "suggested":
        apply(model, "suggested", x)
    return time.perf_counter() - started if method != "as it is" else 0.0


def measured(model: nn.Module, x: torch.Tensor) -> tuple[list[float], list[float]]:
    structure = analyse(trace(model, (x,), {}))
    outputs = {use.node.meta["module"] for use in structure.uses if use.feeds == "output"}
    last = {branch.last.rpartition(".")[0] for branch in structure.branches}
    rows = [row for row in measure_pass(model, (x,), {}).rows if row.name not in outputs]
    forward = [row.forward_std for row in rows if row.name not in last]
    return forward, [row.grad_std * math.sqrt(math.prod(row.output_shape[1:])) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"worst of {options.seeds} seeds; forward std, gradient against the middle of its range; * outside [1/3, 3]\n"
    )
    print(f"{'':34}" + "".join(f"{method:^45}" for method in METHODS))
    healthy = dict.fromkeys(METHODS, 0)
    nets = {name: net for name, net in UNHEALTHY.items() if options.only in name}
    for name, (make, shape) in nets.items():
        found = {method: Ranges() for method in METHODS}
        for seed in range(options.seeds):
            for method in METHODS:
                torch.manual_seed(seed)
                model, x = make(), torch.randn(shape)
                seconds = initialise(model, x, method)
                found[method].widen(*measured(model, x), seconds)
        for method in METHODS:
            healthy[method] += found[method].healthy
        print(f"{name:34}" + "  ".join(str(found[method]) for method in METHODS), flush=True)
    print("\nhealthy: " + ", ".join(f"{method} {count} of {len(nets)}" for method, count in healthy.items()))


if __name__ == "__main__":
    main()
