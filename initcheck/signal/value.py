"""What is known of one tensor of the forward pass: moments, the role of every dim, and its expression on a grid."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from initcheck.signal.grid import Nodes, Spectrum, nodes, phase_for_kink_at
from initcheck.signal.kernel import Array, Kernel, Profile
from initcheck.signal.result import Moments

if TYPE_CHECKING:
    from initcheck.signal.texture import Texture

MASKED = -50.0
"""Logits at or below this are masks (-inf, the dtype's minimum, or Swin's -100): softmax makes them zero."""

Role = Literal["S", "C", "P"]
"""Sample, channel (units with weights of their own) or position (units that share weights)."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor of a dim that a reshape cannot be seen to break further: its role and size."""

    role: Role
    size: int


Dim = tuple[Atom, ...]
"""A dim is the product of its atoms, outermost first; a dim of size 1 has none."""
Dims = tuple[Dim, ...]

_identities = itertools.count(1)


@dataclass(eq=False, slots=True)
class Source:
    """A Gaussian variable on a grid: all elementwise expressions of it share the points, and are exact together.

    ``fluctuation``, ``inherited``: those of the value it was made of. ``straight``: u is linear in the grid's z.
    """

    u: torch.Tensor
    at: Nodes
    correlation: Kernel
    fluctuation: float = 0.0
    inherited: float = 0.0
    straight: bool = False
    identity: int = field(default_factory=lambda: next(_identities))

    def profile(self, values: Array) -> Profile:
        """How E[f(u)²] is spread over positions, f being known on the grid: where u is small, f may be or not."""
        by_position = self.correlation.resolved
        if by_position is None:
            return ()
        if self.straight:
            return by_position.profile(by_position.squares(values, None, 0.0, self.at))
        u = self.u.double().numpy()
        return by_position.profile(by_position.squares(values, u, float(self.at.weights @ u), self.at))


@dataclass(frozen=True, slots=True)
class Echo:
    """In each channel a multiple of ``base`` at the same element, plus something unrelated.

    ``factors``: quantiles, over channels, of the factor of the standardised base, for a variance of one in all.
    """

    base: Value
    factors: Array


@dataclass(eq=False, slots=True)
class Value:
    """One tensor. ``covariance`` is centred at ``mean``; ``grid``: values of an elementwise expression on ``source``.

    ``iid``: elements are independent draws (a parameter, or an elementwise function of one), so that the roles of its
    dims are whatever the other operand says. ``constant``: the exact values, where no input or parameter is involved.
    ``approximate``: the roles of some dims are a best guess.
    ``shape_on_grid``: standardised quantile function of a sum of unlike parts (None: normal).
    ``fluctuation``: relative variance, between channels, of a channel's own variance (few weights per channel).
    ``inherited``: the part of ``fluctuation`` that the operand of those weights had before.
    ``zero_sum``: standardised weights: each unit's incoming weights sum to zero, so that the input's mean drops out.
    ``kurtosis``: of a parameter's elements, E[w⁴] / E[w²]²: 3 if normal, 9/5 if spread evenly about zero.
    ``texture``: spectra of the channels, where nothing has mixed them since a depthwise convolution. ``root``: the
    tensor that it is a norm of.
    ``passed``: of a kernel that a stream meets again and again: what its last use, going back, sent up the stream.
    ``common``: of a table, the part of its variance that its rows share.
    ``positive``: no element is negative; a source made of it is log-normal rather than normal. ``negative``: no element
    is positive; likewise, mirrored.
    ``echo``: what it has of one earlier tensor, channel by channel: a norm of it, a norm of its depthwise convolution.
    ``likeness``: see ``initcheck.signal.likeness``; None until asked for.
    ``kept``: for scores under a mask, the number of unmasked keys of each query. ``mixing``: what ``softmax`` made.
    """

    dims: Dims
    mean: float
    covariance: Kernel
    iid: bool = False
    constant: torch.Tensor | None = None
    integer: bool = False
    approximate: bool = False
    origin: Value | None = None
    source: Source | None = None
    grid: torch.Tensor | None = None
    kept: Array | None = None
    mixing: Mixing | None = None
    parts: tuple[tuple[float, Value], ...] = ()
    positive: bool = False
    negative: bool = False
    shape_on_grid: Array | None = None
    fluctuation: float = 0.0
    inherited: float = 0.0
    zero_sum: bool = False
    spectrum: Spectrum | None = None
    common: float = 0.0
    echo: Echo | None = None
    kurtosis: float = 3.0
    texture: Texture | None = None
    passed: float = 0.0
    root: Value | None = None
    likeness: float | None = None
    _second: tuple[Kernel, float, Kernel] | None = field(init=False, repr=False, default=None)
    _batch: tuple[Kernel, int, tuple[int, ...], float] | None = field(init=False, repr=False, default=None)
    normalised: tuple[Kernel, float, Kernel] | None = field(init=False, repr=False, default=None)
    """Its covariance, an eps, and what batch norm makes of them: part of a stream, it meets norm after norm."""

    @property
    def second(self) -> Kernel:
        """E[x x'], not centred."""
        known = self._second
        if known is None or known[0] is not self.covariance or known[1] != self.mean:
            second = self.covariance + self.mean**2
            if second.pairs is not None:  # a matrix as large as that of the covariance
                return second
            known = self._second = (self.covariance, self.mean, second)
        return known[2]

    def batch_mean(self, samples: int, sizes: tuple[int, ...]) -> float:
        """The mean of its covariance over all pairs of a batch, as a part of many concatenations worked out once."""
        known = self._batch
        if known is None or known[0] is not self.covariance or known[1:3] != (samples, sizes):
            mean = self.covariance.mean_over(samples, sizes)
            known = self._batch = (self.covariance, samples, sizes, mean)
        return known[3]

    @property
    def variance(self) -> float:
        """Var[x] over all elements."""
        return self.covariance.same

    @property
    def moments(self) -> Moments:
        """The nested variances; what samples share at one position (position embeddings) goes to the channels."""
        k = self.covariance
        shared = max(k.cross, 0.0)
        between_samples = k.far - k.sample
        return Moments(self.mean, shared, between_samples, k.same - shared - between_samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dims."""
        return tuple(math.prod(atom.size for atom in dim) for dim in self.dims)

    def atoms(self, role: Role | None = None) -> tuple[Atom, ...]:
        """All atoms in order, or those of one role."""
        return tuple([a for dim in self.dims for a in dim if role is None or a.role == role])

    def count(self, role: Role) -> int:
        """Number of elements along that role."""
        return math.prod([a.size for dim in self.dims for a in dim if a.role == role])

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of the position atoms."""
        return tuple([a.size for dim in self.dims for a in dim if a.role == "P"])

    def own_source(self) -> Source:
        """The source its grid lives on; a value that is no expression becomes a (Gaussian) source of its own."""
        if self.source is None and self.origin is not None:
            self.source, self.grid = self.origin.own_source(), self.origin.own_grid()
        if self.source is None:
            self.source = self._log_normal() if self.one_sided else self._normal()
            self.grid = self.source.u
        return self.source

    def _normal(self) -> Source:
        std = math.sqrt(max(self.variance, 0.0))
        if self.shape_on_grid is not None and std > 0:
            from initcheck.signal.shape import copula

            correlation = self.covariance.flat() * (1.0 / self.variance)
            u = torch.from_numpy(self.mean + std * self.shape_on_grid)
            return Source(u, nodes(0), copula(self.shape_on_grid, correlation), self.fluctuation, self.inherited)
        at = nodes(phase_for_kink_at(-self.mean / std) if std > 0 else 0)
        scale = self.variance if self.variance > 0 else 1.0
        correlation = self.covariance.flat() * (1.0 / scale)
        u = torch.from_numpy(self.mean + std * at.z)
        return Source(u, at, correlation, self.fluctuation, self.inherited, straight=std > 0)

    def _log_normal(self) -> Source:
        """u = mean exp(s z - s²/2) with s² = ln(1 + Var/mean²); Cov = mean² (e^{s² rho} - 1) gives each pair's rho."""
        s2 = math.log1p(max(self.variance, 0.0) / self.mean**2)
        at = nodes(0)

        def copula(covariance: Array) -> Array:
            if s2 <= 0:
                return np.ones_like(covariance)
            return np.asarray(np.log(np.maximum(1.0 + covariance / self.mean**2, 1e-300)) / s2)

        correlation = self.covariance.flat().map(copula)
        return Source(torch.from_numpy(self.mean * np.exp(math.sqrt(s2) * at.z - s2 / 2)), at, correlation)

    @property
    def bounded(self) -> bool:
        """Whether it is a parameter whose elements are spread evenly between bounds, or a view of one."""
        return self.iid and (self.shape_on_grid is not None or (self.origin is not None and self.origin.bounded))

    @property
    def one_sided(self) -> bool:
        """Whether all of its elements are known to have the sign of its mean."""
        return (self.positive and self.mean > 0) or (self.negative and self.mean < 0)

    @property
    def normal(self) -> bool:
        """Whether its elements are taken as normally distributed."""
        if self.origin is not None and self.source is None:
            return self.origin.normal
        expression = self.source is not None and self.grid is not self.source.u
        return not (expression or self.positive or self.negative or self.shape_on_grid is not None)

    def own_grid(self) -> torch.Tensor:
        """Its values on the grid of ``own_source``."""
        self.own_source()
        assert self.grid is not None
        return self.grid

    def viewed(self, dims: Dims, profile: Profile = (), local: Array | None = None) -> Value:
        """The same elements in other dims: still the same variable, on the same grid."""
        pairs = self.covariance.pairs
        if pairs is not None and [a.size for d in dims for a in d if a.role == "P"] != [len(pairs)]:
            pairs = None
        if pairs is not None:
            profile = self.covariance.profile
        k = self.covariance
        covariance = Kernel(k.same, k.far, k.cross, k.sample, local, profile, pairs, k.resolved)
        return self.changed(
            dims=dims, covariance=covariance, origin=self, source=None, grid=None, parts=(), echo=None, likeness=None
        )

    def changed(self, **changes: object) -> Value:
        """A copy with other fields (``dataclasses.replace`` at a fraction of its cost)."""
        result = Value(*_FIELDS(self))
        for name, value in changes.items():
            setattr(result, name, value)
        return result

    def fresh(self, dims: Dims | None = None, **changes: object) -> Value:
        """A new variable with these moments (other elements, or another function, of the same population)."""
        if dims is not None:
            changes["dims"] = dims
        return self.changed(**_BLANK | changes)

    def settled(self) -> Value:
        """Itself, with classes of pairs that do not exist (no samples, no positions) made equal to those that do."""
        self.covariance = settle(self.covariance, self.dims)
        return self


_FIELDS = operator.attrgetter(*(f.name for f in fields(Value) if f.init))
_BLANK: dict[str, object] = {
    "origin": None,
    "source": None,
    "grid": None,
    "constant": None,
    "parts": (),
    "spectrum": None,
    "shape_on_grid": None,
    "fluctuation": 0.0,
    "inherited": 0.0,
    "common": 0.0,
    "echo": None,
    "texture": None,
    "root": None,
    "likeness": None,
}
"""What holds of one variable only."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Rows of non-negative weights that sum to one (softmax over keys).

    ``square``: E[sum_k p_k^2] of one row; ``overlap``: E[sum_k p_k p'_k] of two rows of different queries (or samples);
    ``keys``: number of keys; ``dim``: the dim that the rows run over. ``seen``: number of keys of each query, where it
    differs from query to query as under a causal mask. ``dropped``: 1/keep - 1 of a dropout on the weights.
    """

    square: float
    overlap: float
    keys: int
    dim: int
    logit_variance: float
    shared_variance: float = 0.0
    seen: Array | None = None
    dropped: float = 0.0


def settle(k: Kernel, dims: Dims) -> Kernel:
    """``k`` for a tensor with these dims: pairs that differ in a role that no dim has are pairs that do not differ."""
    roles = {a.role for dim in dims for a in dim}
    positions = [a.size for dim in dims for a in dim if a.role == "P"]
    local = k.local if k.local is not None and k.local.ndim == len(positions) else None
    profile: Profile = ()
    if k.profile and len(k.profile) == len(positions):
        profile = tuple(p if p is None or len(p) == n else None for p, n in zip(k.profile, positions, strict=True))
    elif k.profile:
        profile = _aligned(k.profile, positions)
    same, far, cross, sample = k.same, k.far, k.cross, k.sample
    pairs = k.pairs if k.pairs is not None and positions == [len(k.pairs)] else None
    if "P" not in roles:
        far, sample = same, cross
    if "S" not in roles:
        cross, sample = same, far
    resolved = k.resolved if k.resolved is not None and k.resolved.sizes == tuple(positions) and "S" in roles else None
    return Kernel(same, far, cross, sample, local, profile, pairs, resolved)


def _aligned(profile: Profile, positions: list[int]) -> Profile:
    """A profile along more or fewer axes, where their sizes leave one way only to tell which are which, in order."""
    bent = [p for p in profile if p is not None]
    if not bent or len(bent) > len(positions):
        return ()
    ways = itertools.combinations(range(len(positions)), len(bent))
    fitting = [way for way in ways if all(len(p) == positions[i] for p, i in zip(bent, way, strict=True))]
    if len(fitting) != 1:
        return ()
    axes = dict(zip(fitting[0], bent, strict=True))
    return tuple(axes.get(i) for i in range(len(positions)))


def dims_of(shape: Sequence[int], roles: Sequence[Role]) -> Dims:
    """One atom for each dim that is larger than 1."""
    return tuple((Atom(role, int(size)),) if size != 1 else () for size, role in zip(shape, roles, strict=True))


_DEFAULT_ROLES: dict[int, tuple[Role, ...]] = {
    0: (),
    1: ("C",),
    2: ("S", "C"),
    3: ("S", "P", "C"),
    4: ("S", "C", "P", "P"),
    5: ("S", "C", "P", "P", "P"),
}


def positions(count: int) -> tuple[Role, ...]:
    """That many position dims."""
    role: Role = "P"
    return (role,) * count


def default_roles(ndim: int) -> tuple[Role, ...]:
    """Roles of an input's dims by their number: (S, C), (S, P, C), (S, C, P, P), ..."""
    return _DEFAULT_ROLES[ndim] if ndim in _DEFAULT_ROLES else ("S", *positions(ndim - 2), "C")


def parameter_roles(ndim: int) -> tuple[Role, ...]:
    """Roles of a parameter's dims before another operand says better: (C), (P, C), (S, P, C), (S, C, P, P)."""
    return ("P", "C") if ndim == 2 else default_roles(ndim)


def iid_value(shape: Sequence[int], mean: float, variance: float, roles: Sequence[Role]) -> Value:
    """Independent elements of that mean and variance."""
    dims = dims_of(shape, roles)
    used = {a.role for dim in dims for a in dim}
    covariance = Kernel.independent(variance, "S" in used, "P" in used)
    return Value(dims, mean, covariance, iid=True)


def adopt(value: Value, dims: Dims) -> Value:
    """An iid value, its dims aligned from the right with ``dims`` of the other operand, roles read off there."""
    offset = len(dims) - len(value.dims)
    aligned = tuple(dims[i + offset] if own and i + offset >= 0 else () for i, own in enumerate(value.dims))
    aligned = tuple(
        theirs if _size(theirs) == _size(own) else own for own, theirs in zip(value.dims, aligned, strict=True)
    )
    exact = _exact_kernel(value.constant, aligned) if value.constant is not None else None
    if exact is not None:
        return value.changed(dims=aligned, covariance=exact - value.mean**2)
    used = {a.role for dim in aligned for a in dim}
    covariance = Kernel.independent(value.variance, "S" in used, "P" in used)
    return value.changed(dims=aligned, covariance=covariance)


_EXACT_LIMIT = 1 << 18


def _exact_kernel(constant: torch.Tensor, dims: Dims) -> Kernel | None:
    """E[x x'] of known values (a table of sines) for every class of pairs; None where there is nothing to tell."""
    atoms = [a for dim in dims for a in dim]
    places = [a.size for a in atoms if a.role == "P"]
    whole = math.prod(a.size for a in atoms)
    if not places or not 1 < whole <= _EXACT_LIMIT or constant.numel() != whole or not constant.is_floating_point():
        return None
    if not bool((constant.abs() < 1e6).all()):
        return None  # a mask
    order = [i for role in ("S", "P", "C") for i, a in enumerate(atoms) if a.role == role]
    count = {role: math.prod(a.size for a in atoms if a.role == role) for role in ("S", "P", "C")}
    x = constant.to(torch.float64).reshape([a.size for a in atoms]).permute(order)
    x = x.reshape(count["S"], count["P"], count["C"])
    if count["S"] > 1:
        return None
    if len(places) == 1 and places[0] <= 320:
        every = (torch.einsum("spc,sqc->pq", x, x) / count["C"]).numpy()
        k = Kernel.by_pairs(every, 0.0, 0.0)
    else:
        same = float(x.square().mean())
        far = (float(x.sum(1).square().mean()) / count["P"] - same) / (count["P"] - 1)
        k = Kernel(same, far, 0.0, 0.0)
    return replace(k, cross=k.same, sample=k.far)


def without_pairs(value: Value) -> Value:
    """The same with classes of pairs only."""
    k = value.covariance
    return value if k.pairs is None else replace(value, covariance=replace(k, pairs=None))


def _size(dim: Dim) -> int:
    return math.prod(a.size for a in dim)


def broadcast_dims(values: Sequence[Value], shape: Sequence[int]) -> Dims:
    """Dims of an elementwise result: for each position, those of an operand that has the full size there."""
    result: list[Dim] = []
    for i in range(len(shape)):
        candidates = []
        for value in values:
            index = i - (len(shape) - len(value.dims))
            if 0 <= index < len(value.dims) and _size(value.dims[index]) == shape[i]:
                candidates.append((value.iid or value.constant is not None, value.dims[index]))
        candidates.sort(key=lambda c: c[0])
        fallback: Dim = (Atom("P" if 0 < i < len(shape) - 1 else "C", int(shape[i])),)
        result.append(candidates[0][1] if candidates else (fallback if shape[i] != 1 else ()))
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Regrouping:
    """Outcome of a reshape: new dims, and for each new position atom the old one it is (or None when it was split)."""

    dims: Dims
    sources: tuple[int | None, ...]
    exact: bool


def regroup(dims: Dims, shape: Sequence[int]) -> Regrouping:
    """Distribute the atoms of ``dims``, in order, over a new ``shape``; an atom is split where a border cuts it.

    Where sizes do not divide (a reshape across unrelated dims), the border atom takes part in both: roles of the
    larger part win and ``exact`` is False.
    """
    queue: list[tuple[Atom, int | None]] = []
    position = 0
    for atom in (a for dim in dims for a in dim):
        queue.append((atom, position if atom.role == "P" else None))
        position += atom.role == "P"
    queue.reverse()
    result: list[Dim] = []
    sources: list[int | None] = []
    exact = True
    for size in shape:
        need, group = int(size), []
        while need > 1 and queue:
            atom, index = queue.pop()
            if need % atom.size == 0:
                group.append(atom)
                need //= atom.size
                if atom.role == "P":
                    sources.append(index)
            elif atom.size % need == 0:
                group.append(Atom(atom.role, need))
                queue.append((Atom(atom.role, atom.size // need), None))
                if atom.role == "P":
                    sources.append(None)
                need = 1
            else:
                exact = False
                divisor = math.gcd(need, atom.size)
                role = group[0].role if group and group[0].size > atom.size else atom.role
                group.append(Atom(role, need))
                if role == "P":
                    sources.append(None)
                if atom.size // divisor > 1:
                    queue.append((Atom(atom.role, max(atom.size * 1 // need, 1)), None))
                need = 1
        if need > 1:
            exact = False
            group.append(Atom(group[-1].role if group else "P", need))
            if group[-1].role == "P":
                sources.append(None)
        result.append(tuple(group))
    return Regrouping(tuple(result), tuple(sources), exact)


def carried(value: Value, sources: Sequence[int | None]) -> tuple[Profile, Array | None]:
    """Profile and local kernel of the position atoms after they were reordered, split or dropped."""
    profile: Profile = ()
    old = value.covariance.profile
    if old and all(s is not None for s in sources):
        profile = tuple(old[s] for s in sources if s is not None)
    local = value.covariance.local
    if local is not None:
        kept = [s for s in sources if s is not None]
        dropped = [a for a in range(local.ndim) if a not in kept]
        if len(set(kept)) != len(kept):
            return profile, None
        reduced = np.transpose(local, [*dropped, *kept])[(0,) * len(dropped)]
        shape = iter(reduced.shape)
        local = reduced.reshape([1 if s is None else next(shape) for s in sources])
        if local.size == 1:
            local = None
    return profile, local


def axis_of(dims: Dims, dim: int) -> int:
    """Index of a dim among the position atoms."""
    return sum(a.role == "P" for d in dims[:dim] for a in d)
