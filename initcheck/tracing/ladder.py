"""From a model and example inputs to a ``Trace``: the recorder on fake tensors, else torch.export, else a real pass."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from initcheck.findings import Location
from initcheck.tracing.faking import FakeModel, fake_inputs, fake_model, unwrapped
from initcheck.tracing.frames import kind_of
from initcheck.tracing.randomness import random_state_kept
from initcheck.tracing.recorder import Recorder, Recording, finish, module_paths
from initcheck.tracing.statistics import UNKNOWN, measured
from initcheck.tracing.trace import Distribution, ModuleRecord, ParameterRecord, Trace

if TYPE_CHECKING:
    from initcheck.tracing.initlog import InitLog

REAL_LIMIT = 1 << 28
"""A model of at most so many parameters is run for real if all else fails."""


class TraceError(Exception):
    """No forward pass could be recorded; the message says why, in one line."""


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    mode: str = "train",
    log: InitLog | None = None,
    name: str = "",
) -> Trace:
    """Record one forward pass; the model is not changed in any way.

    Args:
        model: a live model, or one that ``build`` made.
        args: positional arguments of ``forward``.
        kwargs: keyword arguments.
        mode: ``train`` or ``eval``.
        log: who wrote what, if ``build`` made the model; else distributions are measured from the weights.
        name: what to call the model.

    Raises:
        TraceError: every rung failed; says what the first one met.
    """
    model = unwrapped(model)
    kwargs = dict(kwargs or {})
    with random_state_kept():
        recording, rung, notes = _climb(model, tuple(args), kwargs, mode)
        records = log.parameters(model) if log is not None else live_parameters(model)
        buffers = {key: _buffer(buffer) for key, buffer in model.named_buffers()}
    return Trace(
        model=name or type(model).__name__,
        graph=recording.graph,
        parameters=records,
        modules=log.modules(model) if log is not None else live_modules(model),
        buffers=buffers,
        rung=rung,
        mode=mode,
        inputs=describe((args, kwargs)),
        notes=notes + (log.notes if log is not None else []),
        constant_values=recording.values,
        weights_are_data=log is None,
    )


def _climb(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str
) -> tuple[Recording, str, list[str]]:
    """The first rung that holds."""
    reasons: list[str] = []
    notes: list[str] = []
    try:
        fake = fake_model(model)
        if fake.hooks_left_out:
            notes.append(f"{fake.hooks_left_out} forward hooks were not run")
        return record(fake, args, kwargs, mode), "recorder", notes
    except Exception as error:
        reasons.append(one_line(error))
    size = sum(p.numel() for p in model.parameters())
    try:
        return _export(model, args, kwargs, mode), "export", notes
    except Exception as error:
        reasons.append(one_line(error))
    if size > REAL_LIMIT or any(p.device.type == "meta" for p in model.parameters()):
        raise TraceError(f"forward could not be recorded on fake tensors ({reasons[0]}); too large for a real pass")
    try:
        return _real(model, args, kwargs, mode), "real forward", [*notes, f"fake tensors failed: {reasons[0]}"]
    except Exception as error:
        raise TraceError(f"forward raised {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """``ValueError: its first line``."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _known_ops() -> Any:
    import initcheck.signal.ops  # enters the rules
    from initcheck.signal.rule import RULES

    return RULES


def record(fake: FakeModel, args: Sequence[Any], kwargs: Mapping[str, Any], mode: str) -> Recording:
    """One pass on fake tensors. Raises whatever the forward raises."""
    rules = _known_ops()
    fake.module.train(mode == "train")
    recorder = Recorder(fake.mode, fake.names, fake.values, lambda op: op in rules)
    made_args, made_kwargs = fake_inputs(fake.mode, (tuple(args), dict(kwargs)))
    _enter_inputs(recorder, fake.module, (args, kwargs), (made_args, made_kwargs))
    with fake.mode, torch.enable_grad(), module_paths(recorder, fake.paths), recorder:
        out = fake.module(*made_args, **made_kwargs)
    return finish(recorder, out)


def _enter_inputs(recorder: Recorder, module: nn.Module, real: Any, fake: Any) -> None:
    names = _argument_names(module, len(real[0]))
    for index, (given, made) in enumerate(zip(real[0], fake[0], strict=True)):
        _enter_input(recorder, names[index], given, made)
    for key, given in real[1].items():
        _enter_input(recorder, key, given, fake[1][key])


def _enter_input(recorder: Recorder, name: str, real: Any, fake: Any) -> None:
    from initcheck.tracing.recorder import _tensors

    for index, (given, made) in enumerate(zip(_tensors(real), _tensors(fake), strict=True)):
        recorder.placeholder(made, name if index == 0 else f"{name}_{index}", given)


def _argument_names(module: nn.Module, count: int) -> list[str]:
    try:
        names = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in (0, 1)]
    except (TypeError, ValueError):
        names = []
    return [*names, *(f"input_{i}" for i in range(len(names), count))][:count]


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str) -> Recording:
    """torch.export first, then its module under the same recorder."""
    duplicate = fake_model(model)
    duplicate.module.train(mode == "train")
    with duplicate.mode:
        made_args, made_kwargs = fake_inputs(duplicate.mode, (args, kwargs))
        program = torch.export.export(duplicate.module, made_args, made_kwargs, strict=False)
        module = program.module()
    names = {id(t): ("parameter", key) for key, t in module.named_parameters()}
    names.update({id(t): ("buffer", key) for key, t in module.named_buffers()})
    exported = FakeModel(module, duplicate.mode, names, {}, {id(m): key for key, m in module.named_modules()})
    rules = _known_ops()
    recorder = Recorder(exported.mode, exported.names, {}, lambda op: op in rules)
    _enter_inputs(recorder, model, (args, kwargs), (made_args, made_kwargs))
    with exported.mode, torch.enable_grad(), recorder:
        out = module(*made_args, **made_kwargs)
    return finish(recorder, out)


def _real(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str) -> Recording:
    """A real pass on a copy, under the same recorder."""
    duplicate = copy.deepcopy(model)
    duplicate.train(mode == "train")
    names: dict[int, tuple[str, str]] = {}
    for key, parameter in duplicate.named_parameters():
        names[id(parameter)] = ("parameter", key)
    values = {}
    for key, buffer in duplicate.named_buffers():
        names[id(buffer)] = ("buffer", key)
        values[id(buffer)] = buffer.detach().clone()
    rules = _known_ops()
    recorder = Recorder(None, names, values, lambda op: op in rules)
    made_args, made_kwargs = tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    _enter_inputs(recorder, duplicate, (args, kwargs), (made_args, made_kwargs))
    paths = {id(module): key for key, module in duplicate.named_modules()}
    with torch.enable_grad(), module_paths(recorder, paths), recorder:
        out = duplicate(*made_args, **made_kwargs)
    return finish(recorder, out)


class Trial:
    """Fake forwards of one model, milliseconds each, for the search of inputs that it accepts."""

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        self._fake: FakeModel | None = None
        self._failed: Exception | None = None
        try:
            self._fake = fake_model(self._model)
        except Exception as error:
            self._failed = error

    def attempt(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Exception | None:
        """None if the forward runs, else what it raised (torch's message on shapes intact)."""
        with random_state_kept():
            try:
                if self._fake is None:
                    _real(self._model, tuple(args), dict(kwargs or {}), "train")
                else:
                    record(self._fake.again(), args, dict(kwargs or {}), "train")
            except Exception as error:
                return error
        return None


def live_parameters(model: nn.Module) -> dict[str, ParameterRecord]:
    """Every parameter of a live model, its distribution measured."""
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    modules = dict(model.named_modules())
    places = {path: module_location(model, path) for path in modules}
    records: dict[str, ParameterRecord] = {}
    for name, parameter in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        seen = measured(parameter)
        records[name] = ParameterRecord(
            name=name,
            module=path,
            module_type=type(modules[path]).__name__,
            attribute=attribute,
            shape=tuple(parameter.shape),
            dtype=str(parameter.dtype).removeprefix("torch."),
            requires_grad=parameter.requires_grad,
            distribution=seen.distribution,
            aliases=tuple(a for a in aliases[id(parameter)] if a != name),
            equal_rows=seen.equal_rows,
            equal_columns=seen.equal_columns,
            location=places[path],
        )
    return records


def live_modules(model: nn.Module) -> dict[str, ModuleRecord]:
    """Every submodule of a live model and where its class stands."""
    return {
        path: ModuleRecord(path, type(module).__qualname__, class_location(type(module)))
        for path, module in model.named_modules()
    }


def class_location(cls: type) -> Location | None:
    """Where a class of the user's or of a library stands; None for torch's own and for what has no source."""
    if cls not in _CLASS_LOCATIONS:
        _CLASS_LOCATIONS[cls] = _find_class(cls)
    return _CLASS_LOCATIONS[cls]


_CLASS_LOCATIONS: dict[type, Location | None] = {}


def _find_class(cls: type) -> Location | None:
    try:
        path = inspect.getsourcefile(cls)
        if path is None or kind_of(path) not in ("user", "library"):
            return None
        lines, start = inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return None
    offset = next((i for i, line in enumerate(lines) if line.lstrip().startswith("class ")), 0)
    indent = len(lines[offset]) - len(lines[offset].lstrip())
    return Location(path, start + offset, indent + 1, start + offset, len(lines[offset].rstrip()) + 1)


def module_location(model: nn.Module, path: str) -> Location | None:
    """Where the nearest enclosing user class assigns the attribute on the way to ``path``, else where that class stands."""
    parts = path.split(".") if path else []
    modules = [model]
    for part in parts:
        child = getattr(modules[-1], part, None)
        if not isinstance(child, nn.Module):
            break
        modules.append(child)
    for depth in range(len(modules) - 1, -1, -1):
        owner = type(modules[depth])
        where = class_location(owner)
        if where is None:
            continue
        if depth < len(parts):
            return _attribute_location(owner, where, parts[depth]) or where
        return where
    return None


def _attribute_location(owner: type, where: Location, attribute: str) -> Location | None:
    from initcheck.source.file import SourceError, SourceFile

    if where.path not in _SOURCES:
        try:
            _SOURCES[where.path] = SourceFile.read(where.path)
        except (SourceError, OSError):
            _SOURCES[where.path] = None
    source = _SOURCES[where.path]
    return source.attribute_assignment(owner.__name__, attribute) if source is not None else None


_SOURCES: dict[str, Any] = {}


def _buffer(buffer: torch.Tensor | None) -> Distribution:
    return measured(buffer).distribution if buffer is not None else UNKNOWN


def describe(value: Any) -> str:
    """The inputs in the notation of the configuration: ``float32[2,3,224,224]``, keyword ones with their name."""
    args, kwargs = value

    def one(item: Any) -> str:
        if isinstance(item, torch.Tensor):
            return f"{str(item.dtype).removeprefix('torch.')}[{','.join(map(str, item.shape))}]"
        if isinstance(item, (tuple, list)):
            return "(" + ", ".join(one(part) for part in item) + ")"
        return repr(item) if isinstance(item, (int, float, bool, str, type(None))) else type(item).__name__

    return ", ".join([*(one(item) for item in args), *(f"{key}={one(item)}" for key, item in kwargs.items())])
