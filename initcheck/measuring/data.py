"""The user's own data: batches from a .pt file or from a loader in a Python file."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.measuring.device import tensors_of
from initcheck.measuring.errors import DataError
from initcheck.measuring.training import Batch

MOST_BATCHES = 64
_TARGETS = ("targets", "target", "labels", "label", "y")


def load_batches(source: str, most: int = MOST_BATCHES) -> list[Any]:
    """The batches that ``source`` names, as the file gives them.

    ``path.pt``: a tensor, or a tuple, list or mapping of tensors: one batch. ``path.py:name``: an iterable of batches
    (a ``DataLoader``), or a function without arguments that returns one; the file is run.

    Raises:
        DataError: no such file or name, something that cannot be read, or no batch in it.
    """
    file, _, name = source.partition(".py:")
    if name:
        return _from_python(Path(f"{file}.py"), name, most)
    path = Path(source)
    if path.suffix not in (".pt", ".pth"):
        raise DataError(f"{source!r} is not data: expected FILE.pt or FILE.py:LOADER")
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        return [torch.load(path, map_location="cpu", weights_only=True)]
    except Exception as error:
        raise DataError(f"{path} cannot be read as tensors: {type(error).__name__}: {error}") from error


def _from_python(path: Path, name: str, most: int) -> list[Any]:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"_initcheck_data_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            raise DataError(f"{path} defines no {name!r}")
        loader = getattr(module, name)
        found = loader() if inspect.isfunction(loader) or inspect.isclass(loader) else loader
        if isinstance(found, Tensor) or not isinstance(found, Iterable):
            return [found]
        batches = list(itertools.islice(found, most)) if not isinstance(found, Mapping) else [found]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}:{name} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not batches:
        raise DataError(f"{path}:{name} yields no batch")
    return batches


def as_batch(model: nn.Module, given: Any) -> Batch:
    """A batch as (positional inputs, keyword inputs, target).

    A mapping holds keyword inputs (those that the forward does not take, such as labels, are the target); a tensor is
    the one input. Of a sequence, the forward's required arguments come first; what is left over is the target, handed
    to the forward too if it takes an argument of that name (``targets``, ``labels``).

    Raises:
        DataError: if the batch holds no tensor, or fewer than the forward needs.
    """
    if not tensors_of(given):
        raise DataError(f"a batch of the data holds no tensor: {type(given).__name__}")
    parameters = inspect.signature(model.forward).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in parameters]
    if isinstance(given, Tensor):
        return (given,), {}, None
    if isinstance(given, Mapping) or hasattr(given, "keys"):
        mapping = {key: given[key] for key in given.keys()}  # noqa: SIM118
        target = next((mapping[key] for key in _TARGETS if key in mapping), None)
        return (), {key: value for key, value in mapping.items() if anything or key in names}, target
    listed = list(given)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if len(listed) < required:
        raise DataError(f"a batch of the data has {len(listed)} tensors, the forward needs {required}")
    count = max(required, 1)
    rest = listed[count:]
    target = rest[0] if rest and isinstance(rest[0], Tensor) else None
    named = next((p.name for p in positional[count:] if p.name in _TARGETS), None)
    kwargs = {named: target} if named is not None and target is not None else {}
    return tuple(listed[:count]), kwargs, target


def described(batch: Batch) -> str:
    """``float32(8, 3, 32, 32), mean 0.45, std 0.26``."""
    parts = []
    for tensor in tensors_of((batch[0], batch[1])):
        text = f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"
        if tensor.is_floating_point() and tensor.numel() > 1:
            text += f" mean {float(tensor.float().mean()):.3g} std {float(tensor.float().std()):.3g}"
        parts.append(text)
    return ", ".join(parts)
