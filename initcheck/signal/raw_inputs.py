"""Inputs that a forward brings to scale itself: what it divides by 255 are bytes, not numbers of N(0, 1).

Pixels of a game's screen are handed over as they are (Mnih et al. 2015 and all that follow it), and ``x / 255`` is the
first thing that the net does. Bytes spread evenly have the mean 127.5 and the variance (256² - 1) / 12.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx

MEAN = 127.5
VARIANCE = (256.0**2 - 1.0) / 12.0

_RANGES = (255.0, 256.0, 127.5, 128.0, 127.0)
_INVERSES = tuple(1.0 / size for size in _RANGES)
_CENTRES = (127.5, 128.0, 127.0)
_DIVISIONS = frozenset(["div", "truediv", "true_divide", "divide", "itruediv", "idiv"])
_PRODUCTS = frozenset(["mul", "multiply", "imul", "rmul"])
_DIFFERENCES = frozenset(["sub", "subtract", "isub"])
_CASTS = frozenset(["to", "type", "float", "half", "bfloat16", "double", "type_as", "contiguous", "clone", "identity"])
_VIEWS = frozenset(["permute", "transpose", "movedim", "view", "reshape", "flatten", "unsqueeze", "squeeze", "getitem"])


def reads_bytes(placeholder: torch.fx.Node) -> bool:
    """Whether all that is done to an input is to divide it by the range of a byte, casts, views and a centre apart."""
    found, seen, queue = False, {placeholder}, [placeholder]
    while queue:
        node = queue.pop()
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            op = str(user.meta.get("op", ""))
            if op in _CASTS or op in _VIEWS or _is_by(user, node, _DIFFERENCES, _CENTRES):
                queue.append(user)
            elif _is_by(user, node, _DIVISIONS, _RANGES) or _is_by(user, node, _PRODUCTS, _INVERSES):
                found = True
            else:
                return False
    return found


def _is_by(user: torch.fx.Node, node: torch.fx.Node, ops: frozenset[str], numbers: Sequence[float]) -> bool:
    """Whether ``user`` is one of these ops on the node and one of these numbers."""
    if user.meta.get("op") not in ops or len(user.args) < 2 or user.args[0] is not node:
        return False
    given = user.args[1]
    return isinstance(given, (int, float)) and any(abs(given - n) <= 1e-3 * n for n in numbers)
