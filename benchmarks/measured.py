"""Real forward and backward passes over seeds, kept on disk: what predictions are compared with."""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo import Model

from initcheck.tracing.outputs import primary_output


@dataclass(frozen=True, slots=True)
class Real:
    """What a layer showed, one number per seed.

    ``forward``: variance of its output over all elements; ``gradient``: mean square of the gradient at its output;
    ``weight_gradient``: of the gradient of its weight. [] where nothing arrived.
    """

    kind: str
    forward: list[float]
    gradient: list[float]
    weight_gradient: list[float]

    @property
    def forward_std(self) -> float | None:
        return _root_mean(self.forward)

    @property
    def grad_std(self) -> float | None:
        return _root_mean(self.gradient)


@dataclass(frozen=True, slots=True)
class Setting:
    """How measured. Values under one setting are interchangeable."""

    model: str
    seeds: int
    batch: int
    kind: str
    torch: str
    package: str


def _root_mean(squares: list[float]) -> float | None:
    return math.sqrt(sum(squares) / len(squares)) if squares else None


PACKAGES = {
    "tv": "torchvision", "hf": "transformers", "smp": "segmentation_models_pytorch", "pyg": "torch_geometric"
}  # fmt: skip


def package_version(name: str) -> str:
    """Of the package that a model id's prefix stands for; the models written out here: a digest of their source."""
    prefix = name.partition(":")[0]
    if prefix == "own":
        return sha256((Path(__file__).parent / "zoo_nets.py").read_bytes()).hexdigest()[:12]
    package = PACKAGES.get(prefix, prefix)
    return str(__import__(package).__version__)


def _setting(model: Model, seeds: int, batch: int, kind: str) -> Setting:
    return Setting(model.name, seeds, batch, kind, torch.__version__, package_version(model.name))


def _file(setting: Setting, cache: Path) -> Path:
    return cache / f"{setting.model.replace(':', '-')}.{setting.kind}.{setting.seeds}x{setting.batch}.json"


def stored(model: Model, seeds: int, batch: int, kind: str, cache: Path | None) -> dict[str, Real] | None:
    """What the cache has under this very setting."""
    setting = _setting(model, seeds, batch, kind)
    if cache is None or not _file(setting, cache).exists():
        return None
    content = json.loads(_file(setting, cache).read_text())
    if content["setting"] != asdict(setting):
        return None
    return {name: Real(**values) for name, values in content["layers"].items()}


def measured(model: Model, seeds: int, batch: int, kind: str, cache: Path | None) -> dict[str, Real]:
    """Per layer (module path) what ``seeds`` passes showed, from the cache where it has them."""
    known = stored(model, seeds, batch, kind, cache)
    if known is not None:
        return known
    started = time.perf_counter()
    layers = _passes(model, seeds, batch, kind)
    if cache is not None:
        setting = _setting(model, seeds, batch, kind)
        file = _file(setting, cache)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "setting": asdict(setting),
            "seconds": round(time.perf_counter() - started, 1),
            "layers": {name: asdict(real) for name, real in layers.items()},
        }
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(content))
        partial.rename(file)
    return {name: real for name, real in layers.items() if real.forward}


def build(model: Model, seed: int, batch: int, kind: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model with the weights and inputs of a seed, in train mode."""
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        net = model.build().train()
    return net, *model.inputs(batch, kind)


def _passes(model: Model, seeds: int, batch: int, kind: str) -> dict[str, Real]:
    layers: dict[str, Real] = {}
    for seed in range(seeds):
        net, args, kwargs = build(model, seed, batch, kind)
        seen: set[str] = set()

        def watch(name: str, seen: set[str] = seen) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                tensor = primary_output(output)
                if name in seen or tensor is None or not tensor.is_floating_point():
                    return
                seen.add(name)
                real = layers[name]
                real.forward.append(float(tensor.detach().double().var(correction=0)))
                if tensor.requires_grad:
                    tensor.register_hook(lambda g: real.gradient.append(float(g.double().square().mean())))

            return hook

        owners = {name: m for name, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))}
        for name, module in owners.items():
            layers.setdefault(name, Real(type(module).__name__, [], [], []))
            module.register_forward_hook(watch(name))
        final = primary_output(net(*args, **kwargs))
        assert final is not None
        cotangent = torch.randn_like(final)
        final.backward(cotangent / cotangent.square().mean().sqrt())
        for name in seen:
            weight = getattr(owners[name], "weight", None)
            if isinstance(weight, torch.Tensor) and weight.grad is not None:
                layers[name].weight_gradient.append(float(weight.grad.double().square().mean()))
    return {name: real for name, real in layers.items() if real.forward}
