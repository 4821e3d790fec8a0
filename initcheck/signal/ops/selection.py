"""Ops that take some of the elements: split, slices, indexing, the largest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.channel_parts import channel_range, chosen_channels, to_parts
from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.ops.joining import part_of
from initcheck.signal.ops.views import reshaped
from initcheck.signal.profiles import joined, marginals
from initcheck.signal.rule import Call, Flow, NotReady, Result, Rule, register
from initcheck.signal.shape import normal_cdf
from initcheck.signal.value import Atom, Dim, Dims, Role, Value, axis_of, parameter_roles, settle


@register
class Split(Rule):
    """split/chunk/unbind: parts of one population; along channels they are independent of each other."""

    ops: tuple[str, ...] = (
        "split",
        "chunk",
        "unbind",
        "tensor_split",
        "split_with_sizes",
        "hsplit",
        "vsplit",
        "unsafe_chunk",
        "unsafe_split",
    )
    signature: tuple[str, ...] = ("input", "split_size_or_sections", "dim")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        outputs = call.node.meta["val"]
        return tuple(taken(value, tuple(int(s) for s in o.shape), call.op == "unbind") for o in outputs)

    def backward_many(self, call: Call, gradients: Mapping[int, Gradient]) -> Flow:
        value = call.value("input")
        whole = math.prod(value.shape)
        total: Kernel | None = None
        for index, gradient in gradients.items():
            part = call.out[index]
            kernel = gradient.collapsed() * (math.prod(part.shape) / max(whole, 1))
            total = kernel if total is None else total + kernel
        if total is not None:
            total = replace(total.without_local(), profile=self._profile(call, value, gradients) or total.profile)
            yield call.node_of("input"), Gradient.fresh(settle(total, value.dims))

    def _profile(self, call: Call, value: Value, gradients: Mapping[int, Gradient]) -> Profile:
        """Gradients of unlike parts of the positions, one after the other: text tokens in front of an image's."""
        dim = next((i for i, n in enumerate(value.shape) if call.op != "unbind" and n != call.out[0].shape[i]), None)
        if dim is None or [a.role for a in value.dims[dim]] != ["P"]:
            return ()
        axis, pieces = axis_of(value.dims, dim), []
        for index, part in enumerate(call.out):
            size = part.shape[dim]
            if index not in gradients:
                pieces.append(np.zeros(size))
                continue
            kernel = gradients[index].collapsed()
            own = kernel.profile[axis] if len(kernel.profile) == len(value.positions) else None
            pieces.append(kernel.same * (np.ones(size) if own is None or len(own) != size else own))
        along = np.concatenate(pieces)
        axes: list[Array | None] = [None] * len(value.positions)
        axes[axis] = along / along.mean() if along.mean() > 0 else None
        return tuple(axes)


def taken(value: Value, shape: tuple[int, ...], dropped: bool = False) -> Value:
    """Some of the elements: the same moments, another variable. A dim that became smaller keeps its (outer) role."""
    dims: list[Dim] = []
    old = list(value.dims)
    if len(shape) < len(old):
        # match sizes from both ends; what is left out was selected
        old = _aligned_dims(old, shape)
    for dim, size in zip(old, shape, strict=False):
        had = math.prod(a.size for a in dim)
        if had == size:
            dims.append(dim)
        elif size == 1:
            dims.append(())
        else:
            roles = {a.role for a in dim}
            role: Role = dim[0].role if len(roles) == 1 else max(dim, key=lambda a: a.size).role
            if len(dim) > 1 and size % math.prod(a.size for a in dim[1:]) == 0:
                inner = dim[1:]
                outer = size // math.prod(a.size for a in inner)
                dims.append((*((Atom(dim[0].role, outer),) if outer > 1 else ()), *inner))
            else:
                dims.append((Atom(role, size),))
    new = tuple(dims)
    if value.iid:
        return value.fresh(new, covariance=settle(value.covariance.without_local(), new))
    k = value.covariance
    result = value.fresh(new, covariance=k)
    result.mixing = None
    if len(k.profile) == len(result.positions):
        sizes = result.positions
        profile = tuple(p if p is None or len(p) == n else None for p, n in zip(k.profile, sizes, strict=True))
        result.covariance = replace(k, profile=profile)
    return result.settled()


def _aligned_dims(old: list[Dim], shape: tuple[int, ...]) -> list[Dim]:
    sizes = [math.prod(a.size for a in dim) for dim in old]
    result: list[Dim] = []
    i = 0
    for remaining, size in zip(range(len(shape), 0, -1), shape, strict=True):
        while i < len(old) - remaining and sizes[i] != size:
            i += 1
        result.append(old[i])
        i += 1
    return result


@register
class Take(Rule):
    """Slices, selections and lookups by index: a sample of the elements.

    Backward: the gradient lands on the elements that were taken (their share of all), zero elsewhere.
    """

    ops: tuple[str, ...] = (
        "narrow",
        "select",
        "index_select",
        "gather",
        "take",
        "slice",
        "take_along_dim",
        "index",
        "masked_select",
        "diagonal",
        "crop",
        "roll",
        "flip",
        "fliplr",
        "flipud",
        "rot90",
        "topk_values",
        "unfold_view",
        "slice_scatter_take",
        "getslice",
        "select_copy",
        "slice_copy",
    )

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        result = taken(value, call.shape)
        if call.op in ("roll", "flip") and len(result.dims) == len(value.dims):
            result.dims = value.dims
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        value = call.of(node)
        if value.iid or value.constant is not None:
            return
        chosen: Chosen = ()
        if call.op == "select":
            dim = call.dim(int(call.node.args[1]), len(value.dims))  # type: ignore[arg-type]
            items = (*[slice(None)] * dim, call.node.args[2])
            chosen = chosen_positions(value, items)
        yield node, Gradient.fresh(put_back(gradient.collapsed(), value, call.out, chosen))


@register
class GetItem(Rule):
    """x[...]: an output of a tuple, or a slice of a tensor."""

    ops: tuple[str, ...] = ("getitem",)
    signature: tuple[str, ...] = ("input", "index")

    def forward(self, call: Call) -> Result:
        source = call.raw("input")
        whole = call.values.get(source)
        if isinstance(whole, tuple):
            index = int(call.raw("index"))
            chosen: Value | None = whole[index] if -len(whole) <= index < len(whole) else None
            if chosen is None:
                raise NotReady(str(source))
            return chosen
        value = call.value("input")
        index = call.raw("index")
        items = index if isinstance(index, tuple) else (index,)
        if math.prod(call.shape) == math.prod(value.shape) and not any(isinstance(i, torch.fx.Node) for i in items):
            return reshaped(value, call.shape)
        tensors = [i for i in items if isinstance(i, torch.fx.Node)]
        if tensors:
            return self._gathered(call, value, items)
        return self._sliced(value, items, call.shape)

    def _sliced(self, value: Value, items: tuple[Any, ...], shape: tuple[int, ...]) -> Value:
        channels = channel_range(value, items)
        if channels is not None:
            return chosen_channels(value, channels)
        dims: list[Dim] = []
        position = 0
        explicit = sum(i is not None and i is not Ellipsis for i in items)
        for item in items:
            if item is None:
                dims.append(())
            elif item is Ellipsis:
                for _ in range(len(value.dims) - explicit):
                    dims.append(value.dims[position])
                    position += 1
            elif isinstance(item, slice):
                dims.append(value.dims[position])
                position += 1
            else:
                position += 1
        dims.extend(value.dims[position:])
        if len(dims) != len(shape):
            return taken(value, shape)
        chosen = chosen_positions(value, items)
        if len(value.covariance.profile) == len(value.positions):
            for dim, mask in chosen:
                first = axis_of(value.dims, dim)
                axes = slice(first, first + len(value.dims[dim]))
                pieces = value.covariance.profile[axes]
                if all(p is None for p in pieces):
                    continue
                profile = joined(pieces, value.positions[axes])
                kept = profile[mask > 0]
                level = float(kept.mean())
                bare = replace(value.covariance, profile=(), local=None, pairs=None)
                if len(kept) > 1 and level > 0 and len(value.positions) == 1:
                    bare = replace(bare, profile=(kept / level,))
                elif len(chosen) > 1:  # the other dims still need theirs
                    others = list(value.covariance.profile)
                    others[axes] = [None] * len(pieces)
                    bare = replace(bare, profile=tuple(others))
                value = value.fresh(covariance=part_of(bare, level))
        # a view with only the surviving dims, then shrunk
        survivor = value.fresh(tuple(dims)).settled() if value.iid else value.fresh(tuple(dims))
        return taken(survivor, shape)

    def _gathered(self, call: Call, value: Value, items: tuple[Any, ...]) -> Value:
        shape = call.shape
        if len(shape) == len(value.dims):
            return taken(value, shape)
        rest = value.dims[len(items) :] if Ellipsis not in items else ()
        first = next(i for i in items if isinstance(i, torch.fx.Node))
        index = call.values.get(first)
        head: Dims = index.dims if isinstance(index, Value) else ()
        dims = (*head, *rest)
        if tuple(math.prod(a.size for a in d) for d in dims) != shape:
            roles = parameter_roles(len(shape))
            dims = tuple((Atom(r, s),) if s > 1 else () for r, s in zip(roles, shape, strict=True))
        return value.fresh(dims, approximate=True).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        source = call.raw("input")
        if isinstance(call.values.get(source), tuple):
            return  # the engine hands tuple outputs on by index
        value = call.value("input")
        if value.iid or value.constant is not None:
            return
        if math.prod(call.shape) == math.prod(value.shape):
            yield source, gradient.mapped(lambda k: settle(k, value.dims))
            return
        index = call.raw("index")
        items = index if isinstance(index, tuple) else (index,)
        flow = Gradient.fresh(put_back(gradient.collapsed(), value, call.out, chosen_positions(value, items)))
        channels = channel_range(value, items)
        if channels is not None:
            flow.parts = to_parts(value, channels, gradient)
        yield source, flow


Chosen = tuple[tuple[int, "Array"], ...]
"""Dims, and for each of their positions whether it was taken."""


def chosen_positions(value: Value, items: tuple[Any, ...]) -> Chosen:
    """Which positions an index with integers or slices along position dims takes."""
    found: list[tuple[int, Array]] = []
    dim = 0
    for item in items:
        if item is None:
            continue
        if item is Ellipsis:
            dim = len(value.dims) - sum(i is not None and i is not Ellipsis for i in items[items.index(item) + 1 :])
            continue
        whole = isinstance(item, slice) and item == slice(None)
        if not whole and dim < len(value.dims) and value.dims[dim] and all(a.role == "P" for a in value.dims[dim]):
            if not isinstance(item, (int, slice)):
                return ()
            taken_here = np.zeros(math.prod(a.size for a in value.dims[dim]))
            try:
                taken_here[item] = 1.0
            except (IndexError, TypeError, ValueError):
                return ()
            if not taken_here.any():
                return ()
            found.append((dim, taken_here))
        dim += 1
    return tuple(found)


def put_back(k: Kernel, value: Value, out: Value, chosen: Chosen) -> Kernel:
    """Gradient of a tensor of which some elements were taken: theirs on those, zero elsewhere."""
    share = math.prod(out.shape) / max(math.prod(value.shape), 1)
    if k.pairs is not None and value.positions == out.positions:
        return settle(k * share, value.dims)
    before, after = value.count("P"), out.count("P")
    pairs = share
    if before > 1 and after < before:
        pairs = share * max(after - 1, 0) / (before - 1)
    profile: Profile = k.profile if before == after and len(k.profile) == len(value.positions) else ()
    if chosen:
        axes: list[Array | None] = [None] * len(value.positions)
        old = k.profile if len(k.profile) == len(value.positions) else (None,) * len(value.positions)
        for dim, mask in chosen:
            weight = mask.copy()
            first, atoms = axis_of(value.dims, dim), value.dims[dim]
            own = old[first] if len(atoms) == 1 else None
            if own is not None and int(mask.sum()) == len(own):
                weight[mask > 0] = own
            axes[first : first + len(atoms)] = marginals(weight, [a.size for a in atoms])
        profile = tuple(axes)
    return settle(Kernel(k.same * share, k.far * pairs, k.cross * share, k.sample * pairs, None, profile), value.dims)


@register
class Top(Rule):
    """topk/sort: the k largest of n draws, E[f] = n/k ∫ f(Q(u)) P(at most k - 1 of n - 1 others above u) du.

    Q is the quantile function of the part that varies along the row; probabilities count as log-normal.
    """

    ops: tuple[str, ...] = ("topk", "sort")
    signature: tuple[str, ...] = ("input", "k", "dim")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        result = taken(value, call.shape)
        n, k = math.prod(value.shape), math.prod(call.shape)
        if 0 < k < n and value.variance > 0:
            dim = next(i for i, (a, b) in enumerate(zip(value.shape, call.shape, strict=True)) if a != b)
            positive = value.positive or value.mixing is not None
            mean, spread = self._largest(replace(value, positive=positive), call.shape[dim], value.shape[dim])
            shared = max(value.covariance.sample, 0.0)
            covariance = Kernel(shared + spread, shared, shared, shared)
            result = result.fresh(mean=mean, covariance=covariance, positive=positive, mixing=None).settled()
        return (result, Value(result.dims, 0.0, Kernel.constant(0.0), integer=True))

    @staticmethod
    def _largest(value: Value, k: int, n: int) -> tuple[float, float]:
        """Mean and variance of one of the ``k`` largest of ``n``."""
        at, values = value.own_source().at, value.own_grid().double().numpy()
        order = np.argsort(values)
        weights = at.weights[order]
        above = np.clip(1.0 - (np.cumsum(weights) - 0.5 * weights), 0.0, 1.0)
        others = n - 1
        if k <= 32:
            chosen = sum(math.comb(others, j) * above**j * (1 - above) ** (others - j) for j in range(k))
        else:
            width = np.sqrt(np.maximum(others * above * (1 - above), 0.25))
            chosen = normal_cdf((k - 0.5 - others * above) / width)
        shares = weights * chosen / float((weights * chosen).sum())
        mean = float(shares @ values[order])
        return mean, float(shares @ values[order] ** 2) - mean**2

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        share = min(math.prod(call.shape) / max(math.prod(value.shape), 1), 1.0)
        k = gradient.collapsed() * share
        yield (
            call.node_of("input"),
            Gradient.fresh(settle(Kernel(k.same, k.far * share, k.cross * share, k.sample * share), value.dims)),
        )
