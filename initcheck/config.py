"""What a run can be told: ``Config`` and the values in it. ``config_file`` reads it from files. No torch here."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initcheck.catalogue import rule_pages
from initcheck.findings import Severity

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MODES = ("train", "eval")
PRECISIONS = ("fp32", "bf16", "fp16")
IMPORT_MODES = ("definitions", "full")
FORMATS = ("text", "json", "github", "sarif")
FAIL_ON = ("error", "warning", "info", "never")
EVERY_CODE = "IC"

_UNHEARD = ("IC001", "IC002")
"""Codes that say "this was not checked"; ``select`` does not silence them: what was not checked must not look clean."""


class ConfigError(Exception):
    """A configuration that cannot be used. The message names the file or option, the key, and what was expected."""


@dataclass(frozen=True, slots=True)
class PathPatterns:
    """Patterns in the manner of ``.gitignore``, relative to the folder ``root``."""

    root: str
    lines: tuple[str, ...]

    def matches(self, path: str | Path) -> bool:
        """Whether ``path`` (relative ones from the current folder), or a folder above it, is named."""
        relative = os.path.relpath(path, self.root).replace(os.sep, "/")
        if relative == ".":
            return False
        spec = compiled(self.lines)
        return bool(spec.match_file(relative) or (os.path.isdir(path) and spec.match_file(relative + "/")))


@functools.cache
def compiled(lines: tuple[str, ...]) -> GitIgnoreSpec:
    """The patterns ready to match; raises ValueError or re.error if one is malformed."""
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A tensor by its dtype and shape, ``float32[2,3,224,224]``; integers may have a bound, ``int64[2,16]<50257``."""

    dtype: str
    shape: tuple[int, ...]
    high: int | None = None

    def __str__(self) -> str:
        bound = "" if self.high is None else f"<{self.high}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{bound}"

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """The spec that ``text`` writes.

        Raises:
            ValueError: if it is not of the form ``dtype[size,size,...]``.
        """
        match = _INPUT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not an input: expected dtype[size,...] such as float32[2,3,224,224]")
        dtype = _DTYPE_ALIASES.get(match["dtype"], match["dtype"])
        if dtype not in _DTYPES:
            raise ValueError(f"unknown dtype {match['dtype']!r}{near(match['dtype'], _DTYPES)}")
        high = int(match["high"]) if match["high"] else None
        if high is not None and not dtype.startswith(("int", "uint")):
            raise ValueError(f"{text!r}: only integer inputs have an upper bound")
        return cls(dtype, tuple(int(size) for size in re.findall(r"\d+", match["shape"])), high)


_INPUT = re.compile(
    r"(?P<dtype>[a-z]+[0-9]*)\s*\[(?P<shape>\s*(?:\d+\s*(?:,\s*\d+\s*)*)?)\](?:\s*<\s*(?P<high>[1-9]\d*))?"
)
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "bool"),
)
_DTYPE_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}

InputValue = InputSpec | int | float | bool | tuple["InputValue", ...]
"""One argument of a forward call: a tensor, a plain number or flag, or a tuple of such."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How to build and call a model: one ``[[tool.initcheck.models]]``, or ``--model``.

    ``path`` is absolute. ``expression`` is evaluated in the file's namespace: a class or a function, called with
    ``args`` and ``kwargs`` (``Net``, ``models.resnet.build``), or a call that makes the model (``GPT(GPTConfig())``).
    Without ``inputs`` and ``keyword_inputs`` they are searched for.
    """

    path: str
    expression: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[InputValue, ...] = ()
    keyword_inputs: Mapping[str, InputValue] = field(default_factory=dict)

    @property
    def is_call(self) -> bool:
        """Whether ``expression`` is the call itself."""
        return self.expression.endswith(")")

    @property
    def name(self) -> str:
        """What is built, without its arguments: ``GPT``."""
        return self.expression.partition("(")[0]


def _default_jobs() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, 8))  # each job holds a model's graph in memory


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a run can be told. Plain data: it travels to worker processes.

    ``select`` and ``ignore`` are prefixes of codes. ``fail_on``: the least severity that makes the exit code 1; None:
    no finding does. ``only_listed_models``: analyse ``models`` and nothing else. ``execute``: False for source rules
    alone. ``import_mode``: whether a file is executed for its definitions only, or as Python would. ``timeout``
    (seconds) and ``memory_limit`` (bytes, resident) are of one model. ``color`` and ``width`` (0: no limit) are of the
    stream that the report goes to.
    """

    source: str = ""
    select: tuple[str, ...] = (EVERY_CODE,)
    ignore: tuple[str, ...] = ()
    per_file_ignores: tuple[tuple[PathPatterns, tuple[str, ...]], ...] = ()
    fail_on: Severity | None = Severity.WARNING
    exclude: tuple[PathPatterns, ...] = ()
    force_exclude: bool = False
    models: tuple[ModelSpec, ...] = ()
    only_listed_models: bool = False
    mode: str = "train"
    execute: bool = True
    import_mode: str = "definitions"
    timeout: float = 60.0
    memory_limit: int = 8 << 30
    jobs: int = field(default_factory=_default_jobs)
    fix: bool = False
    safe_fixes_only: bool = False
    diff: bool = False
    measure: bool = False
    device: str = "cpu"
    seeds: int = 1
    precision: str = "fp32"
    data: str = ""
    train_steps: int = 0
    output_format: str = "text"
    output_file: str = ""
    show_info: bool = False
    statistics: bool = False
    quiet: bool = False
    debug: bool = False
    color: bool = False
    width: int = 0

    def selects(self, code: str, path: str | Path) -> bool:
        """Whether findings of ``code`` in the file ``path`` are wanted.

        The longer prefix wins between ``select`` and ``ignore`` (``--select IC2 --ignore IC201``,
        ``--select IC801 --ignore IC8``); equally long, ``ignore`` does. What was not checked (IC001, IC002) is said
        whatever was selected, unless it is ignored by name.
        """
        selected = _longest(self.select, code)
        if code in _UNHEARD:
            selected = max(selected, len(EVERY_CODE))
        if selected <= _longest(self.ignore, code):
            return False
        return not any(_longest(codes, code) and patterns.matches(path) for patterns, codes in self.per_file_ignores)

    @property
    def needs_models(self) -> bool:
        """Whether any wanted rule looks at a built model (else none is built, and torch is never imported)."""
        if not self.execute:
            return False
        if self.measure:
            return True
        return any(
            "model" in page.level and _longest(self.select, code) > _longest(self.ignore, code)
            for code, page in rule_pages().items()
        )

    def excludes(self, path: str | Path) -> bool:
        """Whether the file or folder ``path`` is left out when folders are searched."""
        return any(patterns.matches(path) for patterns in self.exclude)

    def fails(self, severity: Severity) -> bool:
        """Whether a finding of this severity makes the exit code 1."""
        return self.fail_on is not None and severity >= self.fail_on

    def shows(self, severity: Severity) -> bool:
        """Whether a finding of this severity is printed (info only on demand, or where it makes the run fail)."""
        return severity > Severity.INFO or self.show_info or self.fails(severity)


def _longest(prefixes: Iterable[str], code: str) -> int:
    """Length of the longest of ``prefixes`` that ``code`` begins with, 0 if none."""
    return max((len(prefix) for prefix in prefixes if code.startswith(prefix)), default=0)


def near(given: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
