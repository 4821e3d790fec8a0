"""While a model is built, nothing reaches for the network: pretrained weights are left out, and that is said."""

from __future__ import annotations

import contextlib
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.hub
from torch import nn

NOTE = "pretrained weights were not loaded"

_LOADERS = {
    "torch.hub": ("load_state_dict_from_url", "download_url_to_file"),
    "timm.models._builder": ("load_pretrained", "load_custom_pretrained"),
    "timm.models._hub": ("load_state_dict_from_hf", "load_state_dict_from_path"),
}
"""Functions that fetch weights, in modules that may be loaded."""
_IMPORTED = {"segmentation_models_pytorch.encoders": ("hf_hub_download", "load_file")}
"""Names under which a module imported what fetches weights from functions that do more than that."""


class NotLoaded(dict[str, Any]):
    """Stands in for weights that were not loaded: empty, and whatever is asked of it is empty too."""

    def __missing__(self, key: str) -> NotLoaded:
        return NotLoaded()

    def pop(self, key: str, *default: Any) -> Any:
        """As ``dict.pop``, but a missing key is no error."""
        return super().pop(key, NotLoaded())


class NetworkRefusedError(OSError):
    """The code under analysis tried to open a connection."""


_SAID: list[list[str]] = []


def skipped() -> NotLoaded:
    """What the exchanged loaders return."""
    if _SAID and NOTE not in _SAID[-1]:
        _SAID[-1].append(NOTE)
    return NotLoaded()


def _skip(*args: Any, **kwargs: Any) -> Any:
    from initcheck.tracing.offline import skipped

    return skipped()


@contextlib.contextmanager
def offline(notes: list[str]) -> Iterator[None]:
    """Loaders of weights do nothing, ``load_state_dict`` accepts that, and connections are refused.

    The loaders' code is exchanged, not their names: names imported elsewhere, before or meanwhile, are caught too and
    are themselves again afterwards.
    """
    exchanged: list[tuple[types.FunctionType, types.CodeType]] = []
    for module, names in _LOADERS.items():
        loaded = sys.modules.get(module)
        for name in names:
            function = getattr(loaded, name, None)
            if isinstance(function, types.FunctionType) and not function.__code__.co_freevars:
                exchanged.append((function, function.__code__))
    renamed = [
        (sys.modules[module], name, getattr(sys.modules[module], name))
        for module, names in _IMPORTED.items()
        for name in names
        if hasattr(sys.modules.get(module), name)
    ]
    original = nn.Module.load_state_dict

    def load(self: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(state_dict, NotLoaded) or (NOTE in notes and not state_dict):
            return torch.nn.modules.module._IncompatibleKeys([], [])
        return original(self, state_dict, *args, **kwargs)

    _SAID.append(notes)
    try:
        for function, _ in exchanged:
            function.__code__ = _skip.__code__
        for owner, name, _ in renamed:
            setattr(owner, name, _skip)
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
        with _no_connections():
            yield
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]
        for owner, name, value in renamed:
            setattr(owner, name, value)
        for function, code in exchanged:
            function.__code__ = code
        _SAID.pop()


@contextlib.contextmanager
def _no_connections() -> Iterator[None]:
    original: Callable[..., Any] = socket.socket.connect
    resolve = socket.getaddrinfo
    constants = sys.modules.get("huggingface_hub.constants")
    hub_offline = getattr(constants, "HF_HUB_OFFLINE", None)

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family == getattr(socket, "AF_UNIX", None):
            return original(self, address)
        raise NetworkRefusedError("the network is not used while a model is analysed")

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        raise NetworkRefusedError("the network is not used while a model is analysed")

    try:
        socket.socket.connect = connect  # type: ignore[method-assign, assignment]
        socket.getaddrinfo = getaddrinfo
        if constants is not None:
            constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        del socket.socket.connect  # inherited from the C type
        socket.getaddrinfo = resolve
        if constants is not None:
            constants.HF_HUB_OFFLINE = hub_offline  # type: ignore[attr-defined]
