"""Live mutants: mistakes injected into good models (own nets, timm, torchvision, transformers), found or missed.

What each mistake does (measured, slow) and what initcheck says of it (fast, another with each version of the code) are
kept apart: ``effects.jsonl`` and ``verdicts.jsonl`` in the cache folder.
"""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import random
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import record
import torch
import zoo
from harm import Harm, signal_harm, unit_harm
from mutant_rows import Row
from mutants import MUTATIONS, Mutation
from torch import nn

from initcheck.audit import Audit, audit
from initcheck.findings import Finding, Location, Severity
from initcheck.tracing.ladder import TraceError, trace
from initcheck.tracing.trace import Trace

OWN_BATCH, BATCH = 16, 8
"""Samples: for this repository's nets, and for those of the packages, which are larger."""

SENSIBLE = 1e3
"""No initialiser draws weights beyond this."""

_ZOO = """
own:mlp-relu-he own:mlp-tanh-xavier own:mlp-selu-lecun own:mlp-residual own:siren own:actor-critic own:vae
own:rnn-LSTM own:rnn-GRU own:rnn-RNN own:rnn-LSTM-4 own:lm-LSTM own:lm-transformer own:gpt own:encoder own:seq2seq
own:digits own:autoencoder own:siamese own:dcgan-generator own:dcgan-discriminator own:superresolution own:style
own:unet own:unet-plain
tv:resnet18 tv:squeezenet1_1 tv:mobilenet_v3_small tv:shufflenet_v2_x0_5
hf:bert hf:distilbert hf:gpt2 hf:opt hf:llama hf:vit hf:t5
"""
_TIMM = """
resnet vit convnext efficientnet nfnet byobnet mambaout efficientnet_ln vit2
"""
"""timm's small test_* models."""


def good_models() -> list[zoo.Model]:
    every = zoo.models(_ZOO.split())
    own = [model for model in every if model.name.startswith("own:")]
    return [*own, *_timm_models(), *(model for model in every if model not in own)]


def _timm_models() -> list[zoo.Model]:
    found: list[zoo.Model] = []
    try:
        zoo.declare_missing_ops()
        import timm
    except ImportError as missing:
        print(f"# timm: left out ({missing})")
        return found
    for name in _TIMM.split():
        size = timm.get_pretrained_cfg(f"test_{name}").input_size[1] if "vit" in name else 64
        build = lambda name=name: timm.create_model(f"test_{name}")  # noqa: E731
        found.append(zoo.Model(f"timm:test_{name}", "timm", build, zoo.images(size)))
    return found


def run(cache: Path, every: int, only: str = "", again: str = "", jobs: int = 1, recorded: bool = False) -> list[Row]:
    """Every mutant, from the record where it is there already.

    Args:
        cache: folder of the records.
        every: 10 for each tenth mutant.
        only: part of the mutant's name or of the model's.
        again: verdicts to make anew: ``old`` (of another version of the code) or a part of a name.
        jobs: processes.
        recorded: only what is in the record already.
    """
    wanted: dict[str, list[record.Key]] = {}
    count = 0
    for good in good_models():
        for mutation in MUTATIONS:
            for site in range(mutation.sites):
                count += 1
                if count % every == 0 and only in f"{mutation.name} {good.name}":
                    wanted.setdefault(good.name, []).append((mutation.name, good.name, site))
    effects, verdicts = record.keyed(cache / "effects.jsonl"), record.keyed(cache / "verdicts.jsonl")
    verdicts = {k: v for k, v in verdicts.items() if not record.stale(v["code"], f"{k[0]} {k[1]}", again)}
    missing = {
        name: [k for k in keys if k not in effects or (k not in verdicts and effects[k]["layers"])]
        for name, keys in wanted.items()
    }
    missing = {name: keys for name, keys in missing.items() if keys and not recorded}
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        for done in [pool.submit(_mutants, cache, name, keys, effects) for name, keys in missing.items()]:
            done.result()
    effects, verdicts = record.keyed(cache / "effects.jsonl"), record.keyed(cache / "verdicts.jsonl")
    both = [key for keys in wanted.values() for key in keys if key in effects and key in verdicts]
    return [Row(*key, **effects[key], **verdicts[key]) for key in both]


def _mutants(cache: Path, name: str, keys: Sequence[record.Key], effects: dict[record.Key, dict[str, Any]]) -> None:
    """Measure and judge mutants of one model; appends to the records."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    good = next(m for m in good_models() if m.name == name)
    model, args, kwargs = built(good)
    before = {
        (f.code, f.parameter) for f in _audit(model, args, kwargs)[1].report.findings if f.severity >= Severity.WARNING
    }
    mutations = {m.name: m for m in MUTATIONS}
    path = cache / "effects.jsonl"
    for key in keys:
        mutation = mutations[key[0]]
        changed, layers = spoiled(model, name, mutation, key[2])
        if not layers:
            record.append_keyed(path, key, {"layers": [], "harmful": False, "why": "not applicable"})
            continue
        problem, found, harm = "", [], None
        try:
            traced, audited = _audit(changed, args, kwargs)
            problem = next((defect.splitlines()[0] for defect in audited.defects), "")
            found = [
                _brief(f)
                for f in audited.report.findings
                if (f.code, f.parameter) not in before and f.code[:3] != "IC0"
            ]
            if key not in effects:
                harm = _harm(mutation, changed, args, kwargs, layers, traced, audited.signal)
        except (TraceError, RuntimeError) as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        if key not in effects:
            harm = harm or Harm(False, "not measured")
            named = [*layers, *tied(changed, layers)]
            record.append_keyed(path, key, {"layers": named, "harmful": harm.harmful, "why": harm.why})
        verdict = {"found": found, "problem": problem, "code": record.code_version()}
        record.append_keyed(cache / "verdicts.jsonl", key, verdict)


def built(good: zoo.Model) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        model = good.build().train()
    return model, *good.inputs(OWN_BATCH if good.name.startswith("own:") else BATCH, "white")


def tied(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """The other names of these layers' weights: a table of embeddings that is the head, too."""
    weights = {id(getattr(model.get_submodule(name), "weight", None)) for name in layers} - {id(None)}
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if name not in layers and isinstance(w := getattr(module, "weight", None), nn.Parameter) and id(w) in weights
    ]


def spoiled(model: nn.Module, name: str, mutation: Mutation, site: int) -> tuple[nn.Module, list[str]]:
    """A spoiled copy and the names of the spoiled layers (the same ones each time)."""
    torch.manual_seed(site)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        layers = mutation.change(changed, random.Random(f"{name} {mutation.name} {site}"))
    return changed, layers


def _harm(
    mutation: Mutation, model: nn.Module, args: Any, kwargs: Any, layers: Sequence[str], traced: Any, signal: Any
) -> Harm:
    if mutation.effect == "copies":
        return Harm(True, "equal by construction")
    if mutation.effect == "memory":
        weight = model.get_submodule(layers[0]).weight
        largest = float(weight.detach().nan_to_num(nan=float("inf")).abs().max())
        return Harm(largest > SENSIBLE, f"a weight of {largest:.0e} where nobody wrote")
    if mutation.effect == "units":
        return unit_harm(model, args, kwargs, layers)
    return signal_harm(model, args, kwargs, traced, signal)


def _brief(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "parameter": finding.parameter,
        "message": finding.message[:200],
    }


def _audit(model: nn.Module, args: Any, kwargs: Any) -> tuple[Trace, Audit]:
    traced = trace(model, args, kwargs)
    return traced, audit(traced, Location("<live>", 1))
