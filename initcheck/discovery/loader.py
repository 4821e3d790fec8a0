"""Load a file for its definitions: imports, classes, functions, constants and what these need; never what it does.

The file is executed statement by statement, each compiled under the file's real path, so that frames and tracebacks
show true lines. What training scripts do at module level (data, loops, ``parse_args`` on our command line) is left out;
values that a construction needs (``args.hidden_size``) are had later, on demand, with ``LoadedModule.ensure``.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import contextlib
import copy
import functools
import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from initcheck.discovery.compiled_ops import with_declared_ops
from initcheck.discovery.denied import denied_call
from initcheck.discovery.importing import Place, Session, forget, is_taken
from initcheck.discovery.placeholders import NotAvailableError, Placeholder, loading
from initcheck.discovery.slicing import Statement, blocks, closure, is_main_guard, statement
from initcheck.source.file import SourceError, SourceFile
from initcheck.source.imports import Imports
from initcheck.source.torch_names import words


class LoadError(Exception):
    """A file cannot be loaded at all. ``line``: where, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


@dataclass(frozen=True, slots=True)
class Note:
    """A statement that was skipped, and why."""

    line: int
    reason: str
    names: frozenset[str]


class LoadedModule(ModuleType):
    """A module executed for its definitions. Attributes that were not computed yet are computed when asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__dict__["_initcheck_execution"] = None

    def __getattr__(self, name: str) -> Any:
        execution = self.__dict__.get("_initcheck_execution")
        if execution is not None and not name.startswith("__"):
            execution.ensure([name])
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def load(source: SourceFile) -> ModuleType:
    """The module of a file, with its classes, functions and constants.

    It is registered in ``sys.modules`` under the name Python would give it (under a name of its own where that one
    belongs to an installed package). Statements that fail are skipped and noted (``execution(module).notes``).

    Raises:
        LoadError: if the file cannot be executed at all.
    """
    if _sessions:
        forget(_sessions.pop())
    place = Place.of(Path(source.path), _relative_level(source.tree), source.imports.modules)
    if place.is_installed:
        return _import_installed(place)

    def execute(module: ModuleType, path: str) -> None:
        is_main = Path(path).resolve() == place.path
        try:
            text = source if is_main else SourceFile.read(path)
        except SourceError as error:
            raise ImportError(f"{path}:{error.line}: {error.message}") from None
        Execution(module, text, session).load()

    session = Session(place, LoadedModule, execute)
    _sessions.append(session)
    with session.active():
        return _import(place, session)


_sessions: list[Session] = []


def execution(module: ModuleType) -> Execution | None:
    """How a module was executed; None for one that Python imported itself."""
    found = module.__dict__.get("_initcheck_execution")
    return found if isinstance(found, Execution) else None


def _relative_level(tree: ast.Module) -> int:
    return max((node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), default=0)


def _import_installed(place: Place) -> ModuleType:
    """A file of an installed package is imported as that package's module."""
    try:
        return with_declared_ops(lambda: importlib.import_module(place.name))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise LoadError(f"importing {place.name} failed: {type(error).__name__}: {error}") from error


def _import(place: Place, session: Session) -> ModuleType:
    name = place.name.rpartition(".")[0]
    if not name and is_taken(place.name):
        return _execute_as(f"_initcheck_{place.name}", place, session)
    if name:
        try:
            importlib.import_module(name)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            _bare_packages(name, place, session)
    loaded = sys.modules.get(place.name)
    if loaded is not None and _same(getattr(loaded, "__file__", None) or "", str(place.path)):
        return loaded
    return _execute_as(place.name, place, session)


def _bare_packages(name: str, place: Place, session: Session) -> None:
    """Packages whose ``__init__`` fails become plain folders of modules."""
    folder = place.package_root
    parts = name.split(".")
    for count, part in enumerate(parts, start=1):
        folder = folder / part
        full = ".".join(parts[:count])
        if full not in sys.modules:
            package = LoadedModule(full)
            package.__path__ = [str(folder)]
            sys.modules[full] = package
            session.loaded.add(full)


def _execute_as(name: str, place: Place, session: Session) -> ModuleType:
    module = session.make(name)
    module.__file__ = str(place.path)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=str(place.path))
    module.__package__ = name if place.path.name == "__init__.py" else name.rpartition(".")[0]
    if place.path.name == "__init__.py":
        module.__path__ = [str(place.path.parent)]
    sys.modules[name] = module
    session.loaded.add(name)
    session.execute(module, str(place.path))
    return module


class Execution:
    """The statements of one file and which of them have been executed."""

    def __init__(self, module: ModuleType, source: SourceFile, session: Session) -> None:
        self.module = module
        self.source = source
        self.session = session
        module.__file__ = source.path  # as given: positions found through inspect read like those of the source
        self.notes: list[Note] = []
        self.statements: list[Statement] = [statement(node) for node in source.tree.body if not is_main_guard(node)]
        guards = [node for node in source.tree.body if isinstance(node, ast.If) and is_main_guard(node)]
        self.in_main: list[Statement] = [statement(node) for guard in guards for node in guard.body]
        self._done: set[int] = set()
        self._flags = _future_flags(source.tree)
        module.__dict__["_initcheck_execution"] = self
        module.__dict__["__builtins__"] = _LazyGlobals(self)

    def load(self) -> None:
        """Execute definitions and what they need."""
        every = self.statements
        roots = {index for index, candidate in enumerate(every) if _always(candidate)}
        needed: set[str] = set()
        for index in roots:
            needed |= every[index].uses
            if _holds_modules(every[index].node):
                needed |= every[index].later
        wanted = roots | closure(needed, every)
        self._run(wanted | self._constants(wanted))

    def _constants(self, wanted: set[int]) -> set[int]:
        """Plain assignments that need nothing but what is executed anyway: any function may read them."""
        found: set[int] = set()
        bound = set(dir(builtins)) | {name for index in wanted for name in self.statements[index].binds}
        for index, candidate in enumerate(self.statements):
            node = candidate.node
            if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                continue
            if _is_plain(node.value) and candidate.uses | candidate.changes <= bound:
                found.add(index)
                bound |= candidate.binds
        return found

    def ensure(self, names: Iterable[str], *, main: bool = False) -> None:
        """Compute what ``names`` need, as far as it was not done before; with ``main``, of ``__main__`` too."""
        every = [*self.statements, *self.in_main] if main else self.statements
        with self.session.active():
            self._run(closure([n for n in names if n not in self.module.__dict__], every), every)

    def _run(self, indices: Iterable[int], every: Sequence[Statement] | None = None) -> None:
        every = self.statements if every is None else every
        with loading(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # example inputs at module level are the same at each run
            for index in sorted(indices):
                if index not in self._done:
                    self._done.add(index)
                    self.run(every[index])

    def run(self, candidate: Statement) -> None:
        """Execute one statement at module level; what it cannot bind becomes a placeholder, and a note says why."""
        denied = None if candidate.is_definition else denied_call(candidate.node, self.source.imports)
        if denied is not None:
            self._skip(candidate, denied)
            return
        try:
            self.execute(candidate.node)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            if candidate.is_import:
                self._import_each(candidate.node)
            elif not self._again(candidate):
                self._skip(candidate, self._reason(error))

    def execute(self, *nodes: ast.stmt) -> None:
        """Execute statements at module level, under the file's own path."""
        code = self.compile(ast.Module(list(nodes), []))
        exec(code, self.module.__dict__)

    def compile(self, tree: ast.Module) -> Any:
        """Compile statements of this file."""
        return compile(tree, self.source.path, "exec", flags=self._flags, dont_inherit=True)

    def _again(self, candidate: Statement) -> bool:
        """A definition whose decorators fail is had without them, its methods' too; imports in a block one by one."""
        node = candidate.node
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for methods_too in (False, True):
                undecorated = _Undecorated(self.source.imports, inner=methods_too)
                bare = copy.deepcopy(node)
                undecorated.visit(bare)
                if undecorated.removed:
                    with contextlib.suppress(Exception):
                        self.execute(bare)
                        return True
            return False
        imports = [n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))]
        if isinstance(node, (ast.If, ast.Try)) and imports:
            for inner in imports:
                self._import_each(inner)
            return True
        return False

    def _import_each(self, node: ast.stmt) -> None:
        assert isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names:
            single = ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), "names": [alias]}), node)
            try:
                with_declared_ops(functools.partial(self.execute, single))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                self._missing(node, alias, error)

    def _missing(self, node: ast.Import | ast.ImportFrom, alias: ast.alias, error: BaseException) -> None:
        reason = self._reason(error)
        if isinstance(node, ast.ImportFrom):
            full = f"{'.' * node.level}{node.module or ''}.{alias.name}"
            bound = alias.asname or alias.name
        else:
            full = alias.name if alias.asname else alias.name.partition(".")[0]
            bound = alias.asname or full
        names = frozenset() if alias.name == "*" else frozenset({bound})
        self.notes.append(Note(node.lineno, reason, names))
        for name in names:
            self.module.__dict__[name] = Placeholder(full, reason)

    def _skip(self, candidate: Statement, reason: str) -> None:
        self.notes.append(Note(candidate.node.lineno, reason, candidate.binds))
        for name in candidate.binds:
            self.module.__dict__.setdefault(name, Placeholder(name, f"{reason} (line {candidate.node.lineno})"))

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, ModuleNotFoundError) and error.name:
            self.session.missing.add(error.name.partition(".")[0])
            return f"the package {error.name.partition('.')[0]!r} is not installed"
        return describe(error, self.source.path)


class _Undecorated(ast.NodeTransformer):
    """Takes the decorators off a definition and, with ``inner``, off what it holds; those of Python itself stay."""

    def __init__(self, imports: Imports, *, inner: bool) -> None:
        self.imports = imports
        self.inner = inner
        self.removed = False

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            kept = [d for d in node.decorator_list if self._is_python_s_own(d)]
            self.removed = self.removed or len(kept) < len(node.decorator_list)
            node.decorator_list = kept
            return self.generic_visit(node) if self.inner else node
        return self.generic_visit(node)

    def _is_python_s_own(self, decorator: ast.expr) -> bool:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        full = self.imports.resolve(called) or ast.unparse(called)
        return full in _BUILTIN_DECORATORS or full.partition(".")[0] in _DECORATING_MODULES


_BUILTIN_DECORATORS = frozenset({"property", "staticmethod", "classmethod"})
_DECORATING_MODULES = frozenset({"dataclasses", "functools", "contextlib", "abc", "enum", "typing"})


class _LazyGlobals(dict[str, Any]):
    """A module's builtins, and after these its names that were not computed yet: computed when they are first read.

    Python looks a global up in the module and then here, whoever runs the code: a constructor, a decorator, a forward.
    """

    def __init__(self, execution: Execution) -> None:
        super().__init__(vars(builtins))
        del self["open"]  # it is guarded now and then: looked up at each use
        self._execution = execution

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        self._execution.ensure([name], main=True)
        return self._execution.module.__dict__[name]


def describe(error: BaseException, path: str) -> str:
    """``ValueError: too small, at model.py:12``: an exception in one line, with the last line of ``path`` it passed."""
    text = " ".join(str(error).split())
    if not isinstance(error, NotAvailableError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if len(text) > 300:
        text = text[:297] + "..."
    line = line_in(error, path)
    return text if line is None else f"{text}, at {Path(path).name}:{line}"


def line_in(error: BaseException, path: str) -> int | None:
    """The last line of the file ``path`` on the way to where ``error`` was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    return frames[-1].lineno if frames else None


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()


def _future_flags(tree: ast.Module) -> int:
    flags = 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            for alias in node.names:
                feature = getattr(__future__, alias.name, None)
                flags |= feature.compiler_flag if feature is not None else 0
    return flags


_EFFECTS = frozenset({"torch.set_default_dtype", "torch.set_default_tensor_type", "warnings.filterwarnings"})
_PLAIN_CALLS = frozenset(
    words("""
    dict list tuple set frozenset int float str bool len min max range sum sorted zip getattr hasattr object
    partial functools.partial namedtuple collections.namedtuple defaultdict OrderedDict collections.OrderedDict
    SimpleNamespace TypeVar NewType typing.TypeVar logging.getLogger torch.device torch.cuda.is_available
    math.sqrt math.log np.sqrt Path os.path.join os.path.dirname os.path.abspath os.environ.get os.getenv
    """)
)


def _is_plain(value: ast.expr) -> bool:
    """Whether an expression is a constant or near to one: executing it costs nothing and does nothing."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and ast.unparse(node.func) not in _PLAIN_CALLS:
            return False
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom)):
            return False
    return True


def _always(candidate: Statement) -> bool:
    """Whether a statement is executed whatever needs it."""
    node = candidate.node
    if candidate.is_import or candidate.is_definition:
        return True
    if isinstance(node, (ast.If, ast.Try)):
        return not candidate.trains and _defines(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        text = ast.unparse(node.value.func)
        return text in _EFFECTS or text.startswith("sys.path.")
    return False


def _defines(node: ast.stmt) -> bool:
    """Whether an ``if`` or ``try`` at module level only chooses between imports, definitions and constants."""
    found = False
    for block in blocks(node):
        for inner in block:
            if isinstance(inner, (ast.If, ast.Try)):
                if not _defines(inner):
                    return False
                found = True
            elif isinstance(inner, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)):
                found = True
            elif isinstance(inner, (ast.Assign, ast.AnnAssign)):
                if inner.value is not None and not _is_plain(inner.value):
                    return False
            elif not isinstance(inner, (ast.Pass, ast.Raise)) and not _only_says(inner):
                return False
    return found


def _only_says(node: ast.stmt) -> bool:
    """A docstring, ``print(...)``, ``warnings.warn(...)``, ``sys.path.append(...)``."""
    if not isinstance(node, ast.Expr):
        return False
    if not isinstance(node.value, ast.Call):
        return isinstance(node.value, ast.Constant)
    return ast.unparse(node.value.func).startswith(("print", "warnings.", "logging.", "logger.", "sys.path."))


def _holds_modules(node: ast.stmt) -> bool:
    """Whether a definition may be a model or part of one: a class with bases, or with a decorator (a configuration)."""
    if isinstance(node, ast.ClassDef):
        return bool(node.bases or node.decorator_list)
    return isinstance(node, (ast.If, ast.Try))
