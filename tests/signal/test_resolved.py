"""Second moments by position, and fixed linear maps, against explicit sums over all positions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from initcheck.signal.grid import nodes
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.linear import Window, axis_through
from initcheck.signal.ops.pooling import adaptive_windows, averaging
from initcheck.signal.ops.resampling import interpolation
from initcheck.signal.resolved import Resolved, class_of
from initcheck.signal.shape import normal_cdf
from initcheck.signal.smoothing import smoothed
from initcheck.signal.value import Value, dims_of


def even(k: Kernel, sizes: tuple[int, ...]) -> Resolved:
    result = Resolved.even(k, sizes)
    assert result is not None
    return result


def through_everything(pairs: np.ndarray, size: int, stride: int) -> np.ndarray:
    """K'(p, q) = sum over taps t of K(s p + t, s q + t), taps outside left out: 3 x 3, padding 1."""
    outputs = (size - 1) // stride + 1
    result = np.zeros((outputs,) * 4)
    for i, j in np.ndindex(3, 3):
        for p in np.ndindex(outputs, outputs):
            for q in np.ndindex(outputs, outputs):
                a = (p[0] * stride + i - 1, p[1] * stride + j - 1, q[0] * stride + i - 1, q[1] * stride + j - 1)
                if all(0 <= n < size for n in a):
                    result[p + q] += pairs[a]
    return result


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_a_small_map_are_exact(stride: int) -> None:
    size = 6
    axis = axis_through(Window(size, 3, stride, 1, 1, (size - 1) // stride + 1))
    start = even(Kernel(2.0, 0.5, 0.5, 0.5), (size, size))
    once = start.through((axis, axis))
    assert np.allclose(once.pairs, through_everything(start.pairs, size, stride))
    if stride == 1:
        assert np.allclose(once.through((axis, axis)).pairs, through_everything(once.pairs, size, 1))
    assert once.same == pytest.approx(once.cross * 4.0)  # the diagonal passes as every pair does


@pytest.mark.parametrize("size", [7, 20, 56])
def test_averages_of_any_size_count_the_taps_that_there_are(size: int) -> None:
    axis = axis_through(Window(size, 3, 1, 1, 1, size))
    once = even(Kernel(1.0, 1.0, 1.0, 1.0), (size, size)).through((axis, axis))
    taps = F.conv2d(torch.ones(1, 1, size, size), torch.ones(1, 1, 3, 3), padding=1)
    assert once.same == pytest.approx(float(taps.mean()))
    shared = 1 + 2 * ((size - 1) / size) ** 2  # of two positions of an axis: the middle tap, and each outer one
    assert once.average == pytest.approx(shared**2)


@pytest.mark.parametrize(("size", "cross"), [(6, 0.3), (20, 0.2)])
def test_the_mean_of_a_window_counts_pairs_of_its_positions(size: int, cross: float) -> None:
    """1 at one position, .5 at two of a sample, ``cross`` at one position of two samples, .2 at two of two samples."""
    axis = axis_through(Window(size, 2, 2, 0, 1, size // 2))
    field = even(Kernel(1.0, 0.5, cross, 0.2), (size, size))
    assert field.far == pytest.approx(0.5)
    pooled = field.averaged((axis, axis), 0.0)
    assert pooled.same == pytest.approx(0.25 * 1.0 + 0.75 * 0.5)
    assert pooled.cross == pytest.approx(0.25 * cross + 0.75 * 0.2)
    assert pooled.far == pytest.approx(0.5)
    assert field.averaged((axis, axis), 0.1).same == pytest.approx(pooled.same + 0.1)


def test_positions_that_samples_share_one_by_one_are_resolved_on_small_maps_only() -> None:
    assert Resolved.even(Kernel(1.0, 0.0, 0.5, 0.0), (8, 8)) is not None
    assert Resolved.even(Kernel(1.0, 0.0, 0.5, 0.0), (20, 20)) is None


def test_a_constant_leaves_nothing_after_its_mean_is_taken_off() -> None:
    flat = even(Kernel(3.0, 3.0, 3.0, 3.0), (5, 5)).centred(3.0)
    assert np.allclose(flat.pairs, 0.0)
    assert np.allclose(flat.own, 0.0)


def test_squares_of_a_function_follow_the_scale_of_each_position() -> None:
    at, size = nodes(0), 5
    own = np.multiply.outer([0.5, 1.0, 1.25, 1.0, 0.5], [0.8, 1.0, 1.2, 1.0, 0.8])
    flat = even(Kernel(1.0, 0.0, 0.0, 0.0), (size, size))
    bent = replace(flat, own=own)
    values = np.where(np.abs(at.z) < 3, 0.5 + at.z / 3, at.z > 0)
    squares = bent.squares(values, at.z, 0.0, at)
    for place in np.ndindex(size, size):
        z = math.sqrt(own[place]) * at.z
        exact = at.weights @ np.where(np.abs(z) < 3, 0.5 + z / 3, z > 0) ** 2
        assert squares[place] == pytest.approx(exact, rel=2e-3)
    rows, columns = bent.profile(own)
    assert rows == pytest.approx(own.mean(1) / own.mean())
    assert columns == pytest.approx(own.mean(0) / own.mean())
    assert flat.profile(flat.own) == ()


def test_units_with_a_strong_pattern_are_divided_by_more() -> None:
    axis = axis_through(Window(3, 3, 1, 1, 1, 3))
    pattern = even(Kernel(2.0, 1.0, 1.0, 1.0), (3, 3)).through((axis, axis))
    centred = pattern.centred(pattern.average)
    divided = centred.normalised(0.0)
    assert divided.same == pytest.approx(1.0)
    assert divided.cross < centred.cross / centred.same


def test_relu_of_positions_of_any_scale() -> None:
    """E[relu(s u) relu(t u')] = s t E[relu(u) relu(u')]: the scales of positions factor out."""
    axis = axis_through(Window(8, 3, 1, 1, 1, 8))
    field = even(Kernel(1.0, 0.3, 0.3, 0.3), (8, 8)).through((axis, axis))
    field = field.scaled(np.multiply, 1.0 / field.same)  # as correlations are
    at = nodes(0)
    mean, after = field.applied(np.maximum(at.z, 0.0), at.z, 0.0, at)
    scale = np.sqrt(field.own)
    assert mean == pytest.approx(float((field.weight.reshape(8, 8) * scale).sum()) / np.sqrt(2 * np.pi), rel=1e-3)
    assert np.allclose(after.own, field.own / 2, rtol=1e-3)
    rho = 0.3
    expected = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)
    assert np.allclose(after.pairs[3, 3, 3, 3], expected * field.own[3, 3], rtol=1e-3)


@pytest.mark.parametrize(("inputs", "outputs", "mode", "aligned"), [
    (4, 8, "nearest", None), (4, 8, "bilinear", False), (4, 7, "bilinear", True), (8, 4, "bilinear", False),
    (4, 8, "bicubic", False), (6, 4, "area", None),
])  # fmt: skip
def test_interpolation_is_torchs(inputs: int, outputs: int, mode: str, aligned: bool | None) -> None:
    eye = torch.eye(inputs, dtype=torch.float64).reshape(inputs, 1, inputs, 1).expand(-1, -1, -1, inputs)
    real = F.interpolate(eye, size=(outputs, inputs), mode=mode, align_corners=aligned)[:, 0, :, 0].T
    found = interpolation(inputs, outputs, mode.replace("bilinear", "linear"), bool(aligned)).matrix
    assert np.allclose(found, real.numpy())


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 4), (3, 7), (7, 3), (6, 1)])
def test_white_noise_through_adaptive_pooling(inputs: int, outputs: int) -> None:
    x = Value(dims_of((2, 3, inputs, inputs), ("S", "C", "P", "P")), 0.0, Kernel(1.0, 0.0, 0.0, 0.0))
    maps = [averaging(w, False) for w in adaptive_windows(x, (2, 3, outputs, outputs), 2)]
    eye = torch.eye(inputs**2, dtype=torch.float64).reshape(inputs**2, 1, inputs, inputs)
    real = F.adaptive_avg_pool2d(eye, outputs)[:, 0]
    k = smoothed(x.covariance, maps)
    assert k.same == pytest.approx(float((real**2).sum(0).mean()))
    back = smoothed(Kernel(1.0, 0.0, 0.0, 0.0), [m.transposed for m in maps])
    assert back.same == pytest.approx(float((real**2).sum((1, 2)).mean()))


def test_a_norm_of_each_position_takes_its_border_away() -> None:
    axis = axis_through(Window(8, 3, 1, 1, 1, 8))
    field = even(Kernel(1.0, 0.3, 0.3, 0.3), (8, 8)).through((axis, axis))
    level = field.levelled()
    assert np.allclose(level.own, field.same)
    corner = field.pairs[0, 0, 1, 1] / np.sqrt(field.own[0, 0] * field.own[1, 1])
    assert level.pairs[0, 0, 1, 1] == pytest.approx(corner * field.same)


@pytest.mark.parametrize("mean", [-0.4, 0.1, 0.7])
def test_a_jump_at_positions_of_any_scale(mean: float) -> None:
    """E[1(u > 0)] = Phi(m / s): of a normal variable the grid's own points have the weights of each scale."""
    own = 1.0 - 0.3 * np.array([1.0, 0.5, 0.2, 0.0, 0.2, 0.5, 1.0])
    value = Value(dims_of((4, 3, 14), ("S", "C", "P")), mean, Kernel(1.0, 0.0, 0.0, 0.0))
    value.covariance = replace(value.covariance, resolved=Resolved((14,), own, np.zeros((7, 7))))
    source = value.own_source()
    jump = (source.at.z > -mean).astype(float)
    assert source.correlation.resolved is not None
    reached = source.correlation.resolved.squares(jump, None, 0.0, source.at)
    assert np.allclose(reached, normal_cdf(mean / np.sqrt(own)), rtol=3e-4)
    profile = source.profile(jump)[0]
    assert profile is not None
    exact = normal_cdf(mean / np.sqrt(own))[class_of(14)]
    assert np.allclose(profile, exact / exact.mean(), rtol=6e-4)


def test_lags_of_a_map_are_its_products_by_displacement() -> None:
    matrix = interpolation(5, 9, "linear", corners=False).matrix
    lags = interpolation(5, 9, "linear", corners=False).lags
    for shift, lag in ((0, 0), (0, 2), (1, 0), (2, 1)):
        pairs = [
            matrix[p, i] * matrix[p + shift, j]
            for p in range(9 - shift)
            for i in range(5)
            for j in range(5)
            if abs(i - j) == lag
        ]
        assert lags[shift, lag] == pytest.approx(sum(pairs) / (9 - shift), abs=1e-12)
    transposed = interpolation(5, 9, "linear", corners=False).transposed
    assert transposed is interpolation(5, 9, "linear", corners=False).transposed
