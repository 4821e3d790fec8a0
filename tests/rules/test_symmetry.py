"""IC701, IC702, IC704: which units are copies of one another for good, and which products are dead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from live import audit, loud, mlp
from torch import nn

from initcheck.findings import Severity
from initcheck.rules.symmetry import _Run
from initcheck.tracing.ladder import trace

torch.set_num_threads(1)
X = torch.randn(8, 32)


def filled(model: nn.Module, value: float, layers: tuple[int, ...] = (), bias: float | None = 0.0) -> nn.Module:
    """``model`` with the weights of these of its layers (none given: of all) set to ``value``."""
    found = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for index, layer in enumerate(found):
        if not layers or index in layers:
            nn.init.constant_(layer.weight, value)
            if bias is not None:
                nn.init.constant_(layer.bias, bias)
    return model


class LoRA(nn.Module):
    def __init__(self, zero_a: bool, zero_b: bool) -> None:
        super().__init__()
        self.base = nn.Linear(32, 32)
        self.a = nn.Linear(32, 4, bias=False)
        self.b = nn.Linear(4, 32, bias=False)
        self.head = nn.Linear(32, 10)
        if zero_a:
            nn.init.zeros_(self.a.weight)
        if zero_b:
            nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.base(x) + 2.0 * self.b(self.a(x))))


class MergedLoRA(nn.Module):
    def __init__(self, zero_a: bool, zero_b: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32) / 6)
        self.a = nn.Parameter(torch.randn(4, 32) * (not zero_a))
        self.b = nn.Parameter(torch.randn(32, 4) * (not zero_b))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(F.linear(x, self.weight + (self.b @ self.a) * 0.5)))


class ReZero(nn.Module):
    def __init__(self, zero_last: bool) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.gate = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(32, 10)
        if zero_last:
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.gate * self.fc2(F.relu(self.fc1(x))))


class Gated(nn.Module):
    def __init__(self, zero_a: bool, zero_b: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        for layer, zero in ((self.a, zero_a), (self.b, zero_b)):
            if zero:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.a(x) * self.b(x))


class Attention(nn.Module):
    def __init__(self, zero_q: bool, zero_k: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(32, n) for n in (32, 32, 32, 10))
        for layer, zero in ((self.q, zero_q), (self.k, zero_k)):
            if zero:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2, self.head = (
            nn.Conv2d(3, 16, 3),
            nn.Linear(16, 8),
            nn.Linear(8, 16),
            nn.Linear(16, 10),
        )
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


def normalised(*, zero_conv: bool = False, zero_norm: bool = False) -> nn.Module:
    """A convolution, a norm layer and a ReLU in a row."""
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    if zero_conv:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    if zero_norm:
        nn.init.zeros_(norm.weight)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10))


class ZeroGamma(nn.Module):
    def __init__(self, zero_conv: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.bn1, self.bn2, self.head = nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.Linear(16, 10)
        nn.init.zeros_(self.bn2.weight)
        if zero_conv:
            nn.init.zeros_(self.conv2.weight)
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.head(F.relu(x + self.bn2(self.conv2(x))).mean((2, 3)))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 10)
    )


IMAGE = torch.randn(4, 3, 16, 16)
SEQUENCE = torch.randn(4, 7, 32)

FOUND: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, str, str]] = {
    "every weight zero": (lambda: filled(mlp(2, 64, nn.ReLU), 0.0), X, "IC701", "error"),
    "every weight zero, random biases": (lambda: filled(mlp(2, 64, nn.ReLU), 0.0, bias=None), X, "IC701", "error"),
    "one hidden layer dead behind ReLU": (lambda: filled(mlp(3, 64, nn.ReLU), 0.0, (1,)), X, "IC701", "error"),
    "one hidden layer zero, tanh": (lambda: filled(mlp(2, 64, nn.Tanh), 0.0, (0,)), X, "IC701", "warning"),
    "every weight the same": (lambda: filled(mlp(2, 64, nn.ReLU), 0.1), X, "IC702", "error"),
    "every weight the same, tanh": (lambda: filled(mlp(2, 64, nn.Tanh), 0.1), X, "IC702", "error"),
    "one hidden layer the same": (lambda: filled(mlp(3, 64, nn.ReLU), 0.1, (1,)), X, "IC702", "warning"),
    "constant convolutions": (lambda: filled(conv_net(), 0.01), IMAGE, "IC702", "error"),
    "LoRA, both zero": (lambda: LoRA(True, True), X, "IC704", "error"),
    "merged LoRA, both zero": (lambda: MergedLoRA(True, True), X, "IC704", "error"),
    "zero gate on a zero branch": (lambda: ReZero(zero_last=True), X, "IC704", "error"),
    "zero gamma on a zero convolution": (lambda: ZeroGamma(zero_conv=True), IMAGE, "IC704", "error"),
    "zero in front of norm and ReLU": (lambda: normalised(zero_conv=True), IMAGE, "IC701", "error"),
    "a zero norm in front of ReLU": (lambda: normalised(zero_norm=True), IMAGE, "IC705", "error"),
    "two zero factors": (lambda: Gated(True, True), X, "IC704", "error"),
    "query and key zero": (lambda: Attention(True, True), SEQUENCE, "IC704", "error"),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    make, x, code, severity = FOUND[name]
    assert [(f.code, f.severity.label) for f in audit(make(), x)] == [(code, severity)]


QUIET: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "random": (lambda: mlp(2, 64, nn.ReLU), X),
    "a zero head": (lambda: filled(mlp(2, 64, nn.ReLU), 0.0, (2,)), X),
    "a constant head": (lambda: filled(mlp(2, 64, nn.ReLU), 0.1, (2,)), X),
    "LoRA": (lambda: LoRA(False, True), X),
    "LoRA the other way round": (lambda: LoRA(True, False), X),
    "merged LoRA": (lambda: MergedLoRA(False, True), X),
    "ReZero": (lambda: ReZero(zero_last=False), X),
    "one zero factor": (lambda: Gated(True, False), X),
    "zero queries": (lambda: Attention(True, False), SEQUENCE),
    "a zero gate layer": (SqueezeExcite, IMAGE),
    "zero gamma": (ZeroGamma, IMAGE),
}


@pytest.mark.parametrize("name", QUIET)
def test_stays_quiet(name: str) -> None:
    make, x = QUIET[name]
    assert audit(make(), x) == []


def test_copies_really_stay_copies_and_random_units_do_not() -> None:
    """What IC702 claims, tried: after twenty steps the rows of the hidden layer are still equal."""
    torch.manual_seed(0)
    model = filled(mlp(2, 16, nn.Tanh), 0.1)
    x, y = torch.randn(64, 32), torch.randint(0, 10, (64,))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    weight = model[0].weight.detach()
    assert float((weight - weight[:1]).abs().max()) < 1e-5
    assert float(weight.std()) > 1e-3


class WrittenGELU(nn.Module):
    """The tanh approximation, written out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


@pytest.mark.parametrize(("value", "code"), [(0.0, "IC701"), (0.02, "IC702")])
def test_an_activation_that_is_written_out_hides_no_equal_units(value: float, code: str) -> None:
    written = nn.Sequential(nn.Linear(32, 16), WrittenGELU(), nn.Linear(16, 16), WrittenGELU(), nn.Linear(16, 4))
    own = nn.Sequential(nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))
    said = [[(f.code, f.severity, f.parameter) for f in audit(filled(m, value, (1,)), X)] for m in (written, own)]
    assert said[0] == said[1]
    assert [c for c, *_ in said[0]] == [code]


def test_a_gate_of_two_halves_is_no_activation() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(32, 16), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.fc(x).chunk(2, -1)
            return self.out(a * torch.sigmoid(b))

    assert "IC702" not in {f.code for f in audit(filled(Gated(), 0.02, (0,), None), X)}


@pytest.mark.parametrize(("drawn", "severity"), [(True, Severity.WARNING), (False, Severity.ERROR)])
def test_norm_weights_that_are_drawn_tell_units_apart(drawn: bool, severity: Severity) -> None:
    """DCGAN's N(1, 0.02): each unit has a scale, and with it a gradient, of its own."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(3)]
    net = filled(nn.Sequential(*blocks, nn.Linear(32, 4)), 0.02)
    for block in blocks if drawn else ():
        nn.init.normal_(block[1].weight, 1.0, 0.02)
    said = [f for f in audit(net, X) if f.code == "IC702"]
    assert {f.severity for f in said} == {severity}
    before = net[1][0].weight.detach().clone()
    for _ in range(3):
        net.zero_grad()
        (net(X) - torch.randn(8, 4)).square().mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None and p.grad.abs().max() > 0:
                    p.sub_(0.05 * p.grad / p.grad.abs().max())
    after = net[1][0].weight.detach()
    assert not torch.equal(before, after)
    assert (float((after - after[:1]).abs().max()) > 1e-5) is drawn


class Twins(nn.Module):
    """|f(a) - f(b)| of one net: zero, with slope zero, where f is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = (
            nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8), nn.Sigmoid()),
            nn.Linear(8, 1),
        )

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head(torch.abs(self.net(a) - self.net(b)))


def test_twins_that_end_in_a_zero_layer_never_learn() -> None:
    torch.manual_seed(0)
    assert "IC701" not in {f.code for f in audit(Twins(), X, X + 1)}
    net = Twins()
    nn.init.zeros_(net.net[2].weight)
    said = [f for f in audit(net, X, X + 1) if f.code == "IC701"]
    assert [(f.parameter, f.severity) for f in said] == [("net.2.weight", Severity.ERROR)]
    net(X, X + 1).sum().backward()
    assert all(not p.grad.any() for p in net.net.parameters() if p.grad is not None)


class Standardised(nn.Module):
    """NFNet's branch: a convolution of standardised weights, and a gain that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Linear(32, 16), nn.Conv1d(16, 16, 1, bias=False), nn.Linear(16, 4)
        self.last, self.gain = nn.Conv1d(16, 16, 1, bias=False), nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        weight = F.batch_norm(self.conv.weight.reshape(1, 16, -1), None, None, training=True)
        branch = F.silu(F.conv1d(x.unsqueeze(-1), weight.reshape_as(self.conv.weight)))
        branch = F.conv1d(branch, self.last.weight * 2.0).squeeze(-1)
        return self.head(torch.relu(x + branch * self.gain))


def test_standardised_weights_of_zero_are_zero() -> None:
    torch.manual_seed(0)
    assert "IC704" not in {f.code for f in audit(Standardised(), X)}
    net = Standardised()
    nn.init.zeros_(net.conv.weight)
    assert "IC704" in {f.code for f in audit(net, X)}
    net(X).sum().backward()
    assert net.gain.grad is not None
    assert net.conv.weight.grad is not None
    assert not net.gain.grad.any()
    assert not net.conv.weight.grad.any()


class Gained(nn.Module):
    """NF-Net's branch as timm has it: the last weight is its direction times a gain that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Linear(32, 16), nn.Conv1d(16, 16, 1, bias=False), nn.Linear(16, 4)
        self.last, self.gain = nn.Conv1d(16, 16, 1, bias=False), nn.Parameter(torch.zeros(16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        direction, gain = self.last.weight.reshape(1, 16, -1), (self.gain * 0.5).view(-1)
        weight = F.batch_norm(direction, None, None, weight=gain, training=True).reshape_as(self.last.weight)
        branch = F.conv1d(F.silu(self.conv(x.unsqueeze(-1))), weight).squeeze(-1)
        return self.head(torch.relu(x + branch))


def test_a_zero_gain_of_a_computed_weight_makes_a_dead_product() -> None:
    torch.manual_seed(0)
    assert loud(audit(Gained(), X)) == []
    net = Gained()
    nn.init.zeros_(net.conv.weight)
    assert [(f.code, f.parameter) for f in audit(net, X)] == [("IC704", "conv.weight")]
    net(X).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in (net.gain, net.conv.weight, net.last.weight))


class GatedEnd(nn.Module):
    """A branch whose last norm starts at zero, squeezed and excited behind it, where a ReLU then stands at zero."""

    def __init__(self, *, around: bool) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv1d(32, 16, 1), nn.Conv1d(16, 16, 1), nn.BatchNorm1d(16)
        self.down, self.up, self.head = nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 4)
        self.around = around
        nn.init.zeros_(self.norm.weight)
        nn.init.constant_(self.down.weight, 0.1)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.unsqueeze(-1))
        branch = self.norm(self.conv(F.silu(x)))
        gate = self.up(torch.relu(self.down(branch.mean(-1)))).unsqueeze(-1)
        x = x + (branch * torch.sigmoid(gate) if self.around else gate)
        return self.head(x.mean(-1))


@pytest.mark.parametrize("around", [True, False])
def test_a_relu_at_zero_opens_with_what_makes_its_input_zero(around: bool) -> None:
    """The norm moves where the branch goes around the gate as well, and the gate's layers with it."""
    torch.manual_seed(0)
    net = GatedEnd(around=around)
    errors = [f.parameter for f in audit(net, X) if f.severity >= 2]
    assert errors == ([] if around else ["down.weight"])
    steps = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(20):
        x = torch.randn_like(X)  # whether a unit opens is each batch's luck
        net(x).square().sum().backward()
        steps.step()
        steps.zero_grad()
    assert bool(net.down.weight.isfinite().all())
    assert bool((net.down.weight != 0.1).any()) is around


def test_arguments_of_any_kind_do_no_harm() -> None:
    """wav2vec2 and HuBERT hand numpy's arrays (masks of time steps) to torch's functions."""
    model = filled(mlp(2, 16, nn.ReLU), 0.1, (1,))
    record = trace(model, (X,), {})
    first = next(node for node in record.graph.nodes if node.op == "call_function")
    with record.graph.inserting_before(first):
        node = record.graph.call_function(torch.as_tensor, (np.ones(3),))
        node.meta.update(op="as_tensor", val=torch.ones(3))
    assert _Run(record).result().layers


class Conv1D(nn.Module):
    """GPT-2's layer: the weight stands the other way round, and the bias comes first, torch.addmm(b, x, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


@pytest.mark.parametrize(("value", "codes"), [(0.0, ["IC701"]), (0.02, ["IC702"]), (None, [])])
def test_a_layer_by_addmm_is_a_layer(value: float | None, codes: list[str]) -> None:
    layers = [Conv1D(32, 16), nn.GELU(), Conv1D(16, 16), nn.GELU(), Conv1D(16, 4)]
    if value is not None:
        nn.init.constant_(layers[2].weight, value)
    assert [f.code for f in audit(nn.Sequential(*layers), X)] == codes
