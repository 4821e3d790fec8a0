"""Run a recorded graph on real tensors: what it computes must be what the model computes."""

from __future__ import annotations

import torch
import torch.fx
from torch import nn

from initcheck.tracing.outputs import output_tensors


def replay(graph: torch.fx.Graph, model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The graph's outputs, on the model's own parameters and buffers, for these inputs (in placeholder order)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    values: dict[torch.fx.Node, object] = {}
    waiting = list(inputs)
    last: dict[torch.fx.Node, list[torch.fx.Node]] = {}
    seen: set[torch.fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                last.setdefault(node, []).append(source)
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = waiting.pop(0)
        elif node.op == "get_attr":
            if "parameter" in node.meta:
                values[node] = parameters[node.meta["parameter"]]
            elif "buffer" in node.meta and node.meta["buffer"] in buffers:
                values[node] = buffers[node.meta["buffer"]]
            else:
                values[node] = node.meta["constant"].clone()
        elif node.op == "call_function":
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = node.target(*args, **kwargs)
            if values[node] is None:  # ``__setitem__``, ``torch.add(..., out=)``
                values[node] = args[0]
        elif node.op == "output":
            return [values[n] for n in node.args[0]]
        for source in last.get(node, ()):
            del values[source]
    raise AssertionError("no output node")


def worst_difference(got: list[torch.Tensor], wanted: object, primary: torch.Tensor) -> float:
    """Largest difference over all outputs, relative to each output's scale; infinite where their number differs."""
    expected = [primary, *(t for t in output_tensors(wanted) if t is not primary)]
    if len(got) != len(expected):
        return float("inf")
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel():
            scale = max(float(b.detach().abs().double().max()), 1e-12)
            worst = max(worst, float((a.detach().double() - b.detach().double()).abs().max()) / scale)
    return worst
