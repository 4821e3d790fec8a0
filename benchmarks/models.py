"""Models that no one here wrote, unmutated: all of timm, torchvision's, and small configurations of transformers."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import zoo
from torch import nn
from zoo import Model

LARGEST_IMAGE = 320
"""Sizes above this are cut to 224 where the architecture takes any size: the init does not depend on it."""


def timm_models() -> dict[str, Model]:
    """Every architecture that timm lists."""
    import timm

    return {f"timm:{name}": _timm(name) for name in timm.list_models()}


def mixed(names: Iterable[str]) -> list[str]:
    """The names in turns, small ones first, one of each of timm's families after the other: a fair sample always."""
    import timm

    family = {f"timm:{name}": module for module in timm.list_modules() for name in timm.list_models(module=module)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[family.get(name, name.partition(":")[0])].append(name)
    turns = itertools.zip_longest(*(sorted(group, key=_size) for group in groups.values()))
    return [name for turn in turns for name in turn if name is not None]


# fmt: off
_SMALL = (
    "test", "atto", "femto", "pico", "nano", "xxs", "xx", "tiny", "_t_", "_t", "mini", "xs", "x_s", "lite", "small",
    "_s_", "_s", "b0", "b1", "18", "10", "26", "34", "_m_", "base", "_b_", "50",
)
_LARGE = (
    "giant", "gigantic", "huge", "xlarge", "so400m", "so150m", "enormous", "_g_", "_h_",
    "large", "_l_", "_xl", "101", "152", "200", "b6", "b7", "b8",
)
# fmt: on


def _size(name: str) -> tuple[int, str]:
    """A guess at a model's size from its name, for the order only."""
    if any(word in name for word in _LARGE):
        return len(_SMALL) + 1, name
    return next((rank for rank, word in enumerate(_SMALL) if word in name), len(_SMALL)), name


def _timm(name: str) -> Model:
    import timm

    def inputs(batch: int, kind: str) -> zoo.Arguments:
        cfg = timm.get_pretrained_cfg(name)
        channels, *size = cfg.input_size
        if not cfg.fixed_input_size and size[0] > LARGEST_IMAGE:
            size = [224, 224]  # a multiple of every common patch and window
        return (torch.randn(batch, channels, *size),), {}

    return Model(f"timm:{name}", "timm", lambda: timm.create_model(name, pretrained=False), inputs)


def torchvision_models() -> dict[str, Model]:
    """Classification, segmentation and video (detection needs targets in train mode; quantised models do not train)."""
    import torchvision.models as models

    clip: zoo.Inputs = lambda batch, kind: ((torch.randn(batch, 3, 16, 112, 112),), {})  # noqa: E731
    large_clip: zoo.Inputs = lambda batch, kind: ((torch.randn(batch, 3, 16, 224, 224),), {})  # noqa: E731
    found: dict[str, Model] = {}
    for name in models.list_models(module=models):
        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        found[f"tv:{name}"] = _torchvision(name, zoo.images(299 if name == "inception_v3" else 224), **extra)
    for name in models.list_models(module=models.segmentation):
        found[f"tv:{name}"] = _torchvision(name, zoo.images(128), weights_backbone=None)
    for name in models.list_models(module=models.video):
        found[f"tv:{name}"] = _torchvision(name, large_clip if name.startswith(("mvit", "swin")) else clip)
    return found


def _torchvision(name: str, inputs: zoo.Inputs, **extra: Any) -> Model:
    import torchvision.models as models

    return Model(f"tv:{name}", "torchvision", lambda: models.get_model(name, weights=None, **extra), inputs)


def transformers_models() -> dict[str, Model]:
    """The benchmarks' own zoo of small configurations, and more decoders, encoders and vision models."""
    import transformers as t

    small: dict[str, Any] = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 4096, "use_cache": False,
    }  # fmt: skip
    kv = {**small, "num_key_value_heads": 4}
    wide = {**small, "intermediate_size": 1024}
    bert = {key: value for key, value in wide.items() if key != "use_cache"}
    few = {"num_hidden_layers": 6}
    blocks = {"n_layer": 4, "n_head": 8, "vocab_size": 4096, "use_cache": False}
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    pegasus = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 256, "vocab_size": 4096, "use_cache": False}
    text = zoo.tokens(4096, 64, "input_ids")
    pixels = zoo.images(224, name="pixel_values")

    def waves(batch: int, kind: str) -> zoo.Arguments:
        return (), {"input_values": torch.randn(batch, 16000)}

    def pairs(batch: int, kind: str) -> zoo.Arguments:
        ids = torch.randint(3, 4096, (batch, 32))
        return (), {"input_ids": ids, "decoder_input_ids": torch.randint(3, 4096, (batch, 16))}

    table: dict[str, tuple[str, str, dict[str, Any], zoo.Inputs]] = {
        "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**kv, "head_dim": 32}, text),
        "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", kv, text),
        "phi": ("PhiForCausalLM", "PhiConfig", kv, text),
        "phi3": ("Phi3ForCausalLM", "Phi3Config", {**kv, "pad_token_id": 0}, text),
        "stablelm": ("StableLmForCausalLM", "StableLmConfig", kv, text),
        "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", kv, text),
        "cohere": ("CohereForCausalLM", "CohereConfig", kv, text),
        "granite": ("GraniteForCausalLM", "GraniteConfig", kv, text),
        "gptj": ("GPTJForCausalLM", "GPTJConfig", {**blocks, "n_embd": 256, "rotary_dim": 16}, text),
        "bloom": ("BloomForCausalLM", "BloomConfig", {**blocks, "hidden_size": 256}, text),
        "falcon": ("FalconForCausalLM", "FalconConfig", wide, text),
        "albert": ("AlbertForMaskedLM", "AlbertConfig", bert, text),
        "mpnet": ("MPNetForMaskedLM", "MPNetConfig", bert, text),
        "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", {**bert, **special}, text),
        "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", pegasus, pairs),
        "deit": ("DeiTForImageClassification", "DeiTConfig", few, pixels),
        "beit": ("BeitForImageClassification", "BeitConfig", few, pixels),
        "convnext": ("ConvNextForImageClassification", "ConvNextConfig", {}, pixels),
        "resnet": ("ResNetForImageClassification", "ResNetConfig", {}, pixels),
        "swin": ("SwinForImageClassification", "SwinConfig", {}, pixels),
        "hubert": ("HubertForCTC", "HubertConfig", {"num_hidden_layers": 4}, waves),
    }
    more = {
        f"hf:{name}": Model(f"hf:{name}", "transformers", _transformer(model, config, options), inputs)
        for name, (model, config, options, inputs) in table.items()
        if hasattr(t, model) and hasattr(t, config)
    }
    return {model.name: model for model in zoo.transformers_models()} | more


def _transformer(model: str, config: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers as t

        return getattr(t, model)(getattr(t, config)(**options))

    return build


def all_models() -> dict[str, Model]:
    """Every model of the packages that are installed."""
    zoo.declare_missing_ops()
    found: dict[str, Model] = {}
    for family in (torchvision_models, transformers_models, timm_models):
        try:
            found.update(family())
        except ImportError as missing:
            print(f"# {family.__name__}: left out ({missing})")
    return found
