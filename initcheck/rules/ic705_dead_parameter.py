"""IC705: a parameter whose gradient is exactly zero, now and after the first step, whatever the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.symmetry import symmetry_of
from initcheck.rules.writes import class_location, counted, layer_location, listed

if TYPE_CHECKING:
    from initcheck.tracing.trace import ParameterRecord

CODE = "IC705"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for the cut: parameters that only a zero constant, or a dead unit, connects with the output."""
    symmetry = symmetry_of(context)
    if symmetry.layers or symmetry.products:
        return  # IC701, IC702 and IC704 name the cause
    groups: dict[Location, list[ParameterRecord]] = defaultdict(list)
    for record in symmetry.dead:
        where = layer_location(record, context)
        groups[where].append(record)
    for where, records in groups.items():
        names = [record.name for record in records]
        yield finding(
            CODE,
            f"no gradient ever reaches {listed(names)}: what {'they feed' if len(names) > 1 else 'it feeds'} is "
            "multiplied "
            "by a constant zero on its way to the output",
            where if where.line else class_location(context),
            model=context.trace.model,
            parameter=names[0],
            evidence=(f"dL/dw = 0 for every input, and nothing on the way moves: {counted(len(names), 'parameter')}",),
            suggestion="make the zero factor a parameter (it then learns), or draw it at random",
            parameters=len(names),
        )
