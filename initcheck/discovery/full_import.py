"""``--import full``: a file executed as Python would import it, training loops at module level and all."""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from initcheck.discovery.importing import Place, Session
from initcheck.discovery.loader import Execution, LoadedModule, LoadError, describe, line_in
from initcheck.source.file import SourceFile


def load_fully(source: SourceFile) -> ModuleType:
    """The module of a file, executed from its first line to its last (``__name__`` is not ``"__main__"``).

    Raises:
        LoadError: if that raises; says what and where.
    """
    place = Place.of(Path(source.path), imported=source.imports.modules)
    session = _PlainSession(place, LoadedModule, _nothing)
    module = LoadedModule(place.name)
    module.__spec__ = importlib.machinery.ModuleSpec(place.name, None, origin=str(place.path))
    module.__package__ = place.name.rpartition(".")[0]
    with session.active():
        try:
            if module.__package__:
                importlib.import_module(module.__package__)
            sys.modules[place.name] = module
            _FullExecution(module, source, session).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            where = line_in(error, source.path)
            raise LoadError(f"executing it raised {describe(error, source.path)}", where) from error
    return module


def _nothing(module: ModuleType, path: str) -> None:
    raise AssertionError("Python imports the project's files itself")


class _FullExecution(Execution):
    def load(self) -> None:
        """Execute every statement, the ``__main__`` guard's excepted, as in any import."""
        self._done.update(range(len(self.statements)))
        self.execute(*self.source.tree.body)


class _PlainSession(Session):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Python's own finders answer."""
        return None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The project's folders are importable and the command line is empty; nothing else is different."""
        path, argv = list(sys.path), list(sys.argv)
        folders: list[Any] = [str(self.place.package_root), str(self.place.path.parent)]
        sys.path[:0] = list(dict.fromkeys(folders))
        sys.argv = [str(self.place.path)]
        try:
            yield
        finally:
            sys.path[:], sys.argv[:] = path, argv
