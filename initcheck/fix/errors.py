"""Why an edit cannot be made."""

from __future__ import annotations

from initcheck.findings import Edit


class EditError(Exception):
    """An edit that was not made. ``reason`` completes the sentence "not fixed: ..."."""

    def __init__(self, reason: str, edit: Edit | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.edit = edit
