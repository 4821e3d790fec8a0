"""What the initialisers do: their defining properties, beside the public references, and on nets that do not train.

Three tables, each on demand:

- ``--properties``: every initialiser on real layers, with its defining property, measured.
- ``--references``: on the same nets, ``lsuv_`` beside the ``lsuv`` package (``--peers``) and ``fixup_`` beside the
  authors' code (``--fixup``, a checkout of hongyi-zhang/Fixup).
- otherwise: unhealthy nets as they are, after LSUV, after ``apply("suggested")`` and, with ``--peers``, after AnyInit:
  the range of the forward std over the layers, that of the gradient (its energy per sample, as a std, against the
  middle of its range), measured by a real pass, and the time. Layers outside [1/3, 3] are marked. The model's
  output and the last layers of residual branches are free to be small. ``--held-out``: nets that nothing was tuned on.

    python benchmarks/initialisers.py [--held-out] [--seeds 3] [--only NAME] [--peers PYTHON]
    python benchmarks/initialisers.py --properties
    python benchmarks/initialisers.py --references [--peers PYTHON] [--fixup FOLDER]

``--peers``: the interpreter of an environment that has anyinit and lsuv.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "init"))
from nets import UNHEALTHY

from initcheck import init
from initcheck.init import apply, lsuv_
from initcheck.init.structure import analyse
from initcheck.measuring.passes import measure_pass
from initcheck.tracing.ladder import trace

HERE = Path(__file__).parent
BAND = 3.0
METHODS = ("as it is", "LSUV", "suggested")
Nets = Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


@dataclass
class Ranges:
    """Smallest and largest over layers and seeds."""

    forward: tuple[float, float] = (math.inf, 0.0)
    gradient: tuple[float, float] = (math.inf, 0.0)
    seconds: float = 0.0
    error: str = ""

    def widen(self, forward: list[float], gradient: list[float], seconds: float) -> None:
        self.forward = (min(self.forward[0], *forward), max(self.forward[1], *forward))
        energies = [g for g in gradient if g > 0]
        middle = math.sqrt(min(energies) * max(energies)) if energies else math.nan
        low, high = (min(energies) / middle, max(energies) / middle) if energies else (0.0, math.inf)
        self.gradient = (min(self.gradient[0], low), max(self.gradient[1], high))
        self.seconds = max(self.seconds, seconds)

    @property
    def healthy(self) -> bool:
        return not self.error and all(
            low >= 1 / BAND and high <= BAND for low, high in (self.forward, self.gradient)
        )  # fmt: skip

    def __str__(self) -> str:
        if self.error:
            return f"{'raised ' + self.error.partition(':')[0]:>35} *   -   "
        mark = " " if self.healthy else "*"
        return f"{_number(*self.forward):>17} {_number(*self.gradient):>17} {mark} {self.seconds:5.2f}s"


def _number(low: float, high: float) -> str:
    return f"{low:.2g}..{high:.2g}"


def initialise(model: nn.Module, x: torch.Tensor, method: str) -> float:
    started = time.perf_counter()
    if method == "LSUV":
        lsuv_(model, x)
    elif method == "suggested":
        apply(model, "suggested", x)
    return time.perf_counter() - started if method != "as it is" else 0.0


def measured(model: nn.Module, x: torch.Tensor) -> tuple[list[float], list[float]]:
    structure = analyse(trace(model, (x,), {}))
    outputs = {use.node.meta["module"] for use in structure.uses if use.feeds == "output"}
    last = {branch.last.rpartition(".")[0] for branch in structure.branches}
    last |= {name.removesuffix(".out_proj") for name in last}  # the row of nn.MultiheadAttention, which ends in it
    rows = [row for row in measure_pass(model, (x,), {}).rows if row.name not in outputs]
    forward = [row.forward_std for row in rows if row.name not in last]
    return forward, [row.grad_std * math.sqrt(math.prod(row.output_shape[1:])) for row in rows]


# --- nets that do not train -------------------------------------------------------------------------------------------


def compare(nets: Nets, kind: str, seeds: int, only: str, peers: str) -> None:
    methods = (*METHODS, "AnyInit") if peers else METHODS
    print(f"worst of {seeds} seeds; forward std, gradient against the middle of its range; * outside [1/3, 3]\n")
    print(f"{'':34}" + "".join(f"{method:^45}" for method in methods))
    healthy = dict.fromkeys(methods, 0)
    chosen = {name: net for name, net in nets.items() if only in name}
    with tempfile.TemporaryDirectory() as folder:
        timings = {
            seed: peer_weights(peers, "AnyInit", kind, seed, folder, only) for seed in range(seeds if peers else 0)
        }
        for name, (make, shape) in chosen.items():
            found = {method: Ranges() for method in methods}
            for seed in range(seeds):
                for method in methods:
                    torch.manual_seed(seed)
                    model, x = make(), torch.randn(shape)
                    if method == "AnyInit":
                        seconds, error = timings[seed].get(name, (0.0, "no result"))
                        if error:
                            found[method].error = error
                            continue
                        model.load_state_dict(torch.load(Path(folder) / f"AnyInit-{seed}-{list(nets).index(name)}.pt"))
                    else:
                        seconds = initialise(model, x, method)
                    found[method].widen(*measured(model, x), seconds)
            for method in methods:
                healthy[method] += found[method].healthy
            print(f"{name:34}" + "  ".join(str(found[method]) for method in methods), flush=True)
    print("\nhealthy: " + ", ".join(f"{method} {count} of {len(chosen)}" for method, count in healthy.items()))


def peer_weights(
    python: str, method: str, kind: str, seed: int, folder: str, only: str
) -> dict[str, tuple[float, str]]:  # fmt: skip
    """Let a peer initialise every net in its own environment; net to (seconds, error)."""
    command = [python, str(HERE / "initialisers_peer.py"), method, kind, str(seed), folder, *([only] if only else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        print(f"{method} did not run to its end: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    said = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return {one["net"]: (one["seconds"], one["error"]) for one in said}


# --- properties -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Property:
    """What an initialiser promises of a layer, and what was found."""

    initialiser: str
    layer: str
    promise: str
    expected: float
    found: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def properties() -> Iterator[Property]:
    """One or more for every initialiser."""
    torch.manual_seed(0)
    image, vector = torch.randn(8, 64, 16, 16), torch.randn(256, 512)
    linear = nn.Linear(512, 512, bias=False)
    for name in ("lecun_normal_", "lecun_uniform_", "glorot_normal_", "glorot_uniform_"):
        getattr(init, name)(linear.weight)
        yield Property(name, "Linear(512, 512)", "output variance 1", 1.0, float(linear(vector).detach().var()), 0.05)
    for name in ("he_normal_", "he_uniform_"):
        for act in (nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.ELU(), nn.SELU(), nn.Tanh(), nn.Softplus()):
            getattr(init, name)(linear.weight, act)
            out = linear(act(vector)).detach()
            yield Property(
                name, f"{type(act).__name__}, Linear", "second moment 1", 1.0, float(out.square().mean()), 0.08
            )
    convs = {
        "Conv2d(64, 96, 3)": (nn.Conv2d(64, 96, 3, padding=1, padding_mode="circular", bias=False), {}),
        "Conv2d, 8 groups": (
            nn.Conv2d(64, 96, 3, padding=1, padding_mode="circular", groups=8, bias=False), {"groups": 8},
        ),
        "Conv2d, stride 2": (nn.Conv2d(64, 96, 2, stride=2, bias=False), {"stride": 2}),
        "ConvTranspose2d, stride 2": (
            nn.ConvTranspose2d(64, 96, 4, stride=2, padding=1, bias=False), {"transposed": True, "stride": 2},
        ),
    }  # fmt: skip
    for label, (conv, layout) in convs.items():
        init.lecun_normal_(conv.weight, **layout)
        inner = conv(image).detach()[..., 2:-2, 2:-2]
        yield Property("lecun_normal_", label, "output variance 1", 1.0, float(inner.var()), 0.08)
        init.variance_scaling_(conv.weight, 1.0, "fan_out", **layout)
        x = image.clone().requires_grad_(True)
        out = conv(x)
        (gradient,) = torch.autograd.grad(out, x, torch.randn_like(out))
        inner = gradient[..., 2:-2, 2:-2]
        yield Property("fan_out", label, "gradient variance 1", 1.0, float(inner.var()), 0.08)
    for method in ("qr", "polar", "svd"):
        init.orthogonal_(linear.weight, method=method)
        worst = float((linear.weight @ linear.weight.T - torch.eye(512)).abs().max().detach())
        yield Property(f"orthogonal_ ({method})", "Linear(512, 512)", "largest |WWᵀ - 1|", 0.0, worst, 1e-5)
    conv = nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular", bias=False)
    init.delta_orthogonal_(conv.weight)
    ratio = float(((conv(image).norm(dim=1) / image.norm(dim=1)) - 1).abs().max().detach())
    yield Property("delta_orthogonal_", "Conv2d(64, 64, 3)", "largest |norm ratio - 1|", 0.0, ratio, 1e-5)
    unitary = init.unitary_(torch.empty(128, 128, dtype=torch.complex64))
    worst = float((unitary @ unitary.mH - torch.eye(128)).abs().max())
    yield Property("unitary_", "complex 128", "largest |UUᴴ - 1|", 0.0, worst, 1e-5)
    rnn = nn.RNN(8, 64, nonlinearity="relu")
    init.irnn_(rnn)
    start = torch.rand(1, 4, 64)
    kept = rnn(torch.zeros(200, 4, 8), start)[1].detach()
    yield Property("irnn_", "RNN, 200 steps", "state kept", 0.0, float((kept - start).abs().max()), 1e-5)
    lstm = nn.LSTM(8, 64)
    init.forget_gate_bias_(lstm)
    total = (lstm.bias_ih_l0 + lstm.bias_hh_l0)[64:128].detach()
    yield Property("forget_gate_bias_", "LSTM(8, 64)", "b_ih + b_hh of the gate", 1.0, float(total.mean()), 1e-6)
    prior = init.prior_bias_(torch.empty(1), 0.01).sigmoid()
    yield Property("prior_bias_", "sigmoid head", "answer for π = 0.01", 0.01, float(prior), 1e-6)
    sparse = init.sparse_(torch.empty(300, 500))
    counts = (sparse != 0).sum(1).float()
    yield Property("sparse_", "Linear(500, 300)", "fewest weights of a unit", 15.0, float(counts.min()), 0.0)
    yield from _deep_properties(vector)
    yield from _depth_properties()


def _deep_properties(vector: torch.Tensor) -> Iterator[Property]:
    logs = []
    for _ in range(10):
        x = torch.randn(100, dtype=torch.float64)
        start = x.norm().log()
        for _ in range(200):
            x = init.random_walk_(torch.empty(100, 100, dtype=torch.float64)) @ F.relu(x)
        logs.append(float(x.norm().log() - start))
    yield Property("random_walk_", "200 ReLU layers of 100", "drift of the log norm", 0.0, sum(logs) / 10, 1.2)
    net = nn.Sequential(
        nn.Linear(512, 512, False), *[m for _ in range(20) for m in (nn.ReLU(), nn.Linear(512, 512, False))]
    )
    apply(net, "looks_linear")
    sum_then, then_sum = net(vector[:8] + vector[8:16]), net(vector[:8]) + net(vector[8:16])
    worst = float((sum_then - then_sum).abs().max().detach())
    yield Property("looks_linear_", "21 layers", "|f(x+y) - f(x) - f(y)|", 0.0, worst, 1e-3)
    hidden = torch.rand(2048, 2) * 2 - 1
    hidden = torch.sin(30 * hidden @ init.siren_(torch.empty(256, 2), first=True).T)
    for _ in range(4):
        before = 30 * hidden @ init.siren_(torch.empty(256, 256)).T
        hidden = torch.sin(before)
    yield Property("siren_", "5 sine layers of 256", "std before the sine", 1.0, float(before.std()), 0.1)


def _depth_properties() -> Iterator[Property]:
    glorot = (2 / 1024) ** 0.5
    recipes: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
        "depth_scaled_normal_": (lambda w: init.depth_scaled_normal_(w, 12), 0.02 / 24**0.5),
        "ds_init_": (lambda w: init.ds_init_(w, 4), glorot / 2),
        "deepnorm_": (lambda w: init.deepnorm_(w, 12), glorot * 96**-0.25),
        "subln_": (lambda w: init.subln_(w, 12), glorot * math.log(24) ** 0.5),
        "mup_normal_": (lambda w: init.mup_normal_(w, (128, 128), 0.08), 0.04),
    }
    for name, (fill, std) in recipes.items():
        found = float(fill(torch.empty(512, 512)).std())
        yield Property(name, "Linear(512, 512)", "std / formula", 1.0, found / std, 0.01)
    block = nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    encoder = nn.TransformerEncoder(block, 6, enable_nested_tensor=False)
    init.t_fixup_(encoder, torch.randn(2, 8, 128))
    found = float(encoder.layers[0].linear1.weight.detach().std()) / (2 / 640) ** 0.5
    yield Property("t_fixup_", "6 encoder layers", "fc1 / Glorot", 0.67 * 6**-0.25, found, 0.01)


def show_properties() -> None:
    print(f"{'initialiser':22}{'layer':28}{'property':28}{'expected':>10}{'found':>12}{'tolerance':>11}")
    listed = list(properties())
    for p in listed:
        mark = "" if p.holds else "  *"
        print(f"{p.initialiser:22}{p.layer:28}{p.promise:28}{p.expected:10.4g}{p.found:12.4g}{p.tolerance:11.2g}{mark}")
    print(f"\n{sum(p.holds for p in listed)} of {len(listed)} hold")


# --- references -------------------------------------------------------------------------------------------------------


def lsuv_reference(python: str) -> None:
    """Largest deviation of a layer's output variance from 1 after lsuv_ and after the lsuv package."""
    names = ["tanh MLP, 20 layers", "ReLU CNN, 20 layers", "GELU MLP", "norm-free ResNet, 16 blocks"]
    print(f"{'largest |variance - 1| over the layers':42}{'lsuv_':>10}{'time':>8}{'lsuv package':>16}{'time':>8}")
    for name in names:
        make, shape = UNHEALTHY[name]
        cells = ""
        with tempfile.TemporaryDirectory() as folder:
            for method in ("ours", "lsuv"):
                torch.manual_seed(0)
                model, x = make(), torch.randn(shape)
                for module in model.modules():  # the package zeroes biases; ours leaves them
                    if method == "ours" and isinstance(getattr(module, "bias", None), torch.Tensor):
                        nn.init.zeros_(module.bias)
                if method == "ours":
                    started = time.perf_counter()
                    lsuv_(model, x)
                    seconds = time.perf_counter() - started
                else:
                    seconds, error = peer_weights(python, "lsuv", "tuned", 0, folder, name)[name]
                    if error:
                        cells += f"{error[:16]:>16}"
                        continue
                    index = list(UNHEALTHY).index(name)
                    model.load_state_dict(torch.load(Path(folder) / f"lsuv-0-{index}.pt"))
                rows = measure_pass(model, (x,), {}, mode="eval").rows
                worst = max(abs(row.forward_std**2 - 1) for row in rows)
                cells += f"{worst:>{10 if method == 'ours' else 16}.3f}{seconds:7.2f}s"
        print(f"{name:42}{cells}")
    print("(tolerance: 0.05 of the variance in lsuv_, 0.1 of the std in the package)")


def fixup_reference(folder: str) -> None:
    """The authors' ResNets: every parameter as they initialise it, and as ``fixup_`` finds and does it in the graph."""
    path = Path(folder) / "cifar" / "models" / "fixup_resnet_cifar.py"
    spec = importlib.util.spec_from_file_location("fixup_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    heads = f"{'std / theirs, stride 1':>25}{'stride 2':>25}{'zeros':>14}{'scalars':>14}{'stem':>8}"
    print(f"{'':18}{'branches':>9}{heads}")
    for name in ("fixup_resnet20", "fixup_resnet56", "fixup_resnet110"):
        torch.manual_seed(0)
        theirs, ours = getattr(module, name)(), getattr(module, name)()
        report = init.fixup_(ours, torch.randn(2, 3, 32, 32), mode="fan_out")
        plain, strided, zeros, scalars, stem = [], [], [0, 0], [0, 0], 0.0
        for (label, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if one.numel() == 1:
                scalars = [scalars[0] + bool(torch.equal(one, other)), scalars[1] + 1]
            elif not other.any():
                zeros = [zeros[0] + (not one.any()), zeros[1] + 1]
            elif label == "conv1.weight":
                stem = _ratio(one, other)
            else:
                strides = ours.get_submodule(label.rpartition(".")[0]).stride
                (strided if strides[0] > 1 else plain).append(_ratio(one, other))
        print(
            f"{name:18}{report.branches:9d}{_spread(plain):>25}{_spread(strided):>25}"
            f"{f'{zeros[0]} of {zeros[1]}':>14}{f'{scalars[0]} of {scalars[1]}':>14}{stem:8.2f}"
        )
    print("(stride 2: their fan_out does not count the stride; the stem: torch's default in their code, He's here)")


def _ratio(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one.detach().std() / other.detach().std())


def _spread(ratios: list[float]) -> str:
    return f"{sum(ratios) / len(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="nets with this in their name")
    parser.add_argument("--held-out", action="store_true", help="nets that nothing was tuned on")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="interpreter with anyinit and lsuv")
    parser.add_argument("--properties", action="store_true")
    parser.add_argument("--references", action="store_true")
    parser.add_argument("--fixup", default="", metavar="FOLDER", help="checkout of hongyi-zhang/Fixup")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.properties:
        show_properties()
    elif options.references:
        if options.peers:
            lsuv_reference(options.peers)
        if options.fixup:
            fixup_reference(options.fixup)
        if not options.peers and not options.fixup:
            parser.error("--references needs --peers PYTHON, --fixup FOLDER or both")
    elif options.held_out:
        from held_out_nets import HELD_OUT

        compare(HELD_OUT, "held out", options.seeds, options.only, options.peers)
    else:
        compare(UNHEALTHY, "tuned", options.seeds, options.only, options.peers)


if __name__ == "__main__":
    main()
