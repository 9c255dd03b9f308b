"""Trust regions on FixedRank converge as they are: at all depths, from all starts, and quadratically at the end."""

import math
from itertools import pairwise

import numpy as np
import oracles
import pymanopt
import pytest
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.problems import MatrixCompletion, solve
from dlngeo.pymanopt import FixedRank

RANK = 3


def posed(kind, condition, rng, m=40, n=30):
    """A problem with entries of unit size, whose best value is known."""
    s = np.geomspace(1, 1 / condition, RANK)
    target = oracles.dense(*oracles.factors(rng, m, n, s * math.sqrt(m * n / np.sum(s**2))))
    if kind == "completion":
        return MatrixCompletion.from_matrix(target, rng.random((m, n)) < 0.5), 0.0
    target = target + 0.01 / condition * rng.standard_normal((m, n))
    return MatrixCompletion.from_matrix(target), np.sum(np.linalg.svd(target)[1][RANK:] ** 2) / 2


def start(kind, problem, manifold):
    if kind == "random":
        return manifold.random_point()
    if kind == "small":
        return problem.initial_point(RANK, 1e-2, rng=1)
    observed = np.zeros(problem.shape)
    observed[problem.rows, problem.cols] = problem.values
    u, s, vt = np.linalg.svd(observed * observed.size / len(problem), full_matrices=False)
    return u[:, :RANK], s[:RANK], vt[:RANK]


def converge(problem, manifold, initial_point, **settings):
    settings = {"verbosity": 0, "max_iterations": 300, "min_gradient_norm": 1e-7, **settings}
    return problem.solve(manifold, TrustRegions(**settings), initial_point=initial_point)


def assert_converged(solution, best):
    assert solution.status == "converged"
    costs = [record.cost for record in solution.history]
    assert all(b <= a + 1e-12 * costs[0] for a, b in pairwise(costs))
    assert costs[-1] == pytest.approx(best, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("depth", [1, 3.5, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (2, 8))])
@pytest.mark.parametrize(
    ("kind", "where"), [("completion", "spectral"), ("completion", "small"), ("approximation", "small")]
)
def test_they_converge_to_the_best_matrix(kind, where, depth, rng):
    problem, best = posed(kind, 10, rng)
    manifold = FixedRank(*problem.shape, RANK, depth, rng=rng)
    assert_converged(converge(problem, manifold, start(where, problem, manifold)), best)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, *(pytest.param(depth, marks=pytest.mark.thorough) for depth in (2, 8)), 3.5])
@pytest.mark.parametrize("where", ["spectral", "small"])
@pytest.mark.parametrize("kind", ["completion", "approximation"])
@pytest.mark.parametrize("condition", [1, 10, 100])
def test_they_converge_at_all_conditions(condition, kind, where, depth):
    """With half of the entries of a 40×30 matrix of condition 100, the cost of completion has spurious valleys, into
    which conjugate gradients fall as well; hence the larger one.
    """
    for seed in range(3):
        rng = np.random.default_rng(seed)
        problem, best = posed(kind, condition, rng, m=80, n=60)
        manifold = FixedRank(*problem.shape, RANK, depth, rng=rng)
        assert_converged(converge(problem, manifold, start(where, problem, manifold)), best)


@pytest.mark.parametrize("depth", [1, 2, 3.5, 8])
def test_convergence_is_quadratic(depth, rng):
    """The cost has a residual at the minimum, so that the curvature of the metric and of the manifold counts there."""
    target = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 10)) + 0.3 * rng.standard_normal((12, 10))
    problem = MatrixCompletion.from_matrix(target, rng.random((12, 10)) < 0.8)
    manifold = FixedRank(12, 10, 2, depth, rng=rng)
    solution = converge(problem, manifold, start("random", problem, manifold), min_gradient_norm=1e-11)
    assert solution.status == "converged"
    assert solution.best.cost > 1
    digits = np.log([record.gradient_norm for record in solution.history if record.gradient_norm > 1e-11])
    assert np.diff(digits)[-1] / np.diff(digits)[-2] > 1.7


def test_infinite_depth_converges_inside_its_component(rng):
    u, s, vt = oracles.factors(rng, 3, 3, (2.0, 1.0, 0.5))
    problem = MatrixCompletion.from_matrix(oracles.dense(u, s, vt))
    manifold = FixedRank(3, 3, 3, math.inf, rng=rng)
    solution = converge(problem, manifold, (u, np.array([0.3, 0.2, 0.1]), vt))
    assert_converged(solution, 0.0)


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_data_of_another_size_want_their_scale(scale, rng):
    problem, _ = posed("completion", 10, rng)
    problem = MatrixCompletion(problem.rows, problem.cols, scale * problem.values, problem.shape)
    iterations = {}
    for told in (1.0, scale):
        manifold = FixedRank(*problem.shape, RANK, 1, scale=told, rng=rng)
        solution = converge(problem, manifold, start("spectral", problem, manifold), min_gradient_norm=1e-7 * scale)
        iterations[told] = solution.iterations
    assert solution.status == "converged"
    assert solution.best.cost < 1e-9 * scale**2
    assert iterations[scale] < 60
    if scale > 1:
        assert iterations[scale] < iterations[1.0] / 2


def test_solve_watches_them_and_stops_them_early(rng):
    problem, _ = posed("completion", 10, rng)
    noisy = MatrixCompletion(
        problem.rows, problem.cols, problem.values + 0.3 * rng.standard_normal(len(problem)), problem.shape
    )
    train, heldout = noisy.split(0.2, rng=0)
    manifold = FixedRank(*problem.shape, 6, 3, rng=rng)
    initial = problem.initial_point(6, 1e-2, rng=1)
    solution = train.solve(manifold, TrustRegions(verbosity=0), initial_point=initial, heldout=heldout, patience=5)
    assert solution.status == "stopped early"
    assert solution.iterations == solution.best.iteration + 5
    assert solution.best.heldout_error < 0.6
    limited = solve(train.problem(manifold), TrustRegions(verbosity=0, max_iterations=3), initial_point=initial)
    assert limited.status == "iteration limit"


def test_they_take_far_fewer_iterations_than_conjugate_gradients(rng):
    problem, _ = posed("completion", 10, rng)
    manifold = FixedRank(*problem.shape, RANK, 3, rng=rng)
    initial = start("spectral", problem, manifold)
    second = converge(problem, manifold, initial)
    first = problem.solve(
        manifold, ConjugateGradient(verbosity=0, max_iterations=1000, min_gradient_norm=1e-7), initial_point=initial
    )
    assert second.iterations < first.iterations / 2
    assert isinstance(problem.problem(manifold), pymanopt.Problem)
