"""IC001: a file that cannot be read as Python 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location
from initcheck.rules.base import finding

if TYPE_CHECKING:
    from initcheck.source.decoding import SourceError

CODE = "IC001"


def unparsable(path: str, error: SourceError) -> Finding:
    """The finding for a file that the source room could not parse."""
    return finding(CODE, f"cannot be analysed: {error.message}", Location(path, error.line, error.column))
