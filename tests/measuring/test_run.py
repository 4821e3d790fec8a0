from __future__ import annotations

import json
import math

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

import initcheck
from initcheck.init.suggest import suggest
from initcheck.measuring.errors import DeviceError, MeasureError
from initcheck.measuring.memory import free_memory, need_memory_for
from initcheck.measuring.run import measure_suggested
from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace
from initcheck.tracing.trace import Distribution, ParameterRecord


def fifty_layers(variance):
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(50) for m in (nn.Linear(100, 100), nn.ReLU())], nn.Linear(100, 10))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(variance))
            nn.init.zeros_(module.bias)
    return net


def test_measure_is_the_table_of_analyze_measured():
    model, x = fifty_layers(0.02), torch.randn(64, 100)
    predicted, measured = initcheck.analyze(model, (x,)), initcheck.measure(model, (x,), seeds=2)
    assert [row.name for row in measured.layers] == [row.name for row in predicted.layers]
    assert [row.kind for row in measured.layers] == [row.kind for row in predicted.layers]
    assert measured.rung == "real pass"
    assert measured.parameters == 102
    assert measured.inputs == "float32(64, 100)"
    first = measured.layers[0]
    assert first.forward_std == pytest.approx(predicted.layers[0].forward_std, rel=0.1)
    assert "standard error over 2 seeds" in measured.notes[-1]
    json.dumps(measured.to_dict())


MODELS = {
    "resnet18": (torchvision.models.resnet18, (torch.randn(4, 3, 64, 64),)),
    "resnet26": (lambda: timm.create_model("resnet26"), (torch.randn(4, 3, 64, 64),)),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=128, n_positions=32, use_cache=False)
        ),
        (torch.randint(0, 128, (4, 16)),),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2, enable_nested_tensor=False
        ),
        (torch.randn(4, 8, 64),),
    ),
    "lstm": (lambda: nn.LSTM(8, 16, batch_first=True), (torch.randn(4, 6, 8),)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_layers_in_the_same_order(name):
    make, args = MODELS[name]
    torch.manual_seed(0)
    model = make()
    predicted = propagate(trace(model, args, {})).layers
    measured = initcheck.measure(model, args).layers
    assert [row.name for row in measured] == [row.name for row in predicted]
    pairs = [(p.forward_std, m.forward_std) for p, m in zip(predicted, measured, strict=True) if p.forward_std]
    assert all(p == pytest.approx(m, rel=0.5) for p, m in pairs)


@pytest.mark.parametrize("variance", [0.001, 0.1])
def test_before_and_after_the_suggestion(variance):
    model, x = fifty_layers(variance), torch.randn(64, 100)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    traced = trace(model, (x,), {})
    signal = propagate(traced)
    measurement = measure_suggested(model, traced, signal, (x,), {}, seeds=2)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert measurement.changed == tuple(str(s) for s in suggest(traced, signal))
    assert len(measurement.rows) == 51
    last = measurement.rows[-2]
    assert last.measured_forward_std < 1e-20 or last.measured_forward_std > 1e10
    for row in measurement.rows[:-1]:  # ten outputs are too few to judge by
        assert row.predicted_forward_std == pytest.approx(row.measured_forward_std, rel=0.9)
        assert 0.3 < row.after_forward_std < 3
        assert 0.2 < row.after_grad_std / measurement.rows[-2].after_grad_std < 5
    assert measurement.rows[0].predicted_forward_std == pytest.approx(math.sqrt(100 * variance), rel=0.05)


def test_a_healthy_model_has_no_after():
    model, x = fifty_layers(0.02), torch.randn(16, 100)
    nn.init.kaiming_normal_(model[-1].weight, nonlinearity="linear")
    traced = trace(model, (x,), {})
    measurement = measure_suggested(model, traced, propagate(traced), (x,), {})
    assert measurement.changed == ()
    assert all(row.after_forward_std is None for row in measurement.rows)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 64))

    def forward(self, x):
        return self.net(x / 255.0)


def test_an_example_of_a_shape_is_measured_as_the_forward_reads_it():
    """Bytes, where it divides by 255: as they are predicted."""
    torch.manual_seed(0)
    model, x = Pixels(), torch.randn(16, 3, 8, 8)
    traced = trace(model, (x,), {})
    rows = measure_suggested(model, traced, propagate(traced), (x,), {}).rows
    assert all(row.predicted_forward_std == pytest.approx(row.measured_forward_std, rel=0.3) for row in rows)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        initcheck.measure(lambda x: x, torch.randn(2))
    with pytest.raises(DeviceError, match="available: cpu"):
        initcheck.measure(nn.Linear(2, 2), torch.randn(2, 2), device="npu")
    with pytest.raises(MeasureError, match="forward pass raised in the model itself: RuntimeError"):
        initcheck.measure(nn.Linear(2, 2), torch.randn(2, 3))


def test_a_model_that_cannot_fit_is_refused_before_it_is_drawn():
    def record(*shape):
        return ParameterRecord(
            "w", "", "Linear", "weight", shape, "float32", True, Distribution("normal", 0.0, 1.0)
        )  # fmt: skip

    if free_memory() is None:
        pytest.skip("this system does not tell its free memory")
    need_memory_for([record(100, 100)])
    with pytest.raises(MeasureError, match=r"a real pass needs about \d+\.\d GiB .* free: not measured"):
        need_memory_for([record(1_000_000, 1_000_000)])
