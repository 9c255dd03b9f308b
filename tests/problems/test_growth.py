"""The flow of full rank at the price of the rank that has risen: its laws, its births, its ends."""

import math
import tracemalloc

import numpy as np
import oracles
import pytest
import scipy.sparse
from numpy.testing import assert_allclose
from scipy.integrate import quad, solve_ivp

from dlngeo.problems import LowRankApproximation, MatrixCompletion, MatrixSensing, RankOneSensing, Regression
from dlngeo.problems._rise import effective_size, needed_drive
from dlngeo.problems._waiting import Waiting, across, leading_pair
from dlngeo.pymanopt import FixedRank, GradientFlow


def low_rank(rng, m, n, singular_values=(9.0, 4.0)):
    return oracles.dense(*oracles.factors(rng, m, n, singular_values))


def completion(rng, m, n, observed=0.6):
    truth = low_rank(rng, m, n)
    return truth, MatrixCompletion.from_matrix(truth, rng.random((m, n)) < observed)


def matrix(point):
    return oracles.dense(*point)


def distance(result, truth):
    return np.linalg.norm(matrix(result.point) - truth) / np.linalg.norm(truth)


# How one singular value rises.


def test_at_depth_two_an_orthogonal_start_rises_as_one_of_half_its_size():
    assert_allclose(effective_size(2), 0.5, rtol=1e-13)
    assert_allclose(effective_size(2 + 1e-9), 0.5, rtol=1e-8)


@pytest.mark.parametrize("depth", [1.5, 2.5, 3, 4, 8])
def test_the_aligned_size_is_that_of_the_flow_of_matrices(depth):
    driver, end, power = np.diag([1.0, 0.0]), 1e6, 2 - depth

    def velocity(_, state):  # Ẋ = A_X(e₁e₁ᵀ) and ċ = 1, in a time in which X grows exponentially
        x = state[:4].reshape(2, 2)
        pace = np.linalg.norm(x) ** (2 / depth - 1)
        return pace * np.append(oracles.schur_cometric(x, driver, oracles.naive(depth)), 1)

    def far(_, state):
        return np.log(np.linalg.norm(state[:4]) / end)

    far.terminal = True
    flow = solve_ivp(velocity, (0, 100), [0, 1, 1, 0, 0], events=far, rtol=1e-9, atol=1e-12)
    x, drive = flow.y[:4, -1].reshape(2, 2), flow.y[4, -1]
    aligned = np.linalg.norm(x, 2) ** (power / depth) - power * drive
    assert_allclose(effective_size(depth), aligned ** (depth / power), rtol=1e-5)


@pytest.mark.parametrize("depth", [1.5, 2, 2 + 1e-9, 3, 8])
def test_the_drive_is_the_integral_of_the_law(depth):
    integral = quad(lambda y: math.exp(y * (2 / depth - 1)) / depth, math.log(1e-3), math.log(0.2))[0]
    assert_allclose(needed_drive(depth, 1e-3, 0.2), integral, rtol=1e-10)


def test_the_driver_is_carried_as_its_definition_says(rng):
    m, n = 9, 7
    problem = completion(rng, m, n)[1]
    residuals = rng.standard_normal((6, len(problem)))
    waiting, dense = Waiting(lambda y: problem._adjoint(y, True), residuals[0], (m, n)), np.zeros((m, n))
    u, v = (oracles.orthogonal(rng, k)[:, :2] for k in (m, n))
    for residual in residuals:
        u, v = (np.linalg.qr(x + 0.1 * rng.standard_normal(x.shape))[0] for x in (u, v))
        waiting.add(residual, 0.3)
        waiting.project(u, v.T)
        gradient = problem._adjoint(residual, True).toarray()
        beside = [np.eye(len(x)) - x @ x.T for x in (u, v)]
        dense = beside[0] @ (dense - 0.3 * gradient) @ beside[1]
        rate = leading_pair(across(scipy.sparse.csr_array(gradient), u, v.T))[1]
        assert_allclose(rate, np.linalg.norm(beside[0] @ gradient @ beside[1], 2), rtol=1e-12)
    left, drive, right = waiting.top()
    assert_allclose(drive, np.linalg.norm(dense, 2), rtol=1e-3)
    assert_allclose(left.T @ dense @ right.T, [[drive]], rtol=1e-3)


# Births.


@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_where_singular_values_do_not_meet_each_rises_when_the_law_has_it(rng, size):
    s = np.array([8.0, 5.0, 2.0, 0.5])
    result = LowRankApproximation(low_rank(rng, 7, 6, s)).follow(3, size)
    needed = needed_drive(3, effective_size(3) * size, 0.01 * s[0])
    late = np.array(result.births) * s / needed - 1  # by a last step, which is no shorter than 2 % of the time
    assert np.all((late > -1e-6) & (late < 0.02))
    assert abs(late[0]) < 1e-12
    assert_allclose(np.sort(result.point[1]), s[::-1], rtol=1e-4)
    assert (result.status, result.rank) == ("converged", 4)


def test_long_plateaus_are_waited_out(rng):
    s = np.array([8.0, 0.01])
    result = LowRankApproximation(low_rank(rng, 7, 6, s)).follow(3, 1e-7)
    assert_allclose(np.array(result.births) * s, needed_drive(3, effective_size(3) * 1e-7, 0.08), rtol=1e-9)
    assert result.iterations < 40


def second_birth(problem, start, depth, until):
    """When the second singular value of the flow of full rank is a hundredth of the first; and the end."""

    def second(_, point):
        return np.sort(point[1])[-2] - 0.01 * np.max(point[1])

    flow = GradientFlow(0.01, until, events={"second": second})
    result = flow.run(problem.problem(FixedRank(*problem.shape, len(start[1]), depth=depth)), initial_point=start)
    return result.events["second"][-1], result.point


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_births_are_those_of_an_orthogonal_start_whose_vectors_are_not_aligned(rng, depth):
    d, size, s = 4, 1e-4, np.array([9.0, 4.0])
    u, v = oracles.orthogonal(rng, d), oracles.orthogonal(rng, d)
    problem = LowRankApproximation(oracles.dense(u[:, :2], s, v[:, :2].T))
    found = problem.follow(depth, size, tolerance=0.01)
    start = u[:, [2, 3, 0, 1]], np.full(d, size), v.T
    birth, _ = second_birth(problem, start, depth, 1.2 * found.births[1])
    assert_allclose(found.births[1], birth, rtol=0.03)


def test_the_path_is_near_that_of_any_orthogonal_start(rng):
    m, n, size, depth = 16, 14, 1e-5, 3
    _, problem = completion(rng, m, n)
    births = problem.follow(depth, size, tolerance=0.01).births
    start, plateau = problem.initial_point(n, size, rng), sum(births) / 2
    birth, _ = second_birth(problem, start, depth, 1.2 * births[1])
    assert_allclose(birth, births[1], rtol=0.15)  # one start is ahead of another by some percent
    ours = problem.follow(depth, size, tolerance=0.01, flow_time=plateau)
    assert ours.rank == 1
    full = GradientFlow(0.01, plateau).run(problem.problem(FixedRank(m, n, n, depth)), initial_point=start)
    assert distance(ours, matrix(full.point)) < 1e-2


# Limits.


def test_a_matrix_of_low_rank_is_found_from_half_of_its_entries_and_no_rank(rng):
    truth, problem = completion(rng, 50, 40, 0.4)
    result = problem.follow()
    assert (result.status, result.rank, result.point[1].shape) == ("converged", 2, (2,))
    assert distance(result, truth) < 1e-4
    assert result.births == sorted(result.births)
    assert result.births[-1] < result.flow_time
    assert [len(r.singular_values) for r in result.history] == sorted(len(r.singular_values) for r in result.history)
    again = problem.follow()
    assert again.flow_time == result.flow_time
    assert all(np.array_equal(a, b) for a, b in zip(again.point, result.point, strict=True))


def test_units_do_not_matter(rng):
    """With data and start in other units the flow is the same one, in another unit of time."""
    truth, problem = completion(rng, 20, 15)
    unit, time = 2.0**9, 2.0**12  # time is 1/(φ E″), so that both are powers of two at depth 3
    other = MatrixCompletion(problem.rows, problem.cols, unit * problem.values, problem.shape)
    a, b = problem.follow(3, 1e-3), other.follow(3, unit * 1e-3)
    births = np.array(b.births) * time
    assert_allclose(births[0], a.births[0], rtol=1e-12)
    assert_allclose(births, a.births, rtol=0.02)  # how the first step is found depends on units
    assert max(distance(a, truth), distance(b, unit * truth)) < 1e-4


def test_the_flow_of_the_transpose_is_the_transpose(rng):
    truth, problem = completion(rng, 20, 15)
    other = MatrixCompletion(problem.cols, problem.rows, problem.values, problem.shape[::-1])
    a, b = problem.follow(), other.follow()
    assert_allclose(b.births, a.births, rtol=1e-2)
    assert max(distance(a, truth), distance(b, truth.T)) < 1e-4


def measured(rng, kind, truth, count=160):
    m, n = truth.shape
    if kind is Regression:
        inputs = rng.standard_normal((n, 30))
        return Regression(inputs, truth @ inputs)
    if kind is MatrixSensing:
        matrices = rng.standard_normal((count, m, n))
        return MatrixSensing(matrices, np.einsum("pij,ij->p", matrices, truth))
    left, right = rng.standard_normal((count, m)), rng.standard_normal((count, n))
    return RankOneSensing(left, right, np.einsum("pi,ij,pj->p", left, truth, right))


@pytest.mark.parametrize("kind", [Regression, MatrixSensing, RankOneSensing])
def test_every_least_squares_problem_can_be_followed(rng, kind):
    truth = low_rank(rng, 14, 12)
    result = measured(rng, kind, truth).follow(3)
    assert (result.status, result.rank) == ("converged", 2)
    assert distance(result, truth) < 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (2, 9)])
def test_small_matrices(rng, shape):
    target = rng.standard_normal(shape)
    result = LowRankApproximation(target).follow(3)
    assert result.rank == min(shape)
    assert distance(result, target) < 1e-4


def test_nothing_of_the_size_of_the_matrix_is_formed(rng):
    m, n, count = 5000, 4000, 60_000
    left, right = rng.standard_normal((m, 2)), rng.standard_normal((n, 2))
    rows, cols = np.divmod(np.unique(rng.integers(0, m * n, count)), n)
    problem = MatrixCompletion(rows, cols, np.einsum("ij,ij->i", left[rows], right[cols]), (m, n))
    problem.follow(max_iterations=10)  # compiles all that the second run calls
    tracemalloc.start()
    try:
        result = problem.follow(max_iterations=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.rank >= 1
    assert peak < 8 * m * n / 4


# Ends.


def test_it_stops_at_the_time_asked_for_and_at_the_limits_of_effort(rng):
    _, problem = completion(rng, 12, 10)
    whole = problem.follow()
    at = problem.follow(flow_time=whole.births[1] / 2)
    assert (at.status, at.flow_time, at.rank) == ("flow time", whole.births[1] / 2, 1)
    few = problem.follow(max_iterations=3)
    assert (few.status, few.iterations, len(few.history)) == ("iteration limit", 3, 4)
    assert (problem.follow(max_time=0.0).status) == "time limit"
    norms = [r.gradient_norm for r in whole.history]
    further = problem.follow(min_gradient_norm=norms[-1] / 1000)
    assert (further.status, further.rank) == ("converged", 2)
    assert further.history[-1].gradient_norm < norms[-1] / 1000
    assert [r.gradient_norm for r in further.history[: len(norms)]] == norms


def test_ctrl_c_returns_what_is_done(rng):
    _, problem = completion(rng, 12, 10)
    seen = []

    def interrupt(record, point):
        seen.append(point)
        if record.iteration == 5:
            raise KeyboardInterrupt

    result = problem.follow(callback=interrupt)
    assert (result.status, result.iterations, len(result.history)) == ("interrupted", 5, 6)
    assert result.point is seen[-1]
    assert len(result.point[1]) == result.rank


def test_held_out_entries_choose_a_point_before_noise_is_fitted(rng):
    truth = low_rank(rng, 30, 25)
    noisy = MatrixCompletion.from_matrix(truth + 0.1 * rng.standard_normal(truth.shape), rng.random(truth.shape) < 0.5)
    train, heldout = noisy.split(0.2, rng)
    result = train.follow(heldout=heldout, patience=10)
    assert result.status == "stopped early"
    assert result.best.heldout_error == min(r.heldout_error for r in result.history)
    assert result.best.iteration == result.iterations - 10
    assert heldout.relative_error(result.best_point) == result.best.heldout_error


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"depth": 1}, ValueError, "depth above 1"),
        ({"depth": math.inf}, ValueError, "infinite depth"),
        ({"depth": "3"}, TypeError, "depth must be a real number"),
        ({"size": 0.0}, ValueError, "size must be positive"),
        ({"size": 1.0}, ValueError, "lower the size"),
        ({"tolerance": 1.0}, ValueError, "tolerance must be below 1"),
        ({"flow_time": 0.0}, ValueError, "flow_time must be positive"),
        ({"flow_time": math.nan}, ValueError, "flow_time must be positive"),
        ({"flow_time": 1e-3}, ValueError, "before the first singular value"),
        ({"min_gradient_norm": -1.0}, ValueError, "must not be negative"),
        ({"patience": 3}, ValueError, "something to watch"),
        ({"heldout": LowRankApproximation(np.eye(3))}, ValueError, "of one matrix"),
    ],
)
def test_bad_options_are_named(rng, options, error, words):
    with pytest.raises(error, match=words):
        completion(rng, 6, 5)[1].follow(**options)


def test_data_without_a_flow_are_refused():
    with pytest.raises(ValueError, match="gradient is zero at X = 0"):
        LowRankApproximation(np.zeros((4, 3))).follow()
    with pytest.raises(TypeError, match="pass the target as an array"):
        LowRankApproximation(scipy.sparse.eye_array(4)).follow()


def test_what_has_not_risen_when_singular_values_fit_in_place_never_does():
    # Of the size of the start, which the closing time leaves no time to rise; the residual is not small.
    found = LowRankApproximation(np.diag([1.0, 0.5, 2e-3, 0.0])).follow(3, 1e-3)
    assert found.status == "converged"
    assert found.rank == 2
