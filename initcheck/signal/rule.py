"""What a transfer rule is: one class per op family, ``forward`` beside ``backward``, found by normalised op name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx

from initcheck.signal.gradient import Gradient
from initcheck.signal.value import Value

Result = Value | tuple["Value | None", ...] | None
"""One value, or one per output; None: unknown."""
Flow = Iterable[tuple[torch.fx.Node, Gradient]]
"""Gradients that flow into input nodes."""


class Unknown(Exception):  # noqa: N818  (an outcome, not an error)
    """The rule cannot say (an unsupported argument, a layout it does not understand). Never a guess."""


class NotReady(Exception):  # noqa: N818
    """An operand is itself unknown: the result is unknown, but not for lack of a rule."""


@dataclass(slots=True)
class Call:
    """One recorded call, with what is known of its operands."""

    node: torch.fx.Node
    values: Mapping[torch.fx.Node, Any]
    signature: Sequence[str]
    training: bool
    out: Any = None
    """The value that ``forward`` returned (in ``backward``)."""
    memo: dict[str, Any] = field(default_factory=dict)
    """Whatever ``forward`` wants ``backward`` to have."""
    _args: tuple[Any, ...] = field(init=False, repr=False)
    _kwargs: Mapping[str, Any] = field(init=False, repr=False)

    _shape: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._args, self._kwargs = self.node.args, self.node.kwargs
        self._shape = shape_of(self.node)

    @property
    def op(self) -> str:
        """Normalised op name."""
        return str(self.node.meta.get("op", self.node.target))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) output."""
        return self._shape

    def raw(self, name: str, default: Any = None) -> Any:
        """The argument as recorded: a node, a sequence, a plain value."""
        if name in self._kwargs:
            return self._kwargs[name]
        index = self.signature.index(name) if name in self.signature else -1
        return self._args[index] if 0 <= index < len(self._args) else default

    def value(self, name: str) -> Value:
        """The operand's value.

        Raises:
            NotReady: if it is unknown.
            Unknown: if it is no tensor.
        """
        raw = self.raw(name)
        if not isinstance(raw, torch.fx.Node):
            raise Unknown(f"{name} of {self.op} is no tensor")
        return self.of(raw)

    def of(self, node: torch.fx.Node) -> Value:
        """The value of a node.

        Raises:
            NotReady: if it is unknown.
        """
        value = self.values.get(node)
        if not isinstance(value, Value):
            raise NotReady(node.name)
        return value

    def optional(self, name: str) -> Value | None:
        """The operand's value, None where the argument is None or absent."""
        return self.value(name) if isinstance(self.raw(name), torch.fx.Node) else None

    def plain(self, name: str, default: Any = None) -> Any:
        """A plain argument; nodes inside become numbers where their value is a known constant."""
        return self._plain(self.raw(name, default))

    def _plain(self, raw: Any) -> Any:
        if isinstance(raw, torch.fx.Node):
            value = self.values.get(raw)
            if isinstance(value, Value):
                if value.constant is not None and value.constant.numel() == 1:
                    return value.constant.item()
                if value.variance == 0:
                    return value.mean
            raise Unknown(f"an argument of {self.op} depends on data")
        if isinstance(raw, (list, tuple)):
            return (
                type(raw)(self._plain(r) for r in raw) if type(raw) in (list, tuple) else tuple(map(self._plain, raw))
            )
        return raw

    def node_of(self, name: str) -> torch.fx.Node:
        """The operand's node (``value`` has checked that it is one)."""
        raw = self.raw(name)
        assert isinstance(raw, torch.fx.Node)
        return raw

    def dim(self, dim: int, ndim: int) -> int:
        """A dim counted from the front."""
        return dim + ndim if dim < 0 else dim


def shape_of(node: torch.fx.Node, index: int | None = None) -> tuple[int, ...]:
    """Shape of a node's output (the first, where there are several)."""
    val = node.meta.get("val")
    while isinstance(val, (tuple, list)):
        val = val[index or 0]
        index = None
    return tuple(map(int, val.shape)) if val is not None and hasattr(val, "shape") else ()


class Rule:
    """One op family. Subclasses name their ops, the positional names of their arguments, and give both passes."""

    ops: tuple[str, ...] = ()
    signature: tuple[str, ...] = ("input",)

    def forward(self, call: Call) -> Result:
        """Moments of the output from those of the operands."""
        raise NotImplementedError

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        """Gradients of the operands from that of the output. None flows by default (no differentiable operand)."""
        return ()

    def backward_many(self, call: Call, gradients: Mapping[int, Gradient]) -> Flow:
        """Likewise for an op with several outputs; by default each is treated on its own."""
        for gradient in gradients.values():
            yield from self.backward(call, gradient)


RULES: dict[str, Rule] = {}


def register(rule: type[Rule]) -> type[Rule]:
    """Class decorator: enter the rule for each of its ops."""
    instance = rule()
    for op in rule.ops:
        if op in RULES:
            raise ValueError(f"two rules for {op}: {type(RULES[op]).__name__} and {rule.__name__}")
        RULES[op] = instance
    return rule


def tensors(call: Call) -> Iterator[torch.fx.Node]:
    """All operand nodes, nested ones included, in order."""
    yield from call.node.all_input_nodes
