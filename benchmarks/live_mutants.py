"""Live mutants: mistakes injected into good models (own nets, timm, torchvision, transformers), found or missed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import zoo
from harm import Harm, signal_harm, unit_harm
from mutants import MUTATIONS, Mutation
from torch import nn

from initcheck.audit import audit
from initcheck.findings import Finding, Location, Severity
from initcheck.tracing.ladder import TraceError, trace

BATCH = 16

_ZOO = """
own:mlp-relu-he own:mlp-tanh-xavier own:mlp-selu-lecun own:mlp-residual own:vae own:rnn-LSTM own:rnn-RNN own:gpt
own:digits own:autoencoder own:dcgan-discriminator own:unet-plain own:superresolution own:seq2seq
hf:bert hf:gpt2 hf:llama hf:vit hf:t5 tv:resnet18 tv:squeezenet1_1 tv:mobilenet_v3_small tv:shufflenet_v2_x0_5
"""
_TIMM = """
resnet vit convnext efficientnet nfnet byobnet mambaout efficientnet_ln vit2
"""
"""timm's small test_* models."""


@dataclass(frozen=True, slots=True)
class Row:
    """One mutant: what was spoiled, the measured harm, what was found."""

    mutation: str
    model: str
    site: int
    layers: list[str]
    harmful: bool
    why: str
    found: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""

    @property
    def detected(self) -> bool:
        return any(f["severity"] != "info" for f in self.found)

    @property
    def first(self) -> dict[str, Any]:
        return next((f for level in ("error", "warning") for f in self.found if f["severity"] == level), {})

    @property
    def errors(self) -> bool:
        return any(f["severity"] == "error" for f in self.found)

    def right(self, mutation: Mutation) -> bool:
        """Whether the first finding has the right code and names a spoiled layer."""
        if not self.first or self.first["code"] not in mutation.codes:
            return False
        where = self.first["parameter"]
        return any(where == name or where.startswith(f"{name}.") for name in self.layers)


def good_models() -> list[zoo.Model]:
    found = zoo.models(_ZOO.split())
    try:
        zoo.declare_missing_ops()
        import timm
    except ImportError:
        return found
    for name in _TIMM.split():
        size = timm.get_pretrained_cfg(f"test_{name}").input_size[1] if "vit" in name else 64
        build = lambda name=name: timm.create_model(f"test_{name}")  # noqa: E731
        found.append(zoo.Model(f"timm:test_{name}", "timm", build, zoo.images(size)))
    return found


def run(cache: Path | None, every: int, only: str = "") -> Iterator[Row]:
    """Every mutant, from the record where it is there already."""
    warnings.filterwarnings("ignore")
    path = cache / "mutants.jsonl" if cache is not None else None
    known = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else ():
        row = Row(**json.loads(line))
        known[row.mutation, row.model, row.site] = row
    count = 0
    for good in good_models():
        wanted = []
        for mutation in MUTATIONS:
            for site in range(mutation.sites):
                count += 1
                if count % every == 0 and only in f"{mutation.name} {good.name}":
                    wanted.append((mutation, site))
        missing = [(m, s) for m, s in wanted if (m.name, good.name, s) not in known]
        if missing:
            torch.manual_seed(0)
            with contextlib.redirect_stdout(io.StringIO()):
                model = good.build().train()
            args, kwargs = good.inputs(BATCH, "white")
            base = {(f.code, f.parameter) for f in _audit(model, args, kwargs)[2] if f.severity >= Severity.WARNING}
            for mutation, site in missing:
                row = mutant(good.name, model, args, kwargs, mutation, site, base)
                if row is None:
                    row = Row(mutation.name, good.name, site, [], False, "", problem="not applicable")
                known[mutation.name, good.name, site] = row
                if path is not None:
                    with path.open("a") as out:
                        out.write(json.dumps(asdict(row)) + "\n")
        yield from (known[m.name, good.name, s] for m, s in wanted)


def spoiled(model: nn.Module, name: str, mutation: Mutation, site: int) -> tuple[nn.Module, list[str]]:
    """A spoiled copy and the names of the spoiled layers (the same ones each time)."""
    torch.manual_seed(site)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        layers = mutation.change(changed, random.Random(f"{name} {mutation.name} {site}"))
    return changed, layers


def mutant(
    name: str, model: nn.Module, args: Any, kwargs: Any, mutation: Mutation, site: int, base: set[tuple[str, str]]
) -> Row | None:
    changed, layers = spoiled(model, name, mutation, site)
    if not layers:
        return None
    try:
        traced, signal, findings = _audit(changed, args, kwargs)
        if mutation.effect == "copies":
            harm = Harm(True, "equal by construction")
        elif mutation.effect == "units":
            harm = unit_harm(changed, args, kwargs, layers)
        else:
            harm = signal_harm(changed, args, kwargs, traced, signal)
    except (TraceError, RuntimeError) as error:
        return Row(mutation.name, name, site, layers, False, "", problem=f"{type(error).__name__}: {error}"[:200])
    found = [
        {"code": f.code, "severity": f.severity.name.lower(), "parameter": f.parameter, "message": f.message[:200]}
        for f in findings
        if (f.code, f.parameter) not in base and not f.code.startswith("IC0")
    ]
    return Row(mutation.name, name, site, layers, harm.harmful, harm.why, found)


def _audit(model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any, list[Finding]]:
    traced = trace(model, args, kwargs)
    audited = audit(traced, Location("<live>", 1))
    assert not audited.defects, audited.defects
    return traced, audited.signal, list(audited.report.findings)
