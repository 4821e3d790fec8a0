"""First proposals for a model's inputs: its forward's parameters by name, filled by what its first layers take."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from initcheck.config import InputSpec
from initcheck.discovery.environments import Discrete, Environment

BATCH = 8
"""Enough samples for the statistics of a batch to mean something; small enough for a real pass."""

LENGTH = 16
IMAGE_SIZES = (32, 28, 64, 224, 96, 128, 256, 227, 299, 48, 84, 512)
NODES, EDGES = 32, 64
_SIZE_ATTRIBUTE = re.compile(r"(img|image|input)_?(size|res(olution)?)|input_resolution|resolution")
_SIZE_IN_TEXT = (
    r"\b[13]\s*[,x×]\s*(\d{2,3})\s*[,x×]\s*\1\b",
    r"(?:Resize|CenterCrop|RandomCrop|RandomResizedCrop)\(\(?(\d{2,3})\b",
    r"(?:image|img)_?size['\"]?(?:\s*[:=]\s*|,[^\n]{0,40}default=)\(?(\d{2,3})\b",
)
_LENGTH_ATTRIBUTE = re.compile(
    r"block_size|context_(length|size|window)|n_ctx|max_?(seq|sequence|position|context)\w*|max_len(gth)?|n_positions|"
    r"seq_?(len|length)|ctx_len|num_(tokens|patches)|max_tokens"
)
_MANY_PARAMETERS = 300_000_000  # a real pass over such a model is slow whatever the batch


def floats(*shape: int) -> InputSpec:
    """``float32[...]``."""
    return InputSpec("float32", tuple(shape))


def ids(high: int, *shape: int) -> InputSpec:
    """``int64[...]<high``."""
    return InputSpec("int64", tuple(shape), high)


@dataclass
class Facts:
    """What a model and its file say about inputs before any trial."""

    batch: int
    sizes: tuple[int, ...]
    length: int
    vocabulary: int
    layers: Sequence[nn.Module]
    dimensions: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    environment: Environment | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of one sample that the file names (``img_shape``)."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        text: str,
        dimensions: Mapping[str, int],
        environment: Environment | None = None,
        shapes: tuple[tuple[int, ...], ...] = (),
    ) -> Facts:
        """Of a model, the text around it, named dimensions (its constructor's arguments), environment and shapes."""
        layers = [m for m in model.modules() if isinstance(m, _KNOWN)]
        count = sum(p.numel() for p in model.parameters() if not is_lazy(p))
        tables = [m.num_embeddings for m in layers if isinstance(m, nn.Embedding)]
        dtypes = [str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()]
        return cls(
            batch=BATCH if count < _MANY_PARAMETERS else 2,
            sizes=_sizes(model, text, dimensions),
            length=_length(model, dimensions),
            vocabulary=tables[0] if tables else int(dimensions.get("vocab_size", 2)),
            layers=layers,
            dimensions=dimensions,
            dtype=dtypes[0] if dtypes else "float32",
            environment=environment,
            shapes=shapes,
        )


def _attributes(model: nn.Module, pattern: re.Pattern[str]) -> Iterator[int]:
    """Integers under telling names on the model, its configuration and its parts."""
    for module in [model, *model.modules()]:
        holders = [vars(module)]
        for name in ("config", "cfg", "args", "params", "hparams", "opt"):
            settings = vars(module).get(name)
            if isinstance(settings, Mapping):
                holders.append(dict(settings))
            elif settings is not None:
                holders.append(getattr(settings, "__dict__", {}))
        for holder in holders:
            for name, value in holder.items():
                if isinstance(name, str) and pattern.fullmatch(name):
                    value = value[-1] if isinstance(value, (tuple, list)) and value else value
                    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                        yield value


def _sizes(model: nn.Module, text: str, dimensions: Mapping[str, int]) -> tuple[int, ...]:
    """Image sizes to try: what the model says, what its file says, what its kind is used with, then the usual ones."""
    found = list(dict.fromkeys(_attributes(model, _SIZE_ATTRIBUTE)))
    found += [value for name, value in dimensions.items() if _SIZE_ATTRIBUTE.fullmatch(name)]
    found += [int(size) for pattern in _SIZE_IN_TEXT for size in re.findall(pattern, text) if 16 <= int(size) <= 512]
    outputs = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    stem = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if "imagenet" in text.lower() or 1000 in outputs[-3:] or (stem is not None and stem.stride[0] >= 4):
        found.append(224)
    if "mnist" in text.lower():
        found.append(28)
    return tuple(dict.fromkeys([size for size in found if size <= 512] + list(IMAGE_SIZES)))


def _length(model: nn.Module, dimensions: Mapping[str, int]) -> int:
    longest = [*_attributes(model, _LENGTH_ATTRIBUTE)]
    longest += [value for name, value in dimensions.items() if _LENGTH_ATTRIBUTE.fullmatch(name)]
    return min([LENGTH * 2, *longest]) if longest else LENGTH


_KNOWN = (
    nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase,
    nn.MultiheadAttention, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm,
)  # fmt: skip


def layer_inputs(layer: nn.Module, facts: Facts) -> list[InputSpec]:
    """Inputs that one layer takes, the likeliest first."""
    B, T = facts.batch, facts.length
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        ones = (1,) * len(layer.kernel_size)
        return [floats(B, layer.in_channels, *ones), floats(B, layer.in_channels, *(4 * o for o in ones))]
    if isinstance(layer, nn.Conv1d):
        return [floats(B, layer.in_channels, length) for length in (64, 128, 512, 1024, 16000)]
    if isinstance(layer, nn.Conv2d):
        return [floats(B, layer.in_channels, size, size) for size in facts.sizes]
    if isinstance(layer, nn.Conv3d):
        return [floats(B, layer.in_channels, d, s, s) for d, s in ((16, 16), (8, 32), (16, 64), (16, 112), (32, 32))]
    if isinstance(layer, nn.Linear):
        return [floats(B, layer.in_features), floats(B, T, layer.in_features), *_as_image(layer.in_features, B)]
    if isinstance(layer, nn.Bilinear):
        return [floats(B, layer.in1_features)]
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return [ids(layer.num_embeddings, B, T), ids(layer.num_embeddings, B)]
    if isinstance(layer, nn.RNNBase):
        order = (B, T) if layer.batch_first else (T, B)
        return [floats(*order, layer.input_size)]
    if isinstance(layer, nn.RNNCellBase) and layer.input_size == 1:
        return [floats(B, T), floats(B, T, 1), floats(B, 1)]  # a loop over the numbers of a series
    if isinstance(layer, nn.RNNCellBase):
        return [floats(B, layer.input_size), floats(B, T, layer.input_size), floats(B, T)]
    if isinstance(layer, nn.MultiheadAttention):
        return [floats(*((B, T) if layer.batch_first else (T, B)), layer.embed_dim)]
    if isinstance(layer, nn.LayerNorm):
        return [floats(B, T, *layer.normalized_shape), floats(B, *layer.normalized_shape)]
    if isinstance(layer, nn.GroupNorm):
        return [floats(B, layer.num_channels, 32, 32)]
    if isinstance(layer, nn.BatchNorm1d):
        return [floats(B, layer.num_features), floats(B, layer.num_features, T)]
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return [floats(B, layer.num_features, *((16,) * (3 if isinstance(layer, nn.BatchNorm3d) else 2)))]
    return []


def _as_image(features: int, batch: int) -> list[InputSpec]:
    """Flattened images: 784 features are 1×28×28."""
    found = []
    for channels in (1, 3):
        size = round((features / channels) ** 0.5)
        if size >= 8 and channels * size * size == features:
            found.append(floats(batch, channels, size, size))
    return found


def first_layers(facts: Facts) -> list[InputSpec]:
    """What the first layers take; further layers of the same kind add little."""
    found: list[InputSpec] = []
    seen: set[str] = set()
    first = facts.layers[0] if facts.layers else None
    for layer in facts.layers:
        key = f"{type(layer).__name__}{getattr(layer, 'in_features', getattr(layer, 'in_channels', ''))}"
        if key not in seen and len(seen) < 6:
            seen.add(key)
            found += layer_inputs(layer, facts)[: 2 if isinstance(layer, nn.Linear) and layer is not first else None]
    if isinstance(first, nn.Linear) and not any(isinstance(m, nn.Embedding) for m in facts.layers):
        found = layer_inputs(first, facts)[:2] + found
    return list(dict.fromkeys(found))


def of_parameters(model: nn.Module, facts: Facts) -> list[InputSpec]:
    """For models of bare parameters: features of either side of each matrix."""
    found = []
    for parameter in list(model.parameters())[:3]:
        if parameter.dim() >= 2:
            found += [floats(facts.batch, parameter.shape[0]), floats(facts.batch, parameter.shape[-1])]
            found += [
                floats(facts.batch, facts.length, parameter.shape[-2]),
                floats(facts.batch, parameter.shape[0], 16, 16),
            ]
    return found or [floats(facts.batch, 64), floats(facts.batch, facts.length, 64), floats(facts.batch, 3, 32, 32)]


@dataclass(frozen=True)
class Argument:
    """One parameter of forward."""

    name: str
    required: bool
    annotation: Any = None
    keyword_only: bool = False


def signature(model: nn.Module) -> list[Argument]:
    """The parameters of a model's forward."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [Argument("input", True)]
    arguments = [
        Argument(
            p.name, p.default is p.empty, None if p.annotation is p.empty else p.annotation, p.kind is p.KEYWORD_ONLY
        )
        for p in found
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not arguments and any(p.kind is p.VAR_POSITIONAL for p in found):
        return [Argument("input", True)]
    return arguments


_TOKENS = re.compile(
    r"(\w*input_?)?ids|idxs?|tok(en)?s?|token_ids|src|tgt|trg|text|captions?|words?|sent(ence)?s?|(in_?)?seqs?|sequences?|source|prompt|in_idx|utterances?"
)
_IMAGE = re.compile(r"im(g|age)s?|pixel_values|frames?|pictures?|input_images?|photos?")
_VIDEO = re.compile(r"videos?|volumes?|clips?|vid|vol")
_MASK = re.compile(r"\w*mask\w*|\w*padding")
_STATE = re.compile(
    r"h|hx|hc|h_?0|c_?0|hiddens?|(prev_|init_|last_)?(hidden|lstm|rnn|cell)(_states?|_cells?)?|states|hxs|rnn_hxs|lstm_state|memory_state"
)
_TIME = re.compile(r"t|times?|timesteps?|time_?steps?|noise_(level|labels)|sigmas?|diffusion_step|ts")
_LABEL = re.compile(r"y|labels?|c|class(_labels|es)?|cond(ition)?|targets?|tags|attr")
_BOXES = re.compile(r"annotations|annots|(gt_?|target_?)?b?boxes")
_CLASSES = re.compile(r"(n|num|nb)_?(classes|class|tags|labels|targets|categories)|nclass|class_num")
_ADJACENCY = re.compile(r"adj(acency)?(_mat(rix)?)?|a_hat|graph_adj|A")
_EDGES = re.compile(r"edge_?(index|indices)|edges|topology")
_LENGTHS = re.compile(r"\w*len(gth)?s?")
_ACTION = re.compile(r"(prev_|last_|old_|next_)?(a|actions?|act)")
_DONE = re.compile(r"dones?|masks|terminations?|episode_starts?")
_GRAPH_BATCH = re.compile(r"batch(_index)?")


def is_edges(name: str) -> bool:
    """Whether an input of that name holds the edges of a graph."""
    return _EDGES.fullmatch(name.lower()) is not None


def options(argument: Argument, model: nn.Module, facts: Facts, position: int) -> list[Any]:
    """Values to try for one parameter, the likeliest first."""
    B, T, name = facts.batch, facts.length, argument.name
    low = name.lower()
    primary = first_layers(facts) or of_parameters(model, facts)
    if facts.environment is not None and position == 0:
        primary = [floats(B, *facts.environment.observation_space.shape), *primary]
    if _IMAGE.fullmatch(low) and not any(len(spec.shape) == 4 for spec in primary):
        channels = next((v for k, v in facts.dimensions.items() if re.fullmatch(r"(in_)?chan(nel)?s|in_chans", k)), 3)
        primary = [*(floats(B, channels, size, size) for size in facts.sizes), *primary]
    if position == 0 or _IMAGE.fullmatch(low):
        primary = [*_fitting_shapes(model, facts, primary, low), *primary]
    if _VIDEO.fullmatch(low) and not any(len(spec.shape) == 5 for spec in primary):
        primary = [volumes(facts), *primary]
    named = [floats(B, size) for key, size in facts.dimensions.items() if _stem(key) == _stem(low)]
    tables = [ids(m.num_embeddings, B) for m in facts.layers if isinstance(m, nn.Embedding)]
    recurrent = [m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]
    if argument.annotation in (int, float, bool, str) or argument.annotation in ("int", "float", "bool"):
        return [
            {"int": 4, "float": 1.0, "bool": False, "str": ""}[
                getattr(argument.annotation, "__name__", argument.annotation)
            ]
        ]
    if _EDGES.fullmatch(low):
        return [ids(NODES, 2, EDGES)]
    if _ADJACENCY.fullmatch(name):
        return [floats(NODES, NODES), floats(B, NODES, NODES)]
    if recurrent and _STATE.fullmatch(low):
        return [_state(recurrent[0], facts), None]
    if _MASK.fullmatch(low):
        return [None, InputSpec("bool", (B, T)), floats(T, T), InputSpec("bool", (B, 1, 1, T))]
    if _DONE.fullmatch(low) and position > 0:
        return [floats(B), floats(B, 1)]
    if _TIME.fullmatch(low) and position > 0:
        return [ids(1000, B), floats(B), floats(B, 1)]
    if _LENGTHS.fullmatch(low) and position > 0:
        return [InputSpec("int64", (B,), T)]
    if position > 0 and _GRAPH_BATCH.fullmatch(low) and any(_EDGES.fullmatch(a.name) for a in signature(model)):
        return [ids(1, NODES)]
    if position > 0 and _BOXES.fullmatch(low):
        return [floats(B, 4, 5), floats(B, 4, 4)]  # corners, and a class
    if position > 0 and _LABEL.fullmatch(low):
        classes = next((size for key, size in facts.dimensions.items() if _CLASSES.fullmatch(key)), 10)
        return [*tables[-1:], ids(classes, B), *named, *primary[:1], None]
    if position > 0 and _ACTION.fullmatch(low):
        space = facts.environment.action_space if facts.environment is not None else None
        known = [] if space is None else [ids(space.n, B) if isinstance(space, Discrete) else floats(B, *space.shape)]
        return [*known, *named, floats(B, 4), floats(B, 2), floats(B, 1)]
    tokens = [s for s in primary if s.dtype == "int64"]
    if _TOKENS.fullmatch(low) and tokens:
        return [*tokens, *(s for s in primary if s.dtype != "int64")]
    if _adjacent_names(model):
        return [floats(NODES, s.shape[-1]) for s in primary if len(s.shape) == 2] + primary
    return list(dict.fromkeys([*named, *primary]))


def _fitting_shapes(model: nn.Module, facts: Facts, primary: list[InputSpec], name: str) -> Iterator[InputSpec]:
    """The file's own shapes, where the first layer takes such: a convolution that many channels, or an image's name."""
    for shape in facts.shapes:
        takes = any(len(spec.shape) == len(shape) + 1 and spec.shape[1] == shape[0] for spec in primary[:1])
        if takes or _IMAGE.fullmatch(name):
            yield floats(facts.batch, *shape)


def volumes(facts: Facts) -> InputSpec:
    """Videos or volumes: batch, channels, frames, height, width."""
    frames = next((v for k, v in facts.dimensions.items() if re.fullmatch(r"(num_|max_)?frames?(_size)?", k)), 16)
    channels = next((v for k, v in facts.dimensions.items() if re.fullmatch(r"(in_)?chan(nel)?s|in_chans", k)), 3)
    return floats(facts.batch, channels, frames, facts.sizes[0], facts.sizes[0])


def _adjacent_names(model: nn.Module) -> bool:
    return any(_EDGES.fullmatch(a.name.lower()) or _ADJACENCY.fullmatch(a.name) for a in signature(model))


def _stem(name: str) -> str:
    """``state`` for ``state_size``, ``state_dim``, ``n_states``."""
    stem = re.sub(r"^(n|num|nb|dim)_|_(size|dims?|shape|features|num|n|in)$", "", name.lower())
    return _SAME.get(stem, stem)


_SAME = {
    **dict.fromkeys(("obs", "observation", "s"), "state"),
    **dict.fromkeys(("act", "actions", "a"), "action"),
    **dict.fromkeys(("noise", "z"), "latent"),
    **dict.fromkeys(("x", "in", "inputs"), "input"),
}


def _state(layer: nn.Module, facts: Facts) -> Any:
    """The hidden state of a recurrent layer."""
    if isinstance(layer, nn.RNNBase):
        one = floats(layer.num_layers * (2 if layer.bidirectional else 1), facts.batch, layer.hidden_size)
        return (one, one) if isinstance(layer, nn.LSTM) else one
    assert isinstance(layer, nn.RNNCellBase)
    one = floats(facts.batch, layer.hidden_size)
    return (one, one) if isinstance(layer, nn.LSTMCell) else one


@dataclass(frozen=True)
class Proposal:
    """Arguments of one call, with specifications in place of tensors."""

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    def leaves(self) -> list[tuple[tuple[Any, ...], InputSpec]]:
        """Every specification with the path to it."""
        found: list[tuple[tuple[Any, ...], InputSpec]] = []

        def walk(value: Any, path: tuple[Any, ...]) -> None:
            if isinstance(value, InputSpec):
                found.append((path, value))
            elif isinstance(value, (tuple, list)):
                for index, item in enumerate(value):
                    walk(item, (*path, index))
            elif isinstance(value, SimpleNamespace):
                walk(vars(value), path)
            elif isinstance(value, Mapping):
                for key, item in value.items():
                    walk(item, (*path, key))

        walk(self.args, ("args",))
        walk(dict(self.kwargs), ("kwargs",))
        return found

    def put(self, path: tuple[Any, ...], value: Any) -> Proposal:
        """The proposal with another value at ``path``."""

        def rebuild(current: Any, rest: tuple[Any, ...]) -> Any:
            if not rest:
                return value
            if isinstance(current, SimpleNamespace):
                return SimpleNamespace(**rebuild(vars(current), rest))
            if isinstance(current, Mapping):
                return {**current, rest[0]: rebuild(current[rest[0]], rest[1:])}
            items = list(current)
            items[rest[0]] = rebuild(items[rest[0]], rest[1:])
            return type(current)(items)

        if path[0] == "args":
            return replace(self, args=tuple(rebuild(self.args, path[1:])))
        return replace(self, kwargs=tuple(rebuild(dict(self.kwargs), path[1:]).items()))


def proposals(model: nn.Module, facts: Facts) -> Iterator[Proposal]:
    """Calls to try, the likeliest first: one argument varies at a time, then all together."""
    arguments = [a for a in signature(model) if a.required]
    choices = [options(argument, model, facts, position) for position, argument in enumerate(arguments)]
    if not arguments:
        everything = signature(model)
        if not everything:
            yield Proposal(())
            return
        for argument in everything[:1] if not any(_TOKENS.fullmatch(a.name) for a in everything) else everything:
            if argument is everything[0] or _TOKENS.fullmatch(argument.name):
                for value in options(argument, model, facts, 0)[:4]:
                    yield Proposal((), ((argument.name, value),))
        return
    first = tuple(values[0] for values in choices)
    yield _call(arguments, first)
    for position, values in enumerate(choices):
        for value in values[1:]:
            yield _call(arguments, (*first[:position], value, *first[position + 1 :]))
    if len(choices) > 1:
        for combination in product(*(c[:4] for c in choices)):
            yield _call(arguments, combination)


def filled(model: nn.Module, facts: Facts, known: Mapping[str, InputSpec]) -> Proposal:
    """A call with these inputs by parameter name, and the likeliest values for what else forward requires."""
    arguments = [a for a in signature(model) if a.required or a.name in known]
    values = [
        known[argument.name] if argument.name in known else options(argument, model, facts, position)[0]
        for position, argument in enumerate(arguments)
    ]
    positional = sum(argument.required for argument in arguments)
    call = _call(arguments[:positional], tuple(values[:positional]))
    optional = tuple((a.name, v) for a, v in zip(arguments[positional:], values[positional:], strict=True))
    return Proposal(call.args, (*call.kwargs, *optional))


def _call(arguments: list[Argument], values: tuple[Any, ...]) -> Proposal:
    given = list(zip(arguments, values, strict=True))
    positional = tuple(value for argument, value in given if not argument.keyword_only)
    return Proposal(positional, tuple((a.name, value) for a, value in given if a.keyword_only))


def as_float(spec: InputSpec, dtype: str = "float32") -> InputSpec:
    """The same shape, as floats."""
    return InputSpec(dtype, spec.shape)
