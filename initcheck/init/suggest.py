"""The suggested initialisation: scales of the weights that keep forward and backward healthy over the traced graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initcheck.signal.result import Signal
    from initcheck.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class Suggestion:
    """How to initialise one parameter.

    ``function``: a name of ``torch.nn.init`` (``kaiming_normal_``); ``arguments``: keyword and source text
    (``("nonlinearity", "'relu'")``), not naming the tensor. ``std`` and ``mean``: what its elements then have.
    """

    parameter: str
    function: str
    arguments: tuple[tuple[str, str], ...]
    std: float
    mean: float
    reason: str

    def __str__(self) -> str:
        listed = "".join(f", {key}={value}" for key, value in self.arguments)
        return f"{self.function}({self.parameter}{listed})"


def suggest(trace: Trace, signal: Signal, *, everything: bool = False) -> list[Suggestion]:
    """The initialisation that a model should have, for the parameters that are at fault.

    Returned are the parameters that are at fault in themselves (constant, never written) and, where the forward or
    backward signal leaves its healthy band, those whose scale has to change to bring it back; nothing for a model
    that is healthy as it is. Each suggestion is a standard scheme's call where one fits, a number otherwise; the
    choice is checked by propagating the signal again, and corrected until the bands hold or nothing helps any more.

    Args:
        trace: the traced model.
        signal: its propagated signal.
        everything: a suggestion for every weight, also where what is there is good.
    """
    from initcheck.init.solve import solve

    return solve(trace, signal, everything=everything)
