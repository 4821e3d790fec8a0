"""Predicted beside measured: the std of every layer's output and of its gradient, over many models.

For each model: one prediction (train mode) from a freshly built instance, and real forward and backward passes over
several seeds (new weights, new N(0, 1) input or random tokens, a normal
cotangent of unit rms at the primary output). Printed per
model: median and 95th percentile of |ln(predicted / measured)| over its layers, forward and gradient; then over all.

    python benchmarks/accuracy.py [--seeds 4] [--batch 8] [--layers] [NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initcheck.signal.propagate import propagate
from initcheck.tracing.ladder import trace
from initcheck.tracing.outputs import primary_output

Inputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Case:
    """A model to build, and inputs for a batch size."""

    family: str
    build: Callable[[], nn.Module]
    inputs: Inputs


def images(size: int, channels: int = 3) -> Inputs:
    return lambda batch: ((torch.randn(batch, channels, size, size),), {})


def vectors(width: int) -> Inputs:
    return lambda batch: ((torch.randn(batch, width),), {})


def tokens(vocabulary: int, length: int = 32) -> Inputs:
    return lambda batch: ((torch.randint(0, vocabulary, (batch, length)),), {})


def mlp(depth: int, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [2, 256, 256, 256, 256]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.out = nn.Linear(256, 3)
        for i, layer in enumerate([*self.layers, self.out]):
            bound = 1 / layer.in_features if i == 0 else math.sqrt(6 / layer.in_features) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.out(x)


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.rnn = getattr(nn, kind)(64, 128, 2, batch_first=True)
        self.out = nn.Linear(128, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.embed(x))[0])


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def small_networks() -> dict[str, Case]:
    encoder = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    return {
        "mlp-relu": Case("small", lambda: mlp(20, 256, nn.ReLU), vectors(256)),
        "mlp-tanh": Case("small", lambda: mlp(20, 256, nn.Tanh), vectors(256)),
        "mlp-gelu": Case("small", lambda: mlp(10, 256, nn.GELU), vectors(256)),
        "siren": Case("small", Siren, vectors(2)),
        "lstm": Case("small", lambda: Recurrent("LSTM"), tokens(1000)),
        "gru": Case("small", lambda: Recurrent("GRU"), tokens(1000)),
        "rnn": Case("small", lambda: Recurrent("RNN"), tokens(1000)),
        "autoencoder": Case("small", Autoencoder, images(32)),
        "encoder": Case(
            "small", lambda: nn.TransformerEncoder(encoder, 2), lambda b: ((torch.randn(b, 16, 128),), {})
        ),
    }  # fmt: skip


_TORCHVISION = [
    "alexnet",
    "vgg11",
    "vgg11_bn",
    "squeezenet1_1",
    "googlenet",
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "convnext_tiny",
    "swin_t",
    "vit_b_32",
]
_TIMM = [
    "resnet18",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "convnext_atto",
    "convnextv2_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s16_224",
    "nf_resnet50",
    "dm_nfnet_f0",
    "regnety_002",
    "res2net50_14w_8s",
    "hrnet_w18_small",
    "inception_v4",
    "xception41",
    "coatnet_nano_rw_224",
    "edgenext_xx_small",
    "levit_128s",
    "poolformer_s12",
    "pvt_v2_b0",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "repvgg_a0",
    "ghostnet_050",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "beit_base_patch16_224",
    "crossvit_9_240",
    "twins_svt_small",
    "visformer_tiny",
    "dla34",
    "cspresnet50",
    "cspdarknet53",
    "eva02_tiny_patch14_224",
    "hiera_tiny_224",
    "fastvit_t8",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "ese_vovnet19b_dw",
    "selecsls42",
    "sequencer2d_s",
    "tresnet_m",
    "tiny_vit_5m_224",
    "convmixer_768_32",
    "pit_ti_224",
    "dpn48b",
    "skresnet18",
    "resnest14d",
    "botnet26t_256",
    "lambda_resnet26t",
    "mobileone_s0",
    "rexnet_100",
    "nest_tiny",
    "focalnet_tiny_srf",
    "davit_tiny",
    "gcvit_xxtiny",
    "inception_next_atto",
    "caformer_s18",
    "efficientformer_l1",
    "repvit_m0_9",
    "starnet_s050",
    "mambaout_femto",
    "hgnetv2_b0",
    "swiftformer_xs",
    "nextvit_small",
    "maxvit_nano_rw_256",
    "fasternet_t0",
    "shvit_s1",
    "rdnet_tiny",
    "coat_lite_tiny",
    "convit_tiny",
]


def torchvision_networks() -> dict[str, Case]:
    import torchvision.models as models

    def build(name: str) -> Callable[[], nn.Module]:
        extra = {"init_weights": True} if name == "googlenet" else {}
        return lambda: getattr(models, name)(weights=None, **extra)

    fixed = ("vit_b_32", "swin_t")
    return {f"tv:{n}": Case("torchvision", build(n), images(224 if n in fixed else 96)) for n in _TORCHVISION}


def timm_networks() -> dict[str, Case]:
    import timm
    from timm.models import get_pretrained_cfg

    cases = {}
    for name in _TIMM:
        size = get_pretrained_cfg(name).input_size[1]
        cases[f"timm:{name}"] = Case("timm", lambda n=name: timm.create_model(n), images(min(size, 256)))
    return cases


def transformers_networks() -> dict[str, Case]:
    import transformers as t

    small = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8,
        "vocab_size": 4096, "use_cache": False,
    }  # fmt: skip
    kv = {**small, "num_key_value_heads": 4}

    def text(vocabulary: int, length: int = 64) -> Inputs:
        return lambda b: ((), {"input_ids": torch.randint(0, vocabulary, (b, length))})

    def pixels(b: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"pixel_values": torch.randn(b, 3, 224, 224)}

    def pairs(b: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {
            "input_ids": torch.randint(0, 32128, (b, 32)),
            "decoder_input_ids": torch.randint(0, 32128, (b, 16)),
        }

    def case(build: Callable[[], nn.Module], inputs: Inputs) -> Case:
        return Case("transformers", build, inputs)

    return {
        "hf:bert": case(lambda: t.BertForMaskedLM(t.BertConfig(num_hidden_layers=4)), text(30522)),
        "hf:distilbert": case(lambda: t.DistilBertForMaskedLM(t.DistilBertConfig(n_layers=4)), text(30522)),
        "hf:electra": case(lambda: t.ElectraForPreTraining(t.ElectraConfig()), text(30522)),
        "hf:gpt2": case(lambda: t.GPT2LMHeadModel(t.GPT2Config(n_layer=4, use_cache=False)), text(50257)),
        "hf:opt": case(lambda: t.OPTForCausalLM(t.OPTConfig(num_hidden_layers=4, use_cache=False)), text(50272)),
        "hf:llama": case(lambda: t.LlamaForCausalLM(t.LlamaConfig(**kv)), text(4096)),
        "hf:qwen2": case(lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**kv)), text(4096)),
        "hf:qwen3": case(lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**kv, head_dim=32)), text(4096)),
        "hf:gemma": case(
            lambda: t.GemmaForCausalLM(t.GemmaConfig(**small, num_key_value_heads=1, head_dim=32)), text(4096)
        ),
        "hf:gptneox": case(
            lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**{**small, "intermediate_size": 1024})), text(4096)
        ),
        "hf:t5": case(lambda: t.T5ForConditionalGeneration(t.T5Config(use_cache=False)), pairs),
        "hf:vit": case(lambda: t.ViTForImageClassification(t.ViTConfig(num_hidden_layers=4)), pixels),
        "hf:mamba": case(
            lambda: t.MambaForCausalLM(
                t.MambaConfig(vocab_size=4096, hidden_size=256, num_hidden_layers=2, use_cache=False)
            ),
            text(4096, 16),
        ),
    }  # fmt: skip


def cases() -> dict[str, Case]:
    """All models whose package is installed."""
    found = small_networks()
    for family in (torchvision_networks, timm_networks, transformers_networks):
        try:
            found.update(family())
        except ImportError as missing:
            print(f"# {family.__name__}: left out ({missing})")
    return found


def measured(case: Case, names: set[str], seeds: int, batch: int) -> tuple[dict[str, float], dict[str, float]]:
    """Root mean square over seeds of each layer's output std and gradient root mean square."""
    forward: dict[str, list[float]] = {}
    gradient: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = case.build().train()
        args, kwargs = case.inputs(batch)
        seen: set[str] = set()

        def watch(name: str, seen: set[str] = seen) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                tensor = primary_output(output)
                if name in seen or tensor is None:
                    return
                seen.add(name)
                forward.setdefault(name, []).append(float(tensor.detach().double().var(correction=0)))
                if tensor.requires_grad:
                    slot = gradient.setdefault(name, [])
                    tensor.register_hook(lambda g: slot.append(float(g.double().pow(2).mean())))

            return hook

        handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n in names]
        final = primary_output(model(*args, **kwargs))
        cotangent = torch.randn_like(final)
        final.backward(cotangent / cotangent.square().mean().sqrt())
        for handle in handles:
            handle.remove()

    def collect(v: Mapping[str, list[float]]) -> dict[str, float]:
        return {n: math.sqrt(sum(x) / len(x)) for n, x in v.items() if x}

    return collect(forward), collect(gradient)


def log_ratio(predicted: float | None, real: float | None) -> float | None:
    """ln(predicted/measured); None where either is missing, 0 where both vanish."""
    if predicted is None or real is None or not (math.isfinite(predicted) and math.isfinite(real)):
        return None
    if real < 1e-30 or predicted < 1e-30:
        return 0.0 if real < 1e-12 and predicted < 1e-12 else None
    return math.log(predicted / real)


def quantile(values: list[float], share: float) -> float:
    """That quantile of the absolute values."""
    ordered = sorted(abs(v) for v in values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="substrings of the models to run (default: all)")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", action="store_true", help="print every layer")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    all_forward: list[float] = []
    all_gradient: list[float] = []
    lost = 0
    print(f"{'model':36s} layers forward med    p95 gradient med    p95  seconds")
    for name, case in cases().items():
        if options.names and not any(part in name for part in options.names):
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                torch.manual_seed(0)
                model = case.build()
                args, kwargs = case.inputs(options.batch)
                record = trace(model, args, kwargs)
            start = time.perf_counter()
            signal = propagate(record)
            seconds = time.perf_counter() - start
            real_forward, real_gradient = measured(case, {r.name for r in signal.layers}, options.seeds, options.batch)
        except Exception as error:
            print(f"{name:36s} failed: {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        forward, gradient = [], []
        for row in signal.layers:
            f = log_ratio(row.forward_std, real_forward.get(row.name))
            g = log_ratio(row.grad_std, real_gradient.get(row.name))
            lost += (f is None and row.name in real_forward) + (g is None and row.name in real_gradient)
            forward += [f] if f is not None else []
            gradient += [g] if g is not None else []
            if options.layers:
                print(
                    f"  {row.name[-44:]:44s} {row.kind[:16]:16s} "
                    f"{row.forward_std or math.nan:.4g} / {real_forward.get(row.name, math.nan):.4g} "
                    f"[{math.nan if f is None else f:+.3f}]   {row.grad_std or math.nan:.4g} / "
                    f"{real_gradient.get(row.name, math.nan):.4g} [{math.nan if g is None else g:+.3f}]"
                )
        all_forward += forward
        all_gradient += gradient
        note = "" if not signal.unknown_ops else f"  unknown: {', '.join(signal.unknown_ops)}"
        print(
            f"{name:36s} {len(signal.layers):6d} {quantile(forward, 0.5):11.4f} {quantile(forward, 0.95):6.3f} "
            f"{quantile(gradient, 0.5):12.4f} {quantile(gradient, 0.95):6.3f} {seconds:8.2f}{note}",
            flush=True,
        )
    print(
        f"{'all layers':36s} {len(all_forward):6d} "
        f"{quantile(all_forward, 0.5):11.4f} {quantile(all_forward, 0.95):6.3f} "
        f"{quantile(all_gradient, 0.5):12.4f} {quantile(all_gradient, 0.95):6.3f}   ({lost} values not predicted)"
    )


if __name__ == "__main__":
    main()
