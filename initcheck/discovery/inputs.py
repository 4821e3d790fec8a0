"""Example inputs for a model: configuration, the file's own calls, what the model declares, else a guided search.

A trial is one forward on fake tensors, a few milliseconds. The search starts from what the first layers take and reads
each shape error (``mending``); it is bounded in trials and in time. Inputs are N(0, 1) floats and random ids, with
``proposals.BATCH`` samples, so that statistics over the batch mean something.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from initcheck.config import InputSpec
from initcheck.discovery.candidate import Candidate
from initcheck.discovery.constructions import Construction, Evaluation, find
from initcheck.discovery.declared_shapes import declared_shapes
from initcheck.discovery.mending import Failure, Memory, mended
from initcheck.discovery.placeholders import Placeholder
from initcheck.discovery.proposals import BATCH, Facts, Proposal, filled, proposals, signature
from initcheck.discovery.specs import describe, generator, materialise, spec_of
from initcheck.source.file import SourceFile

MOST_TRIALS = 90
_MOST_FROM_ONE = 30  # trials that one proposal and its mends may take
MOST_SECONDS = 12.0  # of processor time: other work on the machine should change no result
_MOST_WAITING = 30.0  # seconds on the clock
_MOST_MENDS = 8  # of one failure
_DEEPEST = 7  # mends of mends


class Trial(Protocol):
    """One forward on fake tensors."""

    def attempt(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Exception | None:
        """None if the forward runs, else what it raised."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Real CPU tensors to call the model with; ``description`` in the notation of the configuration."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    description: str


class InputsNotFound(Exception):  # noqa: N818  (a name between rooms)
    """No inputs were found. ``tried``: what was tried; ``hint``: the shortest configuration that would help."""

    def __init__(self, reason: str, tried: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.tried = tuple(tried)
        self.hint = hint


def find_inputs(model: nn.Module, candidate: Candidate, trial: Trial) -> Inputs:
    """Inputs that the model's forward accepts.

    Raises:
        InputsNotFound: if the search ends without any; says what the likeliest ones ran into.
    """
    return _Search(model, candidate, trial).run()


@dataclass
class _Outcome:
    proposal: Proposal
    error: Exception | None
    shapes: list[tuple[int, ...]]


class _Search:
    def __init__(self, model: nn.Module, candidate: Candidate, trial: Trial) -> None:
        self.model = model
        self.candidate = candidate
        self.trial = trial
        hints = candidate.input_hints
        self.text = hints.source.text if hints.source is not None else ""
        environment = hints.context.environment if hints.context is not None else None
        self.facts = Facts.of(model, self.text, _dimensions(candidate, model), environment, _named_shapes(hints.module))
        self.memory = Memory()
        self.tried: dict[str, str] = {}
        self.first_error: Exception | None = None
        self.accepted: list[Proposal] = []
        self.begun = (time.process_time(), time.monotonic())

    def run(self) -> Inputs:
        spec = self.candidate.input_hints.spec
        if spec is not None and (spec.inputs or spec.keyword_inputs):
            return self._configured(Proposal(tuple(spec.inputs), tuple(spec.keyword_inputs.items())))
        given = self.candidate.input_hints.given
        if given is not None:
            args, kwargs = (
                tuple(map(self._specified, given[0])),
                tuple((k, self._specified(v)) for k, v in given[1].items()),
            )
            return self._configured(Proposal(args, kwargs))
        shown = list(self._shown())
        for sources in (shown, self._declared(), proposals(self.model, self.facts)):
            found = self._search(sources)
            if found is not None:
                return self._inputs(found)
        if self.accepted:
            return self._inputs(self.accepted[0])
        raise self._not_found()

    def _configured(self, proposal: Proposal) -> Inputs:
        outcome = self._attempt(proposal)
        if outcome.error is not None and not _inconclusive(outcome.error):
            raise InputsNotFound(f"the configured inputs ({_text(proposal)}) do not run: {_one_line(outcome.error)}")
        return self._inputs(proposal)

    # -- where proposals come from --------------------------------------------------------------------------------

    def _shown(self) -> Iterator[Proposal]:
        """Calls of the model in its file, ``net(torch.randn(2, 3, 32, 32))``, with a batch that means something."""
        for args, kwargs in shown_calls(self.candidate):
            try:
                proposal = Proposal(
                    tuple(map(self._specified, args)), tuple((k, self._specified(v)) for k, v in kwargs.items())
                )
            except TypeError:
                continue
            yield from self._with_batch(proposal)
            yield proposal

    def _specified(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            tables = [layer for layer in self.facts.layers if isinstance(layer, nn.Embedding)]
            return spec_of(value, tables[0].num_embeddings if value.dtype == torch.int64 and len(tables) == 1 else None)
        if isinstance(value, (tuple, list)):
            return tuple(self._specified(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self._specified(item) for key, item in value.items()}
        if isinstance(value, Placeholder):
            raise TypeError(value)
        return value

    def _with_batch(self, proposal: Proposal) -> Iterator[Proposal]:
        leaves = [leaf for leaf in proposal.leaves() if leaf[1].shape]
        batches = {spec.shape[0] for _, spec in leaves}
        if len(batches) == 1 and batches.pop() < self.facts.batch:
            for path, spec in leaves:
                proposal = proposal.put(path, InputSpec(spec.dtype, (self.facts.batch, *spec.shape[1:]), spec.high))
            yield proposal

    def _declared(self) -> Iterator[Proposal]:
        """What the model says: example inputs (Lightning, timm, transformers), or its forward: the shapes it names."""
        example = getattr(self.model, "example_input_array", None)
        if example is not None:
            items = example if isinstance(example, tuple) else (example,)
            proposal = Proposal(tuple(map(self._specified, items)))
            yield from self._with_batch(proposal)
            yield proposal
        default = getattr(self.model, "default_cfg", None)
        size = default.get("input_size") if isinstance(default, Mapping) else None
        if size:
            yield Proposal((InputSpec("float32", (self.facts.batch, *size)),))
        if hasattr(type(self.model), "dummy_inputs"):
            try:
                dummy = self.model.dummy_inputs
            except Exception:  # a property of any library
                return
            if isinstance(dummy, Mapping):
                proposal = Proposal((), tuple((key, self._specified(value)) for key, value in dummy.items()))
                yield from map(self._longer, self._with_batch(proposal))
                yield from self._with_batch(proposal)
                yield proposal
        declared = declared_shapes(self.model, self.facts)
        if declared:
            yield filled(self.model, self.facts, declared)

    def _longer(self, proposal: Proposal) -> Proposal:
        """Token ids of the usual length in place of a few (``dummy_inputs`` has 5 of them)."""
        for path, spec in proposal.leaves():
            if spec.dtype == "int64" and len(spec.shape) == 2 and spec.shape[1] < self.facts.length:
                proposal = proposal.put(path, InputSpec("int64", (spec.shape[0], self.facts.length), spec.high))
        return proposal

    # -- the search -----------------------------------------------------------------------------------------------

    def _search(self, sources: Iterator[Proposal] | list[Proposal]) -> Proposal | None:
        """The first proposal that runs and whose output keeps the batch; mends of a failure are tried next."""
        queue: deque[tuple[Proposal, int]] = deque()
        fresh, begun = iter(sources), 0
        while len(self.tried) < MOST_TRIALS and not self._is_late():
            if queue and len(self.tried) < begun + _MOST_FROM_ONE:
                proposal, depth = queue.popleft()
            else:
                following = next(fresh, None)
                if following is None:
                    return None
                proposal, depth, begun = following, 0, len(self.tried)
                queue.clear()
            if _text(proposal) in self.tried or not _small(proposal):
                continue
            outcome = self._attempt(proposal)
            if outcome.error is None or _inconclusive(outcome.error):
                if outcome.error is not None or self._keeps_batch(outcome):
                    return proposal
                self.accepted.append(proposal)
                if len(self.accepted) > 3:
                    return None
            elif depth < _DEEPEST:
                failure = Failure(proposal, outcome.error, self.model, self.facts, self.memory, self._code())
                better = [(p, depth + 1) for p in mended(failure)][:_MOST_MENDS]
                queue.extendleft(reversed(better))
        return None

    def _is_late(self) -> bool:
        worked, waited = time.process_time() - self.begun[0], time.monotonic() - self.begun[1]
        return worked > MOST_SECONDS or waited > _MOST_WAITING

    def _attempt(self, proposal: Proposal) -> _Outcome:
        source = generator()
        args, kwargs = materialise(proposal.args, source), materialise(dict(proposal.kwargs), source)
        shapes: list[tuple[int, ...]] = []

        def watch(module: nn.Module, given: Any, out: Any) -> None:
            shapes[:] = [tuple(t.shape) for t in _tensors(out)]

        hook = nn.modules.module.register_module_forward_hook(watch)
        chatter = logging.getLogger("torch._subclasses.fake_tensor")  # it logs each failed trial with a traceback
        disabled, chatter.disabled = chatter.disabled, True
        try:
            error = self.trial.attempt(args, kwargs)
        finally:
            hook.remove()
            chatter.disabled = disabled
        self.tried[_text(proposal)] = "runs" if error is None else _one_line(error)
        if error is not None and self.first_error is None:
            self.first_error = error
        return _Outcome(proposal, error, shapes)

    def _keeps_batch(self, outcome: _Outcome) -> bool:
        """``x.view(-1, 400)`` runs with wrong sizes too, but gives another number of samples."""
        axes = {size for _, spec in outcome.proposal.leaves() for size in spec.shape[:2]}
        shapes = [shape for shape in outcome.shapes if shape]
        return not shapes or any(axes & set(shape[:2]) for shape in shapes)

    def _code(self) -> str:
        hints = self.candidate.input_hints
        if hints.source is None:
            return ""
        node = hints.source.find_class(hints.class_name) if hints.class_name else None
        return ast.unparse(node) if node is not None else self.text

    # -- what comes out -------------------------------------------------------------------------------------------

    def _inputs(self, proposal: Proposal) -> Inputs:
        source = generator()
        args = materialise(proposal.args, source)
        return Inputs(tuple(args), materialise(dict(proposal.kwargs), source), _text(proposal))

    def _not_found(self) -> InputsNotFound:
        names = [argument.name for argument in signature(self.model) if argument.required]
        error = self.first_error
        reason = f"no inputs found for forward({', '.join(names)}) in {len(self.tried)} trials"
        if error is not None:
            first = next(iter(self.tried))
            reason += f"; with {first}: {_one_line(error)}{_where(error, self.candidate)}"
        return InputsNotFound(reason, [f"{given}: {result}" for given, result in self.tried.items()], self._hint())

    def _hint(self) -> str:
        path = self.candidate.input_hints.source.path if self.candidate.input_hints.source is not None else "model.py"
        likeliest = next((given for given in self.tried), f"float32[{BATCH},3,32,32]")
        shown = (
            ", ".join(f'"{part}"' for part in re.findall(r"\w+\[[\d,]*\](?:<\d+)?", likeliest))
            or '"float32[8,3,32,32]"'
        )
        return f'[[tool.initcheck.models]]\ntarget = "{path}:{self.candidate.name}"\ninputs = [{shown}]  # adapt'


def _dimensions(candidate: Candidate, model: nn.Module) -> dict[str, int]:
    """Sizes by name: the constructor's arguments as the way that worked shows them, attributes, the defaults."""
    found = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b", candidate.how)}
    for name, value in vars(model).items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 0 and name[:1] != "_":
            found.setdefault(name, value)
    with contextlib.suppress(TypeError, ValueError):
        for parameter in inspect.signature(type(model)).parameters.values():
            if isinstance(parameter.default, int) and not isinstance(parameter.default, bool):
                found.setdefault(parameter.name, parameter.default)
    return found


_SHAPE_NAME = re.compile(r"(img|image|input|in|x|obs|data)_?(shape|size|dims?)", re.IGNORECASE)


def _named_shapes(module: ModuleType | None) -> tuple[tuple[int, ...], ...]:
    """Shapes of one sample that the file's constants name: ``img_shape = (1, 28, 28)``."""
    values = (
        [value for name, value in vars(module).items() if _SHAPE_NAME.fullmatch(name)] if module is not None else []
    )
    return tuple(
        tuple(value)
        for value in values
        if isinstance(value, (tuple, list)) and 2 <= len(value) <= 4 and all(type(n) is int and n > 0 for n in value)
    )


def shown_calls(candidate: Candidate) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of the calls of a model in its file, evaluated; those that need data are passed over."""
    hints = candidate.input_hints
    if hints.source is not None and hints.evaluation is not None:
        yield from _shown_in(hints.source, hints.evaluation, hints.names, candidate)
    if hints.elsewhere is not None:
        yield from _shown_in(*hints.elsewhere, candidate)


def _shown_in(
    source: SourceFile, evaluation: Evaluation, held: set[str], candidate: Candidate
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    names = {name for name in held if name}

    def wanted(call: ast.Call) -> bool:
        func = call.func
        if isinstance(func, ast.Call):  # Net()(x)
            return ast.unparse(func.func) in names
        return ast.unparse(func) in names and not _is_definition(ast.unparse(func), candidate)

    found = [c for c in find(source.tree, wanted, lambda scope: bool(scope.owner)) if c.call.args or c.call.keywords]
    for construction in found[:6]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same ids at each run
            values = _evaluate(construction, evaluation)
        if values is not None:
            yield values


def _is_definition(name: str, candidate: Candidate) -> bool:
    module = candidate.input_hints.module
    value = module.__dict__.get(name) if module is not None else None
    return isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module))


def _evaluate(construction: Construction, evaluation: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments' values, only where they come from the file alone: made-up ones would show nothing."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    before = evaluation.made_up
    evaluation.made_up = {}
    try:
        for expression in construction.call.args:
            args.append(evaluation.value(construction.scope, construction.before, expression))
        for keyword in construction.call.keywords:
            if keyword.arg is None:
                return None
            kwargs[keyword.arg] = evaluation.value(construction.scope, construction.before, keyword.value)
        if any(isinstance(value, Placeholder) for value in (*args, *kwargs.values())):
            return None
        if not any(isinstance(value, torch.Tensor) for value in (*args, *kwargs.values())):
            return None
        return tuple(args), kwargs
    except Exception:  # user code
        return None
    finally:
        evaluation.made_up = before


def _tensors(value: Any) -> list[torch.Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


_INCONCLUSIVE = (
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "UnsupportedOperatorException",
    "UnsupportedFakeTensorException",
    "GuardOnDataDependentSymNode",
)


def _inconclusive(error: Exception) -> bool:
    """Fake tensors cannot follow the forward any further: the inputs themselves were fine so far."""
    return type(error).__name__ in _INCONCLUSIVE or "not supported for tensor subclasses" in str(error)


def _small(proposal: Proposal) -> bool:
    """At most 2²⁶ elements in all: larger inputs are a mend gone astray."""
    total = 0
    for _, spec in proposal.leaves():
        count = 1
        for size in spec.shape:
            if size <= 0:
                return False
            count *= size
        total += count
    return total <= 1 << 26


def _text(proposal: Proposal) -> str:
    parts = [describe(value) for value in proposal.args]
    return ", ".join([*parts, *(f"{key}={describe(value)}" for key, value in proposal.kwargs)])


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _where(error: BaseException, candidate: Candidate) -> str:
    from initcheck.discovery.loader import line_in

    source = candidate.input_hints.source
    line = line_in(error, source.path) if source is not None else None
    return f", at line {line}" if line is not None else ""
