"""IC202: the part of the signal that depends on the input shrinks from layer to layer until nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.scale import direction_finding

CODE = "IC202"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that is to blame."""
    yield from direction_finding(context, CODE, "vanishing", backward=False)
