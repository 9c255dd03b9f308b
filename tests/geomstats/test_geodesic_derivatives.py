"""Derivatives of exp, log and dist as geomstats takes them, parallel transport, and what uses them."""

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import gsa, npa, space_of
from geomstats.geometry.spd_matrices import SPDMatrices
from geomstats.learning.geodesic_regression import GeodesicRegression

from dlngeo.geomstats import DLNMetric

needs_autodiff = pytest.mark.skipif(not gs.has_autodiff(), reason="the NumPy backend has no automatic differentiation")


def gradient(f, x):
    return npa(gs.autodiff.value_and_grad(f, point_ndims=x.ndim)(gsa(x))[1])


@needs_autodiff
@pytest.mark.parametrize(("m", "n", "r", "depth"), [(2, 2, 2, 3), (3, 2, 2, 2.5), (3, 3, 1, 4)])
def test_distances_exp_and_log_are_differentiated_exactly(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    u, s, vt = oracles.factors(rng, m, n, np.linspace(1.4, 0.9, r))
    x, c = oracles.dense(u, s, vt), rng.standard_normal((m, n))
    v, w = (0.3 * oracles.tangent(rng, u, vt) for _ in range(2))
    y = npa(metric.exp(gsa(v), gsa(x)))
    log, back = npa(metric.log(gsa(y), gsa(x))), npa(metric.log(gsa(x), gsa(y)))
    length, momentum, momentum_back = (
        float(metric.norm(gsa(log), gsa(x))),
        npa(metric.frame(gsa(x)).metric(gsa(log))),
        npa(metric.frame(gsa(y)).metric(gsa(back))),
    )
    for f, factor in ((metric.squared_dist, -2), (metric.dist, -1 / length)):
        np.testing.assert_allclose(gradient(lambda p, f=f: f(p, gsa(y)), x), factor * momentum, atol=1e-8)
        np.testing.assert_allclose(gradient(lambda p, f=f: f(gsa(x), p), y), factor * momentum_back, atol=1e-8)

    curve = oracles.curve(u, s, vt, w)
    for f in (lambda p: metric.dist(p, gsa(y)), lambda p: gs.sum(gsa(c) * metric.log(gsa(y), p))):
        exact = oracles.derivative(lambda h, f=f: float(f(gsa(curve(h)))), step=0.08, levels=4)
        assert np.sum(gradient(f, x) * w) == pytest.approx(exact, abs=1e-7)
    for f in (
        lambda p: gs.sum(gsa(c) * metric.exp(p, gsa(x))),
        lambda p: gs.sum(gsa(c) * metric.geodesic(gsa(x), initial_tangent_vec=p)(gsa([0.4, 1.0]))),
    ):
        exact = oracles.derivative(lambda h, f=f: float(f(gsa(v + h * w))), step=0.08, levels=4)
        assert np.sum(gradient(f, v) * w) == pytest.approx(exact, abs=1e-7)


@needs_autodiff
def test_batches_broadcast_and_gradients_are_summed_back(rng):
    metric = space_of(2, 2, 2, 3).metric
    x, y = np.eye(2), np.eye(2) + 0.3 * rng.standard_normal((3, 2, 2))
    c = gsa(rng.standard_normal((3, 2, 2)))
    for f in (lambda p, q, c: gs.sum(c * metric.log(q, p)), lambda p, q, c: gs.sum(c * metric.exp(q - p, p))):
        together = gradient(lambda p, f=f: f(p, gsa(y), c), x)
        alone = sum(gradient(lambda p, f=f, i=i: f(p, gsa(y[i]), c[i]), x) for i in range(3))
        np.testing.assert_allclose(together, alone, atol=1e-9)


@needs_autodiff
def test_squared_distances_have_hessians_and_the_rest_refuses_second_derivatives(rng):
    metric = space_of(2, 2, 2, 3).metric
    x, y, w = np.diag([1.1, 1.1]), np.array([[0.9, -0.5], [0.3, 0.7]]), rng.standard_normal(4)
    hessian = npa(gs.autodiff.hessian(lambda p: metric.squared_dist(gs.reshape(p, (2, 2)), gsa(y)))(gsa(x.ravel())))
    along = oracles.second_derivative(
        lambda h: float(metric.squared_dist(gsa(x + h * w.reshape(2, 2)), gsa(y))), step=0.1, levels=4
    )
    assert w @ hessian @ w == pytest.approx(along, abs=1e-6)
    with pytest.raises(NotImplementedError, match="second derivatives of the exponential map"):
        gs.autodiff.hessian(lambda p: gs.sum(metric.exp(gs.reshape(p, (2, 2)), gsa(x))))(gsa(0.1 * y.ravel()))


@needs_autodiff
def test_the_distance_of_a_point_from_itself_has_gradient_zero():
    metric, x = space_of(2, 2, 2, 3).metric, np.array([[1.0, 0.2], [0.0, 0.7]])
    for f in (metric.dist, metric.squared_dist):
        np.testing.assert_array_equal(gradient(lambda p, f=f: f(p, gsa(x)), x), np.zeros((2, 2)))


@needs_autodiff
@pytest.mark.parametrize(("kind", "method"), [("SPD", "riemannian"), ("GL", "riemannian"), ("GL", "extrinsic")])
def test_geodesic_regression_recovers_a_geodesic(kind, method):
    off = 0.2 if kind == "SPD" else -0.3
    space = SPDMatrices(2, equip=False) if kind == "SPD" else space_of(2, 2, 2, 3)
    space.equip_with_metric(DLNMetric, depth=3)
    x, v = gsa([[1.3, 0.2], [off, 0.8]]), gsa([[0.4, -0.2], [off - 0.4, 0.3]])
    v = space.to_tangent(v, x)
    times = gsa([-0.5, 0.0, 0.5])
    points = space.metric.exp(gs.einsum("n,...->n...", times, v), x)
    start = gs.stack([points[0], gs.zeros((2, 2)) if method == "riemannian" else v / 2])
    estimator = GeodesicRegression(space, center_X=False, method=method, initialization=start)
    estimator.set(**({"tol": 1e-10, "max_iter": 80} if method == "riemannian" else {"tol": 1e-7, "autodiff_jac": True}))
    estimator.fit(times, points)
    assert float(space.metric.dist(estimator.intercept_, x)) < 1e-3
    assert float(space.metric.norm(estimator.coef_ - v, x)) < 1e-3
    np.testing.assert_allclose(npa(estimator.predict(times)), npa(points), atol=1e-3)


# Fields along geodesics.


def test_the_pole_ladder_converges_to_parallel_transport(rng):
    """At second order; and norms are kept."""
    space = space_of(2, 2, 2, 3)
    metric, x = space.metric, gsa([[1.2, 0.3], [-0.2, 0.8]])
    v, direction = gsa(0.2 * rng.standard_normal((2, 2))), gsa([[0.3, 0.2], [-0.2, 0.1]])
    exact = metric.parallel_transport(v, x, direction)
    errors = []
    for rungs in (2, 4):
        ladder = metric.ladder_parallel_transport(v, x, direction, n_rungs=rungs, scheme="pole", alpha=1)
        errors.append(np.max(np.abs(npa(ladder["transported_tangent_vec"] - exact))))
    assert np.log2(errors[0] / errors[1]) > 1.9
    assert errors[1] < 1e-4
    end = metric.exp(direction, x)
    assert float(metric.norm(exact, end)) == pytest.approx(float(metric.norm(v, x)), rel=1e-9)
    by_end = metric.parallel_transport(v, x, end_point=end)
    np.testing.assert_allclose(npa(by_end), npa(exact), atol=1e-8)
    many = metric.parallel_transport(gs.stack([v, 2.0 * v]), x, direction)
    np.testing.assert_allclose(npa(many), npa(gs.stack([exact, 2.0 * exact])), atol=1e-9)
    with pytest.raises(ValueError, match="needs a direction or an end_point"):
        metric.parallel_transport(v, x)


@pytest.mark.slow
def test_jacobi_fields_of_the_metric(rng):
    metric, x = space_of(2, 2, 2, 3).metric, np.array([[1.2, 0.3], [-0.2, 0.8]])
    v, b = 0.3 * rng.standard_normal((2, 2, 2))
    for t in (-0.5,):
        field, rate = metric.jacobi_field(gs.zeros((2, 2)), gsa(b), gsa(x), gsa(v), t)
        exact = oracles.derivative(lambda h, t=t: npa(metric.exp(gsa(t * (v + h * b)), gsa(x))), step=0.1, levels=5)
        np.testing.assert_allclose(npa(field), exact, atol=1e-9)
        slope = oracles.derivative(
            lambda h, t=t: npa(metric.jacobi_field(gs.zeros((2, 2)), gsa(b), gsa(x), gsa(v), t + h)[0])
        )
        there = metric.exp(gsa(t * v), gsa(x))
        velocity = gsa(oracles.derivative(lambda h, t=t: npa(metric.exp(gsa((t + h) * v), gsa(x)))))
        covariant = slope + npa(metric.frame(there).christoffel(velocity, field))
        np.testing.assert_allclose(npa(rate), covariant, atol=1e-8)
    np.testing.assert_array_equal(npa(metric.jacobi_field(gsa(v), gsa(b), gsa(x), gsa(v), 0.0)), [v, b])


def test_between_positive_definite_matrices_depth_two_is_shortest():
    space = SPDMatrices(3, equip=False).equip_with_metric(DLNMetric, depth=2)
    x, y = gsa([[2.0, 0.4, 0.0], [0.4, 1.0, 0.3], [0.0, 0.3, 0.7]]), gsa(np.diag([0.5, 1.0, 1.5]))
    found = space.metric.minimality(y, x)
    assert (found.status, found.conjugate_time) == ("shortest", None)
    assert found.length == pytest.approx(float(space.metric.dist(x, y)), rel=1e-12)
    space.equip_with_metric(DLNMetric, depth=3)
    assert space.metric.minimality(y, x).status == "locally shortest"
    with pytest.raises(ValueError, match="one pair of points"):
        space.metric.minimality(gs.stack([x, y]), x)


def test_conjugate_times_within_a_totally_geodesic_part():
    """Positive definite matrices have dimension 6, and the rates of their fields are symmetric."""
    space = SPDMatrices(3, equip=False).equip_with_metric(DLNMetric, depth=3)
    x, v = np.diag([1.5, 1.0, 0.6]), 0.1 * np.array([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    basis = space.metric._tangent_space(x)
    assert basis.shape == (6, 3, 3)
    np.testing.assert_allclose(basis, basis.swapaxes(1, 2), atol=1e-14)
    times = space.metric.conjugate_time(gsa(np.stack([v, -v])), gsa(x))
    assert np.all(npa(times) == np.inf)
