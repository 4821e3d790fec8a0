"""IC205: the gradient grows on its way back, so that no learning rate suits all layers."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.scale import direction_finding
from initcheck.rules.small_before_norm import small_before_norm

CODE = "IC205"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each line that is to blame; then for weights that a norm layer's gradient is too large for."""
    yield from direction_finding(context, CODE, "exploding", backward=True)
    yield from small_before_norm(context, CODE)
