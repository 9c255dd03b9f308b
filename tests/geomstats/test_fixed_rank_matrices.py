"""The manifold of matrices of fixed rank, against the definition of its points and curves."""

import geomstats.backend as gs
import numpy as np
import oracles
import pytest
from backend import gsa, npa

from dlngeo.geomstats import DLNMetric, FixedRankMatrices

SHAPES = [(4, 3, 2), (3, 4, 2), (4, 3, 3), (3, 3, 3), (5, 2, 1), (1, 1, 1)]
over_shapes = pytest.mark.parametrize(("m", "n", "r"), SHAPES)


@over_shapes
def test_the_dimension_is_that_of_the_tangent_projector(rng, m, n, r):
    space = FixedRankMatrices(m, n, r)
    u, s, vt = oracles.factors(rng, m, n, np.arange(1.0, r + 1))
    x = gsa(oracles.dense(u, s, vt))
    units = np.eye(m * n).reshape(-1, m, n)
    projector = npa(space.to_tangent(gsa(units), x)).reshape(m * n, m * n)
    np.testing.assert_allclose(projector, projector.T, atol=1e-12)
    np.testing.assert_allclose(projector @ projector, projector, atol=1e-12)
    assert space.dim == r * (m + n - r) == np.linalg.matrix_rank(projector, tol=1e-8) == round(np.trace(projector))
    basis = oracles.tangent_basis(u, vt).reshape(-1, m * n)
    np.testing.assert_allclose(projector, basis.T @ basis, atol=1e-12)
    assert space.shape == (m, n)
    assert space.point_ndim == 2
    assert not space.intrinsic


@over_shapes
def test_velocities_of_curves_are_tangent_and_kept(rng, m, n, r):
    """Curves are products of factors that move along straight lines."""
    space = FixedRankMatrices(m, n, r)
    left, right = rng.standard_normal((2, m, r)), rng.standard_normal((2, r, n))
    x = left[0] @ right[0]
    velocity = oracles.derivative(lambda h: (left[0] + h * left[1]) @ (right[0] + h * right[1]), levels=2)
    np.testing.assert_allclose(npa(space.to_tangent(gsa(velocity), gsa(x))), velocity, atol=1e-11)
    assert bool(space.is_tangent(gsa(velocity), gsa(x), atol=1e-10))


def test_normal_vectors_are_not_tangent(rng):
    space = FixedRankMatrices(4, 3, 2)
    u, _, vt = np.linalg.svd(rng.standard_normal((4, 3)))
    x, normal = gsa(u[:, :2] @ vt[:2]), u[:, 3:] @ vt[2:]
    np.testing.assert_allclose(npa(space.to_tangent(gsa(normal), x)), 0, atol=1e-12)
    tangent = npa(space.to_tangent(gsa(rng.standard_normal((4, 3))), x))
    batch = gsa(np.stack([tangent, tangent + 1e-6 * normal, normal]))
    assert npa(space.is_tangent(batch, x, atol=1e-9)).tolist() == [True, False, False]
    assert npa(space.is_tangent(batch, x, atol=1e-5)).tolist() == [True, True, False]
    assert not bool(space.is_tangent(gsa(np.ones((3, 4))), x))


def test_belongs_counts_singular_values(rng):
    space = FixedRankMatrices(4, 3, 2)
    u, _, vt = oracles.factors(rng, 4, 3, np.ones(3))
    spectra = [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1e-9], [1, 1e-9, 0], [1, 1, 1e-3], [0, 0, 0]]
    points = np.stack([oracles.dense(u, np.array(s, float), vt) for s in spectra])
    assert npa(space.belongs(gsa(points), atol=1e-6)).tolist() == [True, False, False, True, False, False, False]
    assert npa(space.belongs(gsa(points), atol=1e-2))[5]
    assert bool(space.belongs(gsa(points[0])))
    assert not bool(space.belongs(gsa(points[0].T)))
    assert not bool(space.belongs(gsa(np.ones(3))[None]))
    bad = points[:2].copy()
    bad[0, 0, 0] = np.nan
    bad[1, 0, 0] = np.inf
    assert not npa(space.belongs(gsa(bad))).any()


def test_projection_truncates_the_svd(rng):
    space = FixedRankMatrices(4, 3, 2)
    z = rng.standard_normal((5, 4, 3))
    projected = npa(space.projection(gsa(z)))
    assert npa(space.belongs(gsa(projected), atol=1e-9)).all()
    s = np.linalg.svd(z)[1]
    np.testing.assert_allclose(np.linalg.norm(z - projected, axis=(1, 2)), s[:, 2], rtol=1e-12)
    np.testing.assert_allclose(npa(space.projection(gsa(projected))), projected, atol=1e-12)
    np.testing.assert_allclose(npa(space.projection(gsa(z[1]))), projected[1], atol=1e-12)
    with pytest.raises(ValueError, match="rank below 2 has no nearest one of rank 2"):
        space.projection(gsa(np.zeros((4, 3))))


@over_shapes
def test_random_points_have_the_rank_and_unit_second_moments(m, n, r):
    gs.random.seed(4)
    space = FixedRankMatrices(m, n, r)
    points = npa(space.random_point(4000))
    assert points.shape == (4000, m, n)
    assert tuple(space.random_point().shape) == (m, n)
    assert np.all(np.linalg.matrix_rank(points[:50], tol=1e-10) == r)
    assert npa(space.belongs(gsa(points[:50]), atol=1e-10)).all()
    square = np.mean(points**2, axis=(1, 2))
    assert abs(square.mean() - 1) < 5 * square.std() / np.sqrt(len(square))


def test_random_tangent_vectors_are_tangent():
    space = FixedRankMatrices(4, 3, 2)
    points = space.random_point(3)
    assert bool(gs.all(space.is_tangent(space.random_tangent_vec(points), points, atol=1e-10)))
    vectors = space.random_tangent_vec(points[0], n_samples=5)
    assert tuple(vectors.shape) == (5, 4, 3)
    assert bool(gs.all(space.is_tangent(vectors, points[0], atol=1e-10)))


def test_the_default_metric_is_of_the_declared_depth():
    assert isinstance(FixedRankMatrices(3, 2, 1).metric, DLNMetric)
    assert FixedRankMatrices(3, 2, 1).metric.depth == 2
    assert FixedRankMatrices(3, 2, 1, depth=5.5).metric.depth == 5.5
    assert not hasattr(FixedRankMatrices(3, 2, 1, equip=False), "metric")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((3, 2, 3), ValueError, r"rank 3 exceeds min\(m, n\) = 2 of a 3×2 matrix"),
        ((3, 2, 0), ValueError, "rank must be at least 1, got 0"),
        ((0, 2, 1), ValueError, "m must be at least 1, got 0"),
        ((3, -2, 1), ValueError, "n must be at least 1, got -2"),
        ((3.0, 2, 1), TypeError, r"m must be an integer, got 3\.0 of type float"),
        ((3, "2", 1), TypeError, "n must be an integer"),
        ((3, 2, True), TypeError, "rank must be an integer"),
        ((3, 2, None), TypeError, "rank must be an integer"),
    ],
)
def test_wrong_sizes_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        FixedRankMatrices(*arguments)
