"""Agreement with infinite-width values that neural-tangents 0.6.5 computed (float64)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import BATCH, Graph

from initcheck.signal.propagate import propagate
from initcheck.signal.result import Moments

ORACLE = json.loads((Path(__file__).parent / "data" / "nngp.json").read_text())
WIDTH = 4096
SCALE = {"1": 1.0, "sqrt2": math.sqrt(2), "1.5": 1.5}
ACTIVATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "Identity": ("identity", lambda x: x),
    "Relu": ("relu", F.relu),
    "LeakyRelu(0.01)": ("leaky_relu", F.leaky_relu),
    "ABRelu(0.25,1.0)": ("leaky_relu", lambda x: F.leaky_relu(x, 0.25)),
    "Abs": ("abs", torch.abs),
    "Erf": ("erf", torch.erf),
    "Gelu": ("gelu", F.gelu),
    "Sigmoid_like": ("sigmoid", lambda x: 0.5 * torch.erf(x / 2.4020563531719796) + 0.5),
    "Sin": ("sin", torch.sin),
    "Tanh[GH64]": ("tanh", torch.tanh),
    "Silu[GH64]": ("silu", F.silu),
}


def settings(key: str) -> tuple[str, float, float, float]:
    name, *rest = key.split("|")
    values = dict(part.split("=", 1) for part in rest)
    return name, SCALE[values["W"]], float(values.get("b", 0)), float(values["c"])


def close(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("key", sorted(ORACLE["dense"]))
def test_dense_stack_of_depth_twenty(key: str) -> None:
    name, w_std, b_std, c = settings(key)
    expected = ORACLE["dense"][key]
    op, function = ACTIVATIONS[name]
    g = Graph()
    x = g.input(BATCH, WIDTH)
    layers = []
    for _ in range(20):
        h = g.dense(x, WIDTH, w_std, b_std)
        x = g.call(op, function, h)
        layers.append((h, x))
    signal = propagate(g.done(x), strict=True, inputs={"x": Moments(0.0, c, 1.0 - c, 0.0)})
    for i, (h, x) in enumerate(layers):
        pre, post = signal.forward[h], signal.forward[x]
        assert close(pre.variance + pre.mean**2, expected["pre_var"][i]), f"pre_var of layer {i}"
        assert close(pre.v_c + pre.mean**2, expected["pre_cov"][i]), f"pre_cov of layer {i}"
        assert close(post.variance + post.mean**2, expected["post_m2"][i]), f"post_m2 of layer {i}"
        assert close(post.v_c + post.mean**2, expected["post_cov"][i]), f"post_cov of layer {i}"
        dphi2 = signal.backward[h].same / signal.backward[x].same
        assert close(dphi2, expected["dphi2"][i]), f"dphi2 of layer {i}"


@pytest.mark.parametrize("key", sorted(ORACLE["layernorm"]))
def test_layer_norm_stack(key: str) -> None:
    name, w_std, _, c = settings(key)
    op, function = ACTIVATIONS[name.split(",")[2].rstrip("]")]
    expected = ORACLE["layernorm"][key]
    g = Graph()
    x = g.input(BATCH, WIDTH)
    layers = []
    for _ in range(20):
        h = g.call("layer_norm", F.layer_norm, g.dense(x, WIDTH, w_std, 0.1), (WIDTH,), eps=1e-12)
        x = g.call(op, function, h)
        layers.append(x)
    signal = propagate(g.done(x), strict=True, inputs={"x": Moments(0.0, c, 1.0 - c, 0.0)})
    for i, x in enumerate(layers):
        post = signal.forward[x]
        assert close(post.variance + post.mean**2, expected["post_m2"][i])
        assert close(post.v_c + post.mean**2, expected["post_cov"][i])


@pytest.mark.parametrize("key", [k for k in sorted(ORACLE["residual"]) if k != "meta"])
def test_residual_stack(key: str) -> None:
    name, *rest = key.split("|")
    values = dict(part.split("=", 1) for part in rest)
    w_std, c = SCALE[values["W"]], float(values["c"])
    scale = values.get("scale", values.get("last_scale", "1"))
    factor = 1 / math.sqrt(40) if "sqrt" in scale else 0.0 if scale.startswith("0") else 1.0
    expected = ORACLE["residual"][key]
    g = Graph()
    x = g.dense(g.input(BATCH, WIDTH), WIDTH, 1.0)
    layers = [x]
    for _ in range(20):
        h = x
        if name.startswith("preact"):
            h = g.dense(g.call("relu", F.relu, h), WIDTH, w_std * factor)
        elif name.startswith("preLN"):
            h = g.call("layer_norm", F.layer_norm, h, (WIDTH,), eps=1e-12)
            h = g.dense(g.call("gelu", F.gelu, g.dense(h, WIDTH, w_std)), WIDTH, w_std * factor)
        else:
            h = g.dense(g.call("relu", F.relu, g.dense(h, WIDTH, w_std)), WIDTH, w_std * factor)
        x = g.call("add", torch.add, x, h)
        layers.append(x)
    signal = propagate(g.done(x), strict=True, inputs={"x": Moments(0.0, c, 1.0 - c, 0.0)})
    for i, x in enumerate(layers):
        found = signal.forward[x]
        assert close(found.variance + found.mean**2, expected["var"][i])
        assert close(found.v_c + found.mean**2, expected["cov"][i])


@pytest.mark.parametrize("key", [k for k in sorted(ORACLE["conv"]) if k != "meta"])
def test_convolution_stack_and_global_pooling(key: str) -> None:
    name, *rest = key.split("|")
    values = dict(part.split("=", 1) for part in rest)
    w_std, c = SCALE[values["W"]], float(values["c"])
    op, function = ACTIVATIONS[name.split(",")[1].split("]")[0]]
    circular, white = "CIRCULAR" in name, values["input"] == "white"
    expected = ORACLE["conv"][key]
    g = Graph()
    x = image(g, white, c)
    layers, pooled = [], []
    for _ in range(10):
        if circular:
            x = g.call("pad", F.pad, x, (1, 1, 1, 1), mode="circular")
        x = g.call(op, function, g.conv(x, 512, w_std, padding=0 if circular else 1))
        layers.append(x)
        pooled.append(g.call("adaptive_avg_pool2d", F.adaptive_avg_pool2d, x, 1))
    for found, right in rows(g.done(x), layers, pooled, expected, white, c):
        assert close(found, right)


def rows(
    graph: Any, layers: list[Any], pooled: list[Any], expected: dict[str, Any], white: bool, c: float
) -> Iterator[tuple[float, float]]:
    """(found, expected) second moments; layers[i]: the map at depth i + 1, pooled[i]: its mean over positions."""
    moments = Moments(0.0, 0.0, 0.0, 1.0 - c) if white else Moments(0.0, c, 1.0 - c, 0.0)
    signal = propagate(graph, strict=True, inputs={"x": moments})
    for what, nodes in (("flatten", layers), ("gap", pooled)):
        for depth, diagonal, other in expected[what]:
            found = signal.forward[nodes[depth - 1]]
            yield found.variance + found.mean**2, diagonal
            yield found.v_c + found.mean**2, other


def image(g: Graph, white: bool, c: float) -> torch.fx.Node:
    """8x8 pixels; white ones that two samples share are a parameter that is added to every sample."""
    x = g.input(BATCH, 512, 8, 8)
    if not (white and c):
        return x
    return g.call("add", torch.add, x, g.parameter("shared", (512, 8, 8), math.sqrt(c)))


@pytest.mark.parametrize("key", [k for k in sorted(ORACLE["avgpool"]) if k != "meta"])
def test_average_pooling(key: str) -> None:
    net, *rest = key.split("|")
    values = dict(part.split("=", 1) for part in rest)
    g = Graph()
    white, c = values["input"] == "white", float(values["c"])
    x = image(g, white, c)
    for _ in range(2 if net.endswith("x2") else 1):
        if "Conv" in net:
            circular = "CIRC" in net
            if circular:
                x = g.call("pad", F.pad, x, (1, 1, 1, 1), mode="circular")
            stride = 2 if "stride2" in net else 1
            x = g.call("relu", F.relu, g.conv(x, 512, math.sqrt(2), padding=0 if circular else 1, stride=stride))
        if "AvgPool" in net:
            x = g.call("avg_pool2d", F.avg_pool2d, x, 2)
    y = g.call("adaptive_avg_pool2d", F.adaptive_avg_pool2d, x, 1)
    expected = {what: [(1, *row)] for what, row in ORACLE["avgpool"][key].items()}
    for found, right in rows(g.done(y), [x], [y], expected, white, c):
        assert close(found, right)


@pytest.mark.parametrize("key", sorted(ORACLE["dropout"]))
def test_dropout(key: str) -> None:
    keep = float(key.split("keep=")[1].split(")")[0])
    g = Graph()
    h = g.call("relu", F.relu, g.dense(g.input(BATCH, WIDTH), WIDTH, math.sqrt(2)))
    x = g.dense(g.call("dropout", F.dropout, h, 1 - keep, True), WIDTH, 1.0)
    signal = propagate(g.done(x), strict=True)
    assert close(signal.forward[x].variance, ORACLE["dropout"][key][0])
