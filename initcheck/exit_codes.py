"""Exit codes."""

from __future__ import annotations

from initcheck.config import Config
from initcheck.results import RunResult

CLEAN, FINDINGS, FAILURE, INTERRUPTED = 0, 1, 2, 130


def exit_code(result: RunResult, config: Config) -> int:
    """2 if the tool could not do its job, else 1 if a finding is bad enough (``fail_on``), else 0."""
    if result.errors:
        return FAILURE
    return FINDINGS if any(config.fails(finding.severity) for finding in result.all_findings()) else CLEAN
