"""Which units of a net are copies of one another, and stay so: an abstract run of the graph, forward and backward.

Every tensor is *zero*, *equal* (all its channels are the same function of the input) or *generic*; the backward pass
says the same of gradients over the channels, and looks one step ahead: a zero head is no obstacle, since its first
gradient, delta x h, differs from column to column as soon as h does. A hidden layer whose units start equal and whose
output gradient is equal over the units gets equal rows as its weight gradient,

    dL/dW[i, :] = sum_s delta_i(s) x(s),

so its units remain copies of one another, whatever the optimiser. A layer whose output gradient is zero for good never
moves. What is not known counts as generic, so that no verdict rests on it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.fx

    from initcheck.rules.base import ModelContext
    from initcheck.tracing.trace import ParameterRecord, Trace


class State(enum.IntEnum):
    """What is known of the channels of a tensor or gradient."""

    ZERO = 0
    EQUAL = 1
    GENERIC = 2


ZERO, EQUAL, GENERIC = State.ZERO, State.EQUAL, State.GENERIC

_KEEPS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "mT",
        "T",
        "swapaxes",
        "movedim",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "to",
        "type",
        "float",
        "half",
        "bfloat16",
        "double",
        "type_as",
        "dropout",
        "alpha_dropout",
        "feature_dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "view_as",
        "reshape_as",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "mean",
        "sum",
        "interpolate",
        "upsample",
        "pad",
        "identity",
        "__getitem__",
        "getitem",
        "select",
        "slice",
        "narrow",
        "chunk",
        "split",
        "unbind",
        "alias",
        "lift_fresh",
        "neg",
        "roll",
        "flip",
        "unfold",
    ]
)
"""Ops that treat all channels alike and are linear."""

_ODD = frozenset(
    [
        "tanh",
        "hardtanh",
        "gelu",
        "silu",
        "mish",
        "elu",
        "celu",
        "selu",
        "softsign",
        "tanhshrink",
        "leaky_relu",
        "prelu",
        "hardswish",
        "sin",
    ]
)
"""Pointwise ops with f(0) = 0 and a slope at 0."""

_DEAD_AT_ZERO = frozenset(["relu", "relu6", "softshrink", "hardshrink", "threshold", "clamp_min", "square", "abs"])
"""Pointwise ops with f(0) = 0 and, as torch defines it, f'(0) = 0."""

_POWERS = frozenset(["pow", "float_power"])

_LIFTING = frozenset(["sigmoid", "hardsigmoid", "softplus", "logsigmoid", "cos", "exp"])
"""Pointwise ops with f(0) != 0."""

_PARTS = frozenset(["__getitem__", "getitem", "select", "slice", "narrow", "chunk", "split", "unbind"])
"""Ops that take a tensor apart."""

_MAX_POOLS = frozenset(["max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d"])
_NORMS = frozenset(["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"])
_PRODUCTS = frozenset(["mul", "multiply", "imul"])
_QUOTIENTS = frozenset(["div", "true_divide", "truediv"])
_SUMS = frozenset(["add", "sub", "iadd", "isub"])
_DIFFERENCES = frozenset(["sub", "isub"])
_MATMULS = frozenset(["matmul", "mm", "bmm"])
_LAYERS = frozenset(
    ["linear", "addmm", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
)
_ORDER = {"addmm": (1, 2, 0)}
"""Where input, weight and bias stand among the arguments, if not in that order."""


@dataclass(frozen=True, slots=True)
class Symmetric:
    """A hidden layer whose units have equal weights. ``zero``: these are all zero.

    ``exact``: the units are copies of one another for good; else their biases, or what reads them, tell them apart.
    ``dead``: no gradient ever reaches them.
    """

    record: ParameterRecord
    node: torch.fx.Node
    units: int
    zero: bool
    exact: bool
    dead: bool
    told_apart: bool = False
    """Whether what reads them soon does: it has other weights for each, or ends a branch beside a stream."""


@dataclass(frozen=True, slots=True)
class DeadProduct:
    """Two factors that both start at zero, so that the gradient of each is zero. ``how``: the op that takes both."""

    first: ParameterRecord
    second: ParameterRecord
    node: torch.fx.Node
    how: str


@dataclass(slots=True)
class Symmetry:
    """The result of the run."""

    layers: list[Symmetric] = field(default_factory=list)
    equal_weights: int = 0
    """How many layers have units of equal weights, the output layer included."""
    products: list[DeadProduct] = field(default_factory=list)
    dead: list[ParameterRecord] = field(default_factory=list)
    """Trainable parameters in the graph that no gradient ever reaches."""


def symmetry_of(context: ModelContext) -> Symmetry:
    """Run the analysis once for each model."""
    cached = context.memo.get("symmetry")
    if not isinstance(cached, Symmetry):
        cached = _Run(context.trace).result()
        context.memo["symmetry"] = cached
    return cached


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight as its op uses it: equal over the units it makes, equal over the inputs it reads."""

    record: ParameterRecord
    rows: State
    columns: State
    units: int


class _Run:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.forward: dict[torch.fx.Node, State] = {}
        self.zero_from: dict[torch.fx.Node, ParameterRecord] = {}
        """For a zero tensor: the zero parameter that makes it so."""
        self.zero_at: dict[torch.fx.Node, torch.fx.Node] = {}
        """For a zero tensor: the op that makes it so of something else than zero, until its parameter moves."""
        self.biases: dict[torch.fx.Node, tuple[object, ...]] = {}
        """For the output of a layer of zero weights: the bias, which is all that it is, and what is done to it."""
        self.backward: dict[torch.fx.Node, State] = {}
        self.order = {node: index for index, node in enumerate(trace.graph.nodes)}

    def result(self) -> Symmetry:
        if not any(_is_constant(r) or r.equal_rows or r.equal_columns for r in self._matrices()):
            return Symmetry()  # nothing starts equal
        for node in self.trace.graph.nodes:
            self.forward[node] = self._forward(node)
        for _ in range(2 if self.zero_at else 1):  # the first time tells what moves
            for node in reversed(list(self.trace.graph.nodes)):
                self._backward(node)
        products = list(self._products())
        spoken = {r.name for p in products for r in (p.first, p.second)}
        layers = [layer for layer in self._layers() if layer.record.name not in spoken]
        return Symmetry(layers, sum(1 for _ in self._equal()), products, list(self._dead()))

    def _dead(self) -> Iterator[ParameterRecord]:
        """Parameters that the output depends on, but only through a factor that is zero and stays so."""
        every, alive = self._behind_output(cut=False), self._behind_output(cut=True)
        uses: dict[str, list[torch.fx.Node]] = {}
        for node in self.trace.graph.nodes:
            if node.op == "get_attr" and "parameter" in node.meta:
                uses.setdefault(str(node.meta["parameter"]), []).append(node)
        for name, nodes in uses.items():
            record = self.trace.parameters.get(name)
            if record is None or not record.requires_grad or any(node in alive for node in nodes):
                continue
            if any(node in every for node in nodes):
                yield record
        yield from self._shut_norms()

    def _shut_norms(self) -> Iterator[ParameterRecord]:
        """Weights of norm layers that are zero with their bias, where no gradient comes back: a ReLU stands at zero."""
        for node in self.trace.graph.nodes:
            if _op(node) not in _NORMS or self.backward.get(node) is not ZERO:
                continue
            records = self._affine(node)
            if records and all(_is_zero(r) and r.requires_grad for r in records):
                yield records[0]

    def _behind_output(self, *, cut: bool) -> set[torch.fx.Node]:
        """The nodes that the output depends on; ``cut``: not counting ways through a product with a frozen zero."""
        found: set[torch.fx.Node] = set()
        for node in reversed(list(self.trace.graph.nodes)):
            if node.op != "output" and node not in found:
                continue
            pair = node.args[:2] if cut and _op(node) in _PRODUCTS else ()
            zero = [self._state_of(factor) is ZERO and self._is_frozen(factor) for factor in pair]
            if len(pair) < 2 or not any(zero):
                found.update(node.all_input_nodes)
        return found

    def _matrices(self) -> Iterator[ParameterRecord]:
        return (r for r in self.trace.parameters.values() if len(r.shape) >= 1)

    # -- operands --------------------------------------------------------------------------------------------------

    def _parameter(self, node: object) -> ParameterRecord | None:
        """The parameter behind a node, through views."""
        import torch.fx

        while isinstance(node, torch.fx.Node):
            if node.op == "get_attr":
                return self.trace.parameters.get(str(node.meta.get("parameter", "")))
            if _op(node) not in _KEEPS or not node.args:
                return None
            node = node.args[0]
        return None

    def _weight(self, node: torch.fx.Node) -> _Weight | None:
        import torch.fx

        given = _argument(node, "weight", _places(node)[1])
        record = self._parameter(given)
        if record is None and isinstance(given, torch.fx.Node) and self.forward.get(given) is ZERO:
            zero = self.zero_from.get(given)  # standardised, or scaled: zero all the same
            record = zero if zero is not None and not self._is_gain(zero, given) else None
        if record is None or len(record.shape) < 2:
            return None
        op = _op(node)
        turned = op.startswith("conv_transpose") or ((op in _MATMULS or op == "addmm") and not _is_turned(given))
        constant = State.ZERO if _is_zero(record) else State.EQUAL if _is_constant(record) else None
        rows = constant if constant is not None else EQUAL if record.equal_rows else GENERIC
        columns = constant if constant is not None else EQUAL if record.equal_columns else GENERIC
        if turned:
            rows, columns = columns, rows
        units = record.shape[1] if turned else record.shape[0]
        return _Weight(record, rows, columns, units)

    @staticmethod
    def _is_gain(zero: ParameterRecord, weight: torch.fx.Node) -> bool:
        """Whether what makes a computed weight zero is a factor smaller than it: the units' directions differ."""
        return math.prod(zero.shape) < math.prod(_shape(weight))

    def _zero_gain(self, node: torch.fx.Node) -> ParameterRecord | None:
        """The zero gain of a layer whose weight is computed, direction times gain."""
        given = _argument(node, "weight", _places(node)[1])
        return self._zero_source(given) if self._weight(node) is None else None

    def _bias(self, node: torch.fx.Node) -> State:
        record = self._parameter(_argument(node, "bias", _places(node)[2]))
        return ZERO if record is None else _state(record)

    def _state_of(self, value: object) -> State:
        import torch.fx

        return self.forward.get(value, GENERIC) if isinstance(value, torch.fx.Node) else EQUAL

    # -- forward ---------------------------------------------------------------------------------------------------

    def _forward(self, node: torch.fx.Node) -> State:
        import torch.fx

        if node.op == "get_attr":
            record = self._parameter(node)
            if record is None:
                return GENERIC
            if _is_zero(record):
                self.zero_from[node] = record
            return _state(record)
        if not node.op.startswith("call"):
            return GENERIC
        op = _op(node)
        first = _input(node)
        inside = self._state_of(first)
        if isinstance(first, torch.fx.Node) and first in self.biases and len(node.all_input_nodes) == 1:
            done = (op, str(node.args[1:]), str(node.kwargs))
            self.biases[node] = (*self.biases[first], *done)
        if op in _LAYERS or (op in _MATMULS and self._weight(node) is not None):
            return self._layer(node, inside, first)
        if op == "embedding":
            return self._embedding(node)
        if op in _KEEPS or op in _ODD or op in _DEAD_AT_ZERO or op in _MAX_POOLS or op in _QUOTIENTS:
            self._inherit(node, first, inside)
            return inside
        if op in _POWERS:
            return self._power(node, inside)
        if op in _LIFTING:
            return EQUAL if inside is not GENERIC else GENERIC
        if op in _NORMS:
            return self._norm(node, op, inside)
        if op in _SUMS:
            return self._sum(node)
        if op in _PRODUCTS:
            return self._product(node)
        if op in _MATMULS:
            states = [self._state_of(arg) for arg in node.args[:2]]
            return ZERO if ZERO in states else GENERIC
        if op == "scaled_dot_product_attention" and len(node.args) >= 3:
            return self._state_of(node.args[2])
        return GENERIC

    def _inherit(self, node: torch.fx.Node, source: object, state: State) -> None:
        import torch.fx

        if state is ZERO and isinstance(source, torch.fx.Node) and source in self.zero_from:
            self.zero_from[node] = self.zero_from[source]
            if source in self.zero_at:
                self.zero_at[node] = self.zero_at[source]

    def _zero_by(self, node: torch.fx.Node, record: ParameterRecord, inside: State) -> None:
        """The output is zero by its own parameter, which moves if the input is something else and a gradient comes."""
        self.zero_from[node] = record
        if inside is not ZERO and record.requires_grad:
            self.zero_at[node] = node

    def _opens(self, node: object) -> bool:
        """Whether a zero tensor is one only until the first step: a gradient reaches what makes it zero."""
        import torch.fx

        place = self.zero_at.get(node) if isinstance(node, torch.fx.Node) else None
        return place is not None and self.backward.get(place, ZERO) is not ZERO

    def _layer(self, node: torch.fx.Node, inside: State, first: object) -> State:
        weight, bias = self._weight(node), self._bias(node)
        if weight is None:  # computed: whatever it is, if no factor of it is zero
            gain = self._zero_gain(node)
            if gain is None and inside is not ZERO:
                return GENERIC
            if bias is ZERO and gain is not None:
                self._zero_by(node, gain, inside)
            elif bias is ZERO:
                self._inherit(node, first, ZERO)
            return bias if gain is not None or bias is ZERO else GENERIC
        if weight.rows is ZERO or inside is ZERO:
            self.biases[node] = (self._parameter(_argument(node, "bias", _places(node)[2])),)
            if bias is ZERO:
                if weight.rows is ZERO:
                    self._zero_by(node, weight.record, inside)
                else:
                    self._inherit(node, first, inside)
            return bias
        return GENERIC if weight.rows is GENERIC or bias is GENERIC else EQUAL

    def _embedding(self, node: torch.fx.Node) -> State:
        record = next((r for arg in node.args for r in [self._parameter(arg)] if r is not None), None)
        return GENERIC if record is None else _state(record)

    def _affine(self, node: torch.fx.Node) -> list[ParameterRecord]:
        """The weight and the bias of a norm layer, as far as it has them; of a multiple of zero, what is zero."""
        given = [*node.args[1:], *node.kwargs.values()]
        return [r for value in given for r in [self._parameter(value) or self._zero_source(value)] if r is not None]

    def _norm(self, node: torch.fx.Node, op: str, inside: State) -> State:
        records = self._affine(node)
        scale = [_state(r) for r in records]
        if inside is ZERO and all(_is_zero(r) for r in records if r.attribute == "bias"):
            self._inherit(node, node.args[0], ZERO)  # norm(0) = 0
            return ZERO
        if inside is GENERIC:
            if not scale or any(s is not ZERO for s in scale):
                return GENERIC
            self._zero_by(node, records[0], inside)
            return ZERO
        return EQUAL if all(s is not GENERIC for s in scale) else GENERIC

    def _sum(self, node: torch.fx.Node) -> State:
        if _op(node) in _DIFFERENCES and self._same_biases(node):
            return ZERO
        states = [self._state_of(arg) for arg in node.args[:2]]
        if GENERIC in states or len(states) < 2:
            return GENERIC
        if states == [ZERO, ZERO]:
            self._inherit(node, node.args[0], ZERO)
        return max(states)

    def _same_biases(self, node: torch.fx.Node) -> bool:
        """Whether both operands are what one layer of zero weights makes of two inputs: its bias, twice."""
        import torch.fx

        operands = [arg for arg in node.args[:2] if isinstance(arg, torch.fx.Node) and arg in self.biases]
        return len(operands) == 2 and self.biases[operands[0]] == self.biases[operands[1]]

    def _power(self, node: torch.fx.Node, inside: State) -> State:
        """x ** n with a number n: 0 at zero if n is positive."""
        if _exponent(node) > 0:
            self._inherit(node, node.args[0], inside)
            return inside
        return GENERIC

    def _product(self, node: torch.fx.Node) -> State:
        states = [self._state_of(arg) for arg in node.args[:2]]
        if ZERO in states:
            self._inherit(node, node.args[states.index(ZERO)], ZERO)
            return ZERO
        return max(states, default=GENERIC)

    # -- backward (one step ahead) -----------------------------------------------------------------------------------

    def _flow(self, target: object, state: State) -> None:
        import torch.fx

        if isinstance(target, torch.fx.Node):
            self.backward[target] = max(self.backward.get(target, ZERO), state)

    def _backward(self, node: torch.fx.Node) -> None:
        if node.op == "output":
            for source in node.all_input_nodes:
                self._flow(source, GENERIC)
            return
        if node.op == "get_attr" or not node.op.startswith("call") or node not in self.backward:
            return
        delta = self.backward[node]
        op = _op(node)
        first = _input(node)
        inside = self._state_of(first)
        if op in _LAYERS or (op in _MATMULS and self._weight(node) is not None):
            weight = self._weight(node)
            assert weight is not None or op not in _MATMULS
            if weight is None:
                self._flow_to_all(node, GENERIC)
            else:
                self._flow(first, self._through(weight, inside, delta))
        elif op in _KEEPS or op in _QUOTIENTS:
            self._flow_to_all(node, delta)
        elif inside is ZERO and (op in _DEAD_AT_ZERO or (op in _POWERS and _exponent(node) > 1)):
            self._flow(first, GENERIC if delta is not ZERO and self._opens(first) else ZERO)
        elif op in _POWERS and _exponent(node) > 0:
            self._flow(first, delta if inside is EQUAL or delta is ZERO else GENERIC)
        elif op in _ODD or op in _DEAD_AT_ZERO or op in _LIFTING or op in _MAX_POOLS:
            self._flow(first, delta if inside is not GENERIC or delta is ZERO else GENERIC)
        elif op in _SUMS:
            self._flow_to_all(node, delta)
        elif op in _PRODUCTS and len(node.args) >= 2:
            self._through_product(node, delta)
        elif op in _NORMS:
            equal = op == "batch_norm" and inside is not GENERIC and delta is not GENERIC
            self._flow(first, ZERO if delta is ZERO else EQUAL if equal else GENERIC)
        else:
            self._flow_to_all(node, ZERO if delta is ZERO else GENERIC)

    def _flow_to_all(self, node: torch.fx.Node, state: State) -> None:
        for source in node.all_input_nodes:
            self._flow(source, state)

    @staticmethod
    def _through(weight: _Weight, inside: State, delta: State) -> State:
        """Of the input's gradient W^T delta, now and after the weight's own first step delta x^T."""
        if delta is ZERO:
            return ZERO
        if weight.columns is GENERIC:
            return GENERIC
        return EQUAL if inside is not GENERIC else (GENERIC if weight.record.requires_grad else EQUAL)

    def _through_product(self, node: torch.fx.Node, delta: State) -> None:
        pair = node.args[:2]
        states = [self._state_of(arg) for arg in pair]
        for own, other, target in ((states[0], states[1], pair[0]), (states[1], states[0], pair[1])):
            if (
                delta is ZERO
                or (own is ZERO and other is ZERO)
                or (other is ZERO and self._is_frozen(pair[1] if target is pair[0] else pair[0]))
            ):
                self._flow(target, ZERO)
            elif other is GENERIC or other is ZERO:  # a zero factor moves with the first step
                self._flow(target, GENERIC)
            else:
                self._flow(target, delta)

    def _is_frozen(self, factor: object) -> bool:
        """Whether a zero factor is a parameter that is not trained."""
        record = self._parameter(factor)
        return record is not None and not record.requires_grad

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def _equal(self) -> Iterator[tuple[torch.fx.Node, _Weight]]:
        """Layers whose units all have the same trainable weights."""
        seen: set[str] = set()  # a layer may be used more than once
        for node in self.trace.graph.nodes:
            op = _op(node)
            if op in _LAYERS or op in _MATMULS:
                weight = self._weight(node)
                if (
                    weight is not None
                    and weight.rows is not GENERIC
                    and weight.units > 1
                    and weight.record.requires_grad
                    and weight.record.name not in seen
                ):
                    seen.add(weight.record.name)
                    yield node, weight

    def _layers(self) -> Iterator[Symmetric]:
        for node, weight in self._equal():
            delta = self.backward.get(node)
            if delta is None:
                continue  # not on the way to the output
            exact = delta is ZERO or (delta is EQUAL and self._bias(node) is not GENERIC)
            readers = self._readers(node)
            if exact or readers:
                apart = not exact and (
                    all(w.columns is GENERIC or self._joins_stream(n) for n, w in readers) or self._scaled_apart(node)
                )
                yield Symmetric(weight.record, node, weight.units, weight.rows is ZERO, exact, delta is ZERO, apart)

    def _readers(self, node: torch.fx.Node) -> list[tuple[torch.fx.Node, _Weight]]:
        """The weights that read the output, if nothing else does, and behind an activation or norm; else none.

        The activation may be written out, ``x * sigmoid(x)``: sums, products and powers of the output and numbers. Not
        so in a residual branch, a gate or a head, nor for one factor of a product of matrices.
        """
        bent = _ODD | _DEAD_AT_ZERO | _LIFTING | _NORMS | _POWERS
        nonlinear = {node: False}
        parted: set[torch.fx.Node] = set()
        read: list[tuple[torch.fx.Node, _Weight]] = []
        queue = [*node.users]
        while queue:  # in order of execution, so that all of a node's operands come before it
            user = min(queue, key=self.order.__getitem__)
            queue = [other for other in queue if other is not user]
            op = _op(user)
            weight = self._weight(user) if op in _LAYERS or op in _MATMULS else None
            inputs = [source for source in user.all_input_nodes if source in nonlinear]
            if weight is not None:
                if not all(nonlinear[source] for source in inputs):
                    return []
                read.append((user, weight))
                continue
            mixes = (op in _PRODUCTS or op in _QUOTIENTS or op in _SUMS) and len(inputs) == len(user.all_input_nodes)
            if not (op in bent or op in _KEEPS or op in _MAX_POOLS or mixes):
                return []
            if any(source in parted for source in inputs) or op in _PARTS:
                if len(inputs) > 1:
                    return []  # one part gates another
                parted.add(user)
            bends = op in bent or (mixes and op not in _SUMS and len(inputs) > 1)
            nonlinear[user] = bends or any(nonlinear[source] for source in inputs)
            queue.extend(after for after in user.users if after not in queue)
        return read

    def _scaled_apart(self, node: torch.fx.Node) -> bool:
        """Whether a norm right behind gives each unit a scale of its own, by weights that are drawn."""
        users = list(node.users)
        while len(users) == 1 and _op(users[0]) in _KEEPS:
            users = list(users[0].users)
        norms = [user for user in users if _op(user) in _NORMS]
        return bool(norms) and all(any(_state(r) is GENERIC for r in self._affine(norm)) for norm in norms)

    def _products(self) -> Iterator[DeadProduct]:
        """Zero times zero: two parameters, a zero gate on a zero branch, two zero matrices in a row beside a stream."""
        for node in self.trace.graph.nodes:
            if self.backward.get(node, ZERO) is ZERO:
                continue
            op = _op(node)
            pair: list[ParameterRecord | None] = []
            if op in _PRODUCTS or op in _MATMULS or (op == "scaled_dot_product_attention" and len(node.args) >= 2):
                pair = [self._zero_source(arg) for arg in node.args[:2]]
            elif op in _LAYERS:
                weight = self._weight(node)
                zero = self._zero_gain(node) if weight is None else weight.record if weight.rows is ZERO else None
                if zero is not None and self._joins_stream(node):
                    pair = [self._zero_source(_input(node)), zero]
            elif op in _NORMS:
                zeros = [r for r in self._affine(node) if r.attribute == "weight" and _is_zero(r)]
                pair = [self._zero_source(_input(node)), *zeros]
            if len(pair) != 2 or pair[0] is None or pair[1] is None or pair[0].name == pair[1].name:
                continue
            if pair[0].requires_grad and pair[1].requires_grad:
                yield DeadProduct(pair[0], pair[1], node, op)

    def _zero_source(self, value: object) -> ParameterRecord | None:
        import torch.fx

        return self.zero_from.get(value) if isinstance(value, torch.fx.Node) else None

    def _joins_stream(self, node: torch.fx.Node) -> bool:
        """Whether the output, through linear ops, is added to something that is not zero."""
        queue, seen = list(node.users), set()
        while queue:
            user = queue.pop()
            if user in seen:
                continue
            seen.add(user)
            op = _op(user)
            if op in _SUMS:
                return any(self._state_of(arg) is GENERIC for arg in user.args[:2])
            if op in _KEEPS or op in _QUOTIENTS or op in _PRODUCTS:
                queue.extend(user.users)
        return False


def _exponent(node: torch.fx.Node) -> float:
    """n of ``x ** n``; 0 if it is no number."""
    given = _argument(node, "exponent", 1)
    return float(given) if isinstance(given, (int, float)) else 0.0


def _op(node: torch.fx.Node) -> str:
    return str(node.meta.get("op", "")) if node.op.startswith("call") else ""


def _shape(node: torch.fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _argument(node: torch.fx.Node, name: str, position: int) -> object:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[position] if len(node.args) > position else None


def _places(node: torch.fx.Node) -> tuple[int, int, int]:
    """Where input, weight and bias stand among the arguments."""
    return _ORDER.get(_op(node), (0, 1, 2))


def _input(node: torch.fx.Node) -> object:
    place = _places(node)[0]
    return node.args[place] if len(node.args) > place else None


def _is_turned(node: object) -> bool:
    """Whether a matrix reaches its matmul transposed, ``x @ W.t()``."""
    import torch.fx

    turned = False
    while isinstance(node, torch.fx.Node) and node.op != "get_attr" and node.args:
        turned ^= _op(node) in ("t", "T", "mT", "transpose", "permute")
        node = node.args[0]
    return turned


def _is_constant(record: ParameterRecord) -> bool:
    d = record.distribution
    return d.known and not math.isnan(d.std) and d.std == 0.0 and d.kind != "identity"


def _is_zero(record: ParameterRecord) -> bool:
    return _is_constant(record) and record.distribution.mean == 0.0


def _state(record: ParameterRecord) -> State:
    return ZERO if _is_zero(record) else EQUAL if _is_constant(record) else GENERIC
