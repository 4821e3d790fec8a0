"""What ``initcheck trace`` shows of every parameter: who wrote it, in which order, and what survived. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from initcheck.findings import Location


@dataclass(frozen=True, slots=True)
class DistributionRow:
    """What elements look like: ``kind`` as in ``tracing.trace.Distribution``; numbers are None where not known."""

    kind: str
    mean: float | None
    std: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A call on the way to a write: the line, and the function that it stands in."""

    location: Location
    function: str


@dataclass(frozen=True, slots=True)
class WriteRow:
    """One write.

    ``origin``: ``default`` (torch's own layer constructor), ``user`` or ``library``. ``stack``: frames outside torch,
    innermost first. ``share``: part of the elements written, 0 to 1. ``survives``: whether no later write replaced
    all of it.
    """

    function: str
    arguments: Mapping[str, Any]
    origin: str
    distribution: DistributionRow
    stack: tuple[FrameRow, ...] = ()
    share: float = 1.0
    survives: bool = True


@dataclass(frozen=True, slots=True)
class TensorHistory:
    """A parameter or buffer: what it ended up as, and its writes in order. ``aliases``: other names (tied weights)."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    distribution: DistributionRow
    writes: tuple[WriteRow, ...] = ()
    aliases: tuple[str, ...] = ()
    clone_of: str = ""
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """The histories of one model, parameters first, each in the model's order."""

    model: str
    built_by: str
    location: Location
    tensors: tuple[TensorHistory, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)
