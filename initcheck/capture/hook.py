"""In the captured command's process: the init log from torch's import on, until the first training forward."""

from __future__ import annotations

import contextlib
import dis
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from initcheck.capture.session import Session
from initcheck.findings import Location
from initcheck.results import FileResult, Report
from initcheck.tracing.frames import kind_of, user_stack
from initcheck.tracing.initlog import InitLog

_HOOKS: list[_Hook] = []
_PATIENCE = 5.0  # seconds to wait for the end that initcheck brings


def activate(folder: str) -> None:
    """Watch this process (called once, when torch has been imported)."""
    hook = _Hook(Session(Path(folder)))
    _HOOKS.append(hook)
    hook.begin()


class _Hook:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.settings = session.settings()
        self.log = InitLog(lazy=False)
        self.modes = contextlib.ExitStack()
        self.original = nn.Module.__call__
        self.local = threading.local()
        self.process = os.getpid()

    def begin(self) -> None:
        """Enter the log, and look at every call of a module."""
        from initcheck.tracing.build import watched

        self.session.note("torch", sys.argv[0] if sys.argv else "")
        self.modes.enter_context(watched(self.log))
        hook, original = self, self.original

        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if getattr(hook.local, "inside", False) or os.getpid() != hook.process:
                return original(module, *args, **kwargs)
            hook.local.inside = True
            try:
                hook.consider(module, args, kwargs, sys._getframe(1))
                return original(module, *args, **kwargs)
            finally:
                hook.local.inside = False

        nn.Module.__call__ = called  # type: ignore[method-assign]
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.sleep)

    def sleep(self) -> None:
        """In a forked process (a data loader's worker): log nothing."""
        self.log.awake = False

    def consider(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType) -> None:
        """Analyse an outermost call if it is the one to capture; does not return then."""
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return  # a loss, a transform, a frozen feature extractor
        target, entry, args, kwargs = _entry(module, args, kwargs, caller)
        names = [cls.__name__ for cls in type(_unwrapped(target)).__mro__]
        where = user_stack(start=caller, exact=False)
        place = f"{where[0].location.path}:{where[0].location.line}" if where else ""
        shown = f" ({self.settings.shown(where[0].location.path)}:{where[0].location.line})" if where else ""
        spoken = f"{names[0]}{shown}"
        if self.settings.only and self.settings.only not in names:
            self.session.note("other", spoken)
            return
        if module.training != (self.settings.config.mode == "train"):
            self.session.note("mode", spoken)
            return
        if not self.session.claim():
            time.sleep(3600)  # another process of the command was first: wait for the end
        self.end(self.analysed(target, entry, args, kwargs, place))

    def analysed(
        self, module: nn.Module, entry: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str
    ) -> FileResult:
        """The audit of the model as it is, on the inputs that it got."""
        nn.Module.__call__ = self.original  # type: ignore[method-assign]
        self.modes.close()
        path = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "command"
        try:
            return FileResult(path, models=(self._report(module, entry, args, kwargs, place),))
        except Exception as error:
            from initcheck.rules.ic002_model_not_analysed import model_not_analysed
            from initcheck.tracing.ladder import TraceError

            if not isinstance(error, TraceError):
                return FileResult(path, defects=(f"{type(error).__name__}: {error}\n{traceback.format_exc()}",))
            name = type(_unwrapped(module)).__name__
            found = model_not_analysed(path, name, str(error), location=_location(module, place))
            return FileResult(path, findings=(found,), debug=traceback.format_exc())

    def _report(
        self, module: nn.Module, entry: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str
    ) -> Report:
        from dataclasses import replace

        from initcheck.audit import audit
        from initcheck.source.file import SourceError, SourceFile
        from initcheck.tracing.ladder import trace

        started = time.perf_counter()
        if entry:
            module.forward = getattr(module, entry)
        mode = self.settings.config.mode
        traced = trace(module, args, kwargs, mode=mode, log=self.log, name=type(_unwrapped(module)).__name__)
        location = _location(module, place)
        try:
            source = SourceFile.read(location.path)
        except (OSError, SourceError):
            source = None
        audited = audit(traced, location, source)
        notes = [f"defect in initcheck: {defect}" for defect in audited.defects]
        path, _, line = place.rpartition(":")
        how = f"`{self.settings.command}`, called at {self.settings.shown(path)}:{line}"
        how += f"; run by {entry}()" if entry else ""
        seconds = time.perf_counter() - started
        return replace(audited.report, built_by=how, notes=(*audited.report.notes, *notes), seconds=seconds)

    def end(self, result: FileResult) -> None:
        """Hand the result over and end the process, its data loaders first: nothing of the training runs."""
        self.session.deliver(pickle.dumps(result))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        for child in multiprocessing.active_children():
            child.terminate()
        time.sleep(_PATIENCE)  # initcheck ends the whole family; orphans would not be found any more
        os._exit(0)  # no exit handlers, no ``finally``: a checkpoint of an untrained model helps nobody


def _unwrapped(module: nn.Module) -> nn.Module:
    from initcheck.tracing.copies import unwrapped

    return unwrapped(module)


def _location(module: nn.Module, place: str) -> Location:
    from initcheck.tracing.definitions import class_location

    path, _, line = place.rpartition(":")
    return class_location(type(_unwrapped(module))) or Location(path or "<command>", int(line or 1))


def _entry(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType
) -> tuple[nn.Module, str, tuple[Any, ...], dict[str, Any]]:
    """(module, method, args, kwargs): the call itself, or that of the owner's method which it is a part of.

    An agent without ``forward`` calls its parts from ``get_action_and_value``: the agent is the model then. Only where
    the method's arguments are still what it was called with.
    """
    found: tuple[nn.Module, str, tuple[Any, ...], dict[str, Any]] = (module, "", args, kwargs)
    frame: FrameType | None = caller
    while frame is not None:
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(owner, nn.Module) and owner is not module and kind_of(code.co_filename) != "torch":
            given = _arguments(frame)
            if given is not None and _lacks_forward(owner) and any(part is module for part in owner.modules()):
                found = (owner, code.co_name, *given)
        frame = frame.f_back
    return found


def _lacks_forward(module: nn.Module) -> bool:
    return type(module).forward is nn.Module.forward and "forward" not in vars(module)


def _arguments(frame: FrameType) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What a method was called with (without ``self``); None if one of the names may have been bound anew since."""
    code = frame.f_code
    if code.co_flags & 0x0C:  # *args or **kwargs
        return None
    count, keywords = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames[1 : count + keywords]
    for instruction in dis.get_instructions(code):
        if instruction.offset >= frame.f_lasti:
            break
        if instruction.opname in ("STORE_FAST", "DELETE_FAST", "STORE_DEREF") and instruction.argval in names:
            return None
    local = frame.f_locals
    if any(name not in local for name in names):
        return None
    positional = code.co_varnames[1:count]
    return tuple(local[name] for name in positional), {
        name: local[name] for name in code.co_varnames[count : count + keywords]
    }
