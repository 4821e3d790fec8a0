"""Other tools beside initcheck, model by model: what each predicts, what it only measures, and where it stops.

AnyInit re-draws the weights of a model and predicts the root mean square of what each layer then puts out, forward
only; it measures the same in a validation pass, and both figures here are its own. The very weights that it drew are
then given to initcheck (statistics of the weights, no data), and compared with a forward and a backward pass over them.
Layers that AnyInit does not hold itself to (their output feeds a norm layer) are not counted against it. One draw, one
batch: finite width shows in every figure. unit-scaling predicts nothing: it runs a forward and a backward pass and
writes the std of each tensor beside the code. So its column counts tensors.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import accuracy
import measured
import torch
import zoo
from torch import nn

from initcheck.audit import audit
from initcheck.findings import Location
from initcheck.tracing.ladder import trace

METHODS = ("AnyInit", "unit-scaling")


def say(method: str, python: str, models: Sequence[zoo.Model], batch: int, folder: str) -> dict[str, dict[str, Any]]:
    """What a peer says of each model, by the model's id; "" holds the reason if it cannot be run at all."""
    script = Path(__file__).with_name("accuracy_peer.py")
    command = [python, str(script), method, str(batch), folder, *(m.name for m in models)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = {line["model"]: line for line in lines}
    if done.returncode:
        said[""] = {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return said


def redrawn(model: zoo.Model, weights: Path) -> nn.Module:
    net = model.build().train()
    net.load_state_dict(torch.load(weights))
    return net


def ours(model: zoo.Model, weights: Path, batch: int) -> tuple[list[float], list[float], float]:
    """(forward errors, gradient errors, seconds) of initcheck on those weights."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        build = functools.partial(redrawn, model, weights)
        real = measured.measured(replace(model, build=build), 1, batch, "white", None)
        net, (args, kwargs) = build(), model.inputs(batch, "white")
    started = time.process_time()
    report = audit(trace(net, args, kwargs), Location(model.name, 1)).report
    seconds = time.process_time() - started
    rows = [(row, real[row.name]) for row in report.layers if row.name in real]
    forward = [accuracy.log_ratio(row.forward_std, found.forward_std) for row, found in rows]
    gradient = [accuracy.log_ratio(row.grad_std, found.grad_std) for row, found in rows]
    return [e for e in forward if e is not None], [e for e in gradient if e is not None], seconds


def cells(errors: Sequence[float]) -> str:
    return f"{len(errors):6d} {accuracy.quantile(list(errors), 0.5):6.3f} {accuracy.quantile(list(errors), 0.95):6.3f}"


def blanks() -> str:
    return f"{'-':>6s} {'':6s} {'':6s}"


def table(models: Sequence[zoo.Model], python: str, batch: int) -> None:
    """Print a row per model, then the totals over the models that AnyInit could run."""
    with tempfile.TemporaryDirectory() as folder:
        said = {method: say(method, python, models, batch, folder) for method in METHODS}
        for method, answers in said.items():
            if "" in answers:
                print(f"{method} stopped: {answers['']['error'][:160]}")
        print(
            f"\n|ln(predicted/measured)|, median and 95th percentile over layers, a draw of AnyInit's weights, CPU s\n"
            f"{'':28s} {'AnyInit, forward':>28s}   {'initcheck, forward':>20s}     {'initcheck, gradient':>20s}"
            f"            unit-scaling\n"
            f"{'model':28s} {'layers':>6s} {'med':>6s} {'p95':>6s} {'s':>6s}   {'layers':>6s} {'med':>6s} {'p95':>6s}"
            f"   {'layers':>6s} {'med':>6s} {'p95':>6s} {'s':>6s}   measures"
        )
        totals: dict[str, list[float]] = {"AnyInit": [], "forward": [], "gradient": []}
        healthy: list[tuple[str, float]] = []
        for model in models:
            for line in row(model, said, Path(folder), batch, totals, healthy):
                print(line, flush=True)
    print(
        f"{'all of both':28s} {cells(totals['AnyInit'])} {'':6s}   {cells(totals['forward'])}   "
        f"{cells(totals['gradient'])}"
    )
    for method, answers in said.items():
        done = sum("error" not in answer for answer in answers.values())
        print(f"{method} ran on {done} of {len(models)} models")
    if healthy:
        off = [f"{name} ({math.exp(error):.3g} x)" for name, error in healthy if error > math.log(2)]
        print(
            f"AnyInit calls {len(healthy)} models healthy; in {len(off)} of them one of its own predictions is off "
            f"from its own measurement by more than a factor of 2: {', '.join(off)}"
        )


def row(
    model: zoo.Model,
    said: Mapping[str, Mapping[str, Mapping[str, Any]]],
    folder: Path,
    batch: int,
    totals: Mapping[str, list[float]],
    healthy: list[tuple[str, float]],
) -> Iterator[str]:
    peer = said["AnyInit"].get(model.name, {"error": "not run"})
    other = said["unit-scaling"].get(model.name, {"error": "not run"})
    beside = (
        f"stops: {other['error']}"[:72]
        if "error" in other
        else f"{other['forward']} tensors, {other['gradient']} gradients, {other['seconds']:.1f} s"
    )
    if "error" in peer:
        yield f"{model.name:28s} {blanks()} {'':6s}   {blanks()}   {blanks()} {'':6s}   {beside}"
        yield f"{'':28s} AnyInit stops: {peer['error'][:110]}"
        return
    errors = [e for _, predicted, found in peer["pairs"] if (e := accuracy.log_ratio(predicted, found)) is not None]
    forward, gradient, seconds = ours(model, folder / f"{model.name.replace(':', '-')}.pt", batch)
    for key, values in (("AnyInit", errors), ("forward", forward), ("gradient", gradient)):
        totals[key].extend(values)
    if peer["verdict"] == "healthy":
        healthy.append((model.name, max((abs(e) for e in errors), default=0.0)))
    yield (
        f"{model.name:28s} {cells(errors)} {peer['seconds']:6.2f}   {cells(forward)}   {cells(gradient)} "
        f"{seconds:6.2f}   {beside}"
    )
