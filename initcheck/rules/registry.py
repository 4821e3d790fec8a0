"""All rules of this folder, found by name; each runs on its own, so that one that crashes silences no other."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import initcheck.rules
from initcheck.findings import Finding
from initcheck.source.decoding import SourceError

if TYPE_CHECKING:
    from initcheck.rules.base import ModelContext
    from initcheck.source.file import SourceFile


@dataclass(frozen=True, slots=True)
class RuleDefect:
    """A rule that raised: the tool's own fault, never the user's. ``str()`` is one line, then the traceback."""

    code: str
    subject: str
    error: str
    trace: str

    def __str__(self) -> str:
        return f"rule {self.code} crashed on {self.subject}: {self.error}\n{self.trace}"


@functools.cache
def rules() -> tuple[ModuleType, ...]:
    """The rule modules, in the order of their codes. Importing them does not import torch."""
    names = sorted(info.name for info in pkgutil.iter_modules(initcheck.rules.__path__) if _is_rule(info.name))
    return tuple(importlib.import_module(f"initcheck.rules.{name}") for name in names)


def _is_rule(name: str) -> bool:
    return name.startswith("ic") and name[2:5].isdigit() and name[5:6] == "_"


def source_codes() -> tuple[str, ...]:
    """Codes of the rules that read source files."""
    return tuple(rule.CODE for rule in rules() if hasattr(rule, "check_source"))


def model_codes() -> tuple[str, ...]:
    """Codes of the rules that read a traced model."""
    return tuple(rule.CODE for rule in rules() if hasattr(rule, "check_model"))


def check_source(source: SourceFile) -> tuple[list[Finding], list[str]]:
    """Run every source rule on a file: (findings, defects of rules as text).

    Raises:
        SourceError: if a rule needs the tree of a file that was opened only, and it has none.
    """
    return _run("check_source", source, source.path)


def check_model(context: ModelContext) -> tuple[list[Finding], list[str]]:
    """Run every model rule on a traced model: (findings, defects of rules as text)."""
    return _run("check_model", context, f"model {context.trace.model}")


def _run(method: str, given: Any, subject: str) -> tuple[list[Finding], list[str]]:
    findings: list[Finding] = []
    defects: list[str] = []
    for rule in rules():
        check: Callable[[Any], Iterator[Finding]] | None = getattr(rule, method, None)
        if check is None:
            continue
        try:
            findings.extend(check(given))
        except SourceError:
            raise  # a file that is parsed when the first rule needs its tree, and cannot be
        except Exception as error:
            summary = f"{type(error).__name__}: {error}"
            defects.append(str(RuleDefect(rule.CODE, subject, summary, traceback.format_exc())))
    return findings, defects
