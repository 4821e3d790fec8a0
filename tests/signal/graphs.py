"""Recorded graphs made by hand: no model, no weights, exact distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F

from initcheck.tracing.trace import Distribution, ParameterRecord, Trace

BATCH = 4


class Graph:
    """Builds a ``Trace`` call by call; every method returns a node."""

    def __init__(self) -> None:
        self.graph = torch.fx.Graph()
        self.parameters: dict[str, ParameterRecord] = {}

    def input(self, *shape: int, name: str = "x") -> torch.fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def parameter(self, name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> torch.fx.Node:
        kind = "normal" if std else "constant"
        module, _, attribute = name.rpartition(".")
        self.parameters[name] = ParameterRecord(
            name, module, "", attribute, shape, "float32", True, Distribution(kind, mean, std)
        )
        node = self.graph.create_node("get_attr", name.replace(".", "_"))
        node.meta.update(parameter=name, val=torch.empty(shape, device="meta"))
        return node

    def call(self, op: str, function: Callable[..., Any], *args: Any, module: str = "", **kwargs: Any) -> torch.fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        meta_args = torch.fx.node.map_arg(args, lambda n: n.meta["val"])
        meta_kwargs = torch.fx.node.map_arg(kwargs, lambda n: n.meta["val"])
        node.meta.update(op=op, val=function(*meta_args, **meta_kwargs), module=module, modules=("", module))
        return node

    def dense(self, x: torch.fx.Node, out: int, w_std: float, b_std: float = 0.0) -> torch.fx.Node:
        """Weight std w_std/sqrt(fan_in), bias std b_std."""
        layer = f"dense{len(self.parameters)}"
        fan_in = x.meta["val"].shape[-1]
        weight = self.parameter(f"{layer}.weight", (out, fan_in), w_std / math.sqrt(fan_in))
        bias = self.parameter(f"{layer}.bias", (out,), b_std)
        return self.call("linear", F.linear, x, weight, bias, module=layer)

    def conv(self, x: torch.fx.Node, out: int, w_std: float, stride: int = 1, padding: int = 1) -> torch.fx.Node:
        """3x3, weight std w_std/sqrt(9 C_in)."""
        layer = f"conv{len(self.parameters)}"
        channels = x.meta["val"].shape[1]
        weight = self.parameter(f"{layer}.weight", (out, channels, 3, 3), w_std / math.sqrt(9 * channels))
        return self.call("conv2d", F.conv2d, x, weight, module=layer, stride=stride, padding=padding)

    def done(self, output: torch.fx.Node, mode: str = "train") -> Trace:
        self.graph.output((output,))
        return Trace("hand-made", self.graph, self.parameters, {}, mode=mode)
