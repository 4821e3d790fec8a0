"""What to tell initcheck so that a model can be built: the package to install, or the shortest configuration."""

from __future__ import annotations

import re
from typing import Any

from initcheck.discovery import synthesis
from initcheck.discovery.candidate import Candidate
from initcheck.discovery.conventions import UNKNOWN
from initcheck.discovery.placeholders import NotAvailableError
from initcheck.source.file import SourceFile

_NOT_INSTALLED = re.compile(r"the package '([\w.]+)' is not installed")
_OPEN = "?"
"""Stands for a value that only the user knows."""


def installation(reason: str) -> str:
    """What to install, if that is what the reason says."""
    match = _NOT_INSTALLED.search(reason)
    return f"install {match[1]} in the environment that initcheck runs in" if match is not None else ""


def construction(candidate: Candidate, reason: str) -> str:
    """Advice for a model that could not be built: TOML to paste, values to be adapted where it is not known better.

    A value that TOML cannot write makes the target a call, its arguments left open as ``...``.
    """
    advice = installation(reason)
    hints = candidate.input_hints
    if advice or hints.source is None:
        return advice
    name = hints.class_name or candidate.name
    call = _arguments(name, hints.source, candidate)
    open_values = any(value == _OPEN for value in call.values())
    lines = ["[[tool.initcheck.models]]"]
    if all(_is_plain(value) for value in call.values()):
        lines.append(f'target = "{hints.source.path}:{name}"')
        if call:
            shown = ", ".join(f"{key} = {_toml(value)}" for key, value in call.items())
            lines.append(f"kwargs = {{ {shown} }}  # " + (f'fill in "{_OPEN}"' if open_values else "adapt"))
    else:
        shown = ", ".join(f"{key}={value if _is_plain(value) else '...'}" for key, value in call.items())
        lines.append(f'target = "{hints.source.path}:{name}({shown})"  # fill in ...')
    return "\n".join(lines)


def _arguments(name: str, source: SourceFile, candidate: Candidate) -> dict[str, Any]:
    """The required parameters of a class or factory, with the value that their names suggest."""
    hints = candidate.input_hints
    target = vars(hints.module).get(name) if hints.module is not None else None
    context = hints.context or synthesis.Context({})
    found: dict[str, Any] = {}
    for parameter in synthesis.parameters(target, source.find_class(name)) if callable(target) else ():
        if parameter.required:
            try:
                value = synthesis.value_for(parameter, context)
            except NotAvailableError:
                value = UNKNOWN
            found[parameter.name] = _OPEN if value is UNKNOWN or value is None else value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
