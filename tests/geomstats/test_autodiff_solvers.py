"""Solvers of geomstats that differentiate the metric automatically, against the closed forms; and its flat chart."""

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import gsa, npa
from geomstats.distributions.brownian_motion import BrownianMotion
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.full_rank_matrices import FullRankMatrices
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.geometry.spd_matrices import SPDMatrices
from geomstats.numerics.geodesic import ExpODESolver, LogShootingSolver, PathStraightening
from geomstats.numerics.ivp import GSIVPIntegrator
from geomstats.numerics.optimization import ScipyMinimize
from geomstats.numerics.path import UniformlySampledPathEnergy

from dlngeo.geomstats import BalancedMatrices, DLNMetric, FixedRankMatrices, FlatChart

needs_autodiff = pytest.mark.skipif(not gs.has_autodiff(), reason="the NumPy backend has no automatic differentiation")


def space_of(m, n, depth):
    space = GeneralLinear(n, equip=False) if m == n else FullRankMatrices(m, n, equip=False)
    return space.equip_with_metric(DLNMetric, depth=depth)


def ends():
    """Two points of positive determinant; the first has a repeated singular value."""
    return gsa(np.diag([1.1, 1.1])), gsa([[0.9, -0.6], [0.3, 0.5]])


# Derivatives, as geomstats takes them.


@needs_autodiff
@pytest.mark.parametrize("s", [[2.0, 1.0, 0.5], [1.2, 1.2, 0.6], [0.7, 0.7, 0.7]])
@pytest.mark.parametrize("shape", [(3, 3), (4, 3)])
def test_value_and_grad_of_the_metric_is_a_central_difference(rng, s, shape):
    metric = space_of(*shape, 3).metric
    x = oracles.dense(*oracles.factors(rng, *shape, s))
    y, z, w = rng.standard_normal((3, *shape))
    for f, vectors in ((metric.inner_product, (y, z)), (metric.squared_norm, (y,)), (metric.norm, (y,))):
        vectors = [gsa(v) for v in vectors]
        value, gradient = gs.autodiff.value_and_grad(lambda p, f=f, vs=vectors: f(*vs, p), point_ndims=2)(gsa(x))
        assert float(value) == pytest.approx(float(f(*vectors, gsa(x))), rel=1e-13)
        exact = oracles.derivative(lambda h, f=f, vs=vectors: float(f(*vs, gsa(x + h * w))), step=0.04, levels=5)
        assert np.sum(npa(gradient) * w) == pytest.approx(exact, rel=1e-9, abs=1e-9)


@needs_autodiff
@pytest.mark.parametrize(("d", "depth"), [(2, 3), (2, 1.5), (3, 4)])
def test_christoffel_symbols_by_autodiff_of_the_metric_matrix_are_the_closed_ones(d, depth):
    chart = FlatChart(space_of(d, d, depth))
    for x in (1.3 * np.eye(d), np.diag([1.0, 1.0, 0.4][:d]) @ np.linalg.qr(np.arange(1.0, d * d + 1).reshape(d, d))[0]):
        symbols = RiemannianMetric.christoffels(chart.metric, gsa(x.ravel()))
        np.testing.assert_allclose(npa(symbols), npa(chart.metric.christoffels(gsa(x.ravel()))), atol=1e-12)


@needs_autodiff
@pytest.mark.parametrize("depth", [2, 3])
def test_christoffel_symbols_are_differentiable(depth):
    """So that the curvature of geomstats by autodiff is exact, here at a repeated singular value."""
    chart = FlatChart(space_of(2, 2, depth))
    x, w = np.array([0.0, 1.2, -1.2, 0.0]), np.array([0.3, -1.0, 0.5, 0.8])
    jacobian = gs.autodiff.jacobian_vec(chart.metric.christoffels)(gsa(x))
    exact = oracles.derivative(lambda h: npa(chart.metric.christoffels(gsa(x + h * w))))
    np.testing.assert_allclose(npa(jacobian) @ w, exact, atol=1e-9)


@needs_autodiff
def test_geodesics_of_balanced_weights_refuse_to_be_traced():
    weights = BalancedMatrices(2, 2)
    w = weights.random_point()
    for f in (lambda p: gs.sum(weights.metric.exp(0.1 * w, p)), lambda p: weights.metric.dist(p, w)):
        with pytest.raises(NotImplementedError, match=r"not differentiated through.*Detach the array"):
            gs.autodiff.value_and_grad(f, point_ndims=3)(w)


# Solvers.


class TrapezoidalEnergy(UniformlySampledPathEnergy):
    """The energy with the metric at both ends of every chord, which is second order."""

    def energy_per_time(self, path):
        chords, squared_norm = path[1:] - path[:-1], self._space.metric.squared_norm
        return (len(path) - 1) * (squared_norm(chords, path[:-1]) + squared_norm(chords, path[1:])) / 4


@needs_autodiff
@pytest.mark.parametrize(("energy", "order"), [(UniformlySampledPathEnergy, 1), (TrapezoidalEnergy, 2)])
def test_path_straightening_converges_to_the_geodesic(energy, order):
    """With the order of its energy; at 33 nodes the errors are 1e-3 and 3e-5."""
    space = space_of(2, 2, 3)
    x, y = ends()
    dist = float(space.metric.dist(x, y))
    errors = []
    for n_nodes in (9, 17, 33):
        optimizer = ScipyMinimize(autodiff_jac=True, options={"ftol": 1e-15, "gtol": 1e-8, "maxiter": 3000})
        solver = PathStraightening(space, path_energy=energy(space), n_nodes=n_nodes, optimizer=optimizer)
        path = solver.discrete_geodesic_bvp(y, x)
        exact = space.metric.geodesic(x, end_point=y)(gs.linspace(0.0, 1.0, n_nodes))
        length = float(gs.sqrt(2 * solver.path_energy(path)))
        logarithm = npa(solver.log(y, x) - space.metric.log(y, x))
        errors.append([np.max(np.abs(npa(path - exact))), abs(length - dist), np.max(np.abs(logarithm))])
    # geomstats takes the first chord for the logarithm, so that is of first order anyway.
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, np.broadcast_to([order, order, 1], orders.shape), atol=0.08)
    assert errors[-1][0] < (6e-4 if order == 1 else 1.3e-5)
    assert errors[-1][1] < (2.1e-3 if order == 1 else 5.3e-6)


@needs_autodiff
@pytest.mark.parametrize("depth", [2, 3])
def test_shooting_with_gradients_finds_the_logarithm(depth):
    """To 2e-6, which is what five Runge–Kutta steps leave."""
    space = space_of(2, 2, depth)
    x, y = ends()
    exact = space.metric.log(y, x)
    space.metric.exp_solver = ExpODESolver(space, GSIVPIntegrator(5, "rk4"))
    optimizer = ScipyMinimize(autodiff_jac=True, options={"ftol": 1e-16, "gtol": 1e-10})
    found = LogShootingSolver(space, optimizer=optimizer).log(y, x)
    np.testing.assert_allclose(npa(found), npa(exact), atol=3e-6)


@pytest.mark.slow
def test_shooting_with_finite_differences_finds_the_logarithm():
    """To 1e-6, on every backend: the closed exponential is exact to 1e-11, its differences to 1e-8."""
    space = space_of(2, 2, 3)
    x, y = ends()
    found = LogShootingSolver(space, optimizer=ScipyMinimize(options={"ftol": 1e-16, "gtol": 1e-10})).log(y, x)
    np.testing.assert_allclose(npa(found), npa(space.metric.log(y, x)), atol=1e-6)


# The flat chart.


@pytest.mark.parametrize(("m", "n", "depth"), [(2, 2, 3), (3, 2, 2.5)])
def test_the_chart_is_the_matrix_space_in_its_entries(rng, m, n, depth):
    space = space_of(m, n, depth)
    chart = FlatChart(space)
    assert (chart.dim, chart.shape, chart.intrinsic) == (m * n, (m * n,), True)
    points, (y, z) = chart.random_point(4), gsa(rng.standard_normal((2, 4, m * n)))
    x = chart.to_matrix(points)
    np.testing.assert_array_equal(npa(chart.to_vector(x)), npa(points))
    assert bool(gs.all(chart.belongs(points)))
    assert bool(gs.all(space.belongs(x)))
    assert not bool(chart.belongs(gs.zeros(m * n)))
    assert not bool(chart.belongs(gs.ones(m * n + 1)))
    assert bool(gs.all(chart.is_tangent(y, points)))
    assert not bool(chart.is_tangent(gs.ones(m * n + 1)))
    assert chart.to_tangent(y, points) is y
    np.testing.assert_allclose(npa(chart.projection(points)), npa(points), atol=1e-9)

    ours, theirs = chart.metric, space.metric
    y_matrix, z_matrix = chart.to_matrix(y), chart.to_matrix(z)
    inner = npa(theirs.inner_product(y_matrix, z_matrix, x))
    np.testing.assert_allclose(npa(ours.inner_product(y, z, points)), inner)
    by_matrix = np.einsum("bi,bij,bj->b", npa(y), npa(ours.metric_matrix(points)), npa(z))
    np.testing.assert_allclose(by_matrix, inner, rtol=1e-9)
    product = npa(ours.cometric_matrix(points)) @ npa(ours.metric_matrix(points))
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(m * n), product.shape), atol=1e-7)
    state = gs.stack([points, z], axis=-2)
    by_symbols = npa(RiemannianMetric.geodesic_equation(ours, state))
    np.testing.assert_allclose(npa(ours.geodesic_equation(state)), by_symbols, rtol=1e-9, atol=1e-9)


def test_geodesics_of_the_chart_are_those_of_the_matrices():
    space = space_of(2, 2, 3)
    chart = FlatChart(space)
    x, y = ends()
    a, b = chart.to_vector(x), chart.to_vector(y)
    log = chart.metric.log(b, a)
    np.testing.assert_allclose(npa(chart.to_matrix(log)), npa(space.metric.log(y, x)), atol=1e-12)
    np.testing.assert_allclose(npa(chart.metric.exp(log, a)), npa(b), atol=1e-8)
    np.testing.assert_allclose(npa(chart.metric.geodesic(a, initial_tangent_vec=log)(1.0))[0], npa(b), atol=1e-8)
    assert float(chart.metric.dist(a, b)) == pytest.approx(float(space.metric.dist(x, y)), rel=1e-9)


def test_what_has_no_flat_chart_is_refused():
    with pytest.raises(TypeError, match=r"must be a SpectralMetric, got NoneType; call space\.equip_with_metric"):
        FlatChart(GeneralLinear(2, equip=False))
    with pytest.raises(TypeError, match="SpectralMetric, got CanonicalEuclideanMetric"):
        FlatChart(Euclidean(3))
    with pytest.raises(ValueError, match="FixedRankMatrices has dimension 5 among matrices of 9 entries"):
        FlatChart(FixedRankMatrices(3, 3, 1))
    with pytest.raises(ValueError, match="SPDMatrices has dimension 3 among matrices of 4 entries"):
        FlatChart(SPDMatrices(2, equip=False).equip_with_metric(DLNMetric, depth=2))


@pytest.mark.parametrize("depth", [1, 2, 3, 4.5])
def test_brownian_drift_is_that_of_the_christoffel_symbols(depth):
    """``−½ g^{lm} Γ^k_{lm}``, which geomstats uses, is ``½ b`` to round-off, at repeated singular values too."""
    space = space_of(3, 3, depth)
    chart = FlatChart(space)
    rng = np.random.default_rng(2)
    for s in ([2.0, 1.0, 0.5], [1.3, 1.3, 0.5], [0.8, 0.8, 0.8]):
        x = gsa(oracles.dense(*oracles.factors(rng, 3, 3, s)))
        symbols, cometric = (
            npa(f(chart.to_vector(x))) for f in (chart.metric.christoffels, chart.metric.cometric_matrix)
        )
        drift = -np.einsum("klm,lm->k", symbols, cometric)
        np.testing.assert_allclose(drift.reshape(3, 3), npa(space.metric.brownian_drift(x)), atol=1e-12)


def test_brownian_motion_of_geomstats_has_our_drift_and_covariance():
    """In law, where 1 % of the drift is 10 standard errors, and to round-off given the noise that it drew."""
    count, time = 20_000, 60.0
    space = space_of(2, 2, 3)
    chart = FlatChart(space)
    x = gsa(oracles.dense(*oracles.factors(np.random.default_rng(4), 2, 2, [1.2, 0.5])))
    start = gs.broadcast_to(chart.to_vector(x), (count, 4))
    gs.random.seed(11)
    path = BrownianMotion(chart).sample_path(2 * time, 2, start)  # its path of two steps makes one
    increments = npa(path[1] - path[0])
    root = np.linalg.cholesky(npa(space.metric.metric_matrix(x))).T  # whitens the noise
    white = increments @ root.T / np.sqrt(time)
    mean = root @ npa(space.metric.brownian_drift(x)).ravel() * np.sqrt(time) / 2
    assert np.linalg.norm(mean) * np.sqrt(count) / 100 > 9
    assert np.max(np.abs(white.mean(axis=0) - mean)) * np.sqrt(count) < 4
    covariance = (white - mean).T @ (white - mean) / count - np.eye(4)
    assert np.max(np.abs(covariance) / np.sqrt((1 + np.eye(4)) / count)) < 4
    assert abs(np.trace(covariance)) / np.sqrt(8 / count) < 3  # the scale of the noise
    gs.random.seed(11)
    noise = npa(gs.random.normal(size=(count, 4)))
    factor = np.linalg.lstsq(noise, white - mean)[0]
    np.testing.assert_allclose(noise @ factor, white - mean, atol=1e-9)
    np.testing.assert_allclose(factor.T @ factor, np.eye(4), atol=1e-11)
