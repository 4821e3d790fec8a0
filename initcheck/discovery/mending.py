"""What a failed forward says about its inputs: torch's shape errors, read, and the proposals they lead to.

A mend takes the proposal that failed and what the error says, and gives better proposals, the likeliest first. The
table ``_MENDS`` maps the words of an error to its mend.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from torch import nn

from initcheck.config import InputSpec
from initcheck.discovery.proposals import (
    EDGES,
    IMAGE_SIZES,
    NODES,
    Argument,
    Facts,
    Proposal,
    as_float,
    first_layers,
    floats,
    ids,
    is_edges,
    options,
    signature,
    volumes,
)

Path = tuple[Any, ...]
_OWN = os.path.dirname(os.path.dirname(__file__))


@dataclass
class Memory:
    """What earlier trials showed: for each image size, how many features arrived where another number was wanted."""

    features: dict[int, int] = field(default_factory=dict)


@dataclass
class Failure:
    """One failed trial. ``lines``: the source lines of user code on the way to the error, the innermost first."""

    proposal: Proposal
    error: Exception
    model: nn.Module
    facts: Facts
    memory: Memory
    code: str = ""

    @property
    def message(self) -> str:
        """The error's words."""
        return str(self.error)

    @property
    def lines(self) -> list[str]:
        """The lines of code outside torch, the innermost first."""
        return [
            linecache.getline(frame.filename, frame.lineno or 0).strip()
            for frame in reversed(traceback.extract_tb(self.error.__traceback__))
            if "/torch/" not in frame.filename and not frame.filename.startswith(_OWN)
        ]

    @property
    def line(self) -> str:
        """The innermost of them."""
        return next(iter(self.lines), "")


def mended(failure: Failure) -> Iterator[Proposal]:
    """Better proposals after a failure."""
    for pattern, mend in _MENDS:
        match = re.search(pattern, failure.message, re.DOTALL)
        if match is not None:
            yield from mend(failure, match)
            return
    yield from _asserted(failure)
    if isinstance(failure.error, (AssertionError, ValueError, RuntimeError, IndexError, TypeError)):
        yield from _numbers_in_message(failure)


# -- sizes that do not fit ----------------------------------------------------------------------------------------


def _got_wanted(failure: Failure, got: int, wanted: int) -> Iterator[Proposal]:
    """Somewhere ``got`` features arrived and ``wanted`` were expected."""
    proposal = failure.proposal
    leaves = [(path, spec) for path, spec in _named_first(failure) if spec.shape]
    for path, spec in leaves:
        if len(spec.shape) == 1:  # class labels that are one-hot vectors, times that are embedded
            yield proposal.put(path, floats(spec.shape[0], wanted))
    for path, spec in leaves:
        if spec.dtype.startswith("float"):
            for axis in range(len(spec.shape) - 1, 0, -1):
                if spec.shape[axis] == got and not _is_side(spec, axis):
                    yield proposal.put(path, _with_size(spec, axis, wanted))
    for path, spec in leaves:  # patches of an image hold all of its channels
        if len(spec.shape) in (4, 5) and spec.shape[1] * wanted % got == 0:
            channels = spec.shape[1] * wanted // got
            if channels != spec.shape[1] and channels in (1, 2, 3, 4, 6):
                yield proposal.put(path, _with_size(spec, 1, channels))
    yield from _flattened(failure, got, wanted)
    yield from _image_sizes(failure, got, wanted)
    for path, spec in leaves:
        if spec.dtype.startswith("float") and len(spec.shape) in (2, 3):
            size = spec.shape[-1] + wanted - got
            if size > 0 and spec.shape[-1] != got:
                yield proposal.put(path, _with_size(spec, -1, size))
    if len(leaves) > 1:
        yield from _splits(failure, got, wanted)
    for path, spec in leaves:
        if spec.dtype.startswith("float") and len(spec.shape) >= 3:
            B = spec.shape[0]
            yield proposal.put(path, InputSpec(spec.dtype, (B, wanted)))
            yield proposal.put(path, InputSpec(spec.dtype, (*spec.shape[:-1], wanted)))
        elif spec.dtype.startswith("float") and len(spec.shape) == 2:
            yield proposal.put(path, InputSpec(spec.dtype, (*spec.shape, wanted)))


def _flattened(failure: Failure, got: int, wanted: int) -> Iterator[Proposal]:
    """An image is flattened, perhaps beside other features: another number of channels, or another side."""
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) != 4 or spec.shape[2] != spec.shape[3]:
            continue
        channels, side = spec.shape[1], spec.shape[2]
        pixels = wanted - (got - channels * side * side)
        if got >= channels * side * side and pixels > 0:
            if pixels % (side * side) == 0 and pixels // (side * side) in (1, 2, 3, 4):
                yield failure.proposal.put(path, _with_size(spec, 1, pixels // (side * side)))
            for count in (channels, 1, 3):
                root = round((pixels / count) ** 0.5)
                if root * root * count == pixels and root >= 8:
                    yield failure.proposal.put(path, replace(spec, shape=(spec.shape[0], count, root, root)))


def _is_side(spec: InputSpec, axis: int) -> bool:
    """Whether an axis is the height or width of an image: these change together."""
    return len(spec.shape) == 4 and axis >= 2 and spec.shape[2] == spec.shape[3]


def _with_size(spec: InputSpec, axis: int, size: int) -> InputSpec:
    shape = list(spec.shape)
    shape[axis] = size
    return replace(spec, shape=tuple(shape))


def _splits(failure: Failure, got: int, wanted: int) -> Iterator[Proposal]:
    """Inputs are concatenated along their channels or features: together they must be ``wanted`` wide."""
    leaves = [(p, s) for p, s in failure.proposal.leaves() if len(s.shape) >= 2 and s.dtype.startswith("float")]
    vectors = [leaf for leaf in leaves if len(leaf[1].shape) == 2]
    if len(vectors) == 2 and sum(spec.shape[1] for _, spec in vectors) == got and wanted > 1:
        (one, first), (other, second) = vectors
        for size in dict.fromkeys((wanted // 3 or 1, 1, 2, wanted // 2)):
            if 0 < size < wanted:
                changed = failure.proposal.put(one, _with_size(first, 1, wanted - size))
                yield changed.put(other, _with_size(second, 1, size))
    for path, spec in reversed(leaves):
        axis = 1 if len(spec.shape) >= 4 else -1
        if spec.shape[axis] + wanted - got > 0:
            yield failure.proposal.put(path, _with_size(spec, axis, spec.shape[axis] + wanted - got))


def _image_sizes(failure: Failure, got: int, wanted: int) -> Iterator[Proposal]:
    """Flattened features grow with the square of the image: two sizes tried tell which one gives ``wanted``."""
    images = [(p, s) for p, s in failure.proposal.leaves() if len(s.shape) in (3, 4, 5) and s.dtype.startswith("float")]
    for path, spec in images[:1]:
        spatial = len(spec.shape) - 2
        first = 1 if len(spec.shape) == 4 and spec.shape[1] == spec.shape[2] != spec.shape[3] else 2  # channels last
        size = spec.shape[first]
        if spec.shape[first + spatial - 1] != size or (spatial == 1 and not _has_conv(failure.model, 1)):
            continue
        for tried in _estimates(failure.memory.features, size, got, wanted, spatial):
            shape = (*spec.shape[:first], *((tried,) * spatial), *spec.shape[first + spatial :])
            yield failure.proposal.put(path, replace(spec, shape=shape))


def _estimates(seen: dict[int, int], size: int, got: int, wanted: int, spatial: int) -> Iterator[int]:
    """Sizes that may give ``wanted`` features, ``size`` having given ``got``: by a secant, else in proportion."""
    if any(features == got for other, features in seen.items() if abs(other - size) > 4):
        return  # the size does not count
    seen[size] = got
    estimates = [size * (wanted / got) ** (1 / spatial)]
    others = sorted((s for s in seen if s != size and seen[s] != got), key=lambda s: abs(seen[s] - wanted))
    if others:
        root = {s: seen[s] ** (1 / spatial) for s in (size, others[0])}
        slope = (root[size] - root[others[0]]) / (size - others[0])
        if slope > 0:
            estimates.insert(0, size + (wanted ** (1 / spatial) - root[size]) / slope)
    for estimate in estimates:
        usual = [usual for usual in IMAGE_SIZES if abs(usual - estimate) <= 4]  # several sizes may fit: floors
        for tried in (*usual, *(round(estimate) + shift for shift in (0, 1, -1, 2, -2, 4, -4))):
            if 4 <= tried <= 1024 and tried not in seen:
                yield tried


def _has_conv(model: nn.Module, dimensions: int) -> bool:
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return any(isinstance(module, kind) for module in model.modules())


def _feature_map(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """A layer norm over whole feature maps: their side tells the image's."""
    yield from _image_sizes(failure, int(match[2]) ** 2, int(match[1]) ** 2)


def _matmul(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    yield from _got_wanted(failure, int(match[1]), int(match[2]))


def _wanted_got(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    yield from _got_wanted(failure, int(match[2]), int(match[1]))


def _view(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``shape '[-1, 400]' is invalid for input of size 21632``: each sample should give the known sizes."""
    sizes = [int(size) for size in re.findall(r"-?\d+", match[1])]
    total = int(match[2])
    wanted = 1
    for size in sizes:
        wanted *= size if size > 0 else 1
    batch = failure.facts.batch
    if len(sizes) >= 3:
        yield from _as_sequences(failure)
    if sizes and sizes[0] != batch and total % batch == 0:
        yield from _got_wanted(failure, total // batch, wanted)
    elif sizes and total % batch == 0 and wanted % batch == 0:
        yield from _got_wanted(failure, total // batch, wanted // batch)


def _as_sequences(failure: Failure) -> Iterator[Proposal]:
    """Features become sequences of such, in all inputs at once: attention splits them into heads."""
    changed = failure.proposal
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) == 2 and spec.dtype.startswith("float"):
            shape = (spec.shape[0], failure.facts.length, spec.shape[1])
            changed = changed.put(path, replace(spec, shape=shape))
    if changed != failure.proposal:
        yield changed


def _channels(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``expected input[8, 1, 28, 28] to have 3 channels, but got 1 channels``."""
    wanted, got = int(match[2]), int(match[3])
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) >= 3 and spec.shape[1] == got:
            yield failure.proposal.put(path, _with_size(spec, 1, wanted))
        if len(spec.shape) == 4 and spec.shape[1] == wanted and spec.shape[2] == got:
            yield failure.proposal.put(path, replace(spec, shape=(spec.shape[0], *spec.shape[2:], wanted)))
        if len(spec.shape) >= 3 and spec.shape[-1] == got:
            yield failure.proposal.put(path, _with_size(spec, -1, wanted))
    if len(failure.proposal.leaves()) > 1:
        yield from _splits(failure, got, wanted)
    yield from _got_wanted(failure, got, wanted)


def _broadcast_at(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``a dimension of length 4 at -1 ... should be broadcastable to [8, 2]``."""
    wanted = [int(size) for size in match[3].split(",")]
    if -int(match[2]) <= len(wanted):
        yield from _either(failure, int(match[1]), wanted[int(match[2])])


def _broadcast(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    yield from _either(failure, int(match[1]), int(match[2]))


def _either(failure: Failure, one: int, other: int) -> Iterator[Proposal]:
    """Either of two sizes that must match may be the input's: token counts, image sizes, features."""
    images = [leaf for leaf in failure.proposal.leaves() if len(leaf[1].shape) == 4 and _is_side(leaf[1], 2)]
    for path, spec in images if len(images) > 1 else ():  # a large image and a small one
        for got, wanted in ((one, other), (other, one)):
            side = spec.shape[2] * wanted // max(got, 1)
            if spec.shape[2] * wanted % max(got, 1) == 0 and 4 <= side <= 512:
                yield failure.proposal.put(path, replace(spec, shape=(*spec.shape[:2], side, side)))
    for got, wanted in ((one, other), (other, one)):
        for path, spec in failure.proposal.leaves():
            for axis in range(1, len(spec.shape)):
                if spec.shape[axis] == got and wanted > 1 and not _is_side(spec, axis):
                    yield failure.proposal.put(path, _with_size(spec, axis, wanted))
            if len(spec.shape) == 4 and spec.shape[2] == spec.shape[3]:
                yield from _token_counts(failure.proposal, path, spec, got, wanted)
    yield from _even_sizes(failure)
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) == 3 and spec.dtype.startswith("float"):
            yield failure.proposal.put(path, InputSpec(spec.dtype, (spec.shape[0], spec.shape[2], spec.shape[1])))


def _token_counts(proposal: Proposal, path: Path, spec: InputSpec, got: int, wanted: int) -> Iterator[Proposal]:
    for extra in (1, 0, 2):  # a class token, none, a distillation token too
        if got > extra and wanted > extra:
            size = spec.shape[2] * ((wanted - extra) / (got - extra)) ** 0.5
            if abs(size - round(size)) < 1e-6 and 4 <= size <= 1024:
                yield proposal.put(path, replace(spec, shape=(*spec.shape[:2], round(size), round(size))))


def _even_sizes(failure: Failure) -> Iterator[Proposal]:
    """Skip connections over strided layers want sizes that can be halved many times."""
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) == 4 and spec.shape[2] == spec.shape[3]:
            for size in (32, 64, 128, 256):
                if size != spec.shape[2]:
                    yield failure.proposal.put(path, replace(spec, shape=(*spec.shape[:2], size, size)))


def _larger(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """The input shrinks to nothing on its way."""
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) >= 3 and spec.dtype.startswith("float"):
            for factor in (2, 4, 8):
                grown = tuple(size * factor for size in spec.shape[2:])
                if max(grown) <= 1024 or len(spec.shape) == 3:
                    yield failure.proposal.put(path, replace(spec, shape=(*spec.shape[:2], *grown)))


def _hidden(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``Expected hidden[0] size (2, 8, 64), got [...]``: the state's shape in plain words."""
    wanted = tuple(int(size) for size in re.findall(r"\d+", match[1]))
    got = tuple(int(size) for size in re.findall(r"\d+", match[2]))
    changed = failure.proposal
    for path, spec in failure.proposal.leaves():
        if spec.shape == got:
            changed = changed.put(path, replace(spec, shape=wanted))
    if changed != failure.proposal:
        yield changed
    for path, spec in failure.proposal.leaves():  # the state is made inside: the batch stands on the other axis
        if len(spec.shape) == 3 and len(wanted) == len(got):
            yield failure.proposal.put(path, replace(spec, shape=(spec.shape[1], spec.shape[0], *spec.shape[2:])))


def _asserted(failure: Failure) -> Iterator[Proposal]:
    """``assert C == self.channels``: both sides, evaluated where it failed, say what came and what is wanted."""
    for got, operator, wanted in failed_comparisons(failure.error):
        if isinstance(operator, (ast.LtE, ast.Lt)) and got > wanted:
            wanted -= isinstance(operator, ast.Lt)
        elif isinstance(operator, (ast.GtE, ast.Gt)) and got < wanted:
            wanted += isinstance(operator, ast.Gt)
        elif not isinstance(operator, ast.Eq) or got == wanted:
            continue
        yield from _axes_said(failure, got, wanted)
        yield from _got_wanted(failure, got, wanted)
        yield from _got_wanted(failure, wanted, got)


def _axes_said(failure: Failure, got: int, wanted: int) -> Iterator[Proposal]:
    """The axis that the failing line itself names: ``x.shape[0] == 1``, ``x.size(1)``, ``x.dim() == 3``."""
    arguments = signature(failure.model)
    for path, spec in failure.proposal.leaves():
        name = re.escape(_name_of(path, arguments))
        axis = re.search(rf"\b{name}\.(?:shape\[|size\()(-?\d+)[\])]", failure.line)
        if axis is not None and -len(spec.shape) <= int(axis[1]) < len(spec.shape) and wanted > 0:
            if spec.shape[int(axis[1])] == got:
                yield failure.proposal.put(path, _with_size(spec, int(axis[1]), wanted))
        elif re.search(rf"\b{name}\.(ndim|dim\(\))|len\({name}\.(shape|size\(\))\)", failure.line):
            yield from _rank(failure, wanted)


def failed_comparisons(error: Exception) -> Iterator[tuple[int, ast.cmpop, int]]:
    """The comparisons of whole numbers in an ``assert`` that failed: (left, operator, right)."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, AssertionError) or trace is None:
        return
    frame = trace.tb_frame
    try:
        tree = ast.parse(linecache.getline(frame.f_code.co_filename, trace.tb_lineno).strip())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            sides = [_number(side, frame) for side in (node.left, node.comparators[0])]
            if sides[0] is not None and sides[1] is not None:
                yield sides[0], node.ops[0], sides[1]
                modulus = node.left
                if isinstance(modulus, ast.BinOp) and isinstance(modulus.op, ast.Mod) and sides[1] == 0:
                    size, unit = _number(modulus.left, frame), _number(modulus.right, frame)
                    if size and unit:
                        yield size, ast.Eq(), size + unit - size % unit


def _number(side: ast.expr, frame: Any) -> int | None:
    """The whole number that an expression of the user's gives in the frame that raised."""
    if any(isinstance(node, (ast.Await, ast.NamedExpr, ast.Yield)) for node in ast.walk(side)):
        return None
    try:
        value = eval(compile(ast.Expression(side), "<assertion>", "eval"), frame.f_globals, dict(frame.f_locals))
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
    except Exception:  # the user's own expression
        return None


def _numbers_in_message(failure: Failure) -> Iterator[Proposal]:
    """An assertion that names sizes: one of them is the input's, another one is wanted."""
    text = failure.message
    numbers = [
        int(number) for number in dict.fromkeys(re.findall(r"(?<![\w.])\d+(?![\w.]*\d)", text)) if len(number) < 7
    ]
    for path, spec in failure.proposal.leaves():
        for axis in range(1, len(spec.shape)):
            if spec.shape[axis] in numbers:
                for wanted in numbers:
                    if wanted > 0 and wanted != spec.shape[axis]:
                        if _is_side(spec, axis):
                            yield failure.proposal.put(path, replace(spec, shape=(*spec.shape[:2], wanted, wanted)))
                        else:
                            yield failure.proposal.put(path, _with_size(spec, axis, wanted))
    if isinstance(failure.error, AssertionError):
        yield from _shorter(failure)


def _shorter(failure: Failure) -> Iterator[Proposal]:
    for path, spec in failure.proposal.leaves():
        if len(spec.shape) == 2 and spec.dtype == "int64" and spec.shape[1] > 4:
            yield failure.proposal.put(path, _with_size(spec, 1, spec.shape[1] // 2))


# -- ranks ------------------------------------------------------------------------------------------------------------


def _rank(failure: Failure, rank: int) -> Iterator[Proposal]:
    """The inputs again, with ``rank`` axes; first the one that the failing line names."""
    facts = failure.facts
    for path, spec in _named_first(failure):
        if len(spec.shape) == rank:
            continue
        for like in first_layers(facts):
            if len(like.shape) == rank and like.dtype.startswith(spec.dtype[:3]):
                yield failure.proposal.put(path, like)
                break
        B, T = facts.batch, facts.length
        shape = spec.shape
        if rank == len(shape) + 1:
            yield failure.proposal.put(path, replace(spec, shape=(B, T, *shape[1:])))
            yield failure.proposal.put(path, replace(spec, shape=(B, 1, *shape[1:])))
            yield failure.proposal.put(path, replace(spec, shape=(*shape, T)))
        elif rank < len(shape):
            yield failure.proposal.put(path, replace(spec, shape=(shape[0], *shape[len(shape) - rank + 1 :])))
            yield failure.proposal.put(path, replace(spec, shape=shape[:rank]))
        elif rank == 4:
            yield failure.proposal.put(path, floats(B, 3, facts.sizes[0], facts.sizes[0]))
        elif rank == 5:
            yield failure.proposal.put(path, volumes(facts))


def _named_first(failure: Failure) -> list[tuple[Path, InputSpec]]:
    """The inputs; those first that stand on the lines of user code on the way to the error, innermost first."""
    arguments = signature(failure.model)
    lines = failure.lines

    def distance(leaf: tuple[Path, InputSpec]) -> int:
        name = _name_of(leaf[0], arguments)
        return next((i for i, line in enumerate(lines) if re.search(rf"\b{re.escape(name)}\b", line)), len(lines))

    return sorted(failure.proposal.leaves(), key=distance)


def _name_of(path: Path, arguments: list[Argument]) -> str:
    if path[0] == "kwargs":
        return str(path[1])
    return arguments[path[1]].name if path[1] < len(arguments) else ""


def _rank_text(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """Every rank that the message asks for, the batched one first."""
    asked = re.split(r"got", failure.message)[0]
    for rank in dict.fromkeys(re.findall(r"(\d)-?D", asked)[::-1]):
        yield from _rank(failure, int(rank))


def _model_width(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``nn.Transformer``: features must be ``d_model`` wide."""
    widths = [m.d_model for m in failure.model.modules() if isinstance(m, nn.Transformer)]
    for path, spec in failure.proposal.leaves():
        if widths and spec.dtype.startswith("float"):
            yield failure.proposal.put(path, _with_size(spec, -1, widths[0]))


def _same_rank(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """Inputs of different rank are concatenated."""
    for rank in sorted({int(match[1]), int(match[2])}, reverse=True):
        yield from _rank(failure, rank)


def _rank_of_dims(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    yield from _rank(failure, int(match[2]))


def _rank_said(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """The user's own words: ``tags must have dimension of 2, got 1``."""
    arguments = signature(failure.model)
    for path, spec in failure.proposal.leaves():
        if _name_of(path, arguments) in failure.message.split() and spec.dtype == "int64":
            shape = (failure.facts.batch, failure.facts.length)
            yield failure.proposal.put(path, replace(spec, shape=shape[: int(match[1])]))
    yield from _rank(failure, int(match[1]))


def _higher_rank(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    if re.search(r"\[['\"]\w+['\"]\]", failure.line):  # torch calls tensor["key"] too many indices
        yield from _dict_input(failure, match)
    for rank in sorted({len(spec.shape) + 1 for _, spec in failure.proposal.leaves()}):
        yield from _rank(failure, rank)


def _unpacked(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """``b, c, h, w = x.shape`` or ``x, y = inputs``."""
    count = int(match[1])
    if re.search(r"\.(shape|size\(\))", failure.line):
        yield from _rank(failure, count)
        return
    for path, spec in failure.proposal.leaves()[:1]:
        names = re.match(r"([\w, ]+?)\s*=[^=]", failure.line)
        parts = [part.strip() for part in names[1].split(",")] if names is not None else []
        if len(parts) == count and all(part.isidentifier() for part in parts):
            yield failure.proposal.put(path, _by_names(parts, spec, failure))
        yield failure.proposal.put(path, (spec,) * count)
        edges = ids(NODES, 2, EDGES)
        if count == 2 and len(spec.shape) == 2:
            yield failure.proposal.put(path, (floats(NODES, spec.shape[-1]), edges))


def _by_names(names: list[str], like: InputSpec, failure: Failure) -> tuple[Any, ...]:
    """What the parts of an input that is unpacked are called says what they are."""
    graph = any(is_edges(name) for name in names)
    nodes = floats(NODES, like.shape[-1])
    return tuple(
        nodes
        if graph and not is_edges(name)
        else options(Argument(name, True), failure.model, failure.facts, position)[0]
        for position, name in enumerate(names)
    )


# -- types ------------------------------------------------------------------------------------------------------------


def _to_ids(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """Something is used as indices."""
    facts = failure.facts
    for path, spec in _named_first(failure):
        if not spec.dtype.startswith("int"):
            shape = spec.shape if len(spec.shape) <= 2 and spec.shape[-1] <= 64 else (facts.batch, facts.length)
            yield failure.proposal.put(path, ids(facts.vocabulary, *shape))
            yield failure.proposal.put(path, ids(facts.vocabulary, facts.batch))


def _smaller_ids(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """An id is larger than its table: segments, tags and tokens have tables of their own."""
    tables = sorted({m.num_embeddings for m in failure.model.modules() if isinstance(m, nn.Embedding)}, reverse=True)
    for path, spec in _named_first(failure):
        for size in tables:
            if spec.high is not None and 1 < size < spec.high:
                yield failure.proposal.put(path, replace(spec, high=size))


def _to_floats(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """Integers, or floats of another precision, met weights."""
    changed = failure.proposal
    for path, spec in failure.proposal.leaves():
        if spec.dtype != failure.facts.dtype and spec.dtype != "bool":
            changed = changed.put(path, as_float(spec, failure.facts.dtype))
            yield failure.proposal.put(path, as_float(spec, failure.facts.dtype))
    if changed != failure.proposal:
        yield changed


def _to_complex(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    for path, spec in failure.proposal.leaves():
        if spec.dtype.startswith("float"):
            yield failure.proposal.put(path, InputSpec("complex64", spec.shape))


def _to_number(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """A tensor stood where a plain number belongs."""
    named = set(re.findall(r"\w+", failure.line))
    arguments = signature(failure.model)
    leaves = [leaf for leaf in failure.proposal.leaves() if len(leaf[0]) == 2]
    leaves.sort(key=lambda leaf: _name_of(leaf[0], arguments) not in named)
    for path, _ in leaves:
        for number in (4, 1, 0.5, True):
            yield failure.proposal.put(path, number)


def _fill(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """None was used: an argument that may be left out may not, or a None we gave must be something."""
    arguments = signature(failure.model)
    for position, value in enumerate(failure.proposal.args):
        if value is None and position < len(arguments):
            for option in options(arguments[position], failure.model, failure.facts, position):
                if option is not None:
                    yield failure.proposal.put(("args", position), option)
    given = {argument.name for argument in arguments[: len(failure.proposal.args)]} | dict(
        failure.proposal.kwargs
    ).keys()
    named = set(re.findall(r"\w+", failure.line)) | set(re.findall(r"\w+", failure.message))
    optional = [a for a in arguments if a.name not in given and not a.required]
    for argument in sorted(optional, key=lambda a: a.name not in named)[:3]:
        for option in options(argument, failure.model, failure.facts, 1)[:2]:
            if option is not None:
                yield Proposal(failure.proposal.args, (*failure.proposal.kwargs, (argument.name, option)))


def _as_object(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """The input is no tensor: a graph (``data.x``), or a dict."""
    attribute = match[1]
    arguments = signature(failure.model)
    for path, spec in failure.proposal.leaves():
        if len(path) != 2:
            continue
        name = _name_of(path, arguments)
        if attribute in ("get", "keys", "items", "values", "pop", "copy"):
            yield from _as_dict(failure, path, spec, name)
            continue
        fields = set(re.findall(rf"\b{re.escape(name)}\.(\w+)\b(?!\()", failure.code)) | {attribute}
        known = {key: value for key, value in _GRAPH_FIELDS(spec).items() if key in fields}
        if known:
            yield failure.proposal.put(path, SimpleNamespace(**known))
        tensors = {key: spec for key in fields if key not in ("shape", "device", "dtype")}
        yield failure.proposal.put(path, SimpleNamespace(**tensors))


def _GRAPH_FIELDS(spec: InputSpec) -> dict[str, InputSpec]:
    return {
        "x": floats(NODES, spec.shape[-1]),
        "edge_index": ids(NODES, 2, EDGES),
        "edge_attr": floats(EDGES, spec.shape[-1]),
        "edge_weight": floats(EDGES),
        "batch": ids(1, NODES),
        "pos": floats(NODES, 3),
        "adj_t": floats(NODES, NODES),
    }


def _dict_input(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    arguments = signature(failure.model)
    for path, spec in failure.proposal.leaves():
        if len(path) == 2:
            yield from _as_dict(failure, path, spec, _name_of(path, arguments))


def _as_dict(failure: Failure, path: Path, spec: InputSpec, name: str) -> Iterator[Proposal]:
    """Keys by what the class's code asks for."""
    holder = rf"(?:{re.escape(name)}|\w*(?:dict|batch|inputs?|data|sample))"
    keys = re.findall(rf"\b{holder}\[['\"](\w+)['\"]\]|\b{holder}\.get\(['\"](\w+)['\"]", failure.code)
    found = list(dict.fromkeys(one or other for one, other in keys))
    if found:
        values = {
            key: next(iter(options(Argument(key, True), failure.model, failure.facts, position)), spec) or spec
            for position, key in enumerate(found)
        }
        yield failure.proposal.put(path, values)
        yield failure.proposal.put(path, dict.fromkeys(found, spec))


def _image_rank(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """A lookup by the number of axes."""
    for rank in (4, 3, 2, 5):
        yield from _rank(failure, rank)


def _one_sample(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    changed = failure.proposal
    for path, spec in failure.proposal.leaves():
        if spec.shape:
            changed = changed.put(path, _with_size(spec, 0, 1))
    yield changed


def _missing_key(failure: Failure, match: re.Match[str]) -> Iterator[Proposal]:
    """A dict input, or ``**kwargs``, lacks a key."""
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(failure.model.forward).parameters.values()):
        given = dict(failure.proposal.kwargs)
        for value in options(Argument(match[1], True), failure.model, failure.facts, 1)[:3]:
            if match[1] not in given and value is not None:
                yield replace(failure.proposal, kwargs=(*failure.proposal.kwargs, (match[1], value)))
    for path, value in _dicts(failure.proposal):
        if match[1] not in value and value:
            yield failure.proposal.put(path, {**value, match[1]: next(iter(value.values()))})


def _dicts(proposal: Proposal) -> Iterator[tuple[Path, dict[str, Any]]]:
    for index, value in enumerate(proposal.args):
        if isinstance(value, dict):
            yield ("args", index), value


_MENDS: tuple[tuple[str, Callable[[Failure, re.Match[str]], Iterator[Proposal]]], ...] = (
    (r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", _matmul),
    (r"size mismatch, got input \(\d+\), mat \(\d+x(\d+)\), vec \((\d+)\)", _matmul),
    (r"expected input\[([\d, ]+)\] to have (\d+) channels, but got (\d+) channels", _channels),
    (r"a and b must have same reduction dim, but got \[\d+, (\d+)\] X \[(\d+), \d+\]", _matmul),
    (r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)", _view),
    (r"input.size\(-1\) must be equal to input_size\.? Expected (\d+), got (\d+)", _wanted_got),
    (r"input has inconsistent input_size: got (\d+),? expected (\d+)", _matmul),
    (r"was expecting embedding dimension of (\d+), but got (\d+)", _wanted_got),
    (r"the feature number of src and tgt must be equal to d_model", _model_width),
    (r"normalized_shape=\[(\d+)\].*?got input of size(?: torch\.Size\()?\[(?:\d+, )*(\d+)\]", _wanted_got),
    (r"normalized_shape=\[\d+, (\d+), \1\].*?got input of size(?: torch\.Size\()?\[(?:\d+, )*(\d+)\]", _feature_map),
    (r"running_mean should contain (\d+) elements not (\d+)", _matmul),
    (r"Expected hidden(?:\[\d\])? size \(([\d, ]+)\), got [\[(]+([\d, ]+)", _hidden),
    (r"[Ee]xpected .*?\d-?D .*?input|[Ee]xpected input to be|to be 2-?D or 3-?D", _rank_text),
    (r"Number of dimensions of tensors must match. Expected (\d)-D.*?got (\d)-D", _same_rank),
    (r"index out of range in self", _smaller_ids),
    (r"input.dim\(\) = (\d+) is not equal to len\(dims\) = (\d+)", _rank_of_dims),
    (r"(Wrong shape): expected (\d+) dims", _rank_of_dims),
    (r"(?:not enough values|too many values) to unpack \(expected (\d+)", _unpacked),
    (r"Dimension out of range|tuple index out of range|too many indices for tensor|"
     r"only batches of spatial|Dimension specified as", _higher_rank),
    (r"Kernel size can't be greater|Output size is too small|should be less than the corresponding input|non-empty|"
     r"Expected more than 1 (?:value|spatial element)|output size.*too small|must be non-zero|"
     r"is too small|negative dimension", _larger),
    (r"argument #1 'indices'|tensors used as indices must be|must be.*(?:long|Long|int64)|"
     r"indices.*(?:Long|Int)|one_hot is only|Expected dtype int64", _to_ids),
    (r"same dtype|bias type|expected scalar type|not implemented for '(?:Long|Bool|Int)'|"
     r"should be the same|to have the same dtype|Double|"
     r"must be floating point|but got (?:Long|Int|Double)", _to_floats),
    (r"(?:dimensions? of|must be|should be|be an?|expects?) (\d)(?:-?[Dd]\b| dim|,)", _rank_said),
    (r"complex", _to_complex),
    (r"The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)", _broadcast),
    (r"Sizes of tensors must match.*?Expected size (\d+) but got size (\d+)", _broadcast),
    (r"first two dimensions of batch2 tensor to be: \[\d+, (\d+)\] but got: \[\d+, (\d+)\]", _wanted_got),
    (r"inconsistent tensor size, expected tensor \[(\d+)\].*?\[(\d+)\]", _broadcast),
    (r"Attempting to broadcast a dimension of length (\d+) at (-\d+).*?broadcastable to \[([\d, ]+)\]", _broadcast_at),
    (r"NoneType|missing \d+ required|(should|must|can) ?not be [Nn]one|must be (given|provided|passed)", _fill),
    (r"'(?:Fake)?Tensor' object has no attribute '(\w+)'", _as_object),
    (r"got str|indices must be integers|new\(\): invalid data type 'str'|too many dimensions 'str'", _dict_input),
    (r"^'(\w+)'$", _missing_key),
    (r"^\d$", _image_rank),
    (r"batch sizes? > 1", _one_sample),
    (r"cannot be interpreted as an integer|must be tuple of ints|single element can be converted|"
     r"converted to Scalar|must be int|Boolean value of Tensor|"
     r"only one element tensors", _to_number),
)  # fmt: skip
