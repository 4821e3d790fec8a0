"""Predicted beside measured: the std of every layer's output and of its gradient, over many models.

For each model of the zoo: one prediction (train mode) from an instance that is built without weights, and real forward
and backward passes over several seeds (new weights, new inputs, a normal cotangent of unit rms at the primary output).
Printed per model: median and 95th percentile over its layers of |ln(predicted / measured)|, forward and gradient; then
over all layers of all models; and for each family the worst layer in either direction.

A layer whose measured value is exactly zero, and predicted so, counts as neither hit nor miss: it stands in a column of
its own. Zero against not zero is an infinite error, a value that is not predicted is counted as such.

    python benchmarks/accuracy.py [--models 'timm:*' ...] [--seeds 4] [--input white|correlated] [--cache DIR]

``--cache`` keeps what was measured, so that a second run only predicts. ``--input correlated``: inputs with
neighbouring positions (images, waves) get the power spectrum of natural images, 1/f², and the prediction is told mean,
variance and correlation of the inputs; other models are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import math
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import measured
import torch
import zoo

from initcheck.results import LayerRow
from initcheck.signal.propagate import propagate
from initcheck.signal.result import Signal
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace


@dataclass(frozen=True, slots=True)
class Error:
    """One layer: its errors ln(predicted/measured), None where it is not compared."""

    layer: str
    kind: str
    forward: float | None
    gradient: float | None


@dataclass(slots=True)
class Result:
    """One model."""

    model: zoo.Model
    errors: list[Error] = field(default_factory=list)
    unknown_ops: Mapping[str, int] = field(default_factory=dict)
    zeros: int = 0
    """Values that are exactly zero, predicted and measured."""
    missing: int = 0
    """Values that were measured and not predicted."""
    seconds: float = 0.0
    failure: str = ""

    def of(self, direction: str) -> list[float]:
        return [value for e in self.errors if (value := getattr(e, direction)) is not None]


def predict(model: zoo.Model, batch: int, kind: str, live: bool) -> tuple[Signal, float]:
    """The prediction and the seconds it took (propagation only)."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        if live:
            net, log = model.build(), None
        else:
            built = build(model.build)
            net, log = built.model, built.log
        args, kwargs = model.inputs(batch, kind)
        record = trace(net, args, kwargs, log=log, inputs_given=model.told or kind == "correlated")
    started = time.perf_counter()
    signal = propagate(record)
    return signal, time.perf_counter() - started


def compare(model: zoo.Model, options: argparse.Namespace) -> Result:
    result = Result(model)
    try:
        signal, result.seconds = predict(model, options.batch, options.input, options.live)
        real = measured.measured(model, options.seeds, options.batch, options.input, options.cache)
    except Exception as error:
        result.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        return result
    result.unknown_ops = signal.unknown_ops
    for row in signal.layers:
        if row.name in real:
            result.errors.append(_errors(result, row, real[row.name], options.layers))
    return result


def _errors(result: Result, row: LayerRow, real: measured.Real, verbose: bool) -> Error:
    values = []
    for predicted, found in ((row.forward_std, real.forward_std), (row.grad_std, real.grad_std)):
        values.append(log_ratio(predicted, found))
        result.missing += predicted is None and found is not None
        result.zeros += predicted == 0.0 and found == 0.0
    error = Error(row.name, row.kind, *values)
    if verbose:
        print(
            f"  {row.name[-44:]:44s} {row.kind[:16]:16s} {_pair(row.forward_std, real.forward_std, error.forward)} "
            f"  {_pair(row.grad_std, real.grad_std, error.gradient)}"
        )
    return error


def _pair(predicted: float | None, real: float | None, error: float | None) -> str:
    cells = ["?" if v is None else f"{v:.4g}" for v in (predicted, real)]
    return f"{cells[0]:>10s} / {cells[1]:>10s} [{'' if error is None else f'{error:+.3f}'}]"


def log_ratio(predicted: float | None, real: float | None) -> float | None:
    """ln(predicted/measured); None if either is missing or both vanish, infinite if one vanishes or is no number."""
    if predicted is None or real is None or (predicted == 0.0 and real == 0.0):
        return None
    if not (math.isfinite(predicted) and math.isfinite(real)):
        return None if math.isfinite(predicted) == math.isfinite(real) else math.inf
    if predicted == 0.0 or real == 0.0:
        return math.inf if real == 0.0 else -math.inf
    return math.log(predicted / real)


def quantile(values: list[float], share: float) -> float:
    """That quantile of the absolute values."""
    ordered = sorted(abs(v) for v in values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else math.nan


HEADER = f"{'model':34s} layers forward med    p95 gradient med    p95  zero  seconds"


def line(name: str, results: Iterable[Result], seconds: float, note: str = "") -> str:
    rows = list(results)
    cells = [f"{name:34s} {sum(len(r.errors) for r in rows):6d}"]
    for direction, width in (("forward", 11), ("gradient", 12)):
        values = [v for r in rows for v in r.of(direction)]
        cells.append(f"{quantile(values, 0.5):{width}.4f} {quantile(values, 0.95):6.3f}")
    return " ".join([*cells, f"{sum(r.zeros for r in rows):5d} {seconds:8.2f}{note}"])


def report(result: Result) -> None:
    if result.failure:
        print(f"{result.model.name:34s} failed: {result.failure[:120]}", flush=True)
        return
    note = f"  {result.missing} not predicted" if result.missing else ""
    if result.unknown_ops:
        note += f"  unknown: {', '.join(f'{op} x{n}' for op, n in result.unknown_ops.items())}"
    print(line(result.model.name, [result], result.seconds, note), flush=True)


def totals(results: list[Result]) -> None:
    done = [r for r in results if not r.failure]
    print("\n" + HEADER)
    groups: dict[str, list[Result]] = {}
    for r in done:
        groups.setdefault(r.model.name.partition(":")[0], []).append(r)
    for name, group in groups.items():
        print(line(f"{name}: {len(group)} models", group, sum(r.seconds for r in group)))
    print(line(f"all: {len(done)} models", done, sum(r.seconds for r in done)))
    whole = sum(1 for r in done if not r.unknown_ops)
    print(f"\nno unknown op in {whole} of {len(results)} models ({whole / len(results):.1%})")
    print(f"{sum(r.missing for r in done)} values measured but not predicted; {len(results) - len(done)} models failed")


def worst_layers(results: list[Result]) -> None:
    """Per family the layer that is furthest off, in each direction."""
    heads = [f"{f'worst {direction}: layer (kind)':64s} {'ln':>7s}" for direction in ("forward", "gradient")]
    print(f"\n{'family':28s} {'   '.join(heads)}")
    families: dict[str, list[Result]] = {}
    for r in results:
        families.setdefault(r.model.family, []).append(r)
    for family, group in sorted(families.items()):
        cells = []
        for direction in ("forward", "gradient"):
            known = [(r, e) for r in group for e in r.errors if getattr(e, direction) is not None]
            if not known:
                cells.append(f"{'-':64s} {'':>7s}")
                continue
            r, e = max(known, key=lambda pair: abs(getattr(pair[1], direction)))
            label = f"{r.model.name.partition(':')[2]} {e.layer} ({e.kind})"
            cells.append(f"{label[-64:]:64s} {getattr(e, direction):+7.3f}")
        print(f"{family:28s} {'   '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", metavar="GLOB", help="ids of the models to run (default: all)")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input", choices=("white", "correlated"), default="white")
    parser.add_argument("--cache", type=Path, help="folder with one JSON of measured values per model")
    parser.add_argument("--cached", action="store_true", help="only models whose measured values are in the cache")
    parser.add_argument("--live", action="store_true", help="predict from real weights instead of from the init log")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    parser.add_argument("--peers", action="store_true", help="side by side with other tools")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has anyinit and unit-scaling")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = zoo.models(options.models)
    if options.peers:
        import peers

        print(f"torch {torch.__version__}, batch {options.batch}, white input")
        peers.table(found, options.peers_python, options.batch)
        return
    if options.input == "correlated":
        found = [m for m in found if m.spatial]
    if options.cached:
        found = [m for m in found if measured.stored(m, options.seeds, options.batch, options.input, options.cache)]
    print(f"torch {torch.__version__}, {options.seeds} seeds, batch {options.batch}, {options.input} input\n\n{HEADER}")
    results = []
    for model in found:
        results.append(compare(model, options))
        report(results[-1])
        gc.collect()
    if results:
        totals(results)
        worst_layers(results)


if __name__ == "__main__":
    main()
