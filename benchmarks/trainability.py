"""The verdict before training beside what training does, on a grid of small nets.

Each net is judged by ``initcheck.analyze`` and then trained with SGD with momentum and with Adam, at three learning
rates each. A net learns if any of the six reaches 70 % accuracy of ten classes. Where the verdict is an error,
``initcheck.apply(net, "suggested")`` rewrites the weights and the net is trained again. Printed: a table by kind of
net, the area under the ROC curve of the verdict as a forecast of failure, every disagreement, and the nets that the
suggestion does not mend.

The verdict is scored in three ways: *ordered* by its severity (none, info, warning, error), and within one severity by
the decades of the predicted reach off 1; by *severity* alone; and as *error or not*. Thresholds were set by looking at
every second net (the first half); both halves are printed. A net or two at the edge moves the area by a hundredth, so
each net is drawn and trained twice, with different weights, and judged anew; the area is given for each draw and for
all of them together.

    python benchmarks/trainability.py [--quick] [--held-out] [--cache FOLDER] [--jobs 2] [--settings N] [--draws N]

``--cache`` keeps the outcomes of training (not the verdicts), so that a changed rule is judged on the same runs.
``--settings 6`` trains all settings to the end, and prints how many of the six learn; by default a net is done when one
has learned.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from nets import Spec, grid
from torch import nn
from training import SETTINGS, Task, clusters, learning_steps, pictures

import initcheck

STEPS = {"mlp": 400, "cnn": 200}
GRADES = ("none", "info", "warning", "error")
_APART = 10_000
"""Between the seeds of one draw of all nets and of the next."""
FARTHEST = 400.0
"""Decades off the healthy reach of what has no reach at all: dead units, or units all alike."""


@dataclass(frozen=True, slots=True)
class Result:
    """One net. ``steps``: for each setting, when it learned; ``mended``: likewise with the suggested init, if tried."""

    spec: Spec
    grade: str
    codes: tuple[str, ...]
    reach: float | None
    steps: tuple[int | None, ...]
    mended: tuple[int | None, ...] | None
    changes: int = 0

    @property
    def learns(self) -> bool:
        return any(step is not None for step in self.steps)

    @property
    def decades(self) -> float:
        """How far the predicted reach is off 1, as far as a finding gives it; 0 for a net without a finding."""
        if self.grade == "none":
            return 0.0
        if self.reach is None:
            return FARTHEST if self.grade == "error" else 0.0
        return abs(math.log10(self.reach)) if self.reach > 0 else FARTHEST

    @property
    def learns_mended(self) -> bool:
        return any(step is not None for step in self.mended or ())


def task_of(spec: Spec) -> Task:
    return clusters() if spec.kind == "mlp" else pictures()


def judged(model: nn.Module, spec: Spec) -> initcheck.Report:
    return initcheck.analyze(model, (torch.randn(16, *task_of(spec).shape),))


def outcome(model: nn.Module, spec: Spec, until: int | None, cache: Path | None) -> tuple[int | None, ...]:
    """``learning_steps``, or what the cache knows of the same weights."""
    digest = hashlib.sha256(
        f"{spec.kind} {STEPS[spec.kind]} {until} {spec.activation} {spec.norm} {spec.residual}".encode()
    )
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    path = cache / f"{digest.hexdigest()[:24]}.json" if cache is not None else None
    if path is not None and path.exists():
        return tuple(json.loads(path.read_text())["steps"])
    steps = learning_steps(model, task_of(spec), STEPS[spec.kind], until=until)
    if path is not None:
        path.write_text(json.dumps({"spec": asdict(spec), "steps": steps}))
    return tuple(steps)


def run(job: tuple[Spec, int, int | None, Path | None]) -> Result:
    spec, seed, until, cache = job
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model = spec.build(seed)
    report = judged(model, spec)
    loudest = max((int(f.severity) for f in report.findings if f.code[:3] != "IC0"), default=-1)
    grade = GRADES[loudest + 1]
    codes = tuple(sorted({f.code for f in report.findings if int(f.severity) == loudest and loudest >= 0}))
    reach = next((f.data["reach"] for f in report.findings if "reach" in f.data), None)
    steps = outcome(model, spec, until, cache)
    mended, changes = None, 0
    if grade == "error":
        torch.manual_seed(seed)
        changes = len(initcheck.apply(model, "suggested", (torch.randn(64, *task_of(spec).shape),)))
        mended = outcome(model, spec, 1, cache)
    return Result(spec, grade, codes, reach, steps, mended, changes)


Score = tuple[float, ...]


def ordered(result: Result) -> Score:
    """Severity, then how far the reach that the finding gives is off 1, in decades."""
    return *by_severity(result), result.decades


def by_severity(result: Result) -> Score:
    return (GRADES.index(result.grade),)


def error_or_not(result: Result) -> Score:
    return (result.grade == "error",)


def area(results: Sequence[Result], score: Callable[[Result], Score]) -> float:
    """Area under the ROC curve: how often a net that fails scores above one that learns (ties count half)."""
    fails = [score(r) for r in results if not r.learns]
    learns = [score(r) for r in results if r.learns]
    if not fails or not learns:
        return float("nan")
    wins = sum((f > other) + 0.5 * (f == other) for f in fails for other in learns)
    return wins / (len(fails) * len(learns))


def table(results: Sequence[Result]) -> None:
    print(f"{'nets':32}{'count':>6}{'learn':>7}{'fail':>6} |" + "".join(f"{f'{g}: learn/fail':>20}" for g in GRADES))
    groups = sorted({_group(r.spec) for r in results})
    for group in [*groups, "all"]:
        mine = [r for r in results if group in ("all", _group(r.spec))]
        cells = Counter((r.grade, r.learns) for r in mine)
        learn = sum(r.learns for r in mine)
        print(
            f"{group:32}{len(mine):6}{learn:7}{len(mine) - learn:6} |"
            + "".join(f"{f'{cells[g, True]}/{cells[g, False]}':>20}" for g in GRADES)
        )


def _group(spec: Spec) -> str:
    return f"{spec.kind}{', residual' if spec.residual else ''}, {f'{spec.norm} norm' if spec.norm else 'no norm'}"


def report(draws: Sequence[Sequence[Result]], seconds: float) -> None:
    """``draws``: of each draw, the same nets in the same order."""
    results = [r for draw in draws for r in draw]
    table(results)
    print("\nAUC of the verdict against failing to learn:")
    parts = [("all", results)]
    parts += [(f"draw {i + 1}", list(draw)) for i, draw in enumerate(draws) if len(draws) > 1]
    parts += [(f"{name} half", [r for d in draws for r in d[k::2]]) for k, name in enumerate(("first", "second"))]
    for name, part in parts:
        areas = [f"{area(part, score):.3f} {score.__name__}" for score in (ordered, by_severity, error_or_not)]
        fails = sum(not r.learns for r in part)
        print(f"  {name:12} {fails:3} of {len(part)} do not learn: {', '.join(areas)}")
    if len(draws) > 1:
        nets = list(zip(*draws, strict=True))
        print(f"{sum(len({r.learns for r in net}) > 1 for net in nets)} of {len(nets)} nets learn from some draws only")
    mended = [r for r in results if r.mended is not None]
    helped = sum(r.learns_mended for r in mended)
    print(f"suggested init of nets with an error: {helped} of {len(mended)} learn ({helped / max(len(mended), 1):.1%})")
    print(f"{seconds:.0f} s")
    for title, wrong in (
        ("error, yet it learns", [r for r in results if r.grade == "error" and r.learns]),
        ("no error, yet it does not learn", [r for r in results if r.grade != "error" and not r.learns]),
    ):
        print(f"\n{title}: {len(wrong)}")
        for r in wrong:
            print(f"  {r.spec}: {r.grade} {','.join(r.codes)} reach {r.reach}; {_shown(r.steps)}")
    print("\nnot mended:")
    for r in mended:
        if not r.learns_mended:
            print(f"  {r.spec}: {','.join(r.codes)} reach {r.reach}; {r.changes} parameters rewritten")


def _shown(steps: Sequence[int | None]) -> str:
    return ", ".join(f"{s} after {n}" for s, n in zip(SETTINGS, steps, strict=True) if n is not None) or "none learns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every eighth net")
    parser.add_argument("--held-out", action="store_true", help="a grid of other depths, widths and activations")
    parser.add_argument("--cache", type=Path, help="folder that keeps the outcomes of training")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--settings", type=int, default=1, help="go on until so many of the six have learned")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2, help="how often each net is drawn and trained")
    parser.add_argument("--part", default="", help="only nets whose description contains this")
    options = parser.parse_args()
    specs = [s for s in grid(held_out=options.held_out) if options.part in str(s)][:: 8 if options.quick else 1]
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    jobs = [
        (spec, options.seed + _APART * draw + i, options.settings, options.cache)
        for draw in range(options.draws)
        for i, spec in enumerate(specs)
    ]
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        results = list(pool.imap(run, jobs))
    draws = [results[k : k + len(specs)] for k in range(0, len(results), len(specs))]
    report(draws, time.perf_counter() - started)


if __name__ == "__main__":
    main()
