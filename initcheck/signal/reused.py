"""x + conv(x) again and again with one depthwise kernel (CoaT's position encoding, the same in all blocks of a stage).

Each use filters each channel by 1 + W(f), W(f) being its kernel's response at frequency f. Independent kernels multiply
the variance by E[|1 + W|²] each; one kernel used k times gives E[|1 + W|^(2k)], which is more: the channels and
frequencies that it has raised are those that it raises again. The gradient meets the conjugate filters, the last first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.fx

from initcheck.signal.rule import Call, shape_of
from initcheck.signal.texture import Texture, kernels_of
from initcheck.signal.value import Value


@dataclass(frozen=True, slots=True)
class Reuse:
    """A sum x + conv(x) whose kernel other sums of the stream use.

    ``forward``: its variance beyond that by an independent kernel; ``powers``: E[|1 + W|^(2k)]; ``later``: how many of
    the uses come behind it; ``kernel``: the weight, which knows what the use behind it sent up the stream.
    """

    stream: torch.fx.Node
    branch: torch.fx.Node
    kernel: Value
    forward: float
    powers: list[float]
    later: int

    @classmethod
    def of(cls, call: Call) -> Reuse | None:
        """Of a sum of two tensors, None for any other."""
        nodes = [node for node in call.node.all_input_nodes if isinstance(call.values.get(node), Value)]
        for branch, stream in (nodes, nodes[::-1]) if len(nodes) == 2 else ():
            uses = _uses(branch)
            if len(uses) < 2 or branch.all_input_nodes[0] is not stream:
                continue
            x, y, kernel = call.of(stream), call.of(branch), call.of(branch.all_input_nodes[1])
            if not (x.variance > 0 and math.isfinite(y.variance / x.variance)):
                return None
            powers = _powers(branch, kernel.kurtosis, y.variance / x.variance, len(uses))
            place = uses.index(branch)
            same = _same_stream(uses[place - 1], stream, call) if place else 0.0
            return cls(stream, branch, kernel, _excess(powers, place, same), powers, len(uses) - 1 - place)
        return None

    def to_stream(self, square: float) -> float:
        """Factor of the gradient that the sum, where it has that mean ``square``, sends to ``stream`` itself.

        By way of both summands it is E[|1 + W|²] and what of the gradient has met the kernel before.
        """
        before = self.kernel.passed if self.later else 0.0
        excess = _excess(self.powers, self.later, min(before / square, 1.0) if square > 0 else 0.0)
        self.kernel.passed = square * self.powers[1] * excess
        return max(self.powers[1] * excess - (self.powers[1] - 1.0), 0.0)


def _uses(branch: torch.fx.Node) -> list[torch.fx.Node]:
    """All depthwise convolutions by the kernel of this one, in order; [] if it is none."""
    if not str(branch.meta.get("op", "")).startswith(("conv1d", "conv2d")) or len(branch.all_input_nodes) < 2:
        return []
    weight = branch.all_input_nodes[1]
    shape, name = shape_of(weight), weight.meta.get("parameter")
    if name is None or shape[1:2] != (1,) or shape_of(branch) != shape_of(branch.all_input_nodes[0]):
        return []
    readers = [n for n in branch.graph.nodes if n.op == "get_attr" and n.meta.get("parameter") == name]
    found = {user for reader in readers for user in reader.users if user.meta.get("op") == branch.meta.get("op")}
    return [node for node in branch.graph.nodes if node in found]


def _same_stream(earlier: torch.fx.Node, stream: torch.fx.Node, call: Call) -> float:
    """How much of the stream the sum of the earlier use still is."""
    total = next((user for user in earlier.users if user.meta.get("op") in ("add", "iadd")), None)
    value = None if total is None else call.values.get(total)
    return min(value.variance / call.of(stream).variance, 1.0) if isinstance(value, Value) else 0.0


def _powers(branch: torch.fx.Node, kurtosis: float, share: float, uses: int) -> list[float]:
    """E[|1 + W|^(2k)] for k = 0, 1, ..., with E[|W|²] = ``share``."""
    taps = shape_of(branch.all_input_nodes[1])[2:]
    white = Texture.white(len(taps))
    response = white.filtered(kernels_of(str(branch.all_input_nodes[1].meta["parameter"]), taps, kurtosis))
    power = abs(white.amplitude + math.sqrt(share) * response.amplitude).astype("float64") ** 2
    return [float((power**k).mean()) for k in range(uses + 1)]


def _excess(powers: list[float], earlier: int, share: float) -> float:
    """E[p^(k+1)] / (E[p^k] E[p]) after k ``earlier`` uses, of which that ``share`` is left."""
    return 1.0 + share * (powers[earlier + 1] / (powers[earlier] * powers[1]) - 1.0)
