"""Sums in which one tensor occurs more than once: x + a (f(x) - x), the interpolation of gated residual blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch.fx

from initcheck.signal.value import Value

_ADDED = {"add": 1.0, "radd": 1.0, "iadd": 1.0, "sub": -1.0, "subtract": -1.0, "isub": -1.0}
_SCALED = frozenset(["mul", "multiply", "imul", "rmul"])
_DEPTH = 4

Lookup = Callable[[torch.fx.Node], object]


def combination(operands: dict[torch.fx.Node, float], value_of: Lookup) -> dict[torch.fx.Node, float] | None:
    """Factors of the tensors that a weighted sum is made of, if one operand occurs in another one too.

    The same tensor adds up with itself as numbers do, (1 - a) x + a f, where independent ones add up as variances do.
    None: all operands are apart from each other, as far as a few additions and multiplications by numbers back show.
    """
    for node in operands:
        others = {other: factor for other, factor in operands.items() if other is not node}
        parts = _expanded(node, operands[node], value_of, frozenset(others), _DEPTH)
        if any(part in others for part, _ in parts):
            factors = dict(others)
            for part, factor in parts:
                factors[part] = factors.get(part, 0.0) + factor
            return factors
    return None


def _expanded(
    node: torch.fx.Node, factor: float, value_of: Lookup, known: frozenset[torch.fx.Node], depth: int
) -> list[tuple[torch.fx.Node, float]]:
    """A node as a weighted sum of others, itself where it is none."""
    op = str(node.meta.get("op", ""))
    operands = [a for a in node.args[:2] if isinstance(a, torch.fx.Node)]
    whole = len(operands) == 2 and len(node.args) == 2 and not node.kwargs
    if depth == 0 or not whole or node in known:
        return [(node, factor)]
    if op in _ADDED and all(_alike(o, node, value_of) for o in operands):
        first, second = operands
        return [
            *_expanded(first, factor, value_of, known, depth - 1),
            *_expanded(second, factor * _ADDED[op], value_of, known, depth - 1),
        ]
    if op in _SCALED:
        for tensor, number in (operands, operands[::-1]):
            value = value_of(number)
            if isinstance(value, Value) and value.variance == 0 and _alike(tensor, node, value_of):
                return _expanded(tensor, factor * value.mean, value_of, known, depth - 1)
    return [(node, factor)]


def _alike(operand: torch.fx.Node, node: torch.fx.Node, value_of: Lookup) -> bool:
    """Whether an operand is a random tensor of the same shape as the result."""
    value, whole = value_of(operand), value_of(node)
    if not (isinstance(value, Value) and isinstance(whole, Value)):
        return False
    return value.shape == whole.shape and not value.iid and value.constant is None
