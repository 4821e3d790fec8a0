"""IC004: a ``# noqa: IC...`` comment that silences nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from initcheck.findings import Finding, Location
from initcheck.rules.base import finding

if TYPE_CHECKING:
    from initcheck.source.suppressions import UnusedSuppression

CODE = "IC004"


def unused_suppression(path: str, unused: UnusedSuppression) -> Finding:
    """The finding for codes of a comment that no finding of this run matches."""
    codes = ", ".join(unused.codes)
    return finding(
        CODE,
        f"unused suppression: nothing here is reported as {codes}",
        Location(path, unused.line, unused.column, unused.line, unused.end_column),
        suggestion=f"remove {codes} from the comment",
    )
