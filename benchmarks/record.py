"""Records on disk, one line of JSON each, that several processes may append to; and which code made them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append(path: Path, row: dict[str, Any]) -> None:
    """One line, in one write: the lines of two processes do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(row) + "\n").encode())
    finally:
        os.close(handle)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record; none where there is no such file."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


Key = tuple[str, str, int]
"""Mutation, model, site."""


def append_keyed(path: Path, key: Key, row: dict[str, Any]) -> None:
    append(path, {**dict(zip(("mutation", "model", "site"), key, strict=True)), **row})


def keyed(path: Path) -> dict[Key, dict[str, Any]]:
    """The last line for each mutant."""
    return {(row.pop("mutation"), row.pop("model"), row.pop("site")): row for row in rows(path)}


def stale(code: str, name: str, again: str) -> bool:
    """Whether a verdict is to be made anew: all ``old`` ones (of another version of the code), or a part of a name."""
    return bool(again) and (code != code_version() if again == "old" else again in name)


def environment() -> dict[str, str]:
    """For a process that runs this checkout's initcheck."""
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@functools.cache
def code_version() -> str:
    """Fingerprint of initcheck's own source: tells verdicts of this code from those of another."""
    import initcheck

    digest = hashlib.sha256()
    for path in sorted(Path(initcheck.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
