"""The models of a file and how to build each.

Root models only: a block used inside another model is checked as part of it. Ways to build one, in this order; the one
that worked is recorded in ``Candidate.how``:

1. configuration: an entry of ``[[tool.initcheck.models]]`` or ``--model`` for this file; ``initcheck_models()`` in it;
2. constructions found in the file that also run the user's initialisation (``net = Net(); net.apply(init)``);
3. functions that build the model and can be called without arguments (``def resnet18(): ...``);
4. other constructions found in the file, at module level, under ``__main__``, in functions;
5. the constructor (or a function that builds it) without arguments;
6. the constructor with arguments made up from annotations, use and names, mended after its own errors.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from initcheck.discovery import project, provided, synthesis
from initcheck.discovery.candidate import Candidate, ConstructionError, InputHints
from initcheck.discovery.constructions import Construction, Evaluation, Scope, call_sites, find
from initcheck.discovery.guessing import Guesses
from initcheck.discovery.loader import Execution, describe, execution
from initcheck.discovery.placeholders import NotAvailableError, Placeholder
from initcheck.discovery.roots import Definitions, called_name, strip_moves
from initcheck.findings import Location
from initcheck.source.file import SourceFile

if TYPE_CHECKING:
    from initcheck.config import Config, ModelSpec

_MOST_WAYS = 8  # constructions tried for one model
_ENTRY_METHODS = (
    "get_action_and_value",
    "get_action",
    "evaluate_actions",
    "act",
    "forward_features",
    "sample",
    "predict",
    "encode",
)


def candidates(source: SourceFile, module: ModuleType, config: Config) -> list[Candidate]:
    """The models to analyse, in the order of the file; those of the configuration first."""
    specs = [spec for spec in config.models if _same_file(spec.path, source.path)]
    found = [_configured(spec, source, module) for spec in specs]
    if config.only_listed_models:
        return found
    found += provided.candidates(source, module)
    listed = {spec.name for spec in specs} | {candidate.name.partition("#")[0] for candidate in found}
    return [*found, *(c for c in _Finder(source, module).candidates() if c.name not in listed)]


def _same_file(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _configured(spec: ModelSpec, source: SourceFile, module: ModuleType) -> Candidate:
    location = source.class_location(spec.name) or Location(source.path, 1)
    hints = InputHints(spec, {spec.name}, source, module, class_name=spec.name)

    def construct() -> nn.Module:
        run = execution(module)
        expression = ast.parse(spec.expression, mode="eval")
        if run is not None:
            run.ensure({node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}, main=True)
        value = eval(compile(expression, source.path, "eval"), module.__dict__)
        if not isinstance(value, nn.Module) and not spec.is_call and callable(value):
            value = value(*spec.args, **spec.kwargs)
        return runnable(_as_model(value))

    return Candidate(spec.expression, construct, f"{spec.expression} (configuration)", location, hints)


@dataclass
class _Way:
    """One way to build a model: ``run`` returns it, or raises. ``text`` is asked for after it ran."""

    run: Callable[[], Any]
    text: Callable[[], str]
    telling: int
    """How much its failure says, if no way works: 2 the user wrote it, 1 a guess at arguments, 0 a look around."""


class _Finder:
    def __init__(self, source: SourceFile, module: ModuleType) -> None:
        self.source = source
        self.module = module
        self.definitions = Definitions(source, module)
        self.execution: Execution | None = execution(module)
        self.sites = call_sites(source.tree)
        self.factories = self._factories()

    def candidates(self) -> list[Candidate]:
        found = [candidate for name in self.definitions.roots for candidate in self._of_class(name)]
        found += [self._of_factory(name) for name, makes in self.factories.items() if makes == ""]
        found += self._of_variables()
        order = {id(c): (c.location.line, c.location.column) for c in found}
        return sorted(found, key=lambda c: order[id(c)])

    # -- functions that build models ------------------------------------------------------------------------------

    def _factories(self) -> dict[str, str]:
        """Functions that return a model, with the class of this file that they make ("" for another's)."""
        made: dict[str, str] = {}
        functions = self.definitions.functions
        for _ in range(3):  # a factory may return what another one made
            for name, node in functions.items():
                if name not in made and (found := self._returned(node, made)) is not None:
                    made[name] = found
        parts = self.definitions.helpers | self._nested_in_modules() | self._steps(made)
        return {name: makes for name, makes in made.items() if makes or (name not in parts and name[:1] != "_")}

    def _steps(self, made: dict[str, str]) -> set[str]:
        """Functions whose model another function completes (``model = network(); init(model); return model``)."""
        found: set[str] = set()
        for name in made:
            for call in ast.walk(self.definitions.functions[name]):
                if isinstance(call, ast.Call) and called_name(call) in made and called_name(call) != name:
                    found.add(called_name(call))
        return found

    def _nested_in_modules(self) -> set[str]:
        """Functions whose result is handed to a module's constructor: ``VGG(make_layers(cfg))``."""
        found: set[str] = set()
        for call in ast.walk(self.source.tree):
            if isinstance(call, ast.Call) and called_name(call) in self.definitions.modules:
                values = [*call.args, *(keyword.value for keyword in call.keywords)]
                found |= {called_name(value) for value in values if isinstance(value, ast.Call)}
        return found

    def _returned(self, node: ast.FunctionDef, made: dict[str, str]) -> str | None:
        bound: dict[str, ast.expr] = {}
        result: str | None = None
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assign) and len(inner.targets) == 1 and isinstance(inner.targets[0], ast.Name):
                value = strip_moves(inner.value)
                if self._makes(value, made) is not None or inner.targets[0].id not in bound:
                    bound[inner.targets[0].id] = value
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and inner.value is not None:
                value = strip_moves(inner.value)
                if isinstance(value, ast.Name):
                    value = bound.get(value.id, value)
                makes = self._makes(value, made)
                if makes is not None:
                    result = makes
        return result

    def _makes(self, value: ast.expr, made: dict[str, str]) -> str | None:
        """The class that a call makes: a name of this file, "" for another module; None if it makes no model."""
        if not isinstance(value, ast.Call):
            return None
        name = called_name(value)
        if name in self.definitions.modules:
            return name
        if name in made:
            return made[name]
        owner = value.func.value if isinstance(value.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in self.definitions.modules:
            return owner.id  # a class method
        for argument in value.args[:1] if name and name not in self.definitions.functions else ():
            if isinstance(argument, ast.Name) and argument.id in self.definitions.modules:
                return argument.id  # a library's builder: build_model_with_cfg(Net, ...)
        full = self.source.imports.resolve(value.func)
        return "" if full is not None and _MODEL_MAKERS.match(full) and not _BARE_LAYER.match(full) else None

    def _of_factory(self, name: str) -> Candidate:
        node = self.definitions.functions[name]
        target = self.module.__dict__.get(name)
        context = self._context(ast.unparse(node))
        evaluation = self._evaluation(context)
        found = [c for c in self._constructions({name}) if c.scope.label != name]
        called, shown = (
            list(self._calls_of(name, node, target, {name}, context)),
            list(self._evaluated(found, evaluation)),
        )
        ways = [*called, *shown] if _optional_only(target) else [*shown, *called]
        hints = InputHints(None, self._held(found) | {name}, self.source, self.module, evaluation, "", context)
        return self._candidate(name, ways, self.source.location(node), hints)

    # -- classes --------------------------------------------------------------------------------------------------

    def _of_class(self, name: str) -> list[Candidate]:
        node = self.definitions.modules[name]
        target = self.module.__dict__[name]
        code = self.definitions.code(name)
        context = self._context(code if "action_space" in code else f"{code}\n{self._action_lines()}")
        evaluation = self._evaluation(context)
        makers = [maker for maker, makes in self.factories.items() if makes == name]
        found = [
            c
            for c in self._constructions({name, *makers})
            if not (c.scope.label in makers and _optional_only(self.module.__dict__.get(c.scope.label)))
        ]
        private = self.definitions.helpers
        open_makers = [m for m in makers if m not in private and _optional_only(self.module.__dict__.get(m))]
        hints = InputHints(None, self._held(found) | {name}, self.source, self.module, evaluation, name, context)
        with_init = [c for c in found if c.runs_init]
        ways = list(self._evaluated(with_init, evaluation))
        ways += [_plain_call(self.module.__dict__[m], m) for m in self._by_init(open_makers)]
        ways += self._evaluated([c for c in found if not c.runs_init], evaluation)
        if not ways and (_passes_on(target) or not _optional_only(target)):
            ways.append(self._in_project({name, *makers}, context, hints))
        ways += list(self._calls_of(name, node, target, set(), context))
        location = self.source.class_location(name) or Location(self.source.path, node.lineno)
        distinct = self._distinct(found)
        if len(distinct) < 2:
            return [self._candidate(name, ways, location, hints)]
        return [
            self._candidate(
                ast.unparse(construction.target), list(self._evaluated([construction], evaluation)),
                self.source.location(construction.call), hints,
            )
            for construction in distinct
            if construction.target is not None
        ]  # fmt: skip

    @staticmethod
    def _distinct(found: list[Construction]) -> list[Construction]:
        """Models of one class that the module level makes with different arguments: models of their own."""
        kept: dict[str, Construction] = {}
        names: set[str] = set()
        for construction in found:
            target = construction.target
            if construction.scope.kind == "module" and isinstance(target, ast.Name) and target.id not in names:
                names.add(target.id)
                kept.setdefault(ast.unparse(construction.expression), construction)
        return sorted(kept.values(), key=lambda c: c.line)[:_MOST_WAYS]

    def _action_lines(self) -> str:
        """What the rest of the file says about the actions of an environment."""
        return "\n".join(line for line in self.source.lines if "action_space" in line)

    def _by_init(self, makers: list[str]) -> list[str]:
        """Factories that initialise first, else in the order of the file (a family begins with its smallest)."""

        def initialises(name: str) -> bool:
            text = ast.unparse(self.definitions.functions[name])
            return re.search(r"\.apply\(|init\.|init_weights|initialize|reset_parameters", text) is not None

        return sorted(makers, key=lambda name: not initialises(name))

    def _calls_of(
        self, name: str, node: Any, target: Any, exclude: set[str], context: synthesis.Context
    ) -> Iterator[_Way]:
        if _optional_only(target):
            yield _plain_call(target, name)
            if not _passes_on(target):
                return
        yield self._guessed(name, target, node, context)
        yield self._guessed(name, target, node, context, alike=True)
        for maker, makes in self.factories.items():
            if makes == name and maker not in exclude and not _optional_only(self.module.__dict__.get(maker)):
                function = self.definitions.functions[maker]
                yield self._guessed(maker, self.module.__dict__.get(maker), function, context)

    def _in_project(self, names: set[str], context: synthesis.Context, hints: InputHints) -> _Way:
        """The first construction in other files of the project that works; their calls show its inputs."""
        worked: list[str] = []

        def run() -> Any:
            failure: Exception = NotAvailableError("no other file of the project makes it")
            for found in project.constructions(self.execution, names, context) if self.execution is not None else ():
                way = self._evaluating(found.construction, found.evaluation)
                try:
                    model = _as_model(self._in_session(way.run))
                except Exception as error:  # user code
                    failure = error
                    continue
                if not self._is_own(model):
                    continue  # another one of that name
                worked[:] = [f"{way.text()} in {Path(found.source.path).name}"]
                hints.elsewhere = (found.source, found.evaluation, self._held([found.construction]))
                return model
            raise failure

        return _Way(run, lambda: worked[0], telling=0)

    def _is_own(self, model: nn.Module) -> bool:
        """Whether a class of this file has a part in a model."""
        path = Path(self.source.path).resolve()
        return any(
            cls.__name__ in self.definitions.modules
            and Path(getattr(sys.modules.get(cls.__module__), "__file__", None) or "").resolve() == path
            for cls in {type(part) for part in model.modules()}
        )

    def _guessed(self, name: str, target: Any, node: Any, context: synthesis.Context, *, alike: bool = False) -> _Way:
        """With made-up arguments; ``alike``: as many channels or features out as in, which a residual sum asks for."""
        given: dict[str, Any] = {}

        def run() -> Any:
            attempts = Guesses(target, node, context, self.source.path, alike=alike)
            value = attempts.run()
            given.clear()
            given.update(attempts.given)
            return value

        def text() -> str:
            shown = ", ".join(f"{key}={self._shown(value)}" for key, value in given.items())
            own = all(self._is_default_settings(value) for value in given.values())
            return f"{name}({shown})" + ("" if own else ", arguments made up from their names and use")

        return _Way(run, text, telling=1)

    def _is_default_settings(self, value: Any) -> bool:
        """Whether a value is a configuration of this file's own class, made of its defaults."""
        cls = type(value)
        if self.module.__dict__.get(cls.__name__) is not cls or not _optional_only(cls):
            return False
        try:
            return bool(value == cls())
        except Exception:  # any class may refuse
            return False

    def _shown(self, value: Any) -> str:
        return f"{type(value).__name__}()" if self._is_default_settings(value) else _shown(value)

    # -- variables ------------------------------------------------------------------------------------------------

    def _of_variables(self) -> list[Candidate]:
        """``model = nn.Sequential(...)`` or a library's model, bound to a variable and no part of anything else."""
        parts = self._passed_on()

        def wanted(call: ast.Call) -> bool:
            full = self.source.imports.resolve(call.func)
            return full is not None and _MODEL_MAKERS.match(full) is not None

        def skip(scope: Scope) -> bool:
            return (
                scope.owner in self.definitions.modules
                or scope.label in self.factories
                or (scope.label in self.definitions.helpers)
            )

        found: dict[str, list[Construction]] = {}
        for construction in find(self.source.tree, wanted, skip):
            if construction.target is not None:
                name = ast.unparse(construction.target)
                if name not in parts and _is_whole(construction):
                    found.setdefault(name, []).append(construction)
        made: list[Candidate] = []
        for name, constructions in found.items():
            evaluation = self._evaluation(self._context(self.source.text))
            hints = InputHints(None, {name}, self.source, self.module, evaluation)
            location = self.source.location(constructions[0].call)
            made.append(self._candidate(name, list(self._evaluated(constructions, evaluation)), location, hints))
        return made

    def _passed_on(self) -> set[str]:
        """Variables handed to something that makes a module: parts of it."""
        found: set[str] = set()
        for call in ast.walk(self.source.tree):
            if not isinstance(call, ast.Call):
                continue
            full = self.source.imports.resolve(call.func) or ""
            if called_name(call) in self.definitions.modules or _MODEL_MAKERS.match(full):
                values = [*call.args, *(keyword.value for keyword in call.keywords)]
                found |= {inner.id for value in values for inner in ast.walk(value) if isinstance(inner, ast.Name)}
        return found

    # -- what they share ------------------------------------------------------------------------------------------

    def _context(self, code: str) -> synthesis.Context:
        blocks = tuple(
            self.module.__dict__[name]
            for name in self.definitions.modules
            if re.search(r"block|bottleneck|layer", name, re.IGNORECASE)
        )
        return synthesis.Context(self.module.__dict__, blocks, code)

    def _evaluation(self, context: synthesis.Context) -> Evaluation | None:
        return Evaluation(self.execution, context, self.sites) if self.execution is not None else None

    def _constructions(self, names: set[str]) -> list[Construction]:
        modules = self.definitions.modules

        def wanted(call: ast.Call) -> bool:
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                return call.func.value.id in names and call.func.value.id in modules and "load" not in call.func.attr
            return called_name(call) in names

        def skip(scope: Scope) -> bool:
            return scope.owner in modules

        return [c for c in find(self.source.tree, wanted, skip) if "pretrained" not in ast.unparse(c.call.func)]

    @staticmethod
    def _held(constructions: list[Construction]) -> set[str]:
        return {ast.unparse(c.target) for c in constructions if c.target is not None}

    def _evaluated(self, found: list[Construction], evaluation: Evaluation | None) -> Iterator[_Way]:
        if evaluation is not None:
            for construction in found[:_MOST_WAYS]:
                yield self._evaluating(construction, evaluation)

    @staticmethod
    def _evaluating(construction: Construction, evaluation: Evaluation) -> _Way:
        def run() -> Any:
            evaluation.made_up.clear()
            return evaluation.run(construction)

        def text() -> str:
            made_up = ", ".join(f"{name}={value}" for name, value in evaluation.made_up.items())
            return construction.text + (f", made up: {made_up}" if made_up else "")

        return _Way(run, text, telling=2)

    def _candidate(self, name: str, ways: list[_Way], location: Location, hints: InputHints) -> Candidate:
        def construct() -> nn.Module:
            model, candidate.how = self._build(name, ways, hints.context, candidate.passed_over)
            return model

        candidate = Candidate(name, construct, "", location, hints, has_other_ways=len(ways) > 1)
        return candidate

    def _build(
        self, name: str, ways: list[_Way], context: synthesis.Context | None, passed_over: int = 0
    ) -> tuple[nn.Module, str]:
        """The first way that works, after ``passed_over`` that do, too.

        Raises:
            ConstructionError: if none does; the reason is that of a way the user wrote, where there is one.
        """
        failures: list[tuple[int, BaseException]] = []
        for way in ways:
            if context is not None:
                context.environment = None  # one that a failed way made says nothing about the next
            try:
                model, entry = with_entry(_as_model(self._in_session(way.run)))
            except (Exception, SystemExit) as error:
                failures.append((way.telling, error))
                if self._initialisation_raised(error):
                    break  # without its initialisation it would be another model
                continue
            if passed_over > 0:
                passed_over -= 1
                continue
            return model, way.text() + (f"; run by {entry}()" if entry else "")
        if not failures:
            raise ConstructionError(f"nothing in the file says how to make {name}")
        _, telling = max(failures, key=lambda failure: failure[0])
        raise ConstructionError(describe(telling, self.source.path)) from telling

    def _initialisation_raised(self, error: BaseException) -> bool:
        """Whether the user's own init function raised, outside any constructor."""
        if isinstance(error, (NameError, ImportError, OSError, SystemExit)):
            return False
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == self.source.path]
        return bool(frames) and any(
            re.search(r"(?<!_)init(?!__)|reset_param", f.name) is not None and f.name != "__init__" for f in frames[-1:]
        )

    def _in_session(self, run: Callable[[], Any]) -> Any:
        """Run user code with the project importable."""
        with self.execution.session.active() if self.execution is not None else contextlib.nullcontext():
            return run()


_MODEL_MAKERS = re.compile(
    r"torch\.nn\.(Sequential|Linear|LSTM|GRU|RNN|Transformer\w*|Conv\dd|ModuleList|ModuleDict)$"
    r"|timm\.(models\.)?(factory\.)?create_model$"
    r"|torchvision\.models\.(\w+\.)*[a-z]\w*\d\w*$|torchvision\.models\.(\w+\.)*(get_model|[a-z]+_[a-z0-9_]+|alexnet|googlenet|[A-Z]\w+)$"
    r"|transformers\.\w+(Model|LMHeadModel|ForCausalLM|ForSequenceClassification|ForMaskedLM)(\.from_config|\._from_config)?$"
    r"|segmentation_models_pytorch\.[A-Z]\w+$|diffusers\.\w+Model(\w+)?$"
)


_BARE_LAYER = re.compile(r"torch\.nn\.(Linear|LSTM|GRU|RNN|Conv\dd|ModuleList|ModuleDict)$")


def _is_whole(construction: Construction) -> bool:
    """Whether what is bound to a variable is a model: a bare layer only at module level or under ``__main__``."""
    called = ast.unparse(construction.call.func).rpartition(".")[2]
    if called in ("ModuleList", "ModuleDict"):
        return False
    if called == "Sequential":
        return bool(construction.call.args) or construction.runs_init
    if _BARE_LAYER.match(f"torch.nn.{called}"):
        return construction.scope.kind != "function" and isinstance(construction.target, ast.Name)
    return True


def _optional_only(target: Any) -> bool:
    """Whether ``target`` can be called without arguments."""
    if target is None or isinstance(target, Placeholder):
        return False
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return False
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in variadic for p in signature.parameters.values())


def _passes_on(target: Any) -> bool:
    """Whether a constructor only hands ``*args, **kwargs`` on: what it needs is said elsewhere."""
    try:
        kinds = {p.kind for p in inspect.signature(target).parameters.values()}
    except (TypeError, ValueError):
        return False
    return bool(kinds) and kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _plain_call(target: Any, name: str) -> _Way:
    return _Way(lambda: target(), lambda: f"{name}()", telling=2)


def _as_model(value: Any) -> nn.Module:
    """The module in what a construction gave: itself, or the first of a tuple or dict."""
    if isinstance(value, nn.Module):
        return getattr(value, "_orig_mod", value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    for item in items:
        if isinstance(item, nn.Module):
            return item
    raise TypeError(f"it made a {type(value).__name__}, not a torch.nn.Module")


def with_entry(model: nn.Module) -> tuple[nn.Module, str]:
    """The model with a ``forward``, and the method that stands in for it where the class has none (an RL agent)."""
    forward = getattr(type(model), "forward", None)
    if "forward" in model.__dict__ or not _is_unimplemented(forward):
        return model, ""
    own = [name for name, value in vars(type(model)).items() if isinstance(value, types.FunctionType)]
    public = [name for name in own if name[:1] != "_" and not re.match(r"(init|reset|save|load|configure)", name)]
    for name in (*_ENTRY_METHODS, *public):
        if name in own:
            model.forward = getattr(model, name)
            return model, name
    return model, ""


def _is_unimplemented(forward: Any) -> bool:
    """``nn.Module``'s own, or one that only raises ``NotImplementedError``."""
    code = getattr(forward, "__code__", None)
    if getattr(forward, "__name__", "") == "_forward_unimplemented":
        return True
    return code is not None and code.co_names == ("NotImplementedError",)


def runnable(model: nn.Module) -> nn.Module:
    """The model, with a ``forward``."""
    return with_entry(model)[0]


def _shown(value: Any) -> str:
    if isinstance(value, (type, types.FunctionType)):
        return value.__name__
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
