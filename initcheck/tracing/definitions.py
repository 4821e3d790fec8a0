"""Where the source of a live model's classes says what: the class itself, and ``self.fc = ...`` for each layer."""

from __future__ import annotations

import ast
import functools
import inspect

from torch import nn

from initcheck.findings import Location
from initcheck.source.class_excerpt import ClassExcerpt, class_excerpt, is_defined
from initcheck.source.file import SourceError, SourceFile
from initcheck.tracing.frames import kind_of


def class_location(cls: type) -> Location | None:
    """Where a class is defined; None for torch's own classes and where there is no source."""
    return _class_location(cls)


@functools.cache
def _class_location(cls: type) -> Location | None:
    path = _path(cls)
    if path is None:
        return None
    excerpt = _excerpt(cls)
    if excerpt is not None:
        return excerpt.location
    source = _source(path)
    return source.class_location(_local_name(cls)) if source is not None else None


def _path(cls: type) -> str | None:
    """The file that defines a class; None for torch's own and Python's classes."""
    try:
        path = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None
    return None if path is None or kind_of(path) in ("torch", "stdlib") else path


def _local_name(cls: type) -> str:
    return cls.__qualname__.rpartition("<locals>.")[2]


@functools.cache
def _excerpt(cls: type) -> ClassExcerpt | None:
    path = _path(cls)
    return class_excerpt(cls, path) if path is not None else None


@functools.lru_cache(maxsize=256)
def _source(path: str) -> SourceFile | None:
    try:
        return SourceFile.read(path)
    except (OSError, SourceError):
        return None


def assignment(modules: dict[str, nn.Module], path: str) -> Location | None:
    """Where the source says ``self.fc = ...`` for the layer at ``path``: in the nearest owner's class outside torch."""
    parts = path.split(".") if path else []
    for depth in range(len(parts), 0, -1):
        owner = modules.get(".".join(parts[: depth - 1]))
        if owner is None:
            continue
        found = attribute_location(type(owner), parts[depth - 1])
        if found is not None:
            return found
    for depth in range(len(parts), -1, -1):
        module = modules.get(".".join(parts[:depth]))
        where = class_location(type(module)) if module is not None else None
        if where is not None:
            return where
    return None


def attribute_location(cls: type, attribute: str) -> Location | None:
    """Where a class (or one that it derives from, outside torch) assigns ``self.<attribute>``."""
    return _attribute_location(cls, attribute)


@functools.cache
def _attribute_location(cls: type, attribute: str) -> Location | None:
    for base in cls.__mro__:
        path = _path(base)
        if path is None or class_location(base) is None:
            continue
        try:
            found = _in_excerpts(base, path, attribute)
        except _UnclearError:
            source = _source(path)
            found = source.attribute_assignment(_local_name(base), attribute) if source is not None else None
        if found is not None:
            return found
    return None


class _UnclearError(Exception):
    """The excerpt of a class does not tell all that its file does."""


def _in_excerpts(cls: type, path: str, attribute: str) -> Location | None:
    """What ``SourceFile.attribute_assignment`` says, read off the excerpts of the class and of its bases in the file.

    Raises:
        _UnclearError: if one of them has none.
    """
    queue, seen = [cls], set()
    while queue:
        current = queue.pop(0)
        if current in seen:
            continue
        seen.add(current)
        excerpt = _excerpt(current)
        source = excerpt.source if excerpt is not None else None
        node = source.find_class(current.__name__) if source is not None else None
        if source is None or node is None:
            raise _UnclearError
        found = source.attribute_assignment(current.__name__, attribute)
        if found is not None:
            return found
        for name in (base.id for base in node.bases if isinstance(base, ast.Name)):
            if is_defined(name, path):
                queue.append(_base(current, name, path))
    return None


def _base(cls: type, name: str, path: str) -> type:
    found = next((base for base in cls.__bases__ if base.__name__ == name and _path(base) == path), None)
    if found is None:
        raise _UnclearError
    return found
