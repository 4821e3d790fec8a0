"""What analysed code may not do in its process: reach the network, spoil files, multiply, signal other processes.

An audit hook (PEP 578) sees these attempts whatever name they were imported under, and cannot be taken off again. It
guards against accidents, not against malice: compiled code does not ask it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

MOST_PROCESSES = 32
"""So many processes may be started, by the analysed process alone (libraries ask ``ldconfig`` and the like)."""

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_NOWHERE = "http://127.0.0.1:9"
"""Where programs that the code starts (``git``, ``wget``) are sent: nobody listens there."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class NetworkRefusedError(OSError):
    """The analysed code tried to open a connection."""


def restrict() -> None:
    """Restrict this process for good."""
    for name in _PROXIES:
        os.environ[name] = os.environ[name.upper()] = _NOWHERE
    os.environ.pop("no_proxy", None)
    os.environ.pop("NO_PROXY", None)
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    sys.addaudithook(_Hook())


class _Hook:
    def __init__(self) -> None:
        self._owner = os.getpid()
        self._strangers = frozenset({os.getppid(), 1, -1})
        self._started = 0
        self._writable = tuple(dict.fromkeys(map(os.path.realpath, _scratch_folders())))
        self._busy = False
        connects, resolves, removes = self._connects, self._resolves, self._removes
        starts, signals = self._starts, self._signals
        self._handlers: dict[str, Callable[[Any], None]] = {
            "open": self._opens,
            **dict.fromkeys(("socket.connect", "socket.sendto", "socket.sendmsg"), connects),
            **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"), resolves),
            **dict.fromkeys(("os.remove", "os.rmdir", "os.truncate", "os.rename", "shutil.rmtree"), removes),
            **dict.fromkeys(("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "os.spawn"), starts),
            **dict.fromkeys(("os.kill", "os.killpg"), signals),
            "os.system": self._runs_shell,
        }

    def __call__(self, event: str, args: Any) -> None:
        handler = self._handlers.get(event)
        if handler is None or self._busy:
            return
        self._busy = True
        try:
            handler(args)
        finally:
            self._busy = False

    def _connects(self, args: Any) -> None:
        address = args[1] if len(args) > 1 else None
        if isinstance(address, tuple):  # of AF_INET or AF_INET6; local sockets have a path
            raise NetworkRefusedError(f"initcheck lets no analysed code reach the network (it tried {address!r})")

    def _resolves(self, args: Any) -> None:
        raise NetworkRefusedError(f"initcheck lets no analysed code reach the network (it asked for {args[0]!r})")

    def _opens(self, args: Any) -> None:
        path, mode, flags = args
        writes = any(letter in "wax+" for letter in mode) if isinstance(mode, str) else bool((flags or 0) & _WRITES)
        if writes and not self._is_scratch(path):
            raise PermissionError(f"initcheck lets analysed code write no files (it tried {path!r})")

    def _removes(self, args: Any) -> None:
        if not self._is_scratch(args[0]):
            raise PermissionError(f"initcheck lets analysed code change no files (it tried {args[0]!r})")

    def _is_scratch(self, path: Any) -> bool:
        """Whether a path may be written: temporary files, caches, devices, open descriptors."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True
        text = os.fsdecode(path)
        with contextlib.suppress(OSError, ValueError):
            text = os.path.realpath(text)
        return text.startswith("/dev/") or any(text.startswith(folder + os.sep) for folder in self._writable)

    def _starts(self, args: Any) -> None:
        self._started += 1
        if os.getpid() != self._owner or self._started > MOST_PROCESSES:
            raise PermissionError("initcheck lets analysed code start no more processes")

    def _runs_shell(self, args: Any) -> None:
        raise PermissionError(f"initcheck lets analysed code run no shell commands (it tried {args[0]!r})")

    def _signals(self, args: Any) -> None:
        if args[0] in self._strangers:
            raise PermissionError("initcheck lets analysed code signal no other process")


def _scratch_folders() -> list[str]:
    home = os.path.expanduser("~")
    named = (os.environ.get(name) for name in ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME"))
    return [tempfile.gettempdir(), os.path.join(home, ".cache"), *(folder for folder in named if folder)]
