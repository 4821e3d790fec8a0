"""IC103: the same tensor initialised twice in a row while its sibling is never initialised: a copy-paste slip."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import finding
from initcheck.rules.source_index import InitWrite, init_writes, layer_attributes, layer_type, narrowed_types, text_of

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC103"
_APPLY = re.compile(r"\.apply\b")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Repeats within one function, outside of branches, in classes without a loop that reaches every layer."""
    groups: dict[tuple[ast.ClassDef, object], list[InitWrite]] = defaultdict(list)
    for write in init_writes(source):
        if write.classes and write.functions and not write.guards:
            groups[write.classes[-1], write.functions[-1]].append(write)
    for (owner, _), writes in groups.items():
        yield from _check(source, owner, writes)


def _check(source: SourceFile, owner: ast.ClassDef, writes: list[InitWrite]) -> Iterator[Finding]:
    first: dict[str, InitWrite] = {}
    repeats = []
    for write in writes:
        if write.key in first:
            repeats.append(write)
        first.setdefault(write.key, write)
    if not repeats:
        return
    layers = layer_attributes(source, owner)
    inside = [w for w in init_writes(source) if owner in w.classes]
    touched = {w.key for w in inside}
    if any(
        owner in place.classes and isinstance(call.func, ast.Attribute) and call.func.attr == "apply"
        for call, place in source.survey.near(_APPLY).calls
    ):
        return
    for write in repeats:
        parts = _layer_and_tensor(write.target)
        if parts is None or parts[0] not in layers:
            continue
        name, tensor = parts
        kind = layer_type(source, layers[name])
        if any(_reaches_all(source, w, kind or "", tensor) for w in inside):
            continue
        siblings = [
            other
            for other, call in layers.items()
            if other != name
            and layer_type(source, call) == kind
            and not _initialised(other, touched)
            and not _passed_on(other, owner)
        ]
        earlier = first[write.key]
        if not siblings and ast.unparse(write.node) == ast.unparse(earlier.node):
            siblings = [other for other in layers if _half_done(other, tensor, writes, touched, owner)]
        if not siblings:
            continue
        shown = ", ".join(f"self.{s}.{tensor}" for s in siblings[:4]) + (" ..." if len(siblings) > 4 else "")
        yield finding(
            CODE,
            f"`{write.key}` is initialised again (first at line {earlier.node.lineno}), while {shown} "
            f"{'is' if len(siblings) == 1 else 'are'} never initialised",
            source.location(write.node),
            parameter=f"{name}.{tensor}",
            suggestion=text_of(write.node).replace(write.key, f"self.{siblings[0]}.{tensor}"),
            first_line=earlier.node.lineno,
        )


def _half_done(name: str, tensor: str, writes: list[InitWrite], touched: set[str], owner: ast.ClassDef) -> bool:
    """Whether the function initialises the bias of a layer, of any kind, and nothing ever its weight."""
    return (
        tensor == "weight"
        and any(write.key == f"self.{name}.bias" for write in writes)
        and not any(re.search(rf"\bself\.{name}(?!\.bias)\b", key) for key in touched)
        and not _passed_on(name, owner)
    )


def _reaches_all(source: SourceFile, write: InitWrite, kind: str, tensor: str) -> bool:
    """Whether a write in a loop (to a variable, not to ``self.x``) may reach every layer of this kind."""
    target = write.target
    if isinstance(target, ast.Name):
        return True
    if not (isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.attr == tensor):
        return False
    types = narrowed_types(source, write, target.value.id)
    return target.value.id != "self" and (not types or kind in types)


def _layer_and_tensor(target: ast.expr) -> tuple[str, str] | None:
    """``("fc", "weight")`` of ``self.fc.weight``."""
    if (
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Attribute)
        and isinstance(target.value.value, ast.Name)
        and target.value.value.id == "self"
    ):
        return target.value.attr, target.attr
    return None


def _initialised(name: str, touched: set[str]) -> bool:
    return any(re.search(rf"\bself\.{name}\b", key) for key in touched)


def _passed_on(name: str, owner: ast.ClassDef) -> bool:
    """Whether ``self.<name>`` itself is an argument of some call or item of a list: a helper may initialise it."""
    for node in ast.walk(owner):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [*node.args, *(k.value for k in node.keywords)]
        elif isinstance(node, (ast.List, ast.Tuple)):
            values = list(node.elts)
        if any(isinstance(v, ast.Attribute) and v.attr == name and ast.unparse(v) == f"self.{name}" for v in values):
            return True
    return False
