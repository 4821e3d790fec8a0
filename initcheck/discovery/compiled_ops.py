"""Packages whose compiled ops did not load: their schemas are declared, so that the package imports all the same.

torchvision built for another torch raises ``operator torchvision::nms does not exist`` as soon as it is imported,
though its models need none of its ops. A model that really calls one fails when it does, in torchvision's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

_MISSING = re.compile(r"operator (\w+)::(\w+) does not exist")
_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SCHEMAS = {("torchvision", "nms"): _BOXES, ("torchvision", "qnms"): _BOXES}
_declared: list[torch.library.Library] = []
"""Schemas live as long as the library object that declares them."""

T = TypeVar("T")


def with_declared_ops(run: Callable[[], T]) -> T:
    """``run()``, again after each compiled op that it misses and whose schema is known here.

    A package that imports its parts when they are asked for (transformers) reports an error of its own: what counts is
    any error that led to it.
    """
    for _ in _SCHEMAS:
        try:
            return run()
        except (RuntimeError, ImportError) as error:
            if not any(_declare(str(link)) for link in _chain(error)):
                raise
    return run()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _declare(message: str) -> bool:
    match = _MISSING.search(message)
    schema = _SCHEMAS.get((match[1], match[2])) if match is not None else None
    if match is None or schema is None:
        return False
    library = torch.library.Library(match[1], "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(match[2] + schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    return True
