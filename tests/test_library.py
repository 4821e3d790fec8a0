"""``initcheck.analyze`` on live models: what it says, and that it leaves no trace."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import initcheck


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 5)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cached = x
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))


def test_report_of_a_small_net() -> None:
    model = Small()
    report = initcheck.analyze(model, torch.randn(8, 3, 16, 16))
    assert [row.name for row in report.layers] == ["conv", "bn", "fc"]
    assert report.coverage == 1.0
    assert report.unknown_ops == {}
    assert report.findings == ()
    by_name = {row.name: row for row in report.layers}
    assert by_name["bn"].forward_std == pytest.approx(1.0, rel=0.01)
    assert by_name["fc"].grad_std == pytest.approx(1.0, rel=0.01)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["layers"][0]["name"] == "conv"


def test_the_model_is_left_exactly_as_it_was() -> None:
    """Weights, buffers, gradients, flags, hooks, attributes and generators: bit for bit."""
    model = Small()
    model.fc.eval()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(dict(model.state_dict()))
    gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    flags = [m.training for m in model.modules()]
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    attributes = set(vars(model))
    seen = model.calls
    state = torch.get_rng_state()
    initcheck.analyze(model, (torch.randn(2, 3, 8, 8, generator=torch.Generator()),))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(gradients[k], p.grad) for k, p in model.named_parameters() if p.grad is not None)
    assert [m.training for m in model.modules()] == flags
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert set(vars(model)) == attributes
    assert model.calls == seen
    assert calls == []


def test_example_inputs_in_every_form() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            return self.a(x) if scale is None else self.a(x * scale)

    x, scale = torch.randn(8, 4), torch.randn(8, 4)
    for inputs in (x, (x,), [x, scale], {"x": x, "scale": scale}, ((x,), {"scale": scale})):
        assert len(initcheck.analyze(Two(), inputs).layers) == 1


def test_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        initcheck.analyze("resnet50", torch.randn(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'train' or 'eval'"):
        initcheck.analyze(nn.Linear(2, 2), torch.randn(1, 2), mode="test")  # type: ignore[arg-type]


def test_inputs_that_do_not_fit_say_why() -> None:
    from initcheck.tracing.ladder import TraceError

    with pytest.raises(TraceError, match="shapes cannot be multiplied"):
        initcheck.analyze(nn.Linear(4, 2), torch.randn(3, 5))


def textbook(variance: float) -> nn.Module:
    """50 layers of 100 ReLU units, weights N(0, variance)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(50):
        layer = nn.Linear(100, 100)
        nn.init.normal_(layer.weight, 0.0, variance**0.5)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("variance", "expected"),
    [
        (0.001, {"IC202"}),
        (0.01, {"IC202"}),
        (0.02, set()),
        (0.1, {"IC203"}),
        (1.0, {"IC203"}),
    ],
)
def test_the_textbook_figure_forward_and_backward(variance: float, expected: set[str]) -> None:
    """σ'² = ½ · 100 · σ_Ω² · σ² per layer: × 0.05, 0.5, 1, 5, 50."""
    report = initcheck.analyze(textbook(variance), torch.randn(8, 100))
    assert {f.code for f in report.findings if f.severity >= initcheck.Severity.WARNING} == expected
    factor = 0.5 * 100 * variance
    first, last = report.layers[0], report.layers[-1]
    assert first.forward_std is not None
    assert last.forward_std is not None
    assert first.grad_std is not None
    assert last.grad_std is not None
    assert (last.forward_std / first.forward_std) ** (2 / 49) == pytest.approx(factor, rel=0.05)
    assert (first.grad_std / last.grad_std) ** (2 / 49) == pytest.approx(factor, rel=0.05)


def test_live_clones_are_seen() -> None:
    """``nn.TransformerEncoder`` copies its layer: the values are equal, whoever made them."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = initcheck.analyze(encoder, torch.randn(4, 8, 32)).findings
    assert [f.code for f in found if f.severity >= initcheck.Severity.WARNING] == ["IC109"]
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    again = initcheck.analyze(encoder, torch.randn(4, 8, 32)).findings
    assert [f.code for f in again if f.severity >= initcheck.Severity.WARNING] == []


def test_equal_tables_are_no_clones() -> None:
    """Blocks that each start with the same computed matrix, beside others drawn anew, were not copied."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(16, 16)
            self.value = nn.Linear(16, 16, bias=False)
            nn.init.eye_(self.value.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.value(torch.relu(self.mix(x)))

    report = initcheck.analyze(nn.Sequential(Block(), Block()), torch.randn(8, 16))
    assert [f.code for f in report.findings if f.severity >= initcheck.Severity.WARNING] == []
