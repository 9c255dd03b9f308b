"""Monitored solving: history, early stopping, interruption, on optimisers and problems of every kind."""

import math
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from pymanopt.manifolds import Euclidean, FixedRankEmbedded, Sphere
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions

from dlngeo.problems import MatrixCompletion, solve


def overfitting():
    """Rank-1 data with strong noise, fitted at rank 3 from few entries: the held-out error falls, then rises."""
    rng = np.random.default_rng(0)
    clean = np.outer(rng.standard_normal(40), rng.standard_normal(35))
    mask = rng.random(clean.shape) < 0.6
    problem = MatrixCompletion.from_matrix(clean + 0.5 * rng.standard_normal(clean.shape), observed=mask)
    heldout = MatrixCompletion.from_matrix(clean, observed=~mask)
    return problem, heldout, problem.initial_point(3, 1e-2, rng=1)


def fit(optimizer, **options):
    """Minimise on it, watching the held-out entries."""
    problem, heldout, start = overfitting()
    return problem.solve(FixedRankEmbedded(40, 35, 3), optimizer, initial_point=start, heldout=heldout, **options)


def rayleigh(dim=8):
    """The Rayleigh quotient on the sphere: a problem that is no matrix completion."""
    manifold = Sphere(dim)
    weights = anp.arange(1.0, dim + 1)

    @pymanopt.function.autograd(manifold)
    def cost(x):
        return anp.sum(weights * x**2)

    return pymanopt.Problem(manifold, cost)


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient])
def test_early_stopping_ends_an_overfitting_run_and_returns_the_best_point(optimizer):
    settings = {"verbosity": 0, "max_iterations": 300, "min_step_size": 0}
    free, stopped = (fit(optimizer(**settings), patience=patience) for patience in (None, 15))
    errors = [r.heldout_error for r in free.history]
    assert free.history[-1].heldout_error > 1.2 * min(errors), "the problem was built to overfit"
    assert stopped.status == "stopped early"
    assert "not improved for 15" in stopped.message
    assert stopped.iterations == stopped.best.iteration + 15 < free.iterations
    assert stopped.best.heldout_error < 0.5 < 0.99 < stopped.history[0].heldout_error
    assert overfitting()[1].relative_error(stopped.best_point) == stopped.best.heldout_error
    assert stopped.best.heldout_error == min(r.heldout_error for r in stopped.history)
    assert stopped.point is not stopped.best_point
    assert free.best.heldout_error == min(errors)


def test_tolerance_asks_for_a_relative_improvement():
    runs = [fit(ConjugateGradient(verbosity=0), patience=15, tolerance=tolerance) for tolerance in (0.0, 0.5)]
    assert runs[1].iterations < runs[0].iterations


def test_history_is_that_of_the_optimisers_own_log():
    problem, heldout, start = overfitting()
    manifold = FixedRankEmbedded(40, 35, 3)
    seen = []
    for optimizer in (SteepestDescent, ConjugateGradient):
        settings = {"verbosity": 0, "log_verbosity": 1, "max_iterations": 20}
        log = optimizer(**settings).run(problem.problem(manifold), initial_point=start).log["iterations"]
        seen.clear()
        solution = fit(optimizer(**settings), callback=lambda record, point: seen.append((record, point)))
        history = solution.history
        assert solution.status == "iteration limit"
        assert [r.cost for r in history][: len(log["cost"])] == log["cost"]
        np.testing.assert_allclose([r.gradient_norm for r in history][: len(log["cost"])], log["gradient_norm"])
        assert [r.iteration for r in history] == list(range(len(history)))
        assert [r for r, _ in seen] == history
        assert seen[-1][1] is solution.point
        for record, point in seen:
            np.testing.assert_array_equal(record.singular_values, point[1])
            assert record.heldout_error == heldout.relative_error(point)
        assert all(a.seconds <= b.seconds for a, b in pairwise(history))


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient, TrustRegions])
def test_any_problem_is_watched_once_for_each_accepted_point(optimizer):
    problem = rayleigh()
    start = np.full(8, 8**-0.5)
    solution = solve(problem, optimizer(verbosity=0), initial_point=start)
    assert solution.status == "converged"
    assert solution.best.cost == pytest.approx(1)
    costs = [r.cost for r in solution.history]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs[:-2])) == len(costs[:-2])
    assert all(math.isnan(r.heldout_error) and r.singular_values is None for r in solution.history)


def test_dense_points_record_their_singular_values():
    problem, heldout, (u, s, vt) = overfitting()
    solution = problem.solve(
        Euclidean(40, 35), SteepestDescent(verbosity=0, max_iterations=5), initial_point=(u * s) @ vt, heldout=heldout
    )
    np.testing.assert_allclose(solution.history[0].singular_values[:3], s)


def test_an_interruption_keeps_what_is_done():
    def interrupt(record, point):
        if record.iteration == 7:
            raise KeyboardInterrupt

    solution = fit(ConjugateGradient(verbosity=0), callback=interrupt)
    assert solution.status == "interrupted"
    assert solution.iterations == 7
    assert len(solution.history) == 8
    assert overfitting()[0].cost(solution.point) == solution.history[-1].cost


def test_a_time_limit_and_a_stall_are_named():
    problem = rayleigh()
    start = np.full(8, 8**-0.5)
    assert solve(problem, ConjugateGradient(verbosity=0, max_time=0), initial_point=start).status == "time limit"
    assert solve(problem, ConjugateGradient(verbosity=0, min_step_size=9), initial_point=start).status == "stalled"


def test_bad_arguments_say_what_is_wrong():
    problem, heldout, (u, s, vt) = overfitting()
    manifold, optimizer = FixedRankEmbedded(40, 35, 3), ConjugateGradient(verbosity=0)
    with pytest.raises(ValueError, match="something to watch"):
        problem.solve(manifold, optimizer, patience=3)
    with pytest.raises(ValueError, match="at least 1"):
        problem.solve(manifold, optimizer, heldout=heldout, patience=0)
    with pytest.raises(ValueError, match="must be of one matrix"):
        problem.solve(manifold, optimizer, heldout=MatrixCompletion([0], [0], [1.0], (3, 2)))
    with pytest.raises(ValueError, match="cost is inf at the initial point"):
        problem.solve(manifold, optimizer, initial_point=(u, s * np.nan, vt))
    with pytest.raises(ZeroDivisionError):  # a callback's own error is not swallowed
        problem.solve(manifold, optimizer, callback=lambda record, point: 1 / 0)
