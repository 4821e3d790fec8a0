"""IC204: the gradient shrinks on its way back until the first layers get none."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.scale import direction_finding

CODE = "IC204"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that is to blame."""
    yield from direction_finding(context, CODE, "vanishing", backward=True)
