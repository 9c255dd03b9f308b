"""Divided differences from the values of φ alone, against those in closed form and in multiple precision."""

import math

import numpy as np
import oracles
import pytest
from user_kernels import Product, disguised

from dlngeo import Kernel
from dlngeo.kernels import of_depth
from dlngeo.kernels._differences import NODES, WIDTH
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame

VALUES = (0.0, 1e-6, 0.03, 0.03 * (1 + 1e-9), 0.7, 0.7 * (1 + 1e-13), 0.74, 0.85, 1.0, 1.3, 40.0, 41.0, 1e6)
DEPTHS = [1, 1.3, 2, 3, 7.5, 64, math.inf]


def alone(depth):
    """A depth kernel known by its values alone, as one that a user writes."""
    return disguised(of_depth(depth), "__call__")


def tuples(rng, count, size=4000):
    """Random tuples of the values, among them all that are equal, with at most one zero in a group."""
    out = np.concatenate([rng.choice(VALUES, (size, count)), np.repeat(np.array(VALUES[1:])[:, None], count, axis=1)]).T
    groups = {3: [[1, 2]], 4: [[0, 1], [2, 3], [1, 2], [1, 3]]}[count]
    return out[:, np.all([np.max(out[group], axis=0) > 0 for group in groups], axis=0)]


def errors(value, exact, scale):
    assert np.isfinite(value).all()
    return np.max(np.abs(value - exact) / np.where(scale > 0, scale, 1.0))


@pytest.mark.parametrize("depth", DEPTHS)
def test_they_are_as_exact_as_the_rounding_of_phi_allows(rng, depth):
    kernel, exact = alone(depth), of_depth(depth)

    r, s, t = tuples(rng, 3)
    scale = np.maximum(exact(r, s), exact(r, t)) / np.maximum(s, t) ** 2
    assert errors(kernel.divided_difference(r, s, t), exact.divided_difference(r, s, t), scale) < 2e-13

    q, r, s, t = at = tuples(rng, 4)
    _, middle, high = np.sort(at[1:], axis=0)
    scale = np.max([exact(q, value) for value in (r, s, t)], axis=0) / (middle * high) ** 2
    assert errors(kernel.second_divided_difference(*at), exact.second_divided_difference(*at), scale) < 4e-12

    scale = np.max([exact(a, b) for a in (q, r) for b in (s, t)], axis=0)
    scale /= (np.maximum(q, r) * np.maximum(s, t)) ** 2
    assert errors(kernel.mixed_divided_difference(*at), exact.mixed_divided_difference(*at), scale) < 4e-12


class Wild(Kernel):
    """``φ = exp(sin(s² t²))/(1 + s² + t²)`` is no homogeneous function, and not monotone."""

    def __call__(self, s, t):
        return np.exp(np.sin(s**2 * t**2)) / (1 + s**2 + t**2)


def test_a_kernel_with_scales_of_its_own_against_multiple_precision(rng):
    mpmath = oracles.mpmath

    def phi(s, t):
        return mpmath.exp(mpmath.sin(s**2 * t**2)) / (1 + s**2 + t**2)

    with mpmath.workdps(60):
        for r, s, t, gap in [(0.4, 0.9, 0.9, 0), (1.1, 0.5, 0.5, 1e-9), (0.0, 0.3, 0.3, 0.05), (0.7, 1.2, 0.0, 0.0)]:
            x, y = mpmath.mpf(s), mpmath.mpf(t * (1 + gap))
            y = y + mpmath.mpf(10) ** -25 if x == y else y
            exact = (phi(mpmath.mpf(r), y) - phi(mpmath.mpf(r), x)) / (y**2 - x**2)
            assert abs(float(Wild().divided_difference(r, s, t * (1 + gap)) - exact)) < 1e-13


def test_they_are_exact_for_polynomials_and_vanish_for_constants(rng):
    class Polynomial(Kernel):
        def __call__(self, s, t):
            return 3 + s**2 + t**2 + 5 * s**4 * t**4

    q, r, s, t = rng.uniform(0.3, 1.2, (4, 500))
    s[:100], q[:50] = t[:100], r[:50]
    kernel = Polynomial()
    np.testing.assert_allclose(kernel.divided_difference(r, s, t), 1 + 5 * r**4 * (s**2 + t**2), rtol=1e-12)
    np.testing.assert_allclose(kernel.second_divided_difference(r, r, s, t), 5 * r**4, rtol=0, atol=1e-9)
    expected = 5 * (q**2 + r**2) * (s**2 + t**2)
    np.testing.assert_allclose(kernel.mixed_divided_difference(q, r, s, t), expected, rtol=0, atol=1e-9)
    one = alone(1)
    for values in (one.divided_difference(r, s, t), one.mixed_divided_difference(q, r, s, t)):
        np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1e6, 1e100])
def test_they_scale_as_phi_does(rng, scale):
    s = np.sort(np.exp(rng.uniform(-1, 1, (3, 50))), axis=0)
    s[1, :20] = s[2, :20]
    kernel = alone(4)
    at_one, at_scale = kernel.divided_difference(*s), kernel.divided_difference(*(scale * s))
    np.testing.assert_allclose(at_scale * scale**0.5, at_one, rtol=1e-12)


def test_zero_is_smooth_where_phi_is_a_function_of_the_squares(rng):
    class Smooth(Kernel):
        def __call__(self, s, t):
            return 1 / (1 + s**2 + t**2)

    r = np.array([0.0, 1e-3, 0.5, 1.0])
    error = np.abs(Smooth().divided_difference(r, 0.0, 0.0) + 1 / (1 + r**2) ** 2)
    assert np.all(error < 1e-9 + 1e-13 / np.where(r > 0, r, 1.0) ** 2)  # the window reaches to r², or to 1
    assert Smooth().smooth_at_zero
    assert alone(1).smooth_at_zero
    for kernel in (disguised(Product(), "__call__"), *map(alone, DEPTHS[1:]), *map(of_depth, DEPTHS[1:])):
        assert not kernel.smooth_at_zero
        assert kernel.divided_difference(np.ones(1), np.zeros(1), np.zeros(1)) == math.inf


def test_two_zeros_are_refused_where_the_order_is_two():
    with pytest.raises(ValueError, match="at most one"):
        alone(3).second_divided_difference(1.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="at most one"):
        alone(3).mixed_divided_difference(0.0, 0.0, 1.0, 2.0)


def test_shapes_numbers_and_single_precision():
    kernel = alone(3)
    r, s, t, u = np.ones((4, 1, 1)), np.full((3, 1), 2.0), np.full(2, 3.0), np.full((1, 2), 2.0)
    assert kernel.divided_difference(r, s, t).shape == (4, 3, 2)
    assert kernel.second_divided_difference(r, s, t, u).shape == (4, 3, 2)
    assert kernel.mixed_divided_difference(r, s, t, u).shape == (4, 3, 2)
    assert kernel.divided_difference(np.ones((0, 2)), 1.0, 2.0).shape == (0, 2)
    single = kernel.divided_difference(np.float32([1.0]), np.float32([2.0]), np.float32([2.0]))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, of_depth(3).divided_difference(1.0, 2.0, 2.0), rtol=1e-6)


def test_interpolation_is_as_exact_as_the_docstring_says():
    """``f = 1/x`` is singular at zero, no nearer and no further than the docstring supposes."""
    nodes = 1 + WIDTH * np.cos((np.arange(NODES) + 0.5) * np.pi / NODES)
    rate = 1 / WIDTH + math.sqrt(1 / WIDTH**2 - 1)
    coefficients = np.polynomial.chebyshev.chebfit((nodes - 1) / WIDTH, 1 / nodes, NODES - 1)
    slope = np.polyfit(np.arange(1, 11), np.log(np.abs(coefficients[1:11])), 1)[0]
    assert slope == pytest.approx(-math.log(rate), rel=1e-3)
    assert rate**-NODES < 2e-16


@pytest.mark.parametrize(("m", "n", "s"), [(3, 3, (2.0, 1.0, 0.1)), (4, 3, (1.5, 0.4)), (3, 3, (1.0, 1.0, 0.6))])
@pytest.mark.parametrize("depth", [1.5, 3, 8])
def test_geometry_from_values_alone(rng, m, n, s, depth):
    """Connection, drift and curvature keep ten digits."""
    u, vt = oracles.orthogonal(rng, m)[:, : len(s)], oracles.orthogonal(rng, n)[: len(s)]
    ours, exact = (Frame(u, np.array(s), vt, kernel) for kernel in (alone(depth), of_depth(depth)))
    y, z = (exact.project(a) for a in rng.standard_normal((2, m, n)))
    for value, expected in (
        (ours.christoffel(y, z), exact.christoffel(y, z)),
        (ours.ito_drift(), exact.ito_drift()),
        (Curvature(ours).sectional(y, z), Curvature(exact).sectional(y, z)),
        (Curvature(ours).apply(y, z, y), Curvature(exact).apply(y, z, y)),
        (Curvature(ours).scalar(), Curvature(exact).scalar()),
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-10 * np.max(np.abs(expected)))
