"""The same trace with other weights: what a suggestion, once applied, would make of the recorded distributions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from initcheck.tracing.trace import Distribution, Trace

if TYPE_CHECKING:
    from initcheck.init.suggest import Suggestion

_KINDS = {
    "kaiming_uniform_": "uniform",
    "xavier_uniform_": "uniform",
    "uniform_": "uniform",
    "orthogonal_": "orthogonal",
    "centred_orthogonal_": "orthogonal",
    "zeros_": "constant",
    "ones_": "constant",
    "constant_": "constant",
}


def with_distributions(trace: Trace, changed: Mapping[str, Distribution]) -> Trace:
    """A trace that shares ``trace``'s graph, with the given parameters' distributions in place of their own.

    Raises:
        KeyError: for a name that is no parameter.
    """
    parameters = dict(trace.parameters)
    for name, distribution in changed.items():
        constant = distribution.kind == "constant"
        parameters[name] = replace(
            parameters[name], distribution=distribution, equal_rows=constant, equal_columns=constant, clone_of=""
        )
    return replace(trace, parameters=parameters)


def distribution_of(suggestion: Suggestion) -> Distribution:
    """The distribution that a suggestion gives its parameter."""
    kind = _KINDS.get(suggestion.function, "normal")
    reach = 3.0**0.5 * suggestion.std
    low, high = (suggestion.mean - reach, suggestion.mean + reach) if kind == "uniform" else (None, None)
    zero_sum = suggestion.function == "centred_orthogonal_"
    return Distribution(kind, suggestion.mean, suggestion.std, low, high, zero_sum=zero_sum)


def with_suggestions(trace: Trace, suggestions: Iterable[Suggestion]) -> Trace:
    """The trace as it would be with the suggestions applied."""
    return with_distributions(trace, {s.parameter: distribution_of(s) for s in suggestions})
