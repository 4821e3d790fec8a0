"""User code runs in a process of its own: a file's models are analysed in a child forked from a server that has torch.

Whatever user code does there (prints, ``sys.exit``, a segmentation fault, an endless loop, ``os.chdir``) ends with that
child. The child streams one message per model, so a model that hangs or crashes costs only itself: the file is taken up
again without it. Torch is never imported in the parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

from initcheck import child
from initcheck.findings import Finding, Location
from initcheck.history import ModelHistory
from initcheck.limits import Watch
from initcheck.places import as_given, relocated
from initcheck.results import FileResult, Report

if TYPE_CHECKING:
    from initcheck.config import Config


@dataclass(frozen=True, slots=True)
class FileJob:
    """One file to analyse. ``text`` stands in for what is on disk (a fix is tried). ``skip``: models not to build.

    ``task``: ``check`` its models, or ``trace`` who wrote their parameters.
    """

    path: str
    text: str
    config: Config
    measure: bool = False
    skip: frozenset[str] = frozenset()
    task: Literal["check", "trace"] = "check"


@dataclass(slots=True)
class _Progress:
    """What the child has said so far."""

    current: str = ""
    location: Location | None = None
    models: list[Report] = field(default_factory=list)
    histories: list[ModelHistory] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    partial: Report | None = None
    """The model under way, as far as it has been measured."""

    @property
    def finished(self) -> set[str]:
        """Models of which all has been said."""
        done: Iterable[Report | ModelHistory | Finding] = (*self.models, *self.histories, *self.findings)
        return {item.model for item in done if item.model}


class InterruptedRunError(Exception):
    """The run is over: raised in the threads that still wait for a child."""


INTERRUPTED = threading.Event()
"""Set by the engine when the run is broken off (Ctrl-C), so that no thread goes on waiting for its child."""

_ATTENTION = 0.1  # seconds between two looks at a child that says nothing
_WARM_UP = 300.0  # seconds for the server to import torch, on however slow a machine


def analyse_isolated(job: FileJob, tell: Callable[[str], None] | None = None) -> FileResult:
    """Analyse a file's models in a child process.

    A child that dies, or outlives ``config.timeout`` seconds or outgrows ``config.memory_limit`` bytes on one model,
    yields IC002 for that model; the rest of the file is analysed by another child.

    Args:
        job: the file.
        tell: called with the name of each model when its analysis begins.
    """
    progress = _Progress()
    skipped = set(job.skip)
    while True:
        try:
            reason = _run_child(replace(job, skip=frozenset(skipped)), progress, tell)
        except InterruptedRunError:
            if not job.measure:  # a fix that is tried: half of a result must not look like a whole one
                raise
            progress.models += [progress.partial] if progress.partial is not None else []
            break
        if reason is None:
            break
        lost, known = progress.current, len(skipped)
        skipped |= progress.finished
        if lost and lost not in skipped:
            progress.findings.append(_lost(job, progress, reason))
            skipped.add(lost)
        elif len(skipped) == known:  # it died outside a model, or again on one it was told to skip: no way on
            progress.current = ""
            progress.findings.append(_lost(job, progress, reason))
            break
        progress.current = ""
    return FileResult(
        path=job.path,
        models=tuple(progress.models),
        findings=tuple(progress.findings),
        defects=tuple(progress.defects),
        debug="\n".join(progress.debug),
        errors=tuple(progress.errors),
        histories=tuple(progress.histories),
    )


def _lost(job: FileJob, progress: _Progress, reason: str) -> Finding:
    """IC002 for the model under way, or for the file if none was."""
    from initcheck.rules.ic002_model_not_analysed import model_not_analysed

    where = relocated(progress.location, as_given(job.path)) if progress.current else None
    return model_not_analysed(job.path, progress.current, reason, location=where)


def _run_child(job: FileJob, progress: _Progress, tell: Callable[[str], None] | None) -> str | None:
    """One child from start to end; None if it finished, else why it did not."""
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child.main, args=(job, sender), daemon=False)
    with _undisturbed_start():
        process.start()
    sender.close()
    watch = Watch(process.pid, job.config.memory_limit)
    try:
        return _listen(process, receiver, job, progress, tell, watch)
    finally:
        _end(process, watch)
        receiver.close()


def _listen(
    process: Any,
    receiver: Connection,
    job: FileJob,
    progress: _Progress,
    tell: Callable[[str], None] | None,
    watch: Watch,
) -> str | None:
    limit = job.config.timeout
    deadline = time.monotonic() + _WARM_UP
    while True:
        ready = multiprocessing.connection.wait([receiver, process.sentinel], _ATTENTION)
        if INTERRUPTED.is_set():
            raise InterruptedRunError
        if receiver in ready:
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):
                process.join(5)
                return _why_it_died(process.exitcode)
            if kind == "done":
                return None
            if kind in _TURNS:
                deadline = time.monotonic() + limit
            _take(kind, value, job, progress, tell)
        elif ready:  # its processes may still hold the pipe open, it has ended
            process.join(5)
            return _why_it_died(process.exitcode)
        elif time.monotonic() > deadline:
            return f"took longer than {limit:g} s (raise it with --timeout)"
        elif excess := watch.exceeded():
            return excess


_TURNS = frozenset({"started", "begin", "report", "finding", "history", "partial", "progress"})
"""Messages after which the child has its full time again."""


def _take(kind: str, value: Any, job: FileJob, progress: _Progress, tell: Callable[[str], None] | None) -> None:
    shown = as_given(job.path)
    if kind == "begin":
        progress.current, progress.location = value
        if tell is not None:
            tell(f"{job.path}: {progress.current}")
    elif kind == "report":
        progress.models.append(relocated(value, shown))
        progress.current, progress.partial = "", None
    elif kind == "partial":
        progress.partial = relocated(value, shown)
    elif kind == "progress":
        if tell is not None:
            tell(f"{job.path}: {progress.current}: {value}")
    elif kind == "history":
        progress.histories.append(relocated(value, shown))
        progress.current = ""
    elif kind == "finding":
        progress.findings.append(relocated(value, shown))
        progress.current = ""
    elif kind == "defect":
        progress.defects.append(value)
    elif kind == "error":
        progress.errors.append(value)
    elif kind == "debug":
        progress.debug.append(value)


def _why_it_died(code: int | None) -> str:
    if code is None:
        return "it closed its process's files"
    if code == child.BROKEN:
        return "its process could send no result (it closed its files)"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended early with exit code {code}"


def _end(process: Any, watch: Watch) -> None:
    """Kill the child and whatever it started (it leads a process group of its own where there are groups)."""
    watch.end_descendants()
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join(5)


_CONTEXT: list[Any] = []


def _context() -> Any:
    """The fork server (its one process imports torch once), or plain spawning where there is no fork."""
    if not _CONTEXT:
        if "forkserver" in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["initcheck.analysis"])
            _CONTEXT.append(context)
        else:
            _CONTEXT.append(multiprocessing.get_context("spawn"))
    return _CONTEXT[0]


_START_LOCK = threading.Lock()  # several threads start children
_HASH_SEED = "PYTHONHASHSEED"


@contextlib.contextmanager
def _undisturbed_start() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's ``__main__`` again in the child: it may be any script.

    And let sets have the same order in every run: what user code makes of one is reproducible then.
    """
    with _START_LOCK:
        main, seed = sys.modules.get("__main__"), os.environ.get(_HASH_SEED)
        sys.modules["__main__"] = type(sys)("__main__")
        os.environ.setdefault(_HASH_SEED, "0")
        try:
            yield
        finally:
            if main is not None:
                sys.modules["__main__"] = main
            if seed is None:
                del os.environ[_HASH_SEED]
