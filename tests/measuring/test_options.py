"""What ``measure`` can be told: seeds, data, precision, training; and what it says of bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_measure_pass import Everything, assert_same, snapshot
from torch import nn

import initcheck
from initcheck.measuring.data import as_batch, load_batches
from initcheck.measuring.errors import DataError
from initcheck.measuring.memory import fitting_batch
from initcheck.measuring.passes import measure_pass
from initcheck.tracing.ladder import trace


def deep(depth=12, width=64, act=nn.ReLU, gain=None):
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), act())], nn.Linear(width, 10))
    for module in net:
        if isinstance(module, nn.Linear) and gain is not None:
            nn.init.normal_(module.weight, std=gain / math.sqrt(width))
            nn.init.zeros_(module.bias)
    return net


def text(report, width=100):
    return report.measured_table(width)


def test_everything_at_once_leaves_the_caller_alone():
    model, x = Everything(), torch.randn(4, 3, 8, 8)
    before = snapshot(model)
    report = initcheck.measure(model, (x,), seeds=2, precision="bf16", train_steps=3)
    assert_same(before, snapshot(model))
    assert report.measured is not None
    assert report.measured.training[0].optimiser.startswith("SGD")


def test_one_table_with_what_lies_outside_marked():
    report = initcheck.measure(deep(30), torch.randn(64, 64), seeds=3)
    measured = report.measured
    assert measured is not None
    last = measured.rows[-2]
    assert "forward" in last.outside
    assert "gradient" in last.outside  # the gradient is judged against the middle of its range
    assert "gradient" in measured.rows[0].outside
    assert not any("gradient" in row.outside for row in measured.rows[14:16])
    assert not any(mark.startswith("after") for row in measured.rows for mark in row.outside)
    assert 0 < measured.rows[0].forward_error < 0.5
    assert last.sample_std < 1e-4
    assert 0.1 < last.dead_share < 0.9
    assert last.weight_gradient_ratio > 0
    shown = text(report)
    assert max(map(len, shown.splitlines())) <= 100
    assert "* outside [1/3, 3]" in shown
    assert "after: 31 parameters rewritten" in shown
    assert "±" in shown


def test_saturation_of_bounded_activations():
    report = initcheck.measure(deep(4, act=nn.Tanh, gain=10), torch.randn(64, 64))
    assert all(row.saturated_share > 0.7 for row in report.layers[:-1])
    assert report.layers[-1].saturated_share is None
    gentle = initcheck.measure(deep(4, act=nn.Tanh, gain=0.3), torch.randn(64, 64))
    assert all(row.saturated_share < 0.01 for row in gentle.layers[:-1])


def test_initial_loss_against_chance():
    good = initcheck.measure(deep(2), torch.randn(64, 64)).measured.loss
    assert good.classes == 10
    assert good.chance == pytest.approx(math.log(10))
    assert good.value == pytest.approx(good.chance, rel=0.1)
    wild = deep(2)
    with torch.no_grad():
        wild[-1].weight.mul_(300)
    report = initcheck.measure(wild, torch.randn(64, 64))
    assert report.measured.loss.value > 5
    assert "the logits start too large" in text(report)
    mirror = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 64))
    assert initcheck.measure(mirror, torch.randn(64, 64)).measured.loss is None  # an autoencoder, no classifier
    softmaxed = nn.Sequential(nn.Linear(8, 5), nn.Softmax(1))
    assert initcheck.measure(softmaxed, torch.randn(64, 8)).measured.loss.value == pytest.approx(math.log(5), rel=0.2)


@pytest.mark.parametrize(("gain", "direction"), [(0.05, "underflow"), (30.0, "overflow")])
def test_half_precision_shows_what_it_loses(gain, direction):
    measured = initcheck.measure(deep(gain=gain), torch.randn(32, 64), precision="fp16").measured
    first, last = measured.rows[0].precision_loss, measured.rows[-1].precision_loss
    assert getattr(last, f"forward_{direction}") > 0.5
    assert getattr(first, f"forward_{direction}") == 0
    after = measured.rows[-1].after_precision_loss
    assert after.worst < 0.01


def test_bf16_has_the_range_of_float32():
    measured = initcheck.measure(deep(gain=0.05), torch.randn(32, 64), precision="bf16").measured
    assert all(row.precision_loss.forward_underflow < 0.01 for row in measured.rows)


def test_training_tells_who_learns():
    """Torch's default in a net too deep for it: no optimiser gets anywhere; with the suggested init both do."""
    measured = initcheck.measure(deep(30), torch.randn(64, 64), train_steps=80).measured
    verdicts = {(run.init, run.optimiser.split()[0]): run.learns for run in measured.training}
    assert verdicts == {
        ("as given", "SGD"): False,
        ("as given", "Adam"): False,
        ("suggested", "SGD"): True,
        ("suggested", "Adam"): True,
    }
    assert measured.training[0].losses[0][0] == 1
    assert measured.training[0].losses[-1][0] == 80


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20)), torch.randint(0, 20, (4, 12))),
        (nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 16)), torch.randn(32, 16)),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
         torch.randn(8, 3, 12, 12)),
        (nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(8, 16)),
    ],
    ids=["tokens", "autoencoder", "images", "a number"],
)  # fmt: skip
def test_nets_of_every_kind_learn_their_task(model, inputs):
    runs = initcheck.measure(model, inputs, train_steps=150).measured.training
    assert any(run.learns for run in runs), runs


def loader_file(tmp_path, body):
    (tmp_path / "loaders.py").write_text(f"import torch\n\n\n{body}\n")
    return f"{tmp_path / 'loaders.py'}:batches"


def test_data_from_a_loader(tmp_path):
    data = loader_file(
        tmp_path, "def batches():\n    return [(torch.full((4, 64), 5.0 + i), torch.arange(4)) for i in range(3)]"
    )
    model = deep(2)
    report = initcheck.measure(model, data=data, seeds=3, train_steps=2)
    assert report.inputs == "float32(4, 64)"
    assert report.measured.loss.labels == "the data's"
    assert report.layers[0].sample_std == pytest.approx(0, abs=1e-6)  # every sample is the same
    variances = [float(model[0](torch.full((1, 64), 5.0 + i)).detach().var(correction=0)) for i in range(3)]
    assert report.layers[0].forward_std == pytest.approx(math.sqrt(sum(variances) / 3), rel=1e-4)
    assert "data float32(4, 64) mean 5 std 0" in text(report, 0)


def test_predictions_follow_the_data():
    x = 7 * torch.randn(64, 64)
    (row, *_) = initcheck.measure(deep(2), data=[x]).measured.rows
    assert row.predicted_forward_std == pytest.approx(row.measured_forward_std, rel=0.1)


def test_data_from_a_pt_file(tmp_path):
    torch.save({"x": torch.randn(4, 8), "labels": torch.tensor([0, 1, 0, 1])}, tmp_path / "batch.pt")

    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(x)

    report = initcheck.measure(Keyword(), data=str(tmp_path / "batch.pt"))
    assert report.measured.loss.labels == "the data's"


def test_targets_that_the_forward_takes_are_handed_on():
    class Gpt(nn.Module):
        def forward(self, idx, targets=None):
            return idx

    tokens, shifted = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)
    args, kwargs, target = as_batch(Gpt(), (tokens, shifted))
    assert len(args) == 1
    assert kwargs["targets"] is shifted
    assert target is shifted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def batches():\n    raise OSError('no disk')", r"batches raised OSError: no disk"),
        ("def other():\n    return []", r"defines no 'batches'"),
        ("batches = []", r"yields no batch"),
        ("batches = [3]", r"a batch of the data holds no tensor"),
        ("batches = [torch.randn(4, 63)]", r"the data does not fit the model: .*float32\(4, 63\)"),
    ],
)
def test_bad_data_is_named_and_the_weights_stay(tmp_path, body, message):
    model = deep(2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match=message):
        initcheck.measure(model, data=loader_file(tmp_path, body))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_data_that_is_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_batches(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(DataError, match="cannot be read as tensors"):
        load_batches(str(tmp_path / "text.pt"))
    with pytest.raises(DataError, match=r"expected FILE\.pt or FILE\.py:LOADER"):
        load_batches("data.csv")


def test_nan_names_the_layer_that_makes_it():
    bad_weight = deep(3)
    with torch.no_grad():
        bad_weight[2].weight[0, 0] = math.nan
    x = torch.randn(8, 64)
    assert measure_pass(bad_weight, (x,), {}).notes == (
        "the forward pass is not finite from 2: NaN on (its weight holds it)",
    )

    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b((self.a(x) * 0 - 1).sqrt())

    (note,) = measure_pass(Between(), (torch.randn(2, 4),), {}).notes
    assert note.endswith("from b: NaN on (already in its input: it arises after a)")

    class AtTheEnd(Between):
        def forward(self, x):
            return (self.b(self.a(x)) * 0 - 1).log()

    (note,) = measure_pass(AtTheEnd(), (torch.randn(2, 4),), {}).notes
    assert note == "the model's output is not finite, though every layer's is: it arises after b"
    x[0, 0] = math.nan
    assert "the inputs hold NaN or inf" in measure_pass(deep(2), (x,), {}).notes
    assert "nan" in text(initcheck.measure(bad_weight, torch.randn(8, 64)))


class ZeroSqrt(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b((self.a(x) * 0).abs().sqrt())


def test_a_gradient_that_is_not_finite_is_named():
    (note,) = measure_pass(ZeroSqrt(), (torch.randn(2, 4),), {}).notes
    assert note == "the gradient is not finite from a on back"


def test_the_batch_is_halved_before_the_memory_is_gone(monkeypatch):
    traced = trace(deep(3), (torch.randn(64, 64),), {})
    assert fitting_batch(traced, 64) == 64
    monkeypatch.setattr("initcheck.measuring.memory.free_memory", lambda: 200_000)
    assert fitting_batch(traced, 64) in (16, 32)
    monkeypatch.setattr("initcheck.measuring.memory.free_memory", lambda: 1)
    assert fitting_batch(traced, 64) == 1
    report = initcheck.measure(deep(3), torch.randn(64, 64))
    assert "a batch of 64 does not fit into memory: measured with 1" in report.notes


def test_a_report_without_measurement_has_no_table():
    assert initcheck.analyze(deep(1), (torch.randn(2, 64),)).measured_table() == ""


def test_options_are_checked():
    model, x = nn.Linear(2, 2), torch.randn(2, 2)
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'int8'"):
        initcheck.measure(model, x, precision="int8")
    with pytest.raises(ValueError, match="train_steps must not be negative"):
        initcheck.measure(model, x, train_steps=-1)
    with pytest.raises(ValueError, match="needs example_inputs or data"):
        initcheck.measure(model)


class OnlyFloat32(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        if x.dtype != torch.float32:
            raise RuntimeError("no kernel for this type")
        return x


def test_a_pass_that_cannot_be_made_in_low_precision_is_a_note():
    report = initcheck.measure(OnlyFloat32(), torch.randn(2, 4), precision="fp16")
    assert any("the passes in fp16 could not be made: the forward pass raised" in note for note in report.notes)
    assert report.layers[0].forward_std > 0


def test_progress_is_told():
    told = []
    initcheck.measure(deep(2), torch.randn(4, 64), seeds=2, train_steps=2, progress=lambda *step: told.append(step))
    assert ("as given", 2, 2) in told
    assert any(what.startswith("training as given") for what, _, _ in told)
