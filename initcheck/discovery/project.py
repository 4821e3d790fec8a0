"""Constructions in other files of the project: a ``train.py`` or a README that says how ``model.py`` is used."""

from __future__ import annotations

import ast
import contextlib
import os
import re
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
    """A construction in another file, with what evaluates it and the source it stands in."""

    construction: Construction
    evaluation: Evaluation
    source: SourceFile


def constructions(execution: Execution, names: set[str], context: Context) -> Iterator[Found]:
    """Where other files of the project call one of ``names``, which the executed file defines.

    Those that import it from the file itself come first, then those that import it from its package.
    """
    own = execution.session.place.path
    sources = list(_sources(execution.session.place.folders, own, names))
    for modules in ({own.stem}, {own.parent.name}):
        for source in sources:
            everything = re.search(rf"from [\w.]*\b{own.stem} import \*", source.text) is not None

            def wanted(
                call: ast.Call,
                source: SourceFile = source,
                modules: set[str] = modules,
                everything: bool = everything,
            ) -> bool:
                if everything and isinstance(call.func, ast.Name) and call.func.id in names:
                    return True
                module, _, name = (source.imports.resolve(call.func) or "").rpartition(".")
                return name in names and module.lstrip(".").rpartition(".")[2] in modules

            found = find(source.tree, wanted, lambda scope: False)  # those in methods come last
            if found:
                module = LoadedModule(f"_initcheck_project_{Path(source.path).stem}")
                module.__file__ = source.path
                other = Execution(module, source, execution.session)
                with execution.session.active():
                    other.load()
                evaluation = Evaluation(other, context, call_sites(source.tree))
                yield from (Found(construction, evaluation, source) for construction in found[:3])


def _sources(folders: tuple[Path, ...], own: Path, names: set[str]) -> Iterator[SourceFile]:
    """Python files, and blocks of code in README files, that name the file or its package and one of ``names``."""
    for path in _files(folders, own):
        if path.parent != own.parent and (path.parent / own.name).is_file():
            continue  # it has one of its own
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for code in [text] if path.suffix == ".py" else _code_blocks(text):
            if (own.stem in code or own.parent.name in code) and any(name in code for name in names):
                with contextlib.suppress(SourceError):
                    yield SourceFile.parse(str(path), code)


def _code_blocks(text: str) -> Iterator[str]:
    """The Python blocks of a Markdown file, each at its own lines."""
    for block in re.finditer(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL):
        if block[1].strip().lower() in ("", "py", "python", "python3"):
            yield "\n" * text.count("\n", 0, block.start(2)) + block[2]


def _files(folders: tuple[Path, ...], own: Path) -> Iterator[Path]:
    """Python files near the model's, the nearest first, tests and training scripts included; README files last."""
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
                        break
                    if path.stat().st_size <= _LARGEST:
                        yield path
    for folder in folders[:4]:
        yield from sorted(path for path in folder.glob("README*.md") if path.stat().st_size <= _LARGEST)
