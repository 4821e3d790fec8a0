"""The analysing process: cut off from terminal, network and files, it sends its results message by message."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import sleep
from typing import TYPE_CHECKING, Any

from initcheck.restrictions import restrict

if TYPE_CHECKING:
    from initcheck.worker import FileJob

Emit = Callable[[str, Any], None]
"""How the child speaks: ("started", None) when torch is there, ("begin", (name, Location)), ("report", Report),
("finding", Finding), ("history", ModelHistory), ("done", None), and with a text each "defect", "error" (what could not
be done) and "debug"."""

_SET_PDEATHSIG, _SIGKILL = 1, 9
_PATIENCE = 10.0  # seconds to wait for the end that the parent brings
BROKEN = 70
"""Exit code if not even a message can be sent (EX_SOFTWARE)."""


def main(job: FileJob, sender: Connection) -> None:
    """Analyse a job; ends the process."""
    _leave_terminal()
    _end_with_parent()

    owner = os.getpid()

    def emit(kind: str, value: Any) -> None:
        if os.getpid() != owner:
            os._exit(0)  # analysed code forked, and its copy ran on to here
        sender.send((kind, value))

    code = 0
    try:
        _work(job, emit)
        emit("done", None)
        sleep(_PATIENCE)  # what it has started is found by its parent process, as long as that one is there
    except BaseException:
        code = BROKEN  # the pipe is gone: analysed code closed it
    os._exit(code)  # user threads and exit handlers do not get a say


def _work(job: FileJob, emit: Emit) -> None:
    try:
        from initcheck.analysis import analyse  # in here: a torch that does not import is a defect, not a model's

        emit("started", None)
        restrict()
        analyse(job, emit)
    except (BrokenPipeError, ConnectionError):
        raise
    except BaseException as error:
        emit("defect", f"{job.path}: {type(error).__name__}: {error}\n{traceback.format_exc()}")


def _leave_terminal() -> None:
    """A session and process group of its own, and nothing to read or write."""
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _end_with_parent() -> None:
    """On Linux: die with the server, and be the first to go when memory runs out."""
    if sys.platform != "linux":
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, _SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
