"""Gradients and Hessian products that torch and jax differentiate, on FixedRank."""

import numpy as np
import oracles
import pymanopt
import pytest
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.pymanopt import FixedRank


@pytest.fixture(params=["torch", "jax"])
def case(request, rng):
    library = pytest.importorskip(request.param)
    manifold = FixedRank(6, 5, 3, 3.5, rng=rng)
    u, s, vt = oracles.factors(rng, 6, 5, (1.5, 1.5, 0.2))  # equal singular values, where autodiff of an SVD fails
    target = rng.standard_normal((6, 5))

    def cost(u, s, vt):
        if request.param == "torch":
            return library.sum(library.sin((u * s) @ vt) * library.from_numpy(target))
        return library.numpy.sum(library.numpy.sin((u * s) @ vt) * target)

    decorate = {"torch": pymanopt.function.pytorch, "jax": pymanopt.function.jax}[request.param]
    return manifold, pymanopt.Problem(manifold, decorate(manifold)(cost)), (u, s, vt), target


def test_gradient_is_that_of_the_matrix(case):
    manifold, problem, point, target = case
    got = problem.riemannian_gradient(point)
    want = manifold.euclidean_to_riemannian_gradient(point, np.cos(oracles.dense(*point)) * target)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_hessian_product_is_that_of_the_matrix(case):
    """The product with ``embedding(ξ)`` differentiates the factor gradients along a curve with velocity ξ."""
    manifold, problem, point, _ = case
    tangent = manifold.random_tangent_vector(point)
    velocity = manifold.embedding(point, tangent)
    got = problem.euclidean_hessian(point, tangent)

    for i, product in enumerate(got):

        def part(t, i=i):
            moved = [a + t * da for a, da in zip(point, velocity, strict=True)]
            return problem.euclidean_gradient(moved)[i]

        np.testing.assert_allclose(product, oracles.derivative(part), atol=1e-8)


def test_riemannian_hessian_is_that_of_the_matrix(case):
    manifold, problem, point, target = case
    x, tangent = oracles.dense(*point), manifold.random_tangent_vector(point)
    (u, _, vt), (left, core, right) = point, tangent
    z = u @ core @ vt + left @ vt + u @ right.T
    got = problem.riemannian_hessian(point, tangent)
    want = manifold.euclidean_to_riemannian_hessian(point, np.cos(x) * target, -np.sin(x) * target * z, tangent)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_solvers_run(case):
    _, problem, point, _ = case
    result = ConjugateGradient(max_iterations=20, verbosity=0, log_verbosity=1).run(problem, initial_point=point)
    costs = np.array(result.log["iterations"]["cost"], dtype=float)
    assert np.all(np.diff(costs) <= 0)
    assert costs[-1] < costs[0] - 1


def test_trust_regions_converge(case):
    manifold, problem, point, _ = case
    result = TrustRegions(verbosity=0, max_iterations=100, min_gradient_norm=1e-8).run(problem, initial_point=point)
    assert manifold.norm(result.point, problem.riemannian_gradient(result.point)) < 1e-8
