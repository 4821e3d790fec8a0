"""Group norms of few channels, and of concatenations: against measurement."""

from __future__ import annotations

import pytest
import torch
from passes import beside_passes
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace


class Joined(nn.Module):
    """Two streams of unlike scale, side by side in front of a group norm whose groups hold one of them each."""

    def __init__(self, groups: int, copied: bool) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(8, 48, 3, padding=1), nn.Conv2d(8, 48, 3, padding=1)
        for conv, std in ((self.small, 0.02), (self.large, 0.2)):
            nn.init.normal_(conv.weight, std=std)
            nn.init.zeros_(conv.bias)
        self.norm, self.last, self.copied = nn.GroupNorm(groups, 96), nn.Conv2d(96, 16, 3, padding=1), copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat((self.small(x), self.large(x)), 1)
        if self.copied:
            joined = joined.contiguous()
        out: torch.Tensor = self.last(nn.functional.silu(self.norm(joined)))
        return out


class Shifted(nn.Module):
    """What all positions of a channel share (an embedding of the time, a bias) in front of groups of few channels."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv, self.time = nn.Conv2d(8, 32, 3, padding=1), nn.Linear(16, 32)
        nn.init.normal_(self.time.weight, std=0.1)
        self.norm, self.last = nn.GroupNorm(groups, 32), nn.Conv2d(32, 64, 3, padding=1)
        self.pooled, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = self.norm(self.conv(x) + self.time(time)[:, :, None, None])
        return self.last(normed), self.head(self.pooled(normed))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("groups", [32, 8, 2])
def test_each_part_of_a_concatenation_is_divided_by_the_std_of_its_own_groups(groups: int, copied: bool) -> None:
    rows = beside_passes(lambda: Joined(groups, copied), [(8, 8, 12, 12)])
    assert [row.predicted for row in rows] == [pytest.approx(row.measured, rel=0.1, abs=1e-6) for row in rows]


@pytest.mark.parametrize("groups", [2, 8, 16])
def test_what_positions_share_goes_into_the_mean_and_the_std_of_few_channels(groups: int) -> None:
    rows = beside_passes(lambda: Shifted(groups), [(8, 8, 12, 12), (8, 16)])
    assert [row.predicted for row in rows] == [pytest.approx(row.measured, rel=0.1, abs=1e-6) for row in rows]


class WithTinyTokens(nn.Module):
    """Tokens of next to no size in front of others, all normalised one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(1e-6 * torch.randn(1, 4, 64))
        self.project, self.norm, self.last = nn.Linear(64, 64, bias=False), nn.LayerNorm(64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.tokens.expand(len(x), -1, -1), self.project(x)], 1)
        self.joined = joined
        return self.last(self.norm(joined))


def test_tokens_of_next_to_no_size_are_divided_by_the_root_of_eps() -> None:
    """Not by their own std: 1/sqrt(1e-5), not 1e6."""
    torch.manual_seed(0)
    net, x = WithTinyTokens(), torch.randn(16, 60, 64)
    signal = propagate(trace(net, (x,), {}))
    joined = next(n for n in signal.forward if n.meta.get("op") in ("cat", "concatenate"))
    out = net(x)
    net.joined.retain_grad()
    cotangent = torch.randn_like(out)
    out.backward(cotangent / cotangent.square().mean().sqrt())
    assert net.joined.grad is not None
    real = float(net.joined.grad.square().mean())
    assert signal.backward[joined].same == pytest.approx(real, rel=0.2)
