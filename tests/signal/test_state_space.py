"""Selective state spaces (Gu & Dao 2023, section 3): decays exp(delta A) and sums that run along the sequence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from graphs import BATCH, Graph
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace

WIDTH, STATES, LENGTH = 128, 16, 12


class Selective(nn.Module):
    """h' = exp(delta A) h + delta B x, y = C h + x."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 8 + 2 * STATES, bias=False)
        self.step = nn.Linear(8, WIDTH)
        self.log_a = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(WIDTH, 1))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        delta = torch.exp(torch.rand(WIDTH) * math.log(100.0) + math.log(0.001))
        with torch.no_grad():
            self.step.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(x)
        low, b, c = self.project(x).split([8, STATES, STATES], -1)
        delta = F.softplus(self.step(low))
        decay = torch.exp(delta[..., None] * -torch.exp(self.log_a))
        drive = delta[..., None] * b[:, :, None, :] * x[..., None]
        h = torch.zeros(len(x), WIDTH, STATES)
        ys = []
        for t in range(LENGTH):
            h = decay[:, t] * h + drive[:, t]
            ys.append((h @ c[:, t, :, None])[..., 0])
        return self.out(torch.stack(ys, 1) + x)


def test_selective_scan_beside_real_passes() -> None:
    torch.manual_seed(0)
    signal = propagate(trace(Selective(), (torch.randn(8, LENGTH, WIDTH),), {}), strict=True)
    assert signal.unknown_ops == {}
    forward, gradient = 0.0, 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        model = Selective()
        seen: list[torch.Tensor] = []
        model.project.register_forward_hook(lambda _m, _i, y, seen=seen: seen.append(y))
        y = model(torch.randn(8, LENGTH, WIDTH))
        seen[0].retain_grad()
        y.backward(torch.randn_like(y))
        assert seen[0].grad is not None
        forward += float(y.detach().var()) / 4
        gradient += float(seen[0].grad.square().mean()) / 4
    rows = {row.name: row for row in signal.layers}
    assert rows["out"].forward_std == pytest.approx(math.sqrt(forward), rel=0.1)
    assert rows["project"].grad_std is not None
    # a large step goes with a fast decay: counted as independent, they overrate this gradient, less than twofold
    assert 0.8 < rows["project"].grad_std / math.sqrt(gradient) < 2.0


def test_decay_of_a_wide_rate_stays_below_one() -> None:
    g = Graph()
    rate = g.call("softplus", F.softplus, g.dense(g.input(BATCH, 8, 64), 64, 2.0))
    weight = g.call("exp", torch.exp, g.dense(g.input(BATCH, 8, 64, name="z"), 64, 1.0))
    y = g.call("exp", torch.exp, g.call("neg", torch.neg, g.call("mul", torch.mul, rate, weight)))
    found = propagate(g.done(y), strict=True).forward[y]
    z, w = 2 * torch.randn(10**6), torch.randn(10**6)
    real = torch.exp(-F.softplus(z) * w.exp())
    assert 0 < found.mean < 1
    assert found.mean == pytest.approx(float(real.mean()), abs=0.05)
    assert found.mean**2 + found.variance < found.mean


def test_exp_that_its_tails_decide_is_unknown() -> None:
    g = Graph()
    wide = g.dense(g.input(BATCH, 8, 64), 64, 4.0)
    y = g.call("exp", torch.exp, wide)
    signal = propagate(g.done(y))
    assert signal.unknown_ops == {"exp": 1}
    assert y not in signal.forward


def test_sums_side_by_side_share_nothing() -> None:
    g = Graph()
    x = g.input(BATCH, 3, 12, 12)
    y = g.call("cumsum", torch.cumsum, x, -1)
    z = g.call("mean", torch.mean, y, (2, 3))
    found = propagate(g.done(z), strict=True).forward[z]
    real = torch.randn(4000, 12, 12).cumsum(-1).mean((1, 2)).var()
    assert found.variance == pytest.approx(float(real), rel=0.1)
