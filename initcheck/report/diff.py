"""``--diff``: the edits of all files as one unified diff, ready for ``patch`` or ``git apply``."""

from __future__ import annotations

from collections.abc import Mapping

from initcheck.config import Config
from initcheck.results import RunResult

_GREEN, _RED, _CYAN, _BOLD, _RESET = "\033[32m", "\033[31m", "\033[36m", "\033[1m", "\033[0m"
_STYLES = (("+++", _BOLD), ("---", _BOLD), ("@@", _CYAN), ("+", _GREEN), ("-", _RED))


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The diffs, coloured if ``config.color``."""
    text = "".join(file.fixes.diff for file in result.files if file.fixes is not None)
    if not config.color:
        return text
    return "".join(_coloured(line) for line in text.splitlines(keepends=True))


def _coloured(line: str) -> str:
    style = next((style for prefix, style in _STYLES if line.startswith(prefix)), "")
    body = line.rstrip("\r\n")
    return f"{style}{body}{_RESET}{line[len(body) :]}" if style else line
