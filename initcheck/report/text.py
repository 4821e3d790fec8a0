"""``--output-format text``: findings as a linter prints them, one line per model, and a summary.

On a terminal, long lines are folded at spaces; a path is never broken, so that a click on it opens the place.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from initcheck.config import Config
from initcheck.findings import Finding
from initcheck.report.excerpt import folded, printable
from initcheck.report.figures import STYLES, counted, plural, share
from initcheck.report.measured import measured_tables
from initcheck.report.summary import Summary, shown_findings, summarise
from initcheck.report.text_findings import finding_lines
from initcheck.report.text_models import model_lines
from initcheck.results import FileResult, RunResult


def render(result: RunResult, sources: Mapping[str, str], config: Config) -> str:
    """The report, with colour codes if ``config.color``."""
    summary = summarise(result, config)
    blocks: list[list[Text]] = [finding_lines(f, sources, config) for f in shown_findings(result, config)]
    if not config.quiet:
        blocks += [
            [line for file in result.files for line in model_lines(file, config)],
            *(measured_tables(r, config.width) for file in result.files for r in file.models if r.measured is not None),
            _fixes(result.files, config.width),
        ]
    if config.statistics:
        blocks.append(_statistics(shown_findings(result, config)))
    if not config.quiet:
        blocks.append(_summary(summary, config))
    return _printed((block for block in blocks if block), config)


def render_closing(result: RunResult, config: Config) -> str:
    """The end of the report alone: what became of the fixes, and the summary."""
    blocks = [_fixes(result.files, config.width), _summary(summarise(result, config), config)]
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


def _fixes(files: Iterable[FileResult], width: int) -> list[Text]:
    lines: list[Text] = []
    for file in files:
        if file.fixes is None:
            continue
        done = "fixed" if file.fixes.written else "would fix"
        for finding in file.fixes.applied:
            lines += _fix_line(finding, width, done, "bold green")
        for finding, reason in file.fixes.refused:
            lines += _fix_line(finding, width, "not fixed", "bold yellow", f": {reason}")
    return lines


def _fix_line(finding: Finding, width: int, done: str, style: str, reason: str = "") -> list[Text]:
    where = str(finding.location)
    reason = printable(reason).replace("\n", " ")
    line = Text.assemble((where, "bold"), f": {finding.code} [{finding.name}] ", (done, style), reason)
    return folded(line, width, len(where))


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
            (code, STYLES[worst[code]]),
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
    lines += [Text.assemble(("Not checked: ", "yellow"), text) for text in _not_checked(summary, config)]
    if summary.fixed:
        lines.append(Text(f"Fixed {plural(summary.fixed, 'finding')}."))
    if summary.fixable and not (config.fix or config.diff):
        lines.append(Text(f"{summary.fixable} fixable with --fix (--diff shows the edits)."))
    return [piece for line in lines for piece in folded(line, config.width)]


def _verdict(summary: Summary, config: Config) -> Iterator[tuple[str, str] | str]:
    shown = {s: n for s, n in summary.findings.items() if n and config.shows(s)}
    if shown:
        yield (counted(shown), STYLES[max(shown)])
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


def _not_checked(summary: Summary, config: Config) -> Iterator[str]:
    if not config.execute:
        yield "what needs a built model (--no-exec)"
    if summary.files_not_parsed:
        yield f"{plural(summary.files_not_parsed, 'file')} that could not be read (IC001)"
    if summary.models_not_analysed:
        yield f"{plural(summary.models_not_analysed, 'model')} that could not be built or run (IC002)"
    if summary.unknown_ops:
        named = [f"{op} ({count}x)" if count > 1 else op for op, count in summary.unknown_ops.items()]
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        yield f"what depends on {plural(len(named), 'op')} without a rule: {', '.join(named[:8])}{more}"
