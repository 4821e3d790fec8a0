"""Ops that put tensors together: concatenation, and writes into a part of a tensor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.shape import quantiles, sum_shape
from initcheck.signal.value import Atom, Dim, Dims, Role, Value, axis_of, settle


def mixture(parts: list[tuple[float, Value]]) -> tuple[float, Kernel]:
    """Mean and covariance of a population made of shares of others."""
    mean = sum(share * v.mean for share, v in parts)
    second: Kernel | None = None
    for share, v in parts:
        k = v.second * share
        second = k if second is None else second + k
    assert second is not None
    return mean, second - mean**2


def mixed_shape(parts: Sequence[tuple[float, Value]], scales: Sequence[float] | Array = ()) -> Array | None:
    """Standardised quantile function of channels side by side, None where every part is normal.

    ``scales``: after each part was centred and multiplied by its own.
    """
    if all(v.normal or v.iid or v.variance <= 0 for _, v in parts):
        return None
    pieces = []
    for i, (_, v) in enumerate(parts):
        values = v.own_grid().double().numpy()
        pieces.append((values - v.mean) * float(scales[i]) if len(scales) else values)
    values = np.concatenate(pieces)
    weights = np.concatenate([share * v.own_source().at.weights for share, v in parts])
    return sum_shape([quantiles(values, weights)], 0.0) if np.ptp(values) > 0 else None


def leaves(value: Value) -> list[tuple[float, Value]]:
    """The parts of a concatenation, those of parts that are concatenations in their place; [] for any other value."""
    result = []
    for share, part in value.parts:
        result.extend([(share * inner, leaf) for inner, leaf in leaves(part)] or [(share, part)])
    return result


@register
class Concatenate(Rule):
    """cat/stack: a mixture of its parts; each gets its own slice of the gradient."""

    ops: tuple[str, ...] = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
    signature: tuple[str, ...] = ("tensors", "dim")

    def _parts(self, call: Call) -> list[tuple[torch.fx.Node, Value]]:
        raw = call.raw("tensors")
        nodes = [n for n in raw if isinstance(n, torch.fx.Node)]
        return [(n, call.of(n)) for n in nodes]

    def forward(self, call: Call) -> Result:
        parts = self._parts(call)
        if not parts:
            raise Unknown("cat of nothing")
        sizes = [math.prod(v.shape) for _, v in parts]
        whole = sum(sizes)
        shares = [s / whole for s in sizes] if whole else [1 / len(parts)] * len(parts)
        dim = call.dim(int(call.plain("dim", 0)), len(call.shape))
        anchor = next((v for _, v in parts if not v.iid and v.constant is None), parts[0][1])
        dims = self._dims(call, anchor, dim)
        values = [v.fresh(adapted(v, dims), constant=v.constant) if v.iid else v for _, v in parts]
        along = {a.role for a in dims[dim]}
        mean, covariance = mixture(list(zip(shares, values, strict=True)))
        if along == {"P"} or along == {"S"}:
            covariance = self._between(shares, values, mean, covariance, along == {"P"})
        if along != {"C"}:
            covariance = covariance.without_local()
        result = Value(dims, mean, covariance, approximate=any(v.approximate for v in values))
        result.iid = all(v.iid for v in values)
        result.integer = all(v.integer for v in values)
        if len(dims[dim]) == 1 and along == {"P"} and call.op != "stack":
            result.covariance = replace(result.covariance, profile=joined_profile(values, dims, dim, mean))
        if along == {"C"}:
            result.parts = tuple(zip(shares, values, strict=True))
            result.shape_on_grid = mixed_shape(result.parts)
        return result.settled()

    def _between(self, shares: list[float], values: list[Value], mean: float, k: Kernel, positions: bool) -> Kernel:
        """Elements of different parts share nothing but what they share with everything: pairs across parts count."""
        if positions:
            far = sum(s * s * (v.covariance.far + (v.mean - mean) ** 2) for s, v in zip(shares, values, strict=True))
            sample = sum(
                s * s * (v.covariance.sample + (v.mean - mean) ** 2) for s, v in zip(shares, values, strict=True)
            )
            return Kernel(k.same, far, k.cross, sample)
        return k

    def _dims(self, call: Call, anchor: Value, dim: int) -> Dims:
        dims: list[Dim] = []
        stacked = call.op in ("stack",)
        source = iter(anchor.dims)
        for i, size in enumerate(call.shape):
            if stacked and i == dim:
                dims.append((Atom("P", size),) if size > 1 else ())
                continue
            old = next(source, ())
            if math.prod(a.size for a in old) == size:
                dims.append(old)
            else:
                role: Role = old[0].role if old else ("S" if i == 0 else "P" if i < len(call.shape) - 1 else "C")
                inner = old[1:]
                per = math.prod(a.size for a in inner)
                if len(old) > 1 and size % per == 0:
                    dims.append((Atom(role, size // per), *inner))
                else:
                    dims.append((Atom(role, size),) if size > 1 else ())
        return tuple(dims)

    def _at_one_place(self, k: Kernel, dims: Dims, dim: int) -> Array | None:
        """The local kernel of what one element of a stack gets."""
        axes = [i for i, d in enumerate(dims) for a in d if a.role == "P"]
        if k.local is None or k.local.ndim != len(axes) or dim not in axes:
            return None
        return np.asarray(k.local[(slice(None),) * axes.index(dim) + (0,)])

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        parts = self._parts(call)
        if gradient.parts and len(gradient.parts) == len(parts):
            for (node, value), own in zip(parts, gradient.parts, strict=True):
                flow = own.mapped(functools.partial(settle, dims=value.dims))
                flow.parts = own.parts
                yield node, flow
            return
        dims = call.out.dims
        dim = call.dim(int(call.plain("dim", 0)), len(call.shape))
        square = gradient.square_slope(call.out) if call.out.parts else None
        kernel = gradient.collapsed()
        if {a.role for a in dims[dim]} != {"C"}:
            kernel = replace(kernel, local=self._at_one_place(kernel, dims, dim) if call.op == "stack" else None)
        if square is not None:
            for node, value in parts:
                if not (value.iid or value.constant is not None):
                    yield node, of_part(gradient, call.out, value)
            return
        axis = axis_of(dims, dim)
        along = len(dims[dim]) == 1 and dims[dim][0].role == "P" and axis < len(kernel.profile)
        profile = kernel.profile[axis] if along else None
        start = 0
        for node, value in parts:
            size = math.prod(a.size for a in value.dims[dim]) if len(value.dims) == len(dims) else 1
            piece = profile[start : start + size] if profile is not None and call.op != "stack" else None
            start += size
            if value.iid or value.constant is not None:
                continue
            share = kernel
            if piece is not None:
                level = float(piece.mean())
                axes = list(kernel.profile)
                axes[axis] = piece / level if level > 0 and size > 1 else None
                share = part_of(replace(kernel, profile=tuple(axes), pairs=None), level)
            yield node, Gradient.of(Term(settle(share, value.dims)))


def of_part(gradient: Gradient, whole: Value, part: Value) -> Gradient:
    """The gradient of some of the channels of ``whole``: what it met behind depends on their own elements."""
    known, source = whole.own_source(), part.own_source()
    u, own = known.u.double().numpy(), part.own_grid().double().numpy()
    result = Gradient()
    for term in gradient.terms.values():
        if term.source is known and term.slope is not None:
            slope = torch.from_numpy(np.interp(own, u, term.slope.double().numpy()))
            result.add(Term(settle(term.kernel, part.dims), slope, source))
        else:
            result.add(Term(settle(term.effective(), part.dims)))
    return result


def by_element(kernel: Kernel, square: Array, whole: Value, part: Value, of_whole: bool = True) -> Gradient:
    """The gradient of some of the elements of ``whole``, where it depends on the element: by their own distribution.

    ``square``: E[g² | element], relative, on the grid of the whole. ``of_whole``: ``kernel`` is that of all elements.
    """
    known, source = whole.own_source(), part.own_source()
    level = max(float(known.at.weights @ square), 1e-300)
    if source is not known:
        square = np.interp(part.own_grid().double().numpy(), known.u.double().numpy(), square)
        kernel = kernel * (float(source.at.weights @ square) / level) if of_whole else kernel
    slope = np.sqrt(square)
    return Gradient.of(Term.reaching(settle(kernel, part.dims), slope, source))


def part_of(k: Kernel, level: float) -> Kernel:
    """The kernel among some of the positions, where the elementwise moment is ``level`` times the average.

    What different positions share is that of the many, whatever the few (a class token) have of their own.
    """
    same, cross = k.same * level, k.cross * level
    return replace(k, same=same, far=min(k.far, same), cross=cross, sample=min(k.sample, cross))


def joined_profile(values: Sequence[Value], dims: Dims, dim: int, mean: float) -> Profile:
    """Second moments along the axis of a concatenation: a class token beside patches is not like them."""
    pieces = []
    for value in values:
        size = math.prod(a.size for a in value.dims[dim]) if len(value.dims) == len(dims) else 1
        own = value.covariance.profile
        axis = axis_of(value.dims, dim)
        shape = own[axis] if own and len(value.dims[dim]) == 1 and axis < len(own) else None
        level = value.covariance.same + (value.mean - mean) ** 2
        pieces.append(level * (np.ones(size) if shape is None or len(shape) != size else shape))
    whole = np.concatenate(pieces)
    average = float(whole.mean())
    if not average > 0 or not math.isfinite(average):
        return ()
    axes = [None] * sum(a.role == "P" for d in dims for a in d)
    result: list[Array | None] = list(axes)
    result[axis_of(dims, dim)] = whole / average
    return tuple(result)


def adapted(value: Value, dims: Dims) -> Dims:
    """Dims for a parameter among activations: the roles of the activations, its own sizes."""
    if len(value.dims) != len(dims):
        return value.dims
    result: list[Dim] = []
    for own, theirs in zip(value.dims, dims, strict=True):
        size = math.prod(a.size for a in own)
        result.append((Atom(theirs[0].role, size),) if size > 1 and theirs else own)
    return tuple(result)


class Written(Rule):
    """A tensor after a part of it was overwritten: a mixture by share."""

    def parts(self, call: Call) -> tuple[torch.fx.Node, Any, float]:
        """The tensor, what was written, and to which share of it."""
        raise NotImplementedError

    def forward(self, call: Call) -> Result:
        node, written, share = self.parts(call)
        base = call.of(node)
        if isinstance(written, torch.fx.Node):
            new = call.of(written)
        else:
            new = Value((), float(written), Kernel.constant(0.0))
        if share >= 1.0 and new.dims and new.shape == base.shape:
            return new.viewed(new.dims, new.covariance.profile, new.covariance.local)
        mean, k = mixture([(share, new), (1.0 - share, base)])
        anchor = base if not (base.iid or base.constant is not None) or len(new.dims) != len(base.dims) else new
        dims = anchor.dims if anchor.shape == base.shape else adapted(base, anchor.dims)
        if base.variance == 0 and base.mean == 0 and new.dims and share < 1:
            k = Kernel(k.same, k.far, k.cross, k.sample)
        return Value(dims, mean, k.without_local(), iid=base.iid and (not new.dims or new.iid)).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node, written, share = self.parts(call)
        k = gradient.collapsed()
        k = Kernel(k.same, k.far, k.cross, k.sample)
        base = call.of(node)
        if not (base.iid or base.constant is not None) and share < 1:
            yield node, Gradient.fresh(settle(k * (1.0 - share), base.dims))
        if isinstance(written, torch.fx.Node):
            new = call.of(written)
            if not (new.iid or new.constant is not None):
                yield written, Gradient.fresh(settle(k, new.dims))


@register
class SetItem(Written):
    """x[index] = value."""

    ops: tuple[str, ...] = ("setitem", "copy", "index_copy", "index_put", "scatter", "slice_scatter", "masked_scatter")
    signature: tuple[str, ...] = ("input", "index", "value", "source")

    def parts(self, call: Call) -> tuple[torch.fx.Node, Any, float]:
        node = call.node.all_input_nodes[0]
        args = call.node.args
        if call.op == "copy":
            return node, args[1], 1.0
        written = args[-1] if len(args) > 2 else call.node.kwargs.get("src", call.node.kwargs.get("value", 0.0))
        size = math.prod(call.of(node).shape)
        if isinstance(written, torch.fx.Node) and call.op != "index_put":
            return node, written, min(math.prod(shape_of(written)) / max(size, 1), 1.0)
        return node, written, 0.5


@register
class WriteView(Written):
    """``base`` after a write to another view of its storage."""

    ops: tuple[str, ...] = ("write_view",)
    signature: tuple[str, ...] = ("input", "value")

    def parts(self, call: Call) -> tuple[torch.fx.Node, Any, float]:
        return call.node_of("input"), call.raw("value"), float(call.node.meta.get("share", 1.0))
