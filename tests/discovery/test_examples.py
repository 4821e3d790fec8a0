"""Every file of ``examples/`` is built and fed without configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from files import found

from initcheck.discovery.inputs import find_inputs
from initcheck.tracing.build import BuildError, build
from initcheck.tracing.ladder import Trial

_EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))

_LAYER_BY_LAYER = {"reproduce_random_walk", "reproduce_selu"}
"""Experiments that make one layer after the other and no model; ``tests/test_reproductions.py`` runs them."""


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    candidates = found(path)
    assert bool(candidates) == (path.stem not in _LAYER_BY_LAYER)
    for candidate in candidates.values():
        if path.stem == "init_raises":
            with pytest.raises(BuildError):
                build(candidate.construct)
            continue
        model = build(candidate.construct).model
        assert find_inputs(model, candidate, Trial(model)).args
        assert candidate.how


def test_the_textbook_experiment_has_five_models() -> None:
    path = next(path for path in _EXAMPLES if path.stem == "mlp50")
    names = ["variance_0_001", "variance_0_01", "variance_0_02", "variance_0_1", "variance_1"]
    assert list(found(path)) == names
