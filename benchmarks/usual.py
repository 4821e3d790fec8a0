"""The zoo's models at the sizes they are published in, for costs.

The zoo (``zoo.py``) has small images and cuts depth, width and vocabulary, to keep measuring many seeds cheap; scales
are as hard to predict at any size, but what an analysis costs beside a pass is another matter. Models whose smallest
published size would not fit (a pass of minutes, or more memory than a laptop has) stay as they are in the zoo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import zoo
from torch import nn

TOKENS = 128
"""As BERT's pre-training has in nine of ten steps (Devlin et al. 2019, A.2)."""


def _published() -> dict[str, tuple[Callable[[], nn.Module], zoo.Inputs]]:
    """hf id -> (constructor from the type's own default configuration, or the smallest published one; inputs)."""
    import transformers as t

    def words(vocabulary: int) -> zoo.Inputs:
        return zoo.tokens(vocabulary, TOKENS, "input_ids")

    def pixels() -> zoo.Inputs:
        return zoo.images(224, name="pixel_values")

    def pair(vocabulary: int) -> zoo.Inputs:
        source, target = words(vocabulary), zoo.tokens(vocabulary, TOKENS, "decoder_input_ids")

        def make(batch: int, kind: str) -> zoo.Arguments:
            return (), source(batch, kind)[1] | target(batch, kind)[1]

        return make

    def speech(batch: int, kind: str) -> zoo.Arguments:
        written: dict[str, Any] = zoo.tokens(50000, 32, "decoder_input_ids")(batch, kind)[1]
        return (), {"input_features": zoo.field(kind, batch, 80, 3000, axes=1)} | written

    def wave(batch: int, kind: str) -> zoo.Arguments:
        return (), {"input_values": zoo.field(kind, batch, 1, 16000, axes=1)[:, 0]}

    def caption(batch: int, kind: str) -> zoo.Arguments:
        text = torch.randint(1, 49000, (batch, 77))
        text[:, -1] = 49407  # pooled at the end-of-text token
        return (), {"input_ids": text, "pixel_values": zoo.field(kind, batch, 3, 224, 224)}

    return {
        "bert": (lambda: t.BertForMaskedLM(t.BertConfig()), words(30522)),
        "roberta": (lambda: t.RobertaForMaskedLM(t.RobertaConfig()), words(50265)),
        "distilbert": (lambda: t.DistilBertForMaskedLM(t.DistilBertConfig()), words(30522)),
        "electra": (lambda: t.ElectraForPreTraining(t.ElectraConfig()), words(30522)),
        "gpt2": (lambda: t.GPT2LMHeadModel(t.GPT2Config(use_cache=False)), words(50257)),
        "opt": (lambda: t.OPTForCausalLM(t.OPTConfig(use_cache=False)), words(50272)),
        "gptneox": (  # Pythia-70M
            lambda: t.GPTNeoXForCausalLM(
                t.GPTNeoXConfig(
                    hidden_size=512,
                    intermediate_size=2048,
                    num_hidden_layers=6,
                    num_attention_heads=8,
                    vocab_size=50304,
                    use_cache=False,
                )
            ),
            words(50304),
        ),
        "llama": (  # SmolLM-135M
            lambda: t.LlamaForCausalLM(
                t.LlamaConfig(
                    hidden_size=576,
                    intermediate_size=1536,
                    num_hidden_layers=30,
                    num_attention_heads=9,
                    num_key_value_heads=3,
                    vocab_size=49152,
                    use_cache=False,
                )
            ),
            words(49152),
        ),
        "deberta": (  # DeBERTa-v3-small
            lambda: t.DebertaV2ForMaskedLM(
                t.DebertaV2Config(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=6,
                    num_attention_heads=12,
                    relative_attention=True,
                    position_buckets=256,
                    pos_att_type=["p2c", "c2p"],
                    share_att_key=True,
                    norm_rel_ebd="layer_norm",
                )
            ),
            words(128100),
        ),
        "bart": (  # BART-base
            lambda: t.BartForConditionalGeneration(
                t.BartConfig(
                    d_model=768,
                    encoder_layers=6,
                    decoder_layers=6,
                    encoder_attention_heads=12,
                    decoder_attention_heads=12,
                    encoder_ffn_dim=3072,
                    decoder_ffn_dim=3072,
                    use_cache=False,
                )
            ),
            pair(50265),
        ),
        "clip": (lambda: t.CLIPModel(t.CLIPConfig()), caption),
        "t5": (lambda: t.T5ForConditionalGeneration(t.T5Config(use_cache=False)), pair(32128)),  # T5-small
        "whisper": (lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(use_cache=False)), speech),  # tiny
        "wav2vec2": (lambda: t.Wav2Vec2ForCTC(t.Wav2Vec2Config()), wave),
        "vit": (lambda: t.ViTForImageClassification(t.ViTConfig()), pixels()),
        "dinov2": (lambda: t.Dinov2Model(t.Dinov2Config(image_size=224)), pixels()),
        "segformer": (lambda: t.SegformerForSemanticSegmentation(t.SegformerConfig()), pixels()),
    }


def usual(model: zoo.Model) -> zoo.Model:
    """The same model at its published depth, width and vocabulary, with its usual images or a usual length of text."""
    prefix, _, name = model.name.partition(":")
    if prefix == "tv":
        return replace(model, inputs=zoo.images(299 if name == "inception_v3" else 224))
    if prefix == "timm":
        import timm
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(name)
        inputs = zoo.images(config.input_size[1]) if config else model.inputs
        return replace(model, build=lambda: timm.create_model(name, pretrained=False), inputs=inputs)
    if prefix == "hf" and name in (published := _published()):
        build, inputs = published[name]
        return replace(model, build=build, inputs=inputs)
    return model
