"""Slopes of functions that change within one cell of the grid: sigmoid and tanh of a std of thousands.

The slope at the grid's points says nothing of such a cell. What counts behind it is E[f'²] (chi of Schoenholz et al.
2017, eq. 4), so that the points at its borders get the root mean square of the slope inside. Where that is the work of
elements so rare that a tensor of that size has few or none, the mean says nothing either of what comes back. The
median is meant: where the slope is steepest, on a set of probability ln 2 / n, a tensor of n elements has none every
other time (Poisson: exp(-n p) = 1/2); its steepest element stands at the edge of that set, and the others beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
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
        elements: how many elements the tensor has.
    """
    if x.dim() != 1 or x.shape != y.shape or len(x) < 3:
        return slope
    missed = _steep(x, y, slope)
    if not 0 < int(np.count_nonzero(missed)) <= _MOST:
        return slope
    steep = torch.from_numpy(missed)
    for _ in range(_AROUND):
        steep = steep | torch.cat([steep[1:], steep[:1]]) | torch.cat([steep[-1:], steep[:-1]])
    inside = (weights[1:] + weights[:-1]) / 2
    cells = steep.nonzero().flatten().tolist()
    parts = [_squares(function, float(x[cell]), float(x[cell + 1]), _DEPTH) for cell in cells]
    squares = [square for square, _ in parts]
    masses = [float(inside[cell]) * share for cell, (_, share) in zip(cells, parts, strict=True)]
    energy = _by_cell(slope)
    for cell, square, mass in zip(cells, squares, _present(squares, masses, elements), strict=True):
        energy[cell] = (square * mass).sum() / inside[cell].clamp(min=1e-300)
    padded = torch.cat([energy[:1], energy, energy[-1:]])
    beside = torch.cat([steep[:1], steep]) | torch.cat([steep, steep[-1:]])
    rise = torch.cat([y[:1], y[1:]]) - torch.cat([y[:1], y[:-1]]) + torch.cat([y[1:] - y[:-1], y[:1] * 0])
    rms = ((padded[1:] + padded[:-1]) / 2).sqrt() * rise.sign() * _direction(x)
    return torch.where(beside, rms, slope)


def _present(squares: Sequence[Tensor], masses: Sequence[Tensor], elements: int) -> Sequence[Tensor]:
    """The parts of the median tensor's elements in place of the probabilities."""
    square, mass = torch.cat([*squares]), torch.cat([*masses])
    order = square.argsort(descending=True)
    upto = mass[order].cumsum(0)
    ranked = torch.minimum(mass[order], (upto - math.log(2.0) / elements).clamp(min=0.0))
    edge = int((ranked > 0).double().argmax())
    ranked[edge] += 1.0 / elements if ranked[edge] > 0 else 0.0
    kept = torch.empty_like(mass)
    kept[order] = ranked
    return torch.split(kept, [len(m) for m in masses])


def _by_cell(slope: Tensor) -> Tensor:
    """The mean of f'² over each cell, from its two ends."""
    return (slope[1:] ** 2 + slope[:-1] ** 2) / 2


def _direction(x: Tensor) -> int:
    return 1 if x[-1] >= x[0] else -1


def _steep(x: Tensor, y: Tensor, slope: Tensor) -> NDArray[np.bool_]:
    """The cells between neighbouring points whose rise the slopes at their ends do not give."""
    at, reached, rising = x.detach().numpy(), y.detach().numpy(), slope.detach().numpy()
    with np.errstate(all="ignore"):
        said = (at[1:] - at[:-1]) * (rising[1:] + rising[:-1]) * 0.5
        missed = np.abs(reached[1:] - reached[:-1] - said)
        return np.asarray(missed > _MISSED * (reached.max() - reached.min()))


def _squares(function: Callable[[Tensor], Tensor], low: float, high: float, depth: int) -> tuple[Tensor, Tensor]:
    """The f'² of parts of what lies between two points, and each part's share of it."""
    x = torch.linspace(low, high, _PARTS + 1, dtype=torch.float64).requires_grad_(True)
    y = function(x)
    slope = torch.nan_to_num(torch.autograd.grad(y.sum(), x)[0])
    x, y = x.detach(), y.detach()
    squares, shares = [_by_cell(slope)], [torch.full((_PARTS,), 1.0 / _PARTS, dtype=torch.float64)]
    steep = torch.from_numpy(_steep(x, y, slope))
    if depth and int(steep.sum()) <= _MOST:
        for part in steep.nonzero().flatten().tolist():
            inner, share = _squares(function, float(x[part]), float(x[part + 1]), depth - 1)
            squares.append(inner)
            shares.append(share / _PARTS)
        shares[0] = shares[0] * ~steep
    return torch.cat(squares), torch.cat(shares)
