"""Elementwise ops: any function of one Gaussian source on its grid; sums and products across sources."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.combination import combination
from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.grid import Spectrum
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.ops.normalisation import EVEN, inverse_profile
from initcheck.signal.reduce import recast, unbroadcast
from initcheck.signal.reused import Reuse
from initcheck.signal.rule import Call, Flow, NotReady, Result, Rule, Unknown, register, shape_of
from initcheck.signal.scattered_softmax import EdgeWeights, Messages, beyond_maximum, moments
from initcheck.signal.shape import (
    given_factor,
    given_part,
    matched,
    product_quantiles,
    quantiles,
    sum_quantiles,
    sum_shape,
)
from initcheck.signal.steep import resolved
from initcheck.signal.texture import Texture, summed
from initcheck.signal.unlike_channels import linear_share, sum_fluctuation
from initcheck.signal.value import Dims, Echo, Source, Value, adopt, broadcast_dims, settle, without_pairs
from initcheck.signal.written_norms import Group, added_to_mean, before_casts, normalised_operand

UNARY = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "celu",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "cos",
    "cosh",
    "deg2rad",
    "elu",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "frac",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log",
    "log10",
    "log1p",
    "log2",
    "logit",
    "logsigmoid",
    "mish",
    "nan_to_num",
    "neg",
    "negative",
    "pow",
    "float_power",
    "reciprocal",
    "relu",
    "relu6",
    "round",
    "rsqrt",
    "selu",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinc",
    "sinh",
    "softplus",
    "softshrink",
    "softsign",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "tanhshrink",
    "threshold",
    "trunc",
    "log_sigmoid",
    "special_expit",
    "special_erf",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "isnan",
    "isinf",
    "isfinite",
    "logical_not",
    "bitwise_not",
    "positive",
    "polar",
    "rpow",
    "rtruediv",
    "rdiv",
    "remainder",
    "fmod",
    "sgn",
]
BINARY = [
    "maximum",
    "minimum",
    "atan2",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "where",
    "lerp",
    "prelu",
    "addcmul",
    "addcdiv",
]


def evaluate(values: torch.Tensor, like: Value, source: Source) -> Value:
    """The value whose grid is ``values``: mean and kernels by the spectrum of the function."""
    at, numbers = source.at, values.detach().to(torch.float64).numpy()
    defined = np.isfinite(numbers)
    if not defined.all():
        if float(at.weights @ ~defined) > 1e-4:
            raise Unknown("a function that is not defined for part of its input")
        numbers = np.where(defined, numbers, 0.0)
    spectrum = Spectrum.of(numbers, at)
    if not abs(spectrum.mean) < 1e150:
        raise Unknown("values beyond any float")
    second = spectrum.kernel(source.correlation)
    mean, by_position = spectrum.mean, source.correlation.resolved
    if by_position is not None and by_position.sizes == like.positions:
        u = source.u.numpy()
        mean, applied = by_position.applied(numbers, u, float(at.weights @ u), at)
        second = second.with_resolved(applied)
    covariance = second - mean**2
    covariance = replace(covariance, same=max(covariance.same, 0.0))
    if covariance.resolved is None:
        covariance = covariance.bent(bent_profile(like.covariance.profile, numbers, source))
    return Value(
        like.dims, mean, settle(covariance, like.dims), iid=like.iid, approximate=like.approximate,
        source=source, grid=torch.from_numpy(numbers), kept=like.kept, spectrum=spectrum,
        positive=bool(numbers.min() >= 0), negative=bool(numbers.max() <= 0),
    )  # fmt: skip


def bent_profile(profile: Profile, values: np.ndarray, source: Source) -> Profile:
    """The profile of f(u): to first order a power of u's, d ln E[f²] / d ln V = E[(z² - 1) f²] / (2 E[f²])."""
    if not profile:
        return ()
    z, weights = source.at.z, source.at.weights
    square = weights * values * values
    total = float(square.sum())
    power = float(((z * z - 1) * square).sum()) / (2 * total) if total > 0 else 1.0
    power = min(max(power, 0.0), 4.0) if math.isfinite(power) else 1.0
    bent = [None if p is None else np.maximum(p, 0.0) ** power for p in profile]
    return tuple(None if p is None or not p.mean() > 0 else p / p.mean() for p in bent)


def is_number(value: Value) -> bool:
    """Whether an operand acts as one number (no spread at all)."""
    return value.variance == 0 or (value.constant is not None and value.constant.numel() == 1)


class Elementwise(Rule):
    """f applied to one Gaussian source: E[f], E[f f'] by Mehler's formula; gradient times f' on the same grid.

    Several operands that are expressions of one source are evaluated together, exactly. Poole et al. 2016, eq. 3-5;
    Schoenholz et al. 2017, eq. 4 for chi = E[f'^2].
    """

    def operands(self, call: Call) -> list[tuple[torch.fx.Node, Value]]:
        """Tensor operands, each node once."""
        found = []
        for node in call.node.all_input_nodes:
            value = call.values.get(node)
            if not isinstance(value, Value):
                raise NotReady(node.name)
            found.append((node, value))
        return found

    def forward(self, call: Call) -> Result:
        operands = self.operands(call)
        moving = [(n, v) for n, v in operands if not is_number(v)]
        if not moving:
            return self.of_numbers(call, operands)
        sources = {v.own_source().identity for _, v in moving}
        if len(sources) > 1:
            return self.across_sources(call, moving)
        like = max((v for _, v in moving), key=lambda v: math.prod(v.shape))
        source = like.own_source()
        values = self.on_grid(call, dict(operands), None)
        result = evaluate(values, like, source)
        if result.shape != call.shape:
            result.dims = broadcast_dims([v for _, v in operands], call.shape)
            result.covariance = settle(result.covariance, result.dims)
        elif like.texture is not None:
            result.texture = like.texture.activated(linear_share(like, result))
        return result

    def of_numbers(self, call: Call, operands: list[tuple[torch.fx.Node, Value]]) -> Value:
        """All operands are constant over the tensor: so is the result."""
        values = self.on_grid(call, dict(operands), None)
        number = float(values.to(torch.float64).reshape(-1)[0])
        dims = broadcast_dims([v for _, v in operands], call.shape)
        return Value(dims, number, Kernel.constant(0.0), iid=all(v.iid for _, v in operands))

    def across_sources(self, call: Call, moving: list[tuple[torch.fx.Node, Value]]) -> Result:
        """Operands that vary independently of each other."""
        raise Unknown(f"{call.op} of two independent tensors")

    def on_grid(
        self, call: Call, values: dict[torch.fx.Node, Value], leaves: dict[torch.fx.Node, torch.Tensor] | None
    ) -> torch.Tensor:
        """The recorded function itself, called on grid values (``leaves`` override them, for autograd)."""

        written = call.node.meta.get("inplace") or any(a is True for a in call.node.args)

        def substitute(node: torch.fx.Node) -> Any:
            if leaves is not None and node in leaves:
                return leaves[node].clone() if written else leaves[node]
            value = values[node]
            if not is_number(value):
                return value.own_grid().clone() if written else value.own_grid()
            if call.node.meta.get("inplace") and (moving := [v for v in values.values() if not is_number(v)]):
                return torch.full_like(moving[0].own_source().u, value.mean)
            if value.constant is not None and value.constant.numel() == 1:
                number = value.constant.reshape(())
                return number.to(torch.float64) if number.is_floating_point() else number
            return torch.tensor(value.mean, dtype=torch.float64)

        args = torch.fx.node.map_arg(call.node.args, substitute)
        kwargs = torch.fx.node.map_arg(call.node.kwargs, substitute)
        kwargs = {k: v for k, v in kwargs.items() if k not in ("out", "inplace", "dtype")}
        target = call.node.target
        function: Callable[..., Any] = target if callable(target) else getattr(torch, call.op)
        try:
            with torch.set_grad_enabled(leaves is not None):
                result = function(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            raise Unknown(f"{call.op} cannot be evaluated on a grid: {error}") from error
        if not isinstance(result, torch.Tensor):
            result = torch.as_tensor(result)
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        operands = self.operands(call)
        moving = [(n, v) for n, v in operands if not is_number(v)]
        if len({v.own_source().identity for _, v in moving}) > 1:
            yield from self.backward_across(call, gradient, moving)
            return
        wanted = [(n, v) for n, v in operands if not (v.iid or v.constant is not None or v.integer)]
        like = moving[0][1] if moving else wanted[0][1] if wanted else None
        if like is None or not gradient.terms:
            return
        leaves = {}
        for node, value in wanted:
            grid = value.own_grid() if not is_number(value) else torch.full_like(like.own_source().u, value.mean)
            if grid.is_floating_point():
                leaves[node] = grid.detach().requires_grad_(True)
        if not leaves:
            return
        result = self.on_grid(call, dict(operands), leaves)
        if not result.is_floating_point() or not result.requires_grad:
            return
        slopes = torch.autograd.grad(result, list(leaves.values()), torch.ones_like(result), allow_unused=True)
        for (node, value), slope in zip([(n, v) for n, v in wanted if n in leaves], slopes, strict=True):
            if slope is None:
                continue
            slope = torch.nan_to_num(slope)
            if len(moving) == 1 and node is moving[0][0]:
                alone = lambda x, node=node: self.on_grid(call, dict(operands), {node: x})  # noqa: E731
                weights = torch.from_numpy(like.own_source().at.weights)
                slope = resolved(alone, leaves[node].detach(), result.detach(), slope, weights, math.prod(value.shape))
            flow = gradient.times(slope, like)
            if value.shape != call.shape or is_number(value):
                flow = Gradient.fresh(settle(unbroadcast(flow.collapsed(), call.out.dims, value.shape), value.dims))
            yield node, flow

    def backward_across(self, call: Call, gradient: Gradient, moving: list[tuple[torch.fx.Node, Value]]) -> Flow:
        """Gradients of independent operands."""
        return ()


@register
class Unary(Elementwise):
    """Activations and other functions of one tensor."""

    ops: tuple[str, ...] = tuple(name for name in UNARY if name != "exp")


@functools.lru_cache(maxsize=256)
def _largest(n: int) -> float:
    """The z beyond which one of n normal elements is expected."""
    return float(torch.special.ndtri(torch.tensor(1.0 - 1.0 / max(n, 2), dtype=torch.float64)))


_TAILS = 4.0
"""Variance of u from which on E[exp(2u)] lies beyond u's fourth standard deviation, of which no theory knows."""


@register
class Exponential(Elementwise):
    """exp(u). A decay exp(-u) is bounded whatever u's tails; what a mask of -inf removed (``kept``) becomes zero.

    Where most of E[exp(2u)] is the work of elements so rare that a tensor of that size has none, exp(u) is that of the
    largest element it has.
    """

    ops: tuple[str, ...] = ("exp",)

    def on_grid(
        self, call: Call, values: dict[torch.fx.Node, Value], leaves: dict[torch.fx.Node, torch.Tensor] | None
    ) -> torch.Tensor:
        result = super().on_grid(call, values, leaves)
        if beyond_maximum(call.node.all_input_nodes[0]) is not None:
            return result.clamp(max=1.0)
        u = next(iter(values.values()), None)
        if u is None or is_number(u) or u.iid:
            return result
        at = u.own_source().at
        weights, square = torch.from_numpy(at.weights), result.detach().double() ** 2
        if result.shape != weights.shape:
            return result
        beyond = torch.from_numpy(np.abs(at.z)) > _largest(math.prod(u.shape))
        if not bool((weights * square)[beyond].sum() > 0.5 * (weights * square).sum()):
            return result
        return result.clamp(max=float(result.detach()[~beyond].max()))

    def _share(self, u: Value) -> float:
        return 1.0 if u.kept is None else min(float(u.kept.mean()) / max(u.shape[-1], 1), 1.0)

    def forward(self, call: Call) -> Result:
        u = call.value("input")
        bounded = u.one_sided or beyond_maximum(call.node.all_input_nodes[0]) is not None
        if u.variance > _TAILS and not bounded and u.own_grid() is u.own_source().u and not u.iid:
            raise Unknown("exp of a variable so wide that its tails decide")
        result = super().forward(call)
        share = self._share(u)
        if share == 1.0 or not isinstance(result, Value):
            return result
        mean, second = result.mean * share, result.second * share
        return result.fresh(mean=mean, covariance=second - mean**2, kept=None).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        share = math.sqrt(self._share(call.value("input")))
        for node, flow in super().backward(call, gradient):
            yield node, flow if share == 1.0 else flow.scaled(share)


def aligned(value: Value, others: Dims) -> Value:
    """A parameter takes the roles of the tensor that it meets."""
    return adopt(value, others) if value.iid or value.constant is not None else value


def split_operands(call: Call) -> tuple[tuple[torch.fx.Node, ...], tuple[Value, ...], Dims]:
    """Operands of a binary op with parameters' roles read off the other operand, and the dims of the result."""
    nodes = tuple(call.node.all_input_nodes)
    values = tuple(call.of(n) for n in nodes)
    dims = broadcast_dims(values, call.shape)
    return nodes, tuple(aligned(v, dims) for v in values), dims


@register
class Sum(Elementwise):
    """a + alpha b. Independent operands: means and covariances add; the gradient goes to both.

    Yang & Schoenholz 2017, eq. 6 (residual networks).
    """

    ops: tuple[str, ...] = ("add", "sub", "subtract", "rsub", "radd", "iadd", "isub")
    signature: tuple[str, ...] = ("input", "other", "alpha")

    def factors(self, call: Call) -> dict[torch.fx.Node, float]:
        """By how much each operand is multiplied."""
        alpha = float(call.plain("alpha", 1.0) or 1.0)
        first, second = call.raw("input"), call.raw("other")
        sign_first = -alpha if call.op == "rsub" else 1.0
        sign_second = {"sub": -alpha, "subtract": -alpha, "isub": -alpha, "rsub": 1.0}.get(call.op, alpha)
        factors: dict[torch.fx.Node, float] = {}
        for raw, factor in ((first, sign_first), (second, sign_second)):
            if isinstance(raw, torch.fx.Node):
                factors[raw] = factors.get(raw, 0.0) + factor
        return factors

    def terms(self, call: Call) -> tuple[dict[torch.fx.Node, float], bool]:
        """What is summed, with factors, and whether that goes behind the operands (``combination``)."""
        if "combined" not in call.memo:
            call.memo["combined"] = combination(self.factors(call), call.values.get)
        combined = call.memo["combined"]
        return (self.factors(call), False) if combined is None else (combined, True)

    def across_sources(self, call: Call, moving: list[tuple[torch.fx.Node, Value]]) -> Result:
        sums = cumulated(call)
        if sums is not None:
            return call.of(sums).fresh()
        nodes, values, dims = split_operands(call)
        factors, behind = self.terms(call)
        if behind:
            nodes = tuple(factors)
            values = tuple(call.of(n) for n in nodes)
        values = tuple(without_pairs(v) if v.constant is not None else v for v in values)
        mean, covariance = 0.0, None
        for node, value in zip(nodes, values, strict=True):
            factor = factors[node]
            mean += factor * value.mean
            part = value.covariance * factor**2
            covariance = part if covariance is None else covariance + part
        for raw in (call.raw("input"), call.raw("other")):
            if isinstance(raw, (int, float)):
                mean += raw
        assert covariance is not None
        reuse = call.memo["reuse"] = None if behind else Reuse.of(call)
        if reuse is not None:
            covariance = covariance * reuse.forward
        kept = next((v.kept for v in values if v.kept is not None), None)
        approximate = any(v.approximate for v in values)
        result = Value(dims, mean, covariance, approximate=approximate, kept=kept)
        result.iid = all(v.iid for v in values)
        result.positive = all(v.positive and factors[n] >= 0 for n, v in zip(nodes, values, strict=True))
        skewed = [
            (factors[n], v)
            for n, v in zip(nodes, values, strict=True)
            if not (v.normal or is_number(v) or (v.iid and not v.bounded))
        ]
        if skewed and math.isfinite(covariance.same):
            parts = [f * quantiles(v.own_grid().double().numpy(), v.own_source().at.weights) for f, v in skewed]
            rest = covariance.same - sum(f * f * v.variance for f, v in skewed)
            result.shape_on_grid = sum_shape(parts, rest)
            result.positive = False
        result.echo = summed_echo([(factors[n], v) for n, v in zip(nodes, values, strict=True)])
        if result.echo is not None:
            result.shape_on_grid = shape_of_echo(result.echo, covariance.same)
        summands = [(factors[n], n, v) for n, v in zip(nodes, values, strict=True) if not v.iid]
        result.fluctuation, result.inherited = sum_fluctuation(summands, covariance.same, call.values.get)
        result.texture = summed([(factor, value) for factor, _, value in summands])
        return result.settled()

    def backward_across(self, call: Call, gradient: Gradient, moving: list[tuple[torch.fx.Node, Value]]) -> Flow:
        factors, behind = self.terms(call)
        if behind:
            moving = [(n, call.of(n)) for n in factors]
        total = gradient.collapsed()
        square = gradient.square_slope(call.out)
        identity = Term(total).identity
        texture = gradient.texture
        if texture is None and call.out.texture is not None:
            texture = Texture.white(call.out.texture.amplitude.ndim - 1)
        texture = None if texture is None else texture.anew()
        for node, value in moving:
            if value.iid or value.constant is not None:
                continue
            factor = factors[node]
            reuse: Reuse | None = call.memo.get("reuse")
            if reuse is not None and node is reuse.stream and gradient.texture is None:  # which has it in its phases
                factor *= math.sqrt(reuse.to_stream(total.same))
            if square is None or value.shape != call.shape:
                kernel = settle(unbroadcast(total, call.out.dims, value.shape) * factor**2, value.dims)
                whole = biased(Gradient.of(Term(kernel, identity=identity)), gradient.weight_bias, value)
                yield node, whole.textured(signed(texture, factor))
                continue
            source = value.own_source()
            part = factor * value.own_grid().double().numpy()
            others = [(factors[n], v) for n, v in moving if n is not node]
            rest = sum_of(others) + (call.out.mean - sum(f * v.mean for f, v in others) - factor * value.mean)
            u = call.out.own_source().u.numpy()
            slope = np.sqrt(np.maximum(given_part(square, u, part, rest), 0.0))
            kernel = settle(total * factor**2, value.dims)
            whole = Gradient.of(Term.reaching(kernel, slope, source, identity))
            yield node, biased(whole, gradient.weight_bias, value).textured(signed(texture, factor))


def biased(gradient: Gradient, weight_bias: float, value: Value) -> Gradient:
    """What a norm of each channel sends to a summand: the weights that it divided by are those of the summands.

    Behind them the bias is gone; a summand that has none of its own (what the others were made of) never has it.
    """
    if weight_bias == 1.0:
        return gradient
    if value.fluctuation - value.inherited <= 0:
        return gradient.scaled(weight_bias**-0.5)
    gradient.weight_bias = weight_bias
    return gradient


def signed(texture: Texture | None, factor: float) -> Texture | None:
    """With the sign of the factor."""
    return texture if texture is None or factor >= 0 else texture.times(-1.0)


def summed_echo(parts: Sequence[tuple[float, Value]]) -> Echo | None:
    """Branches that echo one tensor do so together: factors add up, before they are applied to what is the same."""
    echoes = [(factor, value.echo) for factor, value in parts if value.echo is not None]
    if len(echoes) < len(parts) or len({id(echo.base) for _, echo in echoes}) > 1:
        return None
    base = echoes[0][1].base
    if base.normal or base.variance <= 0 or base.own_source().correlation.sample > EVEN:
        return None
    return Echo(base, sum_quantiles([factor * echo.factors for factor, echo in echoes]))


def shape_of_echo(echo: Echo, variance: float) -> Array:
    """Standardised quantile function of a tensor of that variance with this echo, the rest normal."""
    values = quantiles(echo.base.own_grid().double().numpy(), echo.base.own_source().at.weights) - echo.base.mean
    part = product_quantiles(values / math.sqrt(float(np.mean(values**2))), echo.factors)
    return sum_shape([part], max(variance - float(np.mean(echo.factors**2)), 0.0))


def sum_of(parts: list[tuple[float, Value]]) -> Array:
    """Quantiles of a sum of independent operands."""
    return sum_quantiles([f * quantiles(v.own_grid().double().numpy(), v.own_source().at.weights) for f, v in parts])


def cumulated(call: Call) -> torch.fx.Node | None:
    """The s = cumsum(a) of s[..., -1:] - s, what is still to come: distributed as what has come, with its sign."""
    first, second = call.raw("input"), call.raw("other")
    if call.op not in ("sub", "subtract") or not isinstance(first, torch.fx.Node) or len(first.args) != 2:
        return None
    last = first.args[1][-1] if isinstance(first.args[1], tuple) and first.args[1] else None
    taken = first.meta.get("op") == "getitem" and first.args[0] is second and last == slice(-1, None)
    return second if taken and second.meta.get("op") == "cumsum" else None


@register
class Product(Elementwise):
    """a * b. Independent operands: second moments multiply, pair by pair; each gets the gradient times the other."""

    ops: tuple[str, ...] = ("mul", "multiply", "imul", "rmul")
    signature: tuple[str, ...] = ("input", "other")

    def across_sources(self, call: Call, moving: list[tuple[torch.fx.Node, Value]]) -> Result:
        nodes, values, dims = split_operands(call)
        root = normalised_operand(nodes)
        if root is not None and call.of(root).second.same > 0:
            return self._rms_norm(call.of(root), added_to_mean(nodes))
        mean, second = 1.0, None
        for value in values:
            mean *= value.mean
            second = value.second if second is None else second * value.second
        assert second is not None
        approximate = any(v.approximate for v in values)
        iid = all(v.iid for v in values)
        signed = all(v.positive or v.negative for v in values)
        mirrored = sum(not v.positive for v in values) % 2 == 1
        zero_sum = any(v.zero_sum for v in values)
        result = Value(dims, mean, second - mean**2, approximate=approximate, iid=iid, zero_sum=zero_sum).settled()
        result.positive, result.negative = signed and not mirrored, signed and mirrored
        widest = max(values, key=lambda v: v.variance / max(v.second.same, 1e-300))
        rest = [v for v in values if v is not widest]
        if not iid and not widest.iid and all(v.variance < 0.1 * v.mean**2 for v in rest):
            # gates that hardly vary: the product has the shape of the other factor, and its texture
            result.texture, result.root = widest.texture, widest
            scale = math.prod(v.mean for v in rest)
            values_on_grid = scale * quantiles(widest.own_grid().double().numpy(), widest.own_source().at.weights)
            if not widest.normal and np.ptp(values_on_grid) > 0:
                result.shape_on_grid = sum_shape([values_on_grid], 0.0)
                result.positive = result.negative = False
        return result

    def _rms_norm(self, x: Value, eps: float) -> Value:
        """Each position is divided by its own root mean square: one second moment everywhere, if eps is small."""
        inverse = 1.0 / math.sqrt(x.second.same + eps)
        k = (x.covariance.levelled() if x.second.same > eps else x.covariance) * inverse**2
        shape = None
        if not x.normal and x.variance > 0:
            shape = sum_shape([quantiles(x.own_grid().double().numpy(), x.own_source().at.weights)], 0.0)
        return Value(x.dims, x.mean * inverse, k, approximate=x.approximate, shape_on_grid=shape).settled()

    def backward_across(self, call: Call, gradient: Gradient, moving: list[tuple[torch.fx.Node, Value]]) -> Flow:
        nodes, values, dims = split_operands(call)
        kernel = gradient.collapsed()
        root = normalised_operand(nodes)
        if root is not None and call.of(root).second.same > 0:
            if any(before_casts(node).meta.get("op") == "expand" for node in nodes):
                raise Unknown("the gradient of a norm over the positions of each channel, written out as a product")
            x = call.of(root)
            inverse = next(node for node in nodes if node is not root)
            channels = max(math.prod(x.shape) // max(math.prod(shape_of(inverse)), 1), 2)
            size, eps = x.second.same, added_to_mean(nodes)
            kernel = kernel * ((1.0 - size / (size + eps) / channels) / (size + eps))
            if x.covariance.profile and size > eps:
                kernel = kernel * inverse_profile(x, eps / (size + eps))
            yield root, Gradient.fresh(settle(kernel, x.dims))
            return
        square = gradient.square_slope(call.out)
        for i, (node, value) in enumerate(zip(nodes, values, strict=True)):
            if value.iid or value.constant is not None:
                continue
            others = [factor for j, factor in enumerate(values) if j != i]
            if square is not None and len(others) == 1:
                flow = self._sloped(call, kernel, square, value, others[0], shape_of(node))
                yield node, flow.textured(gradient.texture if call.out.root is value else None)
                continue
            other = kernel
            for factor in others:
                other = other * factor.second
            flow = Gradient.fresh(recast(unbroadcast(other, dims, shape_of(node)), dims, value.dims))
            yield node, flow.textured(gradient.texture if call.out.root is value else None)

    def _sloped(
        self, call: Call, kernel: Kernel, square: Array, value: Value, other: Value, shape: tuple[int, ...]
    ) -> Gradient:
        """Where the gradient depends on the product (w² = ``square``), as behind a max-pooling, each factor knows.

        A factor a gets b w(ab), with E[b² w² | a] as its slope. Where a was broadcast, it sums b w(ab) over what it
        lacks: E[b w b' w'] for every class of pairs, with w given b.
        """
        u = call.out.own_source().u.double().numpy()
        whole = value.shape == call.shape
        known, unseen = (value, other) if whole else (other, value)
        source = known.own_source()
        rest = quantiles(unseen.own_grid().double().numpy(), unseen.own_source().at.weights)
        expected = given_factor(square, u, known.own_grid().double().numpy(), rest, weighted=whole)
        slope = np.sqrt(np.maximum(expected, 0.0))
        if whole:
            return Gradient.of(Term.reaching(settle(kernel * other.second, value.dims), slope, source))
        term = Term(matched(kernel, slope, source), torch.from_numpy(slope), source)
        return Gradient.fresh(unbroadcast(term.weighted(known.own_grid()), call.out.dims, shape))


def inverse_of(below: Value) -> Value:
    """1/b on b's grid (log-normal where b is known to be positive).

    Raises:
        Unknown: if b may come close to zero.
    """
    if not below.positive and abs(below.mean) < 4 * math.sqrt(below.variance):
        raise Unknown("division by a tensor that comes close to zero")
    return evaluate(torch.reciprocal(below.own_grid()), below, below.own_source())


@register
class Quotient(Product):
    """a / b = a * (1/b), with 1/b on b's own grid."""

    ops: tuple[str, ...] = ("div", "truediv", "true_divide", "divide", "itruediv", "idiv")

    def _factors(self, call: Call) -> tuple[tuple[torch.fx.Node, ...], tuple[Value, ...], Dims]:
        nodes, values, dims = split_operands(call)
        if len(nodes) != 2 or call.raw("other") is not nodes[1]:
            raise Unknown("quotient of more than two tensors")
        return nodes, (values[0], inverse_of(values[1])), dims

    def across_sources(self, call: Call, moving: list[tuple[torch.fx.Node, Value]]) -> Result:
        nodes, (above, inverse), dims = self._factors(call)
        if (edges := EdgeWeights.of(call.node)) is not None:
            d = edges.degrees()
            filled, square, _ = moments(d, edges.inner(call.values))
            mean, variance = filled / d.mean, square / d.mean - (filled / d.mean) ** 2
            return Value(dims, mean, Kernel(variance, variance, 0.0, 0.0), approximate=above.approximate).settled()
        group = Group.of(call.values, above, nodes[1])
        if group is not None:
            call.memo["group"], call.memo["inverse"] = group, group.inverse()
            values, weights = above.own_grid().double().numpy(), above.own_source().at.weights
            reached = values * call.memo["inverse"] / math.sqrt(call.of(nodes[1]).second.same)
            mean = float(weights @ reached)
            second = above.second * (float(weights @ reached**2) / max(above.second.same, 1e-300))
            return Value(dims, mean, second - mean**2, approximate=above.approximate).settled()
        mean = above.mean * inverse.mean
        return Value(dims, mean, above.second * inverse.second - mean**2, approximate=above.approximate).settled()

    def backward_across(self, call: Call, gradient: Gradient, moving: list[tuple[torch.fx.Node, Value]]) -> Flow:
        if (edges := EdgeWeights.of(call.node)) is not None:
            yield from self._to_logits(call, gradient.collapsed(), edges)
            return
        nodes, (above, inverse), dims = self._factors(call)
        kernel = gradient.collapsed()
        below = call.of(nodes[1])
        group: Group | None = call.memo.get("group")
        if group is not None:
            left = group.left(kernel, above, 1.0 / math.sqrt(below.second.same))
            slope, source = torch.from_numpy(call.memo["inverse"]), above.own_source()
            yield nodes[0], Gradient.of(Term(kernel * (left / below.second.same), slope, source))
            return
        if not (above.iid or above.constant is not None):
            yield nodes[0], Gradient.fresh(unbroadcast(kernel * inverse.second, dims, shape_of(nodes[0])))
        if not (below.iid or below.constant is not None):
            fourth = inverse.second * inverse.second
            divisor = unbroadcast(kernel * above.second * fourth, dims, shape_of(nodes[1]))
            yield nodes[1], Gradient.fresh(recast(divisor, dims, below.dims))

    def _to_logits(self, call: Call, k: Kernel, edges: EdgeWeights) -> Flow:
        """dx = p (g - sum p g) over the edges of a place: what these share of g (as messages do) is gone."""
        d, messages = edges.degrees(), Messages.made_with(call.node)
        *_, left = moments(d, edges.inner(call.values))
        shared = 0.0
        if messages is not None:
            second = call.of(messages.x).second
            shared = min(max(second.cross, 0.0) / second.same, 1.0) if second.same > 0 else 0.0
        same = k.same * (1.0 - shared) * left / d.mean
        yield edges.logits, Gradient.fresh(settle(Kernel(same, same, 0.0, 0.0), call.of(edges.logits).dims))


@register
class Binary(Elementwise):
    """Other functions of several tensors: exact where all are expressions of one source, else unknown."""

    ops: tuple[str, ...] = tuple(name for name in BINARY if name not in ("where",))


@register
class Glu(Rule):
    """GLU.

    A * sigmoid(b) for the two halves of a dim (Dauphin et al. 2017): independent channels, independent factors.
    """

    ops: tuple[str, ...] = ("glu",)
    signature: tuple[str, ...] = ("input", "dim")

    def _gate(self, value: Value) -> tuple[Value, torch.Tensor]:
        half = value.fresh()
        gate = torch.sigmoid(half.own_grid())
        return evaluate(gate, half, half.own_source()), gate * (1.0 - gate)

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        gate, _ = self._gate(value)
        mean = value.mean * gate.mean
        from initcheck.signal.value import regroup

        dims = tuple(value.dims)
        dim = call.dim(int(call.plain("dim", -1)), len(dims))
        halved = regroup((dims[dim],), (2, call.shape[dim])).dims[1]
        dims = (*dims[:dim], halved, *dims[dim + 1 :])
        return Value(dims, mean, value.second * gate.second - mean**2, approximate=value.approximate).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        gate, slope = self._gate(value)
        kernel = gradient.collapsed()
        change = evaluate(slope, value, value.fresh().own_source())
        straight, through = kernel * gate.second, kernel * value.second * change.second
        yield call.node_of("input"), Gradient.fresh((straight + through) * 0.5)
