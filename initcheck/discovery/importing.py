"""Importing a file as part of its project: its package, its siblings, each executed for its definitions only."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
_PROJECT_MARKERS = (".git", "pyproject.toml", "setup.py", "setup.cfg")
_LARGEST_FILE = 1_000_000  # bytes; a configuration is smaller, a data set is larger


@dataclass(frozen=True)
class Place:
    """Where a file stands: the module name Python would give it and the folders its imports are looked up in."""

    path: Path
    name: str
    package_root: Path
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, relative_level: int = 0, imported: Iterable[str] = ()) -> Place:
        """Of a file.

        Packages without ``__init__`` are told by the file's own imports: ``relative_level``, the most dots that any
        relative one has, and ``imported``, the modules it names, which may begin with the name of a folder it is in.
        """
        path = path.resolve()
        top = path.parent
        roots = {name.partition(".")[0] for name in imported if "." in name}
        for level, folder in enumerate(_ancestors(path.parent), start=1):
            if folder.name in roots and not is_taken(folder.name) and path.is_relative_to(folder):
                relative_level = max(relative_level, level)
        parts = [] if path.name == "__init__.py" else [path.stem]
        while (top / "__init__.py").is_file() or relative_level > 0:
            if top.parent == top:
                break
            parts.insert(0, top.name)
            top = top.parent
            relative_level -= 1
        folders = [top] if top != path.parent else [path.parent]
        folders += [folder for folder in _ancestors(path.parent) if folder not in folders]
        return cls(path, ".".join(part.replace(".", "_") for part in parts), top, tuple(folders))

    @property
    def is_installed(self) -> bool:
        """Whether the file is part of an installed package or of Python itself."""
        return _is_installed(str(self.path))


def _ancestors(folder: Path) -> list[Path]:
    """The folder and those above it, up to the project's root (four levels where nothing marks one)."""
    found = [folder]
    for candidate in list(folder.parents)[:6]:
        if any((found[-1] / marker).exists() for marker in _PROJECT_MARKERS):
            break
        found.append(candidate)
    else:
        found = found[:4]
    sources = [f / "src" for f in found if (f / "src").is_dir()]
    return [*found, *(s for s in sources if s not in found)]


def _is_installed(path: str) -> bool:
    return path.startswith(_INSTALLED) or "site-packages" in path


Execute = Callable[[ModuleType, str], None]
"""Execute the definitions of a module whose file is the given path."""


class _ProjectLoader(importlib.abc.Loader):
    def __init__(self, path: str, make: Callable[[str], ModuleType], execute: Execute) -> None:
        self._path, self._make, self._execute = path, make, execute

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self._make(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        self._execute(module, self._path)


@dataclass
class Session(importlib.abc.MetaPathFinder):
    """One load: while active, the project's folders are importable and its files are executed for definitions only."""

    place: Place
    make: Callable[[str], ModuleType]
    execute: Execute
    loaded: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    """Packages that the project's files import and that are not installed."""
    _depth: int = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a file of the project; None lets Python's own finders answer."""
        if path is not None:
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        else:
            spec = self._find_top_level(fullname)
        if spec is not None and spec.origin is None and path is None and not is_taken(fullname):
            self.loaded.add(fullname)
            return spec  # a folder without __init__
        if spec is None or spec.origin is None or not spec.origin.endswith(".py") or _is_installed(spec.origin):
            return None
        loader = _ProjectLoader(spec.origin, self.make, self.execute)
        self.loaded.add(fullname)
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=loader, submodule_search_locations=spec.submodule_search_locations
        )

    def _find_top_level(self, fullname: str) -> importlib.machinery.ModuleSpec | None:
        """A script's own folder comes first, as in Python; folders above it only for what is not installed."""
        if fullname in sys.stdlib_module_names:
            return None
        folders = [str(folder) for folder in self.place.folders]
        spec = importlib.machinery.PathFinder.find_spec(fullname, folders[:1])
        if (spec is not None and spec.origin is not None) or is_taken(fullname):
            return spec
        found = (importlib.machinery.PathFinder.find_spec(fullname, [folder]) for folder in folders)
        return next((spec for spec in found if spec is not None), None)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Imports work as in the project, no argument parser reads our command line, large files stay closed."""
        self._depth += 1
        if self._depth > 1:
            try:
                yield
            finally:
                self._depth -= 1
            return
        path, argv = list(sys.path), list(sys.argv)
        sys.meta_path.insert(0, self)
        sys.path[:0] = [str(self.place.folders[0])]
        sys.path += [str(folder) for folder in self.place.folders[1:]]
        sys.argv = [str(self.place.path)]
        importlib.invalidate_caches()
        try:
            with _lenient_argparse(), _small_files_only(self.place.folders):
                yield
        finally:
            self._depth -= 1
            sys.meta_path.remove(self)
            sys.path[:], sys.argv[:] = path, argv


def forget(session: Session) -> None:
    """Take a session's modules out of ``sys.modules``: another project has its own ``model`` and ``utils``."""
    for name in session.loaded:
        sys.modules.pop(name, None)


def is_taken(name: str) -> bool:
    """Whether a top-level module name belongs to Python or to an installed package."""
    if name in sys.stdlib_module_names or name in sys.builtin_module_names:
        return True
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, [path for path in sys.path if _is_installed(path)])
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and _is_installed(spec.origin)


@contextlib.contextmanager
def _lenient_argparse() -> Iterator[None]:
    """``parse_args()`` gives the defaults: the command line is ours, and required options have no value."""
    kept = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        for action in self._actions:
            action.required = False
            if not action.option_strings and action.nargs is None:
                action.nargs = "?"
        return kept(self, [] if args is None else args, namespace)

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_known_args = kept  # type: ignore[method-assign]


@contextlib.contextmanager
def _small_files_only(folders: Sequence[Path]) -> Iterator[None]:
    """Configurations may be read, from the project's folders too; nothing is written, and data sets are not read."""
    kept = builtins.open

    def guarded(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, (str, os.PathLike)):
            if set(mode) & set("wax+"):
                raise PermissionError(f"initcheck lets analysed code write no files (it tried {os.fspath(file)!r})")
            if not os.path.isabs(file) and not os.path.exists(file):
                file = next((p for p in (folder / file for folder in folders) if p.is_file()), file)
            with contextlib.suppress(OSError):
                if os.path.getsize(file) > _LARGEST_FILE:
                    raise PermissionError(f"initcheck reads no data sets ({os.fspath(file)!r} is larger than 1 MB)")
        return kept(file, mode, *args, **kwargs)

    builtins.open = guarded
    try:
        yield
    finally:
        builtins.open = kept
