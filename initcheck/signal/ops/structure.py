"""Ops that move elements without computing: views, permutations, splits, concatenations, copies, indexing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.fx

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.reduce import missing_dims, sum_kernel
from initcheck.signal.rule import Call, Flow, NotReady, Result, Rule, Unknown, register, shape_of
from initcheck.signal.shape import normal_cdf
from initcheck.signal.value import Atom, Dim, Dims, Role, Value, carried, parameter_roles, regroup, settle


class Passing(Rule):
    """The same elements under another name: the gradient, slopes included, goes straight through."""

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        dims = call.of(node).dims
        yield node, gradient.mapped(lambda k: settle(k, dims))


@register
class Identity(Passing):
    """Casts, copies, contiguity: nothing changes."""

    ops: tuple[str, ...] = (
        "identity",
        "contiguous",
        "clone",
        "to",
        "type",
        "type_as",
        "float",
        "double",
        "half",
        "bfloat16",
        "alias",
        "cpu",
        "cuda",
        "requires_grad_",
        "_to_copy",
        "lift_fresh",
        "dropout_eval",
        "data",
        "view_as_real",
        "detach_",
        "checkpoint_name",
        "graph_break",
        "ensure_contiguous",
        "positive_",
        "long",
        "int",
        "bool",
        "__deepcopy__",
        "wait_tensor",
        "channel_shuffle",
        "resolve_conj",
        "resolve_neg",
        "pin_memory",
    )

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        integer = call.op in ("long", "int", "bool") or value.integer
        return value.viewed(value.dims, value.covariance.profile, value.covariance.local) if not integer else value


@register
class Detach(Identity):
    """A copy that no gradient passes."""

    ops: tuple[str, ...] = ("detach", "stop_gradient")

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        return ()


@register
class Reshape(Passing):
    """view/reshape/flatten/squeeze/unsqueeze: the atoms of the dims, in order, grouped anew."""

    ops: tuple[str, ...] = (
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "view_as",
        "reshape_as",
        "_unsafe_view",
        "ravel",
        "getitem_none",
        "as_strided_same",
    )

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        return reshaped(value, call.shape)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        value = call.of(node)
        yield node, gradient.mapped(lambda k: settle(_back(k, call.out), value.dims))


def _back(k: Kernel, out: Value) -> Kernel:
    return k if len(k.profile) in (0, len(out.positions)) else k.without_local()


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """``value`` in another shape of the same elements."""
    if value.iid and value.constant is None:
        return restructured(value, shape)
    done = regroup(value.dims, shape)
    profile, local = carried(value, done.sources)
    result = value.viewed(done.dims, profile, local)
    result.approximate = value.approximate or not done.exact
    if value.constant is not None and value.constant.numel() == math.prod(shape):
        result.constant = value.constant.reshape(tuple(shape))
    return result


def restructured(value: Value, shape: Sequence[int]) -> Value:
    """Independent elements in a new shape: roles by convention until another operand says better."""
    done = regroup(value.dims, shape)
    return value.viewed(done.dims, (), None)


@register
class Permute(Passing):
    """permute/transpose/movedim: dims reordered, and the position axes with them."""

    ops: tuple[str, ...] = (
        "permute",
        "transpose",
        "t",
        "swapaxes",
        "swapdims",
        "movedim",
        "moveaxis",
        "T",
        "mT",
        "adjoint",
        "numpy_T",
    )

    def order(self, call: Call, ndim: int) -> list[int]:
        """For each output dim, the input dim."""
        plain = [call._plain(a) for a in call.node.args[1:]]
        for key in ("dims", "dim0", "dim1", "axis0", "axis1", "source", "destination"):
            if key in call.node.kwargs:
                plain.append(call._plain(call.node.kwargs[key]))
        if call.op in ("t", "T", "numpy_T"):
            return list(range(ndim))[::-1]
        if call.op in ("mT", "adjoint"):
            plain = [-1, -2]
        index = torch.empty((1,) * ndim).expand(*range(2, ndim + 2)) if ndim else torch.empty(())
        if call.op in ("permute",):
            order = plain[0] if len(plain) == 1 and isinstance(plain[0], (list, tuple)) else plain
            return [int(d) % ndim for d in order]
        if call.op in ("movedim", "moveaxis"):
            return [s - 2 for s in torch.movedim(index, plain[0], plain[1]).shape]
        return [s - 2 for s in index.transpose(int(plain[0]), int(plain[1])).shape]

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        order = self.order(call, len(value.dims))
        call.memo["order"] = order
        counts = [sum(a.role == "P" for a in dim) for dim in value.dims]
        first = [sum(counts[:d]) for d in range(len(counts))]
        sources = [first[d] + i for d in order for i in range(sum(a.role == "P" for a in value.dims[d]))]
        profile, local = carried(value, sources)
        result = value.viewed(tuple(value.dims[d] for d in order), profile, local)
        result.kept = None
        if value.mixing is not None:
            result.mixing = replace(value.mixing, dim=order.index(value.mixing.dim))
        if value.constant is not None:
            result.constant = value.constant.permute(order)
        call.memo["sources"] = sources
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        value = call.of(node)
        back: list[int] = [0] * len(call.memo["sources"])
        for new, old in enumerate(call.memo["sources"]):
            back[old] = new

        def unpermuted(k: Kernel) -> Kernel:
            profile = tuple(k.profile[b] for b in back) if len(k.profile) == len(back) else ()
            local = k.local.transpose(back) if k.local is not None and k.local.ndim == len(back) else None
            return replace(k, local=local, profile=profile)

        yield node, gradient.mapped(lambda k: settle(unpermuted(k), value.dims))


@register
class Expand(Rule):
    """Copies along new dims. Backward sums over the copies."""

    ops: tuple[str, ...] = (
        "expand",
        "expand_as",
        "broadcast_to",
        "repeat",
        "tile",
        "repeat_interleave",
        "broadcast_tensors",
    )

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        shape = call.shape
        extra = len(shape) - len(value.dims)
        if extra < 0:
            raise Unknown(f"{call.op} to fewer dims")
        batch = call.memo.setdefault("batch", True)
        dims: list[Dim] = []
        for i, size in enumerate(shape):
            old = value.dims[i - extra] if i >= extra else ()
            had = math.prod(a.size for a in old)
            if had == size:
                dims.append(old)
            elif size % max(had, 1) == 0:
                role: Role = "S" if i == 0 and batch and not value.atoms("S") else "P"
                if role == "P" and becomes_heads(call, value, i - extra):
                    role = "C"
                copies = Atom(role, size // had)
                dims.append((*old, copies) if call.op == "repeat_interleave" else (copies, *old))
            else:
                raise Unknown(f"{call.op} of a dim of {had} to {size}")
        k = value.covariance
        new = tuple(dims)
        if not value.atoms("P"):
            k = Kernel(k.same, k.same, k.cross, k.cross)
        if not value.atoms("S"):
            k = Kernel(k.same, k.far, k.same, k.far)
        result = value.viewed(new)
        result.covariance = settle(k, new)
        if value.constant is not None and value.constant.numel() == 1:
            result.constant = value.constant
        else:
            result.constant = None
        result.iid = False
        result.kept = value.kept
        return result

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        value = call.of(node)
        if value.iid or value.constant is not None:
            return
        over = missing_dims(call.out.dims, value.shape)
        if call.op in ("expand", "expand_as", "broadcast_to") or over:
            kernel = sum_kernel(gradient.collapsed(), call.out.dims, over) if over else gradient.collapsed()
            copies = math.prod(call.shape) / max(math.prod(value.shape), 1)
            done = math.prod(a.size for i in over for a in call.out.dims[i])
            yield node, Gradient.fresh(settle(kernel * (copies / max(done, 1)), value.dims))
        else:
            copies = math.prod(call.shape) / max(math.prod(value.shape), 1)
            yield node, Gradient.fresh(settle(gradient.collapsed() * copies, value.dims))


def becomes_heads(call: Call, value: Value, dim: int) -> bool:
    """Whether copies are merged into the heads before them: grouped keys and values, one copy per head of queries.

    Each copy meets a query of its own, so that the copies count as units rather than as positions.
    """
    if dim < 1 or not value.atoms("P") or not all(a.role == "C" for a in value.dims[dim - 1]):
        return False
    merged = call.shape[dim] * call.shape[dim - 1]
    views = [u for u in call.node.users if u.op == "call_function"]
    return bool(views) and all(shape_of(u) == (*call.shape[: dim - 1], merged, *call.shape[dim + 1 :]) for u in views)


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

    def backward_many(self, call: Call, gradients: Any) -> Flow:
        value = call.value("input")
        whole = math.prod(value.shape)
        total: Kernel | None = None
        for index, gradient in gradients.items():
            part = call.out[index]
            kernel = gradient.collapsed() * (math.prod(part.shape) / max(whole, 1))
            total = kernel if total is None else total + kernel
        if total is not None:
            yield call.node_of("input"), Gradient.fresh(settle(total.without_local(), value.dims))


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
        chosen: Chosen = None
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
        if chosen is not None and value.covariance.profile:
            axis = axis_of(value.dims, chosen[0])
            profile = value.covariance.profile[axis] if axis < len(value.covariance.profile) else None
            if profile is not None and len(profile) == len(chosen[1]):
                level = float((profile * chosen[1]).sum() / chosen[1].sum())
                bare = replace(value.covariance, profile=(), local=None, pairs=None)
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
        chosen = chosen_positions(value, index if isinstance(index, tuple) else (index,))
        yield source, Gradient.fresh(put_back(gradient.collapsed(), value, call.out, chosen))


Chosen = tuple[int, "Array"] | None
"""A dim, and for each of its positions whether it was taken."""


def chosen_positions(value: Value, items: tuple[Any, ...]) -> Chosen:
    """Which positions an index with one integer or slice along a position dim takes."""
    found: Chosen = None
    dim = 0
    for item in items:
        if item is None:
            continue
        if item is Ellipsis:
            dim = len(value.dims) - sum(i is not None and i is not Ellipsis for i in items[items.index(item) + 1 :])
            continue
        whole = isinstance(item, slice) and item == slice(None)
        if not whole and dim < len(value.dims) and len(value.dims[dim]) == 1 and value.dims[dim][0].role == "P":
            if found is not None or not isinstance(item, (int, slice)):
                return None
            taken_here = np.zeros(value.dims[dim][0].size)
            try:
                taken_here[item] = 1.0
            except (IndexError, TypeError, ValueError):
                return None
            found = (dim, taken_here)
        dim += 1
    return found


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
    if chosen is not None:
        dim, mask = chosen
        axes: list[Array | None] = [None] * len(value.positions)
        weight = mask.copy()
        old = k.profile
        axis = axis_of(value.dims, dim)
        own = old[axis] if len(old) == len(value.positions) else None
        if own is not None and int(mask.sum()) == len(own):
            weight[mask > 0] = own
        axes[axis] = weight / weight.mean()
        profile = tuple(axes)
    return settle(Kernel(k.same * share, k.far * pairs, k.cross * share, k.sample * pairs, None, profile), value.dims)


def mixture(parts: list[tuple[float, Value]]) -> tuple[float, Kernel]:
    """Mean and covariance of a population made of shares of others."""
    mean = sum(share * v.mean for share, v in parts)
    second: Kernel | None = None
    for share, v in parts:
        k = v.second * share
        second = k if second is None else second + k
    assert second is not None
    return mean, second - mean**2


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

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        parts = self._parts(call)
        if gradient.parts and len(gradient.parts) == len(parts):
            for (node, value), own in zip(parts, gradient.parts, strict=True):
                yield node, Gradient.fresh(settle(own.collapsed(), value.dims))
            return
        kernel = gradient.collapsed().without_local()
        dims = call.out.dims
        dim = call.dim(int(call.plain("dim", 0)), len(call.shape))
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


def part_of(k: Kernel, level: float) -> Kernel:
    """The kernel among some of the positions, where the elementwise moment is ``level`` times the average.

    What different positions share is that of the many, whatever the few (a class token) have of their own.
    """
    same, cross = k.same * level, k.cross * level
    return replace(k, same=same, far=min(k.far, same), cross=cross, sample=min(k.sample, cross))


def axis_of(dims: Dims, dim: int) -> int:
    """Index of a dim among the position atoms."""
    return sum(a.role == "P" for d in dims[:dim] for a in d)


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


@register
class Pad(Rule):
    """F.pad: zeros dilute (exactly, as a profile); reflected, replicated and circular padding repeats what is there.

    Padding with -inf is for a maximum that never takes it: the moments are those of what was there.
    """

    ops: tuple[str, ...] = ("pad", "constant_pad_nd")
    signature: tuple[str, ...] = ("input", "pad", "mode", "value")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        dims: list[Dim] = []
        for dim, size in zip(value.dims, call.shape, strict=True):
            had = math.prod(a.size for a in dim)
            role: Role = dim[0].role if dim else "P"
            dims.append(dim if had == size else ((Atom(role, size),) if size > 1 else ()))
        share = math.prod(value.shape) / max(math.prod(call.shape), 1)
        new = tuple(dims)
        mode = call.plain("mode", "constant") or "constant"
        fill = float(call.plain("value", 0.0) or 0.0)
        if fill == -math.inf:
            return value.viewed(new, local=value.covariance.local).settled()
        if mode != "constant" or share >= 1:
            return value.fresh(new, covariance=value.covariance.without_local()).settled()
        mean = value.mean * share + fill * (1 - share)
        inside, places = value.count("P"), math.prod(a.size for d in new for a in d if a.role == "P")
        pairs = inside * (inside - 1) / (places * (places - 1)) if places > inside > 0 else share
        k = value.second
        second = Kernel(k.same * share, k.far * pairs, k.cross * share, k.sample * pairs) + fill**2 * (1 - share)
        second = Kernel(second.same, second.far, second.cross, second.sample, None, self._profile(call, value, new))
        return Value(new, mean, second - mean**2, approximate=value.approximate).settled()

    def _profile(self, call: Call, value: Value, dims: Dims) -> Any:
        import numpy as np

        pads = [int(p) for p in call.plain("pad")]
        old = iter(value.covariance.profile or (None,) * len(value.positions))
        result: list[Any] = []
        for i, (before, after) in enumerate(zip(value.dims, dims, strict=True)):
            mine = [next(old) for a in before if a.role == "P"]
            count = sum(a.role == "P" for a in after)
            if not count:
                continue
            fits = 2 * (len(dims) - i) <= len(pads)
            if before == after or count != 1 or not fits:
                result.extend(mine if len(mine) == count else [None] * count)
                continue
            low, high = pads[2 * (len(dims) - i) - 2], pads[2 * (len(dims) - i) - 1]
            inner = mine[0] if mine and mine[0] is not None else np.ones(math.prod(a.size for a in before))
            if low < 0 or high < 0:
                inner = inner[max(-low, 0) : len(inner) - max(-high, 0)]
            full = np.concatenate([np.zeros(max(low, 0)), inner, np.zeros(max(high, 0))])
            size = math.prod(a.size for a in after)
            result.append(full / full.mean() if len(full) == size and full.mean() > 0 else None)
        return tuple(result)

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        kernel = gradient.collapsed().without_local()
        if call.plain("value", 0.0) == -math.inf:
            kernel = kernel * (math.prod(call.shape) / math.prod(value.shape))
        yield call.node_of("input"), Gradient.fresh(settle(self._unpadded(call, kernel), value.dims))

    def _unpadded(self, call: Call, k: Kernel) -> Kernel:
        """The part of the gradient that falls on what was there before (class tokens that were padded do not count)."""
        if len(k.profile) != len(call.out.positions):
            return k
        pads = [int(p) for p in call.plain("pad")]
        axes: list[Array | None] = []
        level, axis = 1.0, 0
        for i, dim in enumerate(call.out.dims):
            for _ in range(sum(a.role == "P" for a in dim)):
                own = k.profile[axis]
                axis += 1
                last = 2 * (len(call.out.dims) - i)
                if own is not None and last <= len(pads) and len(dim) == 1:
                    low, high = max(pads[last - 2], 0), max(pads[last - 1], 0)
                    inner = own[low : len(own) - high]
                    mean = float(inner.mean()) if len(inner) else 0.0
                    level *= mean
                    own = inner / mean if mean > 0 else None
                axes.append(own)
        return part_of(replace(k, profile=tuple(axes), pairs=None), level)


@register
class Upsample(Rule):
    """Nearest copies each element; (bi)linear averages neighbours. Backward sums over the copies."""

    ops: tuple[str, ...] = ("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
    signature: tuple[str, ...] = ("input", "size", "scale_factor", "mode", "align_corners")

    def _kept(self, call: Call, value: Value) -> tuple[float, float]:
        """Share of v_p that survives interpolation, and the growth of the number of positions."""
        mode = str(call.plain("mode", "nearest"))
        growth = math.prod(call.shape) / max(math.prod(value.shape), 1)
        kept = 1.0
        if "linear" in mode and growth > 1:
            for old, new in zip(value.shape[2:], call.shape[2:], strict=True):
                if new > old > 1:
                    kept *= 2 / 3 + (old / new) ** 2 / 12
        return kept, growth

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        kept, _ = self._kept(call, value)
        dims: list[Dim] = []
        for dim, size in zip(value.dims, call.shape, strict=True):
            had = math.prod(a.size for a in dim)
            dims.append(dim if had == size else ((Atom("P", size),) if size > 1 else ()))
        new = tuple(dims)
        k = value.covariance
        if not value.positions:
            return value.fresh(new, covariance=settle(Kernel(k.same, k.same, k.cross, k.cross), new))
        same = k.far + (k.same - k.far) * kept
        cross = k.sample + (k.cross - k.sample) * kept
        return value.fresh(new, covariance=Kernel(same, k.far, cross, k.sample)).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        kept, growth = self._kept(call, value)
        k = gradient.collapsed().without_local()
        if growth <= 1:
            yield call.node_of("input"), Gradient.fresh(settle(k * growth, value.dims))
            return
        # an element's copies: growth of them, correlated as positions are
        same = growth * (k.same - k.far) * kept + growth**2 * k.far
        cross = growth * (k.cross - k.sample) * kept + growth**2 * k.sample
        k = Kernel(same, growth**2 * k.far, cross, growth**2 * k.sample)
        yield call.node_of("input"), Gradient.fresh(settle(k, value.dims))


@register
class PixelShuffle(Passing):
    """pixel_shuffle/unshuffle: channels become positions (independent ones), or positions channels."""

    ops: tuple[str, ...] = ("pixel_shuffle", "pixel_unshuffle")

    def forward(self, call: Call) -> Result:
        value = call.of(call.node.all_input_nodes[0])
        roles: tuple[Role, ...] = ("S", "C", "P", "P")
        dims = tuple(
            () if n == 1 else (Atom(r, n),) for r, n in zip(roles[-len(call.shape) :], call.shape, strict=True)
        )
        k = value.covariance
        return value.viewed(dims).fresh(dims, covariance=Kernel(k.same, k.far, k.cross, k.sample)).settled()


@register
class Unfold(Rule):
    """unfold: windows of positions side by side; F.unfold puts the taps into the channels, x.unfold into a new dim."""

    ops: tuple[str, ...] = ("unfold",)
    signature: tuple[str, ...] = ("input", "dimension", "size", "step")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        shape = call.shape
        k = value.covariance
        if len(shape) == len(value.dims) + 1:
            dim = call.dim(int(call.plain("dimension")), len(value.dims))
            role: Role = value.dims[dim][0].role if value.dims[dim] else "P"
            windows: Dim = (Atom(role, shape[dim]),) if shape[dim] > 1 else ()
            inner: Dim = (Atom(role, shape[-1]),) if shape[-1] > 1 else ()
            dims = (*value.dims[:dim], windows, *value.dims[dim + 1 :], inner)
        else:
            taps = shape[1] // max(value.shape[1], 1)
            count: Dim = (Atom("P", shape[2]),) if shape[2] > 1 else ()
            dims = (value.dims[0], (*value.dims[1], *((Atom("P", taps),) if taps > 1 else ())), count)
        return value.fresh(dims, covariance=Kernel(k.same, k.far, k.cross, k.sample)).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        k = gradient.collapsed().without_local()
        uses = math.prod(call.shape) / max(math.prod(value.shape), 1)
        same = uses * (k.same + max(uses - 1, 0.0) * k.far)
        cross = uses * (k.cross + max(uses - 1, 0.0) * k.sample)
        k = Kernel(same, uses**2 * k.far, cross, uses**2 * k.sample)
        yield call.node_of("input"), Gradient.fresh(settle(k, value.dims))


@register
class Fold(Rule):
    """F.fold: overlapping windows add up (their overlapping taps taken as independent)."""

    ops: tuple[str, ...] = ("fold",)
    signature: tuple[str, ...] = ("input", "output_size", "kernel_size")

    def forward(self, call: Call) -> Result:
        value = call.value("input")
        uses = math.prod(value.shape) / max(math.prod(call.shape), 1)
        roles: tuple[Role, ...] = ("S", "C", "P", "P")
        dims = tuple((Atom(r, n),) if n > 1 else () for r, n in zip(roles[-len(call.shape) :], call.shape, strict=True))
        k = value.covariance
        own = Kernel(uses * k.same, uses**2 * k.far, uses * k.cross, uses**2 * k.sample)
        return Value(dims, value.mean * uses, own, approximate=True).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        value = call.value("input")
        k = gradient.collapsed()
        yield call.node_of("input"), Gradient.fresh(settle(Kernel(k.same, k.far, k.cross, k.sample), value.dims))


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
