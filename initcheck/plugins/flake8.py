"""A flake8 plugin: the rules that read source alone (no model is built, torch is not imported).

flake8 selects, ignores and honours ``# noqa``; ``[tool.initcheck]`` is not read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import initcheck
from initcheck.findings import Severity
from initcheck.rules import registry
from initcheck.source.decoding import Decoded
from initcheck.source.file import SourceFile

_FOREIGN = ("IC001", "IC004")  # flake8 itself reports what it cannot parse (E999), and knows what is suppressed


class Initcheck:
    """What flake8 calls for each file."""

    name = "initcheck"
    version = initcheck.__version__

    def __init__(self, tree: ast.Module, filename: str, lines: list[str]) -> None:
        self._source = SourceFile.parsed(filename, tree, Decoded("".join(lines)))

    def run(self) -> Iterator[tuple[int, int, str, type[Initcheck]]]:
        """Line, column (from 0) and text of each warning and error.

        Raises:
            RuntimeError: a rule crashed (flake8 names the plugin and the file).
        """
        findings, defects = registry.check_source(self._source)
        if defects:
            raise RuntimeError(defects[0])
        for finding in sorted(findings, key=lambda f: f.sort_key):
            if finding.severity < Severity.WARNING or finding.code in _FOREIGN:
                continue
            where = finding.location
            if not self._source.suppressions.is_suppressed(where.line, finding.code):
                yield where.line, where.column - 1, f"{finding.code} {finding.message}", Initcheck
