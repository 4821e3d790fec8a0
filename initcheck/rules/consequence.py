"""What a predicted signal means for learning: one verdict for each direction, and the thresholds behind it.

What training needs of every layer l is that its output carries the input and that a gradient comes back to it. Both are
in one number, the *reach*

    B_l = s_l * |g_l| / |g_ref|

with s_l the std of the layer's output that depends on the input (sqrt(v_s + v_p)), |g_l| the norm over the units of the
gradient with respect to that output, and |g_ref| that norm behind the head (the gradient at the output times the head's
own scale, so that a small head, which is good practice, costs nothing). For a positively homogeneous chain (ReLU, linear)
B_l is the same at every layer: the product of all forward gains before l and of all backward gains behind it; a norm
layer leaves it alone. So the largest B_l over the layers is small only if *every* way through the net is cut, and a
zero-initialised branch, a gate or an auxiliary head does not disturb it.

The thresholds come from training runs of about a hundred small nets, 500 steps (convolutions 250) each with SGD with
momentum .9 at learning rates .001, .01, .1 and with Adam at .0001, .001, .01, on ten noisy Gaussian clusters ("k of 6": how
many of these reach 70 % accuracy):

=============================  ========  ========  =============================
net                            reach     share     learns under
=============================  ========  ========  =============================
ReLU, default init, depth 5    4e-3      5e-2      5 of 6
ReLU, default init, depth 8    3e-4      5e-3      3 of 6, none of SGD
ReLU, default init, depth 10   4e-5      6e-4      3 of 6, none of SGD
ReLU, default init, depth 15   4e-7      1e-5      2 of 6, after 278 steps or more
VGG16, default init, no norm   3e-7      5e-6      0 of 6
ReLU, default init, depth 30   5e-13     1e-9      0 of 6
ReLU, Xavier, depth 20         2e-4      .4        4 of 6, SGD after 398 steps
ReLU, Xavier, depth 30         9e-6      .3        2 of 6, none of SGD
ReLU, gain .6 of He, depth 30  5e-8      .3        2 of 6, after 371 steps or more
ReLU, var .01, 50 x 100        7e-9      .3        0 of 6
ReLU, gain .5 of He, depth 30  2e-10     .3        0 of 6
ReLU, std .01, depth 5         6e-7      .5        2 of 6 (a short chain recovers)
ReLU, std .001, depth 5        6e-12     .5        1 of 6
ReLU, 1.5 of He, depth 10      9e1       .4        4 of 6
ReLU, twice He, depth 10       2e3       .4        3 of 6, none of SGD
ReLU, 1.5 of He, depth 30      2e5       .3        2 of 6, none of SGD
ReLU, thrice He, depth 30      4e14      .3        1 of 6, after 441 steps
ReLU, var .1, 50 x 100         2e17      .3        0 of 6
tanh, std 3 sqrt(2/n), 10      1e2       1         6 of 6
tanh, std 10 sqrt(2/n), 5      8e2       1         4 of 6
tanh, std 10 sqrt(2/n), 10     1e5       1         0 of 6
tanh, default init, depth 20   5e-6      8e-5      0 of 6
sigmoid, default, depth 3      1e-3      6e-3      3 of 6
sigmoid, default, depth 5      2e-5      7e-5      0 of 6
norm-free residual, He, 8      4e1       .5        5 of 6
norm-free residual, He, 32     7e4       .4        3 of 6, none of SGD
norm-free residual, He, 50     3e7       .4        1 of 6
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
VANISHING_WARNING = 1e-4
VANISHING_ERROR = 1e-8
"""Reach below which no optimiser recovers a chain of at least ``LONG_CHAIN`` layers."""

SHORT_CHAIN_ERROR = 1e-16
LONG_CHAIN = 8
"""In a shorter chain Adam's steps, which do not shrink with the gradient, soon replace the weights."""

DEAD_SHARE = 7e-6
"""Input-dependent part of a layer's scale below which biases drown the input for good (fp32 resolves 6e-8)."""

DEAD_SHARE_BOUNDED = 1e-4
"""Likewise under activations that saturate: there the biases also fix every unit's working point."""

_BOUNDED = frozenset({"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"})

EXPLODING_INFO = 1e2
EXPLODING_WARNING = 1e3
EXPLODING_ERROR = 1e12

BOUNDED_WARNING = 1e3
BOUNDED_ERROR = 3e4
"""Where activations are bounded the forward scale cannot grow: reach counts the gradient alone, and saturation with it."""

NORMALISED_WARNING = 1e5
NORMALISED_ERROR = 1e10
"""Gradients of plain batch-normalised nets grow by a factor for each layer (Yang et al. 2019) and are trained all the same."""

PART = 1e-2
"""A direction is named when it contributes at least this factor to the fall (its inverse to the growth)."""

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38, "float64": 1.7977e308}
NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "LocalResponseNorm")


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of the trunk: its row, its reach, and what it made of the signal and of the gradient.

    ``forward``: s_l / s_(l-1); ``backward``: |g_(l-1)| / |g_l| (for the last layer before the head: against the reference).
    """

    row: LayerRow
    reach: float
    sample_std: float
    gradient: float
    forward: float
    backward: float


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
    rows = [row for row in signal.layers if _known(row)]
    if len(rows) < 2:
        return NOTHING
    head = _head(rows)
    hidden = rows[: rows.index(head)]
    if not hidden:
        return NOTHING
    reference = _reference(head)
    steps = _steps(hidden, reference)
    if not steps:
        return NOTHING
    reach = max(step.reach for step in steps)
    share = _share(steps)
    overflow = _overflow(trace, signal.layers)
    if overflow:
        return Consequence("exploding", Severity.ERROR, reach, True, False, steps, overflow, share)
    low = _vanishing(reach, share, steps)
    if low is not None and reach > 0:
        first, last = steps[0], steps[-1]
        forward = min(s.sample_std for s in steps) < PART * _entry(first)
        backward = reference > 0 and first.gradient > 0 and first.gradient < PART * max(last.gradient, reference)
        return Consequence("vanishing", low, reach, forward or not backward, backward, steps, "", share)
    high = _exploding(reach, steps, rows, any(row.kind.startswith(NORMS) for row in signal.layers))
    if high is not None:
        first, last = steps[0], steps[-1]
        forward = max(s.row.forward_std or 0.0 for s in steps) > 1 / PART
        backward = max(s.gradient for s in steps) > 1 / PART
        return Consequence("exploding", high, reach, forward or not backward, backward, steps, "", share)
    return Consequence("", None, reach, False, False, steps, "", share)


def _known(row: LayerRow) -> bool:
    values = (row.forward_std, row.sample_std, row.grad_std)
    return all(value is not None and not math.isnan(value) for value in values)


def _head(rows: Sequence[LayerRow]) -> LayerRow:
    """The last layer that the gradient of the primary output reaches."""
    return next((row for row in reversed(rows) if row.grad_std), rows[-1])


def _units(row: LayerRow) -> float:
    """Elements of one sample's output."""
    return float(math.prod(row.output_shape[1:])) if len(row.output_shape) > 1 else 1.0


def _norm(row: LayerRow) -> float:
    return (row.grad_std or 0.0) * math.sqrt(_units(row))


def _reference(head: LayerRow) -> float:
    """Norm of the gradient that a head of unit gain would hand to the features: a smaller head is left out of account."""
    gain = 1.0
    if head.weight_std is not None and head.fan_in:
        gain = min(1.0, head.weight_std * math.sqrt(head.fan_in))
    return _norm(head) * gain


def _steps(hidden: Sequence[LayerRow], reference: float) -> tuple[Step, ...]:
    """The trunk: layers whose reach is within a factor 1000 of the largest. Behind a zero head: the forward half alone."""
    found = []
    for row in hidden:
        gradient = _norm(row) / reference if reference > 0 else 1.0
        found.append((row, (row.sample_std or 0.0) * gradient, gradient))
    if not found:
        return ()
    if reference > 0:
        largest = max(reach for _, reach, _ in found)
    else:  # nothing comes back through a zero head yet: what it will see decides
        largest = found[-1][1]
    trunk = [item for item in found if item[1] >= 1e-3 * largest] if reference > 0 else found
    steps = []
    before: LayerRow | None = None
    for index, (row, reach, gradient) in enumerate(trunk):
        std = row.sample_std or 0.0
        entry = (before.sample_std or 0.0) if before is not None else 0.0
        after = trunk[index + 1][2] if index + 1 < len(trunk) else 1.0
        steps.append(
            Step(
                row,
                reach if reference > 0 else largest,
                std,
                gradient,
                std / entry if entry > 0 else min(std, 1.0) if before is None else 1.0,
                gradient / after if after > 0 else 1.0,
            )
        )
        before = row
    return tuple(steps)


def _entry(first: Step) -> float:
    """Scale at which the signal enters: inputs are N(0, 1); an embedding sets its own."""
    return max(first.sample_std, 1.0) if "Embedding" not in first.row.kind else first.sample_std


def _share(steps: Sequence[Step]) -> float:
    shares = []
    for step in steps:
        total = math.hypot(step.row.forward_std or 0.0, step.row.forward_mean or 0.0)
        if total > 0:
            shares.append(step.sample_std / total)
    return min(shares, default=1.0)


def _vanishing(reach: float, share: float, steps: Sequence[Step]) -> Severity | None:
    cut = VANISHING_ERROR if len(steps) >= LONG_CHAIN else SHORT_CHAIN_ERROR
    bounded = sum(step.row.activation in _BOUNDED for step in steps) > len(steps) / 2
    dead = share < (DEAD_SHARE_BOUNDED if bounded else DEAD_SHARE)
    if reach < cut or (dead and reach < VANISHING_WARNING):
        return Severity.ERROR
    if reach < VANISHING_WARNING:
        return Severity.WARNING
    return Severity.INFO if reach < VANISHING_INFO else None


def _exploding(reach: float, steps: Sequence[Step], rows: Sequence[LayerRow], normalised: bool) -> Severity | None:
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


def _overflow(trace: Trace, rows: Sequence[LayerRow]) -> str:
    """The dtype whose largest number a layer's output is predicted to pass."""
    dtypes = {record.dtype.removeprefix("torch.") for record in trace.parameters.values()}
    floating = [dtype for dtype in LARGEST if dtype in dtypes]
    if not floating:
        return ""
    narrowest = min(floating, key=lambda dtype: LARGEST[dtype])
    largest = max((row.forward_std or 0.0 for row in rows), default=0.0)
    return narrowest if largest > LARGEST[narrowest] else ""
