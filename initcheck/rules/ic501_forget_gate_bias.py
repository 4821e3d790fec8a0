"""IC501: a forget-gate bias that is set in some layers of an LSTM only, or in both of its bias vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from initcheck.findings import Evidence, Finding, Location
from initcheck.rules.base import ModelContext, finding
from initcheck.rules.writes import call_location, listed

if TYPE_CHECKING:
    from initcheck.tracing.trace import ParameterRecord, Write

CODE = "IC501"

_SETS = frozenset({"fill_", "constant_", "ones_"})
_QUARTER = (0.24, 0.26)


def check_model(context: ModelContext) -> Iterator[Finding]:
    """Writes of a constant to one quarter of an LSTM's bias, by module."""
    modules: dict[str, dict[str, list[Write]]] = defaultdict(dict)
    records: dict[str, dict[str, ParameterRecord]] = defaultdict(dict)
    for record in context.trace.parameters.values():
        if record.module_type.endswith((".LSTM", ".LSTMCell")) and record.attribute.startswith("bias_"):
            records[record.module][record.attribute] = record
            modules[record.module][record.attribute] = [w for w in record.writes if _is_quarter(w)]
    for module, writes in modules.items():
        yield from _check(context, module, writes, records[module])


def _is_quarter(write: Write) -> bool:
    return write.function in _SETS and write.origin == "user" and _QUARTER[0] < write.share < _QUARTER[1]


def _value(write: Write) -> float:
    given = next((v for v in write.arguments.values() if isinstance(v, (int, float))), 1.0)
    return float(given)


def _check(
    context: ModelContext, module: str, writes: dict[str, list[Write]], records: dict[str, ParameterRecord]
) -> Iterator[Finding]:
    set_in = {name: found[-1] for name, found in writes.items() if found and _value(found[-1]) > 0}
    if not set_in:
        return
    first = next(iter(set_in.values()))
    where: Location = call_location(first, context)
    value = _value(first)
    both = [n for n in set_in if n.startswith("bias_ih") and n.replace("bias_ih", "bias_hh") in set_in]
    if both:
        yield finding(
            CODE,
            f"the forget gate's bias of `{module}` is set to {value:g} in bias_ih and in bias_hh: torch adds the "
            "two, so "
            f"that it starts at {2 * value:g}",
            where,
            model=context.trace.model,
            parameter=f"{module}.{both[0]}",
            evidence=(
                Evidence(f"f = sigmoid(W x + b_ih + U h + b_hh): sigmoid({2 * value:g}) = {_sigmoid(2 * value):.2f}"),
            ),
            suggestion="set one of the two, and leave the other at zero",
            value=2 * value,
        )
    layers = {_layer(name) for name in records}
    done = {_layer(name) for name in set_in}
    if layers - done:
        left = sorted(layers - done)
        yield finding(
            CODE,
            f"the forget gate's bias of `{module}` is set to {value:g} in {listed(sorted(done))} and not in "
            f"{listed(left)}",
            where,
            model=context.trace.model,
            parameter=f"{module}.bias_hh{left[0]}",
            evidence=(Evidence(f"gate at the start: {_sigmoid(value):.2f} where it is set, 0.50 where it is not"),),
            suggestion="loop over the layers: for name, p in lstm.named_parameters(): if 'bias_hh' in name: ...",
            layers=len(left),
        )


def _layer(name: str) -> str:
    """``_l0_reverse`` of ``bias_ih_l0_reverse``; empty for a cell."""
    return name[len("bias_ih") :]


def _sigmoid(z: float) -> float:
    import math

    return 1.0 / (1.0 + math.exp(-z))
