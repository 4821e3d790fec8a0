"""Where a configuration comes from: defaults, then the nearest ``[tool.initcheck]``, then the command line. No torch.

``OPTIONS`` is the one table of what a configuration file may say: key, attribute of ``Config``, and the function that
turns a TOML value into the attribute's value or says what it expected.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from initcheck.catalogue import near_rules, rule_pages
from initcheck.config import (
    EVERY_CODE,
    FAIL_ON,
    FORMATS,
    IMPORT_MODES,
    MODES,
    PRECISIONS,
    Config,
    ConfigError,
    InputSpec,
    InputValue,
    ModelSpec,
    PathPatterns,
    compiled,
    near,
)
from initcheck.findings import Severity
from initcheck.sizes import parse_size

Parse = Callable[[Any, Path], Any]
"""(TOML value, folder that its paths are relative to) -> attribute value; ValueError says what was expected."""


def parse_codes(values: Iterable[str]) -> tuple[str, ...]:
    """Codes, prefixes of codes (``IC2``) or names of rules, as prefixes of codes.

    Raises:
        ValueError: if one of them is no rule's.
    """
    pages = rule_pages()
    by_name = {page.name: code for code, page in pages.items()}
    prefixes = []
    for value in values:
        text = value.strip()
        prefix = EVERY_CODE if text.upper() == "ALL" else by_name.get(text.lower(), text.upper())
        if not re.fullmatch(r"IC\d{0,3}", prefix) or (
            prefix != EVERY_CODE and not any(code.startswith(prefix) for code in pages)
        ):
            raise ValueError(f"unknown code {text!r}{near_rules(text)}; 'initcheck rules' lists them all")
        prefixes.append(prefix)
    return tuple(prefixes)


def parse_fail_on(text: str) -> Severity | None:
    """The severity named, None for ``never``."""
    return None if text == "never" else Severity.parse(text)


def parse_patterns(lines: Sequence[str], root: Path) -> PathPatterns:
    """Patterns in the manner of ``.gitignore``.

    Raises:
        ValueError: if one of them is empty or malformed.
    """
    for line in lines:
        try:
            if not line.strip():
                raise ValueError
            compiled((line,))
        except (ValueError, re.error):
            raise ValueError(
                f"{line!r} is not a pattern: expected one as in .gitignore, such as 'build/' or '*_pb2.py'"
            ) from None
    return PathPatterns(str(root), tuple(lines))


def parse_target(text: str, root: Path) -> tuple[str, str]:
    """``models/net.py:Net`` as absolute path and expression.

    Raises:
        ValueError: if it is not a file and a name or a call.
    """
    file, colon, expression = text.partition(".py:")
    path = root / f"{file}.py"
    if not colon:
        raise ValueError(f"{text!r} is not a model: expected FILE.py:NAME or FILE.py:NAME(ARGUMENTS)")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        tree = None
    called = tree.func if isinstance(tree, ast.Call) else tree
    while isinstance(called, ast.Attribute):
        called = called.value
    if not isinstance(called, ast.Name):
        raise ValueError(f"{expression!r} in {text!r} is neither a name nor a call such as Net(width=64)")
    return str(path.absolute()), expression.strip()


def _codes(value: Any, root: Path) -> tuple[str, ...]:
    return parse_codes(_strings(value, root))


def _selection(value: Any, root: Path) -> tuple[str, ...]:
    codes = _codes(value, root)
    if not codes:
        raise ValueError('is empty, so nothing would be checked: expected codes such as ["IC2", "IC801"]')
    return codes


def _strings(value: Any, root: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"expected a list of strings, got {_kind(value)}")
    return tuple(value)


def _per_file_ignores(value: Any, root: Path) -> tuple[tuple[PathPatterns, tuple[str, ...]], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a table of pattern = [codes], got {_kind(value)}")
    entries = []
    for pattern, codes in value.items():
        try:
            entries.append((parse_patterns([pattern], root), _codes(codes, root)))
        except ValueError as error:
            raise ValueError(f"{pattern!r}: {error}") from None
    return tuple(entries)


def _exclude(value: Any, root: Path) -> tuple[PathPatterns, ...]:
    return (parse_patterns(_strings(value, root), root),)


def _one_of(*choices: str) -> Parse:
    def parse(value: Any, root: Path) -> str:
        if not isinstance(value, str) or value not in choices:
            shown = repr(value) if isinstance(value, str) else _kind(value)
            raise ValueError(f"expected one of {', '.join(choices)}; got {shown}")
        return value

    return parse


def parse_device(text: str) -> str:
    """``cpu``, ``cuda``, ``cuda:1`` or ``mps``; whether it is there is seen when it is used.

    Raises:
        ValueError: if it is none of these.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise ValueError(f"expected cpu, cuda, cuda:N or mps; got {text!r}")
    return text


def _device(value: Any, root: Path) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected cpu, cuda, cuda:N or mps; got {_kind(value)}")
    return parse_device(value)


def parse_data(text: str, root: Path) -> str:
    """``batches.pt`` or ``loaders.py:name``, made absolute.

    Raises:
        ValueError: if it is neither, or there is no such file.
    """
    file, colon, name = text.partition(".py:")
    path = root / (f"{file}.py" if colon else text)
    if (colon and not name.isidentifier()) or (not colon and path.suffix not in (".pt", ".pth")):
        raise ValueError(f"{text!r} is not data: expected FILE.pt or FILE.py:LOADER")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return f"{path.absolute()}:{name}" if colon else str(path.absolute())


def _data(value: Any, root: Path) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected FILE.pt or FILE.py:LOADER; got {_kind(value)}")
    return parse_data(value, root)


def _fail_on(value: Any, root: Path) -> Severity | None:
    return parse_fail_on(_one_of(*FAIL_ON)(value, root))


def _flag(value: Any, root: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {_kind(value)}")
    return value


def _count(value: Any, root: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number of at least 1, got {_shown(value)}")
    return value


def _seconds(value: Any, root: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"expected a positive number of seconds, got {_shown(value)}")
    return float(value)


def _size(value: Any, root: Path) -> int:
    if not isinstance(value, str):
        raise ValueError(f'expected a size such as "8 GiB", got {_shown(value)}')
    return parse_size(value)


_MODEL_KEYS = ("target", "args", "kwargs", "inputs")


def _models(value: Any, root: Path) -> tuple[ModelSpec, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"expected tables, [[tool.initcheck.models]], got {_kind(value)}")
    models = []
    for index, table in enumerate(value, start=1):
        try:
            models.append(_model(table, root))
        except ValueError as error:
            raise ValueError(f"number {index}: {error}") from None
    return tuple(models)


def _model(table: Mapping[str, Any], root: Path) -> ModelSpec:
    for key in table:
        if key not in _MODEL_KEYS:
            raise ValueError(f"unknown key {key!r}{near(key, _MODEL_KEYS)}; known are {', '.join(_MODEL_KEYS)}")
    target = table.get("target")
    if not isinstance(target, str):
        raise ValueError('expected target = "FILE.py:NAME"')
    args, kwargs, inputs = table.get("args", []), table.get("kwargs", {}), table.get("inputs", [])
    if not isinstance(args, list):
        raise ValueError(f"args: expected a list, got {_kind(args)}")
    if not isinstance(kwargs, dict):
        raise ValueError(f"kwargs: expected a table, got {_kind(kwargs)}")
    if not isinstance(inputs, list | dict):
        raise ValueError(f"inputs: expected a list or, for keyword arguments, a table; got {_kind(inputs)}")
    path, expression = parse_target(target, root)
    try:
        positional = tuple(_input(value) for value in inputs) if isinstance(inputs, list) else ()
        keyword = {key: _input(value) for key, value in inputs.items()} if isinstance(inputs, dict) else {}
    except ValueError as error:
        raise ValueError(f"inputs: {error}") from None
    spec = ModelSpec(path, expression, tuple(args), kwargs, positional, keyword)
    if spec.is_call and (args or kwargs):
        raise ValueError(f"{expression} is a call already: leave out args and kwargs")
    return spec


def _input(value: Any) -> InputValue:
    if isinstance(value, str):
        return InputSpec.parse(value)
    if isinstance(value, list):
        return tuple(_input(item) for item in value)
    if isinstance(value, bool | int | float):
        return value
    raise ValueError(
        f'expected a string such as "float32[2,3,224,224]", a number, a flag or a list, got {_kind(value)}'
    )


def parse_inputs(texts: Iterable[str]) -> tuple[tuple[InputValue, ...], dict[str, InputValue]]:
    """The values of ``--input``: ``float32[2,3]`` is positional, ``mask=bool[2,5]`` goes by keyword.

    Raises:
        ValueError: if one of them is malformed.
    """
    positional: list[InputValue] = []
    keyword: dict[str, InputValue] = {}
    for text in texts:
        name, equals, spec = text.rpartition("=")
        if equals:
            keyword[name.strip()] = InputSpec.parse(spec)
        else:
            positional.append(InputSpec.parse(text))
    return tuple(positional), keyword


@dataclass(frozen=True, slots=True)
class Option:
    """What a key of the configuration file sets."""

    attribute: str
    parse: Parse


OPTIONS: Mapping[str, Option] = {
    "select": Option("select", _selection),
    "ignore": Option("ignore", _codes),
    "per-file-ignores": Option("per_file_ignores", _per_file_ignores),
    "fail-on": Option("fail_on", _fail_on),
    "exclude": Option("exclude", _exclude),
    "force-exclude": Option("force_exclude", _flag),
    "models": Option("models", _models),
    "mode": Option("mode", _one_of(*MODES)),
    "import": Option("import_mode", _one_of(*IMPORT_MODES)),
    "timeout": Option("timeout", _seconds),
    "memory-limit": Option("memory_limit", _size),
    "jobs": Option("jobs", _count),
    "device": Option("device", _device),
    "seeds": Option("seeds", _count),
    "precision": Option("precision", _one_of(*PRECISIONS)),
    "data": Option("data", _data),
    "train-steps": Option("train_steps", _count),
    "safe-fixes-only": Option("safe_fixes_only", _flag),
    "output-format": Option("output_format", _one_of(*FORMATS)),
    "show-info": Option("show_info", _flag),
    "statistics": Option("statistics", _flag),
}


STANDALONE = "initcheck.toml"
PYPROJECT = "pyproject.toml"


def load_config(
    start: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    file: str | Path | None = None,
    isolated: bool = False,
) -> Config:
    """Defaults, then the configuration file, then ``overrides``.

    Args:
        start: the folder from which the nearest ``initcheck.toml``, or ``pyproject.toml`` with a ``[tool.initcheck]``,
            is searched upward.
        overrides: attributes of ``Config`` given on the command line. ``select`` replaces the file's ``select`` and
            ``ignore``; ``ignore`` and ``exclude`` are added to the file's.
        file: the configuration file to use instead of searching.
        isolated: use no file at all.

    Raises:
        ConfigError: if the file cannot be read or used, or holds an unknown key, a wrong type, or an unknown code.
    """
    found = None if isolated else (Path(file) if file is not None else find_config(start))
    config = Config() if found is None else read_config(found)
    given = dict(overrides or {})
    if "select" in given:
        config = replace(config, ignore=())
    for added in ("ignore", "exclude"):
        if added in given:
            given[added] = (*getattr(config, added), *given[added])
    return replace(config, **given)


def find_config(start: str | Path) -> Path | None:
    """The nearest configuration file in ``start`` or a folder above it, None if there is none."""
    folder = Path(start).absolute()
    for parent in (folder, *folder.parents):
        if (parent / STANDALONE).is_file():
            return parent / STANDALONE
        pyproject = parent / PYPROJECT
        if pyproject.is_file() and "initcheck" in _tool_tables(pyproject):
            return pyproject
    return None


def read_config(path: Path) -> Config:
    """The configuration that a file gives.

    Raises:
        ConfigError: see ``load_config``.
    """
    if path.name == PYPROJECT:
        table = _tool_tables(path).get("initcheck", {})
        where = f"{path}: [tool.initcheck]"
    else:
        table = _toml(path)
        where = f"{path}:"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} expected a table, got {_kind(table)}")
    root = path.absolute().parent
    values: dict[str, Any] = {"source": str(path)}
    for key, value in table.items():
        if key not in OPTIONS:
            raise ConfigError(f"{where} unknown key {key!r}{near(key, OPTIONS)}; known are {', '.join(OPTIONS)}")
        try:
            values[OPTIONS[key].attribute] = OPTIONS[key].parse(value, root)
        except ValueError as error:
            raise ConfigError(f"{where} {key}: {error}") from None
    return Config(**values)


def _tool_tables(path: Path) -> Mapping[str, Any]:
    tables = _toml(path).get("tool", {})
    return tables if isinstance(tables, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8, as TOML must be") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


_KINDS = {str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else _kind(value)
