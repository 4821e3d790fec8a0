"""Parameters of the same name in the items of a list of layers, as code: a slice of the list, and the path below."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initcheck.rules.base import ModelContext

_ITEM = re.compile(r"(.+)\.(\d+)\.(\D.*)")


def attribute_path(name: str, root: str) -> str | None:
    """``self.features[0].weight`` for ``features.0.weight``; None where a part can be no attribute."""
    path = root
    for part in name.split(".") if name else ():
        if part.isdigit():
            path += f"[{part}]"
        elif part.isidentifier():
            path += f".{part}"
        else:
            return None
    return path


def item_of(name: str) -> tuple[str, int, str] | None:
    """``("blocks", 3, "fc2.weight")`` of ``blocks.3.fc2.weight``; None for what is in no list."""
    match = _ITEM.fullmatch(name)
    return (match[1], int(match[2]), match[3]) if match else None


def slice_of(held: str, indices: Iterable[int], context: ModelContext, owner: str = "") -> str:
    """``self.blocks[1:]`` for the items 1 to the last of a module's list ``blocks``; empty if some are left out.

    Args:
        held: the list's name in its owner.
        indices: which of its items.
        context: the model.
        owner: the path of the module that is ``self``.
    """
    path = attribute_path(held, "self")
    wanted = sorted(set(indices))
    if path is None or not wanted or wanted != list(range(wanted[0], wanted[-1] + 1)):
        return ""
    full = f"{owner}.{held}" if owner else held
    is_last = f"{full}.{wanted[-1] + 1}" not in context.trace.modules
    if is_last and wanted[0] == 0:
        return path
    return f"{path}[{wanted[0]}:{'' if is_last else wanted[-1] + 1}]"
