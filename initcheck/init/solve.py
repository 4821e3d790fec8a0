"""Solve for the scales of the weights: standard schemes first, then corrections against the re-propagated signal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.fx

from initcheck.init.distributions import with_distributions
from initcheck.init.health import BAND, LEAST_INFORMATION, LayerHealth, judge, needs_repair, worst
from initcheck.init.schemes import (
    activation_rms,
    activation_spread,
    centred_scheme,
    is_mostly_mean,
    scheme_for,
    target_std,
)
from initcheck.init.structure import (
    NORM_OPS,
    RECURRENT_OPS,
    TRANSPARENT_OPS,
    Activation,
    Structure,
    WeightUse,
    analyse,
    op_of,
    short_segments,
)
from initcheck.init.suggest import Suggestion
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Signal
from initcheck.tracing.trace import Distribution, Trace

GOOD = 1.1
"""A weight within this factor of its standard scale is good as it is."""
MARGIN = math.log(1.3)
"""How far inside the band the solution should lie."""
SHORT = 4
"""A run of at most so many weights between two normalisations (or the model's ends) gathers no drift worth repair."""
MANY_BRANCHES = 10
"""From so many residual branches on, the scaling of a branch is shared by its layers."""
FAR = 10.0
"""Within such a run only a weight this far from its standard scale is changed."""
DRIFT = math.log(1.5)
"""Corrections begin where a layer is this far from its target: standard schemes stay wherever they are enough."""
FURTHEST = math.log(1e9)
"""No single correction is larger: behind dead units, no scale of the weights would help."""
ROUNDS = 5
"""Of propagation, one for each set of corrections."""
PATIENCE = 2
"""After so many rounds in a row without a better solution there will be none."""


_ALIKE = "all units alike: they would stay so"


@dataclass(slots=True)
class _Solver:
    trace: Trace
    structure: Structure
    uses: dict[str, WeightUse]
    protected: frozenset[str]
    depths: Mapping[Activation, int]
    """How many layers feed each activation."""
    shares: dict[str, float] = field(default_factory=dict)
    """Weights of residual branches to the factor on their usual scale."""
    chosen: dict[str, float] = field(default_factory=dict)
    """Parameter to the standard deviation it should have."""
    reasons: dict[str, str] = field(default_factory=dict)
    centred: frozenset[str] = frozenset()
    """Parameters whose rows should sum to zero."""

    def target(self, use: WeightUse) -> float:
        """The std that the use's output should have."""
        return self._scale(use.activation) if use.activation.name else 1.0

    def standard(self, use: WeightUse) -> float:
        """The std of the weight that gives that output, from what it reads."""
        read = use.reads
        size = activation_spread if use.parameter in self.centred else activation_rms
        before = size(read, self._scale(read)) if read.name else 1.0
        return self.target(use) / before / math.sqrt(use.fans.fan_in)

    def _scale(self, activation: Activation) -> float:
        return target_std(activation, self.depths.get(activation, 1), bool(self.centred) and is_mostly_mean(activation))

    def propagated(self) -> Signal:
        return propagate(with_distributions(self.trace, self._distributions()), bands=False)

    def _distributions(self) -> dict[str, Distribution]:
        return {
            name: Distribution("normal", 0.0, std, zero_sum=name in self.centred) for name, std in self.chosen.items()
        }

    def judged(self, signal: Signal) -> list[LayerHealth]:
        return judge(self.structure, signal.layers, self.protected)


def solve(trace: Trace, signal: Signal, *, everything: bool = False) -> list[Suggestion]:
    """See ``suggest``."""
    structure = analyse(trace)
    uses = structure.by_parameter()
    depths = Counter(use.activation for use in structure.uses)
    solver = _Solver(trace, structure, uses, protected_weights(trace, structure), depths)
    vectors = _unwritten_vectors(trace)
    _mend_faulty(solver)
    judged = solver.judged(solver.propagated() if solver.chosen else signal)
    if needs_repair(judged):
        _standardise(solver)
        if _is_drowned(_correct(solver)):
            _centre(solver)
    if everything:
        for name, use in uses.items():
            if name not in solver.chosen:
                solver.chosen[name] = solver.standard(use)
                solver.reasons[name] = "standard scale"
    return [*(_suggestion(solver, name) for name in _in_order(solver)), *vectors]


def protected_weights(trace: Trace, structure: Structure) -> frozenset[str]:
    """Weights between two normalisations, or near the model's ends, that gather no drift worth repair."""
    return short_segments(trace.graph, structure.uses, SHORT)


def _in_order(solver: _Solver) -> list[str]:
    return [name for name in solver.trace.parameters if name in solver.chosen]


def _suggestion(solver: _Solver, name: str) -> Suggestion:
    use, std = solver.uses[name], solver.chosen[name]
    if name in solver.centred:
        scheme = centred_scheme(use.record.shape, std)
    else:
        scheme = scheme_for(use.record.shape, use.fans, std, use.activation, _is_transposed(use))
    return Suggestion(name, scheme.function, scheme.arguments, scheme.std, 0.0, f"{solver.reasons[name]}: {scheme.why}")


def _is_transposed(use: WeightUse) -> bool:
    return use.fans.fan_in != math.prod(use.record.shape[1:]) and use.fans.fan_in == use.record.shape[0]


def _unwritten_vectors(trace: Trace) -> list[Suggestion]:
    """Biases and norm weights whose memory was never written."""
    found = []
    for record in trace.parameters.values():
        if record.distribution.kind != "uninitialised" or len(record.shape) >= 2:
            continue
        one = record.attribute == "weight" and "norm" in record.module_type.lower()
        function, mean = ("ones_", 1.0) if one else ("zeros_", 0.0)
        found.append(Suggestion(record.name, function, (), 0.0, mean, "never written"))
    return found


def _mend_faulty(solver: _Solver) -> None:
    """Weights that are wrong whatever the signal says: never written, or all units alike where they must differ."""
    last_of_branch = {branch.last for branch in solver.structure.branches}
    heads: list[str] = []
    for name, use in solver.uses.items():
        distribution, record = use.record.distribution, use.record
        if distribution.kind == "uninitialised":
            reason = "never written"
        elif record.shape[0] > 1 and (_constant(distribution) or record.equal_rows):
            zero = _constant(distribution) and distribution.mean == 0.0
            if use.feeds == "output":
                heads.append(name)
                continue
            if zero and (use.feeds in ("add", "product") or name in last_of_branch):
                continue  # a zero last layer of a branch starts as the identity: good practice
            reason = _ALIKE
        else:
            continue
        solver.chosen[name] = solver.standard(use)
        solver.reasons[name] = reason
    if any(reason == _ALIKE for reason in solver.reasons.values()):
        for name in heads:  # alone a zero head is good practice; after hidden layers like it, it is the same mistake
            solver.chosen[name], solver.reasons[name] = solver.standard(solver.uses[name]), _ALIKE


def _constant(distribution: Distribution) -> bool:
    return distribution.known and distribution.std == 0.0


def _standardise(solver: _Solver) -> None:
    """Standard schemes for the weights that carry the signal and are not already good; residual branches scaled."""
    shares = _branch_shares(solver)
    solver.shares = {name: share.factor for name, share in shares.items()}
    for name, use in solver.uses.items():
        record = use.record
        if not _adjustable(use):
            continue
        std, reason = solver.standard(use), _why(use)
        if name in shares:
            if _constant(record.distribution) and record.distribution.mean == 0.0:
                continue
            std, reason = std * shares[name].factor, shares[name].reason
        now = record.distribution
        slack = FAR if name in solver.protected else GOOD
        if name not in solver.chosen and now.known and abs(now.mean) < 0.1 * now.std and _near(now.std, std, slack):
            continue
        solver.chosen[name], solver.reasons[name] = std, reason


def _is_drowned(layers: list[LayerHealth]) -> bool:
    """Whether no scale of the weights kept the input visible."""
    return any(layer.uninformed for layer in layers)


def _centre(solver: _Solver) -> None:
    """Weights whose rows sum to zero behind activations that are mostly mean, if that lets the input pass."""
    before = solver.chosen, solver.reasons
    solver.centred = frozenset(
        name
        for name, use in solver.uses.items()
        if is_mostly_mean(use.reads) and use.record.requires_grad and use.op in _CENTRED_OPS and use.fans.fan_in > 1
    )
    if not solver.centred:
        return
    solver.chosen, solver.reasons = {}, {}
    for name in solver.uses:
        if name in solver.centred or name in before[0]:
            solver.chosen[name] = solver.standard(solver.uses[name]) * solver.shares.get(name, 1.0)
            solver.reasons[name] = before[1].get(name) or _why(solver.uses[name])
    if _is_drowned(_correct(solver)):
        solver.centred = frozenset()
        solver.chosen, solver.reasons = before


_CENTRED_OPS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})
"""Ops whose weight's first dimension counts the units."""


def _why(use: WeightUse) -> str:
    return {
        "activation": f"feeds {use.activation.name}",
        "output": "the output layer",
    }.get(use.feeds, "feeds no activation")


def _near(one: float, other: float, factor: float) -> bool:
    return one > 0.0 and other > 0.0 and abs(math.log(one / other)) <= math.log(factor)


def _adjustable(use: WeightUse) -> bool:
    """Whether the scale of the weight matters and may be changed."""
    return use.record.requires_grad and use.op not in RECURRENT_OPS and use.feeds != "norm" and use.on_signal


@dataclass(frozen=True, slots=True)
class _Share:
    """A weight's part in scaling its residual branch."""

    factor: float
    reason: str


def _branch_shares(solver: _Solver) -> dict[str, _Share]:
    """Factors that scale every norm-free residual branch by 1/√L, L the number of branches on its stream.

    The stream's variance then grows by a factor (1 + 1/L)^L < e in all. A few branches are scaled at their last layer;
    with many, that layer's small weights would starve the layers before it of gradient, so all layers of the branch
    share the factor (as Fixup's L^(-1/(2m-2)) does), but for those that make attention scores.
    """
    branches = [branch for branch in solver.structure.branches if not branch.normalised]
    counts = Counter(branch.stream for branch in branches)
    shares: dict[str, _Share] = {}
    for branch in branches:
        count = counts[branch.stream]
        sharing = [p for p in branch.parameters if solver.uses[p].feeds != "attention"]
        if count < MANY_BRANCHES or len(sharing) < 2:
            reason = f"last layer of one of {count} residual branches, scaled by 1/√{count}"
            shares[branch.last] = _Share(count**-0.5, reason)
            continue
        reason = f"one of {len(sharing)} layers of one of {count} residual branches, scaled by 1/√{count} together"
        shares.update(dict.fromkeys(sharing, _Share(count ** (-0.5 / len(sharing)), reason)))
    return shares


def _correct(solver: _Solver) -> list[LayerHealth]:
    """Re-propagate; pull layers outside their band back in; keep the best solution seen, and what it makes of them.

    Rounds end where they are of no use any more: in the band, without a correction left, where no scale brings the
    input back, where corrections make it worse by more than a band, or do not improve it again and again.
    """
    best, healthiest = dict(solver.chosen), solver.judged(solver.propagated())
    judged, best_score, failed = healthiest, math.inf, 0
    for left in reversed(range(ROUNDS)):
        score = worst(judged)
        diverged = score > best_score + math.log(BAND)
        failed = failed + 1 if score >= best_score else 0
        if score < best_score:
            best, healthiest, best_score = dict(solver.chosen), judged, score
        if score <= -MARGIN or diverged or failed == PATIENCE or not left:
            break
        corrections = _corrections(solver, judged)
        if not any(c.own for c in corrections) or _is_lost(corrections):
            break
        _rescale(solver, corrections)
        judged = solver.judged(solver.propagated())
    solver.chosen = best
    return healthiest


@dataclass(frozen=True, slots=True)
class _Correction:
    """Of a layer's scale, as logs. ``incoming``: what the corrections before it do to its input; ``own``: its own."""

    layer: LayerHealth
    incoming: float
    own: float


def _corrections(solver: _Solver, judged: list[LayerHealth]) -> list[_Correction]:
    """In order of execution; what they do to later layers is taken as proportional (exact for ReLU-like nets)."""
    found: list[_Correction] = []
    shift: dict[torch.fx.Node, float] = {}
    last_of_branch = {branch.last for branch in solver.structure.branches}
    for layer in judged:
        use = layer.use
        before = [shift[n] for n in _weights_before(use.node, shift)]
        incoming = sum(before) / len(before) if before else 0.0
        expected = layer.forward + incoming - math.log(solver.target(use) * solver.shares.get(use.parameter, 1.0))
        own = 0.0
        adjustable = _adjustable(use) and (use.parameter not in solver.protected or use.parameter in solver.chosen)
        if adjustable and use.parameter not in last_of_branch and abs(expected) > DRIFT:
            own = 0.0 if layer.low_is_fine and expected < 0.0 else -expected
            own = min(max(own, -FURTHEST), FURTHEST)
        shift[use.node] = incoming + own
        found.append(_Correction(layer, incoming, own))
    return found


def _rescale(solver: _Solver, corrections: list[_Correction]) -> None:
    for correction in corrections:
        use = correction.layer.use
        if correction.own:
            now = solver.chosen.get(use.parameter, use.record.distribution.std)
            solver.chosen[use.parameter] = now * math.exp(correction.own)
            solver.reasons.setdefault(use.parameter, _why(use))


_HOMOGENEOUS_OPS = TRANSPARENT_OPS - {"masked_fill", "pad"} | {
    "linear", "conv1d", "conv2d", "conv3d", "relu", "leaky_relu", "prelu", "add",
}  # fmt: skip
"""Ops for which f(c·x) = c·f(x), c > 0, but for their biases, which count the more the smaller c is."""


def _is_lost(corrections: list[_Correction]) -> bool:
    """Whether corrections leave a layer that hardly sees the input, and no scale of the weights would help.

    Up to there the net is positively homogeneous and corrections only shrink it: correlations grow with every layer
    whatever the scale.
    """
    for correction in corrections:
        layer, shift = correction.layer, correction.incoming + correction.own
        if shift > 0.0:
            return False
        seen = layer.row.sample_std
        if seen is None or layer.low_is_fine or layer.protected:
            continue
        if seen * math.exp(shift) < LEAST_INFORMATION:
            return _is_homogeneous(layer.use.node)
    return False


def _is_homogeneous(node: torch.fx.Node) -> bool:
    """Whether all that the node is computed from are inputs, weights and ``_HOMOGENEOUS_OPS``."""
    seen = {node}
    queue = [node]
    while queue:
        current = queue.pop()
        if current.op.startswith("call") and op_of(current) not in _HOMOGENEOUS_OPS:
            return False
        queue.extend(n for n in current.all_input_nodes if n not in seen)
        seen.update(current.all_input_nodes)
    return True


def _weights_before(node: torch.fx.Node, known: Mapping[torch.fx.Node, float]) -> list[torch.fx.Node]:
    """The nearest judged layers that the node's input comes from."""
    found: list[torch.fx.Node] = []
    seen: set[torch.fx.Node] = set()
    queue = list(node.all_input_nodes)
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in known:
            found.append(current)
        elif op_of(current) not in NORM_OPS:
            queue.extend(current.all_input_nodes)
    return found
