"""Real files, looked up and not committed: is each mistake found at its line, and is all else quiet?

Two tables of cases: one that is given on the command line (``repo path commit what_init verdict ...``), and
``cases.tsv`` beside this script, which has the code and the line of each mistake, and versions before and after public
fixes (before is found, after is clean); a file that stands in both counts once. Files are looked for in a folder of
checkouts, ``owner+repo/path`` or ``owner+repo@commit/path``, packages (``pypi:name==version``) in its
``pypi/name-version/path``, or else where they are installed in that version.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import record

HERE = Path(__file__).parent
TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Case:
    """``code`` and ``line``: of the mistake; empty for a file that is to stay quiet."""

    repo: str
    path: str
    commit: str
    verdict: str
    code: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.commit[:7]} {self.path}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``found``: (code, severity, line) of the errors and warnings; ``problem``: why there is no verdict."""

    case: Case
    found: list[tuple[str, str, int]] = field(default_factory=list)
    problem: str = ""

    @property
    def right(self) -> bool:
        """A mistake is found at its line; all else has neither errors nor warnings (IC0: what was not analysed)."""
        if self.case.verdict == "mistake":
            return any(code == self.case.code and line == self.case.line for code, _, line in self.found)
        return not any(not code.startswith("IC0") for code, _, _ in self.found)


def cases(listed: Path | None) -> list[Case]:
    """The rows of both tables, each file at one commit once."""
    with (HERE / "cases.tsv").open() as file:
        known = [
            Case(r["repo"], r["path"], r["commit"], r["verdict"], r["code"], int(r["line"] or 0))
            for r in csv.DictReader(file, delimiter="\t")
        ]
    seen = {(case.repo, case.path, case.commit.removeprefix("PyPI wheel ")) for case in known}
    if listed is None:
        return known
    with listed.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    more = [Case(r["repo"], r["path"], r["commit"], r["verdict"]) for r in rows if not _is_known(r, seen)]
    return [*known, *more]


def _is_known(row: dict[str, str], seen: set[tuple[str, str, str]]) -> bool:
    return any(row["repo"] == repo and row["path"] == path and commit in row["commit"] for repo, path, commit in seen)


def _installed(name: str) -> str | None:
    """The version of a package in this environment."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def place(case: Case, folder: Path) -> Path | None:
    """Where the case's file is on this machine."""
    if case.repo.startswith("pypi:"):
        name, _, version = case.repo.removeprefix("pypi:").partition("==")
        kept = folder / "pypi" / f"{name}-{version}" / case.path
        if kept.exists() or _installed(name) != version:
            return kept if kept.exists() else None
        found = importlib.util.find_spec(name)
        installed = Path(found.origin).parents[1] / case.path if found is not None and found.origin else kept
        return installed if installed.exists() else None
    base = case.repo.replace("/", "+")
    for checkout in (folder / f"{base}@{case.commit[:7]}", folder / base):
        if (checkout / case.path).exists():
            return checkout / case.path
    return None


def run(
    cache: Path,
    folder: Path,
    listed: Path | None,
    every: int = 1,
    only: str = "",
    again: str = "",
    jobs: int = 1,
    recorded: bool = False,
) -> list[Outcome]:
    """Check every case, from the record where it is there already (arguments: see ``live_mutants.run``)."""
    kept = cache / "real.jsonl"
    known = {row["case"]: row for row in record.rows(kept)}
    known = {name: row for name, row in known.items() if not record.stale(row["code"], name, again)}
    wanted = [case for case in cases(listed) if only in f"{case.name} {case.code}"][::every]
    if recorded:
        wanted = [case for case in wanted if case.name in known]

    def check(case: Case) -> None:
        at = place(case, folder)
        found, problem = _findings(at) if at is not None else ([], "no such file in the folder of checkouts")
        row = {"case": case.name, "found": found, "problem": problem, "code": record.code_version()}
        if at is not None:
            record.append(kept, row)
        known[case.name] = row

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(check, case) for case in wanted if case.name not in known]:
            done.result()
    rows = [(case, known[case.name]) for case in wanted]
    return [Outcome(case, [(c, s, n) for c, s, n in row["found"]], row["problem"]) for case, row in rows]


def _findings(path: Path) -> tuple[list[tuple[str, str, int]], str]:
    command = [sys.executable, "-m", "initcheck", str(path), "--output-format", "json", "--jobs", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=record.environment())
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return [], f"{type(error).__name__}: {error}"[:200]
    return [(f["code"], f["severity"], f["line"]) for f in findings if f["severity"] != "info"], ""


def report(outcomes: Sequence[Outcome], verbose: bool) -> None:
    """The table, and each case that is not as it should be."""
    print(f"{'real files':14}{'cases':>7}{'looked up':>11}{'as they should be':>19}{'not analysed':>14}")
    for verdict in dict.fromkeys(o.case.verdict for o in outcomes):
        mine = [o for o in outcomes if o.case.verdict == verdict]
        had = [o for o in mine if not o.problem]
        right = sum(o.right for o in had)
        part = sum(any(code == "IC002" for code, _, _ in o.found) for o in had)
        print(f"{verdict:14}{len(mine):7}{len(had):11}{right:19}{part:14}")
    for o in outcomes:
        if o.problem or not o.right or verbose:
            state = o.problem or ("as it should be" if o.right else "WRONG")
            print(f"  {o.case.verdict} {o.case.name} {o.case.code}:{o.case.line or ''} {o.found} {state}")
