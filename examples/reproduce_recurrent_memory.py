"""Le, Jaitly and Hinton 2015; Jozefowicz et al. 2015: what the init makes a recurrent net remember.

A sequence begins with +1 or -1 and goes on with noise; the sign is asked for at the end. How much of the first step is
left in the last state (the norm of the gradient of the last state with respect to the first input, against that with
respect to the last input), and the share of right answers after a short training. Literature: the identity recurrence
(IRNN) carries a signal over hundreds of steps, where torch's default forgets it within a few; an LSTM with a forget bias
of 1 remembers much longer than one with 0.

    python examples/reproduce_recurrent_memory.py [--quick]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import initcheck.init

HIDDEN, BATCH = 32, 64


class Net(nn.Module):
    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(HIDDEN, 1)

    def states(self, x: torch.Tensor) -> torch.Tensor:
        return self.core(x)[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.states(x)[:, -1])[:, 0]


def batch(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = 0.1 * torch.randn(BATCH, length, 1)
    answer = torch.randint(0, 2, (BATCH,)).float()
    x[:, 0, 0] = 2 * answer - 1
    return x, answer


def left(model: Net, length: int) -> float:
    x = batch(length)[0].requires_grad_(True)
    last = model.states(x)[:, -1]
    (gradient,) = torch.autograd.grad(last, x, torch.randn_like(last))
    return float(gradient[:, 0].norm() / gradient[:, -1].norm())


def accuracy(model: Net, length: int, steps: int) -> float:
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x, answer = batch(length)
        loss = F.binary_cross_entropy_with_logits(model(x), answer)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        x, answer = batch(length)
        return float(((model(x) > 0) == (answer > 0.5)).float().mean())


def forget(value: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        core = nn.LSTM(1, HIDDEN, batch_first=True)
        initcheck.init.forget_gate_bias_(core, value)
        return core

    return make


def irnn() -> nn.Module:
    core = nn.RNN(1, HIDDEN, nonlinearity="relu", batch_first=True)
    initcheck.init.irnn_(core)
    with torch.no_grad():
        core.weight_ih_l0.mul_(100)  # the task's one input is small
    return core


def main(argv: list[str]) -> None:
    quick = "--quick" in argv
    length, steps = (20, 5) if quick else (60, 120)
    torch.set_num_threads(1)
    rows: list[tuple[str, Callable[[], nn.Module], str]] = [
        ("RNN, torch's default", lambda: nn.RNN(1, HIDDEN, nonlinearity="relu", batch_first=True), "forgets"),
        ("IRNN", irnn, "remembers"),
        ("LSTM, forget bias 0", forget(0.0), "forgets"),
        ("LSTM, forget bias 1", forget(1.0), "remembers longer"),
        ("LSTM, forget bias 3", forget(3.0), "remembers"),
    ]
    heads = f"{f'left after {length} steps':>20} {f'right after {steps} updates':>26}"
    print(f"{'':22} {heads}  expected")
    for label, make, expected in rows:
        torch.manual_seed(0)
        model = Net(make())
        print(f"{label:22} {left(model, length):20.2g} {accuracy(model, length, steps):26.0%}  {expected}")


if __name__ == "__main__":
    main(sys.argv[1:])
