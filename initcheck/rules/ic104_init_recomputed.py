"""IC104: a weight that is written after ``weight_norm``, which computes it anew from other tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes
from initcheck.source.imports import last_word
from initcheck.source.statements import assignments

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC104"

_TENSORS = {
    "torch.nn.utils.weight_norm": ("weight_g", "weight_v"),
    "torch.nn.utils.parametrizations.weight_norm": (
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ),
    "torch.nn.utils.parametrizations.spectral_norm": ("parametrizations.weight.original",),
    "torch.nn.utils.parametrizations.orthogonal": ("parametrizations.weight.original",),
}
"""Wrapper to the tensors that it keeps. The old ``spectral_norm`` is not here: it computes from what is written."""

_WRAPPERS = ("orthogonal", "spectral_norm", "weight_norm")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Writes to ``self.x.weight`` in a class where ``self.x = weight_norm(nn.Conv1d(...))``."""
    if "_norm(" not in source.text and "orthogonal(" not in source.text:
        return
    wrapped: dict[ast.ClassDef, dict[str, tuple[str, int]]] = {}
    for write in init_writes(source):
        target = write.target
        if not (write.classes and isinstance(target, ast.Attribute) and target.attr == "weight"):
            continue
        owner = write.classes[-1]
        if owner not in wrapped:
            wrapped[owner] = dict(_wrapped(source, owner))
        found = wrapped[owner].get(ast.unparse(target.value))
        if found is not None and not write.guards:
            wrapper, line = found
            kept = _TENSORS[wrapper]
            layer = ast.unparse(target.value)
            yield finding(
                CODE,
                f"`{write.key}` is computed from {' and '.join(kept)} at every forward pass, since `{layer}` is "
                f"wrapped by {wrapper.rpartition('.')[2]} (line {line}): what is written here is lost",
                source.location(write.node),
                parameter=write.key.removeprefix("self."),
                suggestion="initialise the layer before it is wrapped",
            )


def _wrapped(source: SourceFile, owner: ast.ClassDef) -> Iterator[tuple[str, tuple[str, int]]]:
    source.survey.near(*source.imports.mentions(_WRAPPERS))  # for the aliases in functions
    spelled = source.imports.spellings(_WRAPPERS)
    for node in assignments(owner):
        if not isinstance(node.value, ast.Call) or last_word(node.value.func) not in spelled:
            continue
        wrapper = source.imports.resolve(node.value.func) or ""
        if wrapper in _TENSORS and len(node.value.args) == 1 and not node.value.keywords:
            for target in node.targets:
                if isinstance(target, ast.Attribute):
                    yield ast.unparse(target), (wrapper, node.lineno)
