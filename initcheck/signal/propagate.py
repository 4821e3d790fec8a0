"""Carry moments forward through a recorded graph, and gradient kernels back."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx
from numpy.typing import NDArray

from initcheck.signal import (
    ops,  # noqa: F401  (registers the rules)
    raw_inputs,
)
from initcheck.signal.gradient import Gradient
from initcheck.signal.inputs import described, given_value
from initcheck.signal.kernel import Kernel
from initcheck.signal.layers import layer_rows
from initcheck.signal.raw_inputs import reads_bytes
from initcheck.signal.result import GradientKernel, Moments, Signal
from initcheck.signal.rule import RULES, Call, NotReady, Rule, Unknown, shape_of
from initcheck.signal.shape import even_kurtosis, even_shape
from initcheck.signal.value import (
    MASKED,
    Role,
    Value,
    default_roles,
    dims_of,
    iid_value,
    parameter_roles,
    positions,
)
from initcheck.tracing.trace import Distribution, Trace

_DEFECTS = (ValueError, IndexError, KeyError, ArithmeticError, TypeError, AssertionError, RuntimeError)
"""What a rule may raise on a layout that it was not written for; the op is then unknown, by name."""
_CHANNEL_FIRST = {"conv1d": ("S", "C", "P"), "conv_transpose1d": ("S", "C", "P"), "batch_norm": ("S", "C", "P")}
_TRANSPARENT = {"to", "float", "contiguous", "pad", "dropout", "identity", "type_as", "clone"}
_UNBOUNDED = "where one weight per channel stands under a batch norm (it goes as 1/|w|, a few channels make it)"
_SMALL = 1 << 14
_PAIRS = 100_000_000
"""So many moments of single pairs of positions are kept, over all tensors of a net: 0.8 GB."""


def propagate(
    trace: Trace, *, strict: bool = False, inputs: Mapping[str, Moments] | None = None, bands: bool = True
) -> Signal:
    """Predict the scale of every tensor and of its gradient.

    ``inputs``: moments of inputs by placeholder name, where they are not independent N(0, 1).
    ``bands``: how far finite width moves a layer's scale, too.
    ``strict``: let a failing rule raise instead of counting its op as unknown (for tests of the rules themselves).
    """
    run = _Run(trace, strict, inputs or {})
    run.forward()
    run.backward()
    forward = {n: _first(v).moments for n, v in run.values.items() if _first(v) is not None}
    backward = {node: gradient for node, gradient in run.received.items() if node in forward}
    rows, layer_nodes = layer_rows(trace, run.values, backward, run.calls, bands)
    return Signal(forward, backward, rows, run.coverage(), dict(sorted(run.unknown.items())), layer_nodes, run.notes)


def _first(value: Any) -> Any:
    if isinstance(value, tuple):
        return next((v for v in value if v is not None), None)
    return value


class _Run:
    """The state of one propagation."""

    def __init__(self, trace: Trace, strict: bool, inputs: Mapping[str, Moments]) -> None:
        self.inputs = inputs
        self.trace = trace
        self.strict = strict
        self.values: dict[torch.fx.Node, Any] = {}
        self.gradients: dict[torch.fx.Node, dict[int, Gradient]] = {}
        self.received: dict[torch.fx.Node, GradientKernel] = {}
        self.calls: dict[torch.fx.Node, Call] = {}
        self.unknown: Counter[str] = Counter()
        self.notes: list[str] = []
        self.longest = math.isqrt(_PAIRS // max(len(trace.graph.nodes), 1))
        """Positions up to which a tensor keeps the moments of every pair."""

    def forward(self) -> None:
        with torch.no_grad():
            for node in self.trace.graph.nodes:
                value = self._value(node)
                if value is not None:
                    self.values[node] = value

    def _value(self, node: torch.fx.Node) -> Any:
        real = node.meta.get("value")
        if not isinstance(real, torch.Tensor) and node.op == "get_attr":
            real = node.meta.get("constant")
        if isinstance(real, torch.Tensor) and not node.meta.get("parameter"):
            return constant_value(real)
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return self._attribute(node)
        return self._call(node) if node.op == "call_function" else None

    def _placeholder(self, node: torch.fx.Node) -> Value | None:
        val = node.meta.get("val")
        if not isinstance(val, torch.Tensor):
            return None
        shape = tuple(int(s) for s in val.shape)
        if val.is_complex():
            self.unknown["complex input"] += 1
            return None
        integer = not val.is_floating_point()
        roles: tuple[Role, ...] = default_roles(len(shape))
        if integer:
            roles = ("S", *positions(len(shape) - 1)) if shape else ()
        elif len(shape) == 3:
            roles = _three_dims(node)
        elif len(shape) == 1:
            roles = ("C",)
        dims = dims_of(shape, roles)
        used = {a.role for d in dims for a in d}
        # an input's elements are independent along every dim that exists
        covariance = Kernel.independent(1.0, "S" in used, "P" in used)
        if self.trace.inputs_given and not integer and (value := self._as_given(node, roles)) is not None:
            return value
        given = self.inputs.get(str(node.target))
        if given is not None:
            covariance = Kernel(given.variance, given.v_c + given.v_s, given.v_c, given.v_c)
            return Value(dims, given.mean, covariance).settled()
        if reads_bytes(node):
            self.notes.append(f"input {node.target} taken as bytes, 0 to 255, which the forward brings to scale")
            return Value(dims, raw_inputs.MEAN, covariance * raw_inputs.VARIANCE, integer=integer)
        mean, variance = _integers(node) if integer else (0.0, 1.0)
        return Value(dims, mean, covariance * variance, integer=integer)

    def _as_given(self, node: torch.fx.Node, roles: tuple[Role, ...]) -> Value | None:
        """An input with the statistics of the example; None, and said, where it has none."""
        example = node.meta.get("example")
        value = given_value(example, roles) if isinstance(example, torch.Tensor) else None
        if value is None:
            self.notes.append(f"input {node.target} taken as N(0, 1): its values are all equal, or not finite")
        else:
            self.notes.append(f"input {node.target} as given: {described(value)}")
        return value

    def _attribute(self, node: torch.fx.Node) -> Value | None:
        name = node.meta.get("parameter")
        distribution: Distribution | None = None
        if name is not None and name in self.trace.parameters:
            distribution = self.trace.parameters[name].distribution
        elif node.meta.get("buffer") is not None:
            distribution = self.trace.buffers.get(str(node.meta["buffer"]))
        val = node.meta.get("val")
        if distribution is None and isinstance(val, torch.Tensor) and not val.is_floating_point():
            return Value(dims_of(shape_of(node), parameter_roles(val.dim())), 0.0, Kernel.constant(0.0), integer=True)
        if distribution is None or not distribution.known:
            label = name or node.meta.get("buffer") or node.name
            self.unknown[f"values of {label}"] += 1
            return None
        shape = shape_of(node)
        value = iid_value(shape, distribution.mean, distribution.std**2, parameter_roles(len(shape)))
        value.common = distribution.common
        if distribution.kind == "measured" and distribution.low is not None and distribution.high is not None:
            value.shape_on_grid = even_shape(distribution.mean, distribution.std, distribution.low, distribution.high)
        value.zero_sum = distribution.zero_sum
        if distribution.kind == "uniform" or value.shape_on_grid is not None:
            value.kurtosis = even_kurtosis(distribution.mean, distribution.std)
        return value

    def _call(self, node: torch.fx.Node) -> Any:
        op = str(node.meta.get("op", ""))
        rule = RULES.get(op)
        if rule is None:
            if _computes(node):
                self.unknown[op or str(node.target)] += 1
            return None
        call = Call(node, self.values, rule.signature, self.trace.mode == "train")
        self.calls[node] = call
        if any(_broken(self.values.get(n)) for n in node.all_input_nodes):
            return _broken_value(node)
        try:
            call.out = rule.forward(call)
            if _undefined(call.out):  # of finite operands: the rule is at fault
                raise ArithmeticError(f"{node}: no number")
            self._shorten(call.out)
        except NotReady:
            return None
        except Unknown:
            if _computes(node):
                self.unknown[op] += 1
            return None
        except _DEFECTS:
            if self.strict:
                raise
            self.unknown[op] += 1
            return None
        return call.out

    def _shorten(self, out: Any) -> None:
        """Where the pairs of all tensors would not fit into memory, attention still mixes pairs; classes are kept."""
        for value in out if isinstance(out, tuple) else (out,):
            if isinstance(value, Value) and len(value.positions) == 1 and value.positions[0] > self.longest:
                value.covariance = replace(value.covariance, pairs=None)

    def backward(self) -> None:
        start = _primary(self.trace.graph)
        if start is None or not isinstance(self.values.get(start), Value):
            return
        value = self.values[start]
        self._receive(start, 0, Gradient.fresh(Kernel.independent(1.0, bool(value.atoms("S")), bool(value.atoms("P")))))
        unbounded: list[str] = []
        broken = any(_broken(value) for value in self.values.values())
        for node in reversed(self.trace.graph.nodes):
            flows = self.gradients.pop(node, None)  # whatever reads the node has been passed already
            if flows and 0 in flows and flows[0].terms:
                if math.isnan(flows[0].result.same) and not broken:  # of finite values: a rule is at fault
                    if self.strict:
                        raise ArithmeticError(f"{node}: no number for its gradient")
                    self.unknown[f"{node.meta.get('op', node.op)} (gradient)"] += 1
                    continue
                if flows[0].unbounded:
                    unbounded.append(str(node.meta.get("module") or node.name))
                else:
                    self.received[node] = flows[0].result
            call = self.calls.get(node)
            if not flows or call is None or call.out is None:
                continue
            rule = RULES[call.op]
            try:
                self._step(rule, call, flows)
            except (Unknown, NotReady):
                continue
            except _DEFECTS:
                if self.strict:
                    raise
                self.unknown[f"{call.op} (gradient)"] += 1
        if unbounded:
            self.notes.append(f"gradient not predicted {_UNBOUNDED}: {', '.join(reversed(unbounded))}")

    def _step(self, rule: Rule, call: Call, flows: dict[int, Gradient]) -> None:
        source = call.node.args[0] if call.node.args else None
        if call.op == "getitem" and isinstance(self.values.get(source), tuple):  # type: ignore[arg-type]
            for gradient in flows.values():
                self._receive(source, int(call.node.args[1]), gradient)  # type: ignore[arg-type]
            return
        if isinstance(call.out, tuple):
            received = rule.backward_many(call, flows)
        else:
            if not isinstance(call.out, Value) or not flows[0].terms:
                return
            received = rule.backward(call, flows[0])
        for node, gradient in received:
            self._receive(node, 0, gradient)

    def _receive(self, node: torch.fx.Node, index: int, gradient: Gradient) -> None:
        whole = self.values.get(node)
        if whole is None or not gradient.terms:
            return
        if isinstance(whole, tuple) and index < 0:
            index += len(whole)
        slots = self.gradients.setdefault(node, {})
        if index not in slots:
            slots[index] = gradient.copied()
        else:
            slots[index] = slots[index].beside(gradient)

    def coverage(self) -> float:
        """Share of the floating, non-constant computing nodes whose value is known."""
        computing = [n for n in self.trace.graph.nodes if n.op == "call_function" and _computes(n)]
        known = sum(1 for n in computing if n in self.values)
        return known / len(computing) if computing else 1.0


def _integers(node: torch.fx.Node) -> tuple[float, float]:
    """Mean and variance of an integer input's example: as numbers they are what they are, never N(0, 1)."""
    example = node.meta.get("example")
    if not isinstance(example, torch.Tensor) or example.numel() < 2 or example.is_floating_point():
        return 0.0, 1.0
    numbers = example.detach().to("cpu", torch.float64)
    variance = float(numbers.var(correction=0))
    return (float(numbers.mean()), variance) if variance > 0 else (0.0, 1.0)


def constant_value(real: torch.Tensor) -> Value:
    """Exact values: their mean and variance; a mask of -inf says how many keys each row keeps."""
    shape = tuple(int(s) for s in real.shape)
    dims = dims_of(shape, parameter_roles(len(shape)))
    integer = not real.is_floating_point()
    if real.numel() == 0 or real.is_complex():
        return Value(dims, 0.0, Kernel.constant(0.0), iid=True, constant=real, integer=integer)
    numbers = real.detach().resolve_neg().to("cpu", torch.float64).numpy()
    kept = None
    moments = _population(numbers.tobytes()) if numbers.ndim < 2 and numbers.size <= _SMALL else None
    if moments is None and not integer and numbers.ndim and numbers.min() <= MASKED < numbers.max():
        removed = numbers <= MASKED
        kept = (~removed).sum(-1).astype(float).ravel()
        numbers = numbers[~removed]
    if real.dtype == torch.bool and numbers.ndim >= 2:
        kept = numbers.sum(-1).ravel()
    mean, variance = moments or _moments(numbers)
    used = {a.role for d in dims for a in d}
    covariance = Kernel.independent(variance, "S" in used, "P" in used)
    return Value(dims, mean, covariance, iid=True, constant=real, integer=integer, kept=kept)


def _moments(numbers: NDArray[np.float64]) -> tuple[float, float]:
    return float(numbers.mean()), float(numbers.var()) if numbers.size > 1 else 0.0


@functools.lru_cache(maxsize=256)
def _population(values: bytes) -> tuple[float, float] | None:
    """Mean and variance of what most constants are, running statistics of zeros and ones; None where some are masks."""
    numbers = np.frombuffer(values)
    return None if numbers.min() <= MASKED < numbers.max() else _moments(numbers)


def _three_dims(node: torch.fx.Node) -> tuple[Role, ...]:
    """(S, P, C) or (S, C, P): what the first consumer takes dim 1 for; (P, S, C) for an RNN with time first."""
    seen = node
    for _ in range(8):
        user = next(iter(seen.users), None)
        if user is None:
            break
        op = str(user.meta.get("op", ""))
        if op in _CHANNEL_FIRST:
            return _CHANNEL_FIRST[op]  # type: ignore[return-value]
        if op in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            batch_first = next((a for a in reversed(user.args) if isinstance(a, bool)), True)
            return ("S", "P", "C") if batch_first else ("P", "S", "C")
        if op not in _TRANSPARENT:
            break
        seen = user
    return ("S", "P", "C")


def _computes(node: torch.fx.Node) -> bool:
    """Whether a node yields a floating tensor that is no constant."""
    val = node.meta.get("val")
    tensors = val if isinstance(val, (tuple, list)) else (val,)
    floating = any(isinstance(t, torch.Tensor) and (t.is_floating_point() or t.is_complex()) for t in tensors)
    return floating and not isinstance(node.meta.get("value"), torch.Tensor)


def _broken(value: Any) -> bool:
    return isinstance(value, Value) and not (
        math.isfinite(value.mean) and (value.kept is not None or math.isfinite(value.covariance.same))
    )


def _undefined(out: Any) -> bool:
    values = out if isinstance(out, tuple) else (out,)
    return any(isinstance(v, Value) and (math.isnan(v.mean) or math.isnan(v.covariance.same)) for v in values)


def _broken_value(node: torch.fx.Node) -> Any:
    """NaN in, NaN out (or inf): defined, and visible."""
    nan = Kernel.constant(math.nan)

    def one(t: Any) -> Value | None:
        if not isinstance(t, torch.Tensor):
            return None
        shape = tuple(int(s) for s in t.shape)
        return Value(dims_of(shape, default_roles(len(shape))), math.nan, nan)

    val = node.meta.get("val")
    return tuple(one(t) for t in val) if isinstance(val, (tuple, list)) else one(val)


def _primary(graph: torch.fx.Graph) -> torch.fx.Node | None:
    for node in graph.nodes:
        if node.op == "output":
            found = node.args[0]
            while isinstance(found, (tuple, list)):
                found = next(iter(found), None)
            if isinstance(found, dict):
                found = next(iter(found.values()), None)
            return found if isinstance(found, torch.fx.Node) else None
    return None
