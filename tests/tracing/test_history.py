"""Who wrote what: every way in which code in the wild writes parameters, each with its place and what survives."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from initcheck.findings import Location
from initcheck.history import ModelHistory, TensorHistory
from initcheck.tracing.build import build
from initcheck.tracing.history import model_history
from initcheck.tracing.ladder import settle

INIT_FN = nn.init.orthogonal_
SCALED = functools.partial(nn.init.normal_, std=0.3)
BY_NAME: dict[str, Callable[..., Any]] = {"xavier": lambda w: nn.init.xavier_uniform_(w, gain=2.0)}
HERE = __file__


def history(constructor: Callable[[], nn.Module]) -> ModelHistory:
    built = build(constructor)
    return model_history(built.model, built.log, "net", "net()", Location(HERE, 1))


def of(constructor: Callable[[], nn.Module], name: str = "weight") -> TensorHistory:
    return next(tensor for tensor in history(constructor).tensors if tensor.name == name)


def calls(tensor: TensorHistory) -> list[tuple[str, bool]]:
    return [(write.function, write.survives) for write in tensor.writes]


def written_in(tensor: TensorHistory) -> list[str]:
    """The functions of this file on the way to the last write, innermost first."""
    frames = [frame for frame in tensor.writes[-1].stack if frame.location.path == HERE]
    return [frame.function.rpartition(".")[2] for frame in frames]


DEFAULT = ("kaiming_uniform_", False)


def layer_init(layer: nn.Linear, std: float) -> nn.Linear:
    INIT_FN(layer.weight, std)
    return layer


def apply_init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")


def by_factory() -> nn.Module:
    return layer_init(nn.Linear(16, 8), std=0.1)


def by_apply() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8)).apply(apply_init)[0]


def by_partial() -> nn.Module:
    layer = nn.Linear(16, 8)
    SCALED(layer.weight)
    return layer


def by_lambda() -> nn.Module:
    layer = nn.Linear(16, 8)
    BY_NAME["xavier"](layer.weight)
    return layer


def by_loop() -> nn.Module:
    net = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))
    for name, parameter in net.named_parameters():
        if "weight" in name:
            nn.init.sparse_(parameter, 0.5)
    return net[0]


def by_data() -> nn.Module:
    layer = nn.Linear(16, 8)
    layer.weight.data.normal_(0, 0.02)
    return layer


@pytest.mark.parametrize(
    ("way", "function", "arguments", "frames"),
    [
        (by_factory, "orthogonal_", {"gain": 0.1}, ["layer_init", "by_factory"]),
        (by_apply, "kaiming_normal_", {"mode": "fan_out"}, ["apply_init", "by_apply"]),
        (by_partial, "normal_", {"std": 0.3}, ["by_partial"]),
        (by_lambda, "xavier_uniform_", {"gain": 2.0}, ["<lambda>", "by_lambda"]),
        (by_loop, "sparse_", {"sparsity": 0.5}, ["by_loop"]),
        (by_data, "normal_", {"std": 0.02}, ["by_data"]),
    ],
)
def test_a_write_is_known_by_function_arguments_and_frames(
    way: Callable[[], nn.Module], function: str, arguments: dict[str, Any], frames: list[str]
) -> None:
    tensor = of(way)
    assert calls(tensor) == [DEFAULT, (function, True)]
    assert [write.origin for write in tensor.writes] == ["default", "user"]
    assert arguments.items() <= tensor.writes[-1].arguments.items()
    assert written_in(tensor)[: len(frames)] == frames


@pytest.mark.parametrize("size", [8, 600])
def test_slices_are_parts_and_keep_what_was_before(size: int) -> None:
    """Small tensors are written for real, big ones are put down: the same history."""

    def make() -> nn.Module:
        layer = nn.Linear(size, size)
        with torch.no_grad():
            layer.weight[: size // 2].normal_(std=2.0)
            layer.weight[size // 2 :] = 7.0
        return layer

    tensor = of(make)
    assert calls(tensor) == [("kaiming_uniform_", True), ("normal_", True), ("fill_", True)]
    assert [write.share for write in tensor.writes] == [1.0, 0.5, 0.5]
    assert tensor.distribution.mean == pytest.approx(3.5, abs=1.5)


@pytest.mark.parametrize("size", [8, 600])
def test_views_write_to_their_base(size: int) -> None:
    def make() -> nn.Module:
        layer = nn.Linear(size, size)
        layer.weight.data.view(-1).uniform_(-1, 1)
        layer.weight.data.t().mul_(3)
        return layer

    tensor = of(make)
    assert calls(tensor) == [DEFAULT, ("uniform_", True), ("mul_", True)]
    assert (tensor.distribution.low, tensor.distribution.high) == (pytest.approx(-3), pytest.approx(3))


@pytest.mark.parametrize("size", [8, 600])
def test_assigning_data_overwrites(size: int) -> None:
    def make() -> nn.Module:
        layer = nn.Linear(size, size)
        layer.weight.data = torch.randn(size, size) * 0.05
        layer.bias.data = layer.bias.data * 2
        return layer

    tensor = of(make)
    assert calls(tensor) == [DEFAULT, ("randn", True), ("mul", True), ("data.set", True)]
    assert tensor.distribution.std == pytest.approx(0.05, rel=0.3)
    assert calls(of(make, "bias")) == [("uniform_", True), ("mul", True)]


@pytest.mark.parametrize("size", [8, 600])
def test_a_copy_brings_the_history_of_its_source(size: int) -> None:
    def make() -> nn.Module:
        layer = nn.Linear(size, size)
        nn.init.normal_(layer.weight)
        with torch.no_grad():
            layer.weight.copy_(torch.zeros(size, size).uniform_(-1, 1))
        return layer

    assert calls(of(make)) == [
        DEFAULT, ("normal_", False), ("zeros", False), ("uniform_", True), ("copy_", True)
    ]  # fmt: skip


def test_a_state_dict_overwrites() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(4, 4)
        layer.load_state_dict({"weight": torch.full((4, 4), 0.125), "bias": torch.zeros(4)})
        return layer

    tensor = of(make)
    assert calls(tensor) == [DEFAULT, ("full", True), ("copy_", True)]
    assert (tensor.distribution.mean, tensor.distribution.std) == (0.125, 0.0)


def test_clones_know_their_origin_until_they_are_drawn_again() -> None:
    def make() -> nn.Module:
        first = nn.Linear(4, 4)
        again = copy.deepcopy(first)
        nn.init.normal_(again.weight)
        return nn.ModuleList([first, copy.deepcopy(first), again])

    assert of(make, "1.weight").clone_of == "0.weight"
    assert of(make, "2.weight").clone_of == ""
    assert calls(of(make, "2.weight"))[-1] == ("normal_", True)


def test_tied_weights_are_one_tensor_with_two_names() -> None:
    def make() -> nn.Module:
        net = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
        net["head"].weight = net["embedding"].weight
        nn.init.normal_(net["head"].weight, std=0.02)
        return net

    (tensor,) = history(make).tensors
    assert (tensor.name, tensor.aliases) == ("embedding.weight", ("head.weight",))
    assert calls(tensor) == [("normal_", False), ("normal_", True)]


def test_parametrisations_are_followed_to_their_originals() -> None:
    def make() -> nn.Module:
        old, new = weight_norm(nn.Linear(4, 4)), parametrizations.weight_norm(nn.Linear(4, 4))
        nn.init.normal_(old.weight_v, std=0.5)
        nn.init.constant_(new.parametrizations.weight.original0, 3.0)
        return nn.ModuleDict({"old": old, "new": new})

    assert calls(of(make, "old.weight_v")) == [DEFAULT, ("normal_", True)]
    assert calls(of(make, "new.parametrizations.weight.original0"))[-1] == ("constant_", True)


def test_buffers_are_told_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(4.0) / 3)

    tensor = of(Net, "table")
    assert (tensor.role, calls(tensor)) == ("buffer", [("arange", True), ("div", True)])


def test_lazy_layers_are_written_at_their_first_pass() -> None:
    built = build(lambda: nn.LazyLinear(5))
    before = model_history(built.model, built.log, "net", "", Location(HERE, 1)).tensors[0]
    assert (before.shape, before.writes, before.distribution.kind) == ((), (), "unknown")
    settle(built.model, built.log, (torch.randn(2, 12),), {})
    after = model_history(built.model, built.log, "net", "", Location(HERE, 1)).tensors[0]
    assert after.shape == (5, 12)
    assert calls(after)[-1] == ("kaiming_uniform_", True)


def test_uninitialised_memory_has_no_writes() -> None:
    tensor = of(lambda: nn.ParameterList([nn.Parameter(torch.empty(3, 3))]), "0")
    assert (tensor.distribution.kind, tensor.writes) == ("uninitialised", ())
