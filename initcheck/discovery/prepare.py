"""A candidate built and fed: where the first way to build it gives a model that nothing can be fed to, the next way."""

from __future__ import annotations

import time

from initcheck.discovery.candidate import Candidate
from initcheck.discovery.inputs import Inputs, InputsNotFound, find_inputs
from initcheck.tracing.build import BuildError, Built, build
from initcheck.tracing.ladder import Trial

_MOST_WAYS = 3
_MOST_SECONDS = 20.0  # after which no other way is begun


def prepare(candidate: Candidate) -> tuple[Built, Inputs]:
    """The model and its inputs, by the first way to build it for which inputs are found.

    Raises:
        BuildError: if it cannot be built.
        InputsNotFound: if no way gives a model that runs; that of the first way, the most believed one.
    """
    started, first = time.monotonic(), None
    while True:
        try:
            built = build(candidate.construct)
        except BuildError:
            if first is not None:
                raise first from None
            raise
        try:
            return built, find_inputs(built.model, candidate, Trial(built.model))
        except InputsNotFound as error:
            first = first or error
            candidate.passed_over += 1
            late = time.monotonic() - started > _MOST_SECONDS
            if late or candidate.passed_over >= _MOST_WAYS or not candidate.has_other_ways:
                raise first from None
