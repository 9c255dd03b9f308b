"""The manifold of balanced weights, against dense linear algebra from its equations and an independent integrator."""

import geomstats.backend as gs
import numpy as np
import oracles
import pymanopt
import pytest
from backend import gsa, npa
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions
from scipy.integrate import solve_ivp

import dlngeo
from dlngeo.errors import GeodesicError
from dlngeo.geomstats import BalancedMatrices, FrobeniusMetric
from dlngeo.geomstats.weights import WeightSpace
from dlngeo.pymanopt import from_geomstats
from dlngeo.shooting import shoot
from dlngeo.weights import curvature as balanced_curvature
from dlngeo.weights import geodesics as weight_geodesics
from dlngeo.weights.balanced import BalancedFrame
from dlngeo.weights.geodesics import BALANCED
from dlngeo.weights.network import layer_gradient

SIZES = [(3, 3), (2, 5), (4, 2), (1, 3), (3, 1)]
over_sizes = pytest.mark.parametrize(("d", "depth"), SIZES)


def weights(rng, d, depth, lam=None):
    """Balanced weights with given singular values, by default two equal ones among them."""
    lam = np.array([1.3, 1.3, 0.7, 0.5][:d]) if lam is None else np.array(lam)
    inner = [d] * (depth - 1)
    return np.stack(
        oracles.balanced_factors(rng, oracles.orthogonal(rng, d), lam**depth, oracles.orthogonal(rng, d), inner)
    )


def imbalances(w):
    """The equations, literally."""
    return np.array([w[p + 1].T @ w[p + 1] - w[p] @ w[p].T for p in range(len(w) - 1)])


def jacobian(w):
    """Derivative of the equations, by entries of the weights, from their values on units (they are quadratic)."""
    units = np.eye(w.size).reshape(-1, *w.shape)
    return np.stack([(imbalances(w + e) - imbalances(w - e)).ravel() / 2 for e in units], axis=1)


def dense_projector(w):
    """Orthogonal projector onto the null space of the derivative of the equations."""
    if len(w) == 1:
        return np.eye(w.size)
    j = jacobian(w)
    return np.eye(w.size) - np.linalg.pinv(j, rcond=1e-10) @ j


def dense_acceleration(w, v):
    """The normal vector a with ``DG(a) + D²G(v, v) = 0``, by least squares."""
    return -np.linalg.lstsq(jacobian(w), 2 * imbalances(v).ravel(), rcond=1e-10)[0].reshape(w.shape)


def tangent(rng, w, size=1.0):
    v = (dense_projector(w) @ rng.standard_normal(w.size)).reshape(w.shape)
    return size * v / np.linalg.norm(v)


@over_sizes
def test_tangent_spaces_are_those_of_the_equations(rng, d, depth):
    space = BalancedMatrices(d, depth)
    w, v = weights(rng, d, depth), rng.standard_normal((depth, d, d))
    np.testing.assert_allclose(npa(space.submersion(gsa(v))), imbalances(v).reshape(depth - 1, d, d), atol=1e-14)
    np.testing.assert_allclose(
        npa(space.tangent_submersion(gsa(v), gsa(w))).ravel(), jacobian(w) @ v.ravel() if depth > 1 else [], atol=1e-13
    )
    projector = dense_projector(w)
    assert space.dim == round(np.trace(projector)) == d * d + (depth - 1) * d * (d - 1) // 2
    projected = npa(space.to_tangent(gsa(v), gsa(w)))
    np.testing.assert_allclose(projected.ravel(), projector @ v.ravel(), atol=1e-12)
    assert bool(space.is_tangent(gsa(projected), gsa(w)))
    if depth > 1:
        assert not bool(space.is_tangent(gsa(v), gsa(w)))
        assert not bool(space.is_tangent(gsa(projected[:1]), gsa(w)))
    basis = npa(space.tangent_basis(gsa(w))).reshape(-1, w.size)
    np.testing.assert_allclose(basis.T @ basis, projector, atol=1e-12)
    assert space.shape == (depth, d, d)
    assert space.point_ndim == 3


def test_everything_takes_batches(rng):
    space = BalancedMatrices(3, 4)
    w = np.stack([weights(rng, 3, 4) for _ in range(5)])
    v = rng.standard_normal(w.shape)
    many = npa(space.to_tangent(gsa(v), gsa(w)))
    for one, vector, point in zip(many, v, w, strict=True):
        np.testing.assert_allclose(npa(space.to_tangent(gsa(vector), gsa(point))), one, atol=1e-14)
    assert npa(space.is_tangent(gsa(many), gsa(w))).tolist() == [True] * 5
    fan = npa(space.to_tangent(gsa(v), gsa(w[0])))
    np.testing.assert_allclose(fan[0], many[0], atol=1e-14)
    assert npa(space.is_tangent(gsa(fan), gsa(w[0]))).tolist() == [True] * 5
    metric = space.metric
    np.testing.assert_allclose(npa(metric.inner_product(gsa(v), gsa(many), gsa(w))), np.sum(v * many, axis=(1, 2, 3)))
    assert metric.inner_product(gsa(v[0]), gsa(v[1]), gsa(w)).shape == (5,)
    for closed in (metric.scalar_curvature, metric.brownian_drift):
        np.testing.assert_allclose(npa(closed(gsa(w))), np.stack([npa(closed(gsa(one))) for one in w]), rtol=1e-9)
    assert space.tangent_basis(gsa(w)).shape == (5, space.dim, 4, 3, 3)


def test_belongs(rng):
    space = BalancedMatrices(3, 3)
    w = weights(rng, 3, 3)
    off, thin, broken = w.copy(), weights(rng, 3, 3, [1.0, 0.5, 1e-9]), w.copy()
    off[1, 0, 0] += 1e-6
    broken[2, 1, 1] = np.nan
    points = gsa(np.stack([w, off, thin, broken, 0 * w]))
    assert npa(space.belongs(points, atol=1e-8)).tolist() == [True, False, False, False, False]
    assert npa(space.belongs(points, atol=1e-4)).tolist() == [True, True, False, False, False]
    assert bool(space.belongs(gsa(thin), atol=1e-10))
    assert not bool(space.belongs(gsa(w[:2])))
    assert npa(space.belongs(gsa(np.ones((2, 3, 2, 2))))).tolist() == [False, False]


def test_projection_is_the_nearest_point(rng):
    space = BalancedMatrices(3, 3)
    y = np.stack([weights(rng, 3, 3) for _ in range(2)]) + 0.1 * rng.standard_normal((2, 3, 3, 3))
    projected = npa(space.projection(gsa(y)))
    assert npa(space.belongs(gsa(projected))).all()
    for a, b in zip(y, projected, strict=True):
        assert np.linalg.norm(dense_projector(b) @ (a - b).ravel()) < 1e-12
        assert np.linalg.norm(a - b) > 0.01
        # Near by, every other point is farther.
        for size in (1e-3, 1e-2, 1e-1):
            other = npa(space.metric.exp(gsa(tangent(rng, b, size)), gsa(b)))
            assert np.linalg.norm(a - other) > np.linalg.norm(a - b)
    np.testing.assert_allclose(npa(space.projection(gsa(projected))), projected, atol=1e-14)
    with pytest.raises(ValueError, match="did not converge"):
        space.projection(gsa(rng.standard_normal((40, 3, 3, 3))))  # some of these are too far away


def test_random_points_have_the_stated_law():
    """Each layer is a Gaussian matrix, layers are uncorrelated, and ``Σλ²`` has the mean of the Gibbs law."""
    space, bound, n = BalancedMatrices(3, 3), 1.7, 20000
    w = npa(space.random_point(n, bound=bound, rng=5))
    assert npa(space.belongs(gsa(w[:50]), atol=1e-10)).all()
    np.testing.assert_allclose(np.linalg.svd(w[:, 0])[1], np.linalg.svd(w[:, 2])[1], rtol=1e-7, atol=1e-8)
    variance = bound**2 / 3
    for layer in range(3):
        entry = w[:, layer].reshape(n, 9)
        for power, expected in ((1, 0), (2, variance), (4, 3 * variance**2)):
            mean, error = (entry**power).mean(0), (entry**power).std(0) / np.sqrt(n)
            assert np.all(np.abs(mean - expected) < 4.5 * error), (layer, power)
    products = w[:, 0, :, :, None, None] * w[:, 1, None, None, :, :]
    assert np.abs(products.mean(0) / products.std(0)).max() * np.sqrt(n) < 4.5
    energy = np.sum(w[:, 1] ** 2, axis=(1, 2))
    assert abs(energy.mean() - 9 * variance) < 4 * energy.std() / np.sqrt(n)
    # All components are met: the signs of the determinants are fair coins.
    signs = np.sign(np.linalg.det(w)).mean(0) * np.sqrt(n)
    assert np.all(np.abs(signs) < 4.5)


def test_random_draws_can_be_repeated(rng):
    space = BalancedMatrices(2, 3)
    assert space.random_point().shape == (3, 2, 2)
    np.testing.assert_array_equal(
        npa(space.random_point(4, rng=1)), npa(space.random_point(4, rng=np.random.default_rng(1)))
    )
    gs.random.seed(2)
    first = npa(space.random_point(3))
    gs.random.seed(2)
    np.testing.assert_array_equal(npa(space.random_point(3)), first)
    w = space.random_point(3, rng=rng)
    for vectors in (space.random_tangent_vec(w, rng=1), space.random_tangent_vec(w[0], n_samples=3)):
        assert vectors.shape == (3, 3, 2, 2)
    assert npa(space.is_tangent(space.random_tangent_vec(w), w, atol=1e-10)).all()
    assert space.metric.random_gaussian_tangent_vec(w, n_samples=4, rng=2).shape == (4, 3, 3, 2, 2)
    with pytest.raises(ValueError, match="2 samples at 3 points; ask for 1 or 3"):
        space.random_tangent_vec(w, n_samples=2)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        space.random_point(0)


def test_random_tangent_vectors_are_white_noise(rng):
    space, n = BalancedMatrices(2, 3), 20000
    w = weights(rng, 2, 3)
    for vectors in (
        space.random_tangent_vec(gsa(w), n, rng=3),
        space.metric.random_gaussian_tangent_vec(gsa(w), n, rng=4),
    ):
        flat = npa(vectors).reshape(n, -1)
        products = flat[:, :, None] * flat[:, None, :]
        error = products.std(0) / np.sqrt(n) + 1e-12
        assert np.abs((products.mean(0) - dense_projector(w)) / error).max() < 4.5


# Geodesics.


@pytest.mark.parametrize(("d", "depth"), [(3, 3), (2, 5), (1, 3), (3, 1)])
def test_geodesics_solve_the_dense_equation(rng, d, depth):
    """The reference integrates with the normal vector of least squares: nothing of it knows the Jacobi structure."""
    space = BalancedMatrices(d, depth)
    w = weights(rng, d, depth)
    v = tangent(rng, w)

    def rate(_, y):
        position, velocity = y.reshape(2, depth, d, d)
        bend = dense_acceleration(position, velocity) if depth > 1 else 0 * velocity
        return np.concatenate([velocity.ravel(), bend.ravel()])

    found = solve_ivp(rate, (0, 0.8), np.concatenate([w.ravel(), v.ravel()]), method="RK45", rtol=1e-11, atol=1e-12)
    end, velocity = found.y[:, -1].reshape(2, depth, d, d)
    path = space.metric.geodesic(gsa(w), initial_tangent_vec=gsa(v))
    points = npa(path(gsa([-0.3, 0.0, 0.8])))
    np.testing.assert_allclose(points[2], end, atol=1e-8)
    np.testing.assert_allclose(npa(space.metric.exp(0.8 * gsa(v), gsa(w))), points[2], atol=1e-10)
    np.testing.assert_array_equal(points[1], w)
    assert npa(space.belongs(gsa(points), atol=1e-13)).all()
    np.testing.assert_allclose(np.linalg.norm(velocity), 1, atol=1e-8)
    state = npa(space.metric.geodesic_equation(gsa(np.stack([w, v]))))
    np.testing.assert_allclose(state[1].ravel(), rate(0, np.concatenate([w.ravel(), v.ravel()]))[w.size :], atol=1e-12)
    np.testing.assert_array_equal(state[0], v)


def test_geodesics_conserve_energy_and_momentum(rng):
    """By Noether's theorem: ``skew(V_p W_pᵀ − W_{p+1}ᵀ V_{p+1})`` is constant, as turning any Q_p is an isometry."""
    w = weights(rng, 3, 4)
    v = tangent(rng, w, 1.2)
    points, velocities = shoot(w, v, BALANCED, np.linspace(0, 1, 6))

    def momenta(w, v):
        ends = [w[0].T @ v[0], *(v[p] @ w[p].T - w[p + 1].T @ v[p + 1] for p in range(3)), v[3] @ w[3].T]
        return np.stack([m - m.T for m in ends])

    start = momenta(w, v)
    assert np.abs(start).min(axis=(1, 2)).shape == (5,)
    assert np.abs(start).max(axis=(1, 2)).min() > 0.05
    for point, velocity in zip(points, velocities, strict=True):
        np.testing.assert_allclose(momenta(point, velocity), start, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(velocity), 1.2, rtol=1e-10)
        assert np.abs(imbalances(point)).max() < 1e-13
        assert np.abs(jacobian(point) @ velocity.ravel()).max() < 1e-12


def test_aligned_geodesics_are_straight(rng):
    """``Q_p (Λ + tD) Q_{p−1}ᵀ`` is a line in the flat space, so a geodesic, as far as the layers are invertible."""
    space = BalancedMatrices(3, 3)
    q = [oracles.orthogonal(rng, 3) for _ in range(4)]
    lam, speed = np.array([1.5, 0.8, 0.4]), np.array([0.3, -0.2, -0.8])

    def at(t):
        return np.stack([q[p + 1] @ np.diag(lam + t * speed) @ q[p].T for p in range(3)])

    v = at(1.0) - at(0.0)
    np.testing.assert_allclose(npa(space.metric.exp(0.45 * gsa(v), gsa(at(0.0)))), at(0.45), atol=1e-11)
    np.testing.assert_allclose(npa(space.metric.log(gsa(at(0.45)), gsa(at(0.0)))), 0.45 * v, atol=1e-9)
    # At t = 0.5 one singular value vanishes; the line goes on, but not on the manifold.
    for t in (0.55, 1.0):
        with pytest.raises(GeodesicError, match="singular matrix just after time"):
            space.metric.exp(t * gsa(v), gsa(at(0.0)))
    # Two at once leave the sign of the determinant as it was.
    both = np.stack([q[p + 1] @ np.diag([0.0, -1.6, -0.8]) @ q[p].T for p in range(3)])
    with pytest.raises(GeodesicError, match="singular"):
        space.metric.exp(gsa(both), gsa(at(0.0)))
    batch = gsa(np.stack([0.1 * v, 0.55 * v]))
    with pytest.raises(GeodesicError, match="singular"):
        space.metric.exp(batch, gsa(at(0.0)))


def test_exp_broadcasts_and_refuses_nan(rng):
    space = BalancedMatrices(2, 3)
    w = np.stack([weights(rng, 2, 3) for _ in range(2)])
    v = np.stack([tangent(rng, x, 0.5) for x in w])
    ends = npa(space.metric.exp(gsa(v), gsa(w)))
    for one, vector, point in zip(ends, v, w, strict=True):
        np.testing.assert_allclose(npa(space.metric.exp(gsa(vector), gsa(point))), one, atol=1e-10)
    fan = space.metric.exp(gsa(np.stack([v[0], 0.5 * v[0]])), gsa(w[0]))
    np.testing.assert_allclose(npa(fan)[0], ends[0], atol=1e-10)
    v[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="tangent_vec holds NaN"):
        space.metric.exp(gsa(v), gsa(w))


@pytest.mark.parametrize(("d", "depth", "size"), [(3, 3, 0.4), (2, 4, 1.0), (1, 3, 0.3), (3, 1, 1.0)])
def test_log_inverts_exp(rng, d, depth, size):
    space = BalancedMatrices(d, depth)
    w = weights(rng, d, depth)
    v = tangent(rng, w, size)
    end = space.metric.exp(gsa(v), gsa(w))
    log = npa(space.metric.log(end, gsa(w)))
    np.testing.assert_allclose(log, v, atol=2e-9)
    np.testing.assert_allclose(npa(space.metric.dist(gsa(w), end)), size, rtol=1e-9)
    np.testing.assert_allclose(npa(space.metric.dist(end, gsa(w))), size, rtol=1e-9)
    assert npa(space.metric.dist(gsa(w), gsa(w))) < 1e-12
    middle = npa(space.metric.geodesic(gsa(w), end_point=end)(gsa([0.5])))[0]
    np.testing.assert_allclose(middle, npa(space.metric.exp(gsa(v) / 2, gsa(w))), atol=1e-9)


@pytest.mark.slow
def test_log_finds_far_points():
    """Where Newton's method from the chord fails, the shortened path leads to the geodesic."""
    rng, space = np.random.default_rng(0), BalancedMatrices(2, 3)
    a, b = weights(rng, 2, 3, [1.5, 0.6]), weights(rng, 2, 3, [1.2, 0.5])
    flip = np.diag([1.0, -1.0])
    for p in range(3):
        if np.linalg.det(a[p]) * np.linalg.det(b[p]) < 0:
            b[p] = flip @ b[p]
            if p < 2:
                b[p + 1] = b[p + 1] @ flip
    path = weight_geodesics.balanced_weights_path(a, b)
    assert npa(space.belongs(gsa(path(np.linspace(0, 1, 9))), atol=1e-12)).all()
    length = np.linalg.norm(np.diff(path(np.linspace(0, 1, 1001)), axis=0).reshape(1000, -1), axis=1).sum()
    (bound, from_chord), (_, from_path) = BALANCED.attempts(a, b, 1e-10)
    assert length <= bound < 1.001 * length
    with pytest.raises(GeodesicError, match="runs into a singular matrix"):
        from_chord()
    log = npa(space.metric.log(gsa(b), gsa(a)))
    np.testing.assert_array_equal(from_path().velocity, log)
    np.testing.assert_allclose(npa(space.metric.exp(gsa(log), gsa(a))), b, atol=1e-8)
    assert np.linalg.norm(b - a) < np.linalg.norm(log) < length
    assert 1e-6 < np.linalg.norm(weight_geodesics.relaxed(a, b, BALANCED) - log) < 0.02 * np.linalg.norm(log)


def test_log_between_components_is_refused(rng):
    space = BalancedMatrices(2, 3)
    a = weights(rng, 2, 3)
    flip = np.diag([1.0, -1.0])
    b = np.stack([a[0], flip @ a[1], a[2] @ flip])
    with pytest.raises(GeodesicError, match=r"determinants of layer 2 .* have opposite signs") as caught:
        space.metric.log(gsa(b), gsa(a))
    assert caught.value.status == "disconnected"
    with pytest.raises(GeodesicError, match="pair 1: the determinants"):
        space.metric.log(gsa(np.stack([a, b])), gsa(a))


# Derivatives and curvature.


def loss_on(rng, d, depth):
    """``L(W) = E(W_N ⋯ W_1) + ⟨C, W⟩`` with its derivatives, by differences of polynomials where that is exact."""
    cost, linear = oracles.Cost(rng, d, d), rng.standard_normal((depth, d, d))

    def loss(w):
        return cost(oracles.multiply(w)) + np.sum(linear * w)

    def gradient(w):
        return np.stack(oracles.lift(w, cost.gradient(oracles.multiply(w)))) + linear

    def hessian(w, v):
        return oracles.derivative(lambda h: gradient(w + h * v), step=0.01, levels=4)

    return loss, gradient, hessian


def test_gradient_and_hessian_are_derivatives_along_geodesics(rng):
    space = BalancedMatrices(3, 3)
    metric = space.metric
    w = weights(rng, 3, 3)
    loss, gradient, hessian = loss_on(rng, 3, 3)
    g = npa(metric.gradient(gsa(gradient(w)), gsa(w)))
    v, y = tangent(rng, w), tangent(rng, w)

    def along(h, vector):
        return loss(npa(metric.exp(h * gsa(vector), gsa(w)))) if h else loss(w)

    np.testing.assert_allclose(np.sum(g * v), oracles.derivative(lambda h: along(h, v), levels=3), rtol=1e-7)
    assert np.linalg.norm(dense_projector(w) @ g.ravel() - g.ravel()) < 1e-12

    def form(a, b):
        return np.sum(npa(metric.hessian(gsa(a), gsa(gradient(w)), gsa(hessian(w, a)), gsa(w))) * b)

    for vector in (v, y):
        exact = oracles.second_derivative(lambda h, vector=vector: along(h, vector), step=0.04, levels=3)
        np.testing.assert_allclose(form(vector, vector), exact, rtol=2e-5)
    np.testing.assert_allclose(form(v, y), form(y, v), rtol=1e-9)


def test_the_second_fundamental_form_is_that_of_the_equations(rng):
    space = BalancedMatrices(3, 4)
    w = weights(rng, 3, 4)
    v, y = tangent(rng, w), tangent(rng, w)
    bend = npa(space.metric.second_fundamental_form(gsa(v), gsa(y), gsa(w)))
    polarised = (dense_acceleration(w, v + y) - dense_acceleration(w, v - y)) / 4
    np.testing.assert_allclose(bend, polarised, atol=1e-12)


def test_curvature_is_that_of_gauss(rng):
    space = BalancedMatrices(3, 3)
    metric = space.metric
    w = weights(rng, 3, 3)
    x, y, z, u = (tangent(rng, w) for _ in range(4))

    def bend(a, b):
        return (dense_acceleration(w, a + b) - dense_acceleration(w, a - b)) / 4

    curved = npa(metric.curvature(*map(gsa, (x, y, z)), gsa(w)))
    gauss = np.sum(bend(y, z) * bend(x, u)) - np.sum(bend(x, z) * bend(y, u))
    np.testing.assert_allclose(np.sum(curved * u), gauss, rtol=1e-9)
    sectional = npa(metric.sectional_curvature(gsa(x), gsa(y), gsa(w)))
    frame = BalancedFrame(w)
    np.testing.assert_allclose(sectional, balanced_curvature.sectional_curvature(frame, x, y), rtol=1e-10)
    basis = npa(space.tangent_basis(gsa(w)))
    pairs = [(a, b) for i, a in enumerate(basis) for b in basis[:i]]
    total = 2 * sum(np.sum(bend(a, a) * bend(b, b)) - np.sum(bend(a, b) ** 2) for a, b in pairs[:5])
    some = 2 * sum(float(npa(metric.sectional_curvature(gsa(a), gsa(b), gsa(w)))) for a, b in pairs[:5])
    np.testing.assert_allclose(some, total, rtol=1e-8, atol=1e-12)
    everything = 2 * sum(np.sum(bend(a, a) * bend(b, b)) - np.sum(bend(a, b) ** 2) for a, b in pairs)
    np.testing.assert_allclose(npa(metric.scalar_curvature(gsa(w))), everything, rtol=1e-10)
    drift = sum(dense_acceleration(w, e) for e in basis)
    np.testing.assert_allclose(npa(metric.brownian_drift(gsa(w))), drift, atol=1e-10)


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient, TrustRegions], ids=lambda o: o.__name__)
def test_pymanopt_minimises_on_it(rng, optimizer):
    space = BalancedMatrices(2, 3)
    manifold = from_geomstats(space)
    start = weights(rng, 2, 3, [1.2, 0.8])
    target = npa(space.metric.exp(gsa(tangent(rng, start, 0.4)), gsa(start))) + 0.05 * rng.standard_normal(start.shape)

    cost = pymanopt.function.numpy(manifold)(lambda w: 0.5 * np.sum((w - target) ** 2))
    gradient = pymanopt.function.numpy(manifold)(lambda w: w - target)
    hessian = pymanopt.function.numpy(manifold)(lambda w, v: v)
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)
    found = optimizer(verbosity=0, max_iterations=60, min_gradient_norm=1e-7).run(problem, initial_point=start).point
    # The minimum is the metric projection.
    np.testing.assert_allclose(found, npa(space.projection(gsa(target))), atol=1e-5)


def test_training_flows_are_its_gradient_flows(rng):
    """The gradient of a loss of the product is tangent to the balanced weights, so nothing has to be projected."""
    start, target = weights(rng, 2, 3), rng.standard_normal((2, 2))

    def gradient(w):
        return layer_gradient(oracles.multiply(w) - target, w)

    times = np.linspace(0, 1, 3)
    flow = dlngeo.gradient_flow(BalancedMatrices(2, 3), gradient, start, times)
    trained = dlngeo.training_flow(start, lambda x: x - target, times)
    np.testing.assert_allclose(np.asarray(flow.points), np.stack(trained.weights), atol=1e-9)


# Interface.


def test_the_flat_space_takes_batches():
    flat = WeightSpace(2, 3)
    assert flat.random_point().shape == (3, 2, 2)
    assert flat.random_point(4, bound=2.0).shape == (4, 3, 2, 2)
    assert npa(flat.belongs(flat.random_point(4))).tolist() == [True] * 4
    assert flat.basis.shape == (12, 3, 2, 2)
    assert np.abs(npa(flat.random_point(500, bound=0.5))).max() <= 0.5


def test_the_default_metric():
    assert isinstance(BalancedMatrices(2, 2).metric, FrobeniusMetric)
    assert not hasattr(BalancedMatrices(2, 2, equip=False), "metric")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, 2), ValueError, "d must be at least 1"),
        ((2, 0), ValueError, "depth must be at least 1"),
        ((2.0, 2), TypeError, "d must be an integer"),
        ((2, 2.5), TypeError, "depth must be an integer"),
    ],
)
def test_wrong_sizes_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        BalancedMatrices(*arguments)
