"""How many root models of real files are found, built, fed and traced without any configuration.

    python benchmarks/discovery.py PATH... [--timeout 60] [--verbose]
    python benchmarks/discovery.py FOLDER --list FILES.tsv

PATH: Python files, or folders that are searched for them. FILES.tsv: a table with the columns ``repo`` and ``path``;
its files are looked up as FOLDER/owner+name/path, those of ``pypi:package==version`` among the installed packages or as
FOLDER/package-version/path. Each file is analysed in a process of its own, as initcheck does.

Printed: one line per file that has root models (how many, how far they got, why not further), and the totals over all
files and over those all of whose imports are installed. ``--verbose``: the way each model was built, and its inputs.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from initcheck.discovery.candidate import Candidate

STAGES = ("found", "built", "fed", "traced")
_SKIPPED = frozenset({"node_modules", "site-packages", "build", "dist", "venv", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Row:
    """One root model. ``reached``: how many of ``STAGES``; ``detail``: how, or why no further."""

    model: str
    reached: int
    detail: str


@dataclass(slots=True)
class File:
    """One file: its root models, the packages it lacks, and the wall time of all of it in seconds."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    missing: frozenset[str] = frozenset()
    seconds: float = 0.0


def python_files(paths: Iterable[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*.py") if not _SKIPPED & set(p.relative_to(path).parts))
        else:
            yield path


def listed_files(table: str, folder: str) -> Iterator[Path]:
    """The files that a table names; those that are not there are said on stderr."""
    with open(table, newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    for row in rows:
        repo, path = row["repo"], row["path"]
        if repo.startswith("pypi:"):
            name, _, version = repo.removeprefix("pypi:").partition("==")
            homes = [Path(folder) / f"{name}-{version}", Path(sysconfig.get_path("purelib"))]
        else:
            short = Path(folder) / repo.replace("/", "+")
            homes = [Path(f"{short}@{(row.get('commit') or '')[:7]}"), short]
        found = next((home / path for home in homes if (home / path).is_file()), None)
        if found is None:
            print(f"not there: {repo} {path}", file=sys.stderr)
        else:
            yield found


def analyse(path: Path, sender: Connection) -> None:
    """Send a ``Row`` for every root model of a file, as far as it gets, and the packages that are not installed."""
    from initcheck.config import Config
    from initcheck.discovery.absent import absent_models
    from initcheck.discovery.candidates import candidates
    from initcheck.discovery.loader import LoadError, execution, load
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
        sender.send(Row("(the file)", 0, str(error)))
        return
    run = execution(module)
    found = candidates(source, module, Config())
    known = {candidate.name for candidate in found}
    for name, _, reason in absent_models(source, module):
        if name not in known:
            sender.send(Row(name, 0, reason))
    for candidate in found:
        sender.send(candidate.name)
        sender.send(row_of(candidate))
    sender.send(frozenset(run.session.missing if run is not None else ()))


def row_of(candidate: Candidate) -> Row:
    from initcheck.discovery.inputs import InputsNotFound
    from initcheck.discovery.prepare import prepare
    from initcheck.tracing.build import BuildError
    from initcheck.tracing.ladder import TraceError, trace

    try:
        built, inputs = prepare(candidate)
        traced = trace(built.model, inputs.args, inputs.kwargs, log=built.log)
        reached, detail = 4, f"{candidate.how} | {inputs.description} | {traced.rung}"
    except BuildError as error:
        reached, detail = 1, str(error.__cause__ or error)
    except InputsNotFound as error:
        reached, detail = 2, str(error)
    except TraceError as error:
        reached, detail = 3, str(error)
    return Row(candidate.name, reached, " ".join(detail.split()))


def child(path: Path, sender: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    analyse(path, sender)
    sender.send(None)
    sender.close()
    os._exit(0)


def measured(path: Path, timeout: float) -> File:
    """A file's rows; the model under way when its time is up, or when its process dies, counts as found."""
    file, current, started = File(path), "", time.perf_counter()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=child, args=(path, sender))
    process.start()
    sender.close()
    try:
        while (message := receiver.recv() if receiver.poll(timeout) else timeout) is not None:
            if isinstance(message, float):
                file.rows.append(Row(current or "(the file)", 1, f"took longer than {timeout:g} s"))
                break
            if isinstance(message, str):
                current = message
            elif isinstance(message, frozenset):
                file.missing = message
            else:
                file.rows.append(message)
    except EOFError:
        process.join()
        file.rows.append(Row(current or "(the file)", 1, f"its process ended with exit code {process.exitcode}"))
    finally:
        process.kill()
        process.join()
    file.seconds = time.perf_counter() - started
    return file


def show(file: File, verbose: bool) -> None:
    counts = [sum(row.reached > stage for row in file.rows) for stage in range(1, len(STAGES))]
    name = "/".join(file.path.parts[-3:])
    lacks = f"  [not installed: {', '.join(sorted(file.missing))}]" if file.missing else ""
    print(f"{name[-60:]:60s} {len(file.rows):5d} " + " ".join(f"{n:6d}" for n in counts) + lacks, flush=True)
    for row in file.rows:
        if verbose or row.reached < len(STAGES):
            print(f"    {row.model}: {row.detail if verbose else row.detail[:200]}", flush=True)


def totals(files: list[File], title: str) -> None:
    rows = [row for file in files for row in file.rows]
    count = len(rows)
    print(f"\n{title}: {count} root models in {sum(bool(f.rows) for f in files)} files")
    for stage, name in enumerate(STAGES):
        reached = sum(row.reached > stage for row in rows)
        print(f"  {name:7s} {reached:5d}  {100 * reached / max(count, 1):5.1f} %")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--list", metavar="FILES.tsv", help="only the files that this table names")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per model")
    parser.add_argument("--verbose", action="store_true", help="how each model was built, and its inputs")
    options = parser.parse_args()
    import torch
    import torch._dynamo  # noqa: F401  (once, before the forks)

    if options.list:
        paths = [path for folder in options.paths for path in listed_files(options.list, folder)]
    else:
        paths = list(python_files(options.paths))
    print(f"{'file':60s} roots  built    fed traced")
    files: list[File] = []
    for path in paths:
        file = measured(path, options.timeout)
        files.append(file)
        if file.rows:
            show(file, options.verbose)
    totals(files, "all")
    totals([file for file in files if not file.missing], "all imports installed")
    seconds = [file.seconds for file in files if file.rows]
    print(f"\nseconds per file: median {statistics.median(seconds or [0]):.1f}, most {max(seconds, default=0):.1f}")
    return 0


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    sys.exit(main())
