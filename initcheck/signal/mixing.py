"""Rows of softmax weights that mix positions: what they keep, and what comes back through them.

A row p of query q has mean 1/n_q on the n_q keys that it sees, and fluctuates about it: p = 1/n_q + d with
E[d_k d_l] = e_q (delta_kl - 1/n_q) / (n_q - 1), so that sum_k E[d_k²] = e_q = E[sum p²] - 1/n_q. Under a causal mask
queries see different numbers of keys: then every pair of positions is carried (``Kernel.pairs``), because early
positions average less, later ones overlap, and the first keys hear from all queries.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from initcheck.signal.kernel import Array, Kernel
from initcheck.signal.profiles import Windows, product, product_mean, window_axes
from initcheck.signal.value import Dims, Mixing, Value, settle

PAIRS_LIMIT = 320
"""Every pair of positions is carried for at most so many."""


_RESOLVED = 40.0
"""Variance of the logits up to which the grid below resolves the steps of e^{-tX}."""


@functools.lru_cache(maxsize=512)
def _laplace(variance: float) -> tuple[Array, tuple[Array, ...]]:
    """ln t, and E[X^m e^{-tX}] for m = 0, 2, 3, 4 of X = e^x, x normal of that variance."""
    std = math.sqrt(variance)
    z = np.linspace(-8.0, 8.0, 161)
    weights = np.exp(-0.5 * z * z)
    weights /= weights.sum()
    x = np.exp(std * z - variance / 2)
    log_t = np.linspace(-9.0 * std - variance - 16.0, 9.0 * std + variance + 6.0, 360)
    decay = np.exp(-np.exp(log_t)[:, None] * x[None, :]) * weights
    return log_t, (decay.sum(1), decay @ x**2, decay @ x**3, decay @ x**4)


def row_moments(keys: Array, variance: float) -> tuple[Array, Array, Array]:
    """E[sum_k p_k²], E[sum_k p_k³] and E[(sum_k p_k²)²] of softmax rows over n Gaussian logits of that variance.

    With X = e^x and S the sum of n of them, 1/S^m = int t^{m-1} e^{-tS} dt / (m-1)!, so that
    E[sum p^m] = n/(m-1)! int t^{m-1} E[X^m e^{-tX}] E[e^{-tX}]^{n-1} dt. Rows of a large std s are one-hot but for ties
    of the two largest logits, with p = sigmoid(gap): what lacks is a/s + b/s², with a = f_n int (1 - moment) dgap and
    f_n the density of the gap at zero, and b from the largest variance that the grid resolves.
    """
    counts, where = np.unique(np.maximum(keys, 1.0), return_inverse=True)
    rounded = 0.0 if variance < 1e-12 else float(f"{min(variance, _RESOLVED):.3g}")
    moments: tuple[Array, ...] = _moments_at(counts.tobytes(), rounded)
    if variance > _RESOLVED:
        std, resolved = math.sqrt(variance), math.sqrt(_RESOLVED)
        ties = [_closest(n) for n in counts]
        leading = [np.multiply(ties, share) for share in (1.0, 1.5, 5 / 3)]  # int 2pq, 3pq, 4pq - 4p²q² over gaps > 0
        moments = tuple(
            1.0 - a / std - (1.0 - moment - a / resolved) * _RESOLVED / variance
            for moment, a in zip(moments, leading, strict=True)
        )
    second, third, squared = (moment[where] for moment in moments)
    return second, third, squared


@functools.lru_cache(maxsize=512)
def _closest(n: float) -> float:
    """Density at zero of the gap between the two largest of n standard normals: n (n - 1) int phi² Phi^{n-2}."""
    if n < 2.0:
        return 0.0
    x = np.linspace(-9.0, 9.0, 721)
    below = 0.5 * (1.0 + torch.erf(torch.from_numpy(x) / math.sqrt(2.0)).numpy())
    return float(n * (n - 1) * (np.exp(-x * x) / (2 * math.pi) * below ** (n - 2)).sum() * (x[1] - x[0]))


@functools.lru_cache(maxsize=256)
def _moments_at(each: bytes, variance: float) -> tuple[Array, Array, Array]:
    """``row_moments`` for distinct numbers of keys."""
    counts = np.frombuffer(each)
    if variance == 0.0 or (len(counts) == 1 and counts[0] == 1.0):
        return 1.0 / counts, 1.0 / counts**2, 1.0 / counts**2
    log_t, (plain, square, cube, fourth) = _laplace(variance)
    t, step = np.exp(log_t), log_t[1] - log_t[0]
    rest = np.power(plain[:, None], counts - 1.0)
    second = counts * ((t * t * square) @ rest) * step
    third = counts * ((t**3 * cube / 2.0) @ rest) * step
    others = np.power(plain[:, None], np.maximum(counts - 2.0, 0.0))
    squared = counts * ((t**4 * fourth / 6.0) @ rest) * step
    squared = squared + counts * (counts - 1) * ((t**4 * square**2 / 6.0) @ others) * step
    low = 1.0 / counts
    return (
        np.clip(second, low, 1.0),
        np.clip(third, low**2, 1.0),
        np.clip(squared, low**2, 1.0),
    )


def concentration(keys: Array, variance: float) -> Array:
    """E[sum_k p_k²] of softmax rows."""
    return row_moments(keys, variance)[0]


def centred_square(keys: Array, variance: float) -> Array:
    """E[sum_k p_k² (a_k - sum_l p_l a_l)²] for independent a of unit variance: S2 - 2 S3 + S2²."""
    second, third, squared = row_moments(keys, variance)
    return np.asarray(np.maximum(second - 2 * third + squared, 0.0))


def tilt(keys: Array, variance: float) -> Array:
    """E[(sum_k p_k z_k)²] - E[sum_k p_k²] for softmax rows p of logits s z, z standard normal: how far rows lean.

    By Stein's lemma, twice, s² E[1 - S2 - 6 S3 + 6 S2²] with S_m = sum_k p_k^m; s² for many keys of small logits.
    """
    second, third, squared = row_moments(keys, variance)
    return np.asarray(variance * np.maximum(1.0 - second - 6 * third + 6 * squared, 0.0))


def coherence(m: Mixing, chance: float) -> float:
    """By how much the pairs of keys add to E[(sum_k ds_k k_k)²], relative to the keys one by one; see ``to_scores``."""
    whole = max(m.keys, 1)
    square = float(centred_square(np.array([float(whole)]) if m.seen is None else m.seen, m.logit_variance).mean())
    uniform = (1 - 1 / whole) / whole
    if not (square > 0 and uniform > 0):
        return 0.0
    return (whole - 1) / whole * chance * min(1 / square, 1 / uniform)


def ties_occur(keys: float, variance: float, rows: float) -> bool:
    """Whether so many rows hold one that is not one-hot, so that a gradient comes back through some.

    Their number is rows E[X]² / E[X²] of X = 4 p² q² at ties, which are int X = 1/3 and int X² = 2/35 over gaps > 0.
    """
    return variance <= _RESOLVED or rows * _closest(keys) * (35 / 18) >= math.sqrt(variance)


def seen_by_query(rows: Array, queries: int, keys: int) -> Array | None:
    """How many keys each query sees, if that looks causal: no query sees beyond its own place; else None."""
    if len(rows) < queries or len(rows) % queries or np.ptp(rows) == 0:
        return None
    seen = np.maximum(rows.reshape(-1, queries).mean(0), 1.0)
    return seen if queries == keys and bool(np.all(seen <= np.arange(1, queries + 1))) else None


def mean_weights(seen: Array) -> Array:
    """E[p]: 1/n on the last n keys up to the query's own place."""
    place = np.arange(len(seen))
    distance = place[:, None] - place[None, :]
    inside = (distance >= 0) & (distance < np.ceil(seen)[:, None])
    return np.asarray(inside / inside.sum(1, keepdims=True))


def by_pairs(m: Mixing, positions: tuple[int, ...]) -> bool:
    """Whether every pair of positions is carried through these rows."""
    return m.seen is not None and len(m.seen) <= PAIRS_LIMIT and positions == (len(m.seen),)


def excess(m: Mixing, seen: Array) -> Array:
    """e_q = E[sum p²] - 1/n of each query."""
    return np.asarray(np.maximum(concentration(seen, m.logit_variance) - 1.0 / seen, 0.0))


def mix(v: Value, m: Mixing, dims: Dims, leaning: Kernel | None = None) -> Value:
    """sum_k p_k v_k with rows p that sum to one: what positions share is kept, what is their own is averaged.

    E[y²] = far + (same - far) E[sum p²]; two rows overlap by ``overlap``. ``leaning``: 1/C times how queries are alike,
    where keys and values are projections of the same C-dimensional tokens. A channel of v is then correlated with the
    logits of a query, the square of the correlation being 1/C over random weights: by so much of ``tilt`` is v averaged
    less, and queries that are alike lean the same way, whichever sample they are of.
    """
    k = v.covariance
    if by_pairs(m, v.positions):
        return Value(
            dims, v.mean, mixed_pairs(k, m, leaning.same if leaning else 0.0), approximate=v.approximate
        ).settled()
    windows = Windows.of(k.profile, window_axes(v.positions, m.keys), m.logit_variance)
    own, other = windows.own(k.same, k.far), windows.own(k.cross, k.sample)
    square = m.square * (1 + m.dropped)
    lean = Kernel.constant(0.0)
    if leaning is not None:
        counts = np.array([float(max(m.keys, 1))]) if m.seen is None else m.seen
        lean = leaning * (own * float(tilt(counts, m.logit_variance).mean()))
    places, queries = math.prod(a.size for d in dims for a in d if a.role == "P"), math.prod(a.size for a in dims[-2])
    near = (queries - 1) / (places - 1) if places > queries else 1.0  # share of other positions in the same window
    alike = windows.squared
    apart = near * alike + (1 - near) * windows.unlike(places / max(queries, 1))
    covariance = Kernel(
        k.far * alike + own * square + lean.same,
        k.far * apart + own * m.overlap * near + lean.far,
        k.sample * alike + other * m.overlap + lean.cross,
        k.sample * apart + other * m.overlap * near + lean.sample,
        profile=windows.mixed(
            own * square + lean.same, k.far * alike, len([a for d in dims for a in d if a.role == "P"])
        ),
    )
    return Value(dims, v.mean, covariance, approximate=v.approximate).settled()


def mixed_pairs(k: Kernel, m: Mixing, chance: float = 0.0) -> Kernel:
    """K' = P K Pᵀ + what the fluctuation of the rows adds: e_q n/(n-1) of the variance between the keys that q sees."""
    assert m.seen is not None
    size, weights = len(m.seen), mean_weights(m.seen)
    every = k.between_positions(size)
    mixed = weights @ every @ weights.T
    between = np.maximum(weights @ every.diagonal() - mixed.diagonal(), 0.0)
    n = np.maximum(m.seen, 1.0)
    leant = chance * tilt(n, m.logit_variance) if chance else 0.0
    extra = np.sqrt((excess(m, n) + leant) * between * n / np.maximum(n - 1, 1.0))
    alike = np.expm1(min(m.shared_variance, 50.0)) / max(np.expm1(min(m.logit_variance, 50.0)), 1e-30)
    joint = np.multiply.outer(extra, extra) * min(max(alike, 0.0), 1.0) * overlap(weights)
    np.fill_diagonal(joint, extra**2 + m.dropped * concentration(n, m.logit_variance) * (weights @ every.diagonal()))
    cross = weights @ (Kernel(k.cross, k.sample, 0.0, 0.0).between_positions(size)) @ weights.T
    others = (cross.sum() - cross.trace()) / max(size * (size - 1), 1)
    return Kernel.by_pairs(mixed + joint, float(cross.trace()) / size, float(others))


def overlap(weights: Array) -> Array:
    """Share of the keys of two queries that both see, relative to the geometric mean of their numbers."""
    common = weights @ weights.T
    own = np.sqrt(common.diagonal())
    return np.asarray(common / np.multiply.outer(own, own))


def unmix(g: Kernel, m: Mixing, queries: int, keys: int, dims: Dims, sizes: tuple[int, ...] = ()) -> Kernel:
    """Gradient of v in y_q = sum_k p_qk v_k: sum over queries of p g, with E[sum_k p_k²] = square per query.

    ``dims``: those of v; ``sizes``: the position axes of g.
    """
    positions = tuple(a.size for dim in dims for a in dim if a.role == "P")
    if by_pairs(m, positions):
        return settle(unmixed_pairs(g, m), dims)
    n = max(keys, 1)
    places = math.prod(positions)
    near = (n - 1) / (places - 1) if places > n else 1.0  # share of other positions that are in the same window
    uniform, own = 1 / n, max(m.square - 1 / n, 0.0)
    alike = max(m.overlap - 1 / n, 0.0)
    profile = g.profile if len(g.profile) == len(sizes) else ()
    windows = Windows.of(profile, window_axes(sizes, queries), m.logit_variance)
    alone, across = windows.own(g.same, g.far), windows.own(g.cross, g.sample)
    many = queries * windows.squared
    # sum over queries q, q' of E[p_qk p_q'l] G_qq': the rows' mean 1/n reaches all keys alike
    common = queries * uniform**2 * (alone + many * g.far)
    fluctuation = queries * uniform * (own * g.same + (queries - 1) * windows.squared * alike * g.far)
    dropped = queries * uniform * m.square * m.dropped * g.same
    beyond = (1 - near) * (queries * uniform) ** 2 * windows.unlike(places / n)
    far = near * max(common - fluctuation / max(n - 1, 1), 0.0) + beyond * g.far
    between = queries * uniform**2 * (across + many * g.sample)
    varied = queries * uniform * alike * (g.cross + (queries - 1) * windows.squared * g.sample)
    sample = near * max(between - varied / max(n - 1, 1), 0.0) + beyond * g.sample
    same = common + fluctuation + dropped
    spread = windows.mixed(alone, many * g.far, len(positions))
    return settle(Kernel(same, min(far, same), between + varied, sample, None, spread), dims)


def unmixed_pairs(g: Kernel, m: Mixing) -> Kernel:
    """K' = Pᵀ K P + diagonal: key k hears from the queries that see it, with the fluctuation of its own weight."""
    assert m.seen is not None
    size, weights = len(m.seen), mean_weights(m.seen)
    every = g.between_positions(size)
    result = weights.T @ every @ weights
    # excess per key, e_q/n_q on each key that q sees, and 1/keep - 1 of all the square
    n = np.maximum(m.seen, 1.0)
    own = excess(m, n) + m.dropped * concentration(n, m.logit_variance)
    result[np.diag_indices(size)] += weights.T @ (own * every.diagonal())
    cross = weights.T @ Kernel(g.cross, g.sample, 0.0, 0.0).between_positions(size) @ weights
    others = (cross.sum() - cross.trace()) / max(size * (size - 1), 1)
    return Kernel.by_pairs(result, float(cross.trace()) / size, float(others))


def to_scores(g: Kernel, v: Value, k: Value, q: Value, m: Mixing, chance: float = 0.0) -> tuple[Kernel, Kernel]:
    """E[dq dq'] and E[dk dk'] of one channel for unit scale and one channel of values.

    Through the softmax, ds_k = p_k (dp_k - sum_l p_l dp_l) with dp_k = g . v_k: only what keys have of their own in v
    counts. dq = sum_k ds_k k_k and dk = sum_q ds_k q_q; keys and values that are alike in v are alike in k: with
    k = A x and v = B x of the same C-dimensional tokens, E[(v_k v_l)(k_k k_l)] exceeds the product of the means by the
    fluctuation 1/C of (x_k x_l)/C, for n keys a part n/C of the whole. Queries see the same keys and values: what their
    gradients share is also that of dq, and adds up in dk as far as the queries themselves are alike. ``chance``: 1/C.
    """
    queries = q.shape[-2]
    if by_pairs(m, v.positions) and k.positions == v.positions == q.positions:
        assert m.seen is not None
        size, p = len(m.seen), mean_weights(m.seen)
        values, keys = (x.covariance.between_positions(size) for x in (v, k))
        n = np.maximum(m.seen, 1.0)
        uniform, passed = (1 - 1 / n) / n, centred_square(n, m.logit_variance)
        beyond = np.maximum(passed * (1 + m.dropped) - uniform, 0.0)
        bent = np.where(
            uniform > 0, np.minimum(passed / np.maximum(uniform, 1e-30), 1.0), 1.0
        )  # one-hot rows pass less
        of_values, of_keys = p @ values, p @ keys
        mean_values, mean_keys = of_values @ p.T, of_keys @ p.T
        moments = g.between_positions(size)
        together = values * keys
        alike = chance * np.sqrt(np.multiply.outer(together.diagonal(), together.diagonal()))
        np.fill_diagonal(alike, 0.0)
        both = ((p @ (together + alike)) * p).sum(1)
        row = both - 2 * (p * of_values * of_keys).sum(1) + mean_values.diagonal() * mean_keys.diagonal()
        # what one query makes of keys with nothing in common beyond their mean: the fluctuation of its own row
        own = (p * (values.diagonal() - 2 * of_values + mean_values.diagonal()[:, None]) * keys.diagonal()).sum(1)
        spread = beyond / np.maximum(1 - 1 / n, 1 / n)
        to_q = moments.diagonal() * (np.maximum(row, 0.0) * bent + spread * np.maximum(own, 0.0))
        queried = moments * q.second.between_positions(size) * np.sqrt(np.multiply.outer(bent, bent))
        heard = p * (queried @ p)
        to_k = values.diagonal() * heard.sum(0) - 2 * (heard * of_values).sum(0)
        to_k = to_k + (p * ((queried * mean_values) @ p)).sum(0)
        centred = np.maximum(values.diagonal() - 2 * of_values + mean_values.diagonal()[:, None], 0.0)
        further = (p * centred).T @ (spread * queried.diagonal())
        return Kernel.by_pairs(np.diag(to_q), 0.0, 0.0), Kernel.by_pairs(
            np.diag(np.maximum(to_k, 0.0) + further), 0.0, 0.0
        )
    seconds = [x.second for x in (v, k, q)]
    outer = [window_axes(x.positions, x.shape[-2]) for x in (v, k, q)]
    spreads = [*(x.profile for x in seconds), g.profile if len(g.profile) == len(q.positions) else ()]
    of_windows = [Windows.of(p, axes, m.logit_variance) for p, axes in zip(spreads, [*outer, outer[2]], strict=True)]
    in_v, in_k, in_q, in_g = of_windows
    own_v, own_k = in_v.own(seconds[0].same, seconds[0].far), in_k.own(seconds[1].same, seconds[1].far)
    whole = max(m.keys, 1)
    counts = np.array([float(whole)]) if m.seen is None else m.seen
    square = float(centred_square(counts, m.logit_variance).mean()) * (1 + m.dropped)
    uniform_square = (1 - 1 / whole) / whole
    passes = min(square / uniform_square, 1.0) if uniform_square > 0 else 1.0  # one-hot rows pass less
    # keys of full windows meet queries of full windows; within one, keys and values are in the same places
    places = product_mean(in_v.whole, in_k.whole) / product_mean(in_v.outer, in_k.outer)
    keyed, paired = product(in_v.outer, in_k.outer), product_mean(in_g.outer, in_v.outer, in_k.outer)
    query = (square * places + (whole - 1) / whole * chance * passes) * paired * g.same * own_v * own_k
    shared = m.overlap / m.square if m.square > 0 else 1.0
    between = query * g.far / g.same * shared if g.same > 0 and queries > 1 else 0.0
    asked = product_mean(in_g.whole, in_q.whole) / product_mean(in_g.outer, in_q.outer)
    asking = product_mean(in_v.outer, in_g.outer, in_q.outer)
    key = square * g.same * own_v * queries / whole * seconds[2].same * asked * asking
    key += m.overlap / whole * queries * (queries - 1) * max(g.far * seconds[2].far, 0.0) * own_v * asked**2 * asking
    to_q = Kernel(query, between, 0.0, 0.0, None, product(spreads[-1], keyed))
    return to_q, Kernel(key, 0.0, 0.0, 0.0, None, product(in_v.whole, product(in_g.outer, in_q.outer)))
