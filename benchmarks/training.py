"""Small synthetic tasks, and training one net under several optimiser settings at once.

The settings are lanes of one batched net (``torch.func.vmap`` over stacked parameters): all lanes start from the same
weights and see the same batches; each has an optimiser and a learning rate of its own. A lane leaves as soon as it has
learned or is no longer finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

LEARNED = 0.7
"""Running accuracy on fresh samples, of ten classes, from which a net counts as learning."""

Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Setting:
    """An optimiser at a learning rate; ``adam`` False: SGD with momentum .9."""

    adam: bool
    rate: float

    def __str__(self) -> str:
        return f"{'Adam' if self.adam else 'SGD'} {self.rate:g}"


SETTINGS = tuple(
    [Setting(False, rate) for rate in (0.001, 0.01, 0.1)] + [Setting(True, rate) for rate in (0.0001, 0.001, 0.01)]
)


@dataclass(frozen=True, slots=True)
class Task:
    """``draw``: a batch of inputs of zero mean and unit variance, and their classes."""

    name: str
    draw: Batch
    shape: tuple[int, ...]


def clusters(inputs: int = 32, batch: int = 128, seed: int = 0) -> Task:
    """Ten Gaussian clusters, as wide as their centres are apart in each coordinate.

    With batches of 32, nets of 30 layers of 32 units take 345 (ReLU) and 530 (GELU) steps under a good init, because of
    the noise of the gradient; with 128 they take 220 to 250.
    """
    centres = torch.randn(10, inputs, generator=torch.Generator().manual_seed(seed))

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(0, 10, (batch,), generator=generator)
        return (centres[y] + torch.randn(batch, inputs, generator=generator)) / 2**0.5, y

    return Task("clusters", draw, (inputs,))


def pictures(size: int = 8, batch: int = 32, seed: int = 0) -> Task:
    """Ten smooth pictures of three channels, each sample with noise as strong as the picture."""
    coarse = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    smooth = (smooth - smooth.mean()) / smooth.std()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(0, 10, (batch,), generator=generator)
        return (smooth[y] + torch.randn(batch, 3, size, size, generator=generator)) / 2**0.5, y

    return Task("pictures", draw, (3, size, size))


def learning_steps(
    model: nn.Module,
    task: Task,
    steps: int,
    settings: tuple[Setting, ...] = SETTINGS,
    *,
    until: int | None = None,
    seed: int = 0,
) -> list[int | None]:
    """For each setting, the step at which the net's running accuracy passed ``LEARNED``; None if it never did.

    Args:
        model: the net at its start; it is left as it is.
        task: what it has to learn.
        steps: how long it may take.
        settings: the lanes.
        until: stop when so many lanes have learned (None: all).
        seed: of the batches.
    """
    lanes = _Lanes(model, settings)
    found: list[int | None] = [None] * len(settings)
    generator = torch.Generator().manual_seed(seed)
    running = torch.full((len(settings),), 0.1)
    for step in range(1, steps + 1):
        x, y = task.draw(generator)
        accuracy = lanes.step(x, y)
        running = 0.8 * running + 0.2 * accuracy
        if step % 5 and step != steps:
            continue
        done = [bool(r >= LEARNED) for r in running]
        for lane, learned in zip(lanes.lanes, done, strict=True):
            if learned:
                found[lane] = step
        keep = [i for i, learned in enumerate(done) if not learned and lanes.finite(i)]
        enough = until is not None and sum(s is not None for s in found) >= until
        if not keep or enough:
            break
        if len(keep) < len(done):
            lanes.keep(keep)
            running = running[keep]
    return found


class _Lanes:
    """The stacked parameters, their optimisers' moments, and which setting each lane belongs to."""

    def __init__(self, model: nn.Module, settings: tuple[Setting, ...]) -> None:
        self.model = model
        self.settings = settings
        self.lanes = list(range(len(settings)))
        self.params = {n: torch.stack([p.detach()] * len(settings)) for n, p in model.named_parameters()}
        self.buffers = dict(model.named_buffers())
        self.first = [torch.zeros_like(p) for p in self.params.values()]
        self.second = [torch.zeros_like(p) for p in self.params.values()]
        self.time = 0
        self._loss = torch.zeros(len(settings))
        self._arrange()

    def _arrange(self) -> None:
        """SGD lanes come first: every stacked tensor is one slice of theirs and one of Adam's."""
        chosen = [self.settings[lane] for lane in self.lanes]
        self.split = sum(not setting.adam for setting in chosen)
        self.rates = torch.tensor([setting.rate for setting in chosen])

    def keep(self, which: list[int]) -> None:
        self.lanes = [self.lanes[i] for i in which]
        self.params = {n: p.detach()[which].clone() for n, p in self.params.items()}
        self.first = [m[which] for m in self.first]
        self.second = [m[which] for m in self.second]
        self._loss = self._loss[which]
        self._arrange()

    def finite(self, lane: int) -> bool:
        return bool(torch.isfinite(self._loss[lane]))

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step of every lane; the accuracy of each on the batch, before the step."""
        values = list(self.params.values())
        for value in values:
            value.requires_grad_(True)

        def forward(params: dict[str, Tensor]) -> Tensor:
            out: Tensor = functional_call(self.model, (params, self.buffers), (x,))
            return out

        logits = vmap(forward, randomness="different")(self.params)
        losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(self.lanes)), reduction="none")
        losses = losses.view(len(self.lanes), -1).mean(1)
        # A lane that overflowed must not spoil the sum that the others are differentiated through.
        sane = torch.where(torch.isfinite(losses), losses, torch.zeros_like(losses))
        grads = torch.autograd.grad(sane.sum(), values, allow_unused=True)
        self._loss = losses.detach()
        with torch.no_grad():
            self._update([g if g is not None else torch.zeros_like(p) for g, p in zip(grads, values, strict=True)])
        for value in values:
            value.requires_grad_(False)
        return (logits.detach().argmax(-1) == y).float().mean(1)

    def _update(self, grads: list[Tensor]) -> None:
        self.time += 1
        values, s = list(self.params.values()), self.split
        if s:
            momenta = [m[:s] for m in self.first]
            torch._foreach_mul_(momenta, 0.9)
            torch._foreach_add_(momenta, [g[:s] for g in grads])
            moves = torch._foreach_mul(momenta, [_shaped(self.rates[:s], m) for m in momenta])
            torch._foreach_sub_([p[:s] for p in values], moves)
        if s < len(self.lanes):
            mine = [g[s:] for g in grads]
            first, second = [m[s:] for m in self.first], [m[s:] for m in self.second]
            torch._foreach_lerp_(first, mine, 0.1)
            torch._foreach_mul_(second, 0.999)
            torch._foreach_addcmul_(second, mine, mine, 0.001)
            scale = (1 - 0.999**self.time) ** 0.5 / (1 - 0.9**self.time)
            below = torch._foreach_sqrt(second)
            torch._foreach_add_(below, 1e-8 * (1 - 0.999**self.time) ** 0.5)
            moves = torch._foreach_div(first, below)
            torch._foreach_mul_(moves, [_shaped(self.rates[s:] * scale, m) for m in moves])
            torch._foreach_sub_([p[s:] for p in values], moves)


def _shaped(rates: Tensor, like: Tensor) -> Tensor:
    return rates.view(-1, *[1] * (like.dim() - 1))
