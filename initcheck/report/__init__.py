"""One module per output format; each has ``render(result, sources, config) -> str``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from initcheck.config import Config
from initcheck.results import RunResult


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The report of a run in the format that the configuration names.

    Args:
        result: the run.
        sources: text of every file that a finding points into, by path.
        config: ``output_format``, what to show, and, for text, colour and width.
    """
    name = "diff" if _is_diff(config) else config.output_format
    module = importlib.import_module(f"initcheck.report.{name}")
    text: str = module.render(result, sources, config)
    return text


def closing(result: RunResult, config: Config) -> str:
    """What is said beside the report, on stderr: under ``--diff`` what became of the fixes; else nothing."""
    if not _is_diff(config):
        return ""
    from initcheck.report.text import render_closing

    return render_closing(result, config)


def _is_diff(config: Config) -> bool:
    return config.diff and config.output_format == "text"
