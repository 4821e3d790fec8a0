"""IC201-IC205 and IC401: verdicts on nets whose fate is known, and silence on nets that train."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from live import audit, loud, mlp
from torch import nn

from initcheck.signal.propagate import propagate

torch.set_num_threads(1)
X = torch.randn(8, 32)
HUNDRED = torch.randn(8, 100)


def normal(std: float) -> object:
    return lambda weight: nn.init.normal_(weight, std=std)


@pytest.mark.parametrize(
    ("variance", "expected"),
    [
        (0.001, ["IC202"]),
        (0.01, ["IC202"]),
        (0.02, []),
        (0.1, ["IC203"]),
        (1.0, ["IC203"]),
    ],
)
def test_the_textbook_figure(variance: float, expected: list[str]) -> None:
    """Fifty ReLU layers of 100 units: vanishing, vanishing, stable, exploding, exploding; one line, one finding."""
    torch.manual_seed(0)
    findings = audit(mlp(50, 100, nn.ReLU, normal(math.sqrt(variance)), inputs=100), HUNDRED)
    assert loud(findings) == expected
    assert all(f.severity.label == "error" for f in findings)


@pytest.mark.parametrize(
    ("depth", "severities"), [(3, set()), (5, set()), (12, {"warning"}), (30, {"error"}), (50, {"error"})]
)
def test_torch_default_init_by_depth(depth: int, severities: set[str]) -> None:
    torch.manual_seed(0)
    findings = audit(mlp(depth, 100, nn.ReLU), X)
    assert {f.severity.label for f in findings if f.severity >= 1} == severities


def test_overflow_is_named() -> None:
    torch.manual_seed(0)
    findings = audit(mlp(60, 100, nn.ReLU, normal(1.0)), X)
    assert "more than float32 can hold" in next(f.message for f in findings if f.code == "IC203")


def test_evidence_is_a_chain_with_formula_and_numbers() -> None:
    torch.manual_seed(0)
    finding = next(f for f in audit(mlp(30, 100, nn.ReLU), X) if f.code == "IC202")
    lines = [e.text for e in finding.evidence]
    assert any("E[relu(z)^2] 0.5 x fan_in 100 x 0.058^2 = 0.17 of the second moment" in line for line in lines)
    assert any(line.startswith("...") for line in lines)
    assert len(lines) <= 7
    assert finding.data["layers"] == 30


class Residual(nn.Module):
    def __init__(self, blocks: int, *, norm: bool = False, scale: float = 1.0, zero_last: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(32, 64), nn.Linear(64, 10)
        self.fc1 = nn.ModuleList(nn.Linear(64, 64) for _ in range(blocks))
        self.fc2 = nn.ModuleList(nn.Linear(64, 64) for _ in range(blocks))
        self.norm = nn.ModuleList(nn.LayerNorm(64) if norm else nn.Identity() for _ in range(blocks))
        self.scale = scale
        for layer in (*self.fc1, *self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        if zero_last:
            for layer in self.fc2:
                nn.init.zeros_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, fc1, fc2 in zip(self.norm, self.fc1, self.fc2, strict=True):
            x = x + self.scale * fc2(F.relu(fc1(F.relu(norm(x)))))
        return self.head(x)


def test_residual_growth_is_one_finding() -> None:
    torch.manual_seed(0)
    findings = audit(Residual(40), X)
    assert loud(findings) == ["IC401"]
    assert "40 residual branches" in findings[0].message


class Rescaled(nn.Module):
    """Five small layers, each followed by a norm: scale does not matter (of thirty it does, as IC205 says)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(5):
            linear = nn.Linear(32, 32)
            nn.init.normal_(linear.weight, std=1e-3)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.LayerNorm(32, eps=1e-12), nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class ZeroHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(3, 64, nn.ReLU)
        self.head = nn.Linear(10, 4)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def orthogonal(gain: float) -> object:
    return lambda weight: nn.init.orthogonal_(weight, gain)


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(2, 64, nn.Tanh, orthogonal(math.sqrt(2)))
        self.head = nn.Linear(10, 4)
        nn.init.orthogonal_(self.head.weight, 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(x)))


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


TRAINS = {
    "LeNet, default init": (LeNet, torch.randn(4, 3, 32, 32)),
    "He, depth 50": (lambda: mlp(50, 100, nn.ReLU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")), X),
    "He by fan-out": (lambda: mlp(20, 100, nn.ReLU, lambda w: nn.init.kaiming_normal_(w, mode="fan_out")), X),
    "Xavier, depth 10, ReLU": (lambda: mlp(10, 100, nn.ReLU, nn.init.xavier_normal_), X),
    "Xavier with gain sqrt(2)": (lambda: mlp(20, 100, nn.ReLU, lambda w: nn.init.xavier_normal_(w, math.sqrt(2))), X),
    "Xavier, tanh, depth 30": (lambda: mlp(30, 100, nn.Tanh, nn.init.xavier_normal_), X),
    "orthogonal sqrt(2) before tanh": (lambda: mlp(10, 64, nn.Tanh, orthogonal(math.sqrt(2))), X),
    "policy with a small head": (Policy, X),
    "zero head": (ZeroHead, X),
    "small weights before norms": (Rescaled, X),
    "norm-free residual net of 8 blocks": (lambda: Residual(8), X),
    "residual net with norms": (lambda: Residual(40, norm=True), X),
    "scaled branches": (lambda: Residual(40, scale=40**-0.5), X),
    "zero last layers": (lambda: Residual(40, zero_last=True), X),
}


@pytest.mark.parametrize("name", TRAINS)
def test_what_trains_is_clean(name: str) -> None:
    torch.manual_seed(0)
    make, x = TRAINS[name]
    assert loud(audit(make(), x)) == []


def test_dropout_noise_is_no_signal() -> None:
    """Behind dropout even dead features differ from sample to sample; that must not pass for life."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5)]
    findings = audit(nn.Sequential(nn.Linear(32, 64), *layers, nn.Linear(64, 10)), X)
    assert loud(findings) == ["IC202"]
    assert findings[0].severity.label == "error"


def he(weight: torch.Tensor) -> object:
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def test_of_a_live_model_the_layers_that_do_it_are_named() -> None:
    """Nobody saw who wrote the weights: the one bad layer is told from the good ones by what it does."""
    torch.manual_seed(0)
    net = mlp(20, 64, nn.ReLU, he)
    with torch.no_grad():
        net[12].weight.mul_(1e5)
    findings = [f for f in audit(net, X) if f.severity >= 1]
    assert {f.parameter for f in findings} == {"12.weight"}
    assert all(f.data["layers"] == 1 for f in findings)


def test_units_that_never_fire_lose_the_input() -> None:
    torch.manual_seed(0)
    net = mlp(6, 64, nn.ReLU, he)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, -10.0)
    assert "error" in {f.severity.label for f in audit(net, X) if f.code == "IC202"}


def test_one_tiny_layer_is_harmless() -> None:
    """Its own gradient does not shrink, so it is the first to learn."""
    torch.manual_seed(0)
    net = mlp(20, 64, nn.ReLU, he)
    with torch.no_grad():
        net[12].weight.mul_(1e-6)
    assert loud(audit(net, X)) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_memory_that_nobody_wrote_in_a_live_model(value: float) -> None:
    torch.manual_seed(0)
    net = mlp(3, 64, nn.ReLU)
    with torch.no_grad():
        net[2].weight[3, 5] = value
    first = audit(net, X)[0]
    assert (first.code, first.parameter, first.severity.label) == ("IC101", "2.weight", "error")


def test_one_zero_layer_between_biased_ones_is_no_dead_net() -> None:
    """The zero layer gets a gradient at once, and after one step the input is back."""
    torch.manual_seed(0)
    net = mlp(3, 64, nn.ReLU)
    nn.init.zeros_(net[2].weight)
    assert not [f for f in audit(net, X) if f.severity.label == "error"]


class Embedded(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(50, 32), nn.RNN(32, 32, batch_first=True), nn.Linear(32, 10)
        nn.init.normal_(self.embed.weight, std=std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.embed(x))[0])


@pytest.mark.parametrize(("std", "expected"), [(1.0, set()), (1e4, {"embed.weight"})])
def test_a_table_of_embeddings_can_be_to_blame(std: float, expected: set[str]) -> None:
    torch.manual_seed(0)
    findings = [f for f in audit(Embedded(std), torch.randint(0, 50, (8, 12))) if f.severity >= 1]
    assert {f.parameter for f in findings if f.code.startswith("IC20")} == expected


class PlainRMSNorm(nn.Module):
    """As language models write it out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Tied(nn.Module):
    """A small language model whose head is its table of embeddings."""

    def __init__(self, std: float, norm: type[nn.Module] | None) -> None:
        super().__init__()
        make = norm or (lambda width: nn.Identity())
        self.shared, self.norms = nn.Embedding(400, 32), nn.ModuleList(make(32) for _ in range(4))
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(3))
        nn.init.normal_(self.shared.weight, std=std)
        self.embed, self.head = self.shared, nn.Linear(32, 400, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for norm, mlp_ in zip(self.norms, self.mlps, strict=False):
            x = x + mlp_(norm(x))
        return self.head(self.norms[-1](x))


@pytest.mark.parametrize(("norm", "code"), [(PlainRMSNorm, "IC208"), (nn.LayerNorm, "IC208"), (None, "IC205")])
def test_a_huge_tied_table_is_to_blame_by_each_of_its_names(norm: type[nn.Module] | None, code: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 400, (4, 12))
    assert not any(f.code == code for f in audit(Tied(0.1, norm), tokens))
    findings = [f for f in audit(Tied(1e4, norm), tokens) if f.severity >= 1]
    assert [(f.code, f.parameter) for f in findings] == [(code, "shared.weight")]


class ScreenReader(nn.Module):
    """A value net on a game's screen (Mnih et al. 2015), its two heads dueling (Wang et al. 2016)."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(),
        )  # fmt: skip
        self.value, self.advantage, self.divisor = nn.Linear(128, 1), nn.Linear(128, 6), divisor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.features(x / self.divisor)
        advantage = self.advantage(h)
        return self.value(h) + advantage - advantage.mean(1, keepdim=True)


def test_what_a_forward_divides_by_255_are_bytes() -> None:
    """Of N(0, 1) numbers such a net would see next to nothing; for bytes torch's default is good enough."""
    torch.manual_seed(0)
    assert loud(audit(ScreenReader(255.0), torch.randn(4, 4, 64, 64))) == []
    assert loud(audit(ScreenReader(2000.0), torch.randn(4, 4, 64, 64))) == ["IC202"]


def test_a_head_of_zeros_beside_another_is_no_dead_net() -> None:
    torch.manual_seed(0)
    net = ScreenReader(2000.0)
    nn.init.zeros_(net.advantage.weight)
    assert all(f.severity < 2 for f in audit(net, torch.randn(4, 4, 64, 64)))


def test_biased_branches_that_end_in_zeros_before_a_head_of_zeros_start_well() -> None:
    """Fixup with small biases: each layer learns in its turn, from the head backwards."""
    torch.manual_seed(0)
    net = mlp(9, 32, nn.ReLU, he)
    layers = [m for m in net if isinstance(m, nn.Linear)]

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layers[0](x)
            for first, second in zip(self.layers[1:-1:2], self.layers[2:-1:2], strict=True):
                x = x + second(torch.relu(first(torch.relu(x))))
            return self.layers[-1](x)

    for index, layer in enumerate(layers):
        nn.init.constant_(layer.bias, 0.01)
        if (index and index % 2 == 0) or index == len(layers) - 1:
            nn.init.zeros_(layer.weight)
    assert loud(audit(Branches(), X)) == []


def test_a_head_that_is_applied_to_several_maps_is_named_once() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
            self.head = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Conv2d(64, 64, 3), nn.ReLU())))
            for layer in self.head:
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return torch.cat([self.head(x).flatten(1), self.head(F.avg_pool2d(x, 2)).flatten(1)], 1)

    torch.manual_seed(0)
    assert [f.code for f in audit(Pyramid(), torch.randn(2, 3, 32, 32))].count("IC209") == 1


def test_a_constant_before_a_norm_comes_back_by_its_rounding() -> None:
    """In exact arithmetic the ReLUs behind it stay shut; as it is, the first steps of Adam bring the net back."""

    def net(dead: bool) -> nn.Sequential:
        torch.manual_seed(0)
        blocks = [(nn.Conv2d(a, 8, 3), nn.BatchNorm2d(8), nn.ReLU()) for a in (1, 8, 8)]
        if dead:
            nn.init.zeros_(blocks[1][0].weight)
        return nn.Sequential(*(layer for block in blocks for layer in block), nn.Conv2d(8, 1, 1))

    x = torch.randn(4, 1, 14, 14)
    assert loud(audit(net(False), x)) == []
    assert loud(audit(net(True), x)) == ["IC202", "IC701"]
    assert all(f.severity < 2 for f in audit(net(True), x))
    trained = net(True)
    steps = torch.optim.Adam(trained.parameters(), 1e-2)
    for _ in range(60):
        loss = (trained(x) - x[..., 3:-3, 3:-3]).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert loss.item() < 0.5


def test_a_huge_layer_before_a_norm_is_harmless() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(32, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    with torch.no_grad():
        net[3].weight.mul_(1e8)
    assert loud(audit(net, X)) == []


class WrittenNorm(nn.Module):
    """T5's norm: no module of torch's, x * rsqrt(mean(x²) + eps)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


@pytest.mark.parametrize(
    ("last", "looks"),
    [
        ([nn.Dropout(0.1)], 2),
        ([nn.Dropout(0.0)], 1),
        ([nn.LayerNorm(64), nn.Dropout(0.1)], 1),
        ([WrittenNorm(), nn.Dropout(0.1)], 1),
    ],
)
def test_a_second_look_only_where_noise_could_pass_for_a_signal(
    last: list[nn.Module], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return propagate(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("live.propagate", counted)
    monkeypatch.setattr("initcheck.signal.propagate.propagate", counted)
    assert loud(audit(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), *last, nn.Linear(64, 10)), X)) == []
    assert len(calls) == looks
