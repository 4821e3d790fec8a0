"""Models that no one here wrote, unmutated: all of timm, torchvision's, and small configurations of transformers."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accuracy import Case, Inputs, images, tokens
from torch import nn

LARGEST_IMAGE = 320
"""Sizes above this are cut to 256 where the architecture takes any size: the init does not depend on it."""

_LIBRARIES: list[torch.library.Library] = []


def declare_torchvision_ops() -> None:
    """Where torchvision's compiled ops do not load, declare their schemas, so that its models can be built."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


def timm_models() -> dict[str, Case]:
    """Every architecture that timm lists."""
    import timm

    return {f"timm:{name}": _timm(name) for name in timm.list_models()}


def mixed(names: Iterable[str]) -> list[str]:
    """The names in turns: one of each of timm's families, then the next of each. The first hundred are a fair sample."""
    import timm

    family = {f"timm:{name}": module for module in timm.list_modules() for name in timm.list_models(module=module)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[family.get(name, name.partition(":")[0])].append(name)
    turns = itertools.zip_longest(*groups.values())
    return [name for turn in turns for name in turn if name is not None]


def _timm(name: str) -> Case:
    import timm

    def inputs(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cfg = timm.get_pretrained_cfg(name)
        channels, *size = cfg.input_size
        if not cfg.fixed_input_size and size[0] > LARGEST_IMAGE:
            size = [256, 256]
        return (torch.randn(batch, channels, *size),), {}

    return Case("timm", lambda: timm.create_model(name, pretrained=False), inputs)


def torchvision_models() -> dict[str, Case]:
    """Classification, segmentation and video (detection needs targets in train mode; quantised models do not train)."""
    import torchvision.models as models

    clip: Inputs = lambda batch: ((torch.randn(batch, 3, 16, 112, 112),), {})  # noqa: E731
    large_clip: Inputs = lambda batch: ((torch.randn(batch, 3, 16, 224, 224),), {})  # noqa: E731
    found: dict[str, Case] = {}
    for name in models.list_models(module=models):
        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        found[f"tv:{name}"] = _torchvision(name, images(299 if name == "inception_v3" else 224), **extra)
    for name in models.list_models(module=models.segmentation):
        found[f"tv:{name}"] = _torchvision(name, images(128), weights_backbone=None)
    for name in models.list_models(module=models.video):
        found[f"tv:{name}"] = _torchvision(name, large_clip if name.startswith(("mvit", "swin")) else clip)
    return found


def _torchvision(name: str, inputs: Inputs, **extra: Any) -> Case:
    import torchvision.models as models

    return Case("torchvision", lambda: models.get_model(name, weights=None, **extra), inputs)


def transformers_models() -> dict[str, Case]:
    """Decoders, encoders, encoder-decoders, vision, audio, state-space models: small, otherwise by their own defaults."""
    import transformers as t

    small: dict[str, Any] = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 4096, "use_cache": False,
    }  # fmt: skip
    kv = {**small, "num_key_value_heads": 4}
    wide = {**small, "intermediate_size": 1024}
    bert = {k: v for k, v in wide.items() if k != "use_cache"}
    text = _keyword("input_ids", tokens(4096, 64))
    short = _keyword("input_ids", tokens(4096, 16))
    pixels = _keyword("pixel_values", images(224))
    crops = _keyword("pixel_values", images(128))
    waves = _keyword("input_values", lambda batch: ((torch.randn(batch, 16000),), {}))

    def pairs(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = torch.randint(3, 4096, (batch, 32))
        return (), {"input_ids": ids, "decoder_input_ids": torch.randint(3, 4096, (batch, 16))}

    def speech(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {
            "input_features": torch.randn(batch, 80, 3000),
            "decoder_input_ids": torch.randint(0, 4096, (batch, 16)),
        }

    def contrastive(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        end = torch.full((batch, 1), 49407)
        ids = torch.cat([torch.randint(0, 49000, (batch, 31)), end], 1)
        return (), {"input_ids": ids, "pixel_values": torch.randn(batch, 3, 224, 224)}

    layers = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 256, "vocab_size": 4096, "use_cache": False}
    table: dict[str, tuple[str, str, dict[str, Any], Inputs]] = {
        "llama": ("LlamaForCausalLM", "LlamaConfig", kv, text),
        "mistral": ("MistralForCausalLM", "MistralConfig", kv, text),
        "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", kv, text),
        "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**kv, "head_dim": 32}, text),
        "gemma": ("GemmaForCausalLM", "GemmaConfig", {**small, "num_key_value_heads": 1, "head_dim": 32}, text),
        "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**kv, "head_dim": 32}, text),
        "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**kv, "head_dim": 32}, text),
        "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", kv, text),
        "phi": ("PhiForCausalLM", "PhiConfig", kv, text),
        "phi3": ("Phi3ForCausalLM", "Phi3Config", {**kv, "pad_token_id": 0}, text),
        "stablelm": ("StableLmForCausalLM", "StableLmConfig", kv, text),
        "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", kv, text),
        "cohere": ("CohereForCausalLM", "CohereConfig", kv, text),
        "granite": ("GraniteForCausalLM", "GraniteConfig", kv, text),
        "gptneox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", wide, text),
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"n_layer": 6, "vocab_size": 4096, "use_cache": False}, text),
        "gptj": (
            "GPTJForCausalLM",
            "GPTJConfig",
            {"n_layer": 4, "n_embd": 256, "n_head": 8, "rotary_dim": 16, "vocab_size": 4096, "use_cache": False},
            text,
        ),
        "bloom": (
            "BloomForCausalLM",
            "BloomConfig",
            {"n_layer": 4, "hidden_size": 256, "n_head": 8, "vocab_size": 4096, "use_cache": False},
            text,
        ),
        "opt": ("OPTForCausalLM", "OPTConfig", {"num_hidden_layers": 4, "vocab_size": 4096, "use_cache": False}, text),
        "falcon": ("FalconForCausalLM", "FalconConfig", wide, text),
        "mamba": ("MambaForCausalLM", "MambaConfig", {**_only(small, "intermediate_size"), "num_hidden_layers": 2}, short),
        "mixtral": (
            "MixtralForCausalLM",
            "MixtralConfig",
            {**kv, "num_local_experts": 4, "experts_implementation": "batched_mm"},
            text,
        ),
        "bert": ("BertForMaskedLM", "BertConfig", bert, text),
        "roberta": ("RobertaForMaskedLM", "RobertaConfig", bert, text),
        "albert": ("AlbertForMaskedLM", "AlbertConfig", bert, text),
        "electra": ("ElectraForPreTraining", "ElectraConfig", bert, text),
        "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", {"n_layers": 4, "vocab_size": 4096}, text),
        "mpnet": ("MPNetForMaskedLM", "MPNetConfig", bert, text),
        "modernbert": (
            "ModernBertForMaskedLM",
            "ModernBertConfig",
            {**bert, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
            text,
        ),
        "deberta_v2": (
            "DebertaV2ForMaskedLM",
            "DebertaV2Config",
            {**bert, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
            text,
        ),
        "t5": (
            "T5ForConditionalGeneration",
            "T5Config",
            {"vocab_size": 4096, "num_layers": 4, "use_cache": False, "decoder_start_token_id": 0},
            pairs,
        ),
        "bart": ("BartForConditionalGeneration", "BartConfig", layers, pairs),
        "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", layers, pairs),
        "whisper": (
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            {**layers, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            speech,
        ),
        "vit": ("ViTForImageClassification", "ViTConfig", {"num_hidden_layers": 6}, pixels),
        "deit": ("DeiTForImageClassification", "DeiTConfig", {"num_hidden_layers": 6}, pixels),
        "beit": ("BeitForImageClassification", "BeitConfig", {"num_hidden_layers": 6}, pixels),
        "dinov2": ("Dinov2Model", "Dinov2Config", {"num_hidden_layers": 4, "image_size": 224}, pixels),
        "segformer": ("SegformerForSemanticSegmentation", "SegformerConfig", {}, crops),
        "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {}, pixels),
        "resnet": ("ResNetForImageClassification", "ResNetConfig", {}, pixels),
        "swin": ("SwinForImageClassification", "SwinConfig", {}, pixels),
        "clip": (
            "CLIPModel",
            "CLIPConfig",
            {"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 4}},
            contrastive,
        ),
        "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {"num_hidden_layers": 4}, waves),
        "hubert": ("HubertForCTC", "HubertConfig", {"num_hidden_layers": 4}, waves),
    }
    return {
        f"hf:{name}": Case("transformers", _transformer(model, config, options), inputs)
        for name, (model, config, options, inputs) in table.items()
        if hasattr(t, model) and hasattr(t, config)
    }


def _transformer(model: str, config: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers as t

        return getattr(t, model)(getattr(t, config)(**options))

    return build


def _keyword(name: str, inputs: Inputs) -> Inputs:
    return lambda batch: ((), {name: inputs(batch)[0][0]})


def _only(options: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in without}


def all_models() -> dict[str, Case]:
    """Every model of the packages that are installed."""
    declare_torchvision_ops()
    found: dict[str, Case] = {}
    for family in (torchvision_models, transformers_models, timm_models):
        try:
            found.update(family())
        except ImportError as missing:
            print(f"# {family.__name__}: left out ({missing})")
    return found
