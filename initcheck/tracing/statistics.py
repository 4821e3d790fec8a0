"""What real weights look like: mean, std, equal rows, measured without copying them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from initcheck.tracing.trace import Distribution

_CHUNK = 1 << 24
UNKNOWN = Distribution("unknown", math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Measured:
    """A tensor's distribution and structure. Rows: the slices along dim 0 (units of a linear or conv weight)."""

    distribution: Distribution
    equal_rows: bool = False
    equal_columns: bool = False


@torch.no_grad()
def measured(tensor: torch.Tensor) -> Measured:
    """Statistics of real values; kind ``constant`` where all are equal; unknown on the meta device or for no elements.

    Complex values count by their real and imaginary parts: std is that of one element's modulus, sqrt(E|w − mean|²).
    """
    tensor = tensor.detach()
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return Measured(UNKNOWN)
    if tensor.is_sparse or tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if not tensor.is_floating_point() and not tensor.is_complex():
        tensor = tensor.to(torch.float32)
    mean, variance, low, high = _moments(tensor)
    if low is not None and low == high:
        return Measured(Distribution("constant", mean, 0.0, low, high), tensor.dim() > 1, tensor.dim() > 1)
    rows, columns = _repeats(tensor)
    return Measured(Distribution("measured", mean, math.sqrt(max(variance, 0.0)), low, high), rows, columns)


def _moments(tensor: torch.Tensor) -> tuple[float, float, float | None, float | None]:
    flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor.flatten()
    if flat.is_complex():
        mean = complex(flat.mean().item())
        return abs(mean), float((flat - mean).abs().square().mean().item()), None, None
    count, total, squares = 0, 0.0, 0.0
    low, high = math.inf, -math.inf
    for chunk in flat.split(_CHUNK):
        wide = chunk.to(torch.float32) if chunk.dtype != torch.float64 else chunk
        variance, mean = (float(v) for v in torch.var_mean(wide, correction=0))
        smallest, largest = (float(v) for v in torch.aminmax(wide))
        size = chunk.numel()
        shift = mean - total / count if count else 0.0
        squares += variance * size + (shift * shift * count * size / (count + size) if count else 0.0)
        total += mean * size
        count += size
        low, high = min(low, smallest), max(high, largest)
        if math.isnan(mean):
            low, high = math.nan, math.nan
    return total / count, squares / count, low, high


def _repeats(tensor: torch.Tensor) -> tuple[bool, bool]:
    """(all rows equal, all columns equal), where there is more than one."""
    if tensor.dim() < 2:
        return False, False
    matrix = tensor.flatten(1)
    rows = matrix.shape[0] > 1 and _all_like_first(matrix)
    columns = matrix.shape[1] > 1 and _all_like_first(matrix.t())
    return rows, columns


def _all_like_first(matrix: torch.Tensor) -> bool:
    return bool(torch.equal(matrix[0], matrix[1])) and bool((matrix == matrix[:1]).all())
