from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from initcheck.measuring.device import available_devices
from initcheck.measuring.errors import DeviceError, MeasureError
from initcheck.measuring.passes import measure_pass


def relu_net(width=64, depth=4):
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU(inplace=True))]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def snapshot(model):
    """All that a caller could notice."""
    return {
        "state": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "training": {n: m.training for n, m in model.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "identity": {n: id(p) for n, p in model.named_parameters()},
        "rng": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()),
    }


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    else:
        assert one == other


class Everything(nn.Module):
    """Batch norm, dropout, a frozen layer, a hook, a gradient, a module in eval mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.sn = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 4)
        self.head.weight.requires_grad_(False)
        self.bn.eval()
        self.calls = 0
        self.head.register_forward_hook(lambda m, i, o: None)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, x):
        x = self.drop(self.bn(self.conv(x)).relu()).mean((2, 3))
        return self.head(self.sn(x)) + np.random.rand() * 0 + random.random() * 0


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_of_the_caller_changes(mode):
    model = Everything()
    x = torch.randn(4, 3, 8, 8)
    before = snapshot(model)
    measured = measure_pass(model, (x,), {}, seeds=2, mode=mode)
    assert [row.name for row in measured.rows] == ["conv", "bn", "sn", "head"]
    assert measured.rows[2].kind == "Linear"
    assert_same(before, snapshot(model))


def test_nothing_changes_after_an_error_either():
    model = Everything()
    x = torch.randn(4, 5, 8, 8)
    before = snapshot(model)
    with pytest.raises(MeasureError, match=r"forward pass raised in conv: RuntimeError"):
        measure_pass(model, (x,), {})
    assert_same(before, snapshot(model))


def test_numbers_are_those_of_a_pass_by_hand():
    model, x = relu_net(), torch.randn(32, 64)
    measured = measure_pass(model, (x,), {})
    outputs, hand = [], copy.deepcopy(model)
    hidden = x
    for module in hand:
        hidden = torch.relu(hidden) if isinstance(module, nn.ReLU) else module(hidden)
        if isinstance(module, nn.Linear):
            hidden.retain_grad()
            outputs.append(hidden)
    with torch.random.fork_rng():
        hidden.backward(torch.randn(32, 10, generator=torch.Generator().manual_seed(0)))
    assert len(measured.rows) == 5
    for row, output in zip(measured.rows, outputs, strict=True):
        assert row.forward_mean == pytest.approx(float(output.detach().mean()), abs=1e-6)
        assert row.forward_std == pytest.approx(float(output.detach().std(correction=0)), rel=1e-5)
        assert row.sample_std == pytest.approx(float(output.detach().var(0).mean().sqrt()), rel=1e-5)
        assert row.grad_std == pytest.approx(float(output.grad.square().mean().sqrt()), rel=1e-5)
    assert measured.rows[0].weight_grad_std == pytest.approx(
        float(hand[0].weight.grad.square().mean().sqrt()), rel=1e-5
    )
    assert measured.rows[0].output_shape == (32, 64)


def test_the_gradient_is_that_of_the_output_before_an_in_place_activation():
    model = nn.Sequential(nn.Linear(8, 512, bias=False), nn.ReLU(inplace=True))
    (row,) = measure_pass(model, (torch.randn(64, 8),), {}).rows
    assert row.grad_std == pytest.approx(math.sqrt(0.5), abs=0.03)  # half of the units let it through
    assert row.forward_mean == pytest.approx(0, abs=0.05)  # not yet rectified


def test_dead_units_are_counted():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].bias[:4] = -100.0
    assert measure_pass(model, (torch.randn(64, 8),), {}).rows[0].dead_share == 0.25
    conv = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    with torch.no_grad():
        conv[0].bias[:8] = -100.0
    assert measure_pass(conv, (torch.randn(4, 3, 8, 8),), {}).rows[0].dead_share == 0.5


def test_seeds_average_and_tell_their_spread():
    model, x = relu_net(), torch.randn(16, 64)
    one, many = measure_pass(model, (x,), {}), measure_pass(model, (x,), {}, seeds=8)
    assert one.spread == {}
    assert all(0 < f < 0.2 and 0 < g < 0.2 for f, g in many.spread.values())
    for a, b in zip(one.rows, many.rows, strict=True):
        assert a.forward_std == pytest.approx(b.forward_std, rel=0.3)
    again = measure_pass(model, (x,), {}, seeds=8)
    assert again == many  # reproducible, whatever the generators' state


def test_tokens_stay_valid_in_later_seeds():
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 2))
    rows = measure_pass(model, (torch.tensor([[0, 1, 4], [2, 3, 3]]),), {}, seeds=5).rows
    assert [row.name for row in rows] == ["0", "1"]


def test_redraw_gives_each_seed_its_own_weights():
    model, x = relu_net(), torch.randn(256, 64)

    def redraw(copied, generator):
        for module in copied:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)

    before = copy.deepcopy(model.state_dict())
    measured = measure_pass(model, (x,), {}, seeds=4, redraw=redraw)
    assert_same(dict(before), dict(model.state_dict()))
    assert all(1.0 < row.forward_std < 2.0 for row in measured.rows)


def test_the_first_layer_that_is_not_finite_is_named():
    model = relu_net(depth=3)
    with torch.no_grad():
        model[2].weight.mul_(1e30)
        model[4].weight.mul_(1e30)
    measured = measure_pass(model, (torch.randn(4, 64),), {})
    assert measured.first_nonfinite == "4: inf"
    assert measured.notes == ("the forward pass is not finite from 4: inf on",)

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b((self.a(x) * 0 - 1).sqrt())

    assert measure_pass(Root(), (torch.randn(2, 4),), {}).first_nonfinite == "b: NaN"


def test_huge_and_tiny_scales_are_measured_not_lost():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    with torch.no_grad():
        model[0].weight.mul_(1e25)
        model[1].weight.mul_(1e-35)
    rows = measure_pass(model, (torch.randn(128, 64),), {}).rows
    assert rows[0].forward_std == pytest.approx(1e25 / math.sqrt(3), rel=0.2)
    assert 0 < rows[0].grad_std < 1e-33


def test_recurrent_attention_tied_shared_and_checkpointed_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 16)
            self.lstm = nn.LSTM(16, 16, batch_first=True)
            self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
            self.shared = nn.Linear(16, 16)
            self.head = nn.Linear(16, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            x, _ = self.lstm(self.embed(ids))
            x, _ = self.attn(x, x, x)
            x = torch.utils.checkpoint.checkpoint(self.shared, x, use_reentrant=False)
            return {"loss": x.sum(), "logits": self.head(self.shared(x))}

    rows = {r.name: r for r in measure_pass(Net(), (torch.randint(0, 20, (4, 7)),), {}).rows}
    assert list(rows) == ["embed", "lstm", "attn", "shared", "head"]
    assert all(row.grad_std is not None and row.grad_std > 0 for row in rows.values())
    assert rows["head"].grad_std == pytest.approx(1, abs=0.1)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_old_weight_norm_after_a_forward_can_be_copied():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU())
    x = torch.randn(8, 4)
    model(x)  # leaves a tensor with history behind, which deepcopy refuses
    before = model[0].weight
    (row,) = measure_pass(model, (x,), {}).rows
    assert model[0].weight is before
    assert row.forward_std > 0


def test_what_cannot_be_copied_is_refused():
    model = nn.Linear(2, 2)
    model.lock = __import__("threading").Lock()
    with pytest.raises(MeasureError, match=r"cannot be copied for a throw-away pass \(TypeError"):
        measure_pass(model, (torch.randn(1, 2),), {})


def test_out_of_memory_halves_the_batch_and_says_so():
    class Hungry(nn.Module):
        def __init__(self, limit):
            super().__init__()
            self.fc, self.limit = nn.Linear(4, 4), limit

        def forward(self, x):
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 TiB")
            return self.fc(x)

    measured = measure_pass(Hungry(4), (torch.randn(16, 4),), {})
    assert measured.notes == ("out of memory with a batch of 16: measured with 4",)
    assert measured.rows[0].output_shape == (4, 4)
    with pytest.raises(MeasureError, match="out of memory on cpu even with one sample"):
        measure_pass(Hungry(0), (torch.randn(16, 4),), {})


def test_bad_arguments():
    model, x = nn.Linear(2, 2), torch.randn(3, 2)
    with pytest.raises(DeviceError, match=r"device 'tpu' is not available; available: cpu"):
        measure_pass(model, (x,), {}, device="tpu")
    if "cuda" not in available_devices():
        with pytest.raises(DeviceError, match="device 'cuda' is not available"):
            measure_pass(model, (x,), {}, device="cuda")
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        measure_pass(model, (x,), {}, seeds=0)
    with pytest.raises(ValueError, match="mode must be"):
        measure_pass(model, (x,), {}, mode="test")


@pytest.mark.skipif("cuda" not in available_devices(), reason="no CUDA device here")
def test_cuda_agrees_with_cpu():
    model, x = relu_net(), torch.randn(64, 64)
    cpu, cuda = (measure_pass(model, (x,), {}, device=d) for d in ("cpu", "cuda"))
    for a, b in zip(cpu.rows, cuda.rows, strict=True):
        assert b.forward_std == pytest.approx(a.forward_std, rel=1e-3)
        assert b.grad_std == pytest.approx(a.grad_std, rel=1e-3)
