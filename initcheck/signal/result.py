"""What the signal room hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.fx

from initcheck.results import LayerRow


@dataclass(frozen=True, slots=True)
class Moments:
    """Nested variances of an activation x[sample, channel, position] (float64).

    mean: E[x]; v_c: variance between channels; v_s: between samples of one channel; v_p: between positions of one
    sample and channel. Var[x] = v_c + v_s + v_p; E[x²] = mean² + Var[x].
    """

    mean: float
    v_c: float
    v_s: float
    v_p: float

    @property
    def variance(self) -> float:
        """v_c + v_s + v_p."""
        return self.v_c + self.v_s + self.v_p

    @property
    def std(self) -> float:
        """Standard deviation over all elements."""
        return float(max(self.variance, 0.0) ** 0.5)

    @property
    def sample_std(self) -> float:
        """sqrt(v_s + v_p): the part that depends on the input."""
        return float(max(self.v_s + self.v_p, 0.0) ** 0.5)


@dataclass(frozen=True, slots=True)
class GradientKernel:
    """Second moments E[g g'] of the gradient over pairs: same element, other position, other sample."""

    same: float
    position: float
    sample: float

    @property
    def std(self) -> float:
        """sqrt(E[g²])."""
        return float(max(self.same, 0.0) ** 0.5)


@dataclass(slots=True)
class Signal:
    """The predicted scales. ``forward``/``backward`` lack the nodes whose scale is unknown."""

    forward: dict[torch.fx.Node, Moments]
    backward: dict[torch.fx.Node, GradientKernel]
    layers: list[LayerRow]
    coverage: float
    unknown_ops: Mapping[str, int] = field(default_factory=dict)
    layer_nodes: dict[str, torch.fx.Node] = field(default_factory=dict)
    """Layer name to the node whose output is the layer's output."""
    notes: list[str] = field(default_factory=list)
    """What inputs were taken for, where their own statistics were asked for."""
