"""IC203: the signal grows from layer to layer until it is useless, or overflows."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.scale import direction_finding

CODE = "IC203"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that is to blame."""
    yield from direction_finding(context, CODE, "exploding", backward=False)
