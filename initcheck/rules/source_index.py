"""What the source rules share: every init write of a file, with what encloses it, and the layers of its classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from initcheck.source.file import SourceFile, once
from initcheck.source.imports import may_name
from initcheck.source.scopes import FunctionNode, Place
from initcheck.source.statements import assignments
from initcheck.source.survey import Patterns
from initcheck.source.torch_names import DEPRECATED_INITIALISERS, INITIALISERS, MODULES
from initcheck.source.walk import Found

_PREFIX = "torch.nn.init."
_NAMES = {name: name for name in INITIALISERS} | {name: f"{name}_" for name in DEPRECATED_INITIALISERS}
TENSOR_METHODS = frozenset({"normal_", "uniform_", "zero_", "fill_", "random_", "log_normal_", "exponential_"})
"""Methods that overwrite a tensor without reading it."""

FAN_FUNCTIONS = frozenset({"xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"})
"""Initialisers that compute a fan, and so refuse tensors of fewer than two dimensions."""

_PARAMETERS = {
    "uniform_": ("a", "b"),
    "normal_": ("mean", "std"),
    "trunc_normal_": ("mean", "std", "a", "b"),
    "constant_": ("val",),
    "ones_": (),
    "zeros_": (),
    "eye_": (),
    "dirac_": ("groups",),
    "xavier_uniform_": ("gain",),
    "xavier_normal_": ("gain",),
    "kaiming_uniform_": ("a", "mode", "nonlinearity"),
    "kaiming_normal_": ("a", "mode", "nonlinearity"),
    "orthogonal_": ("gain",),
    "sparse_": ("sparsity", "std"),
}
"""Parameters of each initialiser after the tensor, in order."""


@dataclass(frozen=True, slots=True, eq=False)
class InitWrite:
    """A call that overwrites a tensor: ``nn.init.normal_(self.fc.weight, std=.02)`` or ``m.weight.data.normal_(0, 1)``.

    ``function`` carries its present name (``xavier_uniform`` -> ``xavier_uniform_``). ``target`` is the expression
    without ``.data``; ``key`` its text. ``classes``/``functions``: what encloses it, outermost first.
    """

    node: ast.Call
    function: str
    is_method: bool
    target: ast.expr
    key: str
    classes: tuple[ast.ClassDef, ...]
    functions: tuple[FunctionNode, ...]
    guards: tuple[ast.If, ...]

    @property
    def arguments(self) -> dict[str, ast.expr]:
        """Arguments after the tensor, by name, as far as they are written out."""
        names = _PARAMETERS.get(self.function, ())
        given = self.node.args if self.is_method else self.node.args[1:]
        bound: dict[str, ast.expr] = {}
        for name, value in zip(names, given, strict=False):
            if isinstance(value, ast.Starred):
                break
            bound[name] = value
        bound.update({k.arg: k.value for k in self.node.keywords if k.arg is not None and k.arg != "tensor"})
        return bound

    @property
    def positional(self) -> int:
        """How many of the arguments after the tensor are given by position."""
        return len(self.node.args) - (0 if self.is_method else 1)


_LAST_NAMES = tuple(sorted({*_NAMES, *_NAMES.values(), *TENSOR_METHODS}))
_NORM_CALL = re.compile(
    r"""
    Norm(?:[123]d)?[\s)]*\(
    (?!\s*[^(),=]*(?:,\s*eps\s*=\s*1e-(?:0*[2-9]|1\d)\s*)?(?:,\s*\*\*\w+\s*)?,?\s*\))
    | Norm\w*\s*=\s*[\w.]*Norm(?:[123]d)?\b
    | Norm(?:[123]d)?\s+as\b
    """,
    re.VERBOSE,
)
"""A call of a norm layer, but one with a size, a small eps and ``**kwargs`` at most; or another name for the layer."""
_NORMS = tuple(name for name in MODULES if re.search(r"Norm(?:[123]d)?$", name))


def init_mentions(source: SourceFile) -> Patterns:
    """Of which one matches in every function that initialises something."""
    return source.imports.mentions(_LAST_NAMES)


def init_code(source: SourceFile) -> Found:
    """What stands outside of functions, and in functions that may initialise something."""
    return source.survey.near(*init_mentions(source))


@once
def init_writes(source: SourceFile) -> tuple[InitWrite, ...]:
    """All init writes of a file, in source order."""
    if "torch" not in source.text and not any(f".{name}(" in source.text for name in TENSOR_METHODS):
        return ()
    timms = "trunc_normal_" in source.text and "timm" in source.text
    if not timms and not may_name(source.text, "torch.nn.init", _LAST_NAMES):
        return ()
    writes: list[InitWrite] = []
    calls = init_code(source).calls
    spelled = source.imports.spellings(_LAST_NAMES)  # after that, since aliases within functions are among them
    for call, place in calls:
        function = call.func
        if (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in spelled:
            write = _read(source, call, place)
            if write is not None:
                writes.append(write)
    return tuple(sorted(writes, key=lambda write: (write.node.lineno, write.node.col_offset)))


def norm_calls(source: SourceFile) -> Iterator[ast.Call]:
    """Calls, with more than a size and a small eps, of something whose name says that it is a norm layer."""
    if _NORM_CALL.search(source.text) is None:
        return
    renamed = (name for name in source.imports.spellings(_NORMS) if "Norm" in name and name not in _NORMS)
    for call, _ in source.survey.near(_NORM_CALL, *(re.compile(rf"{name}[\s)]*\(") for name in sorted(renamed))).calls:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if "Norm" in name:
            yield call


def _read(source: SourceFile, call: ast.Call, place: Place) -> InitWrite | None:
    full = source.imports.resolve(call.func)
    if full is not None and full.startswith("timm.") and full.endswith(".trunc_normal_"):
        full = f"{_PREFIX}trunc_normal_"  # the same function, from before torch had it
    if full is not None and full.startswith(_PREFIX):
        function = _NAMES.get(full.removeprefix(_PREFIX))
        target = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "tensor"), None)
        if function is None or target is None or isinstance(target, ast.Starred):
            return None
        return _write(call, function, False, target, place)
    if full is None and isinstance(call.func, ast.Attribute) and call.func.attr in TENSOR_METHODS:
        return _write(call, call.func.attr, True, call.func.value, place)
    return None


def _write(call: ast.Call, function: str, is_method: bool, target: ast.expr, place: Place) -> InitWrite:
    target = without_data(target)
    return InitWrite(call, function, is_method, target, ast.unparse(target), *place[1:])


def without_data(expression: ast.expr) -> ast.expr:
    """``x.weight`` for ``x.weight.data``."""
    while isinstance(expression, ast.Attribute) and expression.attr == "data":
        expression = expression.value
    return expression


def literal(expression: ast.expr | None) -> float | None:
    """The value of a literal number, signs included; None for anything else."""
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, (ast.USub, ast.UAdd)):
        value = literal(expression.operand)
        return None if value is None else -value if isinstance(expression.op, ast.USub) else value
    if isinstance(expression, ast.Constant) and isinstance(expression.value, (int, float)):
        return None if isinstance(expression.value, bool) else float(expression.value)
    return None


def times_named(source: SourceFile, name: str) -> int:
    """How often a word stands in the file's text."""
    return len(re.findall(rf"{name}\b(?<!\w{name})", source.text))  # begins with a literal: ten times as fast


def written(source: SourceFile, expression: ast.expr) -> str:
    """The expression as it stands in the file, quotes and line ends included."""
    return ast.get_source_segment(source.text, expression) or ast.unparse(expression)


def text_of(expression: ast.expr) -> str:
    """The expression as code, cut to a length that fits a message."""
    code = ast.unparse(expression)
    return code if len(code) <= 60 else code[:57] + "..."


@once
def layer_attributes(source: SourceFile, owner: ast.ClassDef) -> dict[str, ast.Call]:
    """``self.<name> = nn.<Layer>(...)`` in a class: attribute name to the constructing call (if it is only one)."""
    values: dict[str, list[ast.expr]] = {}
    for item in assignments(owner):
        for target in item.targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                values.setdefault(target.attr, []).append(item.value)
    return {
        name: only[0]
        for name, only in values.items()
        if len(only) == 1 and isinstance(only[0], ast.Call) and layer_type(source, only[0]) is not None
    }


def layer_type(source: SourceFile, call: ast.Call) -> str | None:
    """``Linear`` for ``nn.Linear(...)``, None for a call of anything that is not a class of ``torch.nn``."""
    name = source.imports.resolve(call.func)
    if name is None or not name.startswith("torch.nn.") or name.startswith(("torch.nn.init", "torch.nn.functional")):
        return None
    last = name.removeprefix("torch.nn.")
    return last if last[:1].isupper() and "." not in last and last != "Parameter" else None


def narrowed_types(source: SourceFile, write: InitWrite, name: str) -> tuple[str, ...]:
    """Classes of ``torch.nn`` that an enclosing ``isinstance(name, ...)`` leaves for a variable; none: not known."""
    for guard in reversed(write.guards):
        tests = guard.test.values if _is(guard.test, ast.And) else [guard.test]  # type: ignore[attr-defined]
        for test in tests:
            types = _isinstance_types(source, test, name)
            if types:
                return types
    return ()


def _is(test: ast.expr, operator: type[ast.boolop]) -> bool:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, operator)


def _isinstance_types(source: SourceFile, test: ast.expr, name: str) -> tuple[str, ...]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        parts = [_isinstance_types(source, value, name) for value in test.values]
        return tuple(kind for part in parts for kind in part) if all(parts) else ()
    if not (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id == "isinstance"
        and len(test.args) == 2
        and isinstance(test.args[0], ast.Name)
        and test.args[0].id == name
    ):
        return ()
    given = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
    types = [source.imports.resolve(each) or "" for each in given]
    return tuple(each.rpartition(".")[2] for each in types) if all(t.startswith("torch.nn.") for t in types) else ()
