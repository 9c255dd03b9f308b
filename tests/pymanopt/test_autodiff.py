"""Gradients and Hessian products that autograd, torch and JAX differentiate, on FixedRank."""

import autograd.numpy as anp
import numpy as np
import oracles
import pymanopt
import pytest
from fixed_ranks import assert_close, library, matrix
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.pymanopt import FixedRank, check_gradient, check_hessian


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
    assert_close(got, want, atol=1e-12)


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
    assert_close(got, want, atol=1e-12)


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


# Costs that read the singular values, or one side, besides the matrix.

TARGET = np.random.default_rng(7).standard_normal((6, 5))
SINGULAR_VALUES = [(1.5, 0.7, 0.2), (1.5, 1.5, 0.2), (1.2, 1.2, 1.2)]
over_points = pytest.mark.parametrize("s", SINGULAR_VALUES, ids=["distinct", "pair", "equal"])


def row_norms(x):
    return anp.sum(anp.sqrt(anp.sum(x**2, axis=1) + 0.1))


ADDED = {
    "nuclear norm": lambda u, s, vt: anp.sum(s) / 2,
    "squares": lambda u, s, vt: anp.sum(s**2),
    "barrier": lambda u, s, vt: -0.3 * anp.sum(anp.log(s)),
    "coupled": lambda u, s, vt: anp.sum(s) ** 2 + anp.prod(s),
    "row norms": lambda u, s, vt: row_norms(u * s),
    "rows and nuclear norm": lambda u, s, vt: row_norms(u * s) + anp.sum(s) / 2,
    "largest": lambda u, s, vt: anp.max(s),
    "column norms": lambda u, s, vt: row_norms(vt.T * s),
}


def posed(added, s, depth, rng):
    """The problem of ``½‖X − T‖² + Σ sin X`` and a further function of the factors, and a point."""
    manifold = FixedRank(6, 5, 3, depth, rng=rng)

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt):
        x = (u * s) @ vt
        return anp.sum((x - TARGET) ** 2) / 2 + anp.sum(anp.sin(x)) + added(u, s, vt)

    return pymanopt.Problem(manifold, cost), oracles.factors(rng, 6, 5, s)


@over_points
@pytest.mark.parametrize("depth", [3.5, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (1, 2, 8))])
@pytest.mark.parametrize("name", ADDED)
def test_costs_of_singular_values_or_of_one_side_have_right_derivatives(name, depth, s, rng):
    problem, point = posed(ADDED[name], s, depth, rng)
    if name == "largest" and s[0] == s[1]:
        pytest.skip("not differentiable")
    assert check_gradient(problem, point)
    if name == "column norms":
        with pytest.raises(ValueError, match="minimise over the transposed matrix"):
            problem.riemannian_hessian(point, problem.manifold.random_tangent_vector(point))
        return
    report = check_hessian(problem, point)
    assert max(report.residuals.values()) < 1e-9
    assert report.slope > 2.8
    # The slope would not see an error of a thousandth.
    direction = problem.manifold.random_tangent_vector(point)
    curvature = problem.manifold.inner_product(point, problem.riemannian_hessian(point, direction), direction)
    step = 0.05 * s[-1]

    def along(t):
        return problem.cost(problem.manifold.retraction(point, t * step * direction))

    assert curvature == pytest.approx(oracles.second_derivative(along, step=1.0) / step**2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", ["nuclear norm", "squares", "barrier", "row norms"])
def test_trust_regions_minimise_costs_of_singular_values(name, depth, rng):
    problem, point = posed(ADDED[name], (1.2, 1.2, 1.2), depth, rng)
    result = TrustRegions(verbosity=0, max_iterations=200, min_gradient_norm=1e-8).run(problem, initial_point=point)
    assert result.gradient_norm < 1e-8


@over_points
@pytest.mark.parametrize(
    "added",
    [
        lambda u, s, vt: anp.sum(u),
        lambda u, s, vt: anp.sum(u * s),
        lambda u, s, vt: u[0, 0] * vt[1, 2],
        lambda u, s, vt: anp.sum(vt**3),
    ],
    ids=["sum of u", "sum of u s", "entries", "cubes"],
)
def test_costs_that_change_with_the_signs_or_the_order_of_the_factors_are_refused(added, s, rng):
    problem, point = posed(added, s, 2, rng)
    with pytest.raises(ValueError, match="the signs or the order of the columns"):
        problem.riemannian_gradient(point)


def test_a_cost_that_weighs_equal_singular_values_differently_is_refused(rng):
    problem, point = posed(lambda u, s, vt: s[0], (1.5, 1.5, 0.2), 2, rng)
    with pytest.raises(ValueError, match="the signs or the order of the columns"):
        problem.riemannian_gradient(point)


@over_points
@pytest.mark.parametrize("sides", [(0,), (0, 2)])
def test_what_is_constant_on_the_manifold_has_no_gradient_and_no_hessian_in_the_factors(sides, s, rng):
    def added(*factors):
        return sum(anp.sum(factors[k] ** 2) for k in sides)

    problem, point = posed(added, s, 3, rng)
    plain = posed(lambda u, s, vt: 0.0, s, 3, rng)[0]
    assert_close(problem.riemannian_gradient(point), plain.riemannian_gradient(point), atol=1e-12)
    with pytest.raises(ValueError, match="contradicts itself"):
        problem.riemannian_hessian(point, problem.manifold.random_tangent_vector(point))


def test_equal_diagonals_at_equal_singular_values_do_not_tell_the_second_derivative(rng):
    problem, point = posed(ADDED["squares"], (1.2, 1.2, 1.2), 2, rng)
    even = problem.manifold.zero_vector(point)._replace(M=np.array([[1.0, 0.3, 0], [0.3, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="move the point"):
        problem.riemannian_hessian(point, even)
    # Two of three that differ are enough.
    other = even._replace(M=even.M + np.diag([0, 0, 1.0]))
    skewed = other._replace(M=other.M + 1e-3 * np.diag([1.0, 0, 0]))
    assert_close(*(problem.riemannian_hessian(point, v) for v in (other, skewed)), atol=0.05)
