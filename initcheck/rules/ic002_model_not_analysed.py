"""IC002: a model that could not be built or run, so that nothing is known about it."""

from __future__ import annotations

from initcheck.findings import Finding, Location
from initcheck.rules.base import finding

CODE = "IC002"


def model_not_analysed(
    path: str, model: str, reason: str, *, hint: str = "", location: Location | None = None, line: int = 1
) -> Finding:
    """The finding for a model (or, with an empty name, a whole file) of which no graph could be had.

    Args:
        path: the file.
        model: its name, empty if not even the file's definitions could be loaded.
        reason: what went wrong, in one line.
        hint: what to tell initcheck so that it works (a configuration to paste).
        location: where the model is defined; else ``line`` of ``path``.
        line: where the trouble is, if there is no better location.
    """
    subject = f"model {model}" if model else "the models of this file"
    first_line = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return finding(
        CODE,
        f"{subject} could not be analysed: {first_line}",
        location or Location(path, line),
        model=model,
        suggestion=hint,
    )
