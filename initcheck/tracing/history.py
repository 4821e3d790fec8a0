"""From the init log to what ``initcheck trace`` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from initcheck.findings import Location
from initcheck.history import DistributionRow, FrameRow, ModelHistory, TensorHistory, WriteRow
from initcheck.tracing.chain import FILLS
from initcheck.tracing.initfuncs import NAMES
from initcheck.tracing.initlog import InitLog
from initcheck.tracing.trace import Distribution, ParameterRecord, Write

_REPLACING = frozenset(
    [*NAMES, *(name.removesuffix("_") for name in NAMES), *(f"{name}_" for name in FILLS), "copy_", "data.set"]
)
"""Functions that leave nothing of what was there (deprecated names of init functions included)."""


def model_history(model: nn.Module, log: InitLog, name: str, built_by: str, location: Location) -> ModelHistory:
    """Every parameter and buffer of a model that was built under the log."""
    parameters = [_of_parameter(record) for record in log.parameters(model).values()]
    buffers = [
        TensorHistory(
            name=path,
            role="buffer",
            shape=tuple(buffer.shape),
            dtype=str(buffer.dtype).removeprefix("torch."),
            requires_grad=False,
            distribution=_row(dist),
            writes=_writes(log.writes_of(buffer)),
        )
        for (path, dist), buffer in zip(log.buffers(model).items(), model.buffers(), strict=True)
    ]
    return ModelHistory(name, built_by, location, (*parameters, *buffers), tuple(log.notes))


def _of_parameter(record: ParameterRecord) -> TensorHistory:
    return TensorHistory(
        name=record.name,
        role="parameter",
        shape=record.shape,
        dtype=record.dtype,
        requires_grad=record.requires_grad,
        distribution=_row(record.distribution),
        writes=_writes(record.writes),
        aliases=record.aliases,
        clone_of=record.clone_of,
        location=record.location,
    )


def _writes(writes: Sequence[Write]) -> tuple[WriteRow, ...]:
    """The writes in order, each with whether anything of it survives the later ones."""
    survive = survivors(writes)
    return tuple(replace(_write(write), survives=index in survive) for index, write in enumerate(writes))


def survivors(writes: Sequence[Write]) -> set[int]:
    """Indices of writes of which a part may be left at the end.

    Whatever precedes a write to all elements that does not read them is gone; a copy brings the history of its source
    (the ``carries`` writes before it) along.
    """
    alive: set[int] = set()
    index = len(writes) - 1
    while index >= 0:
        write = writes[index]
        alive.add(index)
        if write.share >= 1.0 and write.function in _REPLACING:
            if not write.carries:
                break
            first = index - write.carries
            alive |= {first + inner for inner in survivors(writes[first:index])}
            break
        index -= 1
    return alive


def _write(write: Write) -> WriteRow:
    return WriteRow(
        function=write.function,
        arguments=dict(write.arguments),
        origin=write.origin,
        distribution=_row(write.distribution),
        stack=tuple(FrameRow(frame.location, frame.function) for frame in write.stack),
        share=write.share,
    )


def _row(dist: Distribution) -> DistributionRow:
    def known(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    low, high = known(dist.low), known(dist.high)
    return DistributionRow(dist.kind, known(dist.mean), known(dist.std), low, high, dist.note)
