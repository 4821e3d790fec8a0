"""Shapes that a forward declares: jaxtyping annotations, docstrings (``x: (B, C, H, W)``), comments of that form.

A size is a number, one that the constructor or the model knows under that name (``d_model``), or one of the letters
and words that the field uses for batch, channels, sides, length and features. A shape with any other size is no help.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

from torch import nn

from initcheck.config import InputSpec
from initcheck.discovery.proposals import Argument, Facts, first_layers, ids, options, signature

_DTYPES = (("Float", "float32"), ("BFloat", "bfloat16"), ("Int", "int64"), ("UInt", "int64"), ("Bool", "bool"),
           ("Complex", "complex64"), ("Num", "float32"), ("Shaped", "float32"), ("Real", "float32"))  # fmt: skip
_BATCH = re.compile(r"b|bs|bsz|n|nb|batch_?(size|dim)?|num_(samples|batch)|\.\.\.|-1|none", re.IGNORECASE)
_SIDE = re.compile(r"h|w|height|width|(h|w)_?in|(img|image|input)_?(size|h|w|height|width)", re.IGNORECASE)
_CHANNELS = re.compile(r"c|c_?in|ch|chans?|channels?|(in|input|num|image|n)_?c(hannels?|hans?)?", re.IGNORECASE)
_LENGTH = re.compile(
    r"t|s|l|n|seq(uence)?(_?(len(gth)?|size))?|len(gth)?|time(_?steps?)?|(n|num)_?(tokens|steps|frames)|src_len|tgt_len",
    re.IGNORECASE,
)
_FEATURES = re.compile(
    r"d|e|f|c|dim|emb(ed)?(_?(dim|size))?|hidden(_?(dim|size))?|(d|dim)_?(model|in)|features?(_?dim)?|"
    r"(in|input|num|n)_?(features?|dims?|size)|nfeat|h_?in",
    re.IGNORECASE,
)
_IDS = re.compile(r"long|int(64|eger)?\b|indices|index|\bids?\b|tokens?\b", re.IGNORECASE)
_GROUP = re.compile(r"[(\[]([^()\[\]]{1,80})[)\]]")
_SIZE = re.compile(r"\d+|-1|\.\.\.|[A-Za-z_]\w*(\s*\*\s*[A-Za-z_0-9]\w*)?")
_NO_SIZE = re.compile(
    r"(torch|tensor|optional|int|float|bool|str|list|tuple|dict|ndarray|default|array)\w*", re.IGNORECASE
)


def declared_shapes(model: nn.Module, facts: Facts) -> dict[str, InputSpec]:
    """The parameters of ``forward`` whose shape is declared, with inputs of that shape."""
    text = _source(model)
    try:
        function = ast.parse(text).body[0] if text else None
    except SyntaxError:
        return {}
    if not isinstance(function, ast.FunctionDef):
        return {}
    notes = [*_lines(text), *_lines(inspect.getdoc(type(model)) or "")]
    found: dict[str, InputSpec] = {}
    sizes = _Sizes(facts)
    for argument in (*function.args.posonlyargs, *function.args.args[1:], *function.args.kwonlyargs):
        spec = sizes.annotated(argument.annotation) or sizes.described(argument.arg, notes)
        if spec is not None:
            found[argument.arg] = spec
    return {
        argument.name: _usual(argument, position, found[argument.name], model, facts)
        for position, argument in enumerate(signature(model))
        if argument.name in found
    }


def _usual(argument: Argument, position: int, spec: InputSpec, model: nn.Module, facts: Facts) -> InputSpec:
    """What that name usually holds (timesteps and labels are numbers), where it has the declared shape."""
    usual = options(argument, model, facts, position)[0]
    same = isinstance(usual, InputSpec) and usual.shape == spec.shape
    return usual if same and spec.dtype == "float32" else spec


def _source(model: nn.Module) -> str:
    try:
        return textwrap.dedent(inspect.getsource(type(model).forward))
    except (OSError, TypeError, IndentationError):
        return ""


def _lines(text: str) -> Iterator[str]:
    """Lines of a docstring, and comments, that may describe a shape."""
    for line in text.splitlines():
        before, comment, after = line.partition("#")
        described = (after if comment else before).strip()
        if _GROUP.search(described) and (comment or not _is_code(described)):
            yield described


def _is_code(line: str) -> bool:
    """``x: (B, C)`` is Python too, and a description."""
    try:
        return not all(isinstance(node, ast.AnnAssign) for node in ast.parse(line).body)
    except (SyntaxError, ValueError):
        return re.match(r"(def|class|if|elif|for|while|with|return)\b", line) is not None


class _Sizes:
    """Turns the names of sizes into numbers that fit a model."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.dimensions = {name.lower(): size for name, size in facts.dimensions.items()}
        firsts = first_layers(facts)
        images = [spec for spec in firsts if len(spec.shape) >= 4]
        self.channels = images[0].shape[1] if images else None
        wide = [spec for spec in firsts if spec.dtype.startswith("float") and 2 <= len(spec.shape) <= 3]
        self.features = wide[0].shape[-1] if wide else None

    def annotated(self, annotation: ast.expr | None) -> InputSpec | None:
        """``Float[Tensor, "batch channels height width"]``."""
        if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
            return None
        kind = ast.unparse(annotation.value).rpartition(".")[2].rstrip("0123456789")
        dtype = next((dtype for name, dtype in _DTYPES if kind == name), None)
        axes = annotation.slice.elts[-1]
        if dtype is None or not isinstance(axes, ast.Constant) or not isinstance(axes.value, str):
            return None
        return self._spec([axis.rpartition("=")[2].lstrip("#*_") for axis in axes.value.split()], dtype)

    def described(self, name: str, notes: list[str]) -> InputSpec | None:
        """``x: (B, C, H, W)``, ``x (torch.Tensor): shape [batch, seq_len]``."""
        for line in notes:
            mention = re.search(rf"(?<![\w.]){re.escape(name)}`{{0,2}}(?![\w.(])", line)
            if mention is None or mention.start() > 12:
                continue
            for group in _GROUP.finditer(line, mention.end()):
                axes = [axis.strip() for axis in re.split(r",|\bx\b", group[1]) if axis.strip()]
                if not axes or not all(_SIZE.fullmatch(a) and not _NO_SIZE.fullmatch(a) for a in axes):
                    continue
                rest = line[mention.end() : group.start()]
                if len(axes) < 2 and not re.search(r"shape|size|:", rest):
                    continue
                spec = self._spec(axes, "int64" if _IDS.search(rest + line[group.end() :]) else "float32")
                if spec is not None:
                    return spec
        return None

    def _spec(self, axes: list[str], dtype: str) -> InputSpec | None:
        rank = len(axes)
        sizes = [self._size(axis, position, rank) for position, axis in enumerate(axes)]
        if any(size is None for size in sizes):
            return None
        shape = tuple(size for size in sizes if size is not None)
        return ids(max(self.facts.vocabulary, 2), *shape) if dtype == "int64" else InputSpec(dtype, shape)

    def _size(self, axis: str, position: int, rank: int) -> int | None:
        if axis.isdigit():
            return int(axis)
        if position == 0 and _BATCH.fullmatch(axis):
            return self.facts.batch
        if "*" in axis:
            factors = [self._size(part.strip(), position, rank) for part in axis.split("*")]
            return factors[0] * factors[1] if factors[0] and factors[1] else None
        if axis.lower() in self.dimensions:
            return self.dimensions[axis.lower()]
        if rank >= 4 and _SIDE.fullmatch(axis):
            return self.facts.sizes[0]
        if rank >= 4 and _CHANNELS.fullmatch(axis):
            return self.channels
        if position == rank - 1 and rank >= 2 and _FEATURES.fullmatch(axis) and self.features is not None:
            return self.features
        if _BATCH.fullmatch(axis) and position <= 1 and rank == 3 and axis.lower() != "n":
            return self.facts.batch  # (T, B, D)
        return self.facts.length if _LENGTH.fullmatch(axis) and rank <= 3 else None
