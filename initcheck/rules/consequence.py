"""What a predicted signal means for learning: one verdict for each direction, and the thresholds behind it.

What training needs of every layer l is that its output carries the input and that a gradient comes back to it. Both
are in one number, the *reach*

    B_l = s_l * |g_l| / |g_ref|

the scale of its weights' gradient: s_l is the std of the layer's input that depends on the model's input
(sqrt(v_s + v_p)), |g_l| the norm over the units of the gradient with respect to its output, and |g_ref| that norm
behind the head (the gradient at the output times the head's own scale, so that a small head, which is good practice,
costs nothing). For a chain of positively homogeneous layers (ReLU, linear) B_l is the same at every layer: the product
of all forward gains before l and of all backward gains behind it; a norm layer leaves it alone. So the largest B_l over
the layers is small only if *every* way through the net is cut, and a zero-initialised branch, a gate or an auxiliary
head does not disturb it.

The thresholds come from training runs of some hundred small nets, 500 steps each (convolutions 250), with SGD with
momentum .9 at learning rates .001, .01, .1 and with Adam at .0001, .001, .01, on ten noisy Gaussian clusters; "k of 6"
of these reach 70 % accuracy. Reach and share (the input-dependent part of a layer's scale, smallest over the layers) as
predicted:

=============================  ========  ========  =============================
net                            reach     share     learns under
=============================  ========  ========  =============================
ReLU, default init, depth 5    2e-2      2e-1      5 of 6
ReLU, default init, depth 8    1e-3      9e-3      3 of 6, none of SGD
ReLU, default init, depth 10   2e-4      2e-3      3 of 6, none of SGD
ReLU, default init, depth 15   2e-6      2e-5      2 of 6, after 278 steps or more
ReLU, default init, depth 20   2e-8      2e-7      1 of 6, after 394 steps
ReLU, default init, depth 30   2e-12     0         0 of 6
VGG16, default init, no norm   2e-6      3e-5      0 of 6
ReLU, Xavier, depth 20         1e-3      .2        4 of 6, SGD after 398 steps
ReLU, Xavier, depth 30         4e-5      .2        2 of 6, none of SGD
ReLU, Xavier, depth 50         4e-8      .1        1 of 6, after 497 steps
ReLU, gain .6 of He, depth 30  2e-7      .2        2 of 6, after 371 steps or more
ReLU, var .01, 50 x 100        3e-8      .1        0 of 6
ReLU, gain .5 of He, depth 30  1e-9      .2        0 of 6
ReLU, std .01, depth 5         2e-5      .6        2 of 6 (a short chain recovers)
ReLU, std .001, depth 5        2e-9      .6        1 of 6
tanh, default init, depth 10   5e-3      4e-2      4 of 6
tanh, default init, depth 20   2e-5      2e-4      0 of 6
sigmoid, Xavier, depth 5       9e-4      4e-3      2 of 6, none of SGD
sigmoid, default, depth 5      9e-5      7e-4      0 of 6 (two on the way)
sigmoid, Xavier, depth 8       1e-5      5e-5      0 of 6
ReLU, 1.5 of He, depth 10      6e1       .4        4 of 6
ReLU, std .5, depth 5          5e2       .6        4 of 6
ReLU, twice He, depth 10       1e3       .4        3 of 6, none of SGD
ReLU, 1.5 of He, depth 30      2e5       .2        2 of 6, none of SGD
ReLU, twice He, depth 30       1e9       .2        1 of 6
ReLU, thrice He, depth 30      2e14      .2        1 of 6, after 441 steps
ReLU, var .1, 50 x 100         3e17      .1        0 of 6
tanh, std 3 sqrt(2/n), 10      9e1       1         6 of 6
tanh, std 10 sqrt(2/n), 5      2e2       1         4 of 6
tanh, std 30 sqrt(2/n), 5      2e3       1         1 of 6
tanh, std 10 sqrt(2/n), 10     3e4       1         0 of 6
norm-free residual, He, 8      2e1       .5        5 of 6
norm-free residual, He, 16     4e2       .2        4 of 6
norm-free residual, He, 32     6e4       .2        3 of 6, none of SGD
norm-free residual, He, 50     3e7       .1        1 of 6
=============================  ========  ========  =============================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initcheck.findings import Severity

if TYPE_CHECKING:
    from initcheck.results import LayerRow
    from initcheck.signal.result import Signal
    from initcheck.tracing.trace import Trace

VANISHING_INFO = 1e-2
VANISHING_WARNING = 3e-4
VANISHING_ERROR = 5e-8
"""Reach below which no optimiser recovers a chain of at least ``LONG_CHAIN`` layers."""

SHORT_CHAIN_ERROR = 1e-16
LONG_CHAIN = 8
"""In a shorter chain Adam's steps, which do not shrink with the gradient, soon replace the weights."""

DEAD_SHARE = 1e-5
"""Input-dependent part of a layer's scale below which biases drown the input for good (fp32 resolves 6e-8)."""

DEAD_SHARE_BOUNDED = 1e-4
"""Likewise under activations that saturate: there the biases also fix every unit's working point. In batches of 128,
sigmoid nets at 1.1e-4, 2.1e-4 and 2.4e-4 learn under one setting of six, after 95 to 240 steps."""

_BOUNDED = frozenset({"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"})

EXPLODING_INFO = 1e2
EXPLODING_WARNING = 1e3
EXPLODING_ERROR = 1e6
"""Of the nets of ``benchmarks/trainability.py`` (batches of 128, 400 steps) those at 2e3 learn under one setting; at
7e4 (GELU, 16 layers), 3e7, 2e9, 6e9 and 1e11 none does. In the table those from 3e7 on learn under one of six."""

BOUNDED_WARNING = 5e2
BOUNDED_ERROR = 1e4
"""Where activations are bounded the forward scale cannot grow: reach counts the gradient, and saturation with it."""

NORMALISED_WARNING = 1e5
NORMALISED_ERROR = 1e10
"""Gradients of plain batch-normalised nets grow with each layer (Yang et al. 2019), and such nets still train."""

PART = 1e-2
"""A direction is named when it contributes at least this factor to the fall (its inverse to the growth)."""

TRUNK = 1e-5
"""A layer whose reach is below this part of the largest is in a side branch (LayerScale, an auxiliary head)."""

RESOLUTION = 1e-8
"""Shares below this are rounding noise of the prediction: zero."""

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38, "float64": 1.7977e308}
_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "LocalResponseNorm")


def is_norm(kind: str) -> bool:
    """Whether a class normalises, by its name: torch's, and those that others write (LlamaRMSNorm, BatchNormAct2d)."""
    return any(name in kind for name in _NORMS)


def _is_elementwise(kind: str) -> bool:
    """A layer with one weight per channel: a stream as small as its LayerScale is no explosion of their gradient."""
    return is_norm(kind) or kind.startswith(("LayerScale", "Affine"))


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of the trunk: its row, its reach, and what it made of the signal and of the gradient.

    ``forward``: s_l / s_(l-1) of the outputs; ``backward``: |g_l| / |g_(l+1)| (of the last layer: / |g_ref|).
    """

    row: LayerRow
    reach: float
    sample_std: float
    gradient: float
    forward: float
    backward: float
    share: float
    """Input-dependent part of the layer's scale."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """The verdict. ``severity`` None: nothing to say. ``forward``/``backward``: whether that direction is to blame."""

    kind: str
    """``vanishing``, ``exploding`` or empty."""
    severity: Severity | None
    reach: float
    forward: bool
    backward: bool
    steps: tuple[Step, ...] = ()
    overflow: str = ""
    """The dtype that the forward pass overflows, if it does."""
    share: float = 1.0
    """Smallest input-dependent part of a trunk layer's scale."""

    @property
    def harmful(self) -> bool:
        """Whether it is worth a warning at least."""
        return self.severity is not None and self.severity >= Severity.WARNING


NOTHING = Consequence("", None, 1.0, False, False)


def judge(trace: Trace, signal: Signal) -> Consequence:
    """The verdict on a traced model; nothing where too little of it is known."""
    rows = [row for row in signal.layers if _known(row) and not _is_constant_table(row)]
    if len(rows) < 2:
        return _blown_exponent(trace, signal)
    head = _head(rows)
    hidden = rows[: rows.index(head)]
    reference = _reference(head)
    steps = _steps(hidden, reference, signal)
    if not steps or steps[0].sample_std == 0:
        return NOTHING  # nothing is known to depend on the input (token ids that are all alike): no net can be judged
    reach = max(step.reach for step in steps)
    telling = [step for step in steps if not _is_zero_layer(step)] or list(steps)
    share = min(step.share for step in telling)
    overflow = _overflow(trace, signal)
    if overflow:
        grown = max(s.gradient for s in steps) > 1 / PART
        return Consequence("exploding", Severity.ERROR, reach, True, grown, steps, overflow, share)
    last = telling[-1].share
    low = _vanishing(reach, share, last, steps)
    lost = share < RESOLUTION and last < RESOLUTION  # the features are constants: no layer's gradient is left either
    if low is not None and (reach > 0 or lost):
        low = min(low, Severity.WARNING) if lost and _rounding_speaks(trace, signal) else low
        forward = min(s.sample_std for s in steps) < PART * _entry(steps[0])
        backward = 0 < steps[0].gradient < PART * max(steps[-1].gradient, 1.0)
        return Consequence("vanishing", low, reach, forward or not backward, backward, steps, "", share)
    dense = [step.reach for step in steps if not _is_elementwise(step.row.kind)]
    high = _exploding(max(dense, default=reach), rows, any(is_norm(row.kind) for row in signal.layers))
    if high is not None:
        forward = max(s.row.forward_std or 0.0 for s in steps) > 1 / PART
        backward = max(s.gradient for s in steps) > 1 / PART
        return Consequence("exploding", high, reach, forward or not backward, backward, steps, "", share)
    return Consequence("", None, reach, False, False, steps, "", share)


def _known(row: LayerRow) -> bool:
    values = (row.forward_std, row.sample_std, row.grad_std)
    return all(value is not None and not math.isnan(value) for value in values)


def _is_constant_table(row: LayerRow) -> bool:
    """Embeddings that the input does not choose: of positions, of one token type."""
    return "Embedding" in row.kind and row.sample_std == 0


def _head(rows: Sequence[LayerRow]) -> LayerRow:
    """The last layer that the gradient of the primary output reaches."""
    return next((row for row in reversed(rows) if row.grad_std), rows[-1])


def _norm(row: LayerRow) -> float:
    """Norm of the gradient over the elements of one sample's output."""
    return (row.grad_std or 0.0) * math.sqrt(math.prod(row.output_shape[1:]))


def _reference(head: LayerRow) -> float:
    """Norm of the gradient that a head of unit gain would hand to the features: a small head does not count."""
    gain = 1.0
    if head.weight_std is not None and head.fan_in:
        gain = min(1.0, head.weight_std * math.sqrt(head.fan_in))
    return _norm(head) * gain


@dataclass(frozen=True, slots=True)
class _Layer:
    row: LayerRow
    entry: float
    gradient: float
    share: float

    @property
    def reach(self) -> float:
        return self.entry * self.gradient

    @property
    def through(self) -> float:
        """The reach with what the layer's own weights do: all gains of a chain, the layer's included."""
        return max(self.entry, self.row.sample_std or 0.0) * self.gradient


def _steps(hidden: Sequence[LayerRow], reference: float, signal: Signal) -> tuple[Step, ...]:
    """The trunk: layers whose reach is not far below the largest, and those that the input no longer reaches.

    Behind a zero head nothing comes back yet: the forward half alone decides, by what the head will see.
    """
    layers = [
        _Layer(row, _input_std(row, signal), _norm(row) / reference if reference > 0 else 1.0, _share(row))
        for row in hidden
    ]
    if not layers:
        return ()
    if reference > 0:
        largest = max((layer.reach for layer in layers if layer.share >= RESOLUTION), default=0.0)
        trunk = [
            layer
            for layer in layers
            if (layer.through >= TRUNK * largest or layer.share < RESOLUTION) and _is_alive(layer.row)
        ]
    else:
        largest = layers[-1].row.sample_std or 0.0
        trunk = layers
    steps = []
    alive = True  # whether the input still shows in what the layer reads: its own weights then get a gradient
    for index, layer in enumerate(trunk):
        std = layer.row.sample_std or 0.0
        before = (trunk[index - 1].row.sample_std or 0.0) if index else layer.entry
        after = trunk[index + 1].gradient if index + 1 < len(trunk) else 1.0
        resolved = layer.share >= RESOLUTION or (layer.row.weight_std == 0 and alive)
        reached = layer.share >= RESOLUTION or alive
        alive = layer.share >= RESOLUTION
        steps.append(
            Step(
                layer.row,
                (layer.reach if reached else 0.0) if reference > 0 else largest,
                std,
                layer.gradient,
                std / before if before > 0 and resolved else 1.0,
                layer.gradient / after if after > 0 else 1.0,
                layer.share,
            )
        )
    return tuple(steps)


def _is_alive(row: LayerRow) -> bool:
    """Whether the output is anything but zero."""
    return bool(row.forward_std or row.forward_mean)


def _input_std(row: LayerRow, signal: Signal) -> float:
    """The input-dependent std of what the layer reads; of what it gives, where that is not known (embeddings)."""
    node = signal.layer_nodes.get(row.name)
    own = row.sample_std or 0.0
    if node is None or "Embedding" in row.kind or is_norm(row.kind):
        return own  # a norm's weight multiplies what is normalised already
    at = node
    while at.op == "call_function" and (at is node or at.meta.get("module") == row.name):
        inputs = [n for n in at.all_input_nodes if n.op != "get_attr"]
        if not inputs:
            return own
        at = inputs[0]
    moments = signal.forward.get(at)
    return moments.sample_std if moments is not None and moments.sample_std > 0 else own


def _entry(first: Step) -> float:
    """Scale at which the signal enters the trunk: inputs are N(0, 1); an embedding sets its own."""
    return first.sample_std if "Embedding" in first.row.kind else max(first.sample_std, 1.0)


def _is_zero_layer(step: Step) -> bool:
    """Weights of zero: the output says nothing yet of what the layer reads, and does after the first step."""
    return step.row.weight_std == 0 and step.sample_std == 0 and not _is_elementwise(step.row.kind)


def _share(row: LayerRow) -> float:
    """Input-dependent part of the layer's scale; 1 for an output that is all zero, of which there is nothing to say."""
    total = math.hypot(row.forward_std or 0.0, row.forward_mean or 0.0)
    return (row.sample_std or 0.0) / total if total > 0 else 1.0


def _vanishing(reach: float, share: float, last: float, steps: Sequence[Step]) -> Severity | None:
    cut = VANISHING_ERROR if len(steps) >= LONG_CHAIN else SHORT_CHAIN_ERROR
    bounded = sum(step.row.activation in _BOUNDED for step in steps) > len(steps) / 2
    drowned = DEAD_SHARE_BOUNDED if bounded else DEAD_SHARE
    dead = share < drowned and last < drowned  # a skip connection may carry the input past a dead stretch
    if reach < cut or (dead and reach < VANISHING_WARNING):
        return Severity.ERROR
    if reach < VANISHING_WARNING:
        return Severity.WARNING
    return Severity.INFO if reach < VANISHING_INFO else None


_NORM_OPS = frozenset(["batch_norm", "group_norm", "instance_norm"])

ROUNDING = 2.0**-24
"""Relative error of a mean in single precision."""


def _rounding_speaks(trace: Trace, signal: Signal) -> bool:
    """Whether a norm is given a constant, so that what it makes of it is the rounding of the constant's mean.

    x - mean(x) is then about 1e-7 x where exact arithmetic has 0, and a ReLU that stands at 0, and would stay shut for
    good, is open for half of the units: the gradient comes back, times 1/sqrt(eps) for each such norm, and the first
    step ends it. A net of three such blocks, the second zero, learns nearly as fast as without the zero, by Adam and by
    SGD; nine instance norms behind one, by Adam as well, by SGD more slowly.
    """
    for node in trace.graph.nodes:
        if node.op == "call_function" and node.meta.get("op") in _NORM_OPS:
            before, behind = signal.forward.get(node.all_input_nodes[0]), signal.forward.get(node)
            if before is not None and behind is not None:
                size = math.hypot(before.mean, before.std)
                if size > 0 and math.hypot(behind.mean, behind.std) < ROUNDING * size:
                    return True
    return False


def _exploding(reach: float, rows: Sequence[LayerRow], normalised: bool) -> Severity | None:
    grows = max(row.forward_std or 0.0 for row in rows) > EXPLODING_INFO
    if normalised:
        warning, error = NORMALISED_WARNING, NORMALISED_ERROR
    elif grows:
        warning, error = EXPLODING_WARNING, EXPLODING_ERROR
    else:
        warning, error = BOUNDED_WARNING, BOUNDED_ERROR
    if reach > error:
        return Severity.ERROR
    if reach > warning:
        return Severity.WARNING
    return Severity.INFO if reach > EXPLODING_INFO and not normalised else None


def _overflow(trace: Trace, signal: Signal) -> str:
    """The dtype whose largest number a layer's output, or an ``exp``, is predicted to pass."""
    rows = signal.layers
    dtypes = {record.dtype.removeprefix("torch.") for record in trace.parameters.values()}
    floating = [dtype for dtype in LARGEST if dtype in dtypes]
    if not floating:
        return ""
    narrowest = min(floating, key=lambda dtype: LARGEST[dtype])
    largest = max((row.forward_std or 0.0 for row in rows), default=0.0)
    return narrowest if largest > LARGEST[narrowest] or _exponent(trace, signal) > math.log(LARGEST[narrowest]) else ""


_DEVIATIONS = 3.0
"""A value that many standard deviations above the mean occurs in every batch."""


def _blown_exponent(trace: Trace, signal: Signal) -> Consequence:
    """The verdict where all scales behind an ``exp`` are unknown, and with them the gradient in front of it."""
    dtype = _overflow(trace, signal)
    rows = [row for row in signal.layers if row.forward_std is not None and row.sample_std is not None]
    if not dtype or not rows:
        return NOTHING
    steps = _steps(rows, 0.0, signal)
    return Consequence("exploding", Severity.ERROR, max(s.sample_std for s in steps), True, False, steps, dtype)


def _exponent(trace: Trace, signal: Signal) -> float:
    """The largest number that ``exp`` is given: the scale of what it makes of it is beyond any prediction."""
    found = [0.0]
    for node in trace.graph.nodes:
        if node.op == "call_function" and node.meta.get("op") == "exp" and node.all_input_nodes:
            moments = signal.forward.get(node.all_input_nodes[0])
            if moments is not None and not math.isnan(moments.std):
                found.append(moments.mean + _DEVIATIONS * moments.std)
    return max(found)
