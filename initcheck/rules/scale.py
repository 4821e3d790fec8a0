"""The common half of IC201-IC205 and IC401: a verdict on the signal, traced back to the lines to blame for it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Fix, Location, Severity
from initcheck.rules.attribution import explained_places
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.consequence import RESOLUTION, Consequence, Step, is_norm, judge
from initcheck.rules.edits import insertion, rewrite
from initcheck.rules.symmetry import symmetry_of
from initcheck.rules.writes import (
    agreed,
    as_code,
    call_location,
    class_location,
    counted,
    final_write,
    layer_location,
    suggestions_for,
)

if TYPE_CHECKING:
    import torch.fx

    from initcheck.init.structure import Structure, WeightUse
    from initcheck.init.suggest import Suggestion
    from initcheck.signal.result import Signal
    from initcheck.tracing.trace import ParameterRecord, Write

_MAIN_SHARE = 0.25
"""Lines that cause less than this part of the fall (or growth) are not named: they are not what has to be changed."""

_PART_OF_WORST = 0.25
"""Layers without a line of their own are named if they cause at least this part of what the worst of them does."""

_MAJORITY = 0.6
"""Part of a call's layers that must agree on a suggestion for it to be offered (the head may need another gain)."""


@dataclass(frozen=True, slots=True)
class Culprit:
    """Layers whose weights one line writes, and what part of the verdict they cause.

    ``write`` None: no line does, torch's default stands (or, in a live model, nobody saw).
    """

    where: Location
    write: Write | None
    records: tuple[ParameterRecord, ...]
    uses: tuple[WeightUse, ...]
    steps: tuple[Step, ...]
    blame: float
    forward_factor: float
    """Geometric mean of what each layer multiplies the signal by."""
    backward_factor: float


@dataclass(frozen=True, slots=True)
class Cause:
    """The verdict and its culprits, most to blame first. ``mismatched``: those that IC201 speaks of, by index.

    ``residual``: the growth comes from additions to the stream, not from any layer: IC401 speaks.
    """

    consequence: Consequence
    culprits: tuple[Culprit, ...]
    mismatched: Mapping[int, float]
    residual: bool
    explained: frozenset[Location] = frozenset()
    """Lines of which another rule says more exactly what is wrong with them."""


def structure_of(context: ModelContext) -> Structure:
    """Weights, what they feed, residual branches; read once for each model."""
    from initcheck.init.structure import Structure, analyse

    cached = context.memo.get("structure")
    if not isinstance(cached, Structure):
        cached = analyse(context.trace)
        context.memo["structure"] = cached
    return cached


def cause_of(context: ModelContext) -> Cause:
    """The verdict on the model's signal and who is to blame; computed once for each model."""
    cached = context.memo.get("cause")
    if not isinstance(cached, Cause):
        cached = _cause(context)
        context.memo["cause"] = cached
    return cached


def _cause(context: ModelContext) -> Cause:
    consequence = judge(context.trace, _without_noise(context))
    symmetric = any(layer.exact for layer in symmetry_of(context).layers)  # IC701 and IC702 name the cause
    if consequence.severity is None or symmetric:
        return Cause(consequence, (), {}, False)
    culprits = tuple(_culprits(context, consequence))
    residual = consequence.kind == "exploding" and _grows_by_addition(context, consequence)
    mismatched = {}
    if not residual:
        for index, culprit in enumerate(culprits):
            ratio = gain_ratio(culprit)
            if ratio is not None and _explains(ratio, culprit, consequence):
                mismatched[index] = ratio
    default = [c.where for c in culprits if c.write is None]
    explained = explained_places(context, [c.where for c in culprits], default, consequence.kind)
    return Cause(consequence, culprits, {} if explained else mismatched, residual, explained)


def severity_at(context: ModelContext, where: Location, own: Severity) -> Severity:
    """The severity of a finding that explains a line: its own, or the verdict's if the line is to blame for it."""
    cause = cause_of(context)
    worst = cause.consequence.severity
    return max(own, worst) if worst is not None and where in cause.explained else own


def _without_noise(context: ModelContext) -> Signal:
    """The signal with every dropout switched off, in nets where its noise could pass for a signal.

    Dropout makes features differ from sample to sample also where nothing of the input is left in them. Norms (as in
    transformers), those included that a forward writes out, keep the input alive, and such nets need no second look.
    """
    from initcheck.signal.propagate import propagate
    from initcheck.signal.written_norms import keeps_alive

    noisy = [node for node in context.trace.graph.nodes if _drops(node)]
    if not noisy or any(is_norm(row.kind) for row in context.signal.layers):
        return context.signal
    if any(keeps_alive(node) for node in context.trace.graph.nodes):
        return context.signal
    kept = [(node, node.args, node.kwargs) for node in noisy]
    try:
        for node in noisy:
            node.args = (node.args[0],) if node.args else ()
            node.kwargs = {key: value for key, value in node.kwargs.items() if key == "input"} | {"p": 0.0}
        return propagate(context.trace, bands=False)
    finally:
        for node, args, kwargs in kept:
            node.args, node.kwargs = args, kwargs


def _drops(node: torch.fx.Node) -> bool:
    """Whether it is a dropout that drops anything."""
    if "dropout" not in str(node.meta.get("op", "")):
        return False
    arguments = dict(zip(("p", "training"), node.args[1:], strict=False)) | node.kwargs
    training = arguments.get("training", arguments.get("train", True))
    return bool(arguments.get("p", 0.5)) and bool(training)


def _culprits(context: ModelContext, consequence: Consequence) -> list[Culprit]:
    uses = structure_of(context).by_parameter()
    by_module: dict[str, WeightUse] = {}
    for use in uses.values():
        for module in use.record.modules:
            by_module.setdefault(module, use)
    groups: dict[object, list[tuple[_Share, WeightUse, Write | None]]] = defaultdict(list)
    for share in _shares(consequence):
        share_use = by_module.get(share.step.row.name)
        if share_use is None:
            continue
        write = final_write(share_use.record)
        key: object = ("default",)
        if write is not None:
            key = (call_location(write, context), write.function)
        groups[key].append((share, share_use, write))
    if ("default",) in groups:
        groups["default",] = _to_blame(groups["default",])
    blames = {key: sum(share.blame for share, _, _ in items) for key, items in groups.items()}
    total = sum(blames.values())
    culprits = []
    for key, items in groups.items():
        if total <= 0 or blames[key] < _MAIN_SHARE * total:
            continue
        shares = [share for share, _, _ in items]
        write = items[0][2]
        records = tuple(use.record for _, use, _ in items)
        where = call_location(write, context) if write is not None else _made_at(records, context)
        culprits.append(
            Culprit(
                where,
                write,
                records,
                tuple(use for _, use, _ in items),
                tuple(share.step for share in shares),
                blames[key] / total,
                _mean_factor([share.step.forward for share in shares if share.step.share >= RESOLUTION]),
                _mean_factor([share.backward for share in shares]),
            )
        )
    return sorted(culprits, key=lambda c: -c.blame) or _last_resort(context, consequence)


def _last_resort(context: ModelContext, consequence: Consequence) -> list[Culprit]:
    """The layer to name where no linear layer or convolution is to blame: a table of embeddings, a recurrent net."""
    records: dict[str, ParameterRecord] = {}
    for record in context.trace.parameters.values():
        if len(record.shape) >= 2:
            for module in record.modules:
                records.setdefault(module, record)
    shares = [share for share in _shares(consequence) if share.step.row.name in records]
    if not shares:
        return []
    worst = max(shares, key=lambda share: (share.blame, share.step.sample_std))
    record = records[worst.step.row.name]
    write = final_write(record)
    where = call_location(write, context) if write is not None else _made_at((record,), context)
    return [Culprit(where, write, (record,), (), (worst.step,), 1.0, worst.step.forward, worst.backward)]


@dataclass(frozen=True, slots=True)
class _Share:
    """A layer's part in the verdict. ``backward``: what its own weights multiply the gradient by, |g_(l-1)| / |g_l|."""

    step: Step
    backward: float
    blame: float


def _shares(consequence: Consequence) -> list[_Share]:
    sign = -1.0 if consequence.kind == "vanishing" else 1.0
    found = []
    backward = 1.0  # in front of the first layer there is nothing that a gradient could reach
    for index, step in enumerate(consequence.steps):
        # a table of embeddings is where the scale begins: large is what is above that of N(0, 1) inputs
        opens = index == 0 and sign > 0 and "Embedding" in step.row.kind
        blame = max(sign * (_safe_log(step.sample_std if opens else step.forward) + _safe_log(backward)), 0.0)
        found.append(_Share(step, backward, blame))
        backward = step.backward
    return found


def _to_blame(
    items: list[tuple[_Share, WeightUse, Write | None]],
) -> list[tuple[_Share, WeightUse, Write | None]]:
    """Of the layers that no line is known to write, those that do what is complained of."""
    most = max(share.blame for share, _, _ in items)
    return [item for item in items if item[0].blame >= _PART_OF_WORST * most]


def _safe_log(value: float) -> float:
    if value <= 0 or math.isnan(value):
        return -100.0
    return 100.0 if math.isinf(value) else math.log(value)


def _mean_factor(factors: Sequence[float]) -> float:
    return math.exp(sum(map(_safe_log, factors)) / len(factors)) if factors else 1.0


def _made_at(records: Sequence[ParameterRecord], context: ModelContext) -> Location:
    """One line if one line makes all the layers, else the model's class."""
    places = {layer_location(record, context) for record in records}
    return places.pop() if len(places) == 1 else class_location(context)


# -- gains -----------------------------------------------------------------------------------------------------------

_GAIN_BEARING = frozenset({"xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"})
_LINEAR_FEEDS = frozenset({"weight", "output"})


def written_gain(write: Write) -> float | None:
    """The gain that an init call asks for; None for a call that knows no gains."""
    if write.function not in _GAIN_BEARING:
        return None
    arguments = write.arguments
    if not write.function.startswith("kaiming_"):
        given = arguments.get("gain", 1.0)
        return float(given) if isinstance(given, (int, float)) else None
    from initcheck.init.gain import gain

    name, slope = arguments.get("nonlinearity", "leaky_relu"), arguments.get("a", 0.0)
    try:
        if name == "leaky_relu":
            return math.sqrt(2.0 / (1.0 + float(slope) ** 2))
        return gain(str(name), convention="torch")
    except (ValueError, TypeError):
        return None


def needed_gain(use: WeightUse) -> float | None:
    """The gain of what follows a weight; None where that is no activation (a norm, an addition, attention)."""
    from initcheck.init.gain import gain

    if use.feeds == "activation":
        try:
            return gain(use.activation.name, use.activation.param)
        except ValueError:
            return None
    return 1.0 if use.feeds in _LINEAR_FEEDS else None


def gain_ratio(culprit: Culprit) -> float | None:
    """Written gain over needed gain, of the layers for which both are known; None if there are none."""
    if culprit.write is None:
        return None
    written = written_gain(culprit.write)
    needed = [g for g in map(needed_gain, culprit.uses) if g is not None]
    if written is None or written <= 0 or not needed:
        return None
    return written / _mean_factor(needed)


def _explains(ratio: float, culprit: Culprit, consequence: Consequence) -> bool:
    """Whether the right gain would undo at least half of what the layers do, in the direction of the verdict."""
    wrong_way = ratio < 1.0 if consequence.kind == "vanishing" else ratio > 1.0
    if not wrong_way or abs(math.log(ratio)) < 0.05:
        return False
    factors = [f for f in (culprit.forward_factor, culprit.backward_factor) if f > 0]
    worst = max((abs(_safe_log(f)) for f in factors), default=0.0)
    return abs(math.log(ratio)) >= 0.5 * worst


# -- residual growth -------------------------------------------------------------------------------------------------


def joins_of(context: ModelContext) -> list[tuple[str, float]]:
    """Std of the stream behind each residual addition of an unnormalised branch, in order, with the module it is in."""
    found = []
    for branch in structure_of(context).branches:
        moments = context.signal.forward.get(branch.join)
        if moments is not None and not branch.normalised:
            found.append((str(branch.join.meta.get("module", "")), moments.std))
    return found


def _grows_by_addition(context: ModelContext, consequence: Consequence) -> bool:
    """Whether the stream of a norm-free residual net grows at its additions, and most of the growth is there."""
    joins = joins_of(context)
    if len(joins) < 2 or joins[0][1] <= 0:
        return False
    per_join = (joins[-1][1] / joins[0][1]) ** (1 / (len(joins) - 1))
    grown = math.log(max(joins[-1][1] / joins[0][1], 1.0))
    total = math.log(max(max(step.row.forward_std or 0.0 for step in consequence.steps), 1.0 + 1e-9))
    return per_join > 1.05 and grown >= 0.5 * total


# -- findings --------------------------------------------------------------------------------------------------------


def direction_finding(context: ModelContext, code: str, kind: str, *, backward: bool) -> list[Finding]:
    """The findings of one of IC202-IC205: one for each culprit that no other rule explains.

    A line that spoils both directions is one finding: that of the direction which it spoils more, the signal in a tie.
    """
    cause = cause_of(context)
    verdict = cause.consequence
    if verdict.kind != kind or verdict.severity is None or cause.residual or cause.explained:
        return []
    return [
        _direction(context, code, culprit, verdict, backward=backward)
        for index, culprit in enumerate(cause.culprits)
        if index not in cause.mismatched and _is_backward(culprit, verdict) is backward
    ]


_MORE = 1.05
"""The gradient is named alone where it changes by so many times as many orders of magnitude as the signal."""


def _is_backward(culprit: Culprit, verdict: Consequence) -> bool:
    """Whether the culprit is to be named for the gradient, not for the signal."""
    if not (verdict.forward and verdict.backward):
        return verdict.backward
    if any(step.share < RESOLUTION for step in culprit.steps):
        return False  # nothing of the input is left
    sign = -1.0 if verdict.kind == "vanishing" else 1.0
    forward = sum(sign * _safe_log(step.forward) for step in culprit.steps)
    backward = sum(sign * _safe_log(step.backward) for step in culprit.steps)
    return backward > _MORE * max(forward, 0.0)


def _direction(context: ModelContext, code: str, culprit: Culprit, verdict: Consequence, *, backward: bool) -> Finding:
    assert verdict.severity is not None
    what = "gradient" if backward else "signal"
    verb = "vanishes" if verdict.kind == "vanishing" else "explodes"
    span, blame = _span(verdict, backward=backward), _blame(culprit, backward=backward)
    message = f"the {what} {verb}: {span}; {blame}{_too(verdict, backward=backward)}{_effect(verdict)}"
    suggestion, fix = mend(context, culprit, verdict.severity)
    return finding(
        code,
        message,
        culprit.where,
        severity=verdict.severity,
        model=context.trace.model,
        parameter=culprit.records[0].name,
        evidence=chain(verdict, backward=backward),
        suggestion=suggestion,
        fix=fix,
        layers=len(culprit.records),
        reach=verdict.reach,
        share=verdict.share,
        both_directions=verdict.forward and verdict.backward,
    )


def _too(verdict: Consequence, *, backward: bool) -> str:
    """The other direction, where the same line spoils it as well."""
    if not (verdict.forward and verdict.backward):
        return ""
    first, last = verdict.steps[0], verdict.steps[-1]
    if backward:
        return f", and the signal, whose std is {shown_std(last)} at {last.row.name}"
    return f", and the gradient, whose std is {first.row.grad_std or 0.0:.2g} at {first.row.name}"


def _span(verdict: Consequence, *, backward: bool) -> str:
    """``the std that depends on the input falls from 0.58 (fc1) to 2e-09 (fc30) over 30 layers``."""
    steps = verdict.steps
    first, last = (steps[-1], steps[0]) if backward else (steps[0], steps[-1])
    one, other = (
        (first.row.grad_std or 0.0, last.row.grad_std or 0.0) if backward else (first.sample_std, last.sample_std)
    )
    falls = verdict.kind == "vanishing"
    moves = "falls" if falls else "grows"
    if (other > one) if falls else (other < one):  # what lies between the ends is what counts
        return _extreme(steps, falls=falls, backward=backward)
    subject = "its std" if backward else "the std that depends on the input"
    too_much = "more" if other > 1e3 else "exp() of it is more"
    overflow = f" ({too_much} than {verdict.overflow} can hold)" if verdict.overflow and not backward else ""
    shown = f"{other:.2g}" if backward else shown_std(last)
    return (
        f"{subject} {moves} from {one:.2g} ({first.row.name}) to {shown} ({last.row.name}) over "
        f"{counted(len(steps), 'layer')}{overflow}"
    )


def _extreme(steps: Sequence[Step], *, falls: bool, backward: bool) -> str:
    """``the std that depends on the input is as small as 3e-06 (fc2)``, where the ends of the chain do not show it."""
    choose = min if falls else max
    size = "small" if falls else "large"
    if backward:
        step = choose(steps, key=lambda s: s.row.grad_std or 0.0)
        return f"its std is as {size} as {step.row.grad_std or 0.0:.2g} ({step.row.name})"
    step = choose(steps, key=lambda s: s.sample_std)
    return f"the std that depends on the input is as {size} as {shown_std(step)} ({step.row.name})"


def shown_std(step: Step) -> str:
    """The input-dependent std; what the prediction cannot tell from zero is given as a bound."""
    if step.share >= RESOLUTION:
        return f"{step.sample_std:.2g}"
    total = math.hypot(step.row.forward_std or 0.0, step.row.forward_mean or 0.0)
    return f"less than {RESOLUTION * total:.1g}"


def _blame(culprit: Culprit, *, backward: bool) -> str:
    layers = counted(len(culprit.records), "layer")
    by = culprit.backward_factor if backward else culprit.forward_factor
    factor = f"x {by:.2g} per layer" if len(culprit.records) > 1 else f"x {by:.2g}"
    if culprit.write is None:
        record = culprit.records[0]
        if any(w.origin == "default" for w in record.writes):
            return f"torch's default init, std 1/sqrt(3 fan_in), of {layers} multiplies it {factor}"
        return f"the weights of {layers} multiply it {factor}"
    return f"this `{culprit.write.function}` of {layers} multiplies it {factor}"


def _effect(verdict: Consequence) -> str:
    if verdict.overflow:
        return ": the loss is not finite"
    table = {
        ("vanishing", Severity.ERROR): ": no optimiser recovers from this",
        ("vanishing", Severity.WARNING): ": SGD does not start to learn, Adam slowly",
        ("exploding", Severity.ERROR): ": training diverges",
        ("exploding", Severity.WARNING): ": SGD diverges at common learning rates",
    }
    return table.get((verdict.kind, verdict.severity or Severity.INFO), ": learning is slower than it need be")


def chain(verdict: Consequence, *, backward: bool = False) -> tuple[Evidence, ...]:
    """The layers as a chain of scales, compressed: the first two, the worst, the last."""
    steps = verdict.steps
    sign = -1.0 if verdict.kind == "vanishing" else 1.0
    worst = max(range(len(steps)), key=lambda i: sign * _safe_log(steps[i].backward if backward else steps[i].forward))
    shown = sorted({0, 1, worst, len(steps) - 1} & set(range(len(steps))))
    lines = []
    previous = -1
    for index in shown:
        if index - previous > 1:
            lines.append(Evidence(f"... {counted(index - previous - 1, 'layer')} ..."))
        lines.append(_link(steps, index))
        previous = index
    return tuple(lines)


def _link(steps: Sequence[Step], index: int) -> Evidence:
    """``fc2: E[relu(z)^2] 0.5 x fan_in 100 x 0.058^2 = 0.17 of the second moment; std ...``."""
    step, row = steps[index], steps[index].row
    factor = ""
    if row.fan_in and row.weight_std is not None:
        activation = steps[index - 1].row.activation if index else ""
        moment = _moment(activation)
        before = f"E[{activation}(z)^2] {moment:.2g} x " if moment != 1.0 else ""
        product = moment * row.fan_in * row.weight_std**2
        factor = f"{before}fan_in {row.fan_in} x {row.weight_std:.2g}^2 = {product:.2g} of the second moment; "
    return Evidence(
        f"{row.name}: {factor}std {row.forward_std or 0:.2g}, of it input-dependent {shown_std(step)}; "
        f"gradient std {row.grad_std or 0:.2g}",
        row.location,
    )


def _moment(activation: str) -> float:
    """E[f(z)^2] of the activation in front, 1/gain^2."""
    if not activation:
        return 1.0
    from initcheck.init.gain import gain

    try:
        return float(gain(activation) ** -2)
    except ValueError:
        return 1.0


# -- edits -----------------------------------------------------------------------------------------------------------


def mend(context: ModelContext, culprit: Culprit, severity: Severity) -> tuple[str, Fix | None]:
    """What to write instead, and the edit that writes it (not for a finding that is only for information)."""
    suggestions = suggestions_for(list(culprit.records), context)
    if not suggestions:
        return _general(culprit), None
    main = agreed(suggestions) or _majority(suggestions)
    if main is None:
        text = "; ".join(as_code(s.function, s.arguments, s.parameter) for s in _distinct(suggestions)[:3])
        more = " (one call serves layers that need different ones: split it)" if culprit.write is not None else ""
        if culprit.write is not None or severity < Severity.WARNING:
            return text + more, None
        edit = insertion(list(culprit.records), context)
        return text, Fix("initialise the layers", (edit,)) if edit is not None else None
    text = as_code(main.function, main.arguments, _target(culprit, main))
    if severity < Severity.WARNING:
        return text, None
    if culprit.write is not None:
        call = rewrite(culprit.where, main, context)
        return text, Fix(f"initialise with {main.function}", (call,)) if call is not None else None
    by_name = {s.parameter: (s.function, s.arguments) for s in suggestions}
    served = [r for r in culprit.records if by_name.get(r.name) == (main.function, main.arguments)]
    edit = insertion(served, context)
    return text, Fix(f"initialise with {main.function}", (edit,)) if edit is not None else None


def _general(culprit: Culprit) -> str:
    """Where the solver has nothing to say: the standard scheme of the activation."""
    activation = next((use.activation.name for use in culprit.uses if use.activation.name), "")
    if activation in ("relu", "leaky_relu", "relu6", "prelu", "gelu", "silu", ""):
        return "nn.init.kaiming_normal_(module.weight, nonlinearity='relu')"
    return f"nn.init.xavier_normal_(module.weight, gain=initcheck.init.gain({activation!r}))"


def _majority(suggestions: Sequence[Suggestion]) -> Suggestion | None:
    counts: dict[object, list[Suggestion]] = defaultdict(list)
    for suggestion in suggestions:
        counts[suggestion.function, suggestion.arguments].append(suggestion)
    most = max(counts.values(), key=len)
    return most[0] if len(most) >= _MAJORITY * len(suggestions) else None


def _distinct(suggestions: Sequence[Suggestion]) -> list[Suggestion]:
    seen: dict[object, Suggestion] = {}
    for suggestion in suggestions:
        seen.setdefault((suggestion.function, suggestion.arguments), suggestion)
    return list(seen.values())


def _target(culprit: Culprit, suggestion: Suggestion) -> str:
    return "module.weight" if len(culprit.records) > 1 else suggestion.parameter
