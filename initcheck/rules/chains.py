"""What a node reads, and what reads it, through ops that pass a signal on: small walks that several rules share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.fx

    from initcheck.signal.result import Moments, Signal


def op_of(node: torch.fx.Node) -> str:
    """Normalised op name of a call; empty for anything else."""
    return str(node.meta.get("op", "")) if node.op.startswith("call") else ""


def calls(graph: torch.fx.Graph, ops: frozenset[str]) -> Iterator[torch.fx.Node]:
    """The calls of these ops, in order of execution."""
    return (node for node in graph.nodes if op_of(node) in ops)


def operand(node: torch.fx.Node, index: int = 0) -> torch.fx.Node | None:
    """A tensor argument by position; None where that is something else."""
    import torch.fx

    found = node.args[index] if len(node.args) > index else None
    return found if isinstance(found, torch.fx.Node) else None


def source_through(node: torch.fx.Node | None, passing: frozenset[str]) -> torch.fx.Node | None:
    """The first node behind ``node`` that is not one of the passing ops (each of which has one tensor operand)."""
    while node is not None and op_of(node) in passing:
        node = operand(node)
    return node


def moments_of(node: torch.fx.Node | None, signal: Signal) -> Moments | None:
    """The predicted moments of a node's output; None if they are not known, or not finite."""
    import math

    found = signal.forward.get(node) if node is not None else None
    return found if found is not None and math.isfinite(found.mean) and math.isfinite(found.variance) else None
