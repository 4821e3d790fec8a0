"""What stands in for a name that could not be had: a missing package, a data set, a value nobody may compute here.

A placeholder lets the file load: it can be imported from, subclassed, subscripted and used as a decorator. It raises a
clear error as soon as a model really needs it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from types import FunctionType, SimpleNamespace
from typing import Any, NoReturn

from torch import nn


class NotAvailableError(ImportError):
    """A model really used something that is not there; the message says what and why."""


class Placeholder:
    """Stands for the dotted name ``name``, which is not there because of ``reason``."""

    def __init__(self, name: str, reason: str) -> None:
        self.__dict__.update(_name=name, _reason=reason)

    def _refuse(self, *args: Any) -> Any:
        raise NotAvailableError(f"{self._name} is needed but not available: {self._reason}")

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute.endswith("__"):
            raise AttributeError(attribute)
        return Placeholder(f"{self._name}.{attribute}", self._reason)

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Settings of a package that is not there (``missing.flag = True``) are lost without harm."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a decorator: what it is given. Else an error, or a placeholder while definitions are executed."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (type, FunctionType)):
            return args[0]  # it is used as a decorator
        if self._name.rpartition(".")[2] in _SAYING:
            return None
        if _loading_depth:
            return Placeholder(f"{self._name}(...)", self._reason)
        return self._refuse()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_base_class(self._name, self._reason),)

    def __getitem__(self, key: Any) -> Placeholder:
        return Placeholder(f"{self._name}[...]", self._reason)

    def __or__(self, other: Any) -> Placeholder:
        return self

    __ror__ = __or__

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __subclasscheck__(self, subclass: type) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{self._name}: not available>"

    __iter__ = __len__ = __bool__ = __int__ = __float__ = __index__ = __enter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __pow__ = __neg__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse


_SAYING = frozenset({"info", "warning", "warn", "debug", "error", "log", "exception", "critical", "print"})
_loading_depth: list[None] = []


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While definitions are executed, a call of a placeholder gives a placeholder: nothing is really used yet."""
    _loading_depth.append(None)
    try:
        yield
    finally:
        _loading_depth.pop()


def _base_class(name: str, reason: str) -> type:
    """What a class derives from in place of ``name``: an equal in what matters here, or one that refuses."""
    last = name.rpartition(".")[2]
    if last in _EQUALS:
        return _EQUALS[last]

    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotAvailableError(f"{type(self).__name__} derives from {name}, which is not available: {reason}")

    is_module = (
        last.endswith(("Module", "Model", "Layer", "Net"))
        and last not in _OTHER_MODULES
        and name.partition(".")[0] not in _OTHER_FRAMEWORKS
    )
    bases = (nn.Module,) if is_module else ()
    return type(last, bases, {"__init__": refuse, "__module__": name.rpartition(".")[0] or name})


_OTHER_MODULES = frozenset({"LightningDataModule", "BaseModel", "RootModel"})
_OTHER_FRAMEWORKS = frozenset(
    {"flax", "haiku", "equinox", "jax", "tensorflow", "keras", "mindspore", "paddle", "mxnet"}
)


class LightningModule(nn.Module):
    """A module with a trainer around it: its layers and its forward pass need no trainer."""

    def save_hyperparameters(self, *args: Any, **kwargs: Any) -> None:
        """The caller's arguments, as ``self.hparams``."""
        frame = inspect.currentframe()
        given = dict(frame.f_back.f_locals) if frame is not None and frame.f_back is not None else {}
        self.hparams = SimpleNamespace(**{k: v for k, v in given.items() if k not in ("self", "__class__")})

    def log(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to log to."""

    log_dict = log


class _Plain:
    """A mixin that adds nothing a model needs in order to be built and run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()


_EQUALS: dict[str, type] = {
    "LightningModule": LightningModule,
    "PyTorchModelHubMixin": _Plain,
    "Dataset": _Plain,
    "Callback": _Plain,
    "Env": _Plain,
    "Wrapper": _Plain,
}
