"""LSTM, GRU and plain RNN over time: the cell's moments, iterated with quadrature.

Pre-activations are Gaussian (sums over many units), u_t = b + xi_t: b is what stays over time (bias, the input's
mean and
its share common to all steps), xi_t is new at each step. Given b, the steps of one unit follow scalar recursions for
the
first two moments; the outer average is over the b of each gate. Gilboa et al. 2019 (mean field of LSTM and GRU), with
the constant part kept. Backward: second moments of the gate gradients, step by step from the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.fx

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.value import Atom, Dim, Value, settle

_OUTER, _OUTER_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_OUTER_WEIGHTS = _OUTER_WEIGHTS / _OUTER_WEIGHTS.sum()
_INNER, _INNER_WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_INNER_WEIGHTS = _INNER_WEIGHTS / _INNER_WEIGHTS.sum()


def sigmoid(u: Array) -> Array:
    """1/(1 + e^-u)."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * u)))


@dataclass(frozen=True, slots=True)
class CellWeights:
    """Second moments of one direction's weights: input-hidden, hidden-hidden, the sum of both biases."""

    inputs: float
    hidden: float
    bias_mean: float
    bias_variance: float
    units: int
    width: int


@dataclass(slots=True)
class Steps:
    """Per step: E[h²], what two steps of one unit share, and the factors that the backward pass needs."""

    mean: Array
    second: Array
    shared: Array
    cell: Array
    to_gates: Array
    carry: Array
    through: Array
    direct: Array
    lags: Array
    """Covariance of a unit's output with itself 0, 1, 2, ... steps before, beyond what all steps share."""
    memory: float
    """Mean of the gate that carries the state on."""
    coherent: float
    """Share of the gates' gradient whose factors keep their sign from step to step."""


def steps_of(rows: list[tuple[float, ...]], lags: Array, memory: float, coherent: float) -> Steps:
    """One row per step, in the order of the fields."""
    c = np.array(rows).T
    return Steps(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], lags, memory, coherent)


_REACH = 16
_LAGS = np.arange(_REACH)


def input_lags(x: Kernel) -> Array:
    """Covariance of the input with itself k steps before, beyond what all steps share (zero for white input)."""
    lags = np.zeros(2 * _REACH)
    if x.local is not None and x.local.ndim == 1:
        n = min(len(x.local), len(lags))
        lags[:n] = x.local[:n] - x.far
    return lags


def remembered(drive: Array, memory: float, start: int) -> float:
    """sum_j a^j N(start + j): what a leaky state with decay a holds of a drive with autocovariance N."""
    return float((memory**_LAGS) @ drive[start : start + _REACH])


def state_lags(drive: Array, memory: float, own: float) -> Array:
    """Autocovariance of s_t = a s_{t-1} + d_t, scaled to s_t's own variance."""
    raw = np.zeros(_REACH)
    variance = (drive[0] + 2 * memory * remembered(drive, memory, 1)) / max(1 - memory**2, 1e-6)
    raw[0] = variance
    for k in range(1, _REACH):
        raw[k] = memory * raw[k - 1] + remembered(drive, memory, k)
    return raw * (own / variance) if variance > 0 else raw


def gate(function: Any, mean: float, constant: float, noise: float) -> tuple[Array, Array, Array]:
    """E[f | b], E[f² | b] and E[f'² | b] on the outer nodes."""
    u = mean + math.sqrt(max(constant, 0.0)) * _OUTER[:, None] + math.sqrt(max(noise, 0.0)) * _INNER[None, :]
    f = function(u)
    slope = f * (1 - f) if function is sigmoid else 1 - f * f if function is np.tanh else (u > 0).astype(float)
    return f @ _INNER_WEIGHTS, (f * f) @ _INNER_WEIGHTS, (slope * slope) @ _INNER_WEIGHTS


def average(values: Array) -> float:
    """Mean over the outer nodes of every axis."""
    for _ in range(values.ndim):
        values = values @ _OUTER_WEIGHTS
    return float(values)


def run_lstm(x: Kernel, w: CellWeights, steps: int, h0: float, c0: float) -> Steps:
    """c = f c + i g, h = o tanh(c)."""
    shape = (len(_OUTER),) * 3
    c_mean, c_second = np.zeros(shape), np.full(shape, c0)
    h_second, h_shared = h0, 0.0
    rows: list[tuple[float, ...]] = []
    previous_c = c0
    lags = input_lags(x)
    for t in range(steps):
        total = w.width * w.inputs * x.same + w.units * w.hidden * h_second
        constant = w.bias_variance + w.width * w.inputs * x.far + w.units * w.hidden * h_shared
        noise = max(total + w.bias_variance - constant, 0.0)
        s1, s2, slope = gate(sigmoid, w.bias_mean, constant, noise)
        t1, t2, t_slope = gate(np.tanh, w.bias_mean, constant, noise)
        i1, f1, g1 = s1[:, None, None], s1[None, :, None], t1[None, None, :]
        i2, f2, g2 = s2[:, None, None], s2[None, :, None], t2[None, None, :]
        drive = average(s1) ** 2 * average(t_slope) * w.width * w.inputs * lags
        drive[0] = average(s2) * average(t2) - average(s1**2) * average(t1**2)
        memory = average(s1)
        echo = 2 * memory * remembered(drive, memory, 1) if t else 0.0
        c_second = f2 * c_second + 2 * f1 * c_mean * i1 * g1 + i2 * g2 + echo
        c_mean = f1 * c_mean + i1 * g1
        spread = np.sqrt(np.maximum(c_second - c_mean**2, 0.0))
        c = c_mean[..., None] + spread[..., None] * _INNER
        tanh_c = np.tanh(c)
        h1, h2 = tanh_c @ _INNER_WEIGHTS, (tanh_c**2) @ _INNER_WEIGHTS
        squash = average(((1 - tanh_c**2) ** 2) @ _INNER_WEIGHTS)
        o1, o2 = average(s1), average(s2)
        mean = o1 * average(h1)
        h_second, h_shared = o2 * average(h2), average(s1**2) * average(h1**2)
        cell = average(c_second)
        sig, s_slope, tan = o2, average(slope), average(t_slope)
        to_gates = average(t2) * s_slope + previous_c * s_slope + sig * tan
        rows.append((mean, h_second, h_shared, cell, to_gates, sig, o2 * squash, average(h2) * s_slope))
        previous_c = cell
    out = state_lags(drive, memory, (h_second - h_shared) * o1**2 / o2)
    out[0] = h_second - h_shared
    coherent = o1**2 * tan / max(to_gates, 1e-300)
    return steps_of(rows, out, memory, coherent)


def run_gru(x: Kernel, w: CellWeights, steps: int, h0: float, c0: float) -> Steps:
    """n = tanh(W x + r (U h)), h = (1 - z) n + z h."""
    shape = (len(_OUTER),) * 2
    h_mean, h_sq = np.zeros(shape), np.full(shape, h0)
    h_second, h_shared = h0, 0.0
    rows: list[tuple[float, ...]] = []
    lags = input_lags(x)
    for t in range(steps):
        from_x = w.width * w.inputs * x.same
        from_h = w.units * w.hidden * h_second
        constant = w.bias_variance + w.width * w.inputs * x.far + w.units * w.hidden * h_shared
        noise = max(from_x + from_h + w.bias_variance - constant, 0.0)
        z1, z2, z_slope = gate(sigmoid, w.bias_mean, constant, noise)
        r2 = average(z2)
        inner = w.bias_variance / 2 * (1 + r2) + w.width * w.inputs * x.far + r2 * w.units * w.hidden * h_shared
        n_noise = max(from_x + r2 * from_h + w.bias_variance / 2 * (1 + r2) - inner, 0.0)
        n1, n2, n_slope = gate(np.tanh, w.bias_mean, inner, n_noise)
        zz1, zz2, nn1, nn2 = z1[:, None], z2[:, None], n1[None, :], n2[None, :]
        rest2 = 1 - 2 * zz1 + zz2
        old = average(h_sq)
        memory = average(z1)
        drive = (1 - memory) ** 2 * average(n_slope) * w.width * w.inputs * lags
        drive[0] = average(1 - 2 * z1 + z2) * average(n2) - (1 - memory) ** 2 * average(n1**2)
        echo = 2 * memory * remembered(drive, memory, 1) if t else 0.0
        h_sq = rest2 * nn2 + 2 * (zz1 - zz2) * nn1 * h_mean + zz2 * h_sq + echo
        h_mean = (1 - zz1) * nn1 + zz1 * h_mean
        mean, h_second, h_shared = average(h_mean), average(h_sq), average(h_mean**2)
        rest = average(1 - 2 * z1 + z2)
        to_n = rest * average(n_slope)
        to_z = (average(n2) + old) * average(z_slope)
        to_r = to_n * from_h * average(z_slope)
        carry = average(z2)
        rows.append((mean, h_second, h_shared, h_second, to_n + to_z + to_r, carry, 1.0, 0.0))
    out = state_lags(drive, memory, h_second - h_shared)
    coherent = (1 - memory) ** 2 * average(n_slope) / max(to_n + to_z + to_r, 1e-300)
    return steps_of(rows, out, memory, coherent)


def run_rnn(function: Any, x: Kernel, w: CellWeights, steps: int, h0: float) -> Steps:
    """h = f(W x + U h + b)."""
    h_second, h_shared = h0, 0.0
    rows: list[tuple[float, ...]] = []
    for _ in range(steps):
        total = w.width * w.inputs * x.same + w.units * w.hidden * h_second + w.bias_variance
        constant = w.bias_variance + w.width * w.inputs * x.far + w.units * w.hidden * h_shared
        f1, f2, slope = gate(function, w.bias_mean, constant, max(total - constant, 0.0))
        mean, h_second, h_shared = average(f1), average(f2), average(f1**2)
        rows.append((mean, h_second, h_shared, h_second, average(slope), 0.0, 1.0, 0.0))
    out = np.zeros(_REACH)
    out[0] = h_second - h_shared
    return steps_of(rows, out, 0.0, 1.0)


def relu(u: Array) -> Array:
    """max(u, 0)."""
    return np.maximum(u, 0.0)


_CELLS = {
    "lstm": lambda x, w, n, h, c: run_lstm(x, w, n, h, c),
    "gru": lambda x, w, n, h, c: run_gru(x, w, n, h, c),
    "rnn_tanh": lambda x, w, n, h, c: run_rnn(np.tanh, x, w, n, h),
    "rnn_relu": lambda x, w, n, h, c: run_rnn(relu, x, w, n, h),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the stack, as it ran forward."""

    weights: CellWeights
    steps: Steps
    directions: int


def summary(steps: Steps) -> tuple[float, Kernel]:
    """Mean and covariance of the outputs over all steps: two steps share what is constant."""
    mean = float(steps.mean.mean())
    same, far = float(steps.second.mean()), float(np.sqrt(np.maximum(steps.shared, 0.0)).mean() ** 2)
    local = far + steps.lags * ((same - far) / steps.lags[0]) if steps.lags[0] > 0 else None
    return mean, Kernel(same, far, far, far, local) - mean**2


@register
class Recurrent(Rule):
    """A stack of recurrent layers, as ``torch.nn.LSTM``/``GRU``/``RNN`` call it."""

    ops: tuple[str, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
    signature: tuple[str, ...] = (
        "input",
        "hx",
        "params",
        "has_biases",
        "num_layers",
        "dropout",
        "train",
        "bidirectional",
        "batch_first",
    )

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        if not isinstance(call.raw("params"), (list, tuple)):
            raise Unknown("packed sequences")
        layers, directions = int(call.plain("num_layers")), 2 if call.plain("bidirectional") else 1
        keep = 1.0 - (float(call.plain("dropout", 0.0)) if call.plain("train", False) else 0.0)
        batch_first = bool(call.plain("batch_first", False))
        steps_dim = (1 if batch_first else 0) if len(x.dims) == 3 else 0
        steps = x.shape[steps_dim]
        h0, c0 = self._initial(call)
        kernel = x.second
        stack: list[Layer] = []
        per = len(call.raw("params")) // (layers * directions)
        for index in range(layers):
            w = self._weights(call, index * directions * per, per)
            ran = _CELLS[call.op](kernel, w, steps, h0, c0)
            stack.append(Layer(w, ran, directions))
            mean, covariance = summary(ran)
            kernel = covariance + mean**2
            if index + 1 < layers and 0 < keep < 1:
                kernel = Kernel(kernel.same / keep, kernel.far, kernel.cross, kernel.sample)
        call.memo["stack"], call.memo["steps_dim"], call.memo["keep"] = stack, steps_dim, keep
        units = stack[-1].weights.units * directions
        time: Dim = (Atom("P", steps),) if steps > 1 else ()
        dims = list(x.dims)
        dims[-1] = (Atom("C", units),) if units > 1 else ()
        dims[steps_dim] = time if not x.dims[steps_dim] else x.dims[steps_dim]
        out = Value(tuple(dims), mean, covariance, approximate=x.approximate).settled()
        return (out, *self._finals(call, stack[-1], x, steps_dim))

    def _initial(self, call: Call) -> tuple[float, float]:
        raw = call.raw("hx")
        nodes = raw if isinstance(raw, (list, tuple)) else (raw,)
        seconds = [call.of(n).second.same for n in nodes if isinstance(n, torch.fx.Node)]
        return (seconds[0] if seconds else 0.0), (seconds[1] if len(seconds) > 1 else 0.0)

    def _weights(self, call: Call, start: int, per: int) -> CellWeights:
        nodes: Sequence[Any] = call.raw("params")[start : start + per]
        values = [call.of(n) for n in nodes]
        if per not in (2, 4):
            raise Unknown("recurrent layer with a projection")
        second = [v.mean**2 + v.variance for v in values]
        biases = values[2:4]
        return CellWeights(
            second[0],
            second[1],
            sum(b.mean for b in biases),
            sum(b.variance for b in biases),
            shape_of(nodes[1])[1],
            shape_of(nodes[0])[1],
        )

    def _finals(self, call: Call, last: Layer, x: Value, steps_dim: int) -> list[Value]:
        finals: list[Value] = []
        for second in [last.steps.second[-1], last.steps.cell[-1]] if call.op == "lstm" else [last.steps.second[-1]]:
            shape = call.node.meta["val"][1 + len(finals)].shape
            roles = ["P"] + ["S"] * (len(shape) - 2) + ["C"]
            dims = tuple((Atom(r, int(n)),) if n > 1 else () for r, n in zip(roles, shape, strict=True))  # type: ignore[arg-type]
            shared = float(last.steps.shared[-1]) if not finals else 0.0
            finals.append(Value(dims, 0.0, Kernel(float(second), 0.0, shared, 0.0)).settled())
        return finals

    def backward_many(self, call: Call, gradients: Any) -> Flow:
        x = call.value("input")
        stack: list[Layer] = call.memo["stack"]
        steps = len(stack[0].steps.second)
        incoming = np.zeros(steps)
        if 0 in gradients:
            kernel = gradients[0].collapsed()
            profile = next((p for p in kernel.profile if p is not None and len(p) == steps), None)
            incoming = kernel.same * (np.ones(steps) if profile is None else np.asarray(profile))
        if 1 in gradients:
            incoming[-1] += gradients[1].collapsed().same
        ratio = np.zeros(2 * _REACH)
        for index in range(len(stack) - 1, -1, -1):
            layer = stack[index]
            incoming, ratio = self._back(call.op, layer, incoming, ratio)
            if index and 0 < call.memo["keep"] < 1:
                incoming = incoming / call.memo["keep"]
        mean = float(incoming.mean())
        profile = incoming / mean if mean > 0 else None
        k = Kernel(mean, 0.0, 0.0, 0.0, None, (profile,) if len(x.positions) == 1 and profile is not None else ())
        yield call.node_of("input"), Gradient.fresh(settle(k, x.dims))

    def _back(self, op: str, layer: Layer, incoming: Array, ratio: Array) -> tuple[Array, Array]:
        """Second moment of the gradient at each step's input, and its autocorrelation along the steps.

        The state carries the gradient back in time: what arrives at neighbouring steps adds up coherently with it.
        """
        w, s = layer.weights, layer.steps
        result = np.zeros_like(incoming)
        from_next = cell = state = 0.0
        echo = 2 * s.memory * remembered(ratio, s.memory, 1)
        for t in range(len(incoming) - 1, -1, -1):
            h = incoming[t] + from_next
            if op == "lstm":
                carried = s.carry[t + 1] * cell if t + 1 < len(incoming) else 0.0
                cell = h * s.through[t] * (1 + echo) + carried
                gates = cell * s.to_gates[t] + h * s.direct[t]
                from_next = w.units * w.hidden * gates
            elif op == "gru":
                h = incoming[t] * (1 + echo) + from_next + state
                gates = h * s.to_gates[t]
                from_next, state = w.units * w.hidden * gates, h * s.carry[t]
            else:
                gates = h * s.to_gates[t]
                from_next = w.units * w.hidden * gates
            result[t] = layer.directions * w.units * w.inputs * gates
        white = ratio.copy()
        white[0] = 1.0
        lags = np.zeros(2 * _REACH)
        lags[:_REACH] = state_lags(white, s.memory, s.coherent)
        lags[0] = 0.0
        return result, lags


@register
class RecurrentCell(Rule):
    """One step of an LSTM, GRU or RNN cell (``torch.nn.LSTMCell`` and its like)."""

    ops: tuple[str, ...] = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
    signature: tuple[str, ...] = ("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        raw = call.raw("hx")
        states = [
            call.of(n) for n in (raw if isinstance(raw, (list, tuple)) else (raw,)) if isinstance(n, torch.fx.Node)
        ]
        values = [call.value("w_ih"), call.value("w_hh")]
        biases = [b for b in (call.optional("b_ih"), call.optional("b_hh")) if b is not None]
        w = CellWeights(
            values[0].mean ** 2 + values[0].variance,
            values[1].mean ** 2 + values[1].variance,
            sum(b.mean for b in biases),
            sum(b.variance for b in biases),
            shape_of(call.node_of("w_hh"))[1],
            shape_of(call.node_of("w_ih"))[1],
        )
        h0 = states[0].second.same if states else 0.0
        c0 = states[1].second.same if len(states) > 1 else 0.0
        given = x.second  # of one step, what samples have in common takes the part of what is constant over time
        common = Kernel(given.same, given.cross, given.cross, given.cross)
        steps = _CELLS[call.op.removesuffix("_cell")](common, w, 1, h0, c0)
        call.memo["layer"] = Layer(w, steps, 1)
        dims = (*x.dims[:-1], (Atom("C", w.units),))
        shared = float(steps.shared[0])
        h = Value(dims, 0.0, Kernel(float(steps.second[0]), shared, shared, shared)).settled()
        if call.op != "lstm_cell":
            return h
        c = Value(dims, 0.0, Kernel(float(steps.cell[0]), shared, shared, shared)).settled()
        return (h, c)

    def backward_many(self, call: Call, gradients: Any) -> Flow:
        layer: Layer = call.memo["layer"]
        s, w = layer.steps, layer.weights
        h = gradients[0].collapsed().same if 0 in gradients else 0.0
        c = gradients[1].collapsed().same if 1 in gradients else 0.0
        raw = call.raw("hx")
        states = [n for n in (raw if isinstance(raw, (list, tuple)) else (raw,)) if isinstance(n, torch.fx.Node)]
        cell = h * s.through[0] + c
        gates = cell * s.to_gates[0] + h * s.direct[0]
        flows = [(call.node_of("input"), w.units * w.inputs * gates)]
        if states:
            kept = h * s.carry[0] if call.op == "gru_cell" else 0.0
            flows.append((states[0], w.units * w.hidden * gates + kept))
        if len(states) > 1:
            flows.append((states[1], cell * s.carry[0]))
        for node, second in flows:
            k = Kernel.independent(float(second), True, True)
            yield node, Gradient.fresh(settle(k, call.of(node).dims))

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        return self.backward_many(call, {0: gradient})
