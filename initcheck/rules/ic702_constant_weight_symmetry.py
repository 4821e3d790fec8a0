"""IC702: a hidden layer whose units all start with the same non-zero weights, and so stay copies of one another."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.equal_units import equal_unit_findings

CODE = "IC702"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each place that writes the constant."""
    yield from equal_unit_findings(context, CODE, zero=False)
