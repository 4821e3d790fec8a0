"""How many rows an index sends to each place of a scatter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.fx

from initcheck.signal.kernel import Array


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many rows arrive at a place: mean, mean square, and the share of each number."""

    mean: float
    square: float
    counts: Array
    shares: Array

    @classmethod
    def of(cls, index: torch.Tensor | None, rows: int, places: int) -> Degrees:
        """From one example of the index; Poisson for rows sent anywhere where there is none."""
        if index is not None and index.numel() and index.min() >= 0 and index.max() < places:
            degrees = torch.bincount(index.reshape(-1), minlength=places).double().numpy()
            counts, many = np.unique(degrees, return_counts=True)
            shares = many / many.sum()
        else:
            rate = rows / max(places, 1)
            counts = np.arange(0.0, rate + 10 * math.sqrt(rate) + 10)
            logs = counts * math.log(max(rate, 1e-12)) - rate - np.array([math.lgamma(c + 1) for c in counts])
            shares = np.exp(logs) / np.exp(logs).sum()
        return cls(float(shares @ counts), float(shares @ counts**2), counts, shares)


def example_of(node: torch.fx.Node) -> torch.Tensor | None:
    """One example of an index, through views and copies along features."""
    for _ in range(6):
        found = node.meta.get("value", node.meta.get("example"))
        if isinstance(found, torch.Tensor):
            return found if found.dim() == 1 else None
        if node.meta.get("op") not in ("expand", "expand_as", "view", "unsqueeze", "reshape", "broadcast_to"):
            return None
        node = node.all_input_nodes[0]
    return None
