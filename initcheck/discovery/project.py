"""Constructions in other files of the project: a ``train.py`` that says how ``model.py`` is used."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from initcheck.discovery.constructions import Construction, Evaluation, call_sites, find
from initcheck.discovery.loader import Execution, LoadedModule
from initcheck.discovery.synthesis import Context
from initcheck.source.file import SourceError, SourceFile

_MOST_FILES = 200  # looked at
_LARGEST = 200_000  # bytes
_SKIPPED_FOLDERS = frozenset({"node_modules", "venv", "build", "dist", "site-packages", "__pycache__"})


@dataclass(frozen=True)
class Found:
    """A construction in another file, with what evaluates it."""

    construction: Construction
    evaluation: Evaluation
    path: str


def constructions(execution: Execution, names: set[str], context: Context) -> Iterator[Found]:
    """Where other files of the project call one of ``names``, which the executed file defines."""
    own = execution.session.place.path
    for path in _files(execution.session.place.folders, own):
        try:
            text = path.read_text(encoding="utf-8")
            if own.stem not in text or not any(name in text for name in names):
                continue
            source = SourceFile.parse(str(path), text)
        except (OSError, UnicodeDecodeError, SourceError):
            continue

        def wanted(call: ast.Call, source: SourceFile = source) -> bool:
            full = source.imports.resolve(call.func)
            module, _, name = (full or "").rpartition(".")
            return name in names and module.lstrip(".").rpartition(".")[2] in (own.stem, own.parent.name)

        found = find(source.tree, wanted, lambda scope: False)  # those in methods come last
        if found:
            module = LoadedModule(f"_initcheck_project_{path.stem}")
            module.__file__ = str(path)
            other = Execution(module, source, execution.session)
            with execution.session.active():
                other.load()
            evaluation = Evaluation(other, context, call_sites(source.tree))
            yield from (Found(construction, evaluation, str(path)) for construction in found[:3])


def _files(folders: tuple[Path, ...], own: Path) -> Iterator[Path]:
    """Python files near the model's, the nearest first, tests and training scripts included."""
    seen: set[Path] = {own}
    count = 0
    for folder in folders[:3]:
        for base, inner, names in os.walk(folder):
            inner[:] = sorted(d for d in inner if d not in _SKIPPED_FOLDERS and not d.startswith("."))
            if len(Path(base).relative_to(folder).parts) >= 3:
                inner[:] = []
            for name in sorted(names):
                path = Path(base) / name
                if name.endswith(".py") and path not in seen:
                    seen.add(path)
                    count += 1
                    if count > _MOST_FILES:
                        return
                    if path.stat().st_size <= _LARGEST:
                        yield path
