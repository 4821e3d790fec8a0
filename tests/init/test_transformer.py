"""Recipes for whole transformers: the right weights, the right units of packed projections, the right factors."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from nets import NormFreeTransformer
from torch import nn
from torch.nn import functional as F

from initcheck import apply, init
from initcheck.init.attention import projections
from initcheck.tracing.ladder import trace

TOKENS = (torch.randint(0, 96, (2, 12)),)


def gpt2(layers=3):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=layers, n_embd=64, n_head=4, vocab_size=96, n_positions=32, use_cache=False,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=96, use_cache=False,
        )
    )  # fmt: skip


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=96)
    )


class Interleaved(nn.Module):
    """Heads of q, k, v side by side (h0: q k v, h1: q k v, ...), as GPT-NeoX packs them."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.fc, self.back = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 4, 24).transpose(1, 2).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(x.shape))
        return x + self.back(F.gelu(self.fc(x)))


def test_value_units_however_they_are_packed():
    packed = projections(trace(gpt2(1), TOKENS, {}))["transformer.h.0.attn.c_attn.weight"]
    assert packed.value_units == tuple(range(128, 192))
    assert packed.units == 192
    (mixed,) = projections(trace(Interleaved(), (torch.randn(2, 5, 32),), {})).values()
    assert mixed.value_units == tuple(unit for head in range(4) for unit in range(24 * head + 16, 24 * head + 24))
    grouped = projections(trace(llama(), TOKENS, {}))
    assert {name: p.only_values for name, p in grouped.items()} == {
        "model.layers.0.self_attn.v_proj.weight": True, "model.layers.1.self_attn.v_proj.weight": True,
    }  # fmt: skip
    torch_net = projections(trace(nn.Transformer(32, 4, 1, 1, 64), (torch.randn(4, 2, 32), torch.randn(3, 2, 32)), {}))
    assert {p.value_units for p in torch_net.values()} == {tuple(range(64, 96))}
    assert len(torch_net) == 3  # self attention twice, cross attention once


def ratio(weight, fan_in, fan_out):
    """The weight's std against Glorot's."""
    return float(weight.detach().std()) / math.sqrt(2 / (fan_in + fan_out))


def test_t_fixup_on_an_encoder_and_decoder():
    model = nn.Transformer(64, 4, 3, 2, 128, batch_first=True)
    report = init.t_fixup_(model, (torch.randn(2, 8, 64), torch.randn(2, 7, 64)))
    assert report.layers == (3, 2)
    assert "10 norm" not in report.lacks[0]
    assert "without norm layers" in report.lacks[0]
    encoder, decoder = 0.67 * 3**-0.25, (9 * 2) ** -0.25
    for layer in model.encoder.layers:
        assert ratio(layer.self_attn.in_proj_weight[:128], 64, 64) == pytest.approx(1, abs=0.03)
        assert ratio(layer.self_attn.in_proj_weight[128:], 64, 64) == pytest.approx(encoder, rel=0.04)
        assert ratio(layer.self_attn.out_proj.weight, 64, 64) == pytest.approx(encoder, rel=0.04)
        assert ratio(layer.linear1.weight, 64, 128) == pytest.approx(encoder, rel=0.04)
    for layer in model.decoder.layers:
        assert ratio(layer.multihead_attn.in_proj_weight[128:], 64, 64) == pytest.approx(decoder, rel=0.04)
        assert ratio(layer.multihead_attn.in_proj_weight[:128], 64, 64) == pytest.approx(1, abs=0.03)
        assert ratio(layer.linear2.weight, 128, 64) == pytest.approx(decoder, rel=0.04)


def test_t_fixup_on_separate_projections_and_embeddings():
    model = t5()
    init.t_fixup_(model, {"input_ids": TOKENS[0], "decoder_input_ids": TOKENS[0]})
    block = model.encoder.block[0].layer[0].SelfAttention
    assert ratio(block.q.weight, 64, 64) == pytest.approx(1, abs=0.03)
    assert ratio(block.v.weight, 64, 64) == pytest.approx(0.67 * 2**-0.25, rel=0.04)
    assert float(model.shared.weight.detach().std()) == pytest.approx(64**-0.5 * 18**-0.25, rel=0.03)
    bias = block.relative_attention_bias.weight.clone()
    init.t_fixup_(model, {"input_ids": TOKENS[0], "decoder_input_ids": TOKENS[0]})
    assert torch.equal(bias, block.relative_attention_bias.weight)  # a table of positions, not of tokens


def test_gpt2_depth_scaling_finds_the_residual_projections():
    model = gpt2(6)
    changes = apply(model, "gpt2", TOKENS)
    assert len(changes) >= 4 * 6 + 2
    for block in model.transformer.h:
        for layer in (block.attn.c_proj, block.mlp.c_proj):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02 / math.sqrt(12), rel=0.05)
        assert float(block.mlp.c_fc.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.transformer.wpe.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_deepnorm_subln_and_ds_init():
    x = torch.randn(2, 8, 64)
    model = NormFreeTransformer(4)
    report = init.deepnorm_model_(model, x)
    beta = (8 * 4) ** -0.25
    assert ratio(model.qkv[1].weight[128:], 64, 64) == pytest.approx(beta, rel=0.04)
    assert ratio(model.qkv[1].weight[:128], 64, 64) == pytest.approx(1, abs=0.04)
    assert ratio(model.back[3].weight, 256, 64) == pytest.approx(beta, rel=0.04)
    assert "α = 1.682" in report.lacks[0]
    init.subln_model_(model, x)
    assert ratio(model.fc[0].weight, 64, 256) == pytest.approx(math.sqrt(math.log(8)), rel=0.04)
    init.ds_init_model_(model, x)
    for layer in range(4):
        assert ratio(model.fc[layer].weight, 64, 256) == pytest.approx((layer + 1) ** -0.5, rel=0.04)
        assert ratio(model.qkv[layer].weight, 64, 64) == pytest.approx((layer + 1) ** -0.5, rel=0.04)


def test_nets_without_attention_or_branches_are_refused_unchanged():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for scheme, message in {"t_fixup": "no attention", "deepnorm": "no attention", "gpt2": "no residual"}.items():
        with pytest.raises(ValueError, match=message):
            apply(model, scheme, torch.randn(4, 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
