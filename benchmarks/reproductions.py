"""What the literature found about initialisation, found again, each with a picture: docs/pictures/*.svg.

Every row runs the computation of one of ``examples/reproduce_*.py``, checks what the paper says (printed: holds or
does not), and draws it.

    python benchmarks/reproductions.py [--only NAME ...] [--out docs/pictures]
"""

from __future__ import annotations

import argparse
import math
import runpy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chart import Chart, Series

import initcheck
import initcheck.init

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``found``: the figures that the claim is judged by; ``holds``: whether they bear it out."""

    chart: Chart
    found: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A result of the literature. ``run`` is given what the example defines."""

    name: str
    example: str
    claim: str
    run: Callable[[dict[str, Any]], Outcome]


def _counted(values: list[float]) -> Series:
    return [(float(index + 1), value) for index, value in enumerate(values)]


def _smooth(values: list[float], over: int = 10) -> list[float]:
    return [sum(values[max(0, i - over + 1) : i + 1]) / min(i + 1, over) for i in range(len(values))]


def he(example: dict[str, Any]) -> Outcome:
    torch.manual_seed(0)
    centres = torch.randn(example["CLASSES"], example["WIDTH"])
    schemes: dict[str, Callable[[torch.Tensor], object]] = {
        "Xavier": torch.nn.init.xavier_normal_,
        "He": lambda w: torch.nn.init.kaiming_normal_(w, nonlinearity="relu"),
    }
    lines = {}
    for label, scheme in schemes.items():
        torch.manual_seed(1)
        lines[label] = _smooth(example["losses"](example["initialised"](scheme), centres, 400), 20)
    last = {label: values[-1] for label, values in lines.items()}
    chart = Chart("30 ReLU layers", "step", "loss", {k: _counted(v) for k, v in lines.items()})
    found = f"loss after 400 steps: Xavier {last['Xavier']:.2f}, He {last['He']:.2f} (chance 2.30)"
    return Outcome(chart, found, last["Xavier"] > 2.2 and last["He"] < 1.3)


def textbook(example: dict[str, Any]) -> Outcome:
    x = torch.randn(256, 100, dtype=torch.float64)
    lines: dict[str, Series] = {}
    ends = {}
    worst = 0.0
    for variance in (0.001, 0.01, 0.02, 0.1, 1.0):
        torch.manual_seed(0)
        model = example["network"](variance).double()
        predicted = [row.forward_std or 0.0 for row in initcheck.analyze(model, (x,)).layers]
        measured = [row.forward_std or 0.0 for row in initcheck.measure(model, (x,), compare=False).layers]
        lines[f"variance {variance:g}"] = _counted(predicted)
        ends[variance] = predicted[-1] / predicted[0]
        worst = max(worst, *(abs(math.log(p / m)) for p, m in zip(predicted, measured, strict=True)))
    chart = Chart("50 ReLU layers of 100: std as predicted", "layer", "std of the output", lines, log=True)
    found = f"last / first layer: {', '.join(f'{v:g}: {r:.2g}' for v, r in ends.items())}; e^{worst:.2f} off at most"
    return Outcome(chart, found, ends[0.01] < 1e-3 < 0.1 < ends[0.02] < 10 and ends[0.1] > 1e3)


def selu(example: dict[str, Any]) -> Outcome:
    torch.manual_seed(0)
    cases = {
        "SELU, LeCun, input (1, 4)": (torch.nn.SELU(), 1.0, 1.0, 2.0),
        "SELU, LeCun, input (.2, .04)": (torch.nn.SELU(), 1.0, 0.2, 0.2),
        "SELU, He": (torch.nn.SELU(), 2**0.5, 0.0, 1.0),
        "SELU, torch's default": (torch.nn.SELU(), 3**-0.5, 0.0, 1.0),
        "ReLU, LeCun": (torch.nn.ReLU(), 1.0, 0.0, 1.0),
    }
    seen = {label: [v for _, v in example["moments"](*case, 32)] for label, case in cases.items()}
    last = {label: values[-1] for label, values in seen.items()}
    chart = Chart(
        "Variance through 32 layers", "layer", "variance", {k: _counted(v) for k, v in seen.items()}, log=True
    )
    kept = [v for label, v in last.items() if label.startswith("SELU, LeCun")]
    found = f"variance in layer 32: {', '.join(f'{label} {value:.2g}' for label, value in last.items())}"
    return Outcome(chart, found, all(0.7 < v < 1.4 for v in kept) and last["ReLU, LeCun"] < 1e-3)


def fixup(example: dict[str, Any]) -> Outcome:
    torch.manual_seed(0)
    classes = example["CLASSES"]
    x = torch.randn(8, 3, 12, 12)
    patterns = torch.randn(classes, 3, 1, 1) + 0.5 * torch.randn(classes, 3, 12, 12)
    lines = {}
    for label in ("He", "Fixup"):
        torch.manual_seed(1)
        model = example["Net"](50)
        example["he" if label == "He" else "fixup"](model, x)
        lines[label] = example["trained"](model, patterns, 60)
    last = {label: sum(v[-5:]) / len(v[-5:]) for label, v in lines.items()}
    chart = Chart(
        "Residual net of 102 layers without norm", "step", "loss", {k: _counted(v) for k, v in lines.items()}, True
    )
    found = f"loss, last 5 of 60 steps: He {last['He']:.3g}, Fixup {last['Fixup']:.3g} (chance {math.log(classes):.2f})"
    return Outcome(chart, found, last["Fixup"] < 1.0 and not last["He"] < math.log(classes) - 0.2)


def lsuv(example: dict[str, Any]) -> Outcome:
    depth = 16
    lines, last = {}, {}
    for scheme in example["SCHEMES"]:
        torch.manual_seed(0)
        centres = torch.randn(example["CLASSES"], example["WIDTH"])
        batch = example["BATCH"]
        x = centres[torch.randint(example["CLASSES"], (batch,))] + torch.randn(batch, example["WIDTH"])
        model = example["initialised"](scheme, depth, x)
        lines[scheme] = example["stds"](model, x)
        last[scheme] = example["losses"](model, centres, 200)[-1]
    chart = Chart(
        "16 layers of alternating activations",
        "layer",
        "std of the output",
        {k: _counted(v) for k, v in lines.items()},
        True,
    )
    found = f"loss after 200 steps: {', '.join(f'{k} {v:.2g}' for k, v in last.items())} (chance 2.30)"
    even = all(0.8 < v < 1.25 for v in lines["LSUV"])
    return Outcome(chart, found, even and last["LSUV"] < 0.3 and last["torch's default"] > 2.2)


def random_walk(example: dict[str, Any]) -> Outcome:
    torch.manual_seed(0)
    width, repeats = 50, 10
    relu = torch.nn.functional.relu
    fills: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "He": lambda w: initcheck.init.he_normal_(w, "relu"),
        "random walk": lambda w: initcheck.init.random_walk_(w, "relu"),
    }
    depths = (1, 25, 50, 100, 150, 200)
    lines = {}
    for label, fill in fills.items():
        runs = [[example["walk"](fill, relu, width, depth)[0] for _ in range(repeats)] for depth in depths]
        lines[label] = [(float(d), sum(r) / repeats) for d, r in zip(depths, runs, strict=True)]
    expected = -200 * 1.2 / (width - 2.4)
    ends = {label: line[-1][1] for label, line in lines.items()}
    chart = Chart(f"ReLU, width 50, mean of {repeats} nets", "layers", "log of the norm's ratio", lines)
    found = f"after 200 layers: He {ends['He']:.2f} (theory {expected:.2f}), random walk {ends['random walk']:.2f} (0)"
    return Outcome(chart, found, abs(ends["He"] - expected) < 2.5 and abs(ends["random walk"]) < 2.5)


def looks_linear(example: dict[str, Any]) -> Outcome:
    depths = (2, 5, 10, 20, 50, 100, 200)
    lines: dict[str, list[tuple[float, float]]] = {}
    loss = {}
    for scheme, label in (("kaiming_normal", "He"), ("looks_linear", "looks-linear")):
        lines[label] = []
        for depth in depths:
            torch.manual_seed(0)
            centres = torch.randn(example["CLASSES"], example["WIDTH"])
            model = example["network"](depth)
            initcheck.apply(model, scheme)
            lines[label].append((float(depth), example["neighbours"](model)))
        loss[label] = example["trained"](model, centres, 120)
    chart = Chart("Gradients at neighbouring inputs", "layers", "correlation", lines)
    ends = {label: line[-1][1] for label, line in lines.items()}
    found = (
        f"200 layers: correlation He {ends['He']:.2f}, looks-linear {ends['looks-linear']:.2f}; "
        f"loss after 120 steps {loss['He']:.2f} and {loss['looks-linear']:.2f} (chance 1.61)"
    )
    return Outcome(chart, found, ends["looks-linear"] > 0.99 and loss["looks-linear"] < 0.8 < 1.3 < loss["He"])


def delta_orthogonal(example: dict[str, Any]) -> Outcome:
    torch.manual_seed(0)
    channels, size, classes = example["CHANNELS"], example["SIZE"], example["CLASSES"]
    x, patterns = 0.1 * torch.randn(4, 3, size, size), 0.1 * torch.randn(classes, 3, size, size)
    fills: dict[str, Callable[[torch.Tensor], object]] = {
        "Gaussian": initcheck.init.lecun_normal_,
        "delta-orthogonal": initcheck.init.delta_orthogonal_,
    }
    lines: dict[str, list[tuple[float, float]]] = {}
    loss = {}
    for label, fill in fills.items():
        lines[label] = []
        for depth in (10, 25, 50, 100, 200):
            torch.manual_seed(1)
            model = example["network"](depth, fill)
            lines[label].append((float(depth), example["kept"](model, x)[0]))
            if depth == 100:
                loss[label] = example["trained"](model, patterns, 50)
    chart = Chart(
        f"Plain tanh convolutions of {channels} channels", "layers", "part of a difference that is kept", lines, True
    )
    found = (
        f"loss of 100 layers after 50 steps: Gaussian {loss['Gaussian']:.2f}, delta-orthogonal "
        f"{loss['delta-orthogonal']:.2f} (chance {math.log(classes):.2f})"
    )
    return Outcome(chart, found, loss["delta-orthogonal"] < 0.9 and loss["Gaussian"] > 1.5)


def _memories(
    example: dict[str, Any], cores: dict[str, Callable[[], Any]]
) -> tuple[dict[str, Series], dict[str, float]]:
    lines: dict[str, Series] = {}
    right = {}
    for label, make in cores.items():
        points = []
        for length in (10, 20, 40, 60, 80, 100):
            torch.manual_seed(0)
            points.append((float(length), example["left"](example["Net"](make()), length)))
        lines[label] = points
        torch.manual_seed(0)
        right[label] = example["accuracy"](example["Net"](make()), 60, 120)
    return lines, right


def irnn(example: dict[str, Any]) -> Outcome:
    hidden = example["HIDDEN"]
    cores: dict[str, Callable[[], Any]] = {
        "default": lambda: torch.nn.RNN(1, hidden, nonlinearity="relu", batch_first=True),
        "IRNN": example["irnn"],
    }
    lines, right = _memories(example, cores)
    chart = Chart("ReLU RNN: what is left of the first step", "steps", "gradient, first / last input", lines, True)
    found = f"right after 60 steps of noise: default {right['default']:.0%}, IRNN {right['IRNN']:.0%}"
    kept = {label: line[-1][1] for label, line in lines.items()}
    return Outcome(chart, found, kept["IRNN"] > 0.1 > 1e-6 > kept["default"] and right["IRNN"] > 0.9)


def forget_gate(example: dict[str, Any]) -> Outcome:
    cores = {f"forget-gate bias {bias:g}": example["forget"](bias) for bias in (0.0, 1.0, 3.0)}
    lines, right = _memories(example, cores)
    kept = {label: line[-1][1] for label, line in lines.items()}
    chart = Chart("LSTM: what is left of the first step", "steps", "gradient, first / last input", lines, True)
    found = ", ".join(
        f"{label}: {kept[label]:.1g} left after 100 steps, {right[label]:.0%} right after 60" for label in kept
    )
    ordered = list(kept.values())
    return Outcome(chart, found, ordered[0] < 1e-6 * ordered[2] and ordered[0] < ordered[1] < ordered[2])


def _rows() -> Iterator[Row]:
    yield Row("he", "he_2015", "He et al. 2015: 30 ReLU layers stall with Xavier's scale and learn with He's", he)
    claim = "The textbook figure: of 50 ReLU layers of 100, only variance .02 keeps the signal"
    yield Row("textbook", "textbook_50x100", claim, textbook)
    yield Row("selu", "selu", "Klambauer et al. 2017: SELU with LeCun's init pulls the variance to 1", selu)
    yield Row("fixup", "fixup", "Zhang et al. 2019: Fixup trains a deep residual net without norm layers", fixup)
    claim = "Mishkin and Matas 2016: LSUV brings every layer to unit variance, whatever the activation"
    yield Row("lsuv", "lsuv", claim, lsuv)
    claim = "Sussillo and Abbott 2014: the norm drifts over 200 layers, unless the gain is corrected"
    yield Row("random-walk", "random_walk", claim, random_walk)
    claim = "Balduzzi et al. 2017: gradients shatter with depth; looks-linear nets keep them whole"
    yield Row("looks-linear", "looks_linear", claim, looks_linear)
    claim = "Xiao et al. 2018: delta-orthogonal kernels train deep plain convolutional nets"
    yield Row("delta-orthogonal", "delta_orthogonal", claim, delta_orthogonal)
    claim = "Le et al. 2015: the identity recurrence remembers where the default forgets"
    yield Row("irnn", "recurrent_memory", claim, irnn)
    claim = "Jozefowicz et al. 2015: an LSTM remembers longer with a positive forget-gate bias"
    yield Row("forget-gate", "recurrent_memory", claim, forget_gate)


ROWS = tuple(_rows())


def outcomes(names: list[str]) -> Iterator[tuple[Row, Outcome]]:
    """The rows that are asked for (none: all), run one after another."""
    for row in ROWS:
        if not names or row.name in names:
            yield row, row.run(runpy.run_path(str(EXAMPLES / f"reproduce_{row.example}.py")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=", ".join(row.name for row in ROWS))
    parser.add_argument("--out", type=Path, default=EXAMPLES.parent / "docs" / "pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for row, outcome in outcomes(options.only):
        (options.out / f"{row.name}.svg").write_text(outcome.chart.svg())
        print(f"{'holds' if outcome.holds else 'DOES NOT HOLD'}: {row.claim}\n    {outcome.found}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
