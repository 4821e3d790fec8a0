"""Mistakes that are injected into good live models: each a function that changes a model in place and says where.

A mutation is given a copy of the model and a random source; it returns the layers that it spoiled, or nothing where the
model has no place for it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SCALE = ("IC201", "IC202", "IC203", "IC204", "IC205", "IC206", "IC207", "IC208", "IC209", "IC210", "IC401", "IC502")
UNITS = ("IC701", "IC702", "IC703", "IC704", "IC705")

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
NORM = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One class of mistake.

    ``change``: spoils the model, returns the names of the modules spoiled (empty: not applicable). ``codes``: what
    names it rightly. ``effect``: how its harm is measured (``signal``, ``units``, ``memory`` or ``copies``).
    ``sites``: how many different mutants it makes of one model.
    """

    name: str
    codes: tuple[str, ...]
    effect: str
    change: Callable[[nn.Module, random.Random], list[str]]
    sites: int = 1


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers and convolutions, by name."""
    seen: set[int] = set()
    found = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        named = isinstance(module, LINEAR) or type(module).__name__ == "Conv1D"
        if named and isinstance(weight, nn.Parameter) and weight.dim() >= 2 and id(weight) not in seen:
            seen.add(id(weight))
            found[name] = module
    return found


def hidden(model: nn.Module) -> dict[str, nn.Module]:
    """All but the first layer and the last, which is the head in every model used here."""
    return dict(list(layers(model).items())[1:-1])


def norms(model: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, NORM) and isinstance(getattr(module, "weight", None), nn.Parameter)
    }


def _one(write: Callable[[Tensor], object], *, inner: bool = True) -> Callable[[nn.Module, random.Random], list[str]]:
    def change(model: nn.Module, draw: random.Random) -> list[str]:
        found = hidden(model) if inner else layers(model)
        if not found:
            return []
        name = draw.choice(list(found))
        write(found[name].weight)
        return [name]

    return change


def _all(write: Callable[[Tensor], object], *, biases: bool = False) -> Callable[[nn.Module, random.Random], list[str]]:
    def change(model: nn.Module, draw: random.Random) -> list[str]:
        found = layers(model)
        for module in found.values():
            write(module.weight)
            if biases and isinstance(getattr(module, "bias", None), nn.Parameter):
                nn.init.zeros_(module.bias)
        return list(found)

    return change


def _half(write: Callable[[Tensor], object]) -> Callable[[nn.Module, random.Random], list[str]]:
    """The layers of one contiguous half."""

    def change(model: nn.Module, draw: random.Random) -> list[str]:
        found = hidden(model)
        if len(found) < 4:
            return []
        start = draw.randrange(len(found) // 2 + 1)
        names = list(found)[start : start + len(found) // 2]
        for name in names:
            write(found[name].weight)
        return names

    return change


def _times(factor: float) -> Callable[[Tensor], object]:
    return lambda weight: weight.mul_(factor)


def _normal(std: float) -> Callable[[Tensor], object]:
    return lambda weight: nn.init.normal_(weight, std=std)


def _swapped_fans(weight: Tensor) -> object:
    """He's scale from the size of the first axis, as ``fan_in = weight.size(0)`` gives it."""
    return nn.init.normal_(weight, std=math.sqrt(2 / weight.shape[0]))


def _torch_default(weight: Tensor) -> object:
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def _xavier(weight: Tensor) -> object:
    return nn.init.xavier_uniform_(weight)


def _equal_rows(weight: Tensor) -> object:
    return weight.copy_(weight[:1].expand_as(weight).clone())


def _garbage(weight: Tensor) -> object:
    """What memory holds that nobody wrote: here and there a huge number, mostly zeros and denormals."""
    words = torch.randint(-(2**31), 2**31 - 1, (weight.numel(),), dtype=torch.int32)
    values = words.view(torch.float32)
    keep = torch.rand(weight.numel()) < 0.2
    return weight.copy_(torch.where(keep, values, torch.zeros(())).view_as(weight))


def _zero_then_multiply(model: nn.Module, draw: random.Random) -> list[str]:
    """The last layer of a residual branch and the scale behind it, both zero."""
    pairs = list(_scaled_ends(model))
    if not pairs:
        return []
    layer, name, scale = draw.choice(pairs)
    nn.init.zeros_(layer.weight)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(scale)
    return [name]


_ENDS = (("conv2", "bn2"), ("conv3", "bn3"), ("mlp.fc2", "gamma"), ("mlp.fc2", "ls2"), ("attn.proj", "ls1"))
"""Last layer of a branch and what scales it, in the residual blocks of timm and torchvision."""


def _scaled_ends(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(layer, its name, the learned factor that multiplies its output)."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if hasattr(module, "conv1") and not hasattr(module, "downsample"):
            continue  # no residual block
        for last, scale in _ENDS:
            layer, factor = modules.get(f"{name}.{last}"), getattr(module, scale, None)
            if isinstance(factor, nn.Module):
                factor = getattr(factor, "gamma", getattr(factor, "weight", None))
            if last == "conv2" and hasattr(module, "conv3"):
                continue
            if isinstance(layer, LINEAR) and isinstance(factor, nn.Parameter):
                yield layer, f"{name}.{last}", factor


def _low_rank_both_zero(model: nn.Module, draw: random.Random) -> list[str]:
    """An adapter beside a layer, x W' + x A B, with A and B zero."""
    found = {n: m for n, m in hidden(model).items() if type(m) is nn.Linear}
    if not found:
        return []
    name = draw.choice(list(found))
    _replace(model, name, _Adapted(found[name]))
    return [f"{name}.down", f"{name}.up"]


class _Adapted(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 4, bias=False)
        self.up = nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)


def _clone_blocks(model: nn.Module, draw: random.Random) -> list[str]:
    """Blocks of one list that all start as copies of the first, as ``deepcopy`` leaves them."""
    found = []
    for name, module in model.named_modules():
        children = list(module.named_children())
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(children) < 2:
            continue
        first = children[0][1].state_dict()
        if sum(value.dim() >= 2 for value in first.values()) == 0:
            continue
        twins = [
            child for child, block in children[1:]
            if {k: v.shape for k, v in block.state_dict().items()} == {k: v.shape for k, v in first.items()}
            and type(block) is type(children[0][1])
            and any(not torch.equal(v, first[k]) for k, v in block.state_dict().items() if v.dim() >= 2)
        ]  # fmt: skip
        if twins:
            found.append((name, children[0][0], twins))
    if not found:
        return []
    name, original, twins = draw.choice(found)
    container = model.get_submodule(name)
    for twin in twins:
        container.get_submodule(twin).load_state_dict(container.get_submodule(original).state_dict())
    return [f"{name}.{child}" if name else child for child in (original, *twins)]


def _norms_removed(model: nn.Module, draw: random.Random) -> list[str]:
    """Every norm layer is gone, the init that relied on them is not."""
    found = norms(model)
    for name in found:
        _replace(model, name, nn.Identity())
    return list(layers(model)) if found else []


def _norms_zero(model: nn.Module, draw: random.Random) -> list[str]:
    """One norm layer's weight and bias are zero."""
    found = norms(model)
    if not found:
        return []
    name = draw.choice(list(found))
    nn.init.zeros_(found[name].weight)
    if found[name].bias is not None:
        nn.init.zeros_(found[name].bias)
    return [name]


def _dead_biases(model: nn.Module, draw: random.Random) -> list[str]:
    """Every bias far below zero: ReLU units never fire."""
    touched = []
    for name, module in layers(model).items():
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.constant_(module.bias, -10.0)
            touched.append(name)
    return touched


def _recurrent_times(factor: float) -> Callable[[nn.Module, random.Random], list[str]]:
    def change(model: nn.Module, draw: random.Random) -> list[str]:
        touched = []
        for name, module in model.named_modules():
            if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
                for key, value in module.named_parameters():
                    if key.startswith("weight_hh"):
                        value.mul_(factor)
                touched.append(name)
        return touched

    return change


def _embedding(write: Callable[[Tensor], object]) -> Callable[[nn.Module, random.Random], list[str]]:
    def change(model: nn.Module, draw: random.Random) -> list[str]:
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding):
                write(module.weight)
                return [name]
        return []

    return change


def _residual_ends(model: nn.Module, draw: random.Random) -> list[str]:
    """The layers that a norm-free residual net scales down or starts at zero get He's full scale."""
    if norms(model):
        return []
    touched = []
    for name, module in layers(model).items():
        fan_in = math.prod(module.weight.shape[1:])
        if name in list(hidden(model)) and float(module.weight.std()) < 0.5 * math.sqrt(2 / fan_in):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            touched.append(name)
    for name, parameter in model.named_parameters():
        if parameter.numel() == 1 and name.rpartition(".")[2] in ("skipinit_gain", "scale", "gain"):
            nn.init.ones_(parameter)
            touched.append(name.rpartition(".")[0])
    return touched


def _one_sided(weight: Tensor) -> object:
    return nn.init.uniform_(weight, 0.0, 1.0)


MUTATIONS = (
    *(Mutation(f"one layer x 1e{k:+d}", SCALE, "signal", _one(_times(10.0**k)), 2) for k in (-8, -5, -3, 3, 5, 8)),
    *(Mutation(f"every layer x {c:g}", SCALE, "signal", _all(_times(c))) for c in (0.03, 0.1, 0.3, 3, 10, 30)),
    *(Mutation(f"half of the layers x {c:g}", SCALE, "signal", _half(_times(c)), 2) for c in (0.01, 0.1, 10)),
    Mutation("every layer std .001", SCALE, "signal", _all(_normal(0.001), biases=True)),
    Mutation("every layer std .01", SCALE, "signal", _all(_normal(0.01), biases=True)),
    Mutation("every layer std 1", SCALE, "signal", _all(_normal(1.0), biases=True)),
    Mutation("torch's default init everywhere", SCALE, "signal", _all(_torch_default)),
    Mutation("Xavier everywhere", SCALE, "signal", _all(_xavier, biases=True)),
    Mutation("fan from the wrong axis everywhere", (*SCALE, "IC301"), "signal", _all(_swapped_fans, biases=True)),
    Mutation("rand() weights in one layer", (*SCALE, "IC305"), "signal", _one(_one_sided)),
    Mutation("rand() weights everywhere", (*SCALE, "IC305"), "signal", _all(_one_sided)),
    Mutation("norm layers removed", SCALE, "signal", _norms_removed),
    Mutation("residual scaling dropped", SCALE, "signal", _residual_ends),
    Mutation("uninitialised memory", ("IC101", *SCALE), "memory", _one(_garbage, inner=False), 2),
    Mutation("biases at -10", (*SCALE, "IC603", "IC705"), "signal", _dead_biases),
    Mutation("recurrent weights x 10", SCALE, "signal", _recurrent_times(10.0)),
    Mutation("embedding x 1e4", SCALE, "signal", _embedding(_times(1e4))),
    Mutation("zero weights in one layer", UNITS, "units", _one(nn.init.zeros_), 2),
    Mutation("zero weights everywhere", UNITS, "units", _all(nn.init.zeros_, biases=True)),
    Mutation("constant weights in one layer", UNITS, "units", _one(lambda w: nn.init.constant_(w, 0.02)), 2),
    Mutation("constant weights everywhere", UNITS, "units", _all(lambda w: nn.init.constant_(w, 0.02), biases=True)),
    Mutation("equal rows in one layer", UNITS, "units", _one(_equal_rows), 2),
    Mutation("zero norm", UNITS, "units", _norms_zero),
    Mutation("dead product, last layer and its scale", UNITS, "units", _zero_then_multiply),
    Mutation("dead product, both low-rank factors", UNITS, "units", _low_rank_both_zero),
    Mutation("cloned blocks", ("IC109",), "copies", _clone_blocks),
)
