"""The first loss of a classifier: far above log(classes) if its logits start too large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initcheck.measuring.device import tensors_of

MOST_CLASSES = 1_000_000


def class_dim(output: Tensor) -> int:
    """Where the classes of an output are: dimension 1 of a map (batch, classes, height, width), else the last."""
    return 1 if output.dim() >= 4 else output.dim() - 1


def classes_of(model: nn.Module, inputs: tuple[Sequence[Any], Mapping[str, Any]], output: Tensor) -> int:
    """How many classes an output scores; 0 if it does not look like a classifier's.

    A matrix (batch, classes) that is not an input's copy in shape, or scores per token of the model's own vocabulary.
    """
    if not output.is_floating_point() or output.dim() < 2:
        return 0
    count = output.shape[class_dim(output)]
    if not 2 <= count <= MOST_CLASSES:
        return 0
    if output.dim() == 2:
        mirrored = any(t.is_floating_point() and t.shape[1:] == output.shape[1:] for t in tensors_of(inputs))
        return 0 if mirrored and count > 10 else count
    vocabularies = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}
    return count if output.dim() == 3 and count in vocabularies else 0


def random_labels(output: Tensor, generator: torch.Generator) -> Tensor:
    """A class for every scored item, drawn uniformly."""
    dim = class_dim(output)
    shape = (*output.shape[:dim], *output.shape[dim + 1 :])
    return torch.randint(output.shape[dim], shape, generator=generator).to(output.device)


def labels_fit(output: Tensor, target: Any) -> bool:
    """Whether ``target`` holds a class for every scored item of ``output``."""
    if not isinstance(target, Tensor) or target.is_floating_point() or output.dim() < 2:
        return False
    dim = class_dim(output)
    return target.shape == (*output.shape[:dim], *output.shape[dim + 1 :])


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits, log-probabilities or probabilities (told by their sums) against class numbers."""
    scores = output.float().movedim(class_dim(output), 1)
    kind = scale_of(scores.detach())
    if kind == "log-probabilities":
        return F.nll_loss(scores, labels)
    if kind == "probabilities":
        return F.nll_loss(scores.clamp_min(1e-30).log(), labels)
    return F.cross_entropy(scores, labels)


def scale_of(scores: Tensor) -> str:
    """``probabilities``, ``log-probabilities`` or ``logits``, classes in dimension 1."""
    if bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(()).to(scores), atol=1e-3):
        return "probabilities"
    if bool((scores <= 0).all()) and math.isclose(float(scores.logsumexp(1).abs().max()), 0.0, abs_tol=1e-3):
        return "log-probabilities"
    return "logits"
