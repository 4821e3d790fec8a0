"""IC805: ``kaiming_*`` without ``nonlinearity`` in a file whose activations are all of another kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Finding
from initcheck.rules.base import finding
from initcheck.rules.source_index import init_writes

if TYPE_CHECKING:
    from initcheck.source.file import SourceFile

CODE = "IC805"
_ACTIVATIONS = {
    **{name: name for name in ("tanh", "sigmoid", "selu", "elu", "celu", "gelu", "silu", "mish", "softplus")},
    **dict.fromkeys(("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "relu6"), "relu"),
    "hardtanh": "hardtanh",
    "softsign": "softsign",
    "logsigmoid": "logsigmoid",
}
_NAME = re.compile(r"torch\.(?:nn\.)?(?:functional\.)?(\w+)")


def check_source(source: SourceFile) -> Iterator[Finding]:
    """Kaiming calls that leave the gain at sqrt(2), where the file knows exactly one activation, not ReLU-like."""
    if "kaiming_" not in source.text:
        return
    calls = [w for w in init_writes(source) if w.function.startswith("kaiming_") and "nonlinearity" not in w.arguments]
    calls = [w for w in calls if "a" not in w.arguments]  # whoever gives a slope has thought of the activation
    if not calls:
        return
    used = set(_activations(source))
    if len(used) != 1 or "relu" in used:
        return
    (activation,) = used
    for write in calls:
        yield finding(
            CODE,
            f"`{write.function}` without `nonlinearity` takes the gain of ReLU, sqrt(2); this file's activation is "
            f"{activation}",
            source.location(write.node),
            suggestion=f"name the activation, or use xavier_/orthogonal_ with the gain of {activation}",
        )


def _activations(source: SourceFile) -> Iterator[str]:
    for _, name in source.imports.references():
        match = _NAME.fullmatch(name)
        if match is not None:
            kind = _ACTIVATIONS.get(match[1].lower())
            if kind is not None:
                yield kind
