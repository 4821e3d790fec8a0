"""Who wrote each parameter, and what it ended up as, beside the same model built for real."""

from __future__ import annotations

import copy
import math
import resource
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.init import trunc_normal_ as saved_reference

from initcheck.tracing.build import BuildError, build
from initcheck.tracing.ladder import trace
from initcheck.tracing.live import measured

D = 300  # D x D is large enough to be put down instead of written


def _records(constructor):
    built = build(constructor)
    return built, built.log.parameters(built.model)


def _parameter(make):
    def constructor():
        model = nn.Module()
        model.p = nn.Parameter(make())
        return model

    return constructor


WAYS = {
    "randn": lambda n: torch.randn(n, n) * 0.02,
    "rand": lambda n: 2 * torch.rand(n, n) - 1,
    "uniform": lambda n: torch.empty(n, n).uniform_(-0.1, 0.3),
    "normal_mul": lambda n: torch.empty(n, n).normal_(0, 0.5).mul_(3).add_(1),
    "abs_clamp": lambda n: torch.randn(n, n).abs().clamp(0, 1),
    "zeros_part": lambda n: torch.cat([torch.randn(n, n), torch.zeros(n, n)]),
    "eye": lambda n: torch.eye(n),
    "transposed": lambda n: torch.randn(n, n).t().contiguous(),
    "trunc": lambda n: nn.init.trunc_normal_(torch.empty(n, n), std=1.0, a=-1.0, b=2.0),
    "trunc_saved": lambda n: saved_reference(torch.empty(n, n), std=0.02),
    "orthogonal": lambda n: nn.init.orthogonal_(torch.empty(n, 2 * n), gain=2.0),
    "orthogonal_tall": lambda n: nn.init.orthogonal_(torch.empty(2 * n, n)),
    "sparse": lambda n: nn.init.sparse_(torch.empty(n, n), 0.9, std=1.0),
    "eye_": lambda n: nn.init.eye_(torch.empty(n, 2 * n)),
    "dirac": lambda n: nn.init.dirac_(torch.empty(n, n // 10, 3)),
    "xavier": lambda n: nn.init.xavier_normal_(torch.empty(n, 2 * n), gain=1.5),
    "kaiming": lambda n: nn.init.kaiming_uniform_(torch.empty(n, n, 3), mode="fan_out", nonlinearity="relu"),
    "kaiming_a": lambda n: nn.init.kaiming_normal_(torch.empty(n, n), a=math.sqrt(5)),
    "erfinv": lambda n: torch.empty(n, n).uniform_(-0.95, 0.95).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-2, 2),
    "half": lambda n: torch.randn(n, n).mul(0.1).half(),
    "linspace": lambda n: torch.linspace(0, 1, n * n),
}


@pytest.mark.parametrize("size", [30, D])
@pytest.mark.parametrize("way", WAYS)
def test_distribution_agrees_with_a_real_tensor(way, size):
    built, records = _records(_parameter(lambda: WAYS[way](size)))
    got = records["p"].distribution
    real = measured(torch.cat([WAYS[way](size).float().flatten() for _ in range(1 if size == D else 40)]))
    assert got.known
    scale = max(real.std, abs(real.mean), 1e-6)
    noise = 6 / math.sqrt(size * size)  # small ones may be measured from one draw
    assert got.mean == pytest.approx(real.mean, abs=noise * scale)
    assert got.std == pytest.approx(real.std, rel=noise, abs=1e-6)
    replayed = measured(built.materialise().p)
    assert replayed.std == pytest.approx(got.std, rel=noise, abs=1e-6)


def layer_init(layer, std=2**0.5):
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = layer_init(nn.Linear(D, D))
        self.fc2 = nn.Linear(D, 10)
        self.plain = nn.Linear(10, 10)
        nn.init.xavier_uniform(self.plain.weight)
        self.fc2.reset_parameters()
        self.clones = nn.ModuleList([copy.deepcopy(self.plain) for _ in range(2)])
        self.clones[1].reset_parameters()
        self.never = nn.Parameter(torch.Tensor(5, D))
        self.rows = nn.Parameter(torch.empty(4, 3))
        for i in range(4):
            self.rows.data[i].normal_()
        self.part = nn.Parameter(torch.empty(4, 3))
        self.part.data[:2] = torch.randn(2, 3)
        self.same = nn.Parameter(torch.ones(D, D) * 0.5)


def test_history_origin_and_places():
    _, records = _records(Net)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()

    def text(location):
        return lines[location.line - 1][location.column - 1 : location.end_column - 1]

    weight = records["fc1.weight"]
    assert [(w.function, w.origin) for w in weight.writes] == [("kaiming_uniform_", "default"), ("orthogonal_", "user")]
    assert weight.writes[1].arguments == {"gain": 2**0.5}
    assert text(weight.writes[1].stack[0].location) == "nn.init.orthogonal_(layer.weight, std)"
    assert weight.writes[1].stack[0].function == "layer_init"
    assert text(weight.writes[1].stack[1].location) == "layer_init(nn.Linear(D, D))"
    assert weight.distribution.std == pytest.approx(math.sqrt(2 / D))
    assert [w.origin for w in records["fc2.weight"].writes] == ["default", "user"]
    assert [w.function for w in records["plain.weight"].writes][-1] == "xavier_uniform"
    assert records["clones.0.weight"].clone_of == "plain.weight"
    assert records["clones.1.weight"].clone_of == ""
    assert records["never"].distribution.kind == "uninitialised"
    assert records["never"].writes == ()
    assert records["rows"].distribution.known
    assert records["part"].distribution.kind == "uninitialised"
    assert "part" in records["part"].distribution.note
    assert records["same"].equal_rows
    assert records["same"].equal_columns
    assert not weight.equal_rows


def test_init_functions_are_restored_and_the_generator_is_not_moved():
    code, random = nn.init.orthogonal_.__code__, torch.get_rng_state()
    resolve = socket.getaddrinfo
    _records(Net)
    with pytest.raises(BuildError):
        build(lambda: 1 / 0)
    assert nn.init.orthogonal_.__code__ is code
    assert torch.equal(torch.get_rng_state(), random)
    assert socket.getaddrinfo is resolve
    assert "connect" not in vars(socket.socket)
    assert nn.init.orthogonal_(torch.empty(3, 3)).std() > 0


@pytest.mark.parametrize(
    ("constructor", "says"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: (_ for _ in ()).throw(SystemExit(2)), "sys.exit"),
        (lambda: 3, "int"),
        (lambda: socket.create_connection(("localhost", 9)), "network"),
    ],
)
def test_build_errors_are_one_line(constructor, says):
    with pytest.raises(BuildError, match=says) as caught:
        build(constructor)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_are_left_out_and_said():
    def constructor():
        model = nn.Linear(2, 2)
        state = torch.hub.load_state_dict_from_url("https://example.org/w.pth")
        state.pop("head.weight")
        model.load_state_dict(dict(state["model"]))
        return model

    built = build(constructor)
    assert built.log.notes == ["pretrained weights were not loaded"]
    traced = trace(built.model, (torch.randn(2, 2),), {}, log=built.log)
    assert "pretrained weights were not loaded" in traced.notes


def test_seven_billion_parameters_take_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def constructor():
        return nn.Sequential(*[nn.Linear(16384, 16384) for _ in range(26)])

    built, records = _records(constructor)
    assert records["0.weight"].distribution.std == pytest.approx(1 / math.sqrt(3 * 16384))
    traced = trace(built.model, (torch.randn(2, 16384),), {}, log=built.log)
    assert traced.rung == "recorder"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000, "kilobytes"


def test_lazy_modules_take_their_shapes_from_the_inputs():
    built = build(lambda: nn.Sequential(nn.LazyLinear(D), nn.ReLU(), nn.Linear(D, 2)))
    traced = trace(built.model, (torch.randn(2, 5),), {}, log=built.log)
    record = traced.parameters["0.weight"]
    assert record.shape == (D, 5)
    assert [(w.function, w.origin) for w in record.writes] == [("kaiming_uniform_", "default")]


def test_tables_are_real_whatever_their_size():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(D, D) * 2)
            self.big = torch.zeros(3000, 3000)
            self.fc = nn.Linear(D, D)

        def forward(self, x):
            x = self.fc(x) if self.mask.mean() == 2 else x
            return x @ self.mask + self.big[:2, :D]

    built = build(Model)
    traced = trace(built.model, (torch.randn(2, D),), {}, log=built.log)
    assert traced.rung == "recorder"
    assert traced.buffers["mask"].mean == 2
    assert any(n.meta.get("op") == "linear" for n in traced.graph.nodes)
    mask = next(n for n in traced.graph.nodes if n.meta.get("buffer") == "mask")
    assert mask.meta["value"].mean() == 2
