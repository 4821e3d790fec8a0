"""Exit codes."""

from __future__ import annotations

from initcheck.config import Config
from initcheck.results import RunResult

CLEAN, FINDINGS, FAILURE, INTERRUPTED = 0, 1, 2, 130


def exit_code(result: RunResult, config: Config) -> int:
    """130 if the run was broken off, 2 if the tool could not do its job, 1 for a finding at ``fail_on``, else 0."""
    if result.interrupted:
        return INTERRUPTED
    if result.errors:
        return FAILURE
    return FINDINGS if any(config.fails(finding.severity) for finding in result.all_findings()) else CLEAN
