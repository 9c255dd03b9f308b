"""Curvature in geomstats: signs, index order and batches as its own, on whatever backend is active."""

import math

import numpy as np
import oracles
import pytest
from backend import gsa, npa, space_of
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDMatrices

from dlngeo.geomstats import DLNMetric

INF = math.inf
SHAPES = [(2, 2, 2, 3), (3, 3, 3, 2.5), (2, 2, 2, INF), (3, 2, 2, 2), (3, 2, 1, 3), (3, 3, 2, 1)]
over_shapes = pytest.mark.parametrize(("m", "n", "r", "depth"), SHAPES)


def points_and_vectors(rng, m, n, r, size=2):
    triples = [oracles.factors(rng, m, n, rng.uniform(0.6, 2, r)) for _ in range(size)]
    points = np.stack([oracles.dense(*t) for t in triples])
    return gsa(points), [gsa(np.stack([oracles.tangent(rng, t[0], t[2]) for t in triples])) for _ in range(3)]


@over_shapes
def test_tensors_and_operators_are_one_curvature(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    x, (a, b, c) = points_and_vectors(rng, m, n, r)
    riemann = npa(metric.riemann_tensor(x))
    assert riemann.shape == (2, *(m * n,) * 4)
    flat = [npa(v).reshape(2, -1) for v in (a, b, c)]
    curved = npa(metric.curvature(a, b, c, x)).reshape(2, -1)
    np.testing.assert_allclose(np.einsum("nijkl,nj,nk,ni->nl", riemann, *flat), curved, atol=1e-11)
    ricci = npa(metric.ricci_tensor(x))
    np.testing.assert_allclose(np.einsum("nijkj->nik", riemann), ricci, atol=1e-11)
    scalar = npa(metric.scalar_curvature(x))
    np.testing.assert_allclose(np.einsum("nij,nij->n", npa(metric.cometric_matrix(x)), ricci), scalar, atol=1e-11)
    # geomstats' own contractions, built on ours
    numerator = npa(metric.inner_product(metric.curvature(a, b, b, x), a, x))
    plane = metric.squared_norm(a, x) * metric.squared_norm(b, x) - metric.inner_product(a, b, x) ** 2
    np.testing.assert_allclose(npa(metric.sectional_curvature(a, b, x)), numerator / npa(plane), atol=1e-11)
    lowered = npa(metric.covariant_riemann_tensor(x))
    np.testing.assert_allclose(lowered, np.einsum("nklij->nijkl", lowered), atol=1e-11)
    np.testing.assert_allclose(
        npa(metric.directional_curvature(a, b, x)), npa(metric.curvature(b, a, b, x)), atol=1e-12
    )


@over_shapes
def test_a_batch_is_a_loop(rng, m, n, r, depth):
    metric = space_of(m, n, r, depth).metric
    x, (a, b, c) = points_and_vectors(rng, m, n, r)
    for name, vectors in (
        ("riemann_tensor", ()),
        ("curvature", (a, b, c)),
        ("sectional_curvature", (a, b)),
        ("ricci_tensor", ()),
        ("scalar_curvature", ()),
    ):
        method = getattr(metric, name)
        together = npa(method(*vectors, x))
        apart = np.stack([npa(method(*(v[i] for v in vectors), x[i])) for i in range(2)])
        np.testing.assert_allclose(together, apart, atol=1e-11)


@pytest.mark.parametrize(("d", "depth"), [(2, 1.5), (2, 3), (2, INF), (3, 2)])
def test_the_riemann_tensor_is_the_derivative_of_the_christoffel_symbols(rng, d, depth):
    """By the formula in geomstats' docstring, with ``∂_j Γ^l_ki − ∂_k Γ^l_ji`` by extrapolated differences."""
    metric = space_of(d, d, d, depth).metric
    x = npa(points_and_vectors(rng, d, d, d, size=1)[0])[0]
    units = np.eye(d * d).reshape(-1, d, d)

    def symbols(point):
        return npa(metric.christoffels(gsa(point)))

    gamma = symbols(x)
    slopes = np.stack([oracles.derivative(lambda h, e=e: symbols(x + h * e), levels=4) for e in units])  # j, l, k, i
    half = np.einsum("jlki->ijkl", slopes) + np.einsum("ljm,mki->ijkl", gamma, gamma)
    exact = half - np.einsum("ijkl->ikjl", half)
    np.testing.assert_allclose(npa(metric.riemann_tensor(gsa(x))), exact, atol=1e-8 * np.abs(exact).max())


def test_signs_are_those_of_the_sphere_and_of_bures_and_wasserstein(rng):
    """Nonnegative on planes of symmetric matrices at depth 2, as geomstats has positive curvature on the sphere."""
    sphere = Hypersphere(2)
    point, a, b = gsa([1.0, 0, 0]), gsa([0.0, 1, 0]), gsa([0.0, 0, 1])
    assert float(sphere.metric.sectional_curvature(a, b, point)) == pytest.approx(1)
    space = SPDMatrices(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=2)
    x = gsa(oracles.symmetric_power(np.cov(rng.standard_normal((3, 9))), 1))
    vectors = rng.standard_normal((2, 10, 3, 3))
    a, b = (gsa(v + np.swapaxes(v, -1, -2)) for v in vectors)
    value = npa(space.metric.sectional_curvature(a, b, x))
    assert value.shape == (10,)
    assert np.all(value >= -1e-13)
    assert value.max() > 1e-3


def test_depth_one_is_flat(rng):
    space = space_of(3, 3, 3, 1)
    x, (a, b, c) = points_and_vectors(rng, 3, 3, 3)
    assert np.all(npa(space.metric.riemann_tensor(x)) == 0)
    assert np.all(npa(space.metric.curvature(a, b, c, x)) == 0)


def test_dependent_vectors_are_refused(rng):
    metric = space_of(2, 2, 2, 3).metric
    x, (a, _, _) = points_and_vectors(rng, 2, 2, 2)
    with pytest.raises(ValueError, match="linearly dependent at 2 of 2 places"):
        metric.sectional_curvature(a, 2 * a, x)
