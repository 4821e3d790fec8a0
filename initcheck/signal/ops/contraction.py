"""einsum, addmm and batched relatives: the products of ``attention`` and ``linear`` under other names."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch.fx

from initcheck.signal.gradient import Gradient, Term
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.attention import coherent, is_weight, lean, product, product_gradients
from initcheck.signal.ops.linear import Weights, contract, uncontract
from initcheck.signal.products import alike
from initcheck.signal.rule import Call, Flow, Result, Rule, Unknown, register
from initcheck.signal.value import Atom, Dim, Value, settle


@dataclass(frozen=True, slots=True)
class Equation:
    """An einsum of two operands, by letter: shared batch, summed, and each operand's own."""

    first: str
    second: str
    out: str

    @property
    def summed(self) -> str:
        """Letters that both have and the output lacks."""
        return "".join(c for c in self.first if c in self.second and c not in self.out)

    @property
    def batch(self) -> str:
        """Letters that all three have."""
        return "".join(c for c in self.first if c in self.second and c in self.out)

    def own(self, operand: str) -> str:
        """Letters of one operand only."""
        other = self.second if operand == self.first else self.first
        return "".join(c for c in operand if c not in other)


def parse(equation: str, ndims: tuple[int, ...], ndim_out: int) -> Equation:
    """The letters, ellipses spelled out.

    Raises:
        Unknown: for other than two operands, repeated letters, and letters that only one operand has but the output
        lacks.
    """
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or len(ndims) != 2:
        raise Unknown("einsum of other than two tensors")
    spare = "0123456789"
    filled = []
    for term, ndim in zip(terms, ndims, strict=True):
        if "..." in term:
            extra = ndim - (len(term) - 3)
            term = term.replace("...", spare[len(spare) - extra :] if extra else "")
        filled.append(term)
    if not out and "->" not in equation:
        letters = "".join(filled)
        out = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if "..." in out:
        extra = ndim_out - (len(out) - 3)
        out = out.replace("...", spare[len(spare) - extra :] if extra else "")
    result = Equation(filled[0], filled[1], out)
    lost = [c for c in filled[0] + filled[1] if c not in out and not (c in filled[0] and c in filled[1])]
    if lost or any(len(set(t)) != len(t) for t in filled):
        raise Unknown(f"einsum {equation}")
    return result


@register
class Einsum(Rule):
    """A sum of products by letters: with weights a random sum, of two activations a batched matrix product."""

    ops: tuple[str, ...] = ("einsum",)
    signature: tuple[str, ...] = ("equation", "first", "second")

    def _operands(self, call: Call) -> tuple[Equation, list[torch.fx.Node], list[Value]]:
        nodes = list(call.node.all_input_nodes)
        values = [call.of(n) for n in nodes]
        equation = parse(str(call.node.args[0]), tuple(len(v.dims) for v in values), len(call.shape))
        return equation, nodes, values

    def _order(self, call: Call) -> list[int] | None:
        """For an einsum of one tensor that only reorders dims: the input dim of each output dim."""
        if len(call.node.all_input_nodes) != 1:
            return None
        left, _, out = str(call.node.args[0]).replace(" ", "").partition("->")
        if sorted(left) != sorted(out) or "." in left:
            raise Unknown("einsum of one tensor that sums")
        return [left.index(c) for c in out]

    def forward(self, call: Call) -> Result:
        order = self._order(call)
        if order is not None:
            value = call.of(call.node.all_input_nodes[0])
            return value.viewed(tuple(value.dims[d] for d in order))
        equation, nodes, (a, b) = self._operands(call)
        if is_weight(b) or is_weight(a):
            x, w, letters, other = (a, b, equation.first, equation.second)
            if not is_weight(b):
                x, w, letters, other = b, a, equation.second, equation.first
            return self._weighted(equation, x, w, letters, other)
        left, right = self._matrices(equation, a, b)
        value = product(
            left,
            right,
            self._matrix_dims(left, right),
            alike(nodes[0], nodes[1], call.values),
            lean(call, nodes[0], nodes[1]),
        )
        return self._arranged(equation, value, a, b)

    def _weighted(self, equation: Equation, x: Value, w: Value, letters: str, other: str) -> Value:
        over = tuple(i for i, c in enumerate(letters) if c in equation.summed)
        new = [c for c in equation.out if c not in letters]
        sizes = dict(zip(other, w.shape, strict=True))
        result = contract(x, over, Weights(w.mean, w.variance), math.prod(sizes[c] for c in new))
        role = result.dims[-1][0].role if result.dims[-1] else "C"
        left = iter(result.dims[:-1])
        dims: dict[str, Dim] = {c: next(left) for i, c in enumerate(letters) if i not in over}
        dims.update({c: (Atom(role, sizes[c]),) if sizes[c] > 1 else () for c in new})
        k = result.covariance.without_local()
        k = Kernel(k.same, k.far, k.cross, k.sample)
        return result.fresh(tuple(dims[c] for c in equation.out), covariance=k).settled()

    def _matrices(self, equation: Equation, a: Value, b: Value) -> tuple[Value, Value]:
        left = rearranged(a, equation.first, [*equation.batch, equation.own(equation.first), equation.summed])
        right = rearranged(b, equation.second, [*equation.batch, equation.summed, equation.own(equation.second)])
        return left, right

    def _matrix_dims(self, left: Value, right: Value) -> tuple[Dim, ...]:
        return (*left.dims[:-2], left.dims[-2], right.dims[-1])

    def _arranged(self, equation: Equation, value: Value, a: Value, b: Value) -> Value:
        dims = {**dict(zip(equation.second, b.dims, strict=True)), **dict(zip(equation.first, a.dims, strict=True))}
        k = value.covariance
        k = Kernel(k.same, k.far, k.cross, k.sample)
        return value.fresh(tuple(dims[c] for c in equation.out), covariance=k).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        if self._order(call) is not None:
            node = call.node.all_input_nodes[0]
            yield node, gradient.mapped(lambda k: settle(bare(k), call.of(node).dims))
            return
        equation, nodes, (a, b) = self._operands(call)
        g = gradient.collapsed().without_local()
        if is_weight(b) or is_weight(a):
            x, w, letters, node = (a, b, equation.first, nodes[0])
            if not is_weight(b):
                x, w, letters, node = b, a, equation.second, nodes[1]
            over = tuple(i for i, c in enumerate(letters) if c in equation.summed)
            new = math.prod(call.shape) / max(
                math.prod(n for c, n in zip(letters, x.shape, strict=True) if c in equation.out), 1
            )
            yield node, Gradient.fresh(settle(uncontract(g, x, over, Weights(w.mean, w.variance), round(new)), x.dims))
            return
        left, right = self._matrices(equation, a, b)
        to_a, to_b = product_gradients(g, left, right, coherent(call, (nodes[0], nodes[1])))
        yield nodes[0], Gradient.fresh(settle(bare(to_a), a.dims))
        yield nodes[1], Gradient.fresh(settle(bare(to_b), b.dims))


def bare(k: Kernel) -> Kernel:
    """The classes of pairs only."""
    return Kernel(k.same, k.far, k.cross, k.sample)


def rearranged(value: Value, letters: str, groups: list[str]) -> Value:
    """The dims in another order, those of one group merged."""
    dims = dict(zip(letters, value.dims, strict=True))
    merged = tuple(tuple(a for c in group for a in dims[c]) for group in groups)
    result = value.fresh(merged, covariance=bare(value.covariance))
    if value.mixing is not None:
        letter = letters[value.mixing.dim]
        where = next((i for i, group in enumerate(groups) if group == letter), None)
        result.mixing = replace(value.mixing, dim=where) if where is not None else None
    return result


@register
class AddMatMul(Rule):
    """beta input + alpha (a @ b): a linear layer with its weight the other way round, or a score with a bias added."""

    ops: tuple[str, ...] = ("addmm", "baddbmm", "addbmm", "addmv")
    signature: tuple[str, ...] = ("input", "batch1", "batch2", "beta", "alpha")

    def forward(self, call: Call) -> Result:
        base, a, b = call.value("input"), call.value("batch1"), call.value("batch2")
        beta, alpha = float(call.plain("beta", 1)), float(call.plain("alpha", 1))
        if is_weight(b):
            units = b.shape[-1] if len(b.dims) > 1 else 1
            value = contract(a, (len(a.dims) - 1,), Weights(b.mean * alpha, b.variance * alpha**2), units)
        else:
            factors = call.node_of("batch1"), call.node_of("batch2")
            value = product(a, b, (*a.dims[:-1], b.dims[-1]), alike(*factors, call.values), lean(call, *factors))
            value = Value(value.dims, value.mean * alpha, value.covariance * alpha**2)
        if beta == 0:
            return value
        if is_weight(base):
            k = value.covariance + base.variance * beta**2
        else:
            k = value.covariance + base.covariance * beta**2
        kept = base.kept if base.kept is not None else value.kept
        return Value(value.dims, value.mean + beta * base.mean, k, approximate=value.approximate, kept=kept).settled()

    def backward(self, call: Call, gradient: Gradient) -> Flow:
        base, a, b = call.value("input"), call.value("batch1"), call.value("batch2")
        beta, alpha = float(call.plain("beta", 1)), float(call.plain("alpha", 1))
        g = gradient.collapsed()
        if is_weight(b):
            units = b.shape[-1] if len(b.dims) > 1 else 1
            weights = Weights(b.mean * alpha, b.variance * alpha**2)
            yield call.node_of("batch1"), Gradient.fresh(uncontract(g, a, (len(a.dims) - 1,), weights, units))
        else:
            factors = call.node_of("batch1"), call.node_of("batch2")
            to_a, to_b = product_gradients(g * alpha**2, a, b, coherent(call, factors))
            yield call.node_of("batch1"), Gradient.fresh(settle(bare(to_a), a.dims))
            yield call.node_of("batch2"), Gradient.fresh(settle(bare(to_b), b.dims))
        if not is_weight(base) and beta:
            yield call.node_of("input"), Gradient.of(Term(settle(bare(g * beta**2), base.dims)))
