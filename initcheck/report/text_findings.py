"""A finding as the text report prints it: its place and message, the source line, the chain of evidence, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text

from initcheck.config import Config
from initcheck.findings import Finding, Location
from initcheck.report.excerpt import excerpt, folded, printable, wrapped
from initcheck.report.figures import STYLES

_NARROWEST = 20


def finding_lines(finding: Finding, sources: Mapping[str, str], config: Config) -> list[Text]:
    """The finding's block.

    Args:
        finding: the finding.
        sources: text of the files by path.
        config: for the width.
    """
    head, *more = printable(finding.message).splitlines() or [""]
    style = STYLES[finding.severity]
    where = str(finding.location)
    title = Text.assemble(
        (where, "bold"),
        ": ",
        (finding.code, style),
        f" [{finding.name}] ",
        (finding.severity.label, style),
        f": {head}",
    )
    gutter = " " * len(str(finding.location.line)) + " "
    body = _Body(gutter, config.width)
    lines = folded(title, config.width, len(where))
    lines += [*body.plain(more), *excerpt(finding.location, sources, config.width, style)]
    if finding.model and finding.model not in finding.message:
        lines += body.item("model:", printable(finding.model), "")
    last = _line(finding.location)
    for evidence in finding.evidence:
        line = _line(evidence.location)
        at = f"  ({line})" if line and line != last else ""
        lines += body.item("=", printable(evidence.text) + at, "")
        last = line or last
    if finding.suggestion:
        lines += body.item("help:", printable(finding.suggestion), "green")
    if finding.fix is not None:
        option = "--fix" if finding.fix.safe else "--fix, changes numerics"
        lines += body.item(f"fix available ({option}):", printable(finding.fix.description), "green")
    return lines


def _line(place: Location | None) -> str:
    return "" if place is None else f"{place.file}:{place.line}"


class _Body:
    """Lines below a finding's head: behind a gutter, wrapped to the width with a hanging indent."""

    def __init__(self, gutter: str, width: int) -> None:
        self._gutter = gutter
        self._room = max(width - len(gutter), _NARROWEST) if width else 0

    def plain(self, texts: Iterable[str]) -> list[Text]:
        """Texts as they are, wrapped."""
        return [Text(self._gutter + part) for text in texts for part in wrapped(text, self._room)]

    def item(self, marker: str, text: str, style: str) -> list[Text]:
        """``marker text``, further lines indented below the text's beginning."""
        indent = min(len(marker) + 1, 8)
        parts = wrapped(f"{marker} {text}", self._room, indent)
        lines = [Text(self._gutter + part) for part in parts]
        lines[0].stylize(f"bold {style}".strip(), len(self._gutter), len(self._gutter) + len(marker))
        return lines
