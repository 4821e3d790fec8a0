"""A candidate: a root model before it is built, and what is known about its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from initcheck.discovery import synthesis
from initcheck.discovery.constructions import Evaluation
from initcheck.findings import Location
from initcheck.source.file import SourceFile

if TYPE_CHECKING:
    from initcheck.config import ModelSpec


class ConstructionError(Exception):
    """No way to build a model worked. ``reason``: in one line, of the most telling way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class InputHints:
    """What is known about a candidate's inputs before it is run.

    ``spec``: its configuration. ``names``: variables that hold it in the file (calls of these show its inputs).
    """

    spec: ModelSpec | None = None
    names: set[str] = field(default_factory=set)
    source: SourceFile | None = None
    module: ModuleType | None = None
    evaluation: Evaluation | None = None
    class_name: str = ""
    context: synthesis.Context | None = None
    elsewhere: tuple[SourceFile, Evaluation, set[str]] | None = None
    """Another file of the project that makes it: calls there of these variables show its inputs too."""
    given: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    """Positional and keyword inputs that the file itself hands over with the model."""


@dataclass(slots=True)
class Candidate:
    """A root model: ``construct`` builds it afresh at each call, and sets ``how`` to the way that worked."""

    name: str
    construct: Callable[[], nn.Module]
    how: str
    location: Location
    input_hints: InputHints
    has_other_ways: bool = False
    passed_over: int = 0
    """Ways that work but whose model could not be fed: ``construct`` takes the next one."""
