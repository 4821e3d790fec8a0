"""``def initcheck_models()`` in a file: the models that its author wants analysed, with or without their inputs.

    def initcheck_models():
        yield GPT(Config(depth=12)), "int64[8,16]<50257"
        yield Net(), (torch.randn(8, 3, 32, 32), torch.randn(8, 4))

Each item is a model, or a pair of a model and its inputs: a tensor or a specification, a tuple of positional ones, or a
dict of keyword ones. The function may also return a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from initcheck.config import InputSpec
from initcheck.discovery.candidate import Candidate, InputHints
from initcheck.discovery.loader import execution
from initcheck.discovery.placeholders import Placeholder
from initcheck.findings import Location
from initcheck.source.file import SourceFile
from initcheck.tracing.build import BuildError, build

NAME = "initcheck_models"

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


def candidates(source: SourceFile, module: ModuleType) -> list[Candidate]:
    """One candidate for each model that the file's ``initcheck_models()`` gives; none if there is no such function."""
    function = vars(module).get(NAME)
    if not callable(function) or isinstance(function, Placeholder):
        return []
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", 1)
    names: list[str] = []

    def count() -> nn.Module:
        names[:] = [type(model).__name__ for model, _ in _items(module)]
        return nn.Module()

    try:
        build(count)  # under the log, so that no weights are drawn only to be counted
    except BuildError:
        names[:] = names or [f"{NAME}()"]  # building it again will say why
    return [
        _candidate(source, module, index, _numbered(names, index), Location(source.path, line))
        for index in range(len(names))
    ]


def _numbered(names: list[str], index: int) -> str:
    earlier = names[:index].count(names[index])
    return f"{names[index]}#{earlier + 1}" if earlier else names[index]


def _candidate(source: SourceFile, module: ModuleType, index: int, name: str, place: Location) -> Candidate:
    cls = name.partition("#")[0]
    hints = InputHints(None, {cls}, source, module, class_name=cls)

    def construct() -> nn.Module:
        for position, (model, given) in enumerate(_items(module)):
            if position == index:
                hints.given = given
                return model
        raise TypeError(f"{NAME}() gave no model")

    location = source.class_location(cls) or place
    return Candidate(name, construct, f"{NAME}() (line {place.line})", location, hints)


def _items(module: ModuleType) -> Iterator[tuple[nn.Module, Inputs | None]]:
    run = execution(module)
    made = vars(module)[NAME]()
    if isinstance(made, nn.Module):
        made = [made]
    items = iter(made)
    while True:
        if run is None:
            item = next(items, None)
        else:
            with run.session.active():
                item = next(items, None)
        if item is None:
            return
        yield _split(item)


def _split(item: Any) -> tuple[nn.Module, Inputs | None]:
    if isinstance(item, nn.Module):
        return item, None
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], nn.Module):
        return item[0], _inputs(item[1])
    raise TypeError(
        f"{NAME}() must give models, or pairs of a model and its inputs (a tensor, a tuple or a dict); it gave a "
        f"{type(item).__name__}"
    )


def _inputs(value: Any) -> Inputs:
    if isinstance(value, Mapping):
        return (), {key: _parsed(item) for key, item in value.items()}
    items = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(map(_parsed, items)), {}


def _parsed(value: Any) -> Any:
    """A value with a specification in place of every text that writes one."""
    if isinstance(value, str):
        return InputSpec.parse(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(_parsed, value))
    if isinstance(value, Mapping):
        return {key: _parsed(item) for key, item in value.items()}
    if value is None or isinstance(value, (torch.Tensor, int, float, bool)):
        return value
    raise TypeError(f"{NAME}(): an input is a {type(value).__name__}; expected a tensor, a number or a text such as "
                    '"float32[8,3,32,32]"')  # fmt: skip
