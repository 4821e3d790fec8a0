"""Build a model without allocating its weights, and know afterwards who wrote each of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initcheck.tracing.copies import held_tensors
from initcheck.tracing.frames import kind_of, user_stack
from initcheck.tracing.initfuncs import reporting
from initcheck.tracing.initlog import InitLog
from initcheck.tracing.offline import offline
from initcheck.tracing.randomness import random_state_kept
from initcheck.tracing.replaced import DataAssignments


class BuildError(Exception):
    """A constructor raised, or did not return a module; the message says why and where, in one line."""


@dataclass(slots=True)
class Built:
    """A model whose big tensors were never written, and the log of what would have been."""

    model: nn.Module
    log: InitLog

    def materialise(self) -> nn.Module:
        """The model with its weights drawn for real (it then takes its full memory)."""
        with random_state_kept():
            return self.log.materialised(self.model)


def build(constructor: Callable[[], Any]) -> Built:
    """Run a constructor under the init log.

    Args:
        constructor: builds and initialises the model, and returns it.

    Raises:
        BuildError: it raised, or returned something else than an ``nn.Module``.
    """
    log = InitLog()
    try:
        with random_state_kept(), offline(log.notes), watched(log):
            model = constructor()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise BuildError(_reason(error)) from error
    if not isinstance(model, nn.Module):
        raise BuildError(f"it returned {type(model).__name__}, not a torch.nn.Module")
    with random_state_kept():
        log.settle([*model.buffers(), *held_tensors(model)])
    return Built(model, log)


@contextlib.contextmanager
def watched(log: InitLog) -> Iterator[None]:
    """For the length of the block, the log learns of every write of this thread."""
    with _modules_noted(log), reporting(log), DataAssignments(log), log:
        yield


def initialise_lazily(model: nn.Module, log: InitLog, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Let lazy modules (``nn.LazyLinear``) take their shapes from one real pass, under the log.

    Raises:
        Exception: whatever the forward raises.
    """
    with random_state_kept(), watched(log), torch.no_grad():
        model(*args, **kwargs)


def _reason(error: BaseException) -> str:
    text = (str(error).strip() or "no message").splitlines()[0][:300]
    where = ""
    trace = error.__traceback__
    while trace is not None:
        if kind_of(trace.tb_frame.f_code.co_filename) == "user":
            where = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    if isinstance(error, SystemExit):
        return f"its constructor called sys.exit({error.code!r}){where}"
    return f"its constructor raised {type(error).__name__}: {text}{where}"


@contextlib.contextmanager
def _modules_noted(log: InitLog) -> Iterator[None]:
    """Note the user's frames whenever a module's constructor begins."""
    original = nn.Module.__init__
    alive: list[nn.Module] = []

    def noted(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if id(self) not in log.built_at:
            frame = sys._getframe(1)
            while frame.f_back is not None and _constructs(frame, self):
                frame = frame.f_back
            log.built_at[id(self)] = user_stack(start=frame)
            alive.append(self)  # ids must not be used again while the model is being built
        original(self, *args, **kwargs)

    nn.Module.__init__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = original  # type: ignore[method-assign]


def _constructs(frame: Any, module: nn.Module) -> bool:
    """Whether the frame is one of the module's own constructors (its classes' ``__init__``)."""
    code = frame.f_code
    if not code.co_varnames or code.co_argcount == 0:
        return False
    return frame.f_locals.get(code.co_varnames[0]) is module
