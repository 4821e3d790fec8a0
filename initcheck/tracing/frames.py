"""Which lines of user code are under way: the stack without the frames of torch, of Python's library and of ours."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from types import CodeType, FrameType

import torch

from initcheck.findings import Location
from initcheck.tracing.trace import Frame

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = tuple({sysconfig.get_paths()["stdlib"] + os.sep, sysconfig.get_paths()["platstdlib"] + os.sep})
_PLUMBING = ("typing_extensions.py", "decorator.py")
"""Installed, but only ever on the way to somebody else's function."""
_SITE = ("site-packages" + os.sep, "dist-packages" + os.sep)


@functools.cache
def kind_of(filename: str) -> str:
    """``torch``, ``ours``, ``stdlib``, ``library`` (an installed package) or ``user``."""
    path = os.path.abspath(filename)
    if filename.startswith("<"):
        return "stdlib"
    if path.startswith(_TORCH):
        return "torch"
    if path.startswith(_OURS):
        return "ours"
    if any(site in path for site in _SITE):
        return "stdlib" if os.path.basename(path) in _PLUMBING else "library"
    if path.startswith(_STDLIB):
        return "stdlib"
    return "user"


_shown: dict[str, bool] = {}


def _is_shown(filename: str) -> bool:
    """Whether frames of the file belong to the stack; remembered, as a stack is walked for every call of a pass."""
    shown = _shown[filename] = kind_of(filename) in ("user", "library")
    return shown


def user_stack(limit: int = 12, *, exact: bool = True, start: FrameType | None = None) -> tuple[Frame, ...]:
    """User and library frames, innermost first.

    Args:
        limit: at most so many.
        exact: with columns (slower; Python 3.11 and later know them, earlier versions give the line only).
        start: the frame to start from; the caller's by default.
    """
    frames: list[Frame] = []
    frame = start or sys._getframe(1)
    known = _shown
    while frame is not None and len(frames) < limit:
        code = frame.f_code
        path = code.co_filename
        if known[path] if path in known else _is_shown(path):
            name = getattr(code, "co_qualname", code.co_name)
            if exact:
                frames.append(_exact_frame(code, frame.f_lineno, frame.f_lasti, name))
            else:
                frames.append(_frame(code.co_filename, frame.f_lineno, name))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(frames)


@functools.lru_cache(maxsize=65536)
def _frame(path: str, line: int, name: str) -> Frame:
    return Frame(Location(path, line), name)


@functools.lru_cache(maxsize=65536)
def _exact_frame(code: CodeType, line: int, instruction: int, name: str) -> Frame:
    if hasattr(code, "co_positions"):
        for index, (first, last, column, end) in enumerate(code.co_positions()):
            if index == instruction // 2:
                if first is not None and column is not None and last is not None and end is not None:
                    return Frame(Location(code.co_filename, first, column + 1, last, end + 1), name)
                break
    return _frame(code.co_filename, line, name)
