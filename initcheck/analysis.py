"""The worker's side of a run: one file in; its models built, traced, propagated and checked; messages out."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch._dynamo  # fake tensors import it (2 s) when first used: once, in the server, not in every child

from initcheck.audit import Audit, audit
from initcheck.discovery import advice
from initcheck.discovery.absent import absent_models
from initcheck.discovery.candidate import Candidate, ConstructionError
from initcheck.discovery.candidates import candidates
from initcheck.discovery.full_import import load_fully
from initcheck.discovery.inputs import Inputs, InputsNotFound, find_inputs
from initcheck.discovery.libraries import UnknownTargetError, library_candidates
from initcheck.discovery.loader import LoadError, load
from initcheck.discovery.placeholders import NotAvailableError
from initcheck.discovery.prepare import prepare
from initcheck.findings import Location
from initcheck.history import ModelHistory
from initcheck.measuring.device import find_device
from initcheck.measuring.errors import MeasureError
from initcheck.measuring.memory import need_memory_for
from initcheck.measuring.run import measure_suggested
from initcheck.progress import progress_bar
from initcheck.results import Measurement, Report
from initcheck.rules.ic002_model_not_analysed import model_not_analysed
from initcheck.rules.ic803_init_raises import raised
from initcheck.source.file import SourceFile
from initcheck.targets import LibraryTarget
from initcheck.tracing.build import BuildError, Built, build
from initcheck.tracing.definitions import class_location
from initcheck.tracing.history import model_history
from initcheck.tracing.ladder import TraceError, Trial, is_lazy_model, settle, trace
from initcheck.tracing.trace import Trace

if TYPE_CHECKING:
    from initcheck.child import Emit
    from initcheck.worker import FileJob


_OFTEN = 0.2  # seconds between two signs of progress


class _NotAnalysedError(Exception):
    """Why a model could not be analysed, and what would help."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def analyse(job: FileJob, emit: Emit) -> None:
    """Find, build and check every root model of the file; see ``child.Emit`` for what is emitted."""
    torch.set_num_threads(1)
    raising: set[Location] = set()
    for candidate, source in found(job, emit):
        if candidate.name in job.skip:
            continue
        emit("begin", (candidate.name, candidate.location))
        try:
            if job.task == "trace":
                emit("history", _history(candidate, source))
            else:
                emit("report", _analyse(candidate, source, job, emit))
        except _NotAnalysedError as error:
            emit(
                "finding",
                model_not_analysed(
                    job.path, candidate.name, error.reason, hint=error.hint, location=candidate.location
                ),
            )
            named = raised(source, candidate.name, _first_cause(error)) if source is not None else None
            if named is not None and named.location not in raising:  # several models trip over one call
                raising.add(named.location)
                emit("finding", named)
            emit("debug", traceback.format_exc())


def _first_cause(error: BaseException) -> BaseException:
    """What started a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def found(job: FileJob, emit: Emit) -> Iterator[tuple[Candidate, SourceFile | None]]:
    """The models to analyse, of a file or of a library, with the file; what rules all of them out is emitted."""
    if LibraryTarget.parse(job.path) is not None:
        try:
            yield from ((candidate, None) for candidate in library_candidates(job.path, job.config))
        except UnknownTargetError as error:
            emit("error", str(error))
            emit("debug", traceback.format_exc())
        return
    source = SourceFile.parse(job.path, job.text)
    try:
        module = load_fully(source) if job.config.import_mode == "full" else load(source)
    except LoadError as error:
        emit("finding", model_not_analysed(job.path, "", str(error), line=error.line or 1))
        emit("debug", traceback.format_exc())
        return
    listed = candidates(source, module, job.config)
    known = {candidate.name for candidate in listed}
    for name, where, reason in () if job.config.only_listed_models else absent_models(source, module):
        if name not in known and name not in job.skip:
            hint = advice.installation(reason)
            emit("finding", model_not_analysed(job.path, name, reason, hint=hint, location=where))
    yield from ((candidate, source) for candidate in listed)


def _analyse(candidate: Candidate, source: SourceFile | None, job: FileJob, emit: Emit) -> Report:
    started = time.perf_counter()
    with _reasons(candidate):
        built, inputs = prepare(candidate)
        traced = trace(
            built.model, inputs.args, inputs.kwargs, mode=job.config.mode, log=built.log, name=candidate.name
        )
    traced.inputs = inputs.description
    audited = audit(traced, _place(candidate, source, built), source)
    for defect in audited.defects:
        emit("defect", defect)
    measured = None
    if job.measure:
        try:
            measured = _measure(built, traced, audited, inputs, job, emit)
        except MeasureError as error:
            emit("error", f"{job.path}: {candidate.name} was not measured: {error}")
    return replace(audited.report, built_by=candidate.how, measured=measured, seconds=time.perf_counter() - started)


def _history(candidate: Candidate, source: SourceFile | None) -> ModelHistory:
    """Who wrote what while the model was built; no forward pass, but where lazy parameters need one."""
    with _reasons(candidate):
        built = build(candidate.construct)
    if is_lazy_model(built.model):
        try:
            inputs = find_inputs(built.model, candidate, Trial(built.model))
            settle(built.model, built.log, inputs.args, inputs.kwargs)
        except (InputsNotFound, TraceError) as error:
            built.log.notes.append(f"lazy parameters are still without a shape: {error}")
    return model_history(built.model, built.log, candidate.name, candidate.how, _place(candidate, source, built))


def _place(candidate: Candidate, source: SourceFile | None, built: Built) -> Location:
    """Where a model is reported: a library's model is known only once it was built."""
    return candidate.location if source else class_location(type(built.model)) or candidate.location


@contextlib.contextmanager
def _reasons(candidate: Candidate) -> Iterator[None]:
    """Whatever keeps a model from being analysed, as one line.

    Raises:
        _NotAnalysedError: for each of the ways to fail.
    """
    try:
        yield
    except BuildError as error:
        tried = error.__cause__
        reason = str(error)
        if isinstance(tried, ConstructionError):
            raised = "" if isinstance(tried.__cause__, NotAvailableError) else "its constructor raised "
            reason = f"{raised}{tried.reason}"
        raise _NotAnalysedError(reason, advice.construction(candidate, reason)) from error
    except TraceError as error:
        raise _NotAnalysedError(str(error)) from error
    except InputsNotFound as error:
        raise _NotAnalysedError(str(error), getattr(error, "hint", "")) from error


def _measure(built: Built, traced: Trace, audited: Audit, inputs: Inputs, job: FileJob, emit: Emit) -> Measurement:
    config = job.config
    find_device(config.device)
    need_memory_for(traced.parameters.values())

    told = [0.0]

    def tell(what: str, done: int, total: int) -> None:
        if done == total or time.monotonic() - told[0] > _OFTEN:
            told[0] = time.monotonic()
            emit("progress", progress_bar(what, done, total))

    return measure_suggested(
        built.materialise(),
        traced,
        audited.signal,
        inputs.args,
        inputs.kwargs,
        device=config.device,
        seeds=config.seeds,
        precision=config.precision,
        data=config.data,
        train_steps=config.train_steps,
        progress=tell,
        partial=lambda measured: emit("partial", replace(audited.report, measured=measured)),
    )
