"""The folder through which a captured command's processes and initcheck speak. No torch here."""

from __future__ import annotations

import contextlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from initcheck.config import Config
from initcheck.results import FileResult


@dataclass(frozen=True, slots=True)
class Settings:
    """``command``: as the user wrote it, in the folder ``here``. ``only``: the class to wait for, empty for any."""

    config: Config
    command: str
    here: str
    only: str = ""

    def shown(self, path: str) -> str:
        """Relative to ``here`` if below it."""
        real = os.path.realpath(path)
        return os.path.relpath(real, self.here) if real.startswith(os.path.realpath(self.here) + os.sep) else path


@dataclass(frozen=True, slots=True)
class Session:
    """One capture."""

    folder: Path

    def begin(self, settings: Settings) -> None:
        """Write down the settings."""
        (self.folder / "settings").write_bytes(pickle.dumps(settings))

    def settings(self) -> Settings:
        """Read them."""
        settings = pickle.loads((self.folder / "settings").read_bytes())
        assert isinstance(settings, Settings)
        return settings

    def note(self, kind: str, text: str) -> None:
        """Put down something that was seen: ``torch`` imported; a model in another ``mode``; an ``other`` class."""
        with contextlib.suppress(OSError), open(self.folder / f"saw-{kind}", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def seen(self, kind: str) -> list[str]:
        """What was put down, each once."""
        try:
            lines = (self.folder / f"saw-{kind}").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        return list(dict.fromkeys(lines))

    def claim(self) -> bool:
        """Whether this process is the first to have a model to analyse."""
        try:
            os.close(os.open(self.folder / "claimed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    @property
    def claimed(self) -> bool:
        """Whether a process has."""
        return (self.folder / "claimed").exists()

    def deliver(self, result: bytes) -> None:
        """Hand a pickled ``FileResult`` over, all at once."""
        (self.folder / "result.part").write_bytes(result)
        os.replace(self.folder / "result.part", self.folder / "result")

    def result(self) -> FileResult | None:
        """The result, once there is one."""
        try:
            data = (self.folder / "result").read_bytes()
        except OSError:
            return None
        result = pickle.loads(data)
        assert isinstance(result, FileResult)
        return result

    @property
    def defect(self) -> str:
        """What kept initcheck from watching a process; empty if nothing."""
        try:
            return (self.folder / "defect").read_text(encoding="utf-8")
        except OSError:
            return ""
