"""Dropout and its relatives, random tensors, constants."""

from __future__ import annotations

import math

import numpy as np
import torch

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.rule import Call, Flow, Result, Rule, register
from initcheck.signal.value import Value, default_roles, dims_of, settle


class Masking(Rule):
    """x * m/keep with m ~ Bernoulli(keep): the second moment grows by 1/keep; pairs with masks of their own do not."""

    def keep(self, call: Call) -> float:
        """Probability that an element survives."""
        p = float(call.plain("p", 0.5))
        training = call.plain("training", call.plain("train", True))
        return 1.0 - p if training else 1.0

    def masked(self, k: Kernel, keep: float) -> Kernel:
        """Which pairs share a mask: by default an element only with itself."""
        if k.pairs is not None:
            own = np.ones_like(k.pairs) + np.eye(len(k.pairs)) * (1 / keep - 1)
            return Kernel.by_pairs(k.same * k.pairs * own, k.cross, k.sample)
        return Kernel(
            k.same / keep, k.far, k.cross, k.sample,
            None if k.local is None else self._own(k, keep), k.profile,
        )  # fmt: skip

    def _own(self, k: Kernel, keep: float):  # type: ignore[no-untyped-def]
        local = k.local.copy()  # type: ignore[union-attr]
        local[(0,) * local.ndim] = k.same / keep
        return local

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        keep = self.keep(call)
        if keep >= 1:
            return x.viewed(x.dims, x.covariance.profile, x.covariance.local)
        if keep <= 0:
            return Value(x.dims, 0.0, Kernel.constant(0.0)).settled()
        second = self.masked(x.second, keep)
        result = Value(x.dims, x.mean, second - x.mean**2, approximate=x.approximate, kept=x.kept).settled()
        if x.mixing is not None:
            from dataclasses import replace

            result.mixing = replace(x.mixing, dropped=(1 + x.mixing.dropped) / keep - 1)
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        keep = self.keep(call)
        if keep <= 0:
            return
        if keep >= 1:
            yield call.node_of("input"), gradient
            return
        yield call.node_of("input"), Gradient.fresh(settle(self.masked(gradient.collapsed(), keep), x.dims))


@register
class Dropout(Masking):
    """Independent masks for all elements (Srivastava et al. 2014)."""

    ops: tuple[str, ...] = ("dropout", "native_dropout", "dropout_")
    signature: tuple[str, ...] = ("input", "p", "training", "inplace")


@register
class ChannelDropout(Masking):
    """dropout1d/2d/3d: one mask for a sample's whole channel: positions share it."""

    ops: tuple[str, ...] = ("dropout1d", "dropout2d", "dropout3d", "feature_dropout")
    signature: tuple[str, ...] = ("input", "p", "training", "inplace")

    def masked(self, k: Kernel, keep: float) -> Kernel:
        local = None if k.local is None else k.local / keep
        return Kernel(k.same / keep, k.far / keep, k.cross, k.sample, local, k.profile)


@register
class AlphaDropout(Rule):
    """Dropped units go to -1.7581, then an affine map keeps mean 0 and variance 1 (Klambauer et al. 2017)."""

    ops: tuple[str, ...] = ("alpha_dropout", "feature_alpha_dropout")
    signature: tuple[str, ...] = ("input", "p", "training", "inplace")

    def _map(self, call: Call) -> tuple[float, float, float]:
        p = float(call.plain("p", 0.5)) if call.plain("training", True) else 0.0
        low = -1.7580993408473766
        scale = 1 / math.sqrt((1 - p) * (1 + p * low**2)) if p < 1 else 0.0
        return p, low, scale

    def forward(self, call: Call) -> Result:
        x = call.value("input")
        p, low, a = self._map(call)
        keep = 1 - p
        mean = keep * x.mean + p * low
        offset = -a * p * low
        k = x.second
        same = keep * k.same + p * low**2 - mean**2
        pairs = keep**2
        k = Kernel(same, pairs * x.covariance.far, pairs * x.covariance.cross, pairs * x.covariance.sample) * a**2
        return Value(x.dims, a * mean + offset, k, approximate=x.approximate).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = call.value("input")
        p, _, a = self._map(call)
        k = gradient.collapsed() * (a**2 * (1 - p))
        pairs = 1 - p
        yield (
            call.node_of("input"),
            Gradient.fresh(settle(Kernel(k.same, k.far * pairs, k.cross * pairs, k.sample * pairs), x.dims)),
        )


@register
class Random(Rule):
    """Random tensors: rand, randn, bernoulli and their like; drop-path masks are (S, 1, ...)."""

    ops: tuple[str, ...] = (
        "rand", "randn", "rand_like", "randn_like", "bernoulli", "normal", "uniform", "new_empty", "empty",
        "empty_like",
        "randint", "randperm", "normal_", "uniform_", "bernoulli_", "exponential", "exponential_", "randint_like",
    )  # fmt: skip
    signature: tuple[str, ...] = ("input", "p")

    def forward(self, call: Call) -> Result:
        name = call.op.rstrip("_").removesuffix("_like")
        mean, variance = {"rand": (0.5, 1 / 12), "uniform": (0.5, 1 / 12), "exponential": (1.0, 1.0)}.get(
            name, (0.0, 1.0)
        )
        if name == "uniform":
            numbers = [a for a in (*call.node.args[1:], *call.node.kwargs.values()) if isinstance(a, (int, float))]
            if len(numbers) >= 2:
                low, high = float(numbers[0]), float(numbers[1])
                mean, variance = (low + high) / 2, (high - low) ** 2 / 12
        if name == "normal":
            numbers = [a for a in (*call.node.args[1:], *call.node.kwargs.values()) if isinstance(a, (int, float))]
            if len(numbers) >= 2:
                mean, variance = float(numbers[0]), float(numbers[1]) ** 2
        if name == "bernoulli":
            p = call.node.kwargs.get("p", call.node.args[1] if len(call.node.args) > 1 else None)
            if isinstance(p, torch.fx.Node) or p is None:
                source = call.of(p if isinstance(p, torch.fx.Node) else call.node.all_input_nodes[0])
                p = source.mean
            chance = float(str(p))
            mean, variance = chance, chance * (1 - chance)
        shape = call.shape
        dims = dims_of(shape, default_roles(len(shape)))
        used = {a.role for d in dims for a in d}
        return Value(
            dims, mean, Kernel.independent(variance, "S" in used, "P" in used),
            iid=True, integer=name in ("randint", "randperm"), positive=name in ("rand", "bernoulli", "exponential"),
        )  # fmt: skip


@register
class Constants(Rule):
    """zeros, ones, full, arange and their like, where the recorder kept no values."""

    ops: tuple[str, ...] = (
        "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "tensor",
        "scalar_tensor", "zero_", "fill_", "zero", "fill",
    )  # fmt: skip

    def forward(self, call: Call) -> Result:
        if call.op.startswith(("zero", "new_zero")):
            number = 0.0
        elif "ones" in call.op:
            number = 1.0
        else:
            numbers = [a for a in (*call.node.args[1:], *call.node.kwargs.values()) if isinstance(a, (int, float))]
            number = float(numbers[0]) if numbers else 0.0
        shape = call.shape
        return Value(dims_of(shape, default_roles(len(shape))), number, Kernel.constant(0.0), iid=True)
