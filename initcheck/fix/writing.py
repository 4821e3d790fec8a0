"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


class NotWrittenError(Exception):
    """The file is as it was; says why."""


def write_atomically(path: str | Path, data: bytes, expected: bytes) -> None:
    """Replace the content of ``path`` by ``data``: a reader sees the old file or the new one, never a part.

    Symbolic links are followed, mode bits kept. A read-only file stays as it is.

    Args:
        path: an existing file.
        data: its new content.
        expected: its content when it was read; if it has changed since, nothing is written.

    Raises:
        NotWrittenError: the file changed meanwhile, or cannot be written.
    """
    real = os.path.realpath(path)
    temporary = ""
    try:
        if not os.access(real, os.W_OK):
            raise NotWrittenError("the file is read-only")
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(real)}.", dir=os.path.dirname(real))
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(real, temporary)
        _keep_owner(real, temporary)
        if Path(real).read_bytes() != expected:
            raise NotWrittenError("the file changed on disk while it was being analysed")
        os.replace(temporary, real)
        temporary = ""
    except OSError as error:
        raise NotWrittenError(f"the file could not be written: {error.strerror or error}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _keep_owner(real: str, temporary: str) -> None:
    """Give the new file the old one's owner and group, as far as the system lets us."""
    if hasattr(os, "chown"):
        was = os.stat(real)
        with contextlib.suppress(OSError):
            os.chown(temporary, was.st_uid, was.st_gid)
