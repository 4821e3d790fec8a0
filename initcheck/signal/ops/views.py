"""Ops that give the same elements another shape: casts, reshapes, permutations, broadcast copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.fx

from initcheck.signal.gradient import Gradient
from initcheck.signal.kernel import Kernel
from initcheck.signal.profiles import regrouped
from initcheck.signal.reduce import missing_dims, sum_kernel
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register, shape_of
from initcheck.signal.value import Atom, Dim, Dims, Role, Value, carried, regroup, settle


class Passing(Rule):
    """The same elements under another name: the gradient, slopes included, goes straight through."""

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        node = call.node.all_input_nodes[0]
        dims = call.of(node).dims
        flow = gradient.mapped(lambda k: settle(k, dims))
        if call.out.parts:
            flow.parts = gradient.parts
        yield node, flow


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
        if call.op in ("long", "int", "bool") or value.integer:
            return value
        result = value.viewed(value.dims, value.covariance.profile, value.covariance.local)
        if call.op != "channel_shuffle":
            result.parts = value.parts
        return result


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
        yield node, gradient.mapped(lambda k: settle(_back(k, call.out, value), value.dims))


def _back(k: Kernel, out: Value, value: Value) -> Kernel:
    if len(k.profile) not in (0, len(out.positions)):
        return k.without_local()
    if k.profile and out.positions != value.positions:
        return replace(k, profile=regrouped(k.profile, out.positions, value.positions))
    return k


def positions_of(dims: Dims) -> tuple[int, ...]:
    """Sizes of the position atoms."""
    return tuple(a.size for dim in dims for a in dim if a.role == "P")


def reshaped(value: Value, shape: Sequence[int]) -> Value:
    """``value`` in another shape of the same elements."""
    if value.iid and value.constant is None:
        return restructured(value, shape)
    done = regroup(value.dims, shape)
    profile, local = carried(value, done.sources)
    if not profile and value.covariance.profile:
        profile = regrouped(value.covariance.profile, value.positions, positions_of(done.dims))
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
                if role == "P" and (becomes_heads(call, value, i - extra) or repeats_groups(call, value, i - extra)):
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


def repeats_groups(call: Call, value: Value, dim: int) -> bool:
    """Whether ``repeat_interleave`` copies a group of channels, in a tensor with positions elsewhere: one per head."""
    copied = call.op == "repeat_interleave" and dim >= 1 and bool(value.atoms("S") and value.atoms("P"))
    return copied and all(a.role == "C" for a in value.dims[dim])


def becomes_heads(call: Call, value: Value, dim: int) -> bool:
    """Whether copies are merged into the heads before them: grouped keys and values, one copy per head of queries.

    Each copy meets a query of its own, so that the copies count as units rather than as positions.
    """
    if dim < 1 or not value.atoms("P") or not all(a.role == "C" for a in value.dims[dim - 1]):
        return False
    merged = call.shape[dim] * call.shape[dim - 1]
    views = [u for u in call.node.users if u.op == "call_function"]
    return bool(views) and all(shape_of(u) == (*call.shape[: dim - 1], merged, *call.shape[dim + 1 :]) for u in views)
