"""Leaves of weights with a given imbalance in geomstats, and the training flows that stay on them."""

import numpy as np
import oracles
import pymanopt
import pytest
from backend import gsa, npa
from pymanopt.optimizers import ConjugateGradient

import dlngeo
from dlngeo.geomstats import BalancedMatrices, FrobeniusMetric, UnbalancedMatrices
from dlngeo.pymanopt import from_geomstats
from dlngeo.weights.network import layer_gradient

CASES = [(3, 2), (2, 4), (3, 3)]
over_cases = pytest.mark.parametrize(("d", "depth"), CASES)


def imbalances(w):
    return np.array([w[p + 1].T @ w[p + 1] - w[p] @ w[p].T for p in range(len(w) - 1)])


def leaf_of(w):
    return UnbalancedMatrices(gsa(imbalances(w)))


@over_cases
def test_the_equations_and_their_tangent_spaces(rng, d, depth):
    w, v = rng.standard_normal((2, depth, d, d))
    space = leaf_of(w)
    np.testing.assert_allclose(npa(space.submersion(gsa(w))), 0, atol=1e-14)
    np.testing.assert_allclose(npa(space.submersion(gsa(v))), imbalances(v) - imbalances(w), atol=1e-13)
    derivative = (imbalances(w + v) - imbalances(w - v)) / 2
    np.testing.assert_allclose(npa(space.tangent_submersion(gsa(v), gsa(w))), derivative, atol=1e-13)
    tangent = space.to_tangent(gsa(v), gsa(w))
    assert bool(space.is_tangent(tangent, gsa(w), atol=1e-12))
    assert not bool(space.is_tangent(gsa(v), gsa(w)))
    np.testing.assert_allclose(npa(space.to_tangent(tangent, gsa(w))), npa(tangent), atol=1e-13)
    basis = npa(space.tangent_basis(gsa(w)))
    assert len(basis) == space.dim == d * d + (depth - 1) * d * (d - 1) // 2
    np.testing.assert_allclose(np.einsum("apij,pij->a", basis, v - npa(tangent)), 0, atol=1e-12)
    np.testing.assert_allclose(npa(space.imbalance), imbalances(w))


def test_belongs(rng):
    w = rng.standard_normal((3, 3, 3))
    w[1] = np.outer(w[1, 0], w[1, 1])
    space = leaf_of(w)
    off, broken = w.copy(), w.copy()
    off[0, 0, 0] += 1e-6
    broken[0, 0, 0] = np.inf
    batch = gsa(np.stack([w, off, broken]))
    assert npa(space.belongs(batch, atol=1e-8)).tolist() == [True, False, False]
    assert npa(space.belongs(batch, atol=1e-4)).tolist() == [True, True, False]
    assert not bool(space.belongs(gsa(w[:2])))
    # Two layers that are singular in a common direction: on the level set, but no regular point.
    flat = np.stack([np.diag([1.0, 0.0]), np.diag([2.0, 0.0])])
    assert not bool(leaf_of(flat).belongs(gsa(flat)))
    apart = np.stack([np.diag([1.0, 0.0]), np.diag([0.0, 2.0])])
    assert bool(leaf_of(apart).belongs(gsa(apart)))


@over_cases
def test_random_points_and_projection(rng, d, depth):
    space = leaf_of(rng.standard_normal((depth, d, d)))
    w = space.random_point(4, bound=0.7, rng=1)
    assert w.shape == (4, depth, d, d)
    assert npa(space.belongs(w, atol=1e-12)).all()
    np.testing.assert_array_equal(npa(space.random_point(4, bound=0.7, rng=1)), npa(w))
    assert space.random_point().shape == (depth, d, d)
    away = npa(w) + 0.02 * rng.standard_normal(w.shape)
    back = space.projection(gsa(away))
    assert npa(space.belongs(back, atol=1e-12)).all()
    assert np.abs(npa(back) - away).max() < 0.1
    np.testing.assert_allclose(npa(space.projection(back)), npa(back), atol=1e-13)
    vectors = space.random_tangent_vec(w, rng=2)
    assert npa(space.is_tangent(vectors, w, atol=1e-10)).all()


def test_without_imbalance_it_is_the_balanced_manifold(rng):
    leaf, balanced = UnbalancedMatrices(np.zeros((2, 3, 3))), BalancedMatrices(3, 3)
    assert leaf.dim == balanced.dim
    w = balanced.random_point(3, rng=rng)
    assert npa(leaf.belongs(w)).all()
    # The same law: one construction for both, from the same draws, up to the signs of singular vectors.
    mine, theirs = npa(leaf.random_point(3, rng=4)), npa(balanced.random_point(3, rng=4))
    np.testing.assert_allclose(mine, theirs, atol=1e-7)
    v = rng.standard_normal(w.shape)
    np.testing.assert_allclose(npa(leaf.to_tangent(gsa(v), w)), npa(balanced.to_tangent(gsa(v), w)), atol=1e-10)
    small = 0.1 * balanced.to_tangent(gsa(v), w)
    centre = balanced.projection(gsa(np.tile(np.eye(3), (3, 3, 1, 1))) + 0.1 * gsa(v))
    small = 0.1 * balanced.to_tangent(gsa(v), centre)
    np.testing.assert_allclose(npa(leaf.metric.exp(small, centre)), npa(balanced.metric.exp(small, centre)), atol=1e-10)


@pytest.mark.parametrize(("d", "depth"), [(3, 2), (2, 3)])
def test_geodesics(rng, d, depth):
    """They keep the equations and the energy, solve ``Ẅ ⟂ tangent space``, and the logarithm inverts them."""
    w = rng.standard_normal((depth, d, d))
    space = leaf_of(w)
    v = npa(space.random_tangent_vec(gsa(w), rng=rng))
    v = 0.5 * v / np.linalg.norm(v)
    path = space.metric.geodesic(gsa(w), initial_tangent_vec=gsa(v))

    steps = 0.1 / 2.0 ** np.arange(4)
    times = [-0.5, 0.5, 1.0, *(0.5 + steps), *(0.5 - steps)]
    points = path(gsa(times))
    assert npa(space.belongs(points, atol=1e-12)).all()

    def at(t):
        return npa(points)[np.argmin(np.abs(np.array(times) - t))]

    bend = oracles.second_derivative(lambda h: at(0.5 + h), step=0.1, levels=4)
    velocity = oracles.derivative(lambda h: at(0.5 + h), step=0.1, levels=4)
    middle = gsa(at(0.5))
    np.testing.assert_allclose(npa(space.to_tangent(gsa(bend), middle)), 0, atol=1e-6)
    np.testing.assert_allclose(
        npa(space.metric.second_fundamental_form(gsa(velocity), gsa(velocity), middle)), bend, atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(velocity), 0.5, rtol=1e-8)
    np.testing.assert_allclose(npa(space.metric.log(gsa(at(1.0)), gsa(w))), v, atol=1e-8)


def test_hessian_is_the_second_derivative_along_geodesics(rng):
    w, linear = rng.standard_normal((2, 3, 2, 2))
    space, cost = leaf_of(w), oracles.Cost(rng, 2, 2)
    v = npa(space.random_tangent_vec(gsa(w), rng=rng))
    v /= 2 * np.linalg.norm(v)

    def gradient(point):
        return layer_gradient(cost.gradient(oracles.multiply(point)), point) + linear

    hessian = oracles.derivative(lambda h: gradient(w + h * v), step=0.02, levels=4)
    path = space.metric.geodesic(gsa(w), initial_tangent_vec=gsa(v))

    times = [s * 0.1 / 2**i for i in range(4) for s in (1, -1)]
    points = dict(zip([0.0, *times], [w, *npa(path(gsa(times)))], strict=True))

    def along(h):
        point = points[h]
        return cost(oracles.multiply(point)) + np.sum(linear * point)

    exact = oracles.second_derivative(along, step=0.1, levels=4)
    found = npa(space.metric.hessian(*map(gsa, (v, gradient(w), hessian, w))))
    np.testing.assert_allclose(np.sum(found * v), exact, rtol=1e-5)
    assert bool(space.is_tangent(gsa(found), gsa(w), atol=1e-10))


def test_training_flows_stay_on_it_through_singular_products(rng):
    """From det X > 0 to det X < 0: on a leaf with invertible G, one layer becomes singular alone."""
    w = np.stack([np.array([[0.9, 0.2], [-0.1, 0.3]]), np.array([[1.5, 0.1], [0.3, 1.2]])])
    target = np.array([[1.0, 0.0], [0.2, -0.8]])
    space = leaf_of(w)
    assert bool(space.is_tangent(gsa(layer_gradient(oracles.multiply(w) - target, w)), gsa(w), atol=1e-12))
    flow = dlngeo.training_flow(w, lambda x: x - target, np.linspace(0, 8, 9), rtol=1e-10)
    points = np.stack(flow.weights)
    signs = np.sign(np.linalg.det(flow.points))
    assert signs[0] > 0 > signs[-1]
    assert npa(space.belongs(gsa(points), atol=1e-8)).all()
    assert npa(space.belongs(space.projection(gsa(points)), atol=1e-13)).all()
    np.testing.assert_allclose(flow.points[-1], target, atol=1e-3)
    # The velocity is the Riemannian gradient, with no projection.
    velocity = layer_gradient(flow.points[3] - target, points[3])
    gradient = space.metric.gradient(gsa(velocity), space.projection(gsa(points[3])))
    np.testing.assert_allclose(npa(gradient), velocity, atol=1e-8)


def test_pymanopt_minimises_on_it(rng):
    w = rng.standard_normal((3, 2, 2))
    space = leaf_of(w)
    manifold = from_geomstats(space, retraction=lambda x, v: npa(space.projection(gsa(x + v))))
    target = oracles.multiply(w) + 0.3 * rng.standard_normal((2, 2))
    cost = pymanopt.function.numpy(manifold)(lambda w: 0.5 * np.sum((oracles.multiply(w) - target) ** 2))
    gradient = pymanopt.function.numpy(manifold)(lambda w: layer_gradient(oracles.multiply(w) - target, w))
    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient)
    found = (
        ConjugateGradient(verbosity=0, max_iterations=80, min_gradient_norm=1e-8).run(problem, initial_point=w).point
    )
    np.testing.assert_allclose(oracles.multiply(found), target, atol=1e-6)
    assert bool(space.belongs(gsa(found), atol=1e-12))


def test_curvature_symmetries(rng):
    w = rng.standard_normal((3, 2, 2))
    space = leaf_of(w)
    assert isinstance(space.metric, FrobeniusMetric)
    x, y, z, u = (space.random_tangent_vec(gsa(w), rng=rng) for _ in range(4))

    def r(*vectors):
        return float(npa(space.metric.inner_product(space.metric.curvature(*vectors[:3], gsa(w)), vectors[3])))

    np.testing.assert_allclose(r(x, y, z, u), -r(y, x, z, u), rtol=1e-9)
    np.testing.assert_allclose(r(x, y, z, u), r(z, u, x, y), rtol=1e-9)
    np.testing.assert_allclose(r(x, y, z, u) + r(y, z, x, u) + r(z, x, y, u), 0, atol=1e-9 * abs(r(x, y, z, u)))
    basis = npa(space.tangent_basis(gsa(w)))
    sectional = [
        float(npa(space.metric.sectional_curvature(gsa(a), gsa(b), gsa(w))))
        for i, a in enumerate(basis)
        for b in basis[:i]
    ]
    np.testing.assert_allclose(npa(space.metric.scalar_curvature(gsa(w))), 2 * sum(sectional), rtol=1e-9)
    many = gsa(np.stack([w, npa(space.metric.exp(gsa(0.2 * basis[0]), gsa(w)))]))
    for closed in (space.metric.scalar_curvature, space.metric.brownian_drift):
        np.testing.assert_allclose(npa(closed(many)), [npa(closed(one)) for one in many], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("imbalance", "match"),
    [
        (np.ones((2, 3, 4)), r"imbalance has shape \(2, 3, 4\); expected \(N−1, d, d\)"),
        (np.ones((3, 3)), r"imbalance has shape \(3, 3\)"),
        (np.ones((0, 3, 3)), "One layer has none"),
        ([[[0.0, 1.0], [2.0, 0.0]]], r"not symmetric, by up to 1\.0e\+00"),
        ([[[np.nan]]], "imbalance holds NaN"),
    ],
)
def test_wrong_imbalances_are_refused(imbalance, match):
    with pytest.raises(ValueError, match=match):
        UnbalancedMatrices(imbalance)
