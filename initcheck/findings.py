"""What a rule says: a finding at a true source position, with its numbers and its edit. No torch here."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Severity(enum.IntEnum):
    """How bad the predicted consequence is. Ordered: ``INFO < WARNING < ERROR``."""

    INFO = 0
    WARNING = 1
    ERROR = 2

    @property
    def label(self) -> str:
        """``info``, ``warning`` or ``error``."""
        return self.name.lower()

    @classmethod
    def parse(cls, text: str) -> Severity:
        """The severity of that label.

        Raises:
            ValueError: if ``text`` is none of ``info``, ``warning``, ``error``.
        """
        try:
            return cls[text.upper()]
        except KeyError:
            raise ValueError(f"unknown severity {text!r}: expected info, warning or error") from None


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A range of source text. Lines and columns count from 1; the end column is exclusive.

    ``cell``: of a notebook, counted from 1, to which the lines belong; 0 in other files.
    """

    path: str
    line: int
    column: int = 1
    end_line: int = 0
    end_column: int = 0
    cell: int = 0

    @property
    def file(self) -> str:
        """The path, of a notebook with its cell: ``net.ipynb:cell 3``."""
        return f"{self.path}:cell {self.cell}" if self.cell else self.path

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of the chain behind a finding: a formula with its numbers, and the place it speaks of."""

    text: str
    location: Location | None = None


@dataclass(frozen=True, slots=True)
class RewriteCall:
    """Edit: let the init call at ``location`` call ``function`` with ``arguments``; its target stays.

    ``function`` is a name of ``torch.nn.init`` (``kaiming_normal_``); the file's own way of naming that module is
    kept (``init.``, ``nn.init.``, a bare import). ``arguments`` are keyword and source text, and replace every
    argument but the first; ``None`` keeps the arguments as they are (a pure rename).
    """

    location: Location
    function: str
    arguments: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class InitStatement:
    """``nn.init.<function>(<target>, <arguments>)`` to insert; ``target`` is an expression: ``self.fc1.weight``."""

    target: str
    function: str
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class InsertInit:
    """Edit: at the end of ``class_name.__init__`` (class at ``location``), initialise layers that have no init call.

    Without a class, right behind the assignment at ``location``, whose variable then stands for ``self``; for a
    ``return`` at ``location``, between the making of what it returns and the return.

    ``module_types`` non-empty: one loop over ``self.modules()`` that applies ``statements`` (whose target is then
    relative to the loop variable ``module``, e.g. ``module.weight``) to every module of these types
    (``("nn.Linear", "nn.Conv2d")``). ``over`` non-empty (``self.layers[1:]``): one loop over that, for each of its
    items. Both empty: the statements as they stand, one after another.

    ``last``: behind code of ``__init__`` that itself initialises, which would undo it.
    """

    location: Location
    class_name: str
    statements: tuple[InitStatement, ...]
    module_types: tuple[str, ...] = ()
    over: str = ""
    last: bool = False


@dataclass(frozen=True, slots=True)
class Substitute:
    """Edit: the text at ``location`` (its exact range) becomes ``text``; with an empty text, its lines are removed."""

    location: Location
    text: str


Edit = RewriteCall | InsertInit | Substitute


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that remove a finding. ``safe``: cannot change what was intended. Else numerics change (``unsafe``)."""

    description: str
    edits: tuple[Edit, ...]
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between what a model's init does and what its graph needs."""

    code: str
    name: str
    severity: Severity
    message: str
    location: Location
    model: str = ""
    parameter: str = ""
    evidence: tuple[Evidence, ...] = ()
    suggestion: str = ""
    fix: Fix | None = None
    data: Mapping[str, float | int | str | bool] = field(default_factory=dict)

    @property
    def sort_key(self) -> tuple[str, int, int, int, str, str]:
        """Findings are reported by path, line, column, code (then parameter, so that the order never varies)."""
        where = self.location
        return (where.path, where.cell, where.line, where.column, self.code, self.parameter)
