"""How channels come to differ where nothing mixes them: each has a spectrum of its own.

A depthwise convolution filters each channel by a kernel of its own, and norms and residual sums leave channels apart.
Averaged over kernels the result is as white as before (Novak et al. 2019, eq. 7); in any one channel it is not, and the
next kernel of few weights meets that: its output has the variance mean over frequencies of |w(f)|² P(f), where P is the
product of all filters before. Batch norm divides each channel by the root of its own. No formula has the mean of the
inverse; an ensemble of channels has, each with its draw of every kernel: their amplitudes relative to the tensor that
the chain began with, so that x + f(x) adds up with its phase.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from initcheck.signal.kernel import Array

if TYPE_CHECKING:
    from initcheck.signal.value import Value

CHANNELS = 384
"""Draws: 1/s² is averaged over so many channels."""
_FREQUENCIES = {0: 1, 1: 32, 2: 10}
"""Per axis; a kernel that is longer wraps around."""

Amplitudes = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Texture:
    """Amplitude of each channel at each frequency, relative to a white ``base``, and the ``rest``: power in it that has
    nothing to do with ``base``. The mean of the power over channels and frequencies is 1.
    """

    base: object
    amplitude: Amplitudes
    rest: Array
    _power: list[Array] = field(init=False, repr=False, compare=False, default_factory=list)
    _channels: list[Array] = field(init=False, repr=False, compare=False, default_factory=list)

    @classmethod
    def of(cls, x: Value, axes: int) -> Texture:
        """What is known of a tensor; white where nothing is."""
        if x.texture is not None and x.texture.amplitude.ndim == axes + 1:
            return x.texture
        return cls.white(axes, root_of(x))

    @classmethod
    def white(cls, axes: int, base: object = None) -> Texture:
        """All channels alike, at every frequency; ``base``: a new one if None."""
        shape = (CHANNELS, *(_FREQUENCIES[axes],) * axes)
        base = object() if base is None else base
        return cls(base, np.ones(shape, dtype=np.complex64), np.zeros(shape, dtype=np.float32))

    @property
    def power(self) -> Array:
        """Of each channel at each frequency."""
        if not self._power:
            self._power.append(np.asarray(self.amplitude.real**2 + self.amplitude.imag**2 + self.rest))
        return self._power[0]

    @property
    def channels(self) -> Array:
        """The variance of each channel."""
        if not self._channels:
            self._channels.append(np.asarray(self.power.reshape(CHANNELS, -1).mean(1, dtype=np.float64)))
        return self._channels[0]

    def scaled(self, factors: Array) -> Texture:
        """Each channel times a factor of its own."""
        each = factors.reshape(-1, *(1,) * (self.amplitude.ndim - 1)).astype(np.float32)
        return self._multiplied(each, each**2)

    def times(self, factor: float) -> Texture:
        """All channels times one factor."""
        return self._multiplied(np.float32(factor), np.float32(factor**2))

    def _multiplied(self, factor: Any, square: Any) -> Texture:
        """What is known of the power is still known."""
        result = Texture(self.base, self.amplitude * factor, np.asarray(self.rest * square))
        result._power.extend(np.asarray(power * square) for power in self._power)
        return result

    def unlike(self, spread: float, name: str) -> Texture:
        """Channels whose variances differ by that relative variance, which one by how much being a draw."""
        if spread < 1e-3:
            return self
        log = math.log1p(spread)
        draws = np.random.default_rng(zlib.crc32(name.encode())).normal(size=CHANNELS)
        return self.scaled(np.exp(0.5 * (math.sqrt(log) * (draws - draws.mean()) / draws.std() - log / 2))).level()

    def level(self) -> Texture:
        """The mean power brought to 1."""
        return self.times(1.0 / math.sqrt(max(float(self.channels.mean()), 1e-12)))

    def normalised(self) -> Texture:
        """Each channel divided by its own std (batch norm)."""
        return self.scaled(1.0 / np.sqrt(np.maximum(self.channels, 1e-12)))

    def folded(self) -> Texture:
        """Every second position, or as many more: frequencies fall on each other, and the base is no longer seen."""
        even = np.sqrt(self.channels).reshape(-1, *(1,) * (self.amplitude.ndim - 1)).astype(np.complex64)
        return Texture(object(), np.broadcast_to(even, self.amplitude.shape), np.zeros_like(self.rest))

    def anew(self) -> Texture:
        """Where most of it has nothing to do with the base: relative to itself, whatever its power is made of."""
        if float(self.rest.mean()) < 0.5 * float(self.power.mean()):
            return self
        return Texture(object(), np.sqrt(self.power).astype(np.complex64), np.zeros_like(self.rest))

    def pooled(self, sizes: Sequence[int]) -> Texture:
        """The mean over all positions: of each channel what it has near frequency zero."""
        power = np.asarray(self.power, dtype=np.float64)
        for size in reversed(sizes):
            power = power @ _window(size, power.shape[-1])
        return Texture(object(), np.sqrt(power).astype(np.complex64), np.zeros(CHANNELS, dtype=np.float32)).level()

    def copied(self, sizes: Sequence[int], axes: int) -> Texture:
        """The same at all positions, as the gradient of their mean is."""
        power = self.channels
        for size in sizes:
            power = np.multiply.outer(power, _window(size, _FREQUENCIES[axes]) * _FREQUENCIES[axes])
        return Texture(object(), np.sqrt(power).astype(np.complex64), np.zeros(power.shape, dtype=np.float32))

    def filtered(self, kernels: NDArray[np.float32], adjoint: bool = False) -> Texture:
        """Each channel convolved with a kernel of its own; ``adjoint``: as a gradient is."""
        response, power = _response(kernels.tobytes(), kernels.shape[1:], self.amplitude.shape[1:])
        response = response.conj() if adjoint else response
        return Texture(self.base, self.amplitude * response, np.asarray(self.rest * power))

    def activated(self, share: float) -> Texture:
        """f(u), of which ``share`` of the variance is linear in u; the other part is taken as white."""
        whole = self.channels.reshape(-1, *(1,) * (self.amplitude.ndim - 1))
        rest = share * self.rest + (1.0 - share) * whole
        return Texture(self.base, self.amplitude * np.float32(math.sqrt(share)), rest.astype(np.float32))


@functools.lru_cache(maxsize=64)
def _response(kernels: bytes, taps: tuple[int, ...], frequencies: tuple[int, ...]) -> tuple[Amplitudes, Array]:
    """What a kernel for each channel does to every frequency, and to its power; there and back it is the same."""
    draws = np.frombuffer(kernels, dtype=np.float32).reshape(CHANNELS, -1)
    response = (draws @ _transform(taps, frequencies)).reshape(CHANNELS, *frequencies)
    # the mean over all channels that there could be is 1 at every frequency: so it is over those drawn
    response = response / np.sqrt((response.real**2 + response.imag**2).mean(0))
    return response, np.asarray(response.real**2 + response.imag**2)


@functools.lru_cache(maxsize=64)
def _transform(taps: tuple[int, ...], frequencies: tuple[int, ...]) -> Amplitudes:
    """From taps to frequencies; the middle tap stands where the input stood."""
    whole = np.ones((1, 1), dtype=np.complex64)
    for size, n in zip(taps, frequencies, strict=True):
        place = np.arange(size) - (size - 1) // 2
        axis = np.exp(-2j * np.pi / n * np.multiply.outer(place, np.arange(n)))
        whole = np.kron(whole, axis).astype(np.complex64)
    return whole


@functools.lru_cache(maxsize=64)
def _window(size: int, frequencies: int) -> Array:
    """What the mean over ``size`` positions has of each frequency, in all 1.

    Of two taps d and d' both see a position of the map at a share T(d, d') of its positions. That is
    sqrt(t_d t_d') R(d - d') with t_d = 1 - |d|/n (see ``reached``) and R(e) = sqrt(1 - |e|/n), exactly so for d = d'
    or d = 0, nearly for others; the window is the transform of R.
    """
    lag = np.arange(frequencies)
    lag = np.minimum(lag, frequencies - lag)
    power = np.fft.fft(np.sqrt(np.maximum(1.0 - lag / size, 0.0))).real
    power = np.maximum(power, 0.0)
    return np.asarray(power / power.sum())


@functools.lru_cache(maxsize=256)
def kernels_of(name: str, taps: tuple[int, ...], kurtosis: float) -> NDArray[np.float32]:
    """Draws of a parameter's kernels, E[sum w²] = 1; the same parameter has the same ones wherever it is used."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    shape = (CHANNELS, *taps)
    draws = random.uniform(-math.sqrt(3.0), math.sqrt(3.0), shape) if kurtosis < 2.4 else random.normal(size=shape)
    return np.asarray(draws / math.sqrt(float((draws**2).mean()) * math.prod(taps)), dtype=np.float32)


def reached(kernels: NDArray[np.float32], shares: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Kernels on a map with zeros around it: a tap counts as far as positions see an input through it.

    ``shares``: for each axis and tap, the share of positions that do.
    """
    whole: NDArray[np.float64] = np.ones(())
    for axis in shares:
        whole = np.multiply.outer(whole, np.sqrt(axis))
    if float(whole.min()) > 1.0 - 1e-9:
        return kernels
    result = kernels * whole
    return np.asarray(result / math.sqrt(float((result**2).sum()) / len(result)), dtype=np.float32)


def summed(parts: Sequence[tuple[float, Value]]) -> Texture | None:
    """Of a sum with those factors, where a summand has a texture: amplitudes of one base add up, power of others.

    What all elements of a channel share (a bias) is no part of its spectrum.
    """
    known = [value.texture for _, value in parts if value.texture is not None]
    if not known:
        return None
    first = known[0]
    amplitude, rest = np.zeros_like(first.amplitude), np.zeros_like(first.rest)
    for factor, value in parts:
        varied = value.covariance.same - max(value.covariance.sample, 0.0)
        if not (varied > 0 and math.isfinite(varied)):
            continue
        part = Texture.of(value, first.amplitude.ndim - 1).times(factor * math.sqrt(varied))
        if part.base is first.base:
            amplitude, rest = amplitude + part.amplitude, rest + part.rest
        else:
            rest = np.asarray(rest + part.power, dtype=np.float32)
    return Texture(first.base, amplitude, rest).level().anew()


def joined(parts: Sequence[tuple[Texture | None, float]]) -> Texture | None:
    """Of a sum of gradients with those mean squares; its mean power says what their phases make of the sum of them."""
    known = [texture for texture, _ in parts if texture is not None]
    total = sum(square for _, square in parts)
    if not known or not total > 0 or not math.isfinite(total):
        return None
    first = known[0]
    amplitude, rest = np.zeros_like(first.amplitude), np.zeros_like(first.rest)
    for texture, square in parts:
        if texture is None or texture.amplitude.shape != amplitude.shape:
            rest = np.asarray(rest + np.float32(square / total))
            continue
        part = texture.times(math.sqrt(square / total))
        if part.base is first.base:
            amplitude, rest = amplitude + part.amplitude, rest + part.rest
        else:
            rest = np.asarray(rest + part.power, dtype=np.float32)
    return Texture(first.base, amplitude, rest)


def root_of(x: Value) -> Value:
    """The tensor that a value is a view or a norm of."""
    while (before := x.root if x.root is not None else x.origin) is not None:
        x = before
    return x
