"""Arguments for a constructor that no one calls here: from annotations, from how they are used, from their names.

Every value made up here is said in ``Candidate.how``. Names are those that the field uses; sizes agree with each other
(``hidden_size`` is a multiple of ``num_heads``), and are small.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from initcheck.discovery.conventions import UNKNOWN, by_name, guess_shape
from initcheck.discovery.environments import Box, Discrete, Environment, environment_for, is_environment
from initcheck.discovery.placeholders import NotAvailableError

_MODULE_NAMES = re.compile(
    r"(base_?)?(model|module|net(work)?|layer|fn|func|block|backbone|encoder|decoder|head|body|trunk|attn|attention|mlp|"
    r"generator|discriminator|actor|critic|q_?net(work)?|policy|student|teacher|core|stem|embedder|feature_extractor)"
)
_SETTINGS_NAMES = re.compile(
    r"(model_|net_)?(config|cfg|conf|args?|opts?|options?|(hyper_?|h)?params?|settings|kwargs|hps?|flags|argv)"
)


_SWITCH = re.compile(r"use|is|with|has|separate|share|enable|do|add|return|learn|fix|norm|no_|apply|tie|init|pre|post")


class Settings(dict[str, Any]):
    """A configuration nobody wrote: each key or attribute that is asked for gets the value its name suggests."""

    def __init__(self, asked: Mapping[str, Any] | None = None) -> None:
        super().__init__(asked or {})

    def _make(self, key: str) -> Any:
        value = by_name(key) if isinstance(key, str) else UNKNOWN
        if value is UNKNOWN:
            value = guess_shape(key)
        if value is UNKNOWN and isinstance(key, str):
            value = False if _SWITCH.match(key) else 16
        if value is UNKNOWN:
            raise KeyError(key)
        self[key] = value
        return value

    def __missing__(self, key: str) -> Any:
        return self._make(key)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def pop(self, key: str, *default: Any) -> Any:
        """As of a dict; a key without a default gets a value."""
        if key not in self and not default:
            return self._make(key)
        return super().pop(key, *default)

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return Settings(self)


@dataclasses.dataclass
class Parameter:
    """One parameter of a constructor: its name, annotation, and how the constructor uses it."""

    name: str
    annotation: Any
    usage: Usage
    required: bool = True
    default: Any = None


@dataclasses.dataclass
class Usage:
    """What a constructor does with one of its parameters."""

    compared: list[Any] = dataclasses.field(default_factory=list)
    called: bool = False
    length: int = 0
    iterated: bool = False
    attributes: list[str] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    passed_as: list[str] = dataclasses.field(default_factory=list)
    is_module: bool = False
    is_flag: bool = False


def usages(node: ast.ClassDef | ast.FunctionDef | None) -> dict[str, Usage]:
    """How each parameter is used, by name; empty if there is no source."""
    function = node
    if isinstance(node, ast.ClassDef):
        function = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if not isinstance(function, ast.FunctionDef):
        return {}
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    found = {argument.arg: Usage() for argument in every}
    alias = {name: name for name in found}
    for inner in ast.walk(function):
        if isinstance(inner, ast.Assign) and isinstance(inner.value, ast.Name) and inner.value.id in found:
            alias.update({ast.unparse(target): inner.value.id for target in inner.targets})
    for inner in ast.walk(function):
        _note(inner, found, alias)
    if isinstance(node, ast.ClassDef):
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                name = alias.get(ast.unparse(inner.func))
                if name is not None and name in found:
                    found[name].is_module = True
    return found


def _note(node: ast.AST, found: dict[str, Usage], alias: Mapping[str, str]) -> None:
    def use(expression: ast.AST | None) -> Usage | None:
        name = alias.get(ast.unparse(expression)) if isinstance(expression, (ast.Name, ast.Attribute)) else None
        return found.get(name) if name is not None else None

    if isinstance(node, ast.Compare) and (usage := use(node.left)) is not None:
        for value in node.comparators:
            items = value.elts if isinstance(value, (ast.Tuple, ast.List, ast.Set)) else [value]
            usage.compared += [i.value for i in items if isinstance(i, ast.Constant) and i.value is not None]
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and (usage := use(node.func)) is not None:
            usage.called = True
        _note_call(node, use)
    elif isinstance(node, ast.Subscript) and (usage := use(node.value)) is not None:
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            usage.keys.append(node.slice.value)
        elif isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int):
            usage.length = max(usage.length, node.slice.value + 1)
        else:
            usage.iterated = True
    elif isinstance(node, (ast.For, ast.comprehension)):
        for part in ast.walk(node.iter):
            in_range = isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "range"
            if not in_range and (usage := use(part)) is not None:
                usage.iterated = True
    elif isinstance(node, ast.Starred) and (usage := use(node.value)) is not None:
        usage.iterated = True
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        if (usage := use(node.value)) is not None:
            usage.length = len(node.targets[0].elts)
    elif isinstance(node, ast.Attribute) and (usage := use(node.value)) is not None:
        usage.attributes.append(node.attr)
    elif isinstance(node, (ast.If, ast.IfExp)) and (usage := use(node.test)) is not None:
        usage.is_flag = True


def _note_call(node: ast.Call, use: Callable[[ast.AST | None], Usage | None]) -> None:
    name = ast.unparse(node.func)
    for position, argument in enumerate(node.args):
        if (usage := use(argument)) is not None:
            if name in ("len", "enumerate", "zip", "list", "tuple", "sum", "reversed", "np.prod", "math.prod"):
                usage.iterated = True
            else:
                usage.passed_as.append(f"{name}:{position}")
    for keyword in node.keywords:
        if keyword.arg and (usage := use(keyword.value)) is not None:
            usage.passed_as.append(f"{name}:{keyword.arg}")


def parameters(target: Any, node: ast.ClassDef | ast.FunctionDef | None) -> list[Parameter]:
    """The parameters that a call of ``target`` must or may give."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return []
    try:
        hints = typing.get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    except Exception:  # annotations may name anything
        hints = {}
    used = usages(node)
    found = []
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.get(name, parameter.annotation)
        annotation = UNKNOWN if annotation is parameter.empty or isinstance(annotation, str) else annotation
        required = parameter.default is parameter.empty
        found.append(Parameter(name, annotation, used.get(name, Usage()), required, parameter.default))
    handed_on = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if handed_on and isinstance(target, type):
        known = {parameter.name for parameter in found}
        found += [p for p in parameters(_next_constructor(target), None) if p.required and p.name not in known]
    return found


def _next_constructor(cls: type) -> Any:
    """The class whose constructor gets what ``cls`` hands on with ``**kwargs``; None if it is not the user's."""
    own = [base for base in cls.__mro__ if "__init__" in vars(base)]
    following = own[1] if len(own) > 1 else object
    return None if following in (nn.Module, object) or following.__module__.startswith("torch.") else following


_DECIDES_INIT = re.compile(
    r"(\w+_)?(init(ialis|ializ)?(er|ation|_fn|_func|_method|_type|_scheme|_std|_scale|_gain)?|scheme|variance|var|std|gain)"
    r"|sigma(_[wb])?|weight_scale"
)


def value_for(parameter: Parameter, context: Context) -> Any:
    """The value for one parameter; UNKNOWN if nothing suggests one.

    Raises:
        NotAvailableError: if the value decides the initialisation: a verdict on made-up weights would be made up too.
    """
    if _DECIDES_INIT.fullmatch(parameter.name.lower()):
        raise NotAvailableError(
            f"{parameter.name!r} decides the initialisation, and nothing in the file says its value"
        )
    for way in (_from_environment, _from_annotation, _from_usage, _from_context):
        value = way(parameter, context)
        if value is not UNKNOWN:
            return value
    return UNKNOWN


@dataclasses.dataclass
class Context:
    """What a file offers as arguments: its block and configuration classes, and the code of the class to build."""

    namespace: Mapping[str, Any]
    blocks: tuple[type, ...] = ()
    code: str = ""
    environment: Environment | None = None
    """The stand-in that was made for ``env``, if one was asked for."""

    def make_environment(self) -> Environment:
        """The stand-in for the environment."""
        if self.environment is None:
            self.environment = environment_for(self.code)
        return self.environment


def _from_environment(parameter: Parameter, context: Context) -> Any:
    if is_environment(parameter.name.lower()):
        return context.make_environment()
    return UNKNOWN


def _from_annotation(parameter: Parameter, context: Context) -> Any:
    return of_type(parameter.annotation, parameter.name, context)


_PLAIN: dict[Any, Any] = {int: 16, float: 0.1, bool: False, str: UNKNOWN}


def of_type(annotation: Any, name: str, context: Context) -> Any:
    """A value of an annotated type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (UNKNOWN, Any, None):
        return UNKNOWN
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        inner.sort(key=lambda argument: argument not in _PLAIN)  # Union[Tuple[int, ...], int]: the plain one
        return of_type(inner[0], name, context) if inner else None
    if origin is typing.Literal:
        return arguments[0]
    if annotation in _PLAIN:
        named = by_name(name)
        if annotation is int and isinstance(named, (int, float)) and not isinstance(named, bool):
            return int(named)
        if annotation is float and isinstance(named, (int, float)):
            return float(named)
        return _PLAIN[annotation] if annotation in (int, float, bool) else named if isinstance(named, str) else UNKNOWN
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        shaped = guess_shape(name)
        if shaped is not UNKNOWN:
            return list(shaped) if origin is list else tuple(shaped)
        if origin is tuple and arguments and Ellipsis not in arguments:
            return tuple(of_type(argument, name, context) for argument in arguments)
        if not arguments:
            return UNKNOWN
        item = of_type(arguments[0], name, context)
        return UNKNOWN if item is UNKNOWN else [item] * 2 if origin is list else (item,) * 2
    if origin is type or annotation is type:
        return context.blocks[0] if context.blocks else UNKNOWN
    if isinstance(annotation, type):
        return _instance(annotation, context)
    return UNKNOWN


def _instance(cls: type, context: Context) -> Any:
    if issubclass(cls, enum.Enum):
        return next(iter(cls))
    if issubclass(cls, nn.Module):
        return nn.Linear(64, 64) if cls is nn.Module else build_settings(cls, context)
    return build_settings(cls, context)


def build_settings(cls: type, context: Context) -> Any:
    """An instance of a configuration class: its defaults, and made-up values for fields without one."""
    try:
        every = parameters(cls, None)
        values = {p.name: value_for(p, context) for p in every if p.required}
        for p in every:  # vocab_size: int = -1  # set by the tokenizer
            if p.default == -1 and isinstance(size := by_name(p.name), int):
                values[p.name] = size
        if UNKNOWN in values.values():
            return UNKNOWN
        return cls(**values)
    except Exception:  # any class may refuse
        return UNKNOWN


def _from_usage(parameter: Parameter, context: Context) -> Any:
    usage, name = parameter.usage, parameter.name
    texts = [value for value in usage.compared if isinstance(value, str)]
    if texts:
        return texts[0]
    if usage.called and not usage.is_module:
        if re.search(r"norm", name):
            return nn.LayerNorm if re.search("LayerNorm|Attention|attn", context.code) else nn.BatchNorm2d
        if re.search(r"act|nonlin", name):
            return nn.ReLU
        if re.search(r"conv", name):
            own = [v for k, v in context.namespace.items() if "conv" in k.lower() and isinstance(v, types.FunctionType)]
            return own[0] if own else nn.Conv2d
        return context.blocks[0] if context.blocks else nn.Identity
    if _SETTINGS_NAMES.fullmatch(name.lower()) and (usage.attributes or usage.keys or not usage.passed_as):
        return settings_class(context) or Settings()
    if set(usage.attributes) & {"n", "shape", "low", "high", "nvec"}:
        shaped = guess_shape(name)
        return shaped if isinstance(shaped, (Box, Discrete)) else Discrete(4) if "n" in usage.attributes else Box((8,))
    if usage.is_module or (_MODULE_NAMES.fullmatch(name.lower()) and not usage.passed_as):
        return nn.Linear(64, 64)
    if usage.attributes and any(by_name(a) is not UNKNOWN for a in usage.attributes) and by_name(name) is UNKNOWN:
        return Settings()
    if usage.iterated or usage.length:
        shaped = guess_shape(name)
        if shaped is not UNKNOWN and not usage.length > len(shaped):
            return shaped
        item = by_name(name.rstrip("s"))
        item = item if isinstance(item, int) and not isinstance(item, bool) else 16
        item = item if re.search("layer|block|num|depth", name) is None else 2
        return [item] * (usage.length or (4 if "layer" in name else 2))
    return UNKNOWN


def default_settings(target: Any) -> Iterator[Any]:
    """What a class's own ``get_default_config()`` gives, its gaps filled in the ways that are usual."""
    maker = next((getattr(target, name) for name in _DEFAULT_MAKERS if callable(getattr(target, name, None))), None)
    if maker is None:
        return
    for keep_text in (True, False):
        try:
            made = maker()
        except Exception:  # a method of any class
            return
        holder = vars(made) if hasattr(made, "__dict__") and not isinstance(made, dict) else made
        for key, value in list(holder.items()):
            if value is None and by_name(key) is not UNKNOWN:
                holder[key] = by_name(key)
            elif isinstance(value, str) and not keep_text:
                holder[key] = None
        yield made


_DEFAULT_MAKERS = ("get_default_config", "default_config", "get_default_cfg", "get_config", "default_hparams")


def settings_class(context: Context) -> Any:
    """The file's one configuration class with defaults, as an instance; None if there is none."""
    here = context.namespace.get("__name__")
    named = sorted(context.namespace.items(), key=lambda item: getattr(item[1], "__module__", None) != here)
    for name, value in named:  # its own before those that it imports
        if isinstance(value, type) and re.search(r"(config|args|hparams|params|settings)$", name, re.IGNORECASE):
            if issubclass(value, nn.Module):
                continue
            made = build_settings(value, context)
            if made is not UNKNOWN:
                return made
    return None


_POSITIONS: dict[str, Any] = {
    "nn.Linear:0": 64, "nn.Linear:1": 10, "nn.Conv2d:0": 3, "nn.Conv2d:1": 16, "nn.Conv1d:0": 3, "nn.Conv1d:1": 16,
    "nn.Dropout:0": 0.1, "nn.Embedding:0": 1000, "nn.Embedding:1": 64, "nn.LayerNorm:0": 64, "nn.BatchNorm2d:0": 16,
    "nn.Conv2d:2": 3, "nn.Conv2d:kernel_size": 3,
}  # fmt: skip


def _from_context(parameter: Parameter, context: Context) -> Any:
    named = by_name(parameter.name)
    if named is not UNKNOWN:
        return named
    for place in parameter.usage.passed_as:
        if place in _POSITIONS:
            return _POSITIONS[place]
        keyword = place.rpartition(":")[2]
        if not keyword.isdigit() and by_name(keyword) is not UNKNOWN:
            return by_name(keyword)
    if parameter.usage.is_flag:
        return False
    if parameter.usage.passed_as or parameter.usage.compared:
        return 16
    return guess_shape(parameter.name)


def arguments_for(
    target: Any, node: ast.ClassDef | ast.FunctionDef | None, context: Context
) -> Iterator[dict[str, Any]]:
    """Keyword arguments to try, best first: only what is required, then with other sizes for what is unknown."""
    needed = [p for p in parameters(target, node) if p.required]
    base = {p.name: value_for(p, context) for p in needed}
    for p in needed:
        if _SETTINGS_NAMES.fullmatch(p.name.lower()):
            declared = getattr(target, "config_class", None)  # of a transformers model
            if isinstance(declared, type) and (made := build_settings(declared, context)) is not UNKNOWN:
                yield {**base, p.name: made}
            for made in default_settings(target):
                yield {**base, p.name: made}
    unknown = [name for name, value in base.items() if value is UNKNOWN]
    if not unknown:
        yield dict(base)
    for fallback in (16, [16, 16], Settings(), None, True, nn.Linear(64, 64)):
        if unknown:
            yield {**base, **dict.fromkeys(unknown, fallback)}
