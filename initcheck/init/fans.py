"""Effective fans: how many weighted terms an output sums (fan_in), and how many outputs an input feeds (fan_out).

``torch.nn.init`` reads fans off the weight's shape, which is wrong for transposed, strided, grouped and packed weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Mode = Literal["fan_in", "fan_out", "fan_avg", "geometric"]
MODES = ("fan_in", "fan_out", "fan_avg", "geometric")


@dataclass(frozen=True, slots=True)
class Fans:
    """Fans of one weight; floats, since a strided kernel reaches a fraction of its taps per output on average."""

    fan_in: float
    fan_out: float

    def by_mode(self, mode: str) -> float:
        """fan_in, fan_out, their mean (Glorot) or their geometric mean.

        Raises:
            ValueError: for another mode.
        """
        table = {
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "fan_avg": 0.5 * (self.fan_in + self.fan_out),
            "geometric": math.sqrt(self.fan_in * self.fan_out),
        }
        if mode not in table:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        return table[mode]


def effective_fans(
    shape: Sequence[int],
    *,
    transposed: bool = False,
    groups: int = 1,
    stride: int | Sequence[int] = 1,
    packed: int = 1,
) -> Fans:
    """Fans of a weight of that shape.

    - matrix (out, in): fan_in = in, fan_out = out / packed (packed = 3 for q, k, v stacked in one matrix);
      ``transposed``: (in, out), as in ``x @ W`` or the Conv1D of GPT-2.
    - convolution (out, in/g, k...): fan_in = in/g·Πk, fan_out = out/g·Πk / Πstride.
    - transposed convolution (in, out/g, k...): fan_in = in/g·Πk / Πstride, fan_out = out/g·Πk.

    Raises:
        ValueError: fewer than two dimensions, or groups/packed that do not divide the shape.
    """
    if len(shape) < 2:
        raise ValueError(f"fans need a weight with at least 2 dimensions, got shape {tuple(shape)}")
    taps = math.prod(shape[2:])
    strides = (stride,) * (len(shape) - 2) if isinstance(stride, int) else tuple(stride)
    if len(strides) != len(shape) - 2:
        raise ValueError(f"stride has {len(strides)} entries for a kernel with {len(shape) - 2} dimensions")
    step = math.prod(strides)
    if shape[0] % groups:
        raise ValueError(f"groups={groups} does not divide dimension 0 of {tuple(shape)}")
    packed_dim = 1 if transposed else 0
    if shape[packed_dim] % packed:
        raise ValueError(f"packed={packed} does not divide dimension {packed_dim} of {tuple(shape)}")
    if transposed:
        return Fans(shape[0] / groups * taps / step, shape[1] * taps / packed)
    return Fans(shape[1] * taps, shape[0] / groups / packed * taps / step)


def fans_of(module: nn.Module, weight: Tensor | None = None) -> Fans:
    """Effective fans of a module's weight, from its type, groups and stride.

    Raises:
        ValueError: if the module has no weight with at least two dimensions.
    """
    held = weight if weight is not None else getattr(module, "weight", None)
    if not isinstance(held, Tensor):
        raise ValueError(f"{type(module).__name__} has no weight")
    transposed = isinstance(module, _TRANSPOSED) or type(module).__name__ == "Conv1D"
    groups, stride = getattr(module, "groups", 1), getattr(module, "stride", 1)
    if held.dim() == 2:
        groups, stride = 1, 1
    return effective_fans(
        held.shape,
        transposed=transposed,
        groups=groups if isinstance(groups, int) else 1,
        stride=stride if isinstance(stride, (int, tuple)) else 1,
    )


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
