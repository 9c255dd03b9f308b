"""Fields along geodesics against differences of geodesics, known conjugate points, and literal lower bounds."""

import math

import numpy as np
import oracles
import pytest
from scipy.spatial.transform import Rotation
from user_kernels import Product

from dlngeo import DepthKernel, GeodesicError, InfiniteDepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.matrices.jacobi import conjugate_time, jacobi_flow, pull_back_exp, pull_back_log
from dlngeo.matrices.minimality import least_distance, minimality
from dlngeo.shooting import connect, shoot

CASES = [
    (3, 3, 3, DepthKernel(3)),
    (2, 2, 2, InfiniteDepthKernel()),
    (3, 2, 2, DepthKernel(2.5)),
    (2, 3, 2, Product()),
    (4, 3, 2, DepthKernel(3)),
    (3, 3, 1, DepthKernel(4, normalized=True)),
]
over_cases = pytest.mark.parametrize(("m", "n", "r", "kernel"), CASES)


def situation(rng, m, n, r, kernel):
    """A surface, the factors of a point, and three tangent vectors there."""
    factors = oracles.factors(rng, m, n, np.linspace(1.5, 0.8, r))
    vectors = [0.25 * oracles.tangent(rng, factors[0], factors[2]) for _ in range(3)]
    return KernelSurface(kernel, r), factors, vectors


def variation(factors, dx, v, dv, r):
    """Points and velocities that are tangent, with derivatives ``dx`` and, but for its normal part, ``dv``."""
    curve = oracles.curve(*factors, dx)

    def at(h):
        u, _, vt = np.linalg.svd(x := curve(h))
        return x, oracles.project(u[:, :r], vt[:r], v + h * dv)

    return at


@over_cases
def test_jacobi_fields_are_the_derivatives_of_geodesics(rng, m, n, r, kernel):
    surface, factors, (v, dx, dv) = situation(rng, m, n, r, kernel)
    x, times = oracles.dense(*factors), np.array([0.5, 1.0])
    at = variation(factors, dx, v, dv, r)
    moved = oracles.derivative(lambda h: np.stack(shoot(*at(h), surface, times, 1e-13)), step=0.1, levels=5)

    def covariant(x, v, j, rate):
        return rate + Frame.at(x, kernel, r).christoffel(v, j)

    rate = covariant(x, v, dx, oracles.derivative(lambda h: at(h)[1]))
    flow = jacobi_flow(x, v, surface, dx[None], rate[None], times=times)
    for i in range(2):
        np.testing.assert_allclose(flow.fields[i, 0], moved[0, i], atol=1e-9)
        expected = covariant(flow.points[i], flow.velocities[i], *moved[:, i])
        np.testing.assert_allclose(flow.rates[i, 0], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("m", "n", "r", "kernel"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:5]), CASES[5]],
)
def test_covectors_are_pulled_back_by_exp_and_log_as_differences_say(rng, m, n, r, kernel):
    surface, factors, (v, dx, dv) = situation(rng, m, n, r, kernel)
    x, c = oracles.dense(*factors), rng.standard_normal((m, n))
    (y,), (final,) = shoot(x, v, surface)
    in_x, in_v = pull_back_exp(x, v, (y, final), c, surface)
    for w, z in ((dx, 0 * dv), (0 * dx, dv)):
        at = variation(factors, w, v, z, r)
        end = oracles.derivative(lambda h, at=at: np.sum(c * shoot(*at(h), surface, tolerance=1e-13)[0][0]), step=0.1)
        assert np.sum(in_x * w) + np.sum(in_v * z) == pytest.approx(end, abs=1e-9)
    from_x, in_y = pull_back_log(x, v, (y, final), c, surface)
    for gradient in (in_x, in_v, from_x):
        np.testing.assert_allclose(oracles.project(factors[0], factors[2], gradient), gradient, atol=1e-12)
    u, s, vt = np.linalg.svd(y)
    there = u[:, :r], s[:r], vt[:r]
    dy = 0.2 * oracles.tangent(rng, there[0], there[2])
    for start, end, slope in (
        (lambda h: x, oracles.curve(*there, dy), np.sum(in_y * dy)),
        (oracles.curve(*factors, dx), lambda h: y, np.sum(from_x * dx)),
    ):
        exact = oracles.derivative(
            lambda h, a=start, b=end: np.sum(c * connect(a(h), b(h), surface, 1e-11).velocity), step=0.08, levels=4
        )
        assert slope == pytest.approx(exact, abs=2e-8)


@over_cases
def test_parallel_vectors_keep_their_products_and_the_velocity_is_one(rng, m, n, r, kernel):
    surface, factors, (v, *vectors) = situation(rng, m, n, r, kernel)
    x, times = oracles.dense(*factors), np.array([0.3, 1.0])
    flow = jacobi_flow(x, v, surface, vectors=np.stack([v, *vectors]), times=times)
    before = surface.inner(x, np.stack([v, *vectors])[:, None], np.stack([v, *vectors]))
    for i in range(2):
        w = flow.vectors[i]
        np.testing.assert_allclose(w[0], flow.velocities[i], atol=1e-10)
        np.testing.assert_allclose(surface.inner(flow.points[i], w[:, None], w), before, rtol=1e-9, atol=1e-11)


def test_a_batch_is_its_members(rng):
    surface = KernelSurface(DepthKernel(3), 2)
    x = np.eye(2) + 0.2 * rng.standard_normal((3, 2, 2))
    v, w, j, k = 0.2 * rng.standard_normal((4, 3, 2, 2))
    together = jacobi_flow(x, v, surface, j[None], k[None], w[None])
    for i in range(3):
        alone = jacobi_flow(x[i], v[i], surface, j[None, i], k[None, i], w[None, i])
        for name in ("fields", "rates", "vectors"):
            np.testing.assert_allclose(getattr(together, name)[0, :, i], getattr(alone, name)[0], atol=1e-10)


def test_fields_end_where_the_geodesic_does():
    surface, x = KernelSurface(DepthKernel(2), 2), np.diag([1.0, 0.5])
    with pytest.raises(GeodesicError, match="singular matrix"):
        jacobi_flow(x, -2 * x, surface, vectors=x[None])


# Conjugate points.


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "m"), [(4, 3), (6, 4)])
def test_conjugate_points_of_the_cone_of_rank_one(depth, m):
    """Rotations of one sphere about the start vanish where the other pole is reached: at a known angle of a flat cone.

    In the plane that the cone over a great circle unrolls to, with radius √N λ, geodesics are straight.
    """
    surface, lam, right = KernelSurface(DepthKernel(depth), 1), 1.1, np.array([0.6, 0.8])
    radius, outward, across, angle = math.sqrt(depth) * lam, -0.9, 1.3, math.pi / math.sqrt(depth)
    x = lam**depth * np.outer(np.eye(m)[0], right)
    v = depth * lam ** (depth - 1) * outward / math.sqrt(depth) * np.outer(np.eye(m)[0], right)
    v += lam**depth * across * math.sqrt(depth) / radius * np.outer(np.eye(m)[1], right)
    exact = radius * math.sin(angle) / (across * math.cos(angle) - outward * math.sin(angle))
    assert conjugate_time(x, v, surface, 1.3 * exact) == pytest.approx(exact, abs=1e-7)
    assert conjugate_time(x, v, surface, 0.97 * exact) == np.inf
    past = minimality(x, shoot(x, 1.3 * exact * v, surface)[0][0], 1.3 * exact * v, surface)
    assert past.status == "passes a conjugate point"
    assert past.conjugate_time == pytest.approx(1 / 1.3, abs=1e-7)


def test_rotations_at_infinite_depth_are_conjugate_after_one_turn(rng):
    """Where the metric is bi-invariant: two fields vanish at once, so that no determinant changes its sign."""
    surface, x = KernelSurface(InfiniteDepthKernel(), 3), 1.3 * oracles.orthogonal(rng, 3)
    spin = Rotation.from_rotvec([0.8, 0.0, 0.6]).as_matrix()  # by one radian
    spin = (spin - spin.T) / 2 / math.sin(1.0)
    assert conjugate_time(x, x @ spin, surface, 7.0, tolerance=1e-9) == pytest.approx(2 * math.pi, abs=1e-6)


def test_flat_space_has_no_conjugate_points(rng):
    assert conjugate_time(np.diag([1.0, 2.0]), rng.standard_normal((2, 2)), KernelSurface(DepthKernel(1), 2)) == np.inf


# Lower bounds.


def literal_bound(x, y, depth, rank):
    """Least chord of the layers over x and y: all gauges of two layers of rank 2, and each end's own gauge of more."""

    def layers(z):
        u, s, vt = np.linalg.svd(z)
        lam = s[:rank] ** (1 / depth)
        return lam[:, None] * vt[:rank], u[:, :rank] * lam, lam

    (first, last, lam), (first_y, last_y, lam_y) = layers(x), layers(y)
    angles = np.linspace(0, 2 * np.pi, 20_001)
    c, s = np.cos(angles), np.sin(angles)
    turns = np.moveaxis(np.array([[c, -s], [s, c]]), -1, 0)
    turns = np.concatenate([turns, turns * [1, -1]])
    right = np.sum((turns @ first - first_y) ** 2, axis=(-2, -1))
    left = np.sum((last @ turns.mT - last_y) ** 2, axis=(-2, -1))
    if depth == 2:
        return math.sqrt((right + left).min())
    return math.sqrt(right.min() + left.min() + (depth - 2) * np.sum((lam - lam_y) ** 2))


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 2), (3, 4)])
def test_the_bound_is_the_least_chord_of_the_layers_and_below_the_distance(rng, depth, m, n):
    factors = oracles.factors(rng, m, n, [1.3, 0.7])
    x = oracles.dense(*factors)
    v = 0.3 * oracles.tangent(rng, factors[0], factors[2])
    for normalized in (False, True):
        kernel = DepthKernel(depth, normalized)
        surface = KernelSurface(kernel, 2)
        y = shoot(x, v, surface)[0][0]
        bound = least_distance(x, y, kernel, 2)
        scale = math.sqrt(depth) if normalized else 1.0
        assert bound == pytest.approx(scale * literal_bound(x, y, depth, 2), rel=1e-6)
        assert bound < math.sqrt(surface.inner(x, v, v))


@pytest.mark.parametrize(
    "kernel", [DepthKernel(1), DepthKernel(2), DepthKernel(2.5, True), DepthKernel(7), InfiniteDepthKernel(), Product()]
)
def test_what_moves_straight_in_its_spectrum_is_shortest(rng, kernel):
    u, s, vt = oracles.factors(rng, 3, 3, [1.4, 1.0, 0.6])
    surface, x = KernelSurface(kernel, 3), oracles.dense(u, s, vt)
    v = (u * [0.2, 0.1, -0.1]) @ vt
    found = minimality(x, shoot(x, v, surface)[0][0], v, surface)
    assert (found.status, found.conjugate_time) == ("shortest", None)
    assert found.lower_bound == pytest.approx(found.length, rel=1e-8)


def test_depth_one_is_shortest_and_depth_three_locally(rng):
    x, v = np.diag([1.5, 1.0, 0.7]), 0.2 * rng.standard_normal((3, 3))
    for depth, status in ((1, "shortest"), (3, "locally shortest")):
        surface = KernelSurface(DepthKernel(depth), 3)
        found = minimality(x, shoot(x, v, surface)[0][0], v, surface)
        assert found.status == status
    assert found.conjugate_time == np.inf
    assert found.lower_bound < found.length
