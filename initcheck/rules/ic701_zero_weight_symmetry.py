"""IC701: a hidden layer whose weights are all zero, so that its units start equal and stay equal, or dead."""

from __future__ import annotations

from collections.abc import Iterator

from initcheck.findings import Finding
from initcheck.rules.base import ModelContext
from initcheck.rules.equal_units import equal_unit_findings

CODE = "IC701"


def check_model(context: ModelContext) -> Iterator[Finding]:
    """One finding for each place that writes the zeros."""
    yield from equal_unit_findings(context, CODE, zero=True)
