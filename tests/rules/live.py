"""Run the model rules on a live module: findings without the engine, the workers and the source."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from initcheck.findings import Finding, Location
from initcheck.rules import registry
from initcheck.rules.base import ModelContext
from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace


def audit(model: nn.Module, *inputs: torch.Tensor) -> list[Finding]:
    """All findings but IC003 (which speaks of the tool, not of the model)."""
    traced = trace(model, inputs, {}, mode="train", name=type(model).__name__)
    context = ModelContext(traced, propagate(traced), Location("model.py", 1))
    findings, defects = registry.check_model(context)
    assert defects == []
    return [f for f in findings if f.code != "IC003"]


def loud(findings: list[Finding]) -> list[str]:
    """Codes of errors and warnings, sorted."""
    return sorted(f.code for f in findings if f.severity >= 1)


def mlp(depth: int, width: int, activation: type[nn.Module], init: object = None, inputs: int = 32) -> nn.Sequential:
    """A plain net; ``init(weight)`` draws each weight and sets the bias to zero, None keeps torch's default."""
    sizes = [inputs, *[width] * depth, 10]
    layers: list[nn.Module] = []
    for size, following in itertools.pairwise(sizes):
        linear = nn.Linear(size, following)
        if init is not None:
            init(linear.weight)  # type: ignore[operator]
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])
