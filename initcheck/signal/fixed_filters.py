"""Convolutions whose weights are no parameters: one known filter for every channel, as in blurred down-sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from initcheck.signal.kernel import Array
from initcheck.signal.smoothing import Smoother
from initcheck.signal.value import Value

if TYPE_CHECKING:
    from initcheck.signal.ops.linear import Window

_EXACT = 1e-6


def fixed_filter(weight: Value, windows: Sequence[Window]) -> tuple[Smoother, ...] | None:
    """The map of each axis, where every channel is convolved by itself with the same separable, known filter.

    Nothing is random there, so that neighbours that were alike stay alike (Zhang 2019, "Making convolutional networks
    shift-invariant again", low-passes before it takes every second position). None for any other weights.
    """
    if weight.constant is None or weight.constant.dim() != len(windows) + 2 or weight.constant.shape[1] != 1:
        return None
    filters = weight.constant.detach().double().numpy()[:, 0]
    if float(np.abs(filters - filters[:1]).max()) > _EXACT * float(np.abs(filters).max()):
        return None
    factors = _factors(filters[0])
    if factors is None:
        return None
    return tuple(_along(window, factor) for window, factor in zip(windows, factors, strict=True))


def _factors(kernel: Array) -> list[Array] | None:
    """The vectors of which a kernel is the outer product: along each axis the line through its largest element."""
    peak = float(kernel.ravel()[int(np.abs(kernel).argmax())])
    if peak == 0.0:
        return None
    factors = []
    product = np.full((1,) * kernel.ndim, peak)
    for axis in range(kernel.ndim):
        lines = np.moveaxis(kernel, axis, -1).reshape(-1, kernel.shape[axis])
        line = lines[int(np.abs(lines).max(1).argmax())]
        line = line / line[int(np.abs(line).argmax())]
        factors.append(line)
        product = product * line.reshape([-1 if a == axis else 1 for a in range(kernel.ndim)])
    if float(np.abs(product - kernel).max()) > _EXACT * abs(peak):
        return None
    return [factors[0] * peak, *factors[1:]]


def _along(window: Window, factor: Array) -> Smoother:
    matrix = np.zeros((window.outputs, window.size))
    for weight, (outputs, inputs) in zip(factor, window.taps(), strict=True):
        np.add.at(matrix, (outputs, inputs), float(weight))
    return Smoother.of(matrix)
