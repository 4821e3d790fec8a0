"""Models that a library builds from their names: ``timm:resnet50``, ``hf:gpt2``. Architectures only: no weights."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from initcheck.config import Config
from initcheck.discovery.candidate import Candidate, InputHints
from initcheck.discovery.compiled_ops import with_declared_ops
from initcheck.findings import Location
from initcheck.targets import LibraryTarget


class UnknownTargetError(Exception):
    """There is no such model, library or option; the message says so in one line and names what is near."""


def library_candidates(text: str, config: Config) -> list[Candidate]:
    """The models that a target names: one, or for ``timm:resnet*`` all that match.

    Raises:
        UnknownTargetError: if there is none.
    """
    target = LibraryTarget.parse(text)
    assert target is not None
    found = _LIBRARIES[target.library](target)
    for candidate in found:
        candidate.input_hints.spec = next((spec for spec in config.models if spec.path == text), None)
    return found


def _library(name: str) -> Any:
    try:
        return with_declared_ops(lambda: importlib.import_module(name))
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = "is not installed" if missing else f"cannot be imported: {error}"
        raise UnknownTargetError(f"the package {name!r} {reason}") from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _candidate(name: str, how: str, construct: Callable[[], nn.Module]) -> Candidate:
    return Candidate(name, construct, how, Location(name, 1), InputHints())


def _call(function: str, first: str, options: Mapping[str, Any]) -> str:
    return f"{function}({', '.join([first, *(f'{key}={value!r}' for key, value in options.items())])})"


def _near(given: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(given, list(known), n=4, cutoff=0.5)
    return f"; near it are {', '.join(found)}" if found else ""


# --- timm -------------------------------------------------------------------------------------------------------------


def _timm(target: LibraryTarget) -> list[Candidate]:
    timm = _library("timm")
    known = timm.list_models()
    name = target.name.partition(".")[0]  # resnet50.a1_in1k: the part behind the dot names weights
    names = timm.list_models(name) if any(sign in name for sign in "*?[") else [name] if timm.is_model(name) else []
    if not names:
        raise UnknownTargetError(f"timm has no model {target.name!r}{_near(name, known)}")
    return [_timm_model(timm, name, target.options) for name in names]


def _timm_model(timm: Any, name: str, options: Mapping[str, Any]) -> Candidate:
    def construct() -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    return _candidate(f"timm:{name}", _call("timm.create_model", repr(name), options), construct)


# --- transformers -----------------------------------------------------------------------------------------------------

_HEADS = (
    "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "MODEL_FOR_OBJECT_DETECTION_MAPPING",
    "MODEL_FOR_CTC_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_MAPPING",
)
"""Where the class of a configuration is looked up that names none: the model as it is pretrained, else without head."""


def _transformers(target: LibraryTarget) -> list[Candidate]:
    transformers = _library("transformers")
    config = _configuration(transformers, target)
    try:
        cls = with_declared_ops(lambda: _architecture(transformers, config, target))
    except ImportError as error:  # parts are imported when they are asked for
        cause = error.__cause__ or error
        raise UnknownTargetError(f"transformers cannot import the model: {_first_line(cause)}") from error
    shown = _call(type(config).__name__, "", target.options).replace("(, ", "(").replace("(,", "(")

    def construct() -> nn.Module:
        model: nn.Module = cls(config)
        return model

    return [_candidate(f"hf:{target.name}", f"{cls.__name__}({shown})", construct)]


def _configuration(transformers: Any, target: LibraryTarget) -> Any:
    """From a file, a model type (``gpt2``), or a class of models (``GPT2LMHeadModel``), in this order."""
    if os.path.exists(target.name):
        folder = os.path.isdir(target.name)
        try:
            config = transformers.AutoConfig.from_pretrained(target.name, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            where = f"no config.json that transformers knows in {target.name!r}" if folder else repr(target.name)
            raise UnknownTargetError(f"{where}: {str(error).strip().splitlines()[0]}") from error
        _apply(config, target)
        return config
    mapping = transformers.CONFIG_MAPPING
    for name in (target.name, target.name.replace("-", "_"), target.name.replace("_", "-")):
        if name in mapping:
            return _default(mapping[name], target)
    cls = getattr(transformers, target.name, None) if target.name[:1].isupper() else None
    if cls is not None and getattr(cls, "config_class", None) is not None:
        return _default(cls.config_class, target)
    try:
        config = transformers.AutoConfig.from_pretrained(target.name, local_files_only=True)
    except Exception as error:
        hub = " (the network is not used; a path to its config.json works)" if "/" in target.name else ""
        raise UnknownTargetError(
            f"transformers has no model type {target.name!r}{hub}{_near(target.name.rpartition('/')[2], mapping)}"
        ) from error
    _apply(config, target)
    return config


def _default(cls: Any, target: LibraryTarget) -> Any:
    config = cls()
    _check(config, target)
    return cls(**target.options)


def _apply(config: Any, target: LibraryTarget) -> None:
    _check(config, target)
    for key, value in target.options.items():
        setattr(config, key, value)


def _check(config: Any, target: LibraryTarget) -> None:
    known = [*config.to_dict(), *getattr(config, "attribute_map", {})]
    for key in target.options:
        if key not in known:
            raise UnknownTargetError(f"{type(config).__name__} has no {key!r}{_near(key, known)}")


def _architecture(transformers: Any, config: Any, target: LibraryTarget) -> Any:
    for name in (target.name, *(getattr(config, "architectures", None) or ())):
        cls = getattr(transformers, name, None)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            return cls
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    for head in _HEADS:
        found = getattr(auto, head, {}).get(type(config), None)
        if found is not None:
            return found[0] if isinstance(found, (tuple, list)) else found
    raise UnknownTargetError(f"transformers has no PyTorch model for {type(config).__name__}")


_LIBRARIES: Mapping[str, Callable[[LibraryTarget], list[Candidate]]] = {"timm": _timm, "hf": _transformers}
