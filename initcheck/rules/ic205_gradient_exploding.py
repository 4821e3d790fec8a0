"""IC205: the gradient grows on its way back, so that no learning rate suits all layers."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.scale import direction_finding

CODE = "IC205"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that is to blame."""
    yield from direction_finding(context, CODE, "exploding", backward=True)
