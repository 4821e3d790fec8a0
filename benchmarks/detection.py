"""What initcheck finds of mistakes that were put in, and how quiet it is where there are none.

    python benchmarks/detection.py [--real CHECKOUTS] [--cases TABLE.tsv] [--peers PYTHON] [--cache FOLDER] [--jobs N]
    python benchmarks/detection.py --silence [--most N] [--again loud|failed|old|PART] --cache FOLDER [PART ...]

Seeded mistakes: every mutation of ``mutants.py`` in every good live model (``live_mutants.py``), and those of
``source_mutations.py`` in good source files, by the command line (``source_mutants.py``). *harmful*: measured, by real
passes and steps of descent (``harm.py``), for files on the model that they build (``source_effect.py``); *found*: a
warning or an error that the good model does not have; *right*: the first finding has a code that names the mistake, at
a spoiled layer or line; *false errors*: errors on mutants that were measured to be harmless.

Real files: ``real_cases.py``. Other libraries on the same live mutants: ``detection_peers.py``.

What a mistake does and what is said of it are kept apart in the cache, so that a new version of the rules costs no new
measurement: ``--again old`` makes the verdicts of other versions anew, ``--recorded`` prints what is there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
import torch
from mutant_rows import Row


def seeded(rows: Sequence[Row], mutations: Sequence[Any], verbose: bool) -> None:
    print(f"{'mistake':42}{'mutants':>8}{'harmful':>8}{'found':>7}{'right':>7}{'harmless':>9}{'false errors':>13}")
    total = [0] * 6
    findings = []
    for mutation in mutations:
        mine = [r for r in rows if r.mutation == mutation.name and r.applicable and not r.problem]
        harmful = [r for r in mine if r.harmful]
        found = [r for r in harmful if r.detected]
        right = [r for r in found if r.right(mutation.codes)]
        harmless = [r for r in mine if not r.harmful]
        false = [r for r in harmless if r.errors]
        counts = [len(x) for x in (mine, harmful, found, right, harmless, false)]
        findings += [sum(f["severity"] != "info" for f in r.found) for r in found]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        print(f"{mutation.name:42}{counts[0]:8}{counts[1]:8}{counts[2]:7}{counts[3]:7}{counts[4]:9}{counts[5]:13}")
        if verbose:
            for title, wrong in (
                ("missed", [r for r in harmful if not r.detected]),
                ("elsewhere", [r for r in found if not r.right(mutation.codes)]),
                ("false error", false),
            ):
                for r in wrong:
                    first = r.first
                    named = f"{first['code']} {first['parameter']}:{first.get('line', '')}" if first else "nothing"
                    place = f"{r.model} {r.layers[:2] or r.lines[:3]} site {r.site}"
                    print(f"    {title}: {place}: {r.why}; {named} {first.get('message', '')[:90]}")
    older = sum(r.code != record.code_version() for r in rows if r.applicable)
    print(f"{'all':42}{total[0]:8}{total[1]:8}{total[2]:7}{total[3]:7}{total[4]:9}{total[5]:13}")
    if total[1] and total[2]:
        print(f"\nrecall on harmful mutants {total[2] / total[1]:.4f}; first finding right {total[3] / total[2]:.4f}")
        print(f"findings for each harmful mutant: median {statistics.median(findings):g}, most {max(findings)}")
    if older:
        print(f"verdicts of another version of the code: {older} (--again old makes them anew)")
    for problem in sorted({f"{r.model}: {r.mutation}: {r.problem}" for r in rows if r.problem}):
        print(f"not judged: {problem}")


def peers(python: Path | None, cache: Path, only: str, rows: Sequence[Row]) -> None:
    """Other libraries on the same live mutants, run in their environment."""
    paths = [str(Path(__file__).parent.parent), sysconfig.get_path("purelib")]
    script = Path(__file__).with_name("detection_peers.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    if python is not None:
        subprocess.run([str(python), str(script), str(cache), only], env=environment, check=True)
    said = record.keyed(cache / "peers.jsonl")
    mine = [r for r in rows if r.layers and not r.problem and (r.mutation, r.model, r.site) in said]
    print(f"\n{'on the same live mutants':26}{'harmful':>8}{'found':>7}{'recall':>8}{'harmless':>10}", end="")
    print(f"{'alarms':>8}{'failed':>8}")
    for name in ("initcheck", *next(iter(said.values()), {})):
        found = [r.detected if name == "initcheck" else said[r.mutation, r.model, r.site][name]["found"] for r in mine]
        failed = (
            0 if name == "initcheck" else sum(bool(said[r.mutation, r.model, r.site][name]["problem"]) for r in mine)
        )
        hits = sum(f for f, r in zip(found, mine, strict=True) if r.harmful)
        alarms = sum(f for f, r in zip(found, mine, strict=True) if not r.harmful)
        harmful = sum(r.harmful for r in mine)
        print(f"{name:26}{harmful:8}{hits:7}{hits / max(harmful, 1):8.3f}{len(mine) - harmful:10}{alarms:8}{failed:8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="with --silence: parts of the names of the models to check")
    parser.add_argument("--quick", action="store_true", help="every tenth mutant")
    parser.add_argument("--cache", type=Path, help="folder that keeps what was measured and found")
    parser.add_argument("--only", default="", help="only mutants whose name or model contains this")
    parser.add_argument("--verbose", action="store_true", help="list what is missed, misplaced and false")
    parser.add_argument("--part", choices=("", "live", "source", "real"), default="", help="only this")
    parser.add_argument("--real", type=Path, help="folder with checkouts of public projects, owner+repo")
    parser.add_argument("--cases", type=Path, help="a table of real files beside cases.tsv (see ``real_cases.py``)")
    parser.add_argument("--peers", type=Path, help="python of an environment with anyinit, torch-audit and torchdiag")
    parser.add_argument("--silence", action="store_true", help="check good models, unmutated")
    parser.add_argument("--most", type=int, default=0, help="with --silence: at most so many models")
    parser.add_argument("--again", default="", help="verdicts to make anew: see ``run`` and ``sweep``")
    parser.add_argument("--recorded", action="store_true", help="only what is in the cache already")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    if options.silence:
        import silence

        if options.cache is None:
            sys.exit("--silence needs --cache FOLDER")
        silence.report(silence.sweep(options.cache, options.names, options.again, options.most, options.jobs))
        return
    import live_mutants
    import real_cases
    import source_mutants
    from mutants import MUTATIONS
    from source_mutations import SOURCE_MUTATIONS

    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        given = {
            "every": 10 if options.quick else 1,
            "only": options.only,
            "again": options.again,
            "jobs": options.jobs,
            "recorded": options.recorded,
        }
        rows: list[Row] = []
        mutations: list[Any] = []
        if options.part in ("", "live"):
            rows += live_mutants.run(cache, **given)
            mutations += MUTATIONS
        if options.part in ("", "source"):
            rows += source_mutants.run(cache, options.real, **given)
            mutations += SOURCE_MUTATIONS
        if rows:
            seeded(rows, mutations, options.verbose)
        if options.peers is not None:
            peers(None if options.recorded else options.peers, cache, options.only, rows)
        if options.part in ("", "real") and options.real is not None:
            outcomes = real_cases.run(cache, options.real, options.cases, **given)
            real_cases.report(outcomes, options.verbose)


if __name__ == "__main__":
    main()
