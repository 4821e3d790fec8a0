"""Calls of a constructor with made-up arguments, mended after its own errors."""

from __future__ import annotations

import ast
import copy
import itertools
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from initcheck.discovery import synthesis
from initcheck.discovery.conventions import UNKNOWN, by_name
from initcheck.discovery.loader import line_in
from initcheck.discovery.placeholders import NotAvailableError, Placeholder

_MOST_ATTEMPTS = 14


class Guesses:
    """Calls a constructor with made-up arguments, and mends them after its own errors, a bounded number of times."""

    def __init__(self, target: Any, node: Any, context: synthesis.Context, path: str, *, alike: bool = False) -> None:
        self.target = target
        self.node = node
        self.context = context
        self.path = path
        self.alike = alike
        self.given: dict[str, Any] = {}

    def run(self) -> Any:
        """What the constructor makes.

        Raises:
            Exception: the failure that came furthest, if no set of arguments works.
        """
        if self.target is None or isinstance(self.target, Placeholder):
            raise NotAvailableError("its definition failed")
        failures: list[BaseException] = []
        queue = list(synthesis.arguments_for(self.target, self.node, self.context))
        if self.alike:
            queue = [changed for given in queue if (changed := _alike(given)) != given]
            if not queue:
                raise NotAvailableError("it has no pair of sizes that could be alike")
        seen: list[dict[str, Any]] = []
        while queue and len(seen) < _MOST_ATTEMPTS:
            given = queue.pop(0)
            if any(_equal(given, earlier) for earlier in seen):
                continue
            seen.append(given)
            used = _fresh(given)  # settings note in it what they were asked for
            try:
                value = self.target(**used)
            except (Exception, SystemExit) as error:
                if isinstance(error, (NameError, NotAvailableError)):
                    raise
                failures.append(error)
                queue = [*itertools.islice(self._mended(used, error), 12), *queue]
                continue
            self.given = given
            return value
        if not failures:
            raise TypeError("its arguments cannot be told")
        raise max(failures, key=lambda failure: line_in(failure, self.path) or 0)  # the one that came furthest

    def _mended(self, given: dict[str, Any], error: BaseException) -> Iterator[dict[str, Any]]:
        """Other arguments, by what the error says and which parameters stand on the line that raised it."""
        if isinstance(error, AssertionError):
            yield from self._satisfying(given, error)
        message = str(error)
        yield from self._supplied(given, message)
        names = self._named(error, given) or list(given)
        for name in names:
            value = given[name]
            if isinstance(value, synthesis.Settings):
                yield from ({**given, name: other} for other in self._other_settings(value, name, error))
            for pattern, mend in _MENDS:
                if re.search(pattern, message) or (pattern == "" and isinstance(error, AssertionError)):
                    for other in mend(value, name, self.context):
                        yield {**given, name: other}

    def _supplied(self, given: dict[str, Any], message: str) -> Iterator[dict[str, Any]]:
        """With values for optional parameters that the message names: ``depth and heads must be supplied``."""
        words = set(re.findall(r"\w+", message))
        optional = [p for p in synthesis.parameters(self.target, self.node) if not p.required and p.default is None]
        named = {p.name: by_name(p.name) for p in optional if p.name in words and p.name not in given}
        if named and UNKNOWN not in named.values():
            yield {**given, **named}

    def _satisfying(self, given: dict[str, Any], error: BaseException) -> Iterator[dict[str, Any]]:
        """Arguments for which the assertion that failed holds, if it speaks of arguments only."""
        line = next(
            (f.line for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == self.path), ""
        )
        try:
            tree = ast.parse(line or "")
        except SyntaxError:
            return
        if not tree.body or not isinstance(tree.body[0], ast.Assert):
            return
        test = tree.body[0].test
        names = [n.id for n in ast.walk(test) if isinstance(n, ast.Name) and n.id in given]
        code = compile(ast.Expression(test), "<assertion>", "eval")
        choices = [_alternatives(given[name]) for name in dict.fromkeys(names)]
        for values in itertools.islice(itertools.product(*choices), 600):
            changed = {**given, **dict(zip(dict.fromkeys(names), values, strict=True))}
            try:
                holds = eval(code, {}, dict(changed))  # the user's own expression, on our own values
            except Exception:
                continue
            if holds:
                yield changed

    def _other_settings(self, value: synthesis.Settings, name: str, error: BaseException) -> Iterator[Any]:
        """Settings whose values on the failing line are lists where they were numbers, or the reverse."""
        line = next(
            (f.line for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == self.path), ""
        )
        words = set(re.findall(r"\w+", line or ""))
        for key in value:
            if any(key == word or key.endswith(f"_{word}") for word in words):
                for pattern, mend in _MENDS[:2]:
                    if re.search(pattern, str(error)):
                        for other in mend(value[key], key, self.context):
                            yield synthesis.Settings({**value, key: other})

    def _named(self, error: BaseException, given: dict[str, Any]) -> list[str]:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename == self.path and frame.line:
                words = set(re.findall(r"\w+", frame.line)) | set(re.findall(r"\w+", str(error)))
                found = [name for name in given if name in words]
                if found:
                    return found
        return []


def _alike(given: dict[str, Any]) -> dict[str, Any]:
    """``in_channels`` as large as ``out_channels``."""
    changed = dict(given)
    for name, value in given.items():
        other = re.sub(r"(^|_)in(put)?(?=_|$)", lambda m: m[0].replace("in", "out"), name)
        if other != name and isinstance(value, int) and isinstance(given.get(other), int):
            changed[name] = given[other]
    return changed


def _alternatives(value: Any) -> list[Any]:
    """Other values of the same kind."""
    if isinstance(value, bool) or value is None:
        return [value]
    if isinstance(value, int):
        return [value, *(n for n in (2, 3, 4, 1, 8, 16, 32, 64, 28, 18) if n != value)]
    if isinstance(value, (list, tuple)) and value:
        return [value, *([value[0]] * n for n in (1, 2, 3, 4, 5) if n != len(value))]
    return [value]


def _to_list(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        small = re.search(r"layer|block|num|depth|n_", name) is not None
        yield [2 if small else value] * 4
        yield [2 if small else value] * 3
        yield [value] * 2


def _to_tuple(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    for made in _to_list(value, name, context):
        yield tuple(made)


def _to_number(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if isinstance(value, (list, tuple)) and value:
        yield value[0]
    elif not isinstance(value, (int, float)):
        yield 16


def _to_type(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if not callable(value):
        yield from context.blocks[:3]
        yield nn.ReLU
        yield nn.BatchNorm2d


def _to_settings(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if not isinstance(value, synthesis.Settings):
        yield synthesis.Settings()


def _to_other_size(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if isinstance(value, int) and not isinstance(value, bool):
        yield from (other for other in (64, 16, 32, 18, 22, 28, 4, 1, 3) if other != value)
    elif isinstance(value, list):
        yield from ([value[0]] * n for n in (len(value) + 1, len(value) - 1) if n > 0)


def _to_none(value: Any, name: str, context: synthesis.Context) -> Iterator[Any]:
    if value is not None:
        yield None


_MENDS: tuple[tuple[str, Callable[[Any, str, synthesis.Context], Iterator[Any]]], ...] = (
    (r"not iterable|has no len|not subscriptable|cannot unpack|can only concatenate list", _to_list),
    (r"(needs to|must|should|has to) be an? tuple|must be tuple|expected tuple", _to_tuple),
    (r"not callable", _to_type),
    (r"object has no attribute", _to_settings),
    (r"indices must be|not 'str'|must be str|has no value for", _to_settings),
    (r"list index out of range|not enough values|too many values|same length", _to_other_size),
    (
        r"(must be|expected|got|type) .*(list|tuple|str|NoneType)|unsupported operand|multiply sequence|"
        r"not supported between",
        _to_number,
    ),
    (r"divisible|multiple of|must be|should be|invalid|unsupported|not supported|unknown|expected", _to_other_size),
    ("", _to_other_size),
    (r"no attribute|NoneType|str", _to_none),
)  # fmt: skip


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[key] is other[key] or (type(one[key]) is type(other[key]) and repr(one[key]) == repr(other[key]))
        for key in one
    )


def _fresh(given: dict[str, Any]) -> dict[str, Any]:
    """Modules and lists among the arguments are the constructor's to keep: each attempt gets its own."""
    return {
        key: copy.deepcopy(value) if isinstance(value, (list, nn.Module, dict)) else value
        for key, value in given.items()
    }
