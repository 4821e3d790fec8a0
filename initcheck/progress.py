"""A sign of life on stderr for runs that take longer than a moment."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

PATIENCE = 1.0
"""Seconds of silence before anything is said."""

INTERVAL = 10.0
"""Seconds between two lines where stderr is a file or a pipe."""


class Progress:
    """Say what is being analysed: a spinner on a terminal, a plain line now and then elsewhere.

    Call it with a line (from any thread) whenever a file or a model is taken up.
    """

    def __init__(self, *, enabled: bool = True, patience: float = PATIENCE, interval: float = INTERVAL) -> None:
        self._enabled = enabled
        self._patience = patience
        self._interval = interval
        self._line = ""
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status: Any = None
        self._started = time.monotonic()
        self._finished = False

    def __enter__(self) -> Progress:
        if self._enabled:
            self._schedule(self._patience)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._finished = True
            if self._timer is not None:
                self._timer.cancel()
            if self._status is not None:
                self._status.stop()

    def __call__(self, line: str) -> None:
        """Take up ``line``, such as ``models/vgg.py: VGG16``."""
        with self._lock:
            self._line = line
            if self._status is not None:
                self._status.update(self._text())

    def _schedule(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._speak)
        self._timer.daemon = True
        self._timer.start()

    def _text(self) -> str:
        return f"initcheck: analysing {self._line}" if self._line else "initcheck: analysing"

    def _speak(self) -> None:
        with self._lock:
            if self._finished:
                return
            if sys.stderr.isatty():
                from rich.console import Console
                from rich.status import Status

                self._status = Status(self._text(), console=Console(stderr=True, markup=False, highlight=False))
                self._status.start()
                return
            elapsed = time.monotonic() - self._started
            print(f"{self._text()} ({elapsed:.0f} s)", file=sys.stderr, flush=True)
            self._schedule(self._interval)


def progress_bar(what: str, done: int, total: int, width: int = 20) -> str:
    """``as given ━━━━━━━━━━──────────  3 of 6``."""
    filled = width * done // max(total, 1)
    return f"{what} {'━' * filled}{'─' * (width - filled)} {done} of {total}"
