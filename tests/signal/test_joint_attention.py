"""Attention over the tokens of two streams, as in diffusion transformers: queries get their own stream's gradient."""

from __future__ import annotations

import pytest
import torch
from passes import beside_passes
from torch import nn


class Joint(nn.Module):
    """Text before image; what comes after the text's part of the result is small."""

    def __init__(self, width: int, rotated: bool) -> None:
        super().__init__()
        self.text = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.image = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.text_out, self.image_out = nn.Linear(width, width), nn.Linear(width, width)
        self.rotated = rotated

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if not self.rotated:
            return x
        places = torch.arange(x.shape[1]) / x.shape[1]
        first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        other = torch.stack((-second, first), -1).flatten(3)
        return x * places.cos()[None, :, None, None] + other * places.sin()[None, :, None, None]

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.text, self.image, strict=True)
        q, k, v = (torch.cat((a(text), b(image)), 1).unflatten(-1, (4, -1)) for a, b in pairs)
        q, k = self.turned(q), self.turned(k)
        mixed = nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        first, second = mixed.transpose(1, 2).flatten(2).split_with_sizes([text.shape[1], image.shape[1]], 1)
        return torch.cat((0.05 * self.text_out(first), self.image_out(second)), 1)


@pytest.mark.parametrize("rotated", [False, True])
def test_queries_of_each_stream_get_the_gradient_of_their_own_positions(rotated: bool) -> None:
    rows = beside_passes(lambda: Joint(128, rotated), [(4, 24, 128), (4, 40, 128)], seeds=4)
    assert [row.predicted for row in rows] == [pytest.approx(row.measured, rel=0.12, abs=1e-6) for row in rows]
