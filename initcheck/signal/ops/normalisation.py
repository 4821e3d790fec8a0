"""Normalisation layers: batch, layer, group, instance, RMS, and unit vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.grid import nodes
from initcheck.signal.group_parts import GroupParts, group_mean, normalised
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.ops.joining import leaves, mixed_shape
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register
from initcheck.signal.shape import SHARES, product_quantiles, quantiles, sum_shape
from initcheck.signal.texture import Texture
from initcheck.signal.unlike_channels import InverseVariance, inverse_variance
from initcheck.signal.value import Atom, Echo, Value, settle


def affine(
    call: Call, k: Kernel, mean: float, weight: str = "weight", bias: str = "bias"
) -> tuple[float, Kernel, float]:
    """gamma x + beta per channel: mean, covariance, and E[gamma²]."""
    gamma, beta = call.optional(weight), call.optional(bias)
    g_mean, g_second = (gamma.mean, gamma.mean**2 + gamma.variance) if gamma else (1.0, 1.0)
    second = (k + mean**2) * g_second
    mean = mean * g_mean
    k = second - mean**2
    if beta:
        mean += beta.mean
        k = k + beta.variance
    return mean, k, g_second


def shape_of_input(x: Value, call: Call, fluctuation: float = 0.0) -> Array | None:
    """A norm is affine, the shape of the distribution stays; a gamma that differs by channel makes heavy tails.

    So does the size of each channel's own weights, where it is not divided out (``fluctuation``).
    """
    gamma = call.optional("weight")
    random_scale = gamma is not None and gamma.variance > 1e-6 * gamma.mean**2
    few = fluctuation > 2.0 / FEW
    if x.variance <= 0 or x.iid or (x.normal and not random_scale and not few):
        return None
    values = quantiles(x.own_grid().double().numpy(), x.own_source().at.weights) - x.mean
    if few:
        values = product_quantiles(values, weight_norms(fluctuation))
    if gamma is not None and random_scale:
        scales = quantiles(gamma.mean + math.sqrt(gamma.variance) * nodes(0).z, nodes(0).weights)
        values = product_quantiles(values, scales)
    return sum_shape([values], 0.0)


def weight_norms(fluctuation: float) -> Array:
    """Quantiles of |w| for normal weights whose |w|² has that relative variance: chi-square, 2/f degrees of freedom."""
    square = np.linspace(1e-3, 12.0, 4000) ** 2
    count = 2.0 / fluctuation
    log_density = (count - 1.0) * 0.5 * np.log(square) - 0.5 * count * square
    density = np.exp(log_density - log_density.max())
    return quantiles(np.sqrt(square), density / density.sum())


FEW = 64
"""A sum of more terms than this does not notice a single one."""


class Normalisation(Rule):
    """x_hat = (x - mean) / std, y = gamma x_hat + beta.

    Backward (Ioffe & Szegedy 2015): dx = gamma/std [g - avg(g) - x_hat avg(g x_hat)], averages over what is normalised
    together. With K_g the gradient's kernel, its energy is (gamma²/std²) [q - avg(K_g) - avg(K_{g x_hat})], averages
    over
    all pairs; K_{g x_hat} sees the slopes of the activation that follows, because g = delta phi'(x_hat).
    """

    centred = True

    def projected(self, call: Call, gradient: Gradient, averages: tuple[float, float], inverse: float) -> Kernel:
        """The kernel after both projections, times gamma²/std²."""
        kernel = gradient.total()
        along_one, along_x = averages
        if not self.centred:
            along_one = 0.0
        rho = call.out.own_source().correlation
        k = kernel - along_one - rho * along_x
        gamma = call.optional("weight")
        second = gamma.mean**2 + gamma.variance if gamma else 1.0
        # the projections never remove more than there is
        same = max(k.same, 1e-3 * kernel.same)
        k = (
            replace(k, same=same)
            if k.pairs is not None
            else Kernel(same, k.far, k.cross, k.sample, k.local, kernel.profile)
        )
        return k * (second * inverse**2)


@register
class BatchNorm(Normalisation):
    """Per channel over samples and positions (training), or by running statistics (evaluation).

    Training removes the mean and v_c, exactly for a finite batch: Var = K.same - avg(K) over all pairs of the batch.
    """

    ops: tuple[str, ...] = ("batch_norm", "sync_batch_norm", "native_batch_norm")
    signature: tuple[str, ...] = (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    )

    def _batch(self, call: Call) -> bool:
        return bool(call.plain("training", False)) or call.raw("running_mean") is None

    def forward(self, call: Call) -> Result:
        x = channelled(call.value("input"))
        eps = float(call.plain("eps", 1e-5))
        if self._batch(call):
            average = x.covariance.mean_over(x.count("S"), x.positions)
            variance = max(x.covariance.same - average, 0.0)
            if variance == 0 and eps == 0:
                raise Unknown("batch norm of a constant")
            inverse = 1 / math.sqrt(variance + eps)
            mean, k = 0.0, self._by_part(x, eps) if x.parts else divided(x.covariance, average, eps)
        else:
            running_mean, running_var = call.value("running_mean"), call.value("running_var")
            inverse = 1 / math.sqrt(max(running_var.mean, 0.0) + eps)
            mean = (x.mean - running_mean.mean) * inverse
            k = (x.covariance + running_mean.variance) * inverse**2
        mean, k, _ = affine(call, k, mean)
        call.memo["inverse"] = inverse
        by_part = x.parts and self._batch(call)
        scales = [1.0 / math.sqrt(max(part.variance, 1e-300)) for _, part in leaves(x)]
        shape = mixed_shape(leaves(x), scales) if by_part else shape_of_input(x, call)
        result = Value(x.dims, mean, k, approximate=x.approximate, shape_on_grid=shape).settled()
        result.zero_sum = x.iid
        result.echo = self._echo(call, x)
        result.fluctuation = unlike_scales(call.optional("weight"))
        result.root = x
        if x.texture is not None and not x.parts and result.fluctuation == 0:
            result.texture = x.texture.normalised() if self._batch(call) else x.texture
        return result

    def _echo(self, call: Call, x: Value) -> Echo | None:
        """Divided by each channel's std, the input is an echo of itself, or of what it is an echo of."""
        gamma = call.optional("weight")
        if not self._batch(call) or x.parts or x.iid or (gamma is not None and gamma.variance > 0):
            return None
        scale = 1.0 if gamma is None else gamma.mean
        return (
            Echo(x, np.full(len(SHARES), scale)) if x.echo is None else replace(x.echo, factors=scale * x.echo.factors)
        )

    def _by_part(self, x: Value, eps: float) -> Kernel:
        """Channels of a concatenation: each is divided by the std of its own part."""
        total = Kernel.constant(0.0)
        for share, part in leaves(x):
            known = part.normalised
            if known is None or known[0] is not part.covariance or known[1] != eps:
                k = divided(part.covariance, part.batch_mean(x.count("S"), x.positions), eps)
                known = part.normalised = (part.covariance, eps, k)
            total = total + known[2] * share
        return total

    def _to_parts(self, x: Value, kernel: Kernel, inverse: float, eps: float) -> tuple[float, tuple[Gradient, ...]]:
        """The gradient of each part of ``x``, of which ``kernel`` is that at std 1/``inverse``; E[1/s²] inverse^-2."""
        average, gradients = 0.0, []
        for share, part in x.parts:
            ratio, inner = self._to_parts(part, kernel, inverse, eps)
            if not inner:
                mean = part.batch_mean(x.count("S"), x.positions)
                ratio = 1.0 / ((max(part.covariance.same - mean, 0.0) + eps) * inverse**2)
            gradient = Gradient.fresh(settle(kernel * ratio, x.dims))
            gradient.parts = inner
            gradients.append(gradient)
            average += share * ratio
        return average, tuple(gradients)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = channelled(call.value("input"))
        inverse = call.memo["inverse"]
        if self._batch(call):
            out = call.out
            samples, sizes = x.count("S"), x.positions
            source = out.own_source()
            along_one = gradient.total().mean_over(samples, sizes)
            scale = math.sqrt(out.variance) if out.variance > 0 else 1.0
            x_hat = (source.u - out.mean) / scale
            along_x = gradient.weighted(source, x_hat).mean_over(samples, sizes)
            kernel = self.projected(call, gradient, (along_one, along_x), inverse)
            if out.fluctuation > 0:  # gamma is what a norm further on divided out
                kernel = kernel * (1.0 / gradient.weight_bias)
            eps = float(call.plain("eps", 1e-5))
            share = 1.0 - eps * inverse**2
            batch = batch_fluctuation(source.correlation, samples, sizes)
            few_samples = inverse_variance_bias(batch, share)
            texture = None if x.texture is None or x.parts else divided_by_channel(gradient, x.texture, share)
            own = x.fluctuation - x.inherited
            weight_bias = inverse_variance_bias(batch + own, share) / few_samples
            before = inverse_variance_bias(batch + x.inherited, share) / few_samples
            bias = weight_bias * before if texture is None else float(texture.channels.mean())
            weight_bias = weight_bias if texture is None else 1.0
            kernel = kernel * (few_samples * bias)
            square = None if x.parts else slope_to_keep(gradient, out, x)
            unlike = None if x.parts else unlike_channels(x, samples, sizes, eps)
        else:
            gamma, share = call.optional("weight"), 0.0
            second = gamma.mean**2 + gamma.variance if gamma else 1.0
            kernel, weight_bias, square, unlike = gradient.total() * (second * inverse**2), 1.0, None, None
            texture = gradient.texture
        average_ratio = 1.0
        parts: tuple[Gradient, ...] = ()
        if x.parts and self._batch(call):
            average_ratio, parts = self._to_parts(x, kernel, inverse, float(call.plain("eps", 1e-5)))
        whole = settle(kernel * average_ratio, x.dims)
        flow = Gradient.fresh(whole) if square is None else sloped(whole, square, call.out, x)
        if unlike is not None:
            flow, weight_bias = among_channels(flow, whole, unlike, x), unlike.weights
        flow.weight_bias, flow.per_channel = weight_bias, True
        flow.texture = None if texture is None else texture.level()
        # one weight per channel is divided out, sign(w) apart: dL/d(w x) goes as 1/|w|, and dL/dx does not know |w|
        flow.unbounded = x.fluctuation - x.inherited > 1.0 and share > 0.5
        flow.parts = parts
        yield call.node_of("input"), flow


def unlike_scales(gamma: Value | None) -> float:
    """Var[gamma²] / E[gamma²]²: channels whose gammas differ have variances that differ."""
    if gamma is None or gamma.variance <= 0:
        return 0.0
    mean, variance = gamma.mean**2, gamma.variance
    fourth = mean**2 + 6 * mean * variance + gamma.kurtosis * variance**2
    return fourth / (mean + variance) ** 2 - 1.0


def unlike_channels(x: Value, samples: int, sizes: tuple[int, ...], eps: float) -> InverseVariance | None:
    """1/s² of the channels of an activation, whose means (and scales, where no texture has them) differ before it."""
    source = x.own_source()
    spread = source.fluctuation if x.texture is None else 0.0
    return inverse_variance(x, source.correlation.mean_over(samples, sizes), spread, eps)


def divided_by_channel(gradient: Gradient, x: Texture, share: float) -> Texture:
    """The gradient, each channel divided by its own std; ``share``: the part of s² + eps that is s²."""
    before = gradient.texture or Texture.white(x.amplitude.ndim - 1)
    return before.scaled(1.0 / np.sqrt(share * x.channels + 1.0 - share + 1e-9))


def among_channels(flow: Gradient, whole: Kernel, unlike: InverseVariance, x: Value) -> Gradient:
    """The gradient with 1/s² of each channel in place of 1/E[s²], as far as the element shows which channel it is."""
    source = x.own_source()
    slope = np.sqrt(unlike.given)
    for term in flow.terms.values():
        slope = slope if term.slope is None else slope * term.slope.numpy()
    return Gradient.of(Term.reaching(whole * unlike.mean, slope, source))


def slope_to_keep(gradient: Gradient, out: Value, x: Value) -> Array | None:
    """The mean square slope behind a norm, where what is before it can tell: skewed, or a sum of few terms.

    Not behind a rectifier of channels whose means differ: they differ in how often they are active, and the rarely
    active ones, whose std is small, get the largest gradient.
    """
    few = x.fluctuation - x.inherited > 2.0 / FEW
    rectified = not x.normal and not x.iid and x.own_source().correlation.sample < EVEN
    return gradient.square_slope(out) if x.shape_on_grid is not None or few or rectified else None


EVEN = 0.1
"""Channels whose means make up less than this share of the variance are all active about as often."""


def sloped(kernel: Kernel, square: Array, out: Value, x: Value) -> Gradient:
    """A norm's gradient with the slopes that its output met: elements of one rank have them, before it as behind it.

    What was large in a skewed sum, or in a sum of few, is large behind the norm, and meets the same side of the next
    rectifier.
    """
    source, behind = x.own_source(), out.own_source().at
    met = square if source.at.phase == behind.phase else np.interp(source.at.z, behind.z, square)
    slope = np.sqrt(np.maximum(met, 0.0))
    return Gradient.of(Term.reaching(kernel, slope, source))


def divided(k: Kernel, average: float, eps: float) -> Kernel:
    """Covariance after each channel's mean is taken off and its variance divided out."""
    centred = k - average
    result = centred * (1.0 / (max(centred.same, 0.0) + eps))
    if k.resolved is None:
        return result
    return result.with_resolved(k.resolved.centred(average).normalised(eps))


def batch_fluctuation(rho: Kernel, samples: int, sizes: tuple[int, ...]) -> float:
    """Relative variance of a channel's variance s² over one batch: 2 avg(rho²) over all of its pairs (Isserlis)."""
    return 2.0 * (rho * rho).mean_over(samples, sizes)


def inverse_variance_bias(relative: float, share: float) -> float:
    """E[1/s²] E[s²] for the variance s² of a channel over one batch, ``relative`` its relative variance.

    Few effectively independent samples make the inverse larger on average: nu/(nu - 2) for a chi-square with 2/nu =
    that relative variance. So do few weights per channel (depthwise kernels), whose sum of squares differs from channel
    to channel. ``share``: the part of s² + eps that is s².
    """
    return 1.0 / (1.0 - min(max(relative * share**2, 0.0), 0.5))


def channelled(x: Value) -> Value:
    """``x`` with dim 1 in the role of channels (a batch norm over tokens or features says what its channels are)."""
    if len(x.dims) < 2 or any(a.role == "C" for a in x.dims[1]):
        return x
    dims = list(x.dims)
    dims[1] = tuple(Atom("C", a.size) for a in dims[1])
    for i in range(len(dims)):
        if i > 1:
            dims[i] = tuple(Atom("P", a.size) for a in dims[i])
    if all(not dim for dim in dims[1:2]):
        return x
    k = x.covariance
    changed = tuple(dims)
    return x.fresh(changed, covariance=settle(Kernel(k.same, 0.0, k.cross, 0.0), changed))


_ALIKE = 4.0
"""Positions whose scale is within this factor of the median's are the many."""


def inverse_profile(x: Value, eps: float) -> Kernel:
    """1/(variance + eps) by position, where each is normalised by its own (a class token is smaller than a patch).

    ``eps``: as a share of the mean variance and itself; what a position of next to no variance is divided by.
    What different positions share is that of the many: a few tokens, however small, say nothing of the others' pairs.
    """
    raised = [None if p is None else 1.0 / np.maximum(p * (1.0 - eps) + eps, 1e-9) for p in x.covariance.profile]
    level = math.prod(1.0 if p is None else float(p.mean()) for p in raised)
    profile = tuple(None if p is None else p / p.mean() for p in raised)
    if x.covariance.pairs is not None:
        root = 1.0 / np.sqrt(np.maximum(x.covariance.pairs.diagonal(), 1e-9))
        return Kernel.by_pairs(np.multiply.outer(root, root), level, level)
    far = math.prod(1.0 if p is None else of_the_many(np.sqrt(p)) ** 2 for p in raised)
    return Kernel(level, far, level, far, None, profile)


def of_the_many(scale: Array) -> float:
    """The mean over all positions but those that are unlike most."""
    middle = float(np.median(scale))
    return float(scale[(scale <= _ALIKE * middle) & (scale * _ALIKE >= middle)].mean())


class PerSample(Normalisation):
    """Norms over the elements of one sample: the total variance over what is normalised together goes to one.

    Channels being independent, avg(K_g) over a group is K_g averaged over its positions, divided by its channels.
    """

    def over(self, call: Call, x: Value) -> tuple[int, tuple[int, ...]]:
        """Number of channels in a group, and sizes of the positions in it."""
        raise NotImplementedError

    def eps(self, call: Call) -> float:
        """The constant under the root."""
        value = call.plain("eps", 1e-5)
        return 1e-5 if value is None else float(value)

    def input(self, call: Call) -> Value:
        """The input with roles as this norm reads them."""
        return call.value("input")

    def parts(self, call: Call, x: Value) -> GroupParts | None:
        """Parts of a concatenation that are divided by stds of their own."""
        return None

    def forward(self, call: Call) -> Result:
        x = self.input(call)
        channels, sizes = self.over(call, x)
        # variance inside one group: all but what its own mean holds
        k = x.covariance
        if self.centred:
            within = k.within_position_mean(sizes) if len(sizes) == len(x.positions) else k.far if sizes else k.same
            inside = k.same - within / max(channels, 1)
            mean = 0.0
            if channels == 1:
                k = k - within
        else:
            inside, mean = k.same + x.mean**2, x.mean
        eps = self.eps(call)
        if inside + eps <= 0:
            raise Unknown(f"{call.op} of a constant")
        inverse = 1 / math.sqrt(max(inside, 0.0) + eps)
        parts = call.memo["parts"] = self.parts(call, x)
        if parts is not None:
            k = parts.covariance()
        elif self.centred and sizes and len(sizes) == len(x.positions):
            k, call.memo["bias"] = normalised(x.covariance, channels, sizes, inverse**2)
        else:
            if self.centred and channels > 1 and k.same > 0:
                k = k * (inside / k.same)
            k = (k if sizes else k.levelled()) * inverse**2
        mean, k, _ = affine(call, k, mean * inverse)
        call.memo["inverse"] = inverse
        if parts is None:
            shape = shape_of_input(x, call, x.fluctuation if channels > 1 else 0.0)
        else:
            shape = mixed_shape(leaves(x), np.sqrt(parts.inverse))
        result = Value(x.dims, mean, k, approximate=x.approximate, shape_on_grid=shape)
        if channels > 1:
            result.fluctuation = result.inherited = x.fluctuation
            result.texture, result.root = x.texture, x
        return result.settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x = self.input(call)
        channels, sizes = self.over(call, x)
        out = call.out
        source = out.own_source()
        scale = math.sqrt(out.variance) if out.variance > 0 else 1.0
        centre = out.mean if self.centred else 0.0
        x_hat = (source.u - centre) / scale

        def average(k: Kernel) -> float:
            if not sizes:
                return k.same / max(channels, 1)
            whole = len(sizes) == len(x.positions)
            return (k.within_position_mean(sizes) if whole else k.far) / max(channels, 1)

        total, along_x = gradient.total(), gradient.weighted(source, x_hat)
        gamma = call.optional("weight")
        second = gamma.mean**2 + gamma.variance if gamma else 1.0
        if self.centred and sizes and len(sizes) == len(x.positions):
            kernel = total - group_mean(total, channels, sizes)
            kernel = kernel - source.correlation * group_mean(along_x, channels, sizes)
            kernel = kernel * (second * call.memo.get("bias", 1.0))
            if kernel.pairs is None:
                least = 1e-3 * second * total.same
                kernel = replace(kernel, same=max(kernel.same, least), profile=total.profile)
        elif channels > 1:
            lost = (average(total) if self.centred else 0.0) + average(along_x)
            kernel = total * (second * max(1.0 - lost / total.same, 1e-3) if total.same > 0 else 1.0)
        else:
            kernel = self.projected(call, gradient, (average(total), average(along_x)), 1.0)
        parts = call.memo["parts"]
        if parts is not None:
            yield call.node_of("input"), parts.gradient(kernel, x)
            return
        factor = call.memo["inverse"] ** 2
        if not sizes and x.covariance.profile:
            kernel = kernel * inverse_profile(x, self.eps(call) * factor)
        whole, square = settle(kernel * factor, x.dims), slope_to_keep(gradient, out, x) if channels > 1 else None
        flow = Gradient.fresh(whole) if square is None else sloped(whole, square, out, x)
        yield call.node_of("input"), flow.textured(gradient.texture if channels > 1 else None)


@register
class LayerNorm(PerSample):
    """Over the last dims (Ba et al. 2016)."""

    ops: tuple[str, ...] = ("layer_norm", "native_layer_norm")
    signature: tuple[str, ...] = ("input", "normalized_shape", "weight", "bias", "eps")

    def over(self, call: Call, x: Value) -> tuple[int, tuple[int, ...]]:
        return grouped(x, len(call.plain("normalized_shape")))


def grouped(x: Value, last: int) -> tuple[int, tuple[int, ...]]:
    """Channels and positions of the last dims."""
    atoms = [a for dim in x.dims[len(x.dims) - last :] for a in dim]
    channels = math.prod(a.size for a in atoms if a.role != "P")
    return channels, tuple(a.size for a in atoms if a.role == "P")


@register
class RmsNorm(LayerNorm):
    """x / rms(x), nothing subtracted (Zhang & Sennrich 2019)."""

    ops: tuple[str, ...] = ("rms_norm",)
    signature: tuple[str, ...] = ("input", "normalized_shape", "weight", "eps")
    centred = False


@register
class GroupNorm(PerSample):
    """Over the channels of a group and all positions of a sample (Wu & He 2018)."""

    ops: tuple[str, ...] = ("group_norm",)
    signature: tuple[str, ...] = ("input", "num_groups", "weight", "bias", "eps")

    def input(self, call: Call) -> Value:
        return channelled(call.value("input"))

    def over(self, call: Call, x: Value) -> tuple[int, tuple[int, ...]]:
        return max(x.count("C") // int(call.plain("num_groups")), 1), x.positions

    def parts(self, call: Call, x: Value) -> GroupParts | None:
        return GroupParts.of(x, int(call.plain("num_groups")), self.eps(call))


@register
class InstanceNorm(PerSample):
    """Over the positions of one sample and channel (Ulyanov et al. 2016)."""

    ops: tuple[str, ...] = ("instance_norm",)
    signature: tuple[str, ...] = (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "use_input_stats",
        "momentum",
        "eps",
    )

    def input(self, call: Call) -> Value:
        return channelled(call.value("input"))

    def over(self, call: Call, x: Value) -> tuple[int, tuple[int, ...]]:
        return 1, x.positions


@register
class Normalize(Rule):
    """x / |x| over one dim: elements get variance 1/n of their share; backward like RMS norm."""

    ops: tuple[str, ...] = ("normalize",)
    signature: tuple[str, ...] = ("input", "p", "dim", "eps")

    def _inverse(self, call: Call) -> float:
        x = call.value("input")
        if float(call.plain("p", 2.0)) != 2.0:
            raise Unknown("normalize with p != 2")
        dim = call.dim(int(call.plain("dim", 1)), len(x.dims))
        n = math.prod(a.size for a in x.dims[dim])
        norm = math.sqrt(n * x.second.same)
        return 1 / max(norm, float(call.plain("eps", 1e-12)))

    def forward(self, call: Call) -> Result:
        x, inverse = call.value("input"), self._inverse(call)
        return Value(
            x.dims, x.mean * inverse, x.covariance * inverse**2, iid=x.iid, approximate=x.approximate
        ).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        x, inverse = call.value("input"), self._inverse(call)
        dim = call.dim(int(call.plain("dim", 1)), len(x.dims))
        n = math.prod(a.size for a in x.dims[dim])
        yield call.node_of("input"), Gradient.fresh(gradient.collapsed() * (inverse**2 * max(1 - 1 / n, 1e-3)))
