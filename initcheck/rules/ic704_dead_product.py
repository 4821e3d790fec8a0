"""IC704: both factors of a product start at zero, so that neither ever gets a gradient (LoRA with A and B zero)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initcheck.findings import Finding, Location
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.symmetry import DeadProduct, symmetry_of
from initcheck.rules.writes import call_location, counted, final_write, layer_location

CODE = "IC704"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each place that zeroes the first factor."""
    groups: dict[Location, list[DeadProduct]] = defaultdict(list)
    for product in symmetry_of(context).products:
        write = final_write(product.first)
        where = call_location(write, context) if write is not None else layer_location(product.first, context)
        if product not in groups[where]:
            groups[where].append(product)
    for where, products in groups.items():
        first = products[0]
        also = f" ({counted(len(products), 'such product')})" if len(products) > 1 else ""
        yield finding(
            CODE,
            f"`{first.first.name}` and `{first.second.name}` are multiplied and both start at zero{also}: the gradient "
            "of each is a multiple of the other, so both stay zero",
            where,
            model=context.trace.model,
            parameter=first.first.name,
            evidence=(
                f"y = B A x: dL/dA = B^T (dL/dy) x^T = 0 because B ({first.second.name}) = 0",
                f"dL/dB = (dL/dy) (A x)^T = 0 because A ({first.first.name}) = 0",
            ),
            suggestion=f"start one of the two at random, e.g. nn.init.normal_({first.first.name}, std=0.02)",
            products=len(products),
        )
