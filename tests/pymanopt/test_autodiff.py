"""Gradients and Hessian products that autograd, torch and JAX differentiate, on FixedRank."""

import autograd.numpy as anp
import numpy as np
import oracles
import pymanopt
import pytest
from fixed_ranks import matrix
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.pymanopt import FixedRank


def library(name):
    """Sine, sum and array of a library, with the decorator of pymanopt for it."""
    if name == "autograd":
        return anp.sin, anp.sum, np.asarray, pymanopt.function.autograd
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "torch":
        return module.sin, module.sum, module.from_numpy, pymanopt.function.pytorch
    return module.numpy.sin, module.numpy.sum, module.numpy.asarray, pymanopt.function.jax


# Two equal singular values and all of them equal, where autodiff of an SVD fails.
@pytest.fixture(params=[(1.5, 1.5, 0.2), (1.5, 1.5, 1.5)], ids=["pair", "equal"])
def point(rng, request):
    return oracles.factors(rng, 6, 5, request.param)


@pytest.fixture(params=["autograd", "torch", "jax"])
def case(rng, point, request):
    sin, total, array, backend = library(request.param)
    manifold, target = FixedRank(6, 5, 3, 3.5, rng=rng), rng.standard_normal((6, 5))

    @backend(manifold)
    def cost(u, s, vt):
        return total(sin((u * s) @ vt) * array(target))

    return manifold, pymanopt.Problem(manifold, cost), point, target


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
    z = matrix(point, tangent)
    got = problem.riemannian_hessian(point, tangent)
    want = manifold.euclidean_to_riemannian_hessian(point, np.cos(x) * target, -np.sin(x) * target * z, tangent)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_solvers_run(case):
    _, problem, point, _ = case
    result = ConjugateGradient(max_iterations=20, verbosity=0, log_verbosity=1).run(problem, initial_point=point)
    costs = np.array(result.log["iterations"]["cost"], dtype=float)
    assert np.all(np.diff(costs) <= 0)
    assert costs[1] < costs[0]


def test_trust_regions_converge(case):
    manifold, problem, point, _ = case
    result = TrustRegions(verbosity=0, max_iterations=100, min_gradient_norm=1e-8).run(problem, initial_point=point)
    assert manifold.norm(result.point, problem.riemannian_gradient(result.point)) < 1e-8
