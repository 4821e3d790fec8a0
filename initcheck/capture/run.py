"""Running a user's command until its model was captured, and ending it. No torch here."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from initcheck.capture.session import Session, Settings
from initcheck.places import as_given, relocated
from initcheck.results import FileResult

_BOOTSTRAP = Path(__file__).parent / "bootstrap"
_LOOK = 0.05  # seconds between two looks at the session
_PATIENCE = 5.0  # seconds to wait for processes that were killed


class CaptureError(Exception):
    """Nothing was captured; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. ``shown``: as the user wrote it."""

    arguments: tuple[str, ...]

    @classmethod
    def of(cls, given: Sequence[str]) -> Command:
        """A command line; ``train.py ...`` and ``-m pkg.train ...`` are run by this Python.

        Raises:
            CaptureError: if there is no such program or script.
        """
        first = given[0]
        if first == "-m" or (first.endswith(".py") and not os.access(first, os.X_OK)):
            if first != "-m" and not os.path.exists(first):
                raise CaptureError(f"there is no script {first!r}")
            return cls((sys.executable, *given))
        if shutil.which(first) is None:
            raise CaptureError(f"there is no program {first!r}; for a script: initcheck capture -- python train.py")
        return cls(tuple(given))


def capture(given: Sequence[str], settings: Settings) -> FileResult:
    """Run the command until its first training forward; the audit of that model, paths relative to here.

    Its output goes to stderr, ours alone to stdout.

    Raises:
        CaptureError: if there is nothing to analyse.
    """
    command = Command.of(given)
    with tempfile.TemporaryDirectory(prefix="initcheck-", ignore_cleanup_errors=True) as folder:
        session = Session(Path(folder))
        session.begin(settings)
        sys.stdout.flush()
        process = subprocess.Popen(command.arguments, env=_environment(folder), stdout=_stderr())
        try:
            result = _wait(process, session, settings)
        finally:
            _end(process)
        if result is None:
            raise CaptureError(_why_nothing(process.returncode, session, settings))
    return relocated(_without_fixes(result), as_given(os.curdir))


def _without_fixes(result: FileResult) -> FileResult:
    """Nothing is rewritten here: to confirm a fix, the command would have to run again."""
    models = tuple(
        replace(report, findings=tuple(replace(finding, fix=None) for finding in report.findings))
        for report in result.models
    )
    return replace(result, models=models)


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, AttributeError):
        return subprocess.DEVNULL


def _environment(folder: str) -> dict[str, str]:
    path = os.environ.get("PYTHONPATH")
    home = Path(__file__).parents[2]
    return {
        **os.environ,
        "INITCHECK_CAPTURE": folder,
        "INITCHECK_CAPTURE_HOME": f"{home}@{sys.version_info[0]}.{sys.version_info[1]}",
        "PYTHONPATH": f"{_BOOTSTRAP}{os.pathsep}{path}" if path else str(_BOOTSTRAP),
    }


def _wait(process: subprocess.Popen[bytes], session: Session, settings: Settings) -> FileResult | None:
    """The result, None if the command ended without one."""
    deadline = float("inf")
    while True:
        ended = process.poll() is not None
        result = session.result()
        if result is not None or ended:
            return result
        if deadline == float("inf") and session.claimed:
            deadline = time.monotonic() + settings.config.timeout
        if time.monotonic() > deadline:
            raise CaptureError(f"the analysis took longer than {settings.config.timeout:g} s (raise it with --timeout)")
        time.sleep(_LOOK)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command with all that it has started."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(process.pid)
        family = [*root.children(recursive=True), root]
    for member in family:  # at once: a launcher that is asked to stop reports its workers' end at length
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(family, timeout=_PATIENCE)
    process.wait()


def _why_nothing(code: int, session: Session, settings: Settings) -> str:
    wanted, other = settings.config.mode, "eval" if settings.config.mode == "train" else "train"
    if session.defect:
        return f"the command's Python could not be watched: {session.defect}"
    if code:
        return f"the command failed with exit code {code} before a model was called in {wanted} mode"
    if not session.seen("torch"):
        return (
            "the command ended without importing torch in a Python that could be watched (python -I, -E and -S cannot "
            "be)"
        )
    if session.seen("mode"):
        models = ", ".join(session.seen("mode")[:3])
        return f"the command ended with models in {other} mode only: {models}; --mode {other} captures these"
    if session.seen("other"):
        return f"no {settings.only} was called; called were: {', '.join(session.seen('other')[:5])}"
    return "the command ended without calling a module that has trainable parameters"
