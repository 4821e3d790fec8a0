"""The table of ``--measure``: predicted beside measured, as given and with the suggested init, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from initcheck.report.figures import number, plural
from initcheck.results import InitialLoss, MeasuredRow, Measurement, PrecisionLoss, Report, TrainingRun

_MISSING = {"predicted": "?", "measured": "-"}  # not known; not reached by the pass
_OUTSIDE, _OFF = "*", "≠"
_LEAST_NAME = 20
_STATISTICS = "over inputs: std that depends on the input; dead: channels without gradient; grad/weight: of stds"


@dataclass(frozen=True, slots=True)
class _Column:
    """``group``: over several columns; ``key``: of the row's marks; ``error``: relative, shown as ± percent."""

    group: str
    head: str
    get: Callable[[MeasuredRow], str]
    key: str = ""


def measured_tables(report: Report, width: int) -> list[Text]:
    """What was measured: scales beside their predictions, statistics, the first loss, the training, and notes.

    Args:
        report: a report with a measurement.
        width: of the terminal in cells, 0 without limit.
    """
    measured = report.measured
    assert measured is not None
    lines = [_title(report.model, measured)]
    scales = _scales(bool(measured.changed) and any(row.after_forward_std is not None for row in measured.rows))
    lines += _table(measured.rows, scales, width)
    lines += _legend(measured.rows)
    lines += [Text(""), *_table(measured.rows, _statistics(measured), width), Text(_STATISTICS, "dim")]
    if measured.loss is not None and not math.isnan(measured.loss.value):
        lines += [Text(""), *_loss(measured.loss)]
    if measured.training:
        lines += [Text(""), *_training(measured.training)]
    lines += [Text(note) for note in (measured.note, _unfinished(measured)) if note]
    return lines


def _title(model: str, measured: Measurement) -> Text:
    init = "; no init to change" if not measured.unfinished else ""
    if measured.changed:
        init = f"; after: {plural(len(measured.changed), 'parameter')} rewritten"
    memory = "" if measured.peak_bytes is None else f", at most {measured.peak_bytes / 2**20:.0f} MiB"
    facts = f" measured on {measured.device}, {plural(measured.seeds, 'seed')}, {measured.seconds:.1f} s{memory}{init}"
    if measured.data:
        facts += f"; data {measured.data}"
    return Text.assemble((model, "bold"), facts)


def _unfinished(measured: Measurement) -> str:
    return measured.unfinished


# --- columns ----------------------------------------------------------------------------------------------------------


def _scales(changed: bool) -> tuple[_Column, ...]:
    """Predicted, measured and, where something was rewritten, measured after that; forward, then backward."""
    forward = (
        _plain("forward std", "predicted", lambda row: row.predicted_forward_std),
        _with_error("measured", lambda row: row.measured_forward_std, lambda row: row.forward_error, "forward"),
        _plain("", "after", lambda row: row.after_forward_std, "after_forward"),
    )
    gradient = (
        _plain("gradient std", "predicted", lambda row: row.predicted_grad_std),
        _with_error("measured", lambda row: row.measured_grad_std, lambda row: row.grad_error, "gradient"),
        _plain("", "after", lambda row: row.after_grad_std, "after_gradient"),
    )
    return (*forward, *gradient) if changed else (*forward[:2], *gradient[:2])


def _plain(group: str, head: str, get: Callable[[MeasuredRow], float | None], key: str = "") -> _Column:
    return _Column(group, head, lambda row: _number(get(row), _MISSING.get(head, "-")), key)


def _number(value: float | None, missing: str) -> str:
    return "nan" if value is not None and math.isnan(value) and missing == "-" else number(value, missing)


def _with_error(
    head: str, get: Callable[[MeasuredRow], float | None], error: Callable[[MeasuredRow], float | None], key: str
) -> _Column:
    def text(row: MeasuredRow) -> str:
        half = error(row)
        return _number(get(row), "-") + ("" if half is None else f" ±{_percent(half)}")

    return _Column("", head, text, key)


def _statistics(measured: Measurement) -> tuple[_Column, ...]:
    """What else the pass as given showed."""
    columns = [
        _plain("as given", "mean", lambda row: row.forward_mean),
        _plain("", "over inputs", lambda row: row.sample_std),
        _Column("", "dead", lambda row: _percent(row.dead_share)),
        _Column("", "saturated", lambda row: _percent(row.saturated_share)),
        _plain("", "grad/weight", lambda row: row.weight_gradient_ratio),
    ]
    if measured.precision != "fp32":
        columns += [
            _Column(f"lost in {measured.precision}", "forward", lambda row: _loss_share(row.precision_loss, "forward")),
            _Column("", "gradient", lambda row: _loss_share(row.precision_loss, "grad")),
        ]
        if any(row.after_precision_loss is not None for row in measured.rows):
            columns += [
                _Column("after", "forward", lambda row: _loss_share(row.after_precision_loss, "forward")),
                _Column("", "gradient", lambda row: _loss_share(row.after_precision_loss, "grad")),
            ]
    return tuple(columns)


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    if share > 1.0:
        return ">100%"
    return "0" if share == 0.0 else "<1%" if share < 0.01 else f"{100 * share:.0f}%"


def _loss_share(lost: PrecisionLoss | None, direction: str) -> str:
    """Underflow to zero (↓) and overflow (↑), where there is any."""
    if lost is None:
        return "-"
    under, over = getattr(lost, f"{direction}_underflow"), getattr(lost, f"{direction}_overflow")
    parts = [f"{_percent(share)}{arrow}" for share, arrow in ((under, "↓"), (over, "↑")) if share > 1e-4]
    return " ".join(parts) or "0"


# --- layout -----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[MeasuredRow], columns: Sequence[_Column], width: int) -> list[Text]:
    """Names to the left, numbers to the right, two header lines: what, and how it was had.

    Where the terminal is too narrow, first the kinds go, then the fronts of long names.
    """
    cells = [[_marked(row, column) for column in columns] for row in rows]
    numbers = [max(map(cell_len, column)) for column in zip([c.head for c in columns], *cells, strict=True)]
    taken = sum(numbers) + 2 * len(numbers)
    names = ["layer", *(row.name or "(the model)" for row in rows)]
    kinds = ["kind", *(row.kind for row in rows)]
    name_width, kind_width = (max(map(cell_len, column)) for column in (names, kinds))
    if width and name_width + 2 + kind_width + taken > width:
        kinds, kind_width = [], 0
        name_width = max(min(name_width, width - taken), _LEAST_NAME)
        names = [_shortened(name, name_width) for name in names]
    left = [_left(name, kinds[i] if kinds else None, name_width, kind_width) for i, name in enumerate(names)]
    group = " " * cell_len(left[0])
    for index, column in enumerate(columns):
        if column.group:
            group = group.ljust(cell_len(left[0]) + sum(numbers[:index]) + 2 * index + 2) + column.group
    heads = left[0] + "".join(f"  {column.head:>{numbers[i]}}" for i, column in enumerate(columns))
    lines = [Text(group.rstrip(), "bold"), Text(heads, "bold")]
    for i, row in enumerate(rows):
        line = Text(left[i + 1])
        for j, column in enumerate(columns):
            cell = cells[i][j]
            style = "red" if column.key in row.outside else ""
            line.append("  " + " " * (numbers[j] - cell_len(cell)) + cell, style)
        lines.append(line)
    return lines


def _left(name: str, kind: str | None, name_width: int, kind_width: int) -> str:
    padded = name + " " * (name_width - cell_len(name))
    return padded if kind is None else f"{padded}  {kind:<{kind_width}}"


def _shortened(name: str, width: int) -> str:
    return name if cell_len(name) <= width else "…" + name[-(width - 1) :]


def _marked(row: MeasuredRow, column: _Column) -> str:
    """The cell with its marks; a blank in their place keeps the numbers under each other."""
    text = column.get(row)
    if not column.key:
        return text
    marks = (_OUTSIDE if column.key in row.outside else "") + (_OFF if column.key in row.off else "")
    return f"{text}{marks:<1}" if len(marks) < 2 else text + marks


def _legend(rows: Sequence[MeasuredRow]) -> Iterator[Text]:
    parts = []
    if any(row.outside for row in rows):
        parts.append(f"{_OUTSIDE} outside [1/3, 3] of a healthy scale")
    if any(row.off for row in rows):
        parts.append(f"{_OFF} outside the band of its prediction")
    if any(row.forward_error is not None for row in rows):
        parts.append("± 95 % confidence")
    if parts:
        yield Text("; ".join(parts), "dim")


def _loss(loss: InitialLoss) -> Iterator[Text]:
    after = "" if loss.after is None else f", {number(loss.after)} after"
    text = f"initial loss {number(loss.value)}{after}; log({loss.classes}) = {number(loss.chance)}"
    far = loss.value > 1.5 * loss.chance
    what = "the data's labels" if loss.labels == "the data's" else f"random labels for {loss.classes} outputs"
    yield Text(
        f"{text} (cross entropy, {what})" + ("; the logits start too large" if far else ""), "yellow" if far else ""
    )


def _training(runs: Sequence[TrainingRun]) -> Iterator[Text]:
    steps = [str(step) for step, _ in max((run.losses for run in runs), key=len)]
    chance = number(runs[0].chance)
    yield Text(f"training ({steps[-1]} steps; ignoring the input reaches {chance}): loss at step", "bold")
    widths = [max(8, len(step)) for step in steps]
    head = f"{'init':<10}  {'optimiser':<22}" + "".join(f"  {s:>{w}}" for s, w in zip(steps, widths, strict=True))
    yield Text(head, "bold")
    for run in runs:
        found = dict(run.losses)
        cells = "".join(
            f"  {number(found.get(int(step)), '-'):>{w}}" for step, w in zip(steps, widths, strict=True)
        )  # fmt: skip
        verdict = "learns" if run.learns else "does not learn"
        yield Text.assemble(
            f"{run.init:<10}  {run.optimiser:<22}{cells}  ", (verdict, "green" if run.learns else "red")
        )
