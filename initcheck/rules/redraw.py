"""Init statements that draw parameters once more, each from the distribution that it was drawn from before."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

from initcheck.findings import InitStatement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from initcheck.tracing.trace import ParameterRecord

_RANDOM = frozenset(
    {
        *("uniform_", "normal_", "trunc_normal_", "orthogonal_"),
        *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"),
    }
)


def redraw(record: ParameterRecord, target: str) -> InitStatement | None:
    """The call that drew the parameter, for ``target``; None if it was not drawn by one call, and that alone."""
    last = record.writes[-1] if record.writes else None
    if last is None or last.share < 1.0 or last.function not in _RANDOM:
        return None
    return InitStatement(target, last.function, tuple(_given(last.function, dict(last.arguments))))


def _given(function: str, arguments: dict[str, object]) -> Iterator[tuple[str, str]]:
    """The arguments that differ from the function's defaults, as source text."""
    from torch.nn import init

    for name, parameter in inspect.signature(getattr(init, function)).parameters.items():
        value = arguments.get(name, parameter.default)
        if name != "tensor" and value != parameter.default:
            is_root = isinstance(value, float) and math.isclose(value, math.sqrt(5))  # the slope of torch's defaults
            yield name, "math.sqrt(5)" if is_root else repr(value)
