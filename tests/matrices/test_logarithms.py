"""Compiled geodesics, those in closed form, and logarithms of many pairs, against the integrator of any surface."""

import math

import numpy as np
import oracles
import pytest

from dlngeo.compiled.geodesics import geodesics
from dlngeo.errors import GeodesicError
from dlngeo.kernels import of_depth
from dlngeo.matrices import straight
from dlngeo.matrices.approach import Approach
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.matrices.logarithms import logarithms
from dlngeo.shooting import Surface, connect, connect_all, shoot

INF = math.inf
DEPTHS = [2, 3, 8, 2.5, INF]


def truncated(x, rank):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]


def points(rng, count, m, n, rank, spread=0.6):
    """Pairs of matrices of a rank, of which square ones of full rank have determinants of one sign."""
    x = np.eye(m, n) + spread * rng.standard_normal((2, count, m, n)) / math.sqrt(n)
    if m == n == rank:
        against = np.linalg.det(x[0]) * np.linalg.det(x[1]) < 0
        x[0, against, 0] *= -1
    return truncated(x, rank)


def tangent(surface, rng, x, length):
    """Tangent vectors of random directions and one length."""
    frame = surface._frame(x)
    v = frame.half_power(rng.standard_normal(x.shape))
    return v * (length / np.sqrt(surface.inner(x, v, v)))[..., None, None]


def literally(surface, x, v, t):
    """Points and velocities by Christoffel maps and SciPy, which shares no step with the compiled ones."""
    return Surface.follow(surface, np.stack([x, v]), np.array([t]), 1e-12)[0]


SHAPES = [(3, 3, 3), (2, 2, 2), (5, 5, 5), (5, 4, 2), (4, 3, 3), (9, 3, 1), (12, 11, 3), (14, 14, 14), (3, 8, 2)]


@pytest.mark.parametrize("depth", [1, 1.5, *DEPTHS], ids="depth {}".format)
@pytest.mark.parametrize(
    ("m", "n", "rank"), [*SHAPES[:4], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[4:])]
)
def test_compiled_geodesics_are_those_of_the_christoffel_map(rng, m, n, rank, depth):
    if depth == INF and not m == n == rank:
        pytest.skip("infinite depth lives on square invertible matrices")
    surface = KernelSurface(of_depth(depth), rank)
    x = points(rng, 3, m, n, rank)[0] * np.array([1.0, 1e-3, 1e4])[:, None, None]
    # Part of the way to the singular matrices, where there is one.
    room = np.linalg.svd(x)[1][:, rank - 1]
    size = 0.4 if depth == INF else 0.4 * math.sqrt(depth) * room ** (1 / depth)
    v = tangent(surface, rng, x, size)
    times = np.array([0.5, -1.0, 0.0, 1.0])
    ends, velocities = shoot(x, v, surface, times, tolerance=1e-12)
    np.testing.assert_allclose(np.stack([ends[2], velocities[2]]), np.stack([x, v]), rtol=1e-15)
    for k, i in enumerate((0, 1, 3)):
        exact, scale = literally(surface, x[k], v[k], times[i]), np.abs(x[k]).max()
        np.testing.assert_allclose(ends[i, k], exact[0], rtol=0, atol=2e-9 * scale)
        np.testing.assert_allclose(velocities[i, k], exact[1], rtol=0, atol=2e-8 * scale)


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (1.0, 1.0 - 1e-9, 0.5), (2.0, 0.7, 0.7)], ids=str)
@pytest.mark.parametrize("depth", DEPTHS)
def test_repeated_singular_values_are_passed(rng, depth, values):
    u, s, vt = oracles.factors(rng, 3, 3, values)
    surface, x = KernelSurface(of_depth(depth), 3), oracles.dense(u, s, vt)
    v = 0.3 * rng.standard_normal((3, 3))
    [end], [velocity] = shoot(x, v, surface, tolerance=1e-12)
    exact = literally(surface, x, v, 1.0)
    np.testing.assert_allclose(end, exact[0], atol=1e-10)
    np.testing.assert_allclose(velocity, exact[1], atol=1e-9)


def test_a_batch_is_each_geodesic_by_itself(rng):
    surface = KernelSurface(of_depth(3), 4)
    x = points(rng, 40, 4, 4, 4)[0]
    v = tangent(surface, rng, x, 0.3)
    [ends], _ = shoot(x, v, surface)
    for k in (0, 17, 39):
        np.testing.assert_array_equal(ends[k], shoot(x[k], v[k], surface)[0][0])
    v[5] = -40 * x[5]  # through zero
    with pytest.raises(GeodesicError, match="just after time") as caught:
        shoot(x, v, surface)
    assert caught.value.status == "singular"


@pytest.mark.parametrize("depth", [3, 8])
def test_ill_conditioned_points_are_followed_there_and_back(rng, depth):
    """A ratio of 1e8: there and back in the metric, where differences of matrices tell nothing of small values."""
    surface = KernelSurface(of_depth(depth), 3)
    u, s, vt = oracles.factors(rng, 3, 3, (1.0, 1e-4, 1e-8))
    x = oracles.dense(u, s, vt)
    v = tangent(surface, rng, x, 0.5 * math.sqrt(depth) * 1e-8 ** (1 / depth))
    [end], [velocity] = shoot(x, v, surface, tolerance=1e-12)
    [back], _ = shoot(end, -velocity, surface, tolerance=1e-12)
    miss = back - x
    assert math.sqrt(surface.inner(x, miss, miss)) < 1e-5 * math.sqrt(surface.inner(x, v, v))


# Closed forms.


def straight_cases(rng):
    x = points(rng, 4, 3, 3, 3)[0]
    u, s, vt = np.linalg.svd(x)
    yield "straight", 1, 3, x, 0.2 * rng.standard_normal(x.shape)
    for depth in (2, 3, 2.5, INF):
        rates = 0.03 * rng.standard_normal((4, 1, 3)) * s[:, None]
        yield f"aligned {depth}", depth, 3, x, (u * rates) @ vt
    even = 0.1 * rng.standard_normal(x.shape)
    yield "one factor", 2, 3, x, u @ vt @ (even + even.mT)
    positive = x @ x.mT
    yield "positive", 2, 3, positive, even + even.mT
    for depth in (1, 2, 3.5):
        y = truncated(rng.standard_normal((4, 4, 3)), 1)
        yield f"cone {depth}", depth, 1, y, KernelSurface(of_depth(depth), 1)._frame(y).project(0.3 * y + even[0, 0, 0])
        z = KernelSurface(of_depth(depth), 1)._frame(y).project(0.5 * rng.standard_normal(y.shape))
        yield f"cone {depth}, turning", depth, 1, y, z


CASES = list(straight_cases(np.random.default_rng(3)))


@pytest.mark.parametrize(("depth", "rank", "x", "v"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_closed_forms_are_geodesics(depth, rank, x, v):
    surface = KernelSurface(of_depth(depth), rank)
    [line] = straight.from_velocity(x, v, surface)
    assert line.which.all()
    for t in (0.4, 0.9):
        found = line.at(t)
        for k in range(len(x)):
            if t < line.until[k]:
                exact = literally(surface, x[k], v[k], t)
                np.testing.assert_allclose(found[0][k], exact[0], atol=2e-10)
                np.testing.assert_allclose(found[1][k], exact[1], atol=2e-10)
    ends, _ = line.at(0.4)
    back, holds = straight.between(x, ends, surface)
    assert holds.all()
    np.testing.assert_allclose(back, 0.4 * v, atol=1e-12)


@pytest.mark.parametrize(
    ("depth", "rates", "end"), [(3, (-0.5, 0.1), 6.0), (INF, (-0.5, 0.1), INF), (2, (0.4, -4.0), 0.5)], ids=str
)
def test_closed_forms_end_where_a_singular_value_does(depth, rates, end):
    """At depth N, ``λ(t) = λ (1 + t σ̇/(Nσ))``."""
    surface = KernelSurface(of_depth(depth), 2)
    [line] = straight.from_velocity(np.eye(2)[None], np.diag(rates)[None], surface)
    if end == INF:
        assert line.until[0] > 600  # where it overflows
        return
    assert line.until[0] == pytest.approx(end)
    with pytest.raises(GeodesicError, match=rf"just after time {end:g}"):
        shoot(np.eye(2), np.diag(rates), surface, [2 * end])


def test_near_frames_are_not_taken_for_one(rng):
    x = points(rng, 1, 3, 3, 3)[0]
    u, s, vt = np.linalg.svd(x)
    surface = KernelSurface(of_depth(3), 3)
    off = 1e-9 * rng.standard_normal(x.shape)
    assert straight.from_velocity(x, (u * s[:, None]) @ vt + off, surface) == []
    assert not straight.between(x, 2 * x + off, surface)[1].any()


# Logarithms.


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("d", "count"),
    [(3, 40), (24, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((6, 12), (10, 4), (64, 1)))],
)
def test_logarithms_take_thirty_geodesics_at_most(rng, d, count, depth):
    """Of pairs at distances up to 2; the ends are verified by the integrator of any surface."""
    surface = KernelSurface(of_depth(depth), d)
    x, y = points(rng, count, d, d, d, spread=min(0.6, 4 / d))
    found = logarithms(x, y, surface, 1e-10)
    near = found.length <= 2
    assert near.any()
    assert found.found[near].all()
    assert found.iterations[near].max() <= 30
    assert found.residual[near].max() <= 1e-10
    for k in np.flatnonzero(near)[: 3 if d < 24 else 0]:
        end = literally(surface, x[k], found.velocity[k], 1.0)[0]
        miss = y[k] - end
        assert math.sqrt(surface.inner(y[k], miss, miss)) < 1e-8
        assert found.length[k] == pytest.approx(math.sqrt(surface.inner(x[k], *(found.velocity[k],) * 2)), rel=1e-12)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("m", "n", "rank"), [(3, 3, 3), (6, 6, 6), (5, 4, 2), (4, 6, 4), (20, 15, 3)])
def test_logarithms_invert_exponentials(rng, m, n, rank, depth):
    if depth == INF and not m == n == rank:
        pytest.skip("infinite depth lives on square invertible matrices")
    surface = KernelSurface(of_depth(depth), rank)
    x = points(rng, 6, m, n, rank, spread=0.3)[0]
    v = tangent(surface, rng, x, 0.5)
    [y], _ = shoot(x, v, surface, tolerance=1e-13)
    found = connect_all(x, y, surface)
    np.testing.assert_allclose(found.velocity, v, atol=2e-9)
    np.testing.assert_allclose(found.length, 0.5, rtol=1e-9)
    np.testing.assert_allclose(connect_all(y, x, surface).length, 0.5, rtol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 8, 2.5])
def test_far_singular_values_cost_no_accuracy(rng, depth):
    """The miss is measured in the metric: a ratio of 1e8 leaves velocities known to 1e-6 there."""
    surface = KernelSurface(of_depth(depth), 3)
    u, s, vt = oracles.factors(rng, 3, 3, (1.0, 1e-4, 1e-8))
    x = oracles.dense(u, s, vt)
    v = tangent(surface, rng, x, 0.5 * math.sqrt(depth) * 1e-8 ** (1 / depth))
    [y], _ = shoot(x, v, surface, tolerance=1e-13)
    miss = connect(x, y, surface).velocity - v
    assert math.sqrt(surface.inner(x, miss, miss) / surface.inner(x, v, v)) < 1e-6


def test_pairs_are_found_as_if_alone_and_hard_ones_too(rng):
    surface = KernelSurface(of_depth(3), 3)
    x, y = points(rng, 30, 3, 3, 3)
    y[3] = x[3]
    y[7] = 4 * rng.standard_normal((3, 3)) * np.array([1.0, 1.0, np.sign(np.linalg.det(x[7]))])
    y[7] *= np.sign(np.linalg.det(y[7]) * np.linalg.det(x[7]))
    together = connect_all(x.reshape(5, 6, 3, 3), y.reshape(5, 6, 3, 3), surface)
    assert together.length.shape == (5, 6)
    assert together.length[0, 3] == 0
    for k in (0, 3, 7, 29):
        alone = connect(x[k], y[k], surface)
        assert together.length.ravel()[k] == pytest.approx(alone.length, rel=1e-9, abs=1e-14)
        np.testing.assert_allclose(together.velocity.reshape(30, 3, 3)[k], alone.velocity, atol=1e-8)
    y[11, 0] *= -1
    with pytest.raises(GeodesicError, match=r"^pair \(1, 5\): the determinants"):
        connect_all(x.reshape(5, 6, 3, 3), y.reshape(5, 6, 3, 3), surface)


@pytest.mark.parametrize("depth", [2, 3, INF])
def test_distances_obey_the_axioms_and_their_lower_bound(rng, depth):
    surface = KernelSurface(of_depth(depth), 3)
    x, y = points(rng, 12, 3, 3, 3)
    v = connect_all(x, y, surface)
    [middle], _ = shoot(x, v.velocity, surface, [0.5])
    halves = [connect_all(*pair, surface).length for pair in ((x, middle), (middle, y))]
    np.testing.assert_allclose(halves, [v.length / 2] * 2, rtol=1e-8)
    s, t = (np.linalg.svd(z)[1] for z in (x, y))
    low = np.log(s) - np.log(t) if depth == INF else math.sqrt(depth) * (s ** (1 / depth) - t ** (1 / depth))
    assert np.all(v.length >= np.linalg.norm(low, axis=-1))


@pytest.mark.parametrize(("m", "n", "rank", "depth"), [(3, 3, 3, 3), (4, 4, 4, INF), (5, 4, 2, 2.5), (3, 5, 3, 8)])
def test_the_first_path_joins_the_points_with_the_velocity_that_it_says(rng, m, n, rank, depth):
    x, y = truncated(rng.standard_normal((2, 30, m, n)), rank)
    path = Approach(x, y, depth, rank)
    assert path.joined.all() if min(m, n) > rank or m != n else 5 < path.joined.sum() < 25
    at, velocity = (z[path.joined] for z in path.at(np.array([0.0, 1.0, 0.3, 0.3 + 1e-5, 0.3 - 1e-5])))
    np.testing.assert_allclose(at[:, 0], x[path.joined], atol=1e-12)
    np.testing.assert_allclose(at[:, 1], y[path.joined], atol=1e-12)
    np.testing.assert_allclose((at[:, 3] - at[:, 4]) / 2e-5, velocity[:, 2], atol=1e-7)
    assert np.all(np.linalg.svd(at)[1][..., rank:] < 1e-13)


@pytest.mark.parametrize("depth", [1, *DEPTHS])
def test_singular_points_are_named_and_sizes_are_free(depth):
    surface, x = KernelSurface(of_depth(depth), 2), np.array([[1.0, 0.2], [0.1, 0.5]])
    for bad in (np.zeros((2, 2)), np.diag([1.0, 0.0])):
        for pair, name in (((bad, x), "first"), ((x, bad), "second")):
            with np.errstate(all="raise"), pytest.raises(GeodesicError, match=f"the {name} point has rank below 2"):
                connect(*pair, surface)
        if depth > 1:
            with np.errstate(all="raise"), pytest.raises(GeodesicError, match="just after time 0,"):
                shoot(bad, x, surface)
    v = np.array([[0.1, 0.3], [-0.2, 0.1]])
    [end], _ = shoot(x, v, surface)
    for size in (1e-200, 1e100):
        np.testing.assert_allclose(shoot(size * x, size * v, surface)[0][0], size * end, rtol=1e-10)
        np.testing.assert_allclose(connect(size * x, size * end, surface).velocity, size * v, rtol=1e-8)
    if depth > 1:
        with np.errstate(all="raise"), pytest.raises(GeodesicError, match="just after time"):
            shoot(x, 1e200 * v, surface)


@pytest.mark.parametrize(("depth", "size"), [(1, 3), (2, 2), (3, 2), (3, 3), (2.5, 2)])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-8])
def test_compiled_geodesics_do_not_step_over_singular_matrices(rng, depth, size, tolerance):
    """Of rank 2, in one pair of frames: the smaller λ goes straight to 0 at 0.6. Depth 1 keeps its energy there."""
    u, s, vt = oracles.factors(rng, size, size, (1.5, 0.7))
    x, v = oracles.dense(u, s, vt), oracles.dense(u, np.array([0.1, -depth * 0.7 / 0.6]), vt)
    _, _, steps, until = geodesics(x[None], v[None], 2, depth, depth, tolerance, np.ones(1), 1000)
    assert steps[0] < 0
    assert until[0] <= 0.6 * (1 + 1e-6)
