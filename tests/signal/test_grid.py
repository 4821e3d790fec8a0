"""Expansions on the grid: cheap ways to the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from initcheck.signal.gradient import Term
from initcheck.signal.grid import Spectrum, nodes, on_grid
from initcheck.signal.kernel import Kernel
from initcheck.signal.ops.linear import sum_of_few
from initcheck.signal.shape import given_part, normal_cdf, quantiles, sum_shape
from initcheck.signal.value import Value, dims_of


def test_points_on_an_even_grid_need_no_search() -> None:
    z = nodes(5).z
    points = np.random.default_rng(0).normal(0.0, 4.0, (3, 500))
    assert np.allclose(on_grid(points, z, np.tanh(z)), np.interp(points, z, np.tanh(z)), rtol=1e-12, atol=0)


def test_a_spectrum_is_the_same_for_few_and_many_pairs() -> None:
    at = nodes(0)
    for function in (np.maximum(at.z, 0.0), np.tanh(at.z), np.sign(at.z)):
        spectrum = Spectrum.of(function, at)
        rho = np.linspace(-0.99, 0.99, 500)
        few = np.concatenate([spectrum(part) for part in np.split(rho, 10)])
        assert np.allclose(few, spectrum(rho), atol=2e-3)
    relu = Spectrum.of(np.maximum(at.z, 0.0), at)
    rho = np.array([-0.5, 0.0, 0.3, 0.9, 1.0])
    expected = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)  # Cho & Saul 2009
    assert np.allclose(relu(rho), expected, atol=1e-5)
    assert np.isnan(relu(np.array([np.nan, 1.0]))).sum() == 0


def test_quantiles_do_not_ask_for_order() -> None:
    at = nodes(0)
    values = np.maximum(at.z, 0.0)
    shuffled = np.random.default_rng(0).permutation(len(values))
    assert np.allclose(quantiles(values, at.weights), quantiles(values[shuffled], at.weights[shuffled]), atol=5e-3)


def test_a_sum_of_few_does_not_hang_on_the_last_bit() -> None:
    """A mean number of taps comes out as 64.00000000000001 as often as 64."""
    x = Value(dims_of((8, 64, 7, 7), ("S", "C", "P", "P")), 0.0, Kernel(1.0, 0.0, 0.0, 0.0))
    positive = x.fresh(mean=1.0)
    positive.own_source()
    positive.grid = torch.relu(positive.own_grid() - 1.0)
    exact, rounded = sum_of_few(positive, 64.0), sum_of_few(positive, 64.00000000000003)
    assert exact is not None
    assert rounded is not None
    assert np.allclose(exact, rounded, rtol=1e-9)
    assert sum_of_few(positive, 65.0) is None


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_what_a_summand_knows_of_a_jump_in_the_sum(spread: float) -> None:
    """E[1(x + s z > c) | x] = Phi((x - c) / s), and its mean over x ~ N(0, 1) is Phi(-c / sqrt(1 + s²))."""
    at = nodes(0)
    u = np.sqrt(1 + spread**2) * at.z
    given = given_part((u > 0.2) * 1.0, u, at.z, spread * quantiles(at.z, at.weights))
    near, mean = np.abs(at.z) < 5, np.array([-0.2 / np.sqrt(1 + spread**2)])
    assert np.allclose(given[near], normal_cdf((at.z[near] - 0.2) / spread), atol=6e-3)
    assert float(at.weights @ given) == pytest.approx(normal_cdf(mean).item(), rel=4e-3)


def test_a_sloped_term_is_in_all_what_it_was_made_to_be() -> None:
    value = Value(dims_of((4, 6, 5), ("S", "C", "P")), 0.3, Kernel(1.0, 0.4, 0.3, 0.2))
    source = value.own_source()
    total = Kernel(2.0, 0.5, 0.7, 0.1, None, (np.linspace(0.6, 1.4, 5),))
    term = Term.reaching(total, np.sqrt(1.0 + np.tanh(source.at.z)), source)
    product = replace(term).effective()  # a copy does not know it yet
    assert term.effective().classes == pytest.approx(total.classes, rel=1e-12)
    assert product.classes == pytest.approx(total.classes, rel=1e-12)
    assert np.allclose(product.profile[0], total.profile[0], rtol=1e-12)


def test_parity_halves_an_expansion() -> None:
    at = nodes(0)
    values = np.maximum(at.z, 0.0) + np.sin(3 * at.z)
    assert at.halves is not None
    assert np.allclose(at.coefficients(values), at.basis @ values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [0.1, 0.5, 3.0])
def test_the_shape_of_a_rectified_part_beside_a_normal_one(width: float) -> None:
    """Third and fourth cumulants of a sum are those of its parts, and a normal part has none."""
    at = nodes(0)
    rectified = quantiles(np.maximum(at.z, 0.0), at.weights)
    shape, rectified = sum_shape([rectified], width**2), rectified - rectified.mean()
    variance, third = float((rectified**2).mean()), float((rectified**3).mean())
    excess = float((rectified**4).mean()) - 3 * variance**2
    whole = variance + width**2
    assert float(at.weights @ shape**3) == pytest.approx(third / whole**1.5, abs=3e-4)
    assert float(at.weights @ shape**4) - 3.0 == pytest.approx(excess / whole**2, abs=2e-3)
