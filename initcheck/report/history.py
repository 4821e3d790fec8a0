"""``initcheck trace``: the table of who wrote what, as text or JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len

from initcheck import __version__
from initcheck.config import Config
from initcheck.findings import Location
from initcheck.history import DistributionRow, FrameRow, ModelHistory, TensorHistory, WriteRow
from initcheck.report.excerpt import printable
from initcheck.report.figures import plural
from initcheck.report.json import SCHEMA_VERSION, finding_to_dict, plain
from initcheck.results import RunResult

_HEADER = ("parameter", "shape", "distribution", "written by", "at")
_GAP = "  "
_MOST_CALLERS = 2


def render_histories(result: RunResult, config: Config) -> str:
    """Every model's table, then what could not be traced."""
    return _as_json(result) if config.output_format == "json" else _as_text(result)


# --- text -------------------------------------------------------------------------------------------------------------


def _as_text(result: RunResult) -> str:
    blocks = ["\n".join(_model(history)) for file in result.files for history in file.histories]
    blocks += [f"{finding.location}: {finding.code} {printable(finding.message)}" for finding in result.all_findings()]
    if not blocks and not result.errors:
        blocks.append("No model found.")
    return "".join(f"{block}\n\n" for block in blocks[:-1]) + "".join(f"{block}\n" for block in blocks[-1:])


def _model(history: ModelHistory) -> Iterator[str]:
    trained = [tensor for tensor in history.tensors if tensor.role == "parameter"]
    elements = sum(math.prod(tensor.shape) for tensor in trained)
    facts = [f"built by {history.built_by}", f"{plural(len(trained), 'parameter')}, {elements:,} elements"]
    yield f"{history.location}: {printable(history.model)}: {'; '.join([*facts, *history.notes])}"
    rows = [_HEADER, *(row for tensor in history.tensors for row in _rows(tensor))]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        yield _GAP.join(cells).rstrip()


def _rows(tensor: TensorHistory) -> Iterator[tuple[str, str, str, str, str]]:
    """One row for each write, the first with the tensor itself."""
    name = tensor.name if tensor.role == "parameter" else f"{tensor.name} ({tensor.role})"
    begin = (printable(name), _shape(tensor), described(tensor.distribution))
    writes: list[tuple[str, str]] = []
    for (call, at), alike in itertools.groupby((_call(write), _path(write.stack)) for write in tensor.writes):
        times = sum(1 for _ in alike)
        writes.append((f"{call}, {times} times" if times > 1 else call, at))
    if not writes:
        writes = [("nothing that was seen", _place(tensor.location))]
    for index, (call, at) in enumerate(writes):
        yield (*(begin if not index else ("", "", "")), call, at)
    for text in (
        f"also named {', '.join(tensor.aliases)}" if tensor.aliases else "",
        f"a copy of {tensor.clone_of}" if tensor.clone_of else "",
    ):
        if text:
            yield ("", "", "", printable(text), "")


def _shape(tensor: TensorHistory) -> str:
    lazy = not tensor.shape and tensor.distribution.kind == "unknown" and not tensor.writes
    return "?" if lazy else "x".join(map(str, tensor.shape)) or "scalar"


def described(dist: DistributionRow) -> str:
    """``normal, mean 0, std 0.02``; ``uniform -0.1 to 0.1``; ``constant 1``."""
    note = f" ({dist.note})" if dist.note else ""
    if dist.kind == "uniform" and dist.low is not None and dist.high is not None:
        return f"uniform {dist.low:.4g} to {dist.high:.4g}{note}"
    if dist.mean is None or dist.std is None:
        return dist.kind + note
    if dist.std == 0:
        return f"constant {dist.mean:.4g}{note}"
    kind = "" if dist.kind == "measured" else f"{dist.kind.replace('_', ' ')}, "
    return f"{kind}mean {dist.mean:.3g}, std {dist.std:.4g}{note}"


def _call(write: WriteRow) -> str:
    shown = ", ".join(f"{key}={_value(value)}" for key, value in write.arguments.items() if value is not None)
    text = f"{write.function}({shown})"
    if write.function == "data.set":
        text = ".data = ..."
    if write.share < 1.0:
        text += f" on {write.share:.2g} of the elements"
    if write.origin != "user":
        text += f" [{'layer default' if write.origin == 'default' else write.origin}]"
    return printable(text if write.survives else f"overwritten: {text}")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _path(stack: Sequence[FrameRow]) -> str:
    """``net.py:12 in init_weights, from net.py:30 in Net.__init__``."""
    frames = [f"{_place(frame.location)} in {frame.function}" for frame in stack[: 1 + _MOST_CALLERS]]
    return printable(", from ".join(frames))


def _place(location: Location | None) -> str:
    return "" if location is None else f"{location.file}:{location.line}"


# --- JSON -------------------------------------------------------------------------------------------------------------


def _as_json(result: RunResult) -> str:
    data = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "initcheck", "version": __version__},
        "models": [plain(dataclasses.asdict(history)) for file in result.files for history in file.histories],
        "findings": [finding_to_dict(finding) for finding in result.all_findings()],
        "errors": list(result.errors),
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
