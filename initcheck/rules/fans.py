"""The common half of IC302 and IC303: Kaiming calls whose fan torch reads wrongly off the weight's shape."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initcheck.findings import Location
from initcheck.rules.writes import call_location, final_write

if TYPE_CHECKING:
    from initcheck.init.structure import WeightUse
    from initcheck.rules.base import ModelContext
    from initcheck.tracing.trace import Write

OFF = 1.2
"""Factor by which a layer's std must be off to count."""

FAR_OFF = 1.38
"""And one of them by so much (sqrt 2, with room for fans that are not quite powers of two)."""

SEVERAL = 3
"""Layers that must be off for a warning: one layer at the wrong scale delays nobody."""


_RESTORED = 3
"""Weights between two norm layers (separable convolutions, the blocks of Visformer) over which no drift gathers."""


@dataclass(frozen=True, slots=True)
class FanCase:
    """A weight, the Kaiming call that drew it, and the fan that the call read beside the one that it should have."""

    use: WeightUse
    write: Write
    read: float
    right: float

    @property
    def factor(self) -> float:
        """Written std over the std with the right fan."""
        return math.sqrt(self.right / self.read)

    @property
    def mode(self) -> str:
        """``fan_in`` or ``fan_out``."""
        return str(self.write.arguments.get("mode", "fan_in"))


@dataclass(frozen=True, slots=True)
class FanGroup:
    """The cases of one call. ``alone``: the call serves no other weights."""

    cases: tuple[FanCase, ...]
    alone: bool

    @property
    def worst(self) -> FanCase:
        """The case that is furthest off."""
        return max(self.cases, key=lambda c: abs(math.log(c.factor)))


def fan_groups(context: ModelContext, right_fan: Callable[[WeightUse, str], float | None]) -> dict[Location, FanGroup]:
    """Calls that are far off, by place; ``right_fan(use, mode)``: the true fan, None for weights not concerned.

    Weights that a norm layer is near to on both sides are left out: it restores their scale.
    """
    from initcheck.init.structure import between_norms
    from initcheck.rules.scale import structure_of

    structure = structure_of(context)
    restored = between_norms(context.trace.graph, structure.uses, _RESTORED)
    groups: dict[Location, list[FanCase]] = defaultdict(list)
    served: dict[Location, int] = defaultdict(int)
    for use in structure.by_parameter().values():
        write = final_write(use.record)
        if write is None or not write.function.startswith("kaiming_"):
            continue
        where = call_location(write, context)
        served[where] += 1
        mode = str(write.arguments.get("mode", "fan_in"))
        right = right_fan(use, mode) if use.parameter not in restored else None
        if right is None:
            continue
        shape = use.record.shape
        case = FanCase(use, write, shape[0 if mode == "fan_out" else 1] * math.prod(shape[2:]), right)
        if max(case.factor, 1 / case.factor) >= OFF:
            groups[where].append(case)
    return {
        where: FanGroup(tuple(cases), served[where] == len(cases))
        for where, cases in groups.items()
        if any(max(c.factor, 1 / c.factor) >= FAR_OFF for c in cases)
    }


def wrong_factors_of(groups: dict[Location, FanGroup]) -> dict[Location, float]:
    """Place to the factor of the worst case (see ``attribution``)."""
    return {where: group.worst.factor for where, group in groups.items()}


def he_gain(write: Write) -> float | None:
    """Square of the gain that a Kaiming call asks for; None for other activations than ReLU and leaky ReLU."""
    nonlinearity = write.arguments.get("nonlinearity", "leaky_relu")
    if nonlinearity == "relu":
        return 2.0
    if nonlinearity != "leaky_relu":
        return None
    return float(2.0 / (1.0 + float(write.arguments.get("a", 0.0)) ** 2))
