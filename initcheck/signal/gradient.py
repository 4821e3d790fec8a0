"""The gradient of one tensor: a sum of independent terms, each a kernel times a slope on the value's grid.

A term is delta * w(u): delta comes from random weights downstream and is independent of u; w is the derivative of the
elementwise expression between u's source and the place where delta arrived. Keeping w explicit makes branches of one
expression (x * sigmoid(x)) add up coherently, and lets batch norm see E[g x] (its backward removes what lies along x).
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from initcheck.signal.grid import Spectrum
from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.result import GradientKernel
from initcheck.signal.shape import by_value, matched
from initcheck.signal.texture import Texture, joined
from initcheck.signal.value import Source, Value

_identities = itertools.count(1)


@dataclass(eq=False, slots=True)
class Term:
    """delta (its kernel) times ``slope`` (None: 1) on the grid of ``source``. Never changed once made."""

    kernel: Kernel
    slope: torch.Tensor | None = None
    source: Source | None = None
    identity: int = field(default_factory=lambda: next(_identities))
    _effective: list[Kernel] = field(init=False, repr=False, compare=False, default_factory=list)

    @classmethod
    def reaching(cls, total: Kernel, slope: Array, source: Source, identity: int | None = None) -> Term:
        """The term with that slope that is ``total`` in all."""
        delta = matched(total, slope, source)
        number = next(_identities) if identity is None else identity
        term = cls(delta, torch.from_numpy(slope), source, number)
        if total.local is None and total.pairs is None and source.correlation.local is None:
            same, far, cross, sample = (a if b else 0.0 for a, b in zip(total.classes, delta.classes, strict=True))
            term._effective.append(Kernel(same, far, cross, sample, None, total.profile))
        return term

    def effective(self) -> Kernel:
        """E[g g'] = K_delta times the kernel of the slope, for every class of pairs."""
        if not self._effective:
            self._effective.append(self.weighted(None))
        return self._effective[0]

    def weighted(self, by: torch.Tensor | None) -> Kernel:
        """E[g f(u) g' f(u')], where ``by`` holds f on the source's grid."""
        if self.source is None:
            return self.kernel
        if self.slope is None:
            if by is None:
                return self.kernel
            values = by
        else:
            values = self.slope if by is None else self.slope * by
        numbers = values.detach().to(torch.float64).numpy()
        own = Spectrum.of(numbers, self.source.at).kernel(self.source.correlation)
        profile = self.source.profile(numbers)
        return self.kernel * (own.bent(profile) if profile else own)


@dataclass(slots=True)
class Gradient:
    """All terms that reached a tensor.

    ``parts``: for a concatenation of unlike parts, the gradient of each, which may be a concatenation itself.
    ``weight_bias``: a factor of the second moment that holds for this tensor but not beyond the weights that made it
    (E[1/sum w²] there, E[w²/sum w²] = 1/n beyond). ``per_channel``: each channel was divided by its own std, so that
    the size of its weights does not show in it.
    ``texture``: how it is spread over channels and frequencies, where nothing mixes channels.
    ``unbounded``: by one weight alone, E[1/w²]: beyond the weight all is as usual, here the mean square is no number.
    """

    terms: dict[tuple[int, int], Term] = field(default_factory=dict)
    parts: tuple[Gradient, ...] = ()
    weight_bias: float = 1.0
    per_channel: bool = False
    unbounded: bool = False
    texture: Texture | None = None
    _total: Kernel | None = field(init=False, repr=False, compare=False, default=None)

    @classmethod
    def of(cls, *terms: Term) -> Gradient:
        """The gradient with these terms."""
        gradient = cls()
        for term in terms:
            gradient.add(term)
        return gradient

    @classmethod
    def fresh(cls, kernel: Kernel) -> Gradient:
        """One new term, independent of all others and of the value."""
        return cls.of(Term(kernel))

    def add(self, term: Term) -> None:
        """Add a term; slopes of the same delta on the same source add up."""
        self._total = None
        source = 0 if term.source is None else term.source.identity
        key = (term.identity, source)
        if key not in self.terms:
            self.terms[key] = term
            return
        old = self.terms[key]
        if old.source is None:
            self.terms[key] = replace(old, kernel=old.kernel * 4.0)  # delta + delta
            return
        ones = torch.ones_like(old.source.u)
        slope = (ones if old.slope is None else old.slope) + (ones if term.slope is None else term.slope)
        self.terms[key] = replace(old, slope=slope)

    def merge(self, other: Gradient) -> None:
        """Add all terms of ``other``."""
        for term in other.terms.values():
            self.add(term)

    def copied(self) -> Gradient:
        """The same terms, to be added to."""
        result = replace(self, terms=dict(self.terms))
        result._total = self._total
        return result

    def beside(self, other: Gradient) -> Gradient:
        """The sum of what two uses of a tensor send back; parts of a concatenation are added one by one."""
        count = max(len(self.parts), len(other.parts))
        pairs = zip(self.parts or (self,) * count, other.parts or (other,) * count, strict=False)
        whole = Gradient(dict(self.terms))
        whole.merge(other)
        texture = None
        if self.texture is not None or other.texture is not None:
            texture = joined([(g.texture, g.total().same) for g in (self, other)])
        if texture is not None:
            whole = whole.scaled(math.sqrt(float(texture.channels.mean())))
            whole.texture = texture.level()
        whole.parts = tuple(mine.beside(theirs) for mine, theirs in pairs)
        whole.unbounded = self.unbounded or other.unbounded
        if self.weight_bias != 1.0 or other.weight_bias != 1.0:
            first, second = self.total().same, other.total().same
            left = first / self.weight_bias + second / other.weight_bias
            whole.weight_bias = (first + second) / left if left > 0 else 1.0
        return whole

    def total(self) -> Kernel:
        """E[g g'] of the sum, terms being independent."""
        if self._total is None:
            kernels = [term.effective() for term in self.terms.values()]
            self._total = functools.reduce(operator.add, kernels)
        return self._total

    def weighted(self, source: Source, by: torch.Tensor) -> Kernel:
        """E[g f(u) g' f(u')]; terms that know nothing of u are multiplied by the kernel of f."""
        result = Kernel.constant(0.0)
        for term in self.terms.values():
            known = term if term.source is source else Term(term.effective(), None, source)
            result = result + known.weighted(by)
        return result

    def square_slope(self, value: Value) -> Array | None:
        """E[g² | value] / E[delta²] on the value's own grid, from all terms; None where none has a slope there."""
        source = value.own_source()
        square, weight, sloped = np.zeros_like(source.at.z), 0.0, False
        for term in self.terms.values():
            if term.source is source and term.slope is not None:
                square = square + term.kernel.same * term.slope.double().numpy() ** 2
                sloped = True
            else:
                square = square + term.effective().same
            weight += term.kernel.same
        if not sloped or not weight > 0 or not math.isfinite(weight):
            return None
        return by_value(square / weight, source.u.double().numpy(), source.at.weights)

    def times(self, slope: torch.Tensor, value: Value) -> Gradient:
        """The gradient times an elementwise derivative on ``value``'s grid."""
        source = value.own_source()
        result = Gradient()
        for term in self.terms.values():
            if term.source is not None and term.source is not source:
                term = Term(term.effective(), None, source, term.identity)
            new = slope if term.slope is None else term.slope * slope
            result.add(replace(term, slope=new, source=source))
        result.weight_bias, result.per_channel = self.weight_bias, self.per_channel
        if self.texture is not None:
            result.texture = self.texture.activated(steady_share(slope, source))
        return result

    def scaled(self, factor: float) -> Gradient:
        """The gradient times a number."""
        return self.mapped(lambda k: k * factor**2)

    def mapped(self, function: Callable[[Kernel], Kernel]) -> Gradient:
        """Each delta's kernel mapped (linearly), identities and slopes kept."""
        result = Gradient.of(*(replace(t, kernel=function(t.kernel)) for t in self.terms.values()))
        result.texture = self.texture
        return result

    def textured(self, texture: Texture | None) -> Gradient:
        """Itself, spread like that."""
        self.texture = texture
        return self

    def collapsed(self) -> Kernel:
        """The kernel of the whole, to start a new term from."""
        return self.total()

    @property
    def result(self) -> GradientKernel:
        """What is reported."""
        k = self.total()
        return GradientKernel(k.same, k.far, k.sample)


def steady_share(slope: torch.Tensor, source: Source) -> float:
    """E[f']² / E[f'²]: what the gradient keeps of its pattern over positions when it is multiplied by f'."""
    values = slope.detach().double().numpy()
    square = float(source.at.weights @ values**2)
    return min(float(source.at.weights @ values) ** 2 / square, 1.0) if square > 0 else 1.0
