"""The recorded graph computes what the model computes, whatever the forward does."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from replay import replay, worst_difference
from torch import nn
from torch.utils.checkpoint import checkpoint

from initcheck.tracing.ladder import trace
from initcheck.tracing.outputs import primary_output


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)


class Checkpointed(_Two):
    def forward(self, x):
        return checkpoint(self.b, checkpoint(self.a, x, use_reentrant=False), use_reentrant=True)


@torch.jit.script
def scripted(x):
    return torch.relu(x) * 2


class CallsScript(_Two):
    def forward(self, x):
        return self.b(scripted(self.a(x)))


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):
        return g


class CustomFunction(_Two):
    def forward(self, x):
        return self.b(_Clip.apply(self.a(x)))


class WritesThroughViews(_Two):
    def forward(self, x):
        y = self.a(x).clone()
        z = y[:, :4]
        z.mul_(3)
        z[:, 0] = 1.0
        y.view(-1).add_(1)
        return self.b(y)


class MovingAverage(_Two):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("m", torch.zeros(8))
        self.table = torch.ones(8)

    def forward(self, x):
        self.m.mul_(0.9).add_(0.1 * x.mean(0))
        self.cache = x
        self.table[0] = 5
        return self.b(self.a(x) + self.m * self.table)


class BranchesOnConstants(_Two):
    def forward(self, x):
        mask = torch.zeros(len(x), len(x))
        mask[:, 0] = 1
        row = mask[1]
        row.fill_(7)
        if mask.max() > 3:
            x = x * int(mask.sum().item())
        return self.b(self.a(x)) + mask[1, 1] + torch.arange(4).tolist()[-1]


class GradientInside(_Two):
    def forward(self, x):
        x = x.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(self.a(x).tanh().sum(), x, create_graph=True)
        return self.b(g)


class Vmapped(_Two):
    def forward(self, x):
        return self.b(torch.vmap(lambda row: self.a(row).relu())(x))


class ListOfParameters(_Two):
    def __init__(self) -> None:
        super().__init__()
        self.w = [nn.Parameter(torch.randn(8, 8)) for _ in range(2)]

    def forward(self, x):
        for w in self.w:
            x = x @ w
        return self.a(x)


class Attention(_Two):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.b(self.m(x[None], x[None], x[None])[0][0])


class Closure(_Two):
    def __init__(self) -> None:
        super().__init__()
        m = nn.ModuleDict({"fc": nn.Linear(8, 8), "drop": nn.Dropout(0.5)})
        self.m = m
        self.block = lambda x: m.drop(m.fc(x))

    def forward(self, x):
        return self.a(self.block(x))


class Gumbel(_Two):
    def forward(self, x):
        return F.gumbel_softmax(self.a(x), hard=True)


class NumberOfWays(_Two):
    def forward(self, x):
        rows = [self.b(self.a(r)) for r in x]
        return {"loss": x.sum(), "logits": torch.stack(rows) * torch.tensor([1.0, 2.0] * 4), "extra": [x]}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True)

    def forward(self, x):
        out, (h, _) = self.r(x[None])
        return out, h


class DecidesOnData(_Two):
    def forward(self, x):
        y = self.a(x)
        return self.b(y * 2) if y.sum() > 0 else self.b(y)


FAKE = (
    Checkpointed, CallsScript, CustomFunction, WritesThroughViews, MovingAverage, BranchesOnConstants, GradientInside,
    Vmapped, ListOfParameters, Attention, Closure, Gumbel, NumberOfWays, Recurrent,
)  # fmt: skip


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("cls", [*FAKE, DecidesOnData], ids=lambda c: c.__name__)
def test_graph_replays_to_the_models_output(cls, mode):
    model, x = cls(), torch.randn(4, 8)
    traced = trace(model, (x,), {}, mode=mode)
    assert traced.rung == ("recorder" if cls in FAKE else "real forward")
    model.train(mode == "train")
    again = copy.deepcopy(model)
    torch.manual_seed(1)
    wanted = model(x)
    torch.manual_seed(1)
    got = replay(traced.graph, again, [x])
    primary = primary_output(wanted)
    assert primary is not None
    assert worst_difference(got, wanted, primary) < 1e-5


@pytest.mark.parametrize("cls", [*FAKE, DecidesOnData], ids=lambda c: c.__name__)
def test_model_is_left_as_it_was(cls):
    model, x = cls(), torch.randn(4, 8)
    model.extra = nn.Linear(8, 8)
    called = []
    model.register_forward_hook(lambda *a: called.append(1))
    model.extra.weight.grad = gradient = torch.ones(8, 8)
    model.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    attributes, hooks = {k: id(v) for k, v in vars(model).items()}, dict(model._forward_hooks)
    random = torch.get_rng_state()
    traced = trace(model, (x,), {}, mode="train")
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert {k: id(v) for k, v in vars(model).items()} == attributes
    assert dict(model._forward_hooks) == hooks
    assert torch.equal(torch.get_rng_state(), random)
    assert model.extra.weight.grad is gradient
    assert not model.training
    assert not called
    assert any("hook" in note for note in traced.notes)
    assert model(x) is not None
    assert called


def test_weight_norms_and_spectral_norms():
    utils = nn.utils
    model = nn.Sequential(
        utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        utils.spectral_norm(nn.Linear(8, 8)),
        utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
        utils.parametrizations.orthogonal(nn.Linear(8, 8)),
    )
    traced = trace(model, (torch.randn(4, 8),), {})
    assert traced.rung == "recorder"
    assert "0.parametrizations.weight.original1" in traced.parameters


def test_nodes_know_module_source_and_values():
    model = BranchesOnConstants()
    traced = trace(model, (torch.randn(4, 8),), {})
    linear = [n for n in traced.graph.nodes if n.meta.get("op") == "linear"]
    assert [n.meta["module"] for n in linear] == ["a", "b"]
    assert linear[0].meta["modules"] == ("", "a")
    assert linear[0].meta["stack"][0].location.path == __file__
    weight = linear[0].args[1]
    assert weight.meta["parameter"] == "a.weight"
    setitem = next(n for n in traced.graph.nodes if n.meta.get("op") == "setitem")
    assert setitem.meta["inplace"]
    assert torch.equal(setitem.meta["value"].sum(1), torch.ones(4)), "a later write must not reach an earlier value"
    assert "value" not in linear[0].meta


def test_output_node_begins_with_the_primary_output():
    traced = trace(NumberOfWays(), (torch.randn(4, 8),), {})
    output = next(n for n in traced.graph.nodes if n.op == "output")
    assert output.args[0][0].meta["op"] == "mul"
    assert len(output.args[0]) == 3


def test_integer_inputs_are_data_but_steer():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.Embedding(10, 4)

        def forward(self, ids):
            if int(ids.max()) > 3:
                ids = ids.clamp(max=9)
            return self.e(ids)

    traced = trace(Model(), (torch.tensor([[1, 8]]),), {})
    clamp = next(n for n in traced.graph.nodes if n.meta.get("op") == "clamp")
    assert "value" not in clamp.meta


def test_tied_weights_are_aliases():
    model = _Two()
    model.b.weight = model.a.weight
    model.forward = lambda x: model.b(model.a(x))
    traced = trace(model, (torch.randn(2, 8),), {})
    assert traced.parameters["a.weight"].aliases == ("b.weight",)
    assert "b.weight" not in traced.parameters


def test_meta_model_traces_with_unknown_distributions():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    traced = trace(model, (torch.randn(2, 8),), {})
    assert traced.rung == "recorder"
    assert not traced.parameters["0.weight"].distribution.known


def test_compiled_and_wrapped_modules_are_seen_through():
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    traced = trace(nn.DataParallel(inner), (torch.randn(2, 8),), {})
    assert list(traced.parameters) == ["0.weight", "0.bias"]


def test_what_cannot_be_copied_is_shared():
    class Locked(_Two):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.extra = [self.a]

        def forward(self, x):
            with self.lock:
                return self.b(self.extra[0](x))

    traced = trace(Locked(), (torch.randn(2, 8),), {})
    assert traced.rung == "recorder"
    weights = [n.meta["parameter"] for n in traced.graph.nodes if "parameter" in n.meta]
    assert weights == ["a.weight", "a.bias", "b.weight", "b.bias"]


class Counting(nn.Module):
    """Reads the counter that its batch norm advances, as a number and as a tensor."""

    def __init__(self, momentum, view_first):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=momentum)
        self.view_first = view_first

    def forward(self, x):
        view = self.norm.num_batches_tracked.view(1) if self.view_first else None
        x = self.norm(x)
        x = self.norm(x)
        count = self.norm.num_batches_tracked if view is None else view[0]
        return x * count if float(count) == 2 else x


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("view_first", [False, True])
def test_counters_are_advanced_without_a_node_and_known_to_whoever_reads_them(momentum, view_first):
    model = Counting(momentum, view_first)
    graph = trace(model, (torch.randn(8, 4),), {}).graph
    (product,) = [node for node in graph.nodes if node.meta.get("op") == "mul"]
    assert int(product.args[1].meta["value"]) == 2
    assert int(model.norm.num_batches_tracked) == 0
    if momentum and not view_first:
        assert "add" not in [node.meta.get("op") for node in graph.nodes]
