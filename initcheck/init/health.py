"""Whether a propagated signal is healthy, layer by layer, and how far from healthy it is.

Forward: the std of a layer's output lies within a factor ``BAND`` of 1, and some of it depends on the input. Backward:
the root of the gradient's *energy* (its second moment summed over the elements of a sample) lies within ``BAND`` of the
middle of its range over the layers. Energy, not the std per element: it is what weights of variance gain²/fan_in
keep: a layer with twice the units, or a map with four times the positions, spreads the same one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from initcheck.init.structure import RECURRENT_OPS, Structure, WeightUse
from initcheck.results import LayerRow

BAND = 3.0
"""Healthy within [1/3, 3]: what a solution has to reach."""
TOLERATED = 10.0
"""What a model may have before it is touched at all: shallow nets learn well with a layer or two outside ``BAND``."""
LEAST_INFORMATION = 0.01
"""The least std of the part of a layer's output that depends on the input."""
DROWNED = 1e-3
"""Likewise as a part of the output's scale, where a norm layer sets that scale."""
PROTECTED_BAND = (1e-4, 100.0)
"""Forward band of a layer in a short run between normalisations or the model's ends; gradients are not judged there."""


@dataclass(frozen=True, slots=True)
class LayerHealth:
    """One judged layer. ``forward``/``gradient``: log of the factor off the healthy value (0: as it should be).

    ``low_is_fine``: a small output harms nothing (the model's output, the last layer of a residual branch).
    ``uninformed``: hardly anything of the output depends on the input.
    """

    row: LayerRow
    use: WeightUse
    forward: float
    gradient: float | None
    low_is_fine: bool
    protected: bool
    uninformed: bool

    def excess(self, band: float) -> float:
        """Log of the factor by which the layer is outside the band; 0 or less: inside."""
        forward = max(self.forward, 0.0) if self.low_is_fine else abs(self.forward)
        if self.use.feeds == "output":
            return forward - math.log(max(band, TOLERATED))
        if self.protected:
            low, high = PROTECTED_BAND
            return max(self.forward - math.log(high), math.log(low) - self.forward if not self.low_is_fine else -1e3)
        return max(forward, abs(self.gradient or 0.0)) - math.log(band)

    def outside(self, band: float) -> tuple[str, ...]:
        """``forward`` and ``gradient``, as far as the layer's scale is outside the band in that direction."""
        found = []
        if replace(self, gradient=None).excess(band) > 0.0:
            found.append("forward")
        if not self.protected and self.use.feeds != "output" and abs(self.gradient or 0.0) > math.log(band):
            found.append("gradient")
        return tuple(found)


def judge(structure: Structure, layers: Sequence[LayerRow], protected: frozenset[str]) -> list[LayerHealth]:
    """The layers of a table, predicted or measured, that multiply a signal by a weight and whose scale is known."""
    by_module = {
        str(use.node.meta.get("module", "")): use
        for use in structure.uses
        if use.on_signal and use.op not in RECURRENT_OPS
    }
    last_of_branch = {branch.last for branch in structure.branches}
    rows = [(row, by_module[row.name]) for row in layers if row.name in by_module]
    energies = {row.name: energy(row) for row, _ in rows}
    judged = {row.name for row, use in rows if use.feeds != "output" and use.parameter not in protected}
    hidden = [energies[name] for name in judged]
    logs = [math.log(e) for e in hidden if e is not None and 0.0 < e < math.inf]
    middle = 0.5 * (max(logs) + min(logs)) if logs else 0.0
    found = []
    for row, use in rows:
        if row.forward_std is None:
            continue
        scale = max(row.forward_std, 1e-300)
        low_is_fine = use.feeds == "output" or use.parameter in last_of_branch
        reached = energies[row.name]
        gradient = None
        if reached is not None and reached > 0.0 and row.name in judged:
            gradient = 0.5 * ((math.log(reached) if reached < math.inf else 1e3) - middle)
        found.append(
            LayerHealth(
                row=row,
                use=use,
                forward=math.log(scale) if scale < math.inf else 1e3,
                gradient=gradient,
                low_is_fine=low_is_fine,
                protected=use.parameter in protected,
                uninformed=not low_is_fine and _is_uninformed(row, use.parameter in protected),
            )
        )
    return found


def _is_uninformed(row: LayerRow, protected: bool) -> bool:
    if row.sample_std is None:
        return False
    if protected:  # zero weights say nothing of what reaches them
        total = math.hypot(row.forward_std or 0.0, row.forward_mean or 0.0)
        return row.sample_std < DROWNED * total
    return row.sample_std < LEAST_INFORMATION


def needs_repair(layers: list[LayerHealth]) -> bool:
    """Whether a layer is further off than what shallow nets cope with, or the input is lost on the way."""
    return worst(layers, TOLERATED) > 0.0 or any(layer.uninformed for layer in layers)


def energy(row: LayerRow) -> float | None:
    """E[g²] summed over the elements of one sample."""
    if row.grad_std is None or not row.output_shape:
        return None
    return row.grad_std**2 * math.prod(row.output_shape[1:])


def worst(layers: list[LayerHealth], band: float = BAND) -> float:
    """The largest excess; minus infinity for a model without judged layers."""
    return max((layer.excess(band) for layer in layers), default=-math.inf)
