"""Models and inputs at the edge: defined results, never a silent 1.0, never a traceback."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import initcheck
from initcheck.results import Report


def analyze(model: nn.Module, *inputs: torch.Tensor) -> Report:
    report = initcheck.analyze(model, inputs)
    assert not any("defect" in note for note in report.notes)
    json.dumps(report.to_dict(), allow_nan=False)
    return report


def linear(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[0, 0] = value
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "-inf"])
def test_weights_that_are_no_numbers_are_no_scale(value: float) -> None:
    report = analyze(linear(value), torch.randn(4, 8))
    for row in report.layers:
        assert row.forward_std is None or not math.isfinite(row.forward_std)
    assert not [f for f in report.findings if f.code.startswith("IC2")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    full = analyze(model, torch.randn(8, 64))
    half = analyze(model.to(dtype), torch.randn(8, 64, dtype=dtype))
    for one, other in zip(full.layers, half.layers, strict=True):
        assert other.forward_std == pytest.approx(one.forward_std, rel=0.01)
        assert other.grad_std == pytest.approx(one.grad_std, rel=0.01)


def test_an_empty_batch() -> None:
    report = analyze(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(0, 8))
    assert all(row.forward_std is None or math.isfinite(row.forward_std) for row in report.layers)


def test_a_parameter_without_elements() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none, self.fc = nn.Parameter(torch.empty(0, 8)), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.cat([x, self.none]))

    report = analyze(Empty(), torch.randn(4, 8))
    assert {row.name: row.forward_std for row in report.layers}["fc"] != 1.0


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(x).abs())


def test_complex_numbers_are_unknown_and_named() -> None:
    report = analyze(Complex(), torch.randn(4, 8, dtype=torch.complex64))
    assert report.unknown_ops
    assert all(row.forward_std is None for row in report.layers)


def test_integer_inputs_without_an_embedding() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.float())

    (row,) = analyze(Counts(), torch.randint(0, 100, (16, 8))).layers
    assert row.forward_std is None or row.forward_std > 5  # numbers up to 99: never taken for N(0, 1)


@dataclasses.dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor


class Returning(nn.Module):
    def __init__(self, pack: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.fc, self.out, self.pack = nn.Linear(16, 16), nn.Linear(16, 16), pack

    def forward(self, x: torch.Tensor) -> object:
        return self.pack(self.out(torch.relu(self.fc(x))))


PACKS: dict[str, Callable[[torch.Tensor], object]] = {
    "dict": lambda y: {"features": y.detach(), "logits": y},
    "dataclass": lambda y: Output(None, y),
    "tuple": lambda y: (y, None, 3),
    "nested": lambda y: [{"a": (y,)}],
}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_every_kind_of_output_gets_the_gradient(pack: Callable[[torch.Tensor], object]) -> None:
    torch.manual_seed(0)
    plain = analyze(Returning(lambda y: y), torch.randn(8, 16))
    torch.manual_seed(0)
    packed = analyze(Returning(pack), torch.randn(8, 16))
    assert [row.grad_std for row in packed.layers] == pytest.approx([row.grad_std for row in plain.layers])


class Written(nn.Module):
    """The same arithmetic with in-place ops and writes through views, or without."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.fc, self.out, self.inplace = nn.Linear(32, 32), nn.Linear(32, 32), inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        if self.inplace:
            x.mul_(3.0).relu_()
            x.view(-1, 8, 4).add_(1.0)
        else:
            x = torch.relu(x * 3.0) + 1.0
        return self.out(x)


def test_in_place_ops_and_views_are_what_they_do() -> None:
    torch.manual_seed(0)
    model, x = Written(False), torch.randn(8, 32)
    other = Written(True)
    other.load_state_dict(model.state_dict())
    plain, inplace = analyze(model, x).layers[-1], analyze(other, x).layers[-1]
    assert inplace.forward_std == pytest.approx(plain.forward_std, rel=0.02)


def test_a_shared_module_counts_at_each_use() -> None:
    class Shared(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.fc, self.out, self.times = nn.Linear(64, 64, bias=False), nn.Linear(64, 64), times

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.times):
                x = torch.relu(self.fc(x))
            return self.out(x)

    once, thrice = (analyze(Shared(n), torch.randn(8, 64)).layers[-1].sample_std for n in (1, 3))
    assert once is not None
    assert thrice is not None
    assert thrice == pytest.approx(once / 6, rel=0.3)  # two more layers of 1/6 in the mean square


def test_a_scalar_output() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).square().mean()

    (row,) = analyze(Loss(), torch.randn(8, 16)).layers
    assert row.grad_std is not None
    assert 0 < row.grad_std < 0.2  # 2 y / 32


def test_no_parameters_at_all() -> None:
    report = analyze(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(4, 8))
    assert report.layers == ()
    assert report.parameters == 0


def test_no_tensor_comes_out() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> None:
            self.fc(x)

    (row,) = analyze(Nothing(), torch.randn(4, 8)).layers
    assert row.grad_std is None


def test_padding_that_only_a_maximum_reads_is_no_infinity() -> None:
    class Stem(nn.Module):
        def __init__(self, pad: tuple[int, ...]) -> None:
            super().__init__()
            self.conv, self.out, self.pad = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), pad

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padded = nn.functional.pad(torch.relu(self.conv(x)), self.pad, value=-math.inf)
            return self.out(nn.functional.max_pool2d(padded, 3, 2))

    torch.manual_seed(0)
    padded, bare, x = Stem((0, 1, 0, 1)), Stem((0, 0, 0, 0)), torch.randn(8, 3, 26, 26)
    bare.load_state_dict(padded.state_dict())
    row, other = analyze(padded, x).layers[-1], analyze(bare, x).layers[-1]
    assert row.forward_std == pytest.approx(other.forward_std, rel=0.01)
    assert row.grad_std == pytest.approx(other.grad_std, rel=0.01)
    first, without = analyze(padded, x).layers[0], analyze(bare, x).layers[0]
    assert without.grad_std is not None
    assert first.grad_std == pytest.approx(without.grad_std * 10 / 9, rel=0.02)  # 10 x 10 outputs against 9 x 9
