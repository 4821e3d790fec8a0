"""Fixup: train deep residual nets without normalisation, on any traced model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.init.scaling import variance_scaling_
from initcheck.init.structure import Branch, Structure, WeightUse, analyse, output_weights
from initcheck.library import split_inputs


@dataclass(frozen=True, slots=True)
class FixupReport:
    """What was done: residual branches L, the factor on each scaled weight, zeroed weights; and what the forward lacks.

    ``lacks``: Fixup's rule 3 asks for a scalar multiplier on every branch and scalar biases before each layer and
    activation; weights alone cannot add them.
    """

    branches: int
    scaled: Mapping[str, float]
    zeroed: tuple[str, ...]
    lacks: tuple[str, ...]


def fixup_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    generator: torch.Generator | None = None,
) -> FixupReport:
    """Fixup initialisation (Zhang, Dauphin and Ma 2019, §3).

    In every residual branch of m weight layers, of L branches: He-normal × L^(-1/(2m-2)) for all but the last layer,
    the last one zero; the classifier zero; every other weight layer He-normal. Branches are found in the traced graph.

    Args:
        model: the model, changed in place.
        example_inputs: as for ``analyze``.
        generator: source of randomness.

    Raises:
        ValueError: if the graph has no residual branch. The model is then as it was.
    """
    from initcheck.tracing.ladder import trace

    args, kwargs = split_inputs(example_inputs)
    structure = analyse(trace(model, args, kwargs, name=type(model).__name__))
    if not structure.branches:
        raise ValueError("fixup_: the traced graph has no residual branch (no x + f(x) with weights in f)")
    plan = fixup_plan(structure)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    uses = structure.by_parameter()
    with torch.no_grad():
        for name, factor in plan.scaled.items():
            _he_(parameters[name], uses[name], factor, generator)
        for name in plan.zeroed:
            parameters[name].zero_()
            bias = parameters.get(name.removesuffix("weight") + "bias")
            if name.endswith("weight") and bias is not None:
                bias.zero_()
    return plan


def fixup_plan(structure: Structure) -> FixupReport:
    """What Fixup does to the weights of that structure."""
    branches = structure.branches
    scaled = {use.parameter: 1.0 for use in structure.uses if use.op != "embedding"}
    zeroed: list[str] = []
    for branch in branches:
        m = len(branch.parameters)
        for name in branch.parameters[:-1]:
            scaled[name] = float(len(branches) ** (-1.0 / (2 * m - 2)))
        zeroed.append(branch.last)
    zeroed += sorted(output_weights(structure) - set(zeroed))
    for name in zeroed:
        scaled.pop(name, None)
    return FixupReport(len(branches), scaled, tuple(zeroed), _lacks(branches))


def _lacks(branches: list[Branch]) -> tuple[str, ...]:
    missing = [branch for branch in branches if not branch.scaled]
    if not missing:
        return ()
    where = ", ".join(branch.last for branch in missing[:3]) + (", ..." if len(missing) > 3 else "")
    return (
        f"a scalar multiplier (1) on {len(missing)} of {len(branches)} branches (after {where})",
        "scalar biases (0) before each weight layer and activation of the branches, unless the layers have biases",
    )


def _he_(weight: Tensor, use: WeightUse, factor: float, generator: torch.Generator | None) -> None:
    """He-normal by the fan that the traced op really has, times ``factor``."""
    if weight.dim() < 2:
        return
    variance_scaling_(weight, 1.0, "fan_in", generator=generator)
    shape_fan = weight[0].numel()
    weight.mul_(factor * (2.0 * shape_fan / use.fans.fan_in) ** 0.5)
