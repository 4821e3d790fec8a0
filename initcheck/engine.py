"""The run: files in, findings out. Torch is imported only in the worker, and only for files that can hold a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from initcheck.collector import collector_slowed, pages_kept
from initcheck.config import Config
from initcheck.findings import Evidence, Finding, Location
from initcheck.results import FileResult, FixSummary, Report, RunResult
from initcheck.rules import registry
from initcheck.rules.ic001_unparsable_file import unparsable
from initcheck.rules.ic004_unused_suppression import unused_suppression
from initcheck.source.file import SourceError, SourceFile
from initcheck.source.notebook import SUFFIX, Notebook, in_cells, is_notebook
from initcheck.targets import LibraryTarget
from initcheck.worker import INTERRUPTED, FileJob, analyse_isolated

Tell = Callable[[str], None]
Task = Literal["check", "trace"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the result, and the texts that the findings speak of (path to source text)."""

    result: RunResult
    sources: Mapping[str, str]


def run(paths: Sequence[str | Path], config: Config, tell: Tell | None = None, task: Task = "check") -> Run:
    """Check files and folders.

    Args:
        paths: files (of any suffix), folders (searched for ``*.py`` and ``*.ipynb``), and models by the name that a
            library gives them (``timm:resnet50``).
        config: what to select, how to analyse, what to fix.
        tell: called with a line whenever a file or model is taken up.
        task: ``check``, or ``trace`` who wrote the models' parameters.

    A path that does not exist, or cannot be read, is an error of the run (``RunResult.errors``); a file that cannot be
    parsed is a finding (IC001). The other files are analysed all the same. Ctrl-C ends a measuring run with what has
    been measured so far (``RunResult.interrupted``), any other with ``KeyboardInterrupt``.
    """
    started = time.perf_counter()
    errors: list[str] = []
    files = list(_files(paths, config, errors))
    reader = _Reader()

    def one(path: str) -> FileResult | str:
        if tell is not None:
            tell(path)
        try:
            if task == "trace":
                result = _trace_file(path, config, reader, tell)
            else:
                result = _check_file(path, config, reader, tell)
            return _by_cell(result, reader) if is_notebook(path) else result
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror or error}"

    interrupted = False
    with collector_slowed():
        if config.execute:
            outcomes, interrupted = _side_by_side(one, files, config)
        else:  # threads wait for the processes that build models; source rules alone would only take turns
            pages_kept()
            outcomes = [one(file) for file in files]
    results = [outcome for outcome in outcomes if isinstance(outcome, FileResult)]
    errors.extend(outcome for outcome in outcomes if isinstance(outcome, str))
    errors.extend(error for result in results for error in result.errors)
    errors.extend(f"defect in initcheck: {defect}" for result in results for defect in result.defects)
    result = RunResult(tuple(results), tuple(errors), time.perf_counter() - started, interrupted)
    return Run(result, reader.texts(result))


def heard(results: Sequence[FileResult], config: Config, seconds: float) -> Run:
    """A run made of results that were had elsewhere: of their findings, those that are selected and not suppressed."""
    reader = _Reader()
    files = tuple(_as_heard(result, config, reader) for result in results)
    errors = [f"defect in initcheck: {defect}" for file in files for defect in file.defects]
    result = RunResult(files, tuple(errors), seconds)
    return Run(result, reader.texts(result))


def _side_by_side(
    one: Callable[[str], FileResult | str], files: Sequence[str], config: Config
) -> tuple[list[FileResult | str], bool]:
    """What ``one`` makes of each file, in several threads; True: interrupted while measuring, so not of all."""
    outcomes: list[FileResult | str] = []
    INTERRUPTED.clear()
    with ThreadPoolExecutor(max_workers=max(1, config.jobs)) as pool:
        futures = [pool.submit(one, file) for file in files]
        try:
            for future in futures:
                outcomes.append(_awaited(future))
        except BaseException as error:
            INTERRUPTED.set()  # else the pool waits for every child's timeout
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt) or not config.measure:
                raise
        else:
            return outcomes, False
    return [f.result() for f in futures if f.done() and not f.cancelled() and f.exception() is None], True


def _awaited(future: Future[T]) -> T:
    """The future's result; looks up now and then, since Ctrl-C is lost on a thread that only waits.

    (The system may hand the signal to any thread, while Python acts on it in the main one alone, once that runs.)
    """
    while not wait([future], timeout=0.2).done:
        pass
    return future.result()


def _files(paths: Sequence[str | Path], config: Config, errors: list[str]) -> Iterator[str]:
    """Every file to check, once each, folders in sorted order."""
    seen: set[Path] = set()
    for given in paths:
        if LibraryTarget.parse(str(given)) is not None:
            yield str(given)
            continue
        path = Path(given)
        if path.is_dir():
            found = list(_walk(path, config))
        elif path.exists():
            found = [] if config.force_exclude and config.excludes(path) else [path]
        else:
            errors.append(f"{given}: no such file or folder")
            continue
        for file in found:
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield str(file)


_NEVER = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env"})


def _walk(folder: Path, config: Config) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if config.excludes(entry):
            continue
        if entry.is_dir():
            hidden = entry.name.startswith(".") or entry.name in _NEVER or (entry / "pyvenv.cfg").exists()
            if not hidden and not entry.is_symlink():
                yield from _walk(entry, config)
        elif entry.suffix in (".py", SUFFIX):
            yield entry


class _Kept:
    """What is needed of a file once its rules have run: a tree is ten times as large as its text."""

    def __init__(self, source: SourceFile) -> None:
        self.text = source.text
        self.suppressions = source.suppressions


class _Reader:
    """The texts of source files by path, read once; a text can be replaced by what a fix made of it."""

    def __init__(self) -> None:
        self._files: dict[str, _Kept | None] = {}
        self._notebooks: dict[str, Notebook] = {}

    def get(self, path: str) -> _Kept | None:
        """The file, None if it cannot be read or parsed (a finding can point into such a file)."""
        if path not in self._files:
            try:
                self._files[path] = _Kept(SourceFile.read(path))
            except (SourceError, OSError):
                self._files[path] = None
        return self._files[path]

    def notebook(self, path: str) -> Notebook:
        """The notebook, which was read before as a source file."""
        if path not in self._notebooks:
            self._notebooks[path] = Notebook.parse(Path(path).read_text(encoding="utf-8-sig"))
        return self._notebooks[path]

    def put(self, source: SourceFile) -> None:
        self._files[source.path] = _Kept(source)

    def texts(self, result: RunResult) -> dict[str, str]:
        """The text of every file that a finding points into."""
        places = {finding.location.file: finding.location for finding in result.all_findings()}
        texts: dict[str, str] = {}
        for file, place in sorted(places.items()):
            path = place.path
            if place.cell:
                texts[file] = self.notebook(path).source_of(place.cell)
                continue
            source = self.get(path)
            texts[path] = source.text if source is not None else _raw_text(path)
        return texts


def _raw_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _by_cell(result: FileResult, reader: _Reader) -> FileResult:
    """A notebook's result as its reader sees it; as it is if the file is no notebook."""
    try:
        notebook = reader.notebook(result.path)
    except (SourceError, UnicodeDecodeError):
        return result
    told: FileResult = in_cells(replace(result, path=""), result.path, notebook)
    return replace(told, path=result.path)


def _check_file(path: str, config: Config, reader: _Reader, tell: Tell | None) -> FileResult:
    if LibraryTarget.parse(path) is not None:
        return _check_library_model(path, config, reader, tell)
    try:
        source = SourceFile.opened(path)
        result = _check_source(source, config, reader, tell, measure=config.measure)
    except SourceError as error:
        return FileResult(path, findings=tuple(_selected([unparsable(path, error)], config)))
    reader.put(source)
    if not (config.fix or config.diff):
        return result
    fixed, summary = _fix(source, result, config, reader, tell)
    if summary.written:
        source = fixed
        reader.put(source)
        result = _check_source(source, config, reader, tell, measure=config.measure)
    return replace(result, fixes=summary)


def _trace_file(path: str, config: Config, reader: _Reader, tell: Tell | None) -> FileResult:
    """Who wrote what; of findings, only that something could not be traced."""
    if LibraryTarget.parse(path) is not None:
        return analyse_isolated(FileJob(path, "", config, task="trace"), tell)
    try:
        source = SourceFile.read(path)
    except SourceError as error:
        return FileResult(path, findings=(unparsable(path, error),))
    reader.put(source)
    if not source.mentions_modules():
        return FileResult(path)
    return analyse_isolated(FileJob(path, source.text, config, task="trace"), tell)


def _check_source(
    source: SourceFile, config: Config, reader: _Reader, tell: Tell | None, *, measure: bool
) -> FileResult:
    """Source rules, then (only where a model can be) the worker; then what the user asked not to hear is dropped.

    Raises:
        SourceError: if the file cannot be parsed.
    """
    findings, defects = registry.check_source(source)
    source.require_syntax()
    result = FileResult(source.path)
    if config.needs_models and source.mentions_modules():
        result = analyse_isolated(FileJob(source.path, source.text, config, measure=measure), tell)
    every = [*findings, *result.findings, *(f for report in result.models for f in report.findings)]
    judged = bool(result.models) and not any(f.code == "IC002" for f in result.findings)
    unused = _selected(_unused_suppressions(every, source, judged), config)
    heard = _as_heard(replace(result, findings=(*findings, *result.findings)), config, reader, source)
    return replace(heard, findings=(*heard.findings, *unused), defects=(*defects, *result.defects))


def _check_library_model(target: str, config: Config, reader: _Reader, tell: Tell | None) -> FileResult:
    """A model that a library builds: no file of the user's, so no source rules and nothing to fix."""
    if not config.execute:
        return FileResult(target, errors=(f"{target} has to be built, and --no-exec forbids that",))
    return _as_heard(analyse_isolated(FileJob(target, "", config, measure=config.measure), tell), config, reader)


def _as_heard(result: FileResult, config: Config, reader: _Reader, source: SourceFile | None = None) -> FileResult:
    """The result with those findings only that are selected and not suppressed at their own line.

    ``source``: the file as it was checked, which is not what is on disk while a fix is tried.
    """

    def heard(findings: Iterable[Finding]) -> tuple[Finding, ...]:
        return tuple(finding for finding in _selected(findings, config) if not suppressed(finding))

    def suppressed(finding: Finding) -> bool:
        path, line = finding.location.path, finding.location.line
        where = source if source is not None and path == source.path else reader.get(path)
        return where is not None and where.suppressions.is_suppressed(line, finding.code)

    models = tuple(replace(report, findings=heard(report.findings)) for report in result.models)
    return replace(result, findings=heard(result.findings), models=_each_line_once(models))


def _each_line_once(models: tuple[Report, ...]) -> tuple[Report, ...]:
    """A line that spoils several models is one finding, in the model that it spoils most, which names the others."""
    groups: dict[tuple[str, Location], list[Finding]] = {}
    for report in models:
        for finding in report.findings:
            groups.setdefault((finding.code, finding.location), []).append(finding)
    kept: dict[tuple[str, Location], Finding] = {}
    for key, several in groups.items():
        if len({f.model for f in several}) == len(several) > 1:
            worst = max(several, key=lambda f: f.severity)
            others = ", ".join(f.model for f in several if f is not worst)
            kept[key] = replace(worst, evidence=(*worst.evidence, Evidence(f"the same line spoils {others}")))

    def left(finding: Finding) -> Finding | None:
        one = kept.get((finding.code, finding.location))
        return finding if one is None else one if one.model == finding.model else None

    return tuple(replace(r, findings=tuple(f for f in map(left, r.findings) if f is not None)) for r in models)


def _selected(findings: Iterable[Finding], config: Config) -> list[Finding]:
    return [f for f in findings if config.selects(f.code, f.location.path)]


def _unused_suppressions(findings: list[Finding], source: SourceFile, judged: bool) -> list[Finding]:
    """``judged``: models were analysed; else nothing is known of comments that silence model rules."""
    here = [(f.location.line, f.code) for f in findings if f.location.path == source.path]
    unjudged = () if judged else registry.model_codes()
    return [unused_suppression(source.path, unused) for unused in source.suppressions.unused(here, unjudged)]


def _fix(
    source: SourceFile, result: FileResult, config: Config, reader: _Reader, tell: Tell | None
) -> tuple[SourceFile, FixSummary]:
    """Fix what was heard in this file, each fix kept only if a new analysis no longer finds it."""
    from initcheck.fix.session import diff, fix_file

    if is_notebook(source.path):
        found = [f for f in result.all_findings() if f.fix is not None and f.location.path == source.path]
        return source, FixSummary(refused=tuple((f, "notebooks are not rewritten: edit the cell") for f in found))
    findings = [f for f in result.all_findings() if f.fix is not None and f.location.path == source.path]
    if config.safe_fixes_only:
        findings = [f for f in findings if f.fix is not None and f.fix.safe]
    if not findings:
        return source, FixSummary()

    def reanalyse(text: str) -> FileResult:
        return _check_source(SourceFile.parse(source.path, text), config, reader, tell, measure=False)

    outcome = fix_file(source.path, findings, reanalyse, write=not config.diff, before=result)
    summary = FixSummary(
        applied=tuple(outcome.applied),
        refused=tuple(outcome.refused),
        diff=diff(source.text, outcome.new_text, source.path),
        written=outcome.written,
    )
    return SourceFile.parse(source.path, outcome.new_text), summary
