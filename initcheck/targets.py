"""Models that are named, not filed: ``timm:resnet50``, ``hf:gpt2``, ``package.module:factory``. No torch here."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

LIBRARIES = ("timm", "hf")
"""Schemes of targets that a library builds."""

_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<expression>[A-Za-z_].*)")


@dataclass(frozen=True, slots=True)
class LibraryTarget:
    """``hf:llama?num_hidden_layers=4``: who builds it, which architecture, and what differs from its defaults."""

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> LibraryTarget | None:
        """The target that ``text`` names; None if it names none.

        Raises:
            ValueError: if it names one and is malformed.
        """
        library, colon, rest = text.partition(":")
        if not colon or library not in LIBRARIES:
            return None
        name, _, query = rest.partition("?")
        if not name:
            raise ValueError(f"{text!r} names no model: expected {library}:NAME, such as {_EXAMPLES[library]}")
        try:
            options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            options = [("", "")]
        if not all(key.isidentifier() for key, _ in options):
            raise ValueError(f"{text!r}: expected options as in {_EXAMPLES[library]}?key=value&key=value")
        return cls(library, name, {key: _value(value) for key, value in options})


_EXAMPLES = {"timm": "timm:resnet50", "hf": "hf:gpt2"}


def _value(text: str) -> Any:
    """A Python literal, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text, text)


def module_target(text: str, root: Path) -> str | None:
    """``package.module:factory`` as ``path/to/package/module.py:factory``; None if it is not of that form.

    The module is looked up as ``python -m`` would, in ``root`` first, then among what is installed; nothing of it is
    executed.

    Raises:
        ValueError: if there is no such module, or it is not written in Python.
    """
    match = _MODULE.fullmatch(text)
    if match is None:
        return None
    folders: list[str] | None = [str(root), str(root / "src")]
    spec = None
    for part in match["module"].split("."):
        spec = PathFinder.find_spec(part, folders) or (PathFinder.find_spec(part) if spec is None else None)
        if spec is None:
            raise ValueError(f"{text!r}: there is no module {match['module']!r} in {root} or installed")
        folders = list(spec.submodule_search_locations or [])
    origin = spec.origin if spec is not None else None
    if origin is None or not origin.endswith(".py"):
        raise ValueError(f"{text!r}: module {match['module']!r} is no Python file")
    return f"{origin}:{match['expression']}"
