"""``--output-format text``: findings as a linter prints them, one line per model, and a summary.

Lines that begin with a path are never wrapped, so that a terminal or editor can follow them; the lines below them are.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from initcheck.config import Config
from initcheck.findings import Finding, Location, Severity
from initcheck.report.excerpt import excerpt, printable, wrapped
from initcheck.report.figures import plural, scale_range, share
from initcheck.report.measured import measured_tables
from initcheck.report.summary import Summary, shown_findings, summarise
from initcheck.results import FileResult, Report, RunResult

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
_NARROWEST = 20


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The report, with colour codes if ``config.color``."""
    summary = summarise(result, config)
    blocks: list[list[Text]] = [_finding(f, sources, config) for f in shown_findings(result, config)]
    if not config.quiet:
        blocks += [
            [line for file in result.files for line in _models(file, config)],
            *(measured_tables(r, config.width) for file in result.files for r in file.models if r.measured is not None),
            _fixes(result.files),
        ]
    if config.statistics:
        blocks.append(_statistics(shown_findings(result, config)))
    if not config.quiet:
        blocks.append(_summary(summary, config))
    return _printed((block for block in blocks if block), config)


def render_closing(result: RunResult, config: Config) -> str:
    """The end of the report alone: what became of the fixes, and the summary."""
    blocks = [_fixes(result.files), _summary(summarise(result, config), config)]
    return _printed((block for block in blocks if block), config)


def _printed(blocks: Iterable[list[Text]], config: Config) -> str:
    """The blocks with an empty line between them."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=config.color,
        color_system="standard" if config.color else None,
        no_color=not config.color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        width=config.width or 10_000,
    )
    for index, block in enumerate(blocks):
        if index:
            stream.write("\n")
        for line in block:
            console.print(line, soft_wrap=True, end="\n")
    return stream.getvalue()


def _finding(finding: Finding, sources: Mapping[str, str], config: Config) -> list[Text]:
    head, *more = printable(finding.message).splitlines() or [""]
    style = _STYLES[finding.severity]
    lines = [
        Text.assemble(
            (str(finding.location), "bold"),
            ": ",
            (finding.code, style),
            f" [{finding.name}] ",
            (finding.severity.label, style),
            f": {head}",
        )
    ]
    gutter = " " * len(str(finding.location.line)) + " "
    body = _Body(gutter, config.width)
    lines += [*body.plain(more), *excerpt(finding.location, sources, config.width, style)]
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
    return "" if place is None else f"{place.path}:{place.line}"


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


def _models(file: FileResult, config: Config) -> Iterator[Text]:
    for report in file.models:
        yield _model(report, file.path, config)


def _model(report: Report, path: str, config: Config) -> Text:
    """What was checked, how it was built and fed, and the range of the scales: one line."""
    where = str(report.location) if report.location is not None else path
    wanted = [finding for finding in report.findings if config.shows(finding.severity)]
    worst = max((finding.severity for finding in wanted), default=None)
    verdict = "ok" if worst is None else _counted(Counter(finding.severity for finding in wanted))
    built = " ".join(
        [
            *([f"built by {report.built_by}"] if report.built_by else []),
            *([f"on {report.inputs}"] if report.inputs else []),
        ]
    )
    facts = [
        *([built] if built else []),
        f"{plural(len(report.layers), 'layer')}, {share(report.coverage)} of the graph known ({report.rung})",
        scale_range("forward std", [(row.forward_std, row.name) for row in report.layers]),
        scale_range("gradient std", [(row.grad_std, row.name) for row in report.layers]),
        *report.notes,
    ]
    line = Text.assemble(
        (where, "bold"),
        ": ",
        (report.model, "bold"),
        ": ",
        (verdict, "green" if worst is None else _STYLES[worst]),
        printable("; ".join(["", *facts])).replace("\n", " "),
    )
    return line


def _counted(counts: Mapping[Severity, int]) -> str:
    """``1 error, 2 warnings``."""
    names = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    parts = [
        plural(counts.get(severity, 0), names[severity]) if severity in names else f"{counts.get(severity, 0)} info"
        for severity in reversed(Severity)
        if counts.get(severity, 0)
    ]
    return ", ".join(parts)


def _fixes(files: Iterable[FileResult]) -> list[Text]:
    lines = []
    for file in files:
        if file.fixes is None:
            continue
        done = "fixed" if file.fixes.written else "would fix"
        for finding in file.fixes.applied:
            lines.append(_fix_line(finding, done, "bold green"))
        for finding, reason in file.fixes.refused:
            lines.append(_fix_line(finding, "not fixed", "bold yellow", f": {reason}"))
    return lines


def _fix_line(finding: Finding, done: str, style: str, reason: str = "") -> Text:
    reason = printable(reason).replace("\n", " ")
    return Text.assemble((str(finding.location), "bold"), f": {finding.code} [{finding.name}] ", (done, style), reason)


def _statistics(findings: Iterable[Finding]) -> list[Text]:
    found = list(findings)
    counts = Counter(finding.code for finding in found)
    fixable = Counter(finding.code for finding in found if finding.fix is not None)
    worst = {finding.code: finding.severity for finding in sorted(found, key=lambda f: f.severity)}
    names = {finding.code: finding.name for finding in found}
    digits = len(str(max(counts.values(), default=0)))
    room = max((len(name) for name in names.values()), default=0)
    return [
        Text.assemble(
            f"{count:>{digits}}  ",
            (code, _STYLES[worst[code]]),
            f"  {names[code]:<{room}}  {worst[code].label}",
            f"  ({fixable[code]} fixable)" if fixable[code] else "",
        )
        for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _summary(summary: Summary, config: Config) -> list[Text]:
    lines = [Text.assemble(*_verdict(summary, config), ("." if summary.exit_code < 2 else ""))]
    checked = f"{plural(summary.files, 'file')}, {plural(summary.models, 'model')}"
    if summary.models:
        checked += f", {plural(summary.layers, 'layer')}, {share(summary.coverage)} of the graphs known"
    lines.append(Text(f"Checked {checked} in {summary.seconds:.1f} s."))
    lines += [Text.assemble(("Not checked: ", "yellow"), text) for text in _not_checked(summary)]
    if summary.fixed:
        lines.append(Text(f"Fixed {plural(summary.fixed, 'finding')}."))
    if summary.fixable and not (config.fix or config.diff):
        lines.append(Text(f"{summary.fixable} fixable with --fix (--diff shows the edits)."))
    return lines


def _verdict(summary: Summary, config: Config) -> Iterator[tuple[str, str] | str]:
    shown = {s: n for s, n in summary.findings.items() if n and config.shows(s)}
    if shown:
        yield (_counted(shown), _STYLES[max(shown)])
    elif not summary.files:
        yield ("No Python file found", "bold yellow")
    elif summary.models or not config.needs_models:
        yield ("No findings", "bold green")
    elif not summary.models_not_analysed + summary.files_not_parsed:
        yield ("No findings, no model found", "bold yellow")
    else:
        yield ("Nothing found", "bold yellow")
    if summary.hidden:
        yield f" ({summary.hidden} info hidden, see --show-info)"
    if summary.errors:
        yield "; "
        yield (f"{plural(summary.errors, 'error')} of the run itself", "bold red")


def _not_checked(summary: Summary) -> Iterator[str]:
    if summary.files_not_parsed:
        yield f"{plural(summary.files_not_parsed, 'file')} that could not be read (IC001)"
    if summary.models_not_analysed:
        yield f"{plural(summary.models_not_analysed, 'model')} that could not be built or run (IC002)"
    if summary.unknown_ops:
        named = [f"{op} ({count}x)" if count > 1 else op for op, count in summary.unknown_ops.items()]
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        yield f"what depends on {plural(len(named), 'op')} without a rule: {', '.join(named[:8])}{more}"
