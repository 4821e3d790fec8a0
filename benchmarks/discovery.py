"""How many models of real files are found, built, fed and traced without any configuration.

    python benchmarks/discovery.py PATH... [--timeout 60] [--verbose]

PATH: Python files, or folders that are searched for them. Each file is analysed in a process of its own. Printed: one
line per root model (the way it was built and its inputs, or the reason why not), and the totals.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

STAGES = ("found", "built", "inputs", "traced")


@dataclass(frozen=True, slots=True)
class Row:
    """One root model. ``stage``: the last one it reached; ``detail``: how, or why no further."""

    path: str
    model: str
    stage: str
    detail: str
    seconds: float


def python_files(paths: list[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def rows_of(path: Path) -> Iterator[Row]:
    """Every root model of a file, as far as it gets."""
    from initcheck.config import Config
    from initcheck.discovery.candidates import candidates
    from initcheck.discovery.loader import LoadError, load
    from initcheck.source.file import SourceError, SourceFile

    try:
        source = SourceFile.read(path)
    except SourceError:
        return
    if not source.mentions_modules():
        return
    try:
        module = load(source)
    except LoadError as error:
        yield Row(str(path), "?", "", str(error), 0.0)
        return
    for candidate in candidates(source, module, Config()):
        yield row_of(str(path), candidate)


def row_of(path: str, candidate: object) -> Row:
    from initcheck.discovery.inputs import InputsNotFound, find_inputs
    from initcheck.tracing.build import BuildError, build
    from initcheck.tracing.ladder import TraceError, Trial, trace

    started, stage = time.perf_counter(), "found"
    try:
        built = build(candidate.construct)  # type: ignore[attr-defined]
        stage = "built"
        inputs = find_inputs(built.model, candidate, Trial(built.model))  # type: ignore[arg-type]
        stage = "inputs"
        traced = trace(built.model, inputs.args, inputs.kwargs, log=built.log)
        stage = "traced"
        detail = f"{candidate.how} | {inputs.description} | {traced.rung}"  # type: ignore[attr-defined]
    except (BuildError, InputsNotFound, TraceError) as error:
        detail = str(error.__cause__ or error) if isinstance(error, BuildError) else str(error)
    return Row(path, candidate.name, stage, " ".join(detail.split()), time.perf_counter() - started)  # type: ignore[attr-defined]


def child(path: Path, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for row in rows_of(path):
        sender.send(row)
    sender.send(None)
    sender.close()
    os._exit(0)


def analysed(path: Path, timeout: float) -> Iterator[Row]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=child, args=(path, sender))
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(timeout):
                yield Row(str(path), "?", "", f"took longer than {timeout:g} s", timeout)
                return
            row = receiver.recv()
            if row is None:
                return
            yield row
    except EOFError:
        process.join()
        yield Row(str(path), "?", "", f"its process ended with exit code {process.exitcode}", 0.0)
    finally:
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per model")
    parser.add_argument("--verbose", action="store_true", help="show models that were traced, too")
    options = parser.parse_args()
    import torch  # noqa: F401  (once, before the forks)

    rows: list[Row] = []
    for path in python_files(options.paths):
        for row in analysed(path, options.timeout):
            rows.append(row)
            if options.verbose or row.stage != "traced":
                name = "/".join(path.parts[-3:])
                print(
                    f"{row.stage or 'lost':7s} {name}: {row.model}: {row.detail[:240]} ({row.seconds:.1f} s)",
                    flush=True,
                )
    print(f"\n{len(rows)} root models in {len({row.path for row in rows})} files")
    for position, stage in enumerate(STAGES):
        count = sum(row.stage in STAGES[position:] for row in rows)
        print(f"  {stage:7s} {count:4d}  {100 * count / max(len(rows), 1):5.1f} %")
    return 0


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    sys.exit(main())
