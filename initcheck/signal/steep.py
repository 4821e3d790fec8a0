"""Slopes of functions that change within one cell of the grid: sigmoid and tanh of a std of thousands.

The slope at the grid's points says nothing of such a cell. What counts behind it is E[f'²] (chi of Schoenholz et al.
2017, eq. 4), so that the points at its borders get the root mean square of the slope inside. Where even that is the
work of elements so rare that a tensor of that size has none, no gradient comes back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MISSED = 0.003
"""Part of the function's range by which a cell's rise may differ from what its slopes say."""

_MOST = 8
"""Functions with more such cells jump all over: their slopes stay as they are."""

_AROUND = 4
"""Cells on either side that are resolved, too: the rule of the grid is exact over all of a slope or over none of it."""

_PARTS = 1024
_DEPTH = 4
"""A cell is halved ten times, and the part of it where the function rises again: 2^-40 of the cell is resolved."""


def resolved(
    function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, slope: Tensor, weights: Tensor, elements: int
) -> Tensor:
    """``slope`` of ``y = function(x)`` at the points of a grid, with the points around steep cells as said above.

    Args:
        weights: probabilities of the points.
        elements: how many elements the tensor has; of these, n p with p = E[f'²]² / E[f'⁴] pass the gradient.
    """
    if x.dim() != 1 or x.shape != y.shape or len(x) < 3:
        return slope
    steep = _steep(x, y, slope)
    if not steep.any() or int(steep.sum()) > _MOST:
        return slope
    for _ in range(_AROUND):
        steep = steep | torch.cat([steep[1:], steep[:1]]) | torch.cat([steep[-1:], steep[:-1]])
    energy, fourth = _by_cell(slope)
    for cell in steep.nonzero().flatten().tolist():
        energy[cell], fourth[cell] = _mean_powers(function, float(x[cell]), float(x[cell + 1]), _DEPTH)
    inside = (weights[1:] + weights[:-1]) / 2
    square = float((inside * energy).sum())
    few = elements * square**2 < float((inside * fourth).sum())
    padded = torch.cat([energy[:1], energy, energy[-1:]])
    beside = torch.cat([steep[:1], steep]) | torch.cat([steep, steep[-1:]])
    rise = torch.cat([y[:1], y[1:]]) - torch.cat([y[:1], y[:-1]]) + torch.cat([y[1:] - y[:-1], y[:1] * 0])
    rms = ((padded[1:] + padded[:-1]) / 2).sqrt() * rise.sign() * _direction(x)
    return torch.where(beside, torch.zeros_like(rms) if few else rms, slope)


def _by_cell(slope: Tensor) -> tuple[Tensor, Tensor]:
    """The means of f'² and f'⁴ over each cell, from its two ends."""
    return (slope[1:] ** 2 + slope[:-1] ** 2) / 2, (slope[1:] ** 4 + slope[:-1] ** 4) / 2


def _direction(x: Tensor) -> int:
    return 1 if x[-1] >= x[0] else -1


def _steep(x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
    """The cells between neighbouring points whose rise the slopes at their ends do not give."""
    said = (x[1:] - x[:-1]) * (slope[1:] + slope[:-1]) / 2
    missed = (y[1:] - y[:-1] - said).abs()
    return missed > _MISSED * (y.max() - y.min())


def _mean_powers(function: Callable[[Tensor], Tensor], low: float, high: float, depth: int) -> tuple[float, float]:
    """The means of f'² and f'⁴ between two points."""
    x = torch.linspace(low, high, _PARTS + 1, dtype=torch.float64).requires_grad_(True)
    y = function(x)
    slope = torch.nan_to_num(torch.autograd.grad(y.sum(), x)[0])
    x, y = x.detach(), y.detach()
    energy, fourth = _by_cell(slope)
    steep = _steep(x, y, slope)
    if depth and int(steep.sum()) <= _MOST:
        for cell in steep.nonzero().flatten().tolist():
            energy[cell], fourth[cell] = _mean_powers(function, float(x[cell]), float(x[cell + 1]), depth - 1)
    return float(energy.mean()), float(fourth.mean())
