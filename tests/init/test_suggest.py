"""The suggested initialisation: brings unhealthy nets into band, measured for real, and leaves healthy ones alone."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torchvision
import transformers
from nets import UNHEALTHY, NormFreeResNet, PreActivationMLP, cnn, mlp
from torch import nn

from initcheck.init import apply, suggest
from initcheck.init.distributions import with_suggestions
from initcheck.init.structure import analyse
from initcheck.measuring.passes import measure_pass
from initcheck.signal.propagate import propagate
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace


def suggested(model, *args, everything=False, **kwargs):
    traced = trace(model, args, kwargs)
    return {s.parameter: s for s in suggest(traced, propagate(traced), everything=everything)}


def hidden_rows(model, x):
    """Measured rows of all layers but the output, and the names of the last layers of residual branches."""
    structure = analyse(trace(model, (x,), {}))
    outputs = {use.node.meta["module"] for use in structure.uses if use.feeds == "output"}
    last = {branch.last.rpartition(".")[0] for branch in structure.branches}
    return [row for row in measure_pass(model, (x,), {}).rows if row.name not in outputs], last


def in_band(model, x):
    """(smallest, largest forward std; smallest, largest gradient energy, as a std, against the middle of its range)."""
    rows, last = hidden_rows(model, x)
    forward = [row.forward_std for row in rows if row.name not in last]
    energy = [row.grad_std * math.sqrt(math.prod(row.output_shape[1:])) for row in rows]
    middle = math.sqrt(min(energy) * max(energy))
    return min(forward), max(forward), min(energy) / middle, max(energy) / middle


SLOW = [name for name in UNHEALTHY if "40 blocks" in name or "60 blocks" in name or "100 layers" in name]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in UNHEALTHY])
def test_unhealthy_nets_come_into_band_measured(name):
    make, shape = UNHEALTHY[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    before = in_band(model, x)
    assert before[0] < 1 / 3 or before[1] > 3 or before[2] < 1 / 3 or before[3] > 3
    changes = apply(model, "suggested", x)
    assert changes
    low, high, least, most = in_band(model, x)
    assert low >= 1 / 3
    assert high <= 3
    assert least >= 1 / 3
    assert most <= 3


@pytest.mark.parametrize("name", ["50x100, variance 0.001", "norm-free residual MLP", "tanh MLP, 20 layers"])
def test_the_suggestions_alone_are_healthy_as_predicted(name):
    """Without looking at data: the propagated signal of the suggested distributions."""
    make, shape = UNHEALTHY[name]
    traced = trace(make(), (torch.randn(shape),), {})
    signal = propagate(traced)
    after = propagate(with_suggestions(traced, suggest(traced, signal)))
    assert all(1 / 3 <= row.forward_std <= 3 for row in after.layers[:-1] if "down" not in row.name)


def test_standard_names_are_preferred():
    relu = suggested(mlp(30, 128, nn.ReLU), torch.randn(8, 128))
    assert {(s.function, s.arguments) for name, s in relu.items() if name != "60.weight"} == {
        ("kaiming_normal_", (("nonlinearity", "'relu'"),))
    }
    assert relu["60.weight"].arguments == (("nonlinearity", "'linear'"),)
    selu = suggested(mlp(30, 128, nn.SELU), torch.randn(8, 128))
    assert {s.arguments for s in selu.values()} == {(("nonlinearity", "'linear'"),)}
    leaky = suggested(mlp(30, 128, lambda: nn.LeakyReLU(0.2)), torch.randn(8, 128))
    assert leaky["2.weight"].arguments == (("a", "0.2"), ("nonlinearity", "'leaky_relu'"))
    assert str(leaky["2.weight"]) == "kaiming_normal_(2.weight, a=0.2, nonlinearity='leaky_relu')"


def test_what_torch_says_of_a_suggestion_is_its_std():
    for make, shape in (UNHEALTHY["GELU CNN"], UNHEALTHY["U-Net without norm"]):
        model = make()
        for name, suggestion in suggested(model, torch.randn(shape)).items():
            tensor = torch.empty_like(model.get_parameter(name))
            arguments = {key: eval(text) for key, text in suggestion.arguments}
            getattr(nn.init, suggestion.function)(tensor, **arguments)
            sampling = 4 / math.sqrt(tensor.numel())
            assert float(tensor.std()) == pytest.approx(suggestion.std, rel=sampling + 0.01), suggestion


def propagations(monkeypatch, make, x):
    """What a search suggests, and how many times it propagates."""
    counted = []

    def counting(*args, **kwargs):
        counted.append(1)
        return propagate(*args, **kwargs)

    built = build(make)
    traced = trace(built.model, (x,), {}, log=built.log)
    signal = propagate(traced)
    monkeypatch.setattr("initcheck.init.solve.propagate", counting)
    return suggest(traced, signal), len(counted)


def test_where_no_scale_brings_the_input_back_the_search_ends(monkeypatch):
    """In a ReLU net all samples become alike with depth, whatever the scale: one look at the standard scheme tells."""
    found, count = propagations(monkeypatch, lambda: mlp(900, 16, nn.ReLU), torch.randn(8, 16))
    assert count == 1
    assert {(s.function, s.arguments) for s in found[:-1]} == {("kaiming_normal_", (("nonlinearity", "'relu'"),))}


def test_corrections_that_only_make_it_worse_are_given_up(monkeypatch):
    _, diverging = propagations(monkeypatch, lambda: mlp(200, 64, nn.GELU), torch.randn(8, 64))
    assert diverging == 2
    _, converging = propagations(monkeypatch, lambda: mlp(60, 64, nn.SiLU), torch.randn(8, 64))
    assert converging > 2


def test_only_what_is_at_fault_is_touched():
    torch.manual_seed(0)
    model = mlp(20, 128, nn.ReLU)
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(model[-1].weight, nonlinearity="linear")
    assert suggested(model, torch.randn(8, 128)) == {}
    with torch.no_grad():
        model[8].weight.mul_(30)
    (suggestion,) = suggested(model, torch.randn(8, 128)).values()
    assert suggestion.parameter == "8.weight"
    everything = suggested(model, torch.randn(8, 128), everything=True)
    assert set(everything) == {f"{i}.weight" for i in range(0, 41, 2)}


def test_residual_branches_are_scaled_by_their_number():
    few = suggested(NormFreeResNet(8), torch.randn(2, 3, 16, 16))
    if few:
        assert few["second.3.weight"].std == pytest.approx(1 / math.sqrt(9 * 32 * 8), rel=0.01)
    many = suggested(PreActivationMLP(64), torch.randn(8, 128))
    assert many["up.5.weight"].std == pytest.approx(math.sqrt(2 / 128) / 64**0.25, rel=0.01)
    assert many["down.5.weight"].std == pytest.approx(math.sqrt(1 / 128) / 64**0.25, rel=0.01)
    assert "64 residual branches" in many["down.5.weight"].reason


def test_symmetric_and_unwritten_weights_get_one():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.zeros_(model[4].weight)  # a zero head is good practice
    assert suggested(model, torch.randn(8, 16)) == {}
    nn.init.constant_(model[2].weight, 0.1)
    found = suggested(model, torch.randn(8, 16))
    assert set(found) == {"2.weight", "4.weight"}  # after a constant layer the zero head is the same mistake
    assert found["2.weight"].arguments == (("nonlinearity", "'relu'"),)
    assert "alike" in found["2.weight"].reason


class ZeroLastBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        self.down = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        for layer in self.down:
            nn.init.zeros_(layer.weight)

    def forward(self, x):
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(up(x).relu())
        return x


def test_zero_initialised_last_layers_of_branches_stay():
    assert suggested(ZeroLastBranch(), torch.randn(8, 32)) == {}


def small_gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=3, n_embd=64, n_head=4, vocab_size=128, n_positions=32, use_cache=False)
    )


def small_llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=128, use_cache=False,
        )
    )  # fmt: skip


IMAGE, TOKENS = (torch.randn(2, 3, 64, 64),), (torch.randint(0, 128, (2, 16)),)
HEALTHY = {
    "torchvision resnet18": (torchvision.models.resnet18, IMAGE),
    "torchvision vgg11": (torchvision.models.vgg11, IMAGE),
    "torchvision mobilenet_v2": (torchvision.models.mobilenet_v2, IMAGE),
    "timm resnet50": (lambda: timm.create_model("resnet50"), IMAGE),
    "timm convnext_atto": (lambda: timm.create_model("convnext_atto"), IMAGE),
    "transformers gpt2": (small_gpt2, TOKENS),
    "transformers llama": (small_llama, TOKENS),
    "default shallow MLP": (lambda: mlp(2, 256, nn.ReLU), (torch.randn(8, 256),)),
    "torch encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 3, enable_nested_tensor=False
        ),
        (torch.randn(2, 8, 64),),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "vgg11" in name else ()) for name in HEALTHY]
)
def test_models_that_train_are_left_as_they_are(name):
    make, args = HEALTHY[name]
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert apply(model, "suggested", args) == []
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_apply_keeps_flags_and_buffers_and_is_reproducible():
    def net():
        torch.manual_seed(3)
        return nn.Sequential(*cnn(12, 16, nn.ReLU)[:-2], nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 4))

    one, other, x = net(), net(), torch.randn(2, 3, 8, 8)
    one.eval()
    buffers = {name: b.clone() for name, b in one.named_buffers()}
    changes = apply(one, "suggested", x, generator=torch.Generator().manual_seed(0))
    apply(other, "suggested", x, generator=torch.Generator().manual_seed(0))
    assert changes
    assert not any(module.training for module in one.modules())
    assert all(torch.equal(buffers[name], b) for name, b in one.named_buffers())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(change.call.startswith(("kaiming", "xavier", "normal")) and change.reason for change in changes)


def test_deep_sigmoid_net_gets_weights_that_sum_to_zero():
    """No scale of independent weights keeps the input visible behind 16 sigmoids: their mean drowns it."""
    torch.manual_seed(0)
    model, x = mlp(16, 48, nn.Sigmoid), torch.randn(64, 48)
    assert {s.function for s in suggested(model, x).values()} >= {"centred_orthogonal_"}
    apply(model, "suggested", x)
    rows, _ = hidden_rows(model, x)
    deepest = measure_pass(model, (x,), {}).rows[-2]
    assert deepest.sample_std > 0.5 * deepest.forward_std
    assert 0.3 < rows[0].grad_std / rows[-1].grad_std < 3.0


def test_shallow_sigmoid_net_keeps_to_torch_schemes():
    assert all(
        s.function != "centred_orthogonal_" for s in suggested(mlp(3, 48, nn.Sigmoid), torch.randn(8, 48)).values()
    )


def test_zero_weights_before_a_norm_are_a_fault():
    layers = [nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 4)]
    for layer in layers[::3]:
        nn.init.zeros_(layer.weight)
    assert {"0.weight", "3.weight"} <= set(suggested(nn.Sequential(*layers), torch.randn(8, 16)))
