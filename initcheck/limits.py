"""What a process and its descendants may use, watched from outside: time, memory, threads, processes."""

from __future__ import annotations

import contextlib
import time

import psutil

from initcheck.sizes import size_text

MOST_THREADS = 1024
MOST_PROCESSES = 64
_LOOK_AT_DESCENDANTS = 0.5  # seconds between two looks: finding them means listing every process


class Watch:
    """Looks at a process now and then; ``exceeded`` says what it has too much of.

    Resident memory is what counts: a model that is built lazily reserves address space that it never touches, so
    limits on that (``RLIMIT_AS``, ``RLIMIT_DATA``) would end healthy models.
    """

    def __init__(self, pid: int, memory: int) -> None:
        """``memory``: bytes that the process and its descendants may have resident, together."""
        self._memory = memory
        self._descendants: dict[int, psutil.Process] = {}
        self._looked = 0.0
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)

    def exceeded(self) -> str:
        """What the process uses too much of, in words; empty if nothing."""
        if self._process is None:
            return ""
        try:
            used, threads = self._process.memory_info().rss, self._process.num_threads()
        except psutil.Error:
            return ""
        if time.monotonic() - self._looked > _LOOK_AT_DESCENDANTS:
            self._look()
        for descendant in self._descendants.values():
            with contextlib.suppress(psutil.Error):
                used += descendant.memory_info().rss
                threads += descendant.num_threads()
        if used > self._memory:
            return f"took more than {size_text(self._memory)} of memory (raise it with --memory-limit)"
        if threads > MOST_THREADS:
            return f"started more than {MOST_THREADS} threads"
        if len(self._descendants) > MOST_PROCESSES:
            return f"started more than {MOST_PROCESSES} processes"
        return ""

    def _look(self) -> None:
        """Note all descendants; those noted before are kept: their parents may have ended."""
        self._looked = time.monotonic()
        with contextlib.suppress(psutil.Error):
            if self._process is not None:
                self._descendants |= {child.pid: child for child in self._process.children(recursive=True)}
        self._descendants = {pid: child for pid, child in self._descendants.items() if child.is_running()}

    def end_descendants(self) -> None:
        """Kill whatever the process has started, in other sessions too."""
        self._look()
        for child in self._descendants.values():
            with contextlib.suppress(psutil.Error):
                child.kill()
