"""From a model and example inputs to a trace: the recorder on fake tensors first, a real pass under it last."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn.parameter import is_lazy

from initcheck.collector import collector_paused
from initcheck.tracing.copies import Copy, enter_inputs, fake_copy, real_copy, unwrapped
from initcheck.tracing.live import live_buffers, live_modules, live_parameters
from initcheck.tracing.members import modules_of, named_tensors
from initcheck.tracing.randomness import random_state_kept
from initcheck.tracing.recorder import AutogradError, Recording, UntrackedError, finish, recording
from initcheck.tracing.trace import Trace

REAL_PASS_LIMIT = 1 << 28
"""The last rung copies and runs real weights: at most so many elements."""


class TraceError(Exception):
    """No forward pass could be recorded. ``reason``: one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    mode: str = "train",
    log: Any = None,
    name: str = "",
    inputs_given: bool = False,
) -> Trace:
    """Record one forward pass of a model; the model itself is left as it is.

    Args:
        model: live, or built by ``tracing.build.build`` (then pass its ``log``).
        args: positional arguments of the forward call.
        kwargs: its keyword arguments.
        mode: ``train`` or ``eval``.
        log: who wrote which parameter; None: distributions are measured from the weights.
        name: what to call the model; its class by default.
        inputs_given: the inputs are data whose statistics count, not only examples of a shape.

    Raises:
        TraceError: if the model cannot be run on these inputs; says why.
    """
    inner = unwrapped(model)
    if is_lazy_model(inner):
        settle(inner, log, tuple(args), kwargs)
    with random_state_kept(), _quiet(), collector_paused():
        recorded, rung, notes = _climb(inner, tuple(args), kwargs, mode, log)
        if log is None:
            parameters, modules, buffers = live_parameters(inner), live_modules(inner), live_buffers(inner)
        else:
            parameters, modules, buffers = log.parameters(inner), log.modules(inner), log.buffers(inner)
            notes = [*log.notes, *notes]
    return Trace(
        model=name or type(inner).__name__,
        graph=recorded.graph,
        parameters=parameters,
        modules=modules,
        buffers=buffers,
        rung=rung,
        mode=mode,
        inputs=describe(args, kwargs),
        notes=notes,
        constant_values=recorded.constants,
        weights_are_data=log is None,
        inputs_given=inputs_given,
    )


def is_lazy_model(model: nn.Module) -> bool:
    """Whether parameters or buffers have no shape before the first forward pass."""
    return any(is_lazy(t) for t in _tensors_of(model))


def _tensors_of(model: nn.Module) -> list[torch.Tensor]:
    return [t for _, t in (*named_tensors(model, "_parameters"), *named_tensors(model, "_buffers"))]


def settle(model: nn.Module, log: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Give lazy parameters their shapes by one pass under the log.

    Raises:
        TraceError: if there is no log, or the pass raises.
    """
    from initcheck.tracing.build import initialise_lazily

    if log is None:
        raise TraceError("the model has lazy parameters without a shape yet: run it once before it is analysed")
    try:
        initialise_lazily(model, log, args, kwargs)
    except (Exception, SystemExit) as error:
        raise TraceError(one_line(error)) from error


def _climb(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], mode: str, log: Any
) -> tuple[Recording, str, list[str]]:
    """(recording, rung, notes) of the first rung that holds."""
    reasons: list[str] = []
    try:
        made = fake_copy(model, mode)
        return _record(made, args, kwargs), "recorder", made.notes
    except (Exception, SystemExit) as error:
        reasons.append(one_line(error))
        first = error
    if _can_run_for_real(model, args, kwargs):
        try:
            real = log.materialised(model) if log is not None else model
            made = real_copy(real, mode)
            return _record(made, args, kwargs), "real forward", [*made.notes, f"on fake tensors: {reasons[0]}"]
        except (Exception, SystemExit) as error:
            reasons.append(one_line(error))
            raise TraceError(reasons[-1]) from error
    raise TraceError(reasons[0]) from first


def _record(made: Copy, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """One recorded pass; a second one, watching the dispatcher, where something bypassed the function protocol."""
    if made.fake is None:  # on real tensors, what bypassed it could pass for a constant
        return _pass(made, args, kwargs, dispatch=True)
    with contextlib.suppress(UntrackedError):
        try:
            return _pass(made, args, kwargs, dispatch=False)
        except Exception as error:
            if not needs_autograd(error):
                raise
        return _pass(made, args, kwargs, dispatch=False, autograd=True)
    return _pass(made, args, kwargs, dispatch=True, autograd=True)


def needs_autograd(error: Exception) -> bool:
    """Whether a pass may have failed only because autograd knows nothing of results made from layouts alone."""
    return isinstance(error, AutogradError) or "grad" in str(error)


def _pass(
    made: Copy, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, dispatch: bool, autograd: bool = False
) -> Recording:
    recorder = made.recorder(autograd=autograd)
    given, named = enter_inputs(made, recorder, args, kwargs)
    with attributes_kept(made.model), recording(recorder, made.paths, dispatch=dispatch):
        output = made.model(*given, **named)
    return finish(recorder, output)


def _can_run_for_real(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    tensors = _tensors_of(model)
    return sum(t.numel() for t in tensors) <= REAL_PASS_LIMIT and all(t.device.type != "meta" for t in tensors)


class Trial:
    """Tries inputs on a model: each attempt is one forward pass on fake tensors, without a graph."""

    def __init__(self, model: nn.Module, mode: str = "train") -> None:
        self._model = unwrapped(model)
        self._mode = mode
        self._copy: Copy | None = None

    def attempt(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Exception | None:
        """None if the model runs on these inputs, else what it raised."""
        with random_state_kept(), _quiet():
            try:
                if is_lazy_model(self._model):
                    copy.deepcopy(self._model)(*args, **(kwargs or {}))
                    return None
                if self._copy is None:
                    self._copy = fake_copy(self._model, self._mode)
                try:
                    self._run(self._copy, tuple(args), kwargs or {}, autograd=False)
                except Exception as error:
                    if not needs_autograd(error):
                        raise
                    self._run(self._copy, tuple(args), kwargs or {}, autograd=True)
            except Exception as error:
                return error
            except SystemExit as error:
                return RuntimeError(f"the forward called sys.exit({error.code!r})")
        return None

    def _run(self, made: Copy, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, autograd: bool) -> None:
        recorder = made.recorder(keep_graph=False, autograd=autograd)
        given, named = enter_inputs(made, recorder, args, kwargs)
        with attributes_kept(made.model), recording(recorder, made.paths):
            made.model(*given, **named)

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._copy = None


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Attributes that a forward pass sets on modules (caches) are taken off again, so that passes are alike."""
    saved = [
        (m, dict(vars(m)), dict(m._parameters), dict(m._buffers))
        for m in modules_of(model)
        if not isinstance(m, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for module, *states in saved:
            spaces: tuple[dict[str, Any], ...] = (vars(module), module._parameters, module._buffers)
            for space, before in zip(spaces, states, strict=True):
                space.clear()
                space.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, logs or checks of values that fake tensors do not have.

    torch warns and logs about what it meets on fake tensors (whatever matters is in the trace or its reason), and
    ``torch.distributions`` asks whether parameters and values lie in their support.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    validates = Distribution._validate_args
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    with warnings.catch_warnings(), eager:
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            logger.setLevel(level)
            Distribution.set_default_validate_args(validates)


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The inputs as the configuration writes them: ``float32[2,3,224,224]``, keyword ones with their name."""

    def one(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{str(value.dtype).removeprefix('torch.')}[{','.join(map(str, value.shape))}]"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(map(one, value))})"
        return repr(value) if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__

    return ", ".join([*map(one, args), *(f"{key}={one(value)}" for key, value in kwargs.items())])


def one_line(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
