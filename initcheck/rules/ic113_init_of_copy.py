"""IC113: an init call on a copy of a tensor, which nobody keeps: the tensor itself is not written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding, Fix, Substitute
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes, text_of

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC113"

_COPIES = frozenset({"clone", "repeat", "tile"})
"""Methods that give memory of their own."""

_CONVERSIONS = frozenset({"double", "half", "bfloat16"})
"""Likewise for parameters of torch's default dtype, where the file does not set another one: a tensor that has the
dtype already is handed back (so ``float``, ``to``, ``cpu`` and ``contiguous`` are not among them)."""

_SETS_DTYPE = re.compile(r"set_default_dtype|dtype\s*=\s*torch\.(?:float64|double|half|float16|bfloat16)\b")

_FUNCTIONS = frozenset({"copy.deepcopy", "copy.copy", "torch.clone", "torch.tensor"})


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Init calls that are statements of their own and whose target is made by something that copies."""
    copies = {
        write.node: (write, copied)
        for write in init_writes(source)
        if (copied := _copied(source, write.target, _COPIES | _CONVERSIONS))
    }
    if copies and _SETS_DTYPE.search(source.text) is not None:
        copies = {
            node: (write, copied)
            for node, (write, _) in copies.items()
            if (copied := _copied(source, write.target, _COPIES))
        }
    if not copies:
        return
    for statement in ast.walk(source.tree):
        found = copies.get(statement.value) if isinstance(statement, ast.Expr) else None  # type: ignore[call-overload]
        if found is None:
            continue
        write, (original, how) = found
        text = ast.unparse(original)
        yield finding(
            CODE,
            f"`{write.function}` writes to `{text_of(write.target)}`, a copy of `{text}` made by {how} and dropped at "
            f"once: `{text}` keeps what it had",
            source.location(write.node),
            parameter=text.removeprefix("self."),
            suggestion=f"write to {text} itself",
            fix=Fix("write to the tensor itself", (Substitute(source.location(write.target), text),)),
        )


def _copied(source: SourceFile, target: ast.expr, methods: frozenset[str]) -> tuple[ast.expr, str] | None:
    """(the tensor, what copies it) of ``x.weight.clone()``, ``copy.deepcopy(x.weight)`` and ``x.weight[[0, 2]]``."""
    found = None
    while True:
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.List):
            found, target = "an index that is a list", target.value
        elif isinstance(target, ast.Call) and source.imports.resolve(target.func) in _FUNCTIONS and target.args:
            found, target = f"{ast.unparse(target.func)}()", target.args[0]
        elif isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute):
            if target.func.attr in methods:
                found = f"{target.func.attr}()"
            elif target.func.attr != "detach":
                return None
            target = target.func.value
        elif isinstance(target, ast.Attribute) and target.attr == "data":
            target = target.value
        else:
            break
    is_tensor = isinstance(target, ast.Attribute) or (isinstance(target, ast.Name) and found is not None)
    return (target, found) if found is not None and is_tensor else None
