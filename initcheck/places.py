"""Paths as the user gave them: analysed code knows its files by other names than the command line does."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TypeVar, cast

from initcheck.findings import Location

T = TypeVar("T")


def as_given(given: str) -> Callable[[str], str]:
    """How to write a path in the report on the file ``given``.

    The file itself as it was given; others, if it was given relative, relative too where they are below the current
    folder.
    """
    itself = os.path.realpath(given)
    here = os.path.realpath(os.curdir) + os.sep

    def shown(path: str) -> str:
        if path == given or path.startswith("<"):
            return path
        real = os.path.realpath(path)
        if real == itself:
            return given
        return os.path.relpath(real, here) if not os.path.isabs(given) and real.startswith(here) else path

    return shown


def relocated(value: T, shown: Callable[[str], str]) -> T:
    """A finding, report, or anything made of dataclasses and tuples, with every location's path rewritten."""
    return mapped(value, lambda location: dataclasses.replace(location, path=shown(location.path)))


def mapped(value: T, at: Callable[[Location], Location], text: Callable[[str], str] | None = None) -> T:
    """Anything made of dataclasses and tuples, with ``at`` applied to every location (and ``text`` to every string)."""
    if isinstance(value, Location):
        return cast(T, at(value))
    if isinstance(value, str):
        return cast(T, text(value)) if text is not None else value
    if isinstance(value, tuple):
        return cast(T, tuple(mapped(item, at, text) for item in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: mapped(old, at, text)
            for field in dataclasses.fields(value)
            if isinstance(old := getattr(value, field.name), (tuple, str)) or dataclasses.is_dataclass(old)
        }
        return cast(T, dataclasses.replace(value, **changed)) if changed else value
    return value
