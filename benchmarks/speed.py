"""Cost of the analysis: beside a real pass, against depth, on models larger than memory; cost of the source rules.

    python benchmarks/speed.py [zoo] [deep] [large] [source PATH ...] [--models GLOB ...] [--every N]

zoo: ``initcheck.analyze`` beside one real forward and backward pass at batch 8, same model, same process, at the
model's published size (``usual.py``). deep: MLPs of 100 to 10,000 layers. large: Llama-3-70B and Mixtral-8x7B from
written-out configurations (``speed_large.py``), with the peak of resident memory. source: the rules that read source
only, beside ruff and (if installed) TorchFix on the same files. Times are CPU seconds of one thread, so that other
load on the machine does not count.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import measured
import torch
import zoo
from torch import nn
from usual import usual

import initcheck
from initcheck.audit import audit
from initcheck.findings import Location
from initcheck.tracing.build import build
from initcheck.tracing.ladder import trace
from initcheck.tracing.outputs import primary_output

LONG = 1.0
"""Passes of at least so many seconds must cost more than the analysis."""


def cpu(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def beside_a_pass(models: list[zoo.Model]) -> None:
    initcheck.analyze(nn.Linear(4, 4), torch.randn(2, 4))  # what is loaded on first use
    print(f"{'model':34s} {'analysis':>9s} {'real pass':>9s} {'ratio':>6s}")
    rows: list[tuple[str, float, float]] = []
    for model in models:
        try:
            net, args, kwargs = measured.build(usual(model), 0, 8, "white")

            def real(net: nn.Module = net, args: tuple = args, kwargs: dict = kwargs) -> None:
                out = primary_output(net(*args, **kwargs))
                assert out is not None
                out.backward(torch.randn_like(out))

            def analysis(net: nn.Module = net, args: tuple = args, kwargs: dict = kwargs) -> None:
                initcheck.analyze(net, (args, kwargs))

            rows.append((model.name, cpu(analysis), cpu(real)))
        except Exception as error:
            print(f"{model.name:34s} failed: {type(error).__name__}: {error}".splitlines()[0][:120], flush=True)
            continue
        finally:
            gc.collect()
        name, fast, slow = rows[-1]
        print(f"{name:34s} {fast:8.2f}s {slow:8.2f}s {fast / slow:6.2f}", flush=True)
    if rows:
        ratios = [fast / slow for _, fast, slow in rows]
        long = [(fast / slow, name) for name, fast, slow in rows if slow >= LONG]
        print(f"\n{len(rows)} models: median ratio {statistics.median(ratios):.2f}")
        if long:
            worst, name = max(long)
            median = statistics.median(r for r, _ in long)
            print(f"{len(long)} with a pass of {LONG:g} s or more: median {median:.2f}, largest {worst:.2f} ({name})")


def against_depth() -> None:
    print(f"\n{'layers':>8s} {'build':>8s} {'trace':>8s} {'signal':>8s} {'in all':>8s} {'per layer':>10s}")
    for depth in (100, 1_000, 10_000):

        def net(depth: int = depth) -> nn.Module:
            return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())))

        clock = [time.process_time()]
        built = build(net)
        clock.append(time.process_time())
        traced = trace(built.model, (torch.randn(8, 64),), {}, log=built.log)
        clock.append(time.process_time())
        audit(traced, Location("mlp", 1))
        clock.append(time.process_time())
        steps = [b - a for a, b in itertools.pairwise(clock)]
        cells = " ".join(f"{s:7.2f}s" for s in [*steps, sum(steps)])
        print(f"{depth:8d} {cells} {1000 * sum(steps) / depth:8.2f}ms", flush=True)


def large() -> None:
    heads = f"{'parameters':>11s} {'nodes':>6s} {'layers':>6s} {'known':>6s} {'wall':>7s} {'CPU':>7s} memory"
    print(f"\n{'model':14s} {heads}")
    script = Path(__file__).with_name("speed_large.py")
    for name in ("llama-3-70b", "mixtral-8x7b"):
        done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name:14s} failed: {done.stderr.strip().splitlines()[-1]}")
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:14s} {row['parameters'] / 1e9:9.1f} B {row['nodes']:6d} {row['layers']:6d} {row['coverage']:6.0%} "
            f"{row['seconds']:6.1f}s {row['cpu']:6.1f}s {row['gigabytes']:.2f} GB",
            flush=True,
        )


def children_cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


_PARSE = """
import ast, pathlib, sys
for path in map(pathlib.Path, sys.argv[1:]):
    for file in [path] if path.is_file() else path.rglob("*.py"):
        ast.parse(file.read_bytes())
"""


def source(paths: list[str], python: str) -> None:
    """CPU of whole command lines, start-up included, and per 100 lines of what they read."""
    files = [f for p in map(Path, paths) for f in ([p] if p.is_file() else sorted(p.rglob("*.py")))]
    lines = sum(len(f.read_bytes().splitlines()) for f in files)
    commands = {"initcheck --no-exec": [sys.executable, "-m", "initcheck", "--no-exec", "--fail-on", "never", *paths]}
    commands["Python's ast.parse alone"] = [sys.executable, "-c", _PARSE, *paths]
    commands["ruff (its default rules)"] = [sys.executable, "-m", "ruff", "check", "--no-cache", "--isolated", *paths]
    if subprocess.run([python, "-c", "import torchfix"], capture_output=True, check=False).returncode == 0:
        commands["TorchFix"] = [python, "-m", "torchfix", "--select=ALL", *paths]
    print(f"\nsource rules on {len(files)} files, {lines} lines")
    for name, command in commands.items():
        start = children_cpu([*command[: -len(paths)], __file__])
        whole = children_cpu(command)
        print(
            f"{name:26s} {whole:7.2f}s, start-up {start:5.2f}s, {1e5 * (whole - start) / lines:8.3f} ms per 100 lines"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", help="zoo, deep, large, source (with paths after it); default: the first three"
    )
    parser.add_argument("--models", nargs="*", metavar="GLOB", help="ids of the zoo's models (default: all)")
    parser.add_argument("--every", type=int, default=1, help="only every N-th model of the zoo")
    parser.add_argument("--torchfix-python", default=sys.executable, help="interpreter that has TorchFix")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parts: list[str] = options.parts or ["zoo", "deep", "large"]
    print(f"torch {torch.__version__}, one thread, CPU seconds")
    if "zoo" in parts:
        beside_a_pass(zoo.models(options.models)[:: options.every])
    if "deep" in parts:
        against_depth()
    if "large" in parts:
        large()
    if "source" in parts:
        paths = parts[parts.index("source") + 1 :] or [
            str(Path(importlib.util.find_spec("torch").origin).parent / "nn")
        ]
        source(paths, options.torchfix_python)


if __name__ == "__main__":
    main()
