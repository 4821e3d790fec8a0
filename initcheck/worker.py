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
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from initcheck.findings import Finding, Location
from initcheck.places import as_given, relocated
from initcheck.results import FileResult, Report

if TYPE_CHECKING:
    from initcheck.config import Config


@dataclass(frozen=True, slots=True)
class FileJob:
    """One file to analyse. ``text`` stands in for what is on disk (a fix is tried). ``skip``: models not to build."""

    path: str
    text: str
    config: Config
    measure: bool = False
    skip: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Progress:
    """What the child has said so far."""

    current: str = ""
    location: Location | None = None
    models: list[Report] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    debug: list[str] = field(default_factory=list)
    done: bool = False


Emit = Callable[[str, Any], None]
"""How the child speaks: ("begin", (name, Location)), ("report", Report), ("finding", Finding), and with a text each
"defect", "error" (what could not be done) and "debug"."""


class InterruptedRunError(Exception):
    """The run is over: raised in the threads that still wait for a child."""


INTERRUPTED = threading.Event()
"""Set by the engine when the run is broken off (Ctrl-C), so that no thread goes on waiting for its child."""

_ATTENTION = 0.2  # seconds between two looks at INTERRUPTED


def analyse_isolated(job: FileJob, tell: Callable[[str], None] | None = None) -> FileResult:
    """Analyse a file's models in a child process.

    A child that dies or outlives ``config.timeout`` seconds on one model yields IC002 for that model; the rest of the
    file is analysed by another child.

    Args:
        job: the file.
        tell: called with the name of each model when its analysis begins.
    """
    progress = _Progress()
    skipped = set(job.skip)
    while True:
        reason = _run_child(replace(job, skip=frozenset(skipped)), progress, tell)
        if reason is None:
            break
        progress.findings.append(_lost(job, progress, reason))
        skipped.update(report.model for report in progress.models)
        if not progress.current or progress.current in skipped:
            break  # it died outside a model, or again on one it was told to skip: nothing more to save
        skipped.add(progress.current)
        progress.current = ""
    return FileResult(
        path=job.path,
        models=tuple(progress.models),
        findings=tuple(progress.findings),
        defects=tuple(progress.defects),
        debug="\n".join(progress.debug),
        errors=tuple(progress.errors),
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
    child = context.Process(target=_child_main, args=(job, sender), daemon=False)
    with _main_module_hidden():
        child.start()
    sender.close()
    try:
        return _listen(child, receiver, job, progress, tell)
    finally:
        _end(child)
        receiver.close()


def _listen(
    child: Any, receiver: Connection, job: FileJob, progress: _Progress, tell: Callable[[str], None] | None
) -> str | None:
    limit = job.config.timeout
    shown = as_given(job.path)
    while True:
        if not _arrives(receiver, limit + (30.0 if not progress.current else 0.0)):
            return f"took longer than {limit:g} s (raise it with --timeout)"
        try:
            kind, value = receiver.recv()
        except EOFError:
            child.join(5)
            return _why_it_died(child.exitcode)
        if kind == "done":
            return None
        if kind == "begin":
            progress.current, progress.location = value
            if tell is not None:
                tell(f"{job.path}: {progress.current}")
        elif kind == "report":
            progress.models.append(relocated(value, shown))
            progress.current = ""
        elif kind == "finding":
            progress.findings.append(relocated(value, shown))
        elif kind == "defect":
            progress.defects.append(value)
        elif kind == "error":
            progress.errors.append(value)
        elif kind == "debug":
            progress.debug.append(value)


def _arrives(receiver: Connection, seconds: float) -> bool:
    """Whether a message (or the end of the child) comes in that time."""
    end = time.monotonic() + seconds
    while not receiver.poll(min(_ATTENTION, max(end - time.monotonic(), 0.0))):
        if INTERRUPTED.is_set():
            raise InterruptedRunError
        if time.monotonic() >= end:
            return False
    return True


def _why_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended early with exit code {code}"


def _end(child: Any) -> None:
    """Kill the child and whatever it started (it leads a process group of its own where there are groups)."""
    if child.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.is_alive():
        child.kill()
    child.join(5)


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


_MAIN_LOCK = threading.Lock()  # several threads start children


@contextlib.contextmanager
def _main_module_hidden() -> Any:
    """Keep multiprocessing from importing the caller's ``__main__`` again in the child: it may be any script."""
    with _MAIN_LOCK:
        main = sys.modules.get("__main__")
        blank = type(sys)("__main__")
        sys.modules["__main__"] = blank
        try:
            yield
        finally:
            if main is not None:
                sys.modules["__main__"] = main


def _child_main(job: FileJob, sender: Connection) -> None:
    """In the child: no terminal, no network, one thread; then the analysis, message by message."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _cut_network()

    def emit(kind: str, value: Any) -> None:
        sender.send((kind, value))

    try:
        from initcheck.analysis import analyse_file  # in here: a torch that does not import is a defect, not a model's

        analyse_file(job, emit)
    except BaseException as error:
        emit("defect", f"{job.path}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
    emit("done", None)
    sender.close()
    os._exit(0)  # user threads and exit handlers do not get a say


def _cut_network() -> None:
    """Make every outgoing connection fail at once: an analysis never downloads anything."""
    import socket

    def refuse(self: socket.socket, address: Any) -> None:
        raise OSError(f"initcheck lets no analysed code reach the network (it tried {address!r})")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign,assignment]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
