"""Recipes for whole transformers, on any traced model: T-Fixup, DeepNorm, SubLN, DS-Init and GPT-2's depth scaling.

Layers, stacks (encoder, decoder), branches and the units that are attention's values are found in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initcheck.init._tensors import whole, write
from initcheck.init.attention import Projection, after_softmax, projections, value_operand
from initcheck.init.depth import deepnorm_constants, subln_gain, t_fixup_scales
from initcheck.init.fans import Fans
from initcheck.init.scaling import draw_
from initcheck.init.structure import NORM_OPS, Branch, Structure, analyse, op_of, parameter_of
from initcheck.library import split_inputs
from initcheck.tracing.trace import Trace


@dataclass(frozen=True, slots=True)
class RecipeReport:
    """What a recipe did: stacks as (encoder layers, decoder layers); parameter to factor; and what the forward lacks.

    ``scaled``: factor on the base scheme. A packed projection's factor applies to its value units alone.
    """

    layers: tuple[int, int]
    scaled: Mapping[str, float]
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a weight is: in which stack, in which layer (from 1), and which of its units the recipe scales."""

    decoder: bool
    layer: int
    units: tuple[int, ...] | None
    """None: all."""
    scores_only: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    places: Mapping[str, _Place]
    encoder: int
    decoder: int
    norms: int
    embeddings: tuple[str, ...]

    def depths(self, place: _Place) -> tuple[int, int]:
        """Layers of the stack that holds a matrix, and of the other one."""
        return (self.decoder, self.encoder) if place.decoder else (self.encoder, self.decoder)


def t_fixup_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    generator: torch.Generator | None = None,
) -> RecipeReport:
    """T-Fixup: train a transformer without layer norm and without warm-up (Huang et al. 2020, §3.2).

    Every weight Glorot-uniform, embeddings N(0, d^-½)·(9N)^-¼; then fc1, fc2, value and output projections
    × 0.67·N^-¼ in the encoder, × (9M)^-¼ in the decoder (a stack that attends to another one). Query and key stay. A
    single stack, causal or not, has no cross attention and takes the encoder's factor. The authors' code gives query
    and key a gain of 1/√2; the paper does not, nor does this.

    Args:
        model: the model, changed in place.
        example_inputs: as for ``analyze``.
        generator: source of randomness.

    Raises:
        ValueError: if the graph has no attention on a residual stream. The model is then as it was.
    """

    def factor(layout: _Layout, place: _Place) -> float:
        scales = t_fixup_scales(1, max(layout.encoder, 1), max(layout.decoder, 1))
        return scales.decoder if place.decoder else scales.encoder

    _, structure, layout = _read("t_fixup", model, example_inputs)
    report = _glorot(model, structure, layout, factor, "uniform", generator)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scaled = dict(report.scaled)
    for name in layout.embeddings:
        width = parameters[name].shape[-1]
        std = t_fixup_scales(width, max(layout.encoder, 1), max(layout.decoder, 1)).embedding_std
        _normal(parameters[name], std, generator, _padding_row(model, name))
        scaled[name] = std * math.sqrt(width)
    lacks = (
        [f"a forward without norm layers: T-Fixup replaces them, this one has {layout.norms}"] if layout.norms else []
    )
    return RecipeReport(report.layers, scaled, tuple(lacks))


def deepnorm_model_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    generator: torch.Generator | None = None,
) -> RecipeReport:
    """DeepNorm on a whole model (Wang et al. 2022): Glorot-normal, × β for fc1, fc2, value and output projection.

    Raises:
        ValueError: if the graph has no attention on a residual stream. The model is then as it was.
    """

    def constants(layout: _Layout, place: _Place) -> Any:
        return deepnorm_constants(*layout.depths(place), part="decoder" if place.decoder else "encoder")

    _, structure, layout = _read("deepnorm", model, example_inputs)
    report = _glorot(model, structure, layout, lambda *given: constants(*given).beta, "normal", generator)
    alphas = sorted({f"{constants(layout, place).alpha:.4g}" for place in layout.places.values()})
    return RecipeReport(
        report.layers, report.scaled, (f"α = {' and '.join(alphas)} on the stream, LN(α·x + f(x)), unless it is there",)
    )


def subln_model_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    generator: torch.Generator | None = None,
) -> RecipeReport:
    """SubLN on a whole model (Wang et al. 2022, Foundation Transformers): Glorot-normal × ``subln_gain``.

    Raises:
        ValueError: if the graph has no attention on a residual stream. The model is then as it was.
    """

    def factor(layout: _Layout, place: _Place) -> float:
        return subln_gain(*layout.depths(place), part="decoder" if place.decoder else "encoder")

    _, structure, layout = _read("subln", model, example_inputs)
    report = _glorot(model, structure, layout, factor, "normal", generator)
    return RecipeReport(report.layers, report.scaled, ("a second norm inside each branch, unless it is there",))


def ds_init_model_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> RecipeReport:
    """DS-Init on a whole model (Zhang, Titov and Sennrich 2019): Glorot-uniform × α/√l in layer l of each stack.

    Raises:
        ValueError: if the graph has no attention on a residual stream. The model is then as it was.
    """
    _, structure, layout = _read("ds_init", model, example_inputs)
    return _glorot(
        model, structure, layout, lambda _, place: alpha / math.sqrt(place.layer), "uniform", generator, everything=True
    )


def gpt2_model_(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    std: float = 0.02,
    generator: torch.Generator | None = None,
) -> RecipeReport:
    """GPT-2's init on any residual net (Radford et al. 2019, §2.3): N(0, std²), and std/√branches at their ends.

    Linear, Conv1D and embedding weights N(0, std²), biases zero; the last weight of every residual branch is divided
    by the square root of the number of branches on its stream (2·layers in GPT-2).

    Raises:
        ValueError: if the graph has no residual branch. The model is then as it was.
    """
    args, kwargs = split_inputs(example_inputs)
    traced = _trace(model, args, kwargs)
    structure = analyse(traced)
    if not structure.branches:
        raise ValueError("gpt2: the traced graph has no residual branch (no x + f(x) with weights in f)")
    on_stream = _per_stream(structure.branches)
    factors = {branch.last: on_stream[branch.stream] ** -0.5 for branch in structure.branches}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scaled = {}
    names = dict.fromkeys([use.parameter for use in structure.uses] + list(_embeddings(traced, tokens_only=False)))
    for name in names:
        scaled[name] = factors.get(name, 1.0)
        _normal(parameters[name], std * scaled[name], generator, _padding_row(model, name))
        _zero_bias(parameters, name)
    return RecipeReport((len(structure.branches), 0), scaled)


def _trace(model: nn.Module, args: Any, kwargs: Any) -> Trace:
    from initcheck.tracing.ladder import trace

    return trace(model, args, kwargs, name=type(model).__name__)


def _read(name: str, model: nn.Module, example_inputs: Any) -> tuple[Trace, Structure, _Layout]:
    args, kwargs = split_inputs(example_inputs)
    traced = _trace(model, args, kwargs)
    structure = analyse(traced)
    return traced, structure, _layout(name, traced, structure)


def _per_stream(branches: Sequence[Branch]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for branch in branches:
        counts[branch.stream] = counts.get(branch.stream, 0) + 1
    return counts


def _layout(name: str, trace: Trace, structure: Structure) -> _Layout:
    """Stacks and layers: a layer begins at each self-attention; a stack with cross attention is a decoder."""
    values, softmaxed = projections(trace), after_softmax(trace.graph)
    stacks: dict[int, list[Branch]] = {}
    for branch in structure.branches:
        stacks.setdefault(branch.stream, []).append(branch)
    places: dict[str, _Place] = {}
    depth = {False: 0, True: 0}
    for branches in stacks.values():
        readers = {b.last: _attention_inputs(b, structure, softmaxed) for b in branches}
        attention = [b for b in branches if readers[b.last]]
        if not attention:
            continue
        crossing = {b.last for b in attention if _attends_elsewhere(b, softmaxed)}
        decoder = bool(crossing)
        layer = 0
        for branch in branches:
            layer += branch in attention and branch.last not in crossing
            for parameter in branch.parameters:
                scores = parameter in readers[branch.last] and parameter not in values
                units = _value_units(values.get(parameter))
                places.setdefault(parameter, _Place(decoder, max(layer, 1), units, scores))
        depth[decoder] += max(layer, 1)
    if not places:
        raise ValueError(f"{name}: the traced graph has no attention on a residual stream")
    norms = sum(op_of(node) in NORM_OPS for node in trace.graph.nodes)
    return _Layout(places, depth[False], depth[True], norms, _embeddings(trace, tokens_only=True))


def _value_units(projection: Projection | None) -> tuple[int, ...] | None:
    return None if projection is None or projection.only_values else projection.value_units


def _attention_inputs(branch: Branch, structure: Structure, softmaxed: set[torch.fx.Node]) -> set[str]:
    """Weights of the branch that its attention reads: queries, keys, values; none without attention."""
    at: dict[torch.fx.Node, list[str]] = {}
    for use in structure.uses:
        at.setdefault(use.node, []).append(use.parameter)
    queue = [node for node in branch.nodes if value_operand(node, op_of(node), softmaxed) is not None]
    seen: set[torch.fx.Node] = set()
    while queue:
        for source in queue.pop().all_input_nodes:
            if source in branch.nodes and source not in seen:
                seen.add(source)
                queue.append(source)
    return {name for node in seen for name in at.get(node, ())}


def _attends_elsewhere(branch: Branch, softmaxed: set[torch.fx.Node]) -> bool:
    """Whether the branch's values come from outside its own stream."""
    operands = [value_operand(node, op_of(node), softmaxed) for node in branch.nodes]
    return any(operand is not None and not _descends(operand, branch) for operand in operands)


def _descends(node: torch.fx.Node, branch: Branch) -> bool:
    seen: set[torch.fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop()
        if current is branch.origin:
            return True
        if current in branch.nodes and current not in seen:
            seen.add(current)
            queue.extend(current.all_input_nodes)
    return False


def _embeddings(trace: Trace, *, tokens_only: bool) -> tuple[str, ...]:
    """Embedding tables; ``tokens_only``: not those of positions, whose indices do not depend on the input."""
    found = []
    for node in trace.graph.nodes:
        if op_of(node) == "embedding" and not (tokens_only and any("value" in n.meta for n in node.all_input_nodes)):
            found += [parameter_of(n) for n in node.all_input_nodes if parameter_of(n)]
    return tuple(dict.fromkeys(found))


def _padding_row(model: nn.Module, name: str) -> int | None:
    module = model.get_submodule(name.rpartition(".")[0])
    return module.padding_idx if isinstance(module, nn.Embedding) else None


def _normal(parameter: Tensor, std: float, generator: torch.Generator | None, padding: int | None) -> None:
    with torch.no_grad():
        draw_(parameter, std, "normal", generator)
        if padding is not None:
            values = whole(parameter)
            values[padding] = 0.0
            write(parameter, values)


def _zero_bias(parameters: Mapping[str, Tensor], weight: str) -> None:
    bias = parameters.get(weight.removesuffix("weight") + "bias")
    if weight.endswith("weight") and bias is not None:
        with torch.no_grad():
            bias.zero_()


def _glorot(
    model: nn.Module,
    structure: Structure,
    layout: _Layout,
    factor: Callable[[_Layout, _Place], float],
    kind: str,
    generator: torch.Generator | None,
    *,
    everything: bool = False,
) -> RecipeReport:
    """Glorot's scale with effective fans for every weight, then the recipe's factor where it has one; biases zero."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scaled: dict[str, float] = {}
    for name, use in structure.by_parameter().items():
        if name in layout.embeddings:
            continue
        weight = parameters[name]
        place = layout.places.get(name)
        parts = 1.0 if place is None or place.units is None else use.fans.fan_out / len(place.units)
        fans = Fans(use.fans.fan_in, use.fans.fan_out / parts)  # a packed projection is as many matrices
        with torch.no_grad():
            draw_(weight, fans.by_mode("fan_avg") ** -0.5, kind, generator)
        _zero_bias(parameters, name)
        scaled[name] = 1.0
        if place is None or (place.scores_only and not everything):
            continue
        scaled[name] = factor(layout, place)
        transposed = weight.dim() == 2 and use.op != "linear"  # x @ W: the units are the columns
        _multiply(weight, scaled[name], None if everything else place.units, transposed)
    return RecipeReport((layout.encoder, layout.decoder), scaled)


def _multiply(weight: Tensor, factor: float, units: tuple[int, ...] | None, transposed: bool) -> None:
    with torch.no_grad():
        if units is None:
            weight.mul_(factor)
            return
        values = whole(weight)
        chosen = torch.tensor(units, device=values.device)
        view = values.t() if transposed else values
        view[chosen] = view[chosen] * factor
        write(weight, values)
