"""The DLN metric on geomstats' spaces of complex matrices, and gradient flows there."""

import geomstats.backend as gs
import numpy as np
import pytest
from backend import npa
from complex_numbers import adjoint, cometric, gaussian
from geomstats.geometry.complex_matrices import ComplexMatrices
from geomstats.geometry.hpd_matrices import HPDMatrices
from scipy.integrate import solve_ivp

import dlngeo
from dlngeo.geomstats import DLNMetric
from dlngeo.matrices.frame import Frame
from dlngeo.pymanopt import from_geomstats


@pytest.fixture
def space():
    return ComplexMatrices(3, 2, equip=False).equip_with_metric(DLNMetric, depth=3)


def test_the_metric_is_that_of_the_frame(space, rng):
    x, y, z, g, h = gaussian(rng, 5, 4, 3, 2)
    point, one, other, first, second = map(gs.from_numpy, (x, y, z, g, h))
    frame, metric = Frame.at(x, space.metric.kernel), space.metric
    np.testing.assert_allclose(npa(metric.inner_product(one, other, point)), frame.inner(y, z), rtol=1e-11)
    np.testing.assert_allclose(npa(metric.gradient(first, point)), frame.cometric(g), atol=1e-11)
    found = metric.hessian(other, first, second, point)
    np.testing.assert_allclose(npa(found), frame.hessian(z, g, h), atol=1e-10)
    np.testing.assert_allclose(npa(metric.gradient(first, point))[0], cometric(x[0], g[0], 3), atol=1e-9)
    np.testing.assert_allclose(npa(metric.log_volume_density(point)), frame.log_volume_density(), rtol=1e-11)
    np.testing.assert_allclose(npa(metric.brownian_drift(point)), 0, atol=1e-11)
    matrix = npa(metric.metric_matrix(point))
    pairing = np.einsum("ba,bac,bc->b", y.reshape(4, -1).conj(), matrix, z.reshape(4, -1)).real
    np.testing.assert_allclose(pairing, frame.inner(y, z), rtol=1e-11)
    # A real point of the space is a complex one, with all its directions.
    real = gs.from_numpy(np.ascontiguousarray(x.real))
    np.testing.assert_allclose(
        npa(metric.log_volume_density(real)), 2 * Frame.at(x.real, metric.kernel).log_volume_density(), rtol=1e-11
    )


def test_exponentials_logarithms_and_distances(space, rng):
    x, z = gaussian(rng, 2, 3, 3, 2)
    metric = space.metric
    z = 0.3 * z / np.sqrt(Frame.at(x, metric.kernel).inner(z, z))[:, None, None]
    point, vector = map(gs.from_numpy, (x, z))
    end = metric.exp(vector, point)
    np.testing.assert_allclose(npa(metric.log(end, point)), z, atol=1e-7)
    np.testing.assert_allclose(npa(metric.dist(point, end)), 0.3, rtol=1e-8)
    middle = npa(metric.geodesic(initial_point=point, initial_tangent_vec=vector)(0.5))
    np.testing.assert_allclose(middle[:, 0], npa(metric.exp(vector / 2, point)), atol=1e-9)


def test_noise_has_the_covariance_of_the_metric(space, rng):
    x = gaussian(rng, 3, 2)
    noise = npa(space.metric.random_gaussian_tangent_vec(gs.from_numpy(x), n_samples=20_000, rng=0))
    y = gaussian(rng, 3, 2)
    along = Frame.at(x, space.metric.kernel).inner(noise, y)
    size = Frame.at(x, space.metric.kernel).inner(y, y)
    assert abs(np.mean(along**2) / size - 1) < 4 * np.sqrt(2 / 20_000)
    assert abs(np.mean(along) / np.sqrt(size)) < 4 / np.sqrt(20_000)


def test_positive_hermitian_matrices_are_totally_geodesic(rng):
    space = HPDMatrices(2, equip=False).equip_with_metric(DLNMetric, depth=2)
    a, v = gaussian(rng, 2, 2, 2)
    point, vector = gs.from_numpy(a @ adjoint(a) + np.eye(2)), gs.from_numpy((v + adjoint(v)) / 4)
    end = npa(space.metric.exp(vector, point))
    np.testing.assert_allclose(end, adjoint(end), atol=1e-11)


def test_what_is_real_refuses_complex_arrays_and_what_is_missing_says_so(space, rng):
    x = gs.from_numpy(gaussian(rng, 3, 2))
    missing = {
        "Christoffel": lambda m: m.christoffels(x),
        "curvature tensor": lambda m: m.riemann_tensor(x),
        "Ricci tensor": lambda m: m.ricci_tensor(x),
        "parallel transport": lambda m: m.parallel_transport(x, x, direction=x),
        "Jacobi": lambda m: m.jacobi_field(x, x, x, x),
        "conjugate": lambda m: m.conjugate_time(x, x),
        "minimality": lambda m: m.minimality(x, x),
    }
    for name, call in missing.items():
        with pytest.raises(NotImplementedError, match=name):
            call(space.metric)
    with pytest.raises(ValueError, match="is complex"):
        from_geomstats(space)
    from geomstats.geometry.matrices import Matrices

    real = Matrices(3, 2, equip=False).equip_with_metric(DLNMetric, depth=3)
    with pytest.raises(TypeError, match="must be real numbers"):
        real.metric.exp(x, x)


# Flows.


def residual(c):
    return lambda x: x - c


@pytest.mark.parametrize("method", ["DOP853", "BDF", pytest.param("implicit", marks=pytest.mark.slow)])
def test_the_gradient_flow_is_that_of_the_complex_equation(space, method, rng):
    start, c = gaussian(rng, 2, 3, 2)
    start = start / 2

    def slope(_, y):
        x = y.reshape(3, 2)
        return -cometric(x, x - c, 3).ravel()

    expected = solve_ivp(slope, (0, 0.5), start.ravel(), method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    options = {"rtol": {"DOP853": 1e-11, "BDF": 1e-8, "implicit": 1e-5}[method]}
    if method == "implicit":
        options["euclidean_hessian"] = lambda x, z: z
    flow = dlngeo.gradient_flow(
        space, residual(c), start, 0.5, method=method, cost=lambda x: np.sum(np.abs(x - c) ** 2) / 2, **options
    )
    assert flow.status == "complete", flow.message
    tolerance = {"DOP853": 1e-7, "BDF": 1e-5, "implicit": 1e-3}[method]
    np.testing.assert_allclose(flow.points[-1], expected.reshape(3, 2), atol=tolerance)
    assert np.iscomplexobj(flow.points)
    np.testing.assert_allclose(flow.singular_values[-1], np.linalg.svd(flow.points[-1], compute_uv=False), rtol=1e-10)
    grad = Frame.at(start, space.metric.kernel).cometric(start - c)
    norm = np.sqrt(np.vdot(start - c, grad).real)
    np.testing.assert_allclose(flow.gradient_norms[0], norm, rtol=1e-11)


def test_many_flows_and_training_follow_the_same_path(rng):
    space = ComplexMatrices(2, 2, equip=False).equip_with_metric(DLNMetric, depth=3)
    starts, c = gaussian(rng, 2, 2, 2), gaussian(rng, 2, 2)
    ensemble = dlngeo.gradient_flow(space, residual(c), starts, 0.5)
    for start, end in zip(starts, ensemble.ends, strict=True):
        flow = dlngeo.training_flow(dlngeo.balanced_weights(start, 3, rng=1), residual(c), 0.5)
        np.testing.assert_allclose(flow.points[-1], end, atol=1e-8)
        assert flow.imbalance_drift.max() < 1e-9
    weights = [w + 0.1 * gaussian(rng, 2, 2) for w in flow.weights[0]]
    descent = dlngeo.gradient_descent(weights, residual(c), 1e-3, 500)
    flow = dlngeo.training_flow(np.stack(weights), residual(c), 0.5)
    assert flow.weights[-1].shape == (3, 2, 2)
    np.testing.assert_allclose(descent.points[-1], flow.points[-1], atol=5e-3)


def test_flows_of_real_starts_refuse_complex_gradients_and_others_factored_starts(space, rng):
    with pytest.raises(TypeError, match="must be real numbers"):
        dlngeo.training_flow([np.eye(2), np.eye(2)], lambda x: 1j * x, 1.0)
    with pytest.raises(TypeError, match="must be real numbers"):
        dlngeo.balancing_flow([1j * np.eye(2), np.eye(2)], 1.0)
    u, s, vt = np.linalg.svd(gaussian(rng, 3, 2), full_matrices=False)
    with pytest.raises(ValueError, match="dense coordinates alone"):
        dlngeo.gradient_flow(space, residual(0), (u, s, vt), 1.0)
    with pytest.raises(ValueError, match="rank below 2"):
        dlngeo.gradient_flow(space, residual(0), np.zeros((3, 2), complex), 1.0)
