"""How quiet initcheck is on good models: every architecture of timm, torchvision's, and configurations of transformers.

Each model is built without allocating its weights, traced and checked as a file's models are. What was found is kept on
disk, one line of JSON for each model, so that a run goes on where the last one stopped. A worker process checks a batch
of models and ends, which bounds the memory.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import record

MAX_BYTES = 2_500_000_000
"""A worker that has grown to this ends after the model at hand."""

MAX_SECONDS = 240
"""CPU seconds for one model."""

LOUD = ("error", "warning")


def check(name: str) -> dict[str, Any]:
    """One line of the record."""
    import torch
    from models import all_models

    from initcheck.audit import audit
    from initcheck.findings import Location
    from initcheck.tracing.build import BuildError, build
    from initcheck.tracing.ladder import TraceError, trace

    case = _cached(all_models)[name]
    started = time.process_time()
    row: dict[str, Any] = {"model": name}
    try:
        with _time_limit(), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(0)
            built = build(case.build)
            args, kwargs = case.inputs(2, "white")
            traced = trace(built.model, args, kwargs, log=built.log, name=name)
            audited = audit(traced, Location(f"<{name}>", 1))
    except (BuildError, TraceError, TimeoutError, MemoryError) as error:
        return {**row, "failed": f"{type(error).__name__}: {error}"[:300], "seconds": time.process_time() - started}
    report = audited.report
    return {
        **row,
        "parameters": report.parameter_elements,
        "layers": len(report.layers),
        "coverage": round(report.coverage, 4),
        "unknown": dict(report.unknown_ops),
        "rung": report.rung,
        "defects": list(audited.defects),
        "seconds": round(time.process_time() - started, 2),
        "findings": [
            {
                "code": f.code,
                "severity": f.severity.name.lower(),
                "message": f.message,
                "at": f"{_shown(f.location.path)}:{f.location.line}",
                "parameter": f.parameter,
            }
            for f in report.findings
        ],
    }


_MADE: dict[Any, Any] = {}


def _cached(make: Any) -> Any:
    return _MADE.setdefault(make, None) or _MADE.update({make: make()}) or _MADE[make]


def _shown(path: str) -> str:
    return re.sub(r".*/site-packages/", "", path)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} CPU seconds")

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _bytes_used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(path: Path, names: Sequence[str]) -> None:
    """Check models until all are done or the process has grown too large."""
    warnings.filterwarnings("ignore")
    for name in names:
        record.append(path, {"model": name, "begun": True})
        record.append(path, {**check(name), "code": record.code_version()})
        if _bytes_used() > MAX_BYTES:
            return


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each model; a model whose worker died while at it counts as failed."""
    rows: dict[str, dict[str, Any]] = {}
    for row in record.rows(path):
        if row.pop("begun", False):
            row = {**row, "failed": "the worker died (memory)"}
        rows[row["model"]] = row
    return rows


def is_loud(row: dict[str, Any]) -> bool:
    return any(f["severity"] in LOUD for f in row.get("findings", ()))


def sweep(cache: Path, only: Sequence[str], again: str, most: int, jobs: int) -> dict[str, dict[str, Any]]:
    """Check what the record does not yet hold; can be stopped at any time and goes on where it was.

    Args:
        cache: folder of the record.
        only: parts of names; none: every model.
        again: what to check anew: ``loud``, ``failed``, ``old`` (of another version of the code) or a part of a name.
        most: at most so many models, 0 for all: first a small one of each family, then the next.
        jobs: processes.
    """
    from models import all_models, mixed

    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "silence.jsonl"
    names = mixed(n for n in _cached(all_models) if not only or any(part in n for part in only))[: most or None]
    known = {n: row for n, row in read(path).items() if not _to_repeat(row, again)}
    todo = [name for name in names if name not in known]
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(_work_apart, path, todo[start::jobs]) for start in range(jobs)]:
            done.result()
    return {name: row for name, row in read(path).items() if name in names}


def _to_repeat(row: dict[str, Any], again: str) -> bool:
    if again == "loud":
        return is_loud(row)
    if again == "failed":
        return "failed" in row
    return record.stale(row.get("code", ""), row["model"], again)


def _work_apart(path: Path, todo: list[str]) -> None:
    """Check models in processes, each of which ends after a batch or when it has grown too large."""
    begun = len(todo)
    while todo:
        command = [sys.executable, str(Path(__file__).resolve()), str(path), *todo[:60]]
        before = sum(1 for _ in record.rows(path))
        subprocess.run(command, check=False, env=record.environment())
        new = list(itertools.islice(record.rows(path), before, None))
        touched = {row["model"] for row in new}
        left = [name for name in todo if name not in touched]
        if len(left) == len(todo):
            raise RuntimeError("the worker checks nothing: see its output above")
        todo = left
        print(f"# {begun - len(todo)} of {begun} models", file=sys.stderr, flush=True)


def report(rows: dict[str, dict[str, Any]]) -> None:
    """The table, then every loud model by name."""
    print(
        f"{'family':14}{'models':>8}{'checked':>9}{'loud':>6}{'errors':>8}{'warnings':>10}"
        f"{'coverage':>10}{'median s':>10}"
    )
    families = sorted({name.partition(":")[0] for name in rows})
    for family in [*families, "all"]:
        mine = [row for name, row in rows.items() if family in ("all", name.partition(":")[0])]
        checked = [row for row in mine if "failed" not in row]
        loud = [row for row in checked if is_loud(row)]
        errors, warned = (
            sum(any(f["severity"] == level for f in row["findings"]) for row in checked) for level in LOUD
        )
        seconds = sorted(row["seconds"] for row in checked) or [0.0]
        coverage = sum(row["coverage"] for row in checked) / max(len(checked), 1)
        print(
            f"{family:14}{len(mine):8}{len(checked):9}{len(loud):6}{errors:8}{warned:10}{coverage:10.4f}"
            f"{seconds[len(seconds) // 2]:10.2f}"
        )
    checked_all = [row for row in rows.values() if "failed" not in row]
    loud_all = [row for row in checked_all if is_loud(row)]
    print(f"\nloud: {len(loud_all)} of {len(checked_all)} ({len(loud_all) / max(len(checked_all), 1):.2%})")
    for row in loud_all:
        print(f"\n{row['model']}")
        for f in row["findings"]:
            if f["severity"] in LOUD:
                print(f"  {f['severity']} {f['code']} {f['at']} {f['message'][:220]}")
    for row in rows.values():
        if "failed" in row:
            print(f"not checked: {row['model']}: {row['failed']}")
        for defect in row.get("defects", ()):
            print(f"defect: {row['model']}: {defect.splitlines()[0]}")


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2:])
