"""Fixup: train deep residual nets without normalisation, on any traced model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.init.attention import Projection, projections
from initcheck.init.fans import Mode
from initcheck.init.scaling import draw_
from initcheck.init.structure import (
    ACTIVATION_OPS,
    TRANSPARENT_OPS,
    WEIGHT_OPS,
    Branch,
    Structure,
    analyse,
    op_of,
    output_weights,
    parameter_of,
)
from initcheck.library import split_inputs


@dataclass(frozen=True, slots=True)
class FixupReport:
    """What was done: residual branches L, the factor on each scaled weight, zeroed weights; and what the forward lacks.

    ``scalars``: multipliers (set to 1) and biases (set to 0) that the forward has. ``lacks``: those that Fixup's rule
    3 asks for and that it has not; weights alone cannot add them.
    """

    branches: int
    scaled: Mapping[str, float]
    zeroed: tuple[str, ...]
    lacks: tuple[str, ...]
    scalars: Mapping[str, float] = field(default_factory=dict)


def fixup_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    mode: Mode = "fan_in",
    generator: torch.Generator | None = None,
) -> FixupReport:
    """Fixup initialisation (Zhang, Dauphin and Ma 2019, §3).

    In every residual branch of m weight layers, of L branches: He-normal × L^(-1/(2m-2)) for all but the last layer,
    the last one zero; the classifier zero; every other weight layer He-normal; scalar multipliers 1, scalar biases 0. A
    packed query, key and value projection counts as three layers (m = 4 for attention). Branches are found in the
    traced graph.

    Args:
        model: the model, changed in place.
        example_inputs: as for ``analyze``.
        mode: the fan of He's scale; the authors' code has ``"fan_out"``.
        generator: source of randomness.

    Raises:
        ValueError: if the graph has no residual branch. The model is then as it was.
    """
    from initcheck.tracing.ladder import trace

    args, kwargs = split_inputs(example_inputs)
    traced = trace(model, args, kwargs, name=type(model).__name__)
    structure = analyse(traced)
    if not structure.branches:
        raise ValueError("fixup_: the traced graph has no residual branch (no x + f(x) with weights in f)")
    plan = fixup_plan(structure, projections(traced))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    uses = structure.by_parameter()
    with torch.no_grad():
        for name, factor in plan.scaled.items():
            draw_(parameters[name], factor * (2.0 / uses[name].fans.by_mode(mode)) ** 0.5, "normal", generator)
        for name in plan.zeroed:
            parameters[name].zero_()
            bias = parameters.get(name.removesuffix("weight") + "bias")
            if name.endswith("weight") and bias is not None:
                bias.zero_()
        for name, value in plan.scalars.items():
            parameters[name].fill_(value)
    return plan


def rezero_model_(model: nn.Module, example_inputs: Tensor | Sequence[Any] | Mapping[str, Any]) -> tuple[str, ...]:
    """ReZero on a whole model: the multiplier of every residual branch becomes 0 (Bachlechner et al. 2021).

    Multipliers are parameters with one element that a branch of the traced graph is multiplied by.

    Returns:
        Their names.

    Raises:
        ValueError: if the graph has no residual branch, or a branch without a multiplier. The model is then as it was.
    """
    from initcheck.tracing.ladder import trace

    args, kwargs = split_inputs(example_inputs)
    structure = analyse(trace(model, args, kwargs, name=type(model).__name__))
    found: dict[str, None] = {}
    missing = []
    for branch in structure.branches:
        multipliers = _multipliers(branch)
        found.update(dict.fromkeys(multipliers))
        if not multipliers:
            missing.append(branch.last)
    if not structure.branches or missing:
        what = f"no scalar multiplier after {_some(missing)}" if missing else "no residual branch in the traced graph"
        raise ValueError(f"rezero: {what}; ReZero needs x + α·f(x) with a learnt α")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in found:
            parameters[name].zero_()
    return tuple(found)


def _multipliers(branch: Branch) -> list[str]:
    return [p for node in branch.nodes if op_of(node) in {"mul", "imul"} for p in _scalar_operands(node)]


def fixup_plan(structure: Structure, values: Mapping[str, Projection] | None = None) -> FixupReport:
    """What Fixup does to the weights of that structure. ``values``: projections that attention reads."""
    branches = structure.branches
    scaled = {use.parameter: 1.0 for use in structure.uses if use.op != "embedding"}
    zeroed: list[str] = []
    for branch in branches:
        m = sum(_matrices(name, values or {}) for name in branch.parameters)
        for name in branch.parameters[:-1]:
            scaled[name] = float(len(branches) ** (-1.0 / (2 * m - 2)))
        zeroed.append(branch.last)
    zeroed += sorted(output_weights(structure) - set(zeroed))
    for name in zeroed:
        scaled.pop(name, None)
    scalars, lacks = _scalars(branches, structure)
    return FixupReport(len(branches), scaled, tuple(zeroed), lacks, scalars)


def _matrices(name: str, values: Mapping[str, Projection]) -> int:
    """How many weight layers a parameter stands for: 3 for q, k and v packed in one."""
    packed = values.get(name)
    return 1 if packed is None or packed.only_values else max(round(packed.units / len(packed.value_units)), 1)


def _scalars(branches: list[Branch], structure: Structure) -> tuple[dict[str, float], tuple[str, ...]]:
    """Scalar multipliers and biases of the branches, with their initial values; and those that are missing."""
    at = {use.node: use.parameter for use in structure.uses}
    found: dict[str, float] = {}
    order = {node: index for index, node in enumerate(branches[0].join.graph.nodes)}
    for node in order:
        if op_of(node) in {"add", "iadd", "sub"}:
            found.update(dict.fromkeys(_scalar_operands(node), 0.0))
    no_multiplier: list[str] = []
    no_bias: list[str] = []
    for branch in branches:
        multipliers = _multipliers(branch)
        found.update(dict.fromkeys(multipliers, 1.0))
        if not multipliers:
            no_multiplier.append(branch.last)
        for node in sorted(branch.nodes, key=order.__getitem__):
            if (node in at or op_of(node) in ACTIVATION_OPS) and not _has_bias(node):
                no_bias.append(at.get(node) or f"{op_of(node)} of {node.meta.get('module') or 'the model'}")
    lacks = []
    if no_multiplier:
        lacks.append(
            f"a scalar multiplier (1) on {len(no_multiplier)} of {len(branches)} branches: {_some(no_multiplier)}"
        )
    if no_bias:
        lacks.append(f"a scalar bias (0) before {len(no_bias)} weight layers and activations: {_some(no_bias)}")
    return found, tuple(lacks)


def _scalar_operands(node: torch.fx.Node) -> list[str]:
    """Parameters with one element that an elementwise op combines with the signal."""
    return [
        parameter_of(n)
        for n in node.all_input_nodes
        if parameter_of(n) and isinstance(n.meta.get("val"), Tensor) and n.meta["val"].numel() == 1
    ]


def _has_bias(node: torch.fx.Node) -> bool:
    """Whether what a layer or activation reads had a learnt bias added: a scalar, or the layer's own before it."""
    for source in node.all_input_nodes:
        if parameter_of(source):
            continue
        current = source
        while op_of(current) in TRANSPARENT_OPS and current.all_input_nodes:
            current = current.all_input_nodes[0]
        op = op_of(current)
        if op in {"add", "iadd", "sub"} and _scalar_operands(current):
            return True
        if op in WEIGHT_OPS and any(parameter_of(n).endswith("bias") for n in current.all_input_nodes):
            return True
    return False


def _some(names: list[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
