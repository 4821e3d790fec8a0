"""The table of ``--measure``: predicted beside measured, as given and with the suggested init, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.text import Text

from initcheck.report.figures import number, plural
from initcheck.results import MeasuredRow, Measurement, Report

_Column = tuple[str, str, Callable[[MeasuredRow], float | None]]

_FORWARD: tuple[_Column, ...] = (
    ("forward std", "predicted", lambda row: row.predicted_forward_std),
    ("", "measured", lambda row: row.measured_forward_std),
)
_FORWARD_AFTER: tuple[_Column, ...] = (
    ("after", "predicted", lambda row: row.after_predicted_forward_std),
    ("", "measured", lambda row: row.after_forward_std),
)
_GRADIENT: tuple[_Column, ...] = (
    ("gradient std", "predicted", lambda row: row.predicted_grad_std),
    ("", "measured", lambda row: row.measured_grad_std),
)
_GRADIENT_AFTER: tuple[_Column, ...] = (
    ("after", "predicted", lambda row: row.after_predicted_grad_std),
    ("", "measured", lambda row: row.after_grad_std),
)


_MISSING = {"predicted": "?", "measured": "-"}  # not known; not reached by the pass


def measured_tables(report: Report, width: int) -> list[Text]:
    """One table, or, where it would not fit the terminal, one for each direction.

    Args:
        report: a report with a measurement.
        width: of the terminal in cells, 0 without limit.
    """
    measured = report.measured
    assert measured is not None
    changed = bool(measured.changed)
    forward = _FORWARD + (_FORWARD_AFTER if changed else ())
    gradient = _GRADIENT + (_GRADIENT_AFTER if changed else ())
    lines = [_title(report.model, measured)]
    whole = _table(measured.rows, forward + gradient)
    if width and max(cell_len(line.plain) for line in whole) > width:
        lines += [*_table(measured.rows, forward), Text(""), *_table(measured.rows, gradient)]
    else:
        lines += whole
    if measured.note:
        lines.append(Text(measured.note))
    return lines


def _title(model: str, measured: Measurement) -> Text:
    init = (
        "no init to change"
        if not measured.changed
        else f"after: {plural(len(measured.changed), 'parameter')} rewritten"
    )
    facts = f" measured on {measured.device}, {plural(measured.seeds, 'seed')}, {measured.seconds:.1f} s; {init}"
    return Text.assemble((model, "bold"), facts)


def _table(rows: Sequence[MeasuredRow], columns: Sequence[_Column]) -> list[Text]:
    """Names to the left, numbers to the right, two header lines: what, and how it was had."""
    heads = ["layer", "kind", *(head for _, head, _ in columns)]
    cells = [[row.name, row.kind, *(number(get(row), _MISSING[head]) for _, head, get in columns)] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    groups = ""
    for index, (group, _, _) in enumerate(columns, start=2):
        if group:
            groups = groups.ljust(sum(widths[:index]) + 2 * index) + group
    return [Text(groups, "bold"), Text(_line(heads, widths), "bold"), *(Text(_line(line, widths)) for line in cells)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - cell_len(cell))
        padded.append(cell + space if index < 2 else space + cell)
    return "  ".join(padded).rstrip()
