"""Spectral metrics in geomstats: their tensors, exp and log, oracles, failures; on whatever backend is active."""

import math

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import gsa, npa, space_of
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.full_rank_matrices import FullRankMatrices
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from user_kernels import Quadratic

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.errors import GeodesicError
from dlngeo.geomstats import DLNMetric, FixedRankMatrices, SpectralMetric

INF = math.inf
SHAPES = [(3, 3, 3, 1), (3, 3, 3, 1.5), (3, 3, 3, 4), (3, 3, 3, INF), (4, 3, 2, 3), (3, 4, 3, 2), (4, 4, 2, 1)]
over_shapes = pytest.mark.parametrize(("m", "n", "r", "depth"), SHAPES)


def close(a, b, rtol=0.0, atol=1e-12):
    np.testing.assert_allclose(npa(a), npa(b), rtol=rtol, atol=atol)


def literal_inner(x, y, z, depth, r):
    kernel = oracles.naive(depth)
    return np.sum(y * oracles.schur_cometric(x, z, lambda s, t: 1 / kernel(s, t), r))


def point_and_vectors(rng, m, n, r, count=2, low=0.5, high=2.0):
    u, s, vt = oracles.factors(rng, m, n, rng.uniform(low, high, r))
    x = oracles.dense(u, s, vt)
    return x, [oracles.tangent(rng, u, vt) for _ in range(count)]


# Tensors.


@over_shapes
def test_inner_products_and_norms_are_literal(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    x, (y, z) = point_and_vectors(rng, m, n, r)
    exact = literal_inner(x, y, z, depth, r)
    assert float(metric.inner_product(gsa(y), gsa(z), gsa(x))) == pytest.approx(exact, rel=1e-11)
    exact = literal_inner(x, z, z, depth, r)
    assert float(metric.squared_norm(gsa(z), gsa(x))) == pytest.approx(exact, rel=1e-11)
    assert float(metric.norm(gsa(z), gsa(x))) == pytest.approx(math.sqrt(exact), rel=1e-11)
    assert float(metric.norm(metric.normalize(gsa(z), gsa(x)), gsa(x))) == pytest.approx(1)


def test_the_normalised_metric_is_depth_times_as_large(rng):
    x, (y, z) = point_and_vectors(rng, 3, 3, 3)
    plain, normalised = (space_of(3, 3, 3, 5, normalized=flag).metric for flag in (False, True))
    close(normalised.inner_product(gsa(y), gsa(z), gsa(x)), 5 * plain.inner_product(gsa(y), gsa(z), gsa(x)))
    close(normalised.gradient(gsa(y), gsa(x)), plain.gradient(gsa(y), gsa(x)) / 5)
    # A constant factor changes no geodesic, and distances by its root.
    end = plain.exp(0.1 * gsa(z), gsa(x))
    close(normalised.exp(0.1 * gsa(z), gsa(x)), end, atol=1e-9)
    close(normalised.dist(gsa(x), end), math.sqrt(5) * plain.dist(gsa(x), end), atol=1e-8)


@over_shapes
def test_metric_and_cometric_matrices_are_inverse_in_the_entries_row_by_row(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    x, (y, z) = point_and_vectors(rng, m, n, r)
    a, g = npa(metric.cometric_matrix(gsa(x))), npa(metric.metric_matrix(gsa(x)))
    assert a.shape == g.shape == (m * n, m * n)
    np.testing.assert_allclose(g, g.T, atol=1e-12)
    kernel = oracles.naive(depth)
    exact = oracles.matrix_of(lambda e: oracles.schur_cometric(x, e, kernel, r), np.eye(m * n).reshape(-1, m, n))
    np.testing.assert_allclose(a, exact, atol=1e-11)
    np.testing.assert_allclose(g, np.linalg.pinv(exact, rcond=1e-9), atol=1e-10)
    assert y.ravel() @ g @ z.ravel() == pytest.approx(literal_inner(x, y, z, depth, r), rel=1e-10)
    if m == n == r:
        np.testing.assert_allclose(a @ g, np.eye(m * n), atol=1e-11)


@pytest.mark.parametrize(("d", "depth"), [(2, 1), (2, 1.5), (3, 3), (2, INF)])
def test_christoffel_symbols_are_those_of_the_metric_matrix(rng, d, depth):
    metric = space_of(d, d, d, depth).metric
    x, (z,) = point_and_vectors(rng, d, d, d, count=1)

    def matrix(point):
        return npa(metric.metric_matrix(gsa(point)))

    units = np.eye(d * d).reshape(-1, d, d)
    slopes = np.stack([oracles.derivative(lambda h, e=e: matrix(x + h * e)) for e in units], axis=-1)  # ∂_k g_ij
    first = (np.einsum("jli->lij", slopes) + np.einsum("lij->lij", slopes) - np.einsum("ijl->lij", slopes)) / 2
    exact = np.einsum("kl,lij->kij", np.linalg.inv(matrix(x)), first)
    symbols = npa(metric.christoffels(gsa(x)))
    assert symbols.shape == (d * d,) * 3
    np.testing.assert_allclose(symbols, exact, atol=1e-8)
    state = gs.stack([gsa(x), gsa(z)])
    velocity, acceleration = metric.geodesic_equation(state)
    close(velocity, gsa(z))
    np.testing.assert_allclose(
        npa(acceleration).ravel(), -np.einsum("kij,i,j->k", symbols, z.ravel(), z.ravel()), atol=1e-11
    )


@over_shapes
def test_geodesics_accelerate_as_their_equation_and_christoffel_symbols_say(rng, m, n, r, depth):
    """Below full rank too, where the normal part bends them along the manifold."""
    metric = space_of(m, n, r, depth).metric
    x, (z,) = point_and_vectors(rng, m, n, r, count=1)
    path = metric.geodesic(gsa(x), initial_tangent_vec=gsa(z))
    exact = oracles.second_derivative(lambda h: npa(path(h))[0], step=0.05, levels=4)
    velocity, acceleration = metric.geodesic_equation(gs.stack([gsa(x), gsa(z)]))
    np.testing.assert_allclose(npa(acceleration), exact, atol=1e-5 * np.abs(exact).max() + 1e-6)
    close(velocity, gsa(z))
    symbols = npa(metric.christoffels(gsa(x)))
    bent = -np.einsum("kij,i,j->k", symbols, z.ravel(), z.ravel()).reshape(m, n)
    np.testing.assert_allclose(bent, npa(acceleration), atol=1e-10)


@over_shapes
def test_gradient_and_hessian_are_the_derivatives_along_geodesics(rng, m, n, r, depth):
    """``E(γ)′ = g(grad, γ̇)`` and ``E(γ)″ = g(Hess[γ̇], γ̇)``, polarised by symmetry."""
    metric = space_of(m, n, r, depth).metric
    cost = oracles.Cost(rng, m, n)
    x, (y, z) = point_and_vectors(rng, m, n, r)

    def along(v):
        path = metric.geodesic(gsa(x), initial_tangent_vec=gsa(v))
        return lambda h: cost(npa(path(h))[0])

    gradient = metric.gradient(gsa(cost.gradient(x)), gsa(x))
    slope = oracles.derivative(along(z), step=0.02, levels=4)
    assert float(metric.inner_product(gradient, gsa(z), gsa(x))) == pytest.approx(slope, rel=1e-7)

    def hessian(v):
        return metric.hessian(gsa(v), gsa(cost.gradient(x)), gsa(cost.hessian(x, v)), gsa(x))

    curvature = oracles.second_derivative(along(z), step=0.05, levels=4)
    scale = abs(curvature) + float(metric.norm(hessian(z), gsa(x))) * float(metric.norm(gsa(z), gsa(x)))
    assert float(metric.inner_product(hessian(z), gsa(z), gsa(x))) == pytest.approx(curvature, abs=1e-5 * scale)
    assert float(metric.inner_product(hessian(z), gsa(y), gsa(x))) == pytest.approx(
        float(metric.inner_product(hessian(y), gsa(z), gsa(x))), abs=1e-10 * scale
    )
    for vector in (gradient, hessian(z)):
        assert bool(gs.all(gs.abs(FixedRankMatrices(m, n, r).to_tangent(vector, gsa(x)) - vector) < 1e-10))


@over_shapes
def test_the_volume_density_is_that_of_the_metric_matrix(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    u, s, vt = oracles.factors(rng, m, n, rng.uniform(0.5, 2, r))
    x = oracles.dense(u, s, vt)
    basis = oracles.tangent_basis(u, vt).reshape(-1, m * n)
    gram = basis @ npa(metric.metric_matrix(gsa(x))) @ basis.T
    assert float(metric.log_volume_density(gsa(x))) == pytest.approx(np.linalg.slogdet(gram)[1] / 2, abs=1e-10)


@over_shapes
def test_the_drift_of_brownian_motion_is_the_power_of_the_spectrum(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    u, s, vt = oracles.factors(rng, m, n, rng.uniform(0.5, 2, r))
    b = s if math.isinf(depth) else (depth - 1) * s ** (1 - 2 / depth)
    close(metric.brownian_drift(gsa(oracles.dense(u, s, vt))), gsa(oracles.dense(u, b, vt)), atol=1e-11)


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(2, 2, 2, 3), (3, 2, 1, 2), (2, 2, 2, INF)])
def test_gaussian_tangent_vectors_have_the_cometric_as_covariance(rng, m, n, r, depth):
    """Every variance in an eigenbasis of the cometric to 5 standard errors, which are 0.16 %."""
    metric = space_of(m, n, r, depth).metric
    x, _ = point_and_vectors(rng, m, n, r)
    count = 800_000
    samples = npa(metric.random_gaussian_tangent_vec(gsa(x), n_samples=count, rng=5)).reshape(count, m * n)
    exact = npa(metric.cometric_matrix(gsa(x)))
    values, vectors = np.linalg.eigh(exact)
    tangent = values > 1e-9 * values[-1]
    white = samples @ vectors
    np.testing.assert_allclose(white[:, ~tangent], 0, atol=1e-6)
    white = white[:, tangent] / np.sqrt(values[tangent])
    covariance = white.T @ white / count
    error = np.sqrt((1 + np.eye(tangent.sum())) / count)
    assert np.max(np.abs(covariance - np.eye(tangent.sum())) / error) < 5
    assert np.max(np.abs(white.mean(axis=0))) * math.sqrt(count) < 5
    assert np.allclose((white**4).mean(axis=0), 3, atol=5 * math.sqrt(96 / count))


def test_gaussian_tangent_vectors_are_reproducible_and_shaped(rng):
    metric = space_of(4, 3, 2, 3).metric
    points = gsa(np.stack([point_and_vectors(rng, 4, 3, 2)[0] for _ in range(5)]))
    one = metric.random_gaussian_tangent_vec(points[0], rng=7)
    assert tuple(one.shape) == (4, 3)
    close(one, metric.random_gaussian_tangent_vec(points[0], rng=np.random.default_rng(7)))
    assert tuple(metric.random_gaussian_tangent_vec(points, rng=7).shape) == (5, 4, 3)
    many = metric.random_gaussian_tangent_vec(points, n_samples=6, rng=7)
    assert tuple(many.shape) == (6, 5, 4, 3)
    assert bool(gs.all(FixedRankMatrices(4, 3, 2).is_tangent(many[2], points, atol=1e-10)))
    assert not np.allclose(npa(many[0]), npa(many[1]))
    gs.random.seed(1)
    first = metric.random_gaussian_tangent_vec(points[0])
    second = metric.random_gaussian_tangent_vec(points[0])
    gs.random.seed(1)
    close(first, metric.random_gaussian_tangent_vec(points[0]))
    assert not np.allclose(npa(first), npa(second))
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        metric.random_gaussian_tangent_vec(points, n_samples=0)


@over_shapes
def test_every_tensor_of_a_batch_is_that_of_its_members(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    data = [point_and_vectors(rng, m, n, r, 3) for _ in range(3)]
    x = gsa(np.stack([d[0] for d in data]))
    y, z, w = (gsa(np.stack([d[1][k] for d in data])) for k in range(3))
    functions = [
        (metric.inner_product, (y, z, x)),
        (metric.norm, (y, x)),
        (metric.metric_matrix, (x,)),
        (metric.cometric_matrix, (x,)),
        (metric.christoffels, (x,)),
        (metric.gradient, (y, x)),
        (metric.hessian, (y, z, w, x)),
        (metric.log_volume_density, (x,)),
        (metric.brownian_drift, (x,)),
        (metric.geodesic_equation, (gs.stack([x, y], axis=1),)),
    ]
    for function, arguments in functions:
        whole = function(*arguments)
        for i in range(3):
            close(whole[i], function(*(a[i] for a in arguments)), atol=1e-11)
    # Vectors at one point.
    close(metric.inner_product(y, z[0], x[0]), gs.stack([metric.inner_product(v, z[0], x[0]) for v in y]))


# Exponential and logarithm.


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(3, 3, 3, 3), (3, 3, 3, INF), (4, 3, 2, 2)])
def test_exp_and_paths_broadcast(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    data = [point_and_vectors(rng, m, n, r) for _ in range(3)]
    x = gsa(np.stack([d[0] for d in data]))
    v = 0.2 * gsa(np.stack([d[1][0] for d in data]))
    ends = metric.exp(v, x)
    for i in range(3):
        close(ends[i], metric.exp(v[i], x[i]), atol=1e-9)
    tangents = FixedRankMatrices(m, n, r).to_tangent(v, x[0])
    close(metric.exp(tangents, x[0]), gs.stack([metric.exp(t, x[0]) for t in tangents]), atol=1e-9)
    times = gs.array([0.5, -0.5, 1.0, 0.0, 1.3])
    path = metric.geodesic(x, initial_tangent_vec=v)(times)
    assert tuple(path.shape) == (3, 5, m, n)
    close(path[:, 2], ends, atol=1e-9)
    close(path[:, 3], x, atol=1e-15)
    close(path[:, 1], metric.exp(-0.5 * v, x), atol=1e-9)
    close(path[:, 4], metric.exp(1.3 * v, x), atol=1e-9)
    single = metric.geodesic(x[0], initial_tangent_vec=v[0])
    close(single(0.5)[0], path[0, 0], atol=1e-9)
    close(single([0.5, 1.0])[1], ends[0], atol=1e-9)
    assert ends.dtype == x.dtype


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(3, 3, 3, 2), (3, 3, 3, 8), (3, 3, 3, INF), (4, 3, 2, 3)])
def test_log_broadcasts_inverts_exp_and_passes_through_both_ends(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    data = [point_and_vectors(rng, m, n, r) for _ in range(2)]
    x = gsa(np.stack([d[0] for d in data]))
    v = gsa(np.stack([d[1][0] for d in data]))
    v = 0.5 * v / metric.norm(v, x)[:, None, None]
    ends = metric.exp(v, x)
    logs = metric.log(ends, x)
    close(logs, v, atol=1e-6)
    close(metric.dist(x, ends), 0.5 * gs.ones(2), atol=1e-7)
    close(metric.squared_dist(x, ends), 0.25 * gs.ones(2), atol=1e-7)
    close(metric.log(ends[0], x[0]), logs[0], atol=1e-9)
    path = metric.geodesic(x, end_point=ends)(gs.array([0.0, 1.0]))
    close(path[:, 0], x)
    close(path[:, 1], ends, atol=1e-8)
    back = metric.geodesic(ends[0], end_point=x[0])(gs.array([0.3]))
    close(back[0], metric.geodesic(x[0], end_point=ends[0])(gs.array([0.7]))[0], atol=1e-8)


def test_log_broadcasts_one_point_against_many(rng):
    metric = space_of(2, 2, 2, 3).metric
    x, vectors = point_and_vectors(rng, 2, 2, 2, 3)
    ends = metric.exp(0.2 * gsa(np.stack(vectors)), gsa(x))
    logs = metric.log(ends, gsa(x))
    close(logs, 0.2 * gsa(np.stack(vectors)), atol=1e-7)
    close(metric.dist(gsa(x), ends), metric.dist(ends, gsa(x)), atol=1e-8)


@pytest.mark.parametrize(("m", "n", "r", "depth"), [(3, 3, 3, 1.5), (4, 4, 4, 3), (3, 3, 3, INF), (4, 3, 3, 3)])
def test_dist_is_a_metric_invariant_under_orthogonal_factors_and_transposition(rng, m, n, r, depth):
    space, turned = space_of(m, n, r, depth), space_of(n, m, r, depth)
    dist = space.metric.dist
    x, y, z = (point_and_vectors(rng, m, n, r)[0] for _ in range(3))
    if m == n:
        y, z = (a * np.append(np.ones(n - 1), np.sign(np.linalg.det(a) * np.linalg.det(x))) for a in (y, z))
    xy = float(dist(gsa(x), gsa(y)))
    assert float(dist(gsa(y), gsa(x))) == pytest.approx(xy, rel=1e-7)
    assert float(dist(gsa(x), gsa(z))) <= xy + float(dist(gsa(y), gsa(z))) + 1e-7
    assert float(dist(gsa(x), gsa(x))) == pytest.approx(0, abs=1e-7)
    q, p = oracles.orthogonal(rng, m), oracles.orthogonal(rng, n)
    assert float(dist(gsa(q @ x @ p), gsa(q @ y @ p))) == pytest.approx(xy, rel=1e-7)
    assert float(turned.metric.dist(gsa(x.T), gsa(y.T))) == pytest.approx(xy, rel=1e-7)
    v = space.metric.log(gsa(y), gsa(x))
    close(turned.metric.log(gsa(y.T), gsa(x.T)), npa(v).T, atol=1e-6)
    close(
        space.metric.exp(gsa(q @ (0.5 * npa(v)) @ p), gsa(q @ x @ p)),
        q @ npa(space.metric.exp(0.5 * v, gsa(x))) @ p,
        atol=1e-8,
    )


# Oracles.


def test_depth_two_on_spd_matrices_is_twice_bures_wasserstein(rng):
    ours, theirs = (SPDMatrices(4, equip=False) for _ in range(2))
    ours.equip_with_metric(DLNMetric, depth=2)
    theirs.equip_with_metric(SPDBuresWassersteinMetric)
    roots = rng.standard_normal((2, 4, 4))
    x, y = (gsa(a @ a.T + 0.3 * np.eye(4)) for a in roots)
    z, w = (gsa(a + a.T) for a in rng.standard_normal((2, 4, 4)))
    ratio = 2 * theirs.metric.inner_product(z, w, x)
    assert float(ours.metric.inner_product(z, w, x)) == pytest.approx(float(ratio), rel=1e-10)
    close(ours.metric.exp(0.2 * z, x), theirs.metric.exp(0.2 * z, x), atol=1e-8)
    close(ours.metric.log(y, x), theirs.metric.log(y, x), atol=1e-8)
    assert float(ours.metric.dist(x, y)) == pytest.approx(math.sqrt(2) * float(theirs.metric.dist(x, y)), rel=1e-8)
    close(ours.metric.geodesic(x, end_point=y)(0.4)[0], theirs.metric.geodesic(x, end_point=y)(0.4)[0], atol=1e-8)


def test_depth_one_is_euclidean(rng):
    metric = space_of(3, 3, 3, 1).metric
    x, (y, z) = point_and_vectors(rng, 3, 3, 3)
    assert float(metric.inner_product(gsa(y), gsa(z), gsa(x))) == pytest.approx(np.sum(y * z), rel=1e-12)
    close(metric.exp(gsa(z), gsa(x)), x + z, atol=1e-12)
    end = x + 0.1 * z
    close(metric.log(gsa(end), gsa(x)), 0.1 * z, atol=1e-9)
    assert float(metric.dist(gsa(x), gsa(end))) == pytest.approx(0.1 * np.linalg.norm(z), rel=1e-9)
    close(metric.metric_matrix(gsa(x)), np.eye(9), atol=1e-12)
    close(metric.christoffels(gsa(x)), np.zeros((9, 9, 9)), atol=1e-12)
    close(metric.brownian_drift(gsa(x)), np.zeros((3, 3)), atol=1e-12)
    assert float(metric.log_volume_density(gsa(x))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("depth", [2, 3, INF])
def test_full_rank_rectangles_are_accepted_where_they_have_a_metric(rng, depth):
    space = FullRankMatrices(3, 2, equip=False)
    if math.isinf(depth):
        with pytest.raises(ValueError, match="square invertible"):
            space.equip_with_metric(DLNMetric, depth=depth)
        return
    space.equip_with_metric(DLNMetric, depth=depth)
    x, (y, z) = point_and_vectors(rng, 3, 2, 2)
    exact = FixedRankMatrices(3, 2, 2, depth=depth).metric.inner_product(gsa(y), gsa(z), gsa(x))
    close(space.metric.inner_product(gsa(y), gsa(z), gsa(x)), exact)
    assert float(exact) == pytest.approx(literal_inner(x, y, z, depth, 2), rel=1e-11)


def test_a_kernel_of_the_user_is_a_metric(rng):
    space = GeneralLinear(3, equip=False)
    space.equip_with_metric(SpectralMetric, kernel=Quadratic())
    metric = space.metric
    x, (y, z) = point_and_vectors(rng, 3, 3, 3)
    # A(Z) = XXᵀZ + ZXᵀX.
    close(metric.gradient(gsa(z), gsa(x)), x @ x.T @ z + z @ x.T @ x, atol=1e-12)
    p = npa(metric.metric_matrix(gsa(x))) @ y.ravel()
    close(metric.gradient(gsa(p.reshape(3, 3)), gsa(x)), y, atol=1e-11)
    assert float(metric.inner_product(gsa(y), gsa(z), gsa(x))) == pytest.approx(p @ z.ravel(), rel=1e-10)
    # Along aligned frames g = Σ ds²/(2s²): straight lines in log s.
    u, _, vt = oracles.factors(rng, 3, 3, np.ones(3))
    s0, s1 = np.array([2.0, 1.0, 0.5]), np.array([1.0, 1.5, 0.8])
    start, end = (gsa(oracles.dense(u, s, vt)) for s in (s0, s1))
    assert float(metric.dist(start, end)) == pytest.approx(np.linalg.norm(np.log(s1 / s0)) / math.sqrt(2), rel=1e-8)
    close(metric.geodesic(start, end_point=end)(0.5)[0], oracles.dense(u, np.sqrt(s0 * s1), vt), atol=1e-8)


# Failures.


def test_opposite_determinants_are_refused_and_the_pair_is_named(rng):
    metric = space_of(2, 2, 2, 3).metric
    x = gs.stack([gsa(np.eye(2))] * 3)
    y = gs.stack([gsa(1.1 * np.eye(2)), gsa(np.diag([1.0, -1.0])), gsa(np.eye(2))])
    for call in (metric.log, metric.dist):
        with pytest.raises(ValueError, match=r"pair 1: the determinants .* opposite signs") as caught:
            call(y, x)
        assert isinstance(caught.value, GeodesicError)
        assert caught.value.status == "disconnected"
    with pytest.raises(GeodesicError, match=r"^the determinants"):
        metric.log(y[1], x[1])
    grid = gs.stack([y, y])
    with pytest.raises(GeodesicError, match=r"pair \(0, 1\): the determinants"):
        metric.log(grid, x)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(value):
    metric = space_of(2, 2, 2, 2).metric
    good, bad = gsa(np.eye(2)), gsa([[1.0, 0.0], [value, 1.0]])
    with pytest.raises(ValueError, match="tangent_vec holds NaN or infinite"):
        metric.exp(bad, good)
    with pytest.raises(ValueError, match="base_point holds NaN or infinite"):
        metric.exp(good, bad)
    with pytest.raises(ValueError, match=r"^point holds NaN or infinite"):
        metric.log(bad, good)
    with pytest.raises(ValueError, match="base_point holds NaN or infinite"):
        metric.log(good, bad)
    with pytest.raises(ValueError, match="base_point holds NaN or infinite"):
        metric.inner_product(good, good, bad)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_velocities_that_run_into_singular_matrices_are_refused(depth):
    metric = space_of(2, 2, 2, depth).metric
    x = gsa(np.diag([2.0, 1.0]))
    v = gsa(np.diag([0.0, -2.0 * depth]))  # λ = 1 − 2t
    with pytest.raises(GeodesicError, match=r"runs into a singular matrix just after time .* Shorten") as caught:
        metric.exp(v, x)
    assert caught.value.status == "singular"
    close(metric.exp(0.2 * v, x), np.diag([2.0, 0.6**depth]), atol=1e-8)
    with pytest.raises(GeodesicError, match="singular"):
        metric.geodesic(x, initial_tangent_vec=v)(gs.array([0.1, 0.9]))


def test_singular_points_are_refused():
    metric = space_of(2, 2, 2, 3).metric
    singular, regular = gsa(np.diag([1.0, 0.0])), gsa(np.eye(2))
    for call in (
        lambda: metric.log(singular, regular),
        lambda: metric.log(regular, singular),
        lambda: metric.exp(regular, singular),
        lambda: metric.inner_product(regular, regular, singular),
        lambda: metric.metric_matrix(singular),
        lambda: metric.log_volume_density(singular),
        lambda: metric.brownian_drift(singular),
    ):
        with pytest.raises(ValueError, match=r"singular|rank below"):
            call()


@pytest.mark.parametrize(
    ("depth", "error", "match"),
    [
        (0.5, ValueError, "depth must be at least 1, got 0.5"),
        (-INF, ValueError, "depth must be at least 1"),
        (math.nan, ValueError, "depth must be at least 1"),
        ("2", TypeError, "depth must be a real number"),
        (True, TypeError, "depth must be a real number"),
        (2j, TypeError, "depth must be a real number"),
        (None, TypeError, "depth must be a real number"),
    ],
)
def test_wrong_depths_are_refused(depth, error, match):
    with pytest.raises(error, match=match):
        DLNMetric(GeneralLinear(2, equip=False), depth=depth)
    with pytest.raises(error, match=match):
        FixedRankMatrices(3, 2, 1, depth=depth)


def test_wrong_spaces_and_kernels_are_refused():
    with pytest.raises(TypeError, match=r"kernel must be a dlngeo\.Kernel, got int"):
        SpectralMetric(GeneralLinear(2, equip=False), 2)
    with pytest.raises(ValueError, match=r"points of Hypersphere have shape \(3,\).*matrices"):
        DLNMetric(Hypersphere(2, equip=False))
    with pytest.raises(ValueError, match=r"points of Euclidean"):
        SpectralMetric(Euclidean(4, equip=False), DepthKernel(2))
    with pytest.raises(
        ValueError, match="square invertible matrices only, not on 3×2 matrices of rank 1; use a finite"
    ):
        FixedRankMatrices(3, 2, 1, depth=INF)
    with pytest.raises(ValueError, match="square invertible"):
        SpectralMetric(FixedRankMatrices(3, 3, 2, equip=False), InfiniteDepthKernel())
    assert DLNMetric(GeneralLinear(2, equip=False), depth=INF).kernel(2.0, 2.0) == pytest.approx(4)
    assert DLNMetric(GeneralLinear(2, equip=False)).depth == 2
    assert DLNMetric(FixedRankMatrices(3, 3, 2, equip=False), 3).signature == (8, 0)
