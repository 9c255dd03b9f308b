"""Limits, rates, acceleration and scaling of training, against exact cases and flows."""

from itertools import combinations

import numpy as np
import oracles
import pytest
import scipy.linalg
from costs import square
from numpy.testing import assert_allclose

import dlngeo
from dlngeo.flows.limits import (
    classify_limit,
    end_to_end_step,
    escape_time,
    hessian_eigenvalues,
    loss_bound,
    observed_rate,
)
from dlngeo.geomstats import FixedRankMatrices
from dlngeo.problems import QuadraticCost


def regression(rng, m=3, n=4, samples=30):
    a, b = rng.standard_normal((n, samples)), rng.standard_normal((m, samples))
    return QuadraticCost.from_data(a, b), a, b


def test_infinite_depth_below_full_rank_sees_the_core_alone():
    """φ(σ, 0) = 0 and φ(σ, τ) → σ², so that the rates at the minimum of ½‖X − T‖² are φ of the pairs."""
    target = np.diag([2.0, 1.0, 0.0])
    problem = QuadraticCost(target)
    limit = classify_limit(problem, target + 1e-9 * np.eye(3), np.inf)
    assert (limit.kind, limit.rank) == ("minimiser", 2)
    between = 3 / (2 * np.log(2))
    rates = hessian_eigenvalues(problem, target, np.inf, 2)
    assert_allclose(rates, sorted([1, between, between, 4]), rtol=1e-9)
    assert limit.least_eigenvalue == pytest.approx(1)
    quick = classify_limit(problem, target, 3, hessian=False)
    assert (quick.kind, quick.least_eigenvalue) == ("critical", None)
    assert classify_limit(problem, 0.9 * target, 3, hessian=False).kind == "not converged"
    assert classify_limit(problem, np.diag([2.0, 0.0, 0.0]), 3, hessian=False).kind == "saddle"


# The cost.


def test_the_cost_is_the_squared_error_of_the_samples_up_to_a_constant(rng):
    problem, a, b = regression(rng)
    x, y, z = rng.standard_normal((3, 3, 4))

    def literal(x):
        return np.sum((x @ a - b) ** 2) / (2 * a.shape[1])

    assert_allclose(problem.cost(x) - problem.cost(y), literal(x) - literal(y), rtol=1e-12)
    slope = oracles.derivative(lambda h: literal(x + h * z))
    assert_allclose(np.sum(problem.euclidean_gradient(x) * z), slope, rtol=1e-10)
    bend = oracles.second_derivative(lambda h: literal(x + h * z))
    assert_allclose(np.sum(problem.euclidean_hessian(x, z) * z), bend, rtol=1e-8)
    eigenvalues = np.linalg.eigvalsh(a @ a.T / a.shape[1])
    assert_allclose([problem.convexity, problem.smoothness], eigenvalues[[0, -1]], rtol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_critical_points_are_critical_and_the_first_is_the_minimum(rng, rank):
    problem, _, _ = regression(rng)
    costs = {}
    for indices in combinations(range(3), rank):
        x = problem.critical_point(indices)
        u, s, vt = np.linalg.svd(x)
        assert np.all(s[rank:] < 1e-13)
        tangent = oracles.project(u[:, :rank], vt[:rank], problem.euclidean_gradient(x))
        assert_allclose(tangent, 0, atol=1e-13)
        assert problem.nearest_critical_point(x, rank) == (indices, pytest.approx(0, abs=1e-12))
        costs[indices] = problem.cost(x)
    best = min(costs, key=costs.get)
    assert best == tuple(range(rank))
    assert_allclose(problem.minimum(rank), problem.critical_point(best))
    # No random perturbation of the factors of the minimum, large or small, goes below it.
    u, s, vt = (a[:rank] if a.ndim == 1 else a for a in np.linalg.svd(problem.minimum(rank), full_matrices=False))
    for size in (1e-3, 0.1, 2):
        left = u[:, :rank] * s + size * rng.standard_normal((3, rank))
        assert problem.cost(left @ (vt[:rank] + size * rng.standard_normal((rank, 4)))) > costs[best]


def test_bad_costs_are_refused():
    for arguments, message in [
        ((np.ones(3),), "target must have 2 axes"),
        ((np.full((2, 2), np.nan),), "NaN"),
        ((np.eye(2), np.eye(3)), "symmetric 2×2"),
        ((np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]])), "symmetric"),
        ((np.eye(2), np.diag([1.0, 0.0])), "singular"),
    ]:
        with pytest.raises(ValueError, match=message):
            QuadraticCost(*arguments)
    with pytest.raises(ValueError, match="one for each sample"):
        QuadraticCost.from_data(np.ones((2, 5)), np.ones((2, 4)))


# (a) Limits.


@pytest.mark.parametrize("depth", [2, 3])
def test_generic_starts_reach_the_best_matrix_of_their_rank(rng, depth):
    problem, _, _ = regression(rng)
    start = oracles.dense(*oracles.factors(rng, 3, 4, [0.5, 0.4]))
    space = FixedRankMatrices(3, 4, 2, depth=depth)
    flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, start, 1e5, gradient_below=1e-9)
    limit = classify_limit(problem, flow.points[-1], depth, 2)
    assert limit.kind == "minimiser"
    assert limit.rank == 2
    assert limit.least_eigenvalue > 0
    assert limit.normal_gradient_norm > 1e-3  # a third singular value would lower it further, but the rank is 2
    assert_allclose(limit.point, problem.minimum(2), atol=1e-7)


def test_saddles_are_told_from_minimisers_and_from_points_on_the_way(rng):
    problem, _, _ = regression(rng)
    for depth in (1, 2, 3.5):
        for indices in combinations(range(3), 2):
            limit = classify_limit(problem, problem.critical_point(indices), depth, 2)
            assert limit.kind == ("minimiser" if indices == (0, 1) else "saddle")
            assert (limit.least_eigenvalue > 0) == (indices == (0, 1))
        # The best matrix of rank 1 is a minimiser in its own manifold, and a saddle of a model of rank 2.
        best = problem.minimum(1)
        assert classify_limit(problem, best, depth, 1).kind == "minimiser"
        below = classify_limit(problem, best, depth, 2)
        assert (below.kind, below.rank) == ("saddle", 1)
        assert classify_limit(problem, 0.9 * best, depth, 1).kind == "not converged"
    with pytest.raises(ValueError, match="zero matrix"):
        classify_limit(problem, np.zeros((3, 4)), 2)


# (b) Rates.


@pytest.mark.parametrize("depth", [1, 2, 3, 4.5])
def test_the_eigenvalues_at_a_minimiser_are_those_of_the_root_of_the_cometric_around_the_hessian(rng, depth):
    problem, _, _ = regression(rng, 3, 3)
    x = problem.target
    kernel = oracles.naive(depth) if depth > 1 else lambda s, t: 1.0
    units = np.eye(9).reshape(-1, 3, 3)
    cometric = oracles.matrix_of(lambda z: oracles.schur_cometric(x, z, kernel), units)
    root = np.real(scipy.linalg.sqrtm(cometric))
    hessian = oracles.matrix_of(lambda z: problem.euclidean_hessian(x, z), units)
    expected = np.linalg.eigvalsh(root @ hessian @ root)
    assert_allclose(hessian_eigenvalues(problem, x, depth), expected, rtol=1e-8)
    halved = hessian_eigenvalues(problem, x, depth, normalized=True)
    assert_allclose(halved * depth, expected, rtol=1e-8)


@pytest.mark.parametrize(("m", "n", "rank", "depth"), [(3, 3, 3, 2), (3, 3, 3, 4), (3, 4, 2, 2), (3, 4, 2, 3)])
def test_flows_converge_at_the_predicted_rate(rng, m, n, rank, depth):
    """At full rank to the target, below it to a point where E′ ≠ 0 and the curvature of the manifold counts."""
    problem, _, _ = regression(rng, m, n)
    minimum = problem.minimum(rank)
    mu = hessian_eigenvalues(problem, minimum, depth, rank)
    space = FixedRankMatrices(m, n, rank, depth=depth)
    u, s, vt = np.linalg.svd(minimum)
    near = minimum + 0.02 * s[rank - 1] * space.to_tangent(rng.standard_normal((m, n)), minimum)
    u, s, vt = np.linalg.svd(near)
    times = np.linspace(0, 9 / mu[0], 61)
    near = (u[:, :rank] * s[:rank]) @ vt[:rank]
    flow = dlngeo.gradient_flow(space, problem.euclidean_gradient, near, times, cost=problem.cost)
    distances = np.linalg.norm(flow.points - minimum, axis=(1, 2))
    assert_allclose(observed_rate(times, distances, tail=0.2), mu[0], rtol=0.02)
    excess = flow.losses - problem.cost(minimum)
    assert_allclose(observed_rate(times[:45], excess[:45], tail=0.2), 2 * mu[0], rtol=0.05)


@pytest.mark.parametrize("depth", [1, 2, 5, np.inf])
def test_the_loss_stays_below_its_bound_which_is_sharp_in_one_dimension(rng, depth):
    problem, _, _ = regression(rng, 3, 3)
    start = oracles.dense(*oracles.factors(rng, 3, 3, [0.6, 0.4, 0.2]))
    times = np.linspace(0, 3, 301)
    flow = dlngeo.gradient_flow(square(3, depth=depth), problem.euclidean_gradient, start, times, cost=problem.cost)
    bound = loss_bound(times, flow.singular_values, flow.losses, depth, problem.convexity)
    assert np.all(flow.losses <= bound * (1 + 1e-9))
    line = square(1, depth=depth)
    scalar = QuadraticCost([[2.0]], [[1.5]])
    flow = dlngeo.gradient_flow(line, scalar.euclidean_gradient, np.array([[0.4]]), times, cost=scalar.cost)
    exact = loss_bound(times, np.abs(flow.points[:, 0]), flow.losses, depth, scalar.convexity)
    assert_allclose(flow.losses[:100], exact[:100], rtol=2e-3)


def test_the_observed_rate_of_an_exponential_is_exact_and_bad_tails_are_refused():
    t = np.linspace(1, 4, 20)
    assert observed_rate(t, 5 * np.exp(-0.7 * t)) == pytest.approx(0.7, rel=1e-12)
    with pytest.raises(ValueError, match="tail"):
        observed_rate(t[:3], np.ones(3), tail=0.1)
    with pytest.raises(ValueError, match="positive"):
        observed_rate(t, np.zeros(20))
    with pytest.raises(ValueError, match="two vectors alike"):
        observed_rate(t, np.ones(19))
    with pytest.raises(ValueError, match="points"):
        loss_bound(t, np.ones((19, 2)), t, 2, 1.0)


@pytest.mark.parametrize("bad", [np.eye(3, 4) * 1j, np.ma.masked_array(np.eye(3, 4))])
def test_what_is_not_real_is_refused(rng, bad):
    problem, _, _ = regression(rng)
    for call in (
        lambda: classify_limit(problem, bad, 2),
        lambda: hessian_eigenvalues(problem, bad, 2),
        lambda: observed_rate(bad[0], bad[0]),
        lambda: loss_bound(np.ones(3), bad, np.ones(3), 2, 1.0),
        lambda: end_to_end_step(bad[0], np.ones(4), 0.1, 2),
    ):
        with pytest.raises(TypeError, match="must be real numbers"):
            call()


# (c) One output.


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_step_of_layers_with_one_output_is_the_end_to_end_step_to_first_order(rng, depth):
    w, gradient = rng.standard_normal((2, 4))
    weights = dlngeo.balanced_weights(w[None], [4, *[3] * (depth - 1), 1], rng=1)
    errors = []
    for eta in (1e-2, 5e-3, 2.5e-3):
        layers = dlngeo.gradient_descent(weights, lambda x: gradient[None], eta, 1).points[-1][0]
        errors.append(np.linalg.norm(layers - end_to_end_step(w, gradient, eta, depth)))
    if depth == 1:
        assert max(errors) < 1e-15
    else:
        assert errors[0] > 1e-8
        assert_allclose(np.diff(np.log2(errors)), -2, atol=0.2)


def test_the_end_to_end_step_is_the_cometric_of_a_row(rng):
    w, gradient = rng.standard_normal((2, 5))
    for depth in (2, 3.5, 10):
        cometric = oracles.schur_cometric(w[None], gradient[None], oracles.naive(depth), rank=1)[0]
        assert_allclose(end_to_end_step(w, gradient, 0.1, depth), w - 0.1 * cometric, rtol=1e-11)
    assert_allclose(end_to_end_step(np.zeros(5), gradient, 0.1, 3), 0)


@pytest.mark.parametrize(
    ("w", "gradient", "step_size", "message"),
    [
        (np.ones((3, 3)), np.ones((3, 3)), 0.1, r"w has shape \(3, 3\); the step is that of a vector"),
        (np.ones((1, 3)), np.ones((1, 3)), 0.1, "gradient_descent"),
        (np.ones(3), np.ones((3, 1)), 0.1, r"the gradient has shape \(3, 1\); expected \(3,\)"),
        (np.ones(3), 1.0, 0.1, "the gradient has shape"),
        (np.array([1.0, np.nan]), np.ones(2), 0.1, "w holds NaN"),
        (np.ones(2), np.ones(2), 0.0, "step_size must be positive"),
    ],
)
def test_an_end_to_end_step_of_anything_but_vectors_is_refused(w, gradient, step_size, message):
    with pytest.raises(ValueError, match=message):
        end_to_end_step(w, gradient, step_size, 3)


# (d) Width, depth, data.


@pytest.mark.parametrize("depth", [2, 3])
def test_inner_widths_do_not_matter_from_balanced_starts(rng, depth):
    problem, _, _ = regression(rng)
    start = oracles.dense(*oracles.factors(rng, 3, 4, [0.8, 0.3]))
    times = np.linspace(0, 3, 7)
    paths = []
    for width in (2, 3, 9):
        weights = dlngeo.balanced_weights(start, [4, *[width] * (depth - 1), 3], 2, rng=width)
        paths.append(dlngeo.training_flow(weights, problem.euclidean_gradient, times).points)
    assert_allclose(paths[1], paths[0], atol=1e-9)
    assert_allclose(paths[2], paths[0], atol=1e-9)
    # From an unbalanced start of the same product they do.
    skewed = [2 * weights[0], *weights[1:-1], weights[-1] / 2]
    other = dlngeo.training_flow(skewed, problem.euclidean_gradient, times).points
    assert_allclose(other[0], paths[0][0], atol=1e-12)
    assert np.abs(other - paths[0]).max() > 0.01


@pytest.mark.parametrize("depth", [2, 3, 8, np.inf])
def test_the_time_of_escape_is_that_of_the_flow(depth):
    time = escape_time(1e-2, 2.0, depth)
    flow = dlngeo.gradient_flow(square(1, depth=depth), lambda x: x - 2.0, np.array([[1e-2]]), [0, time])
    assert_allclose(flow.points[-1], 1.0, rtol=1e-8)


def test_the_time_of_escape_grows_with_the_predicted_power_of_the_start():
    for depth in (3, 4, 8):
        times = np.array([escape_time(start, 1.0, depth) for start in (1e-12, 1e-14, 1e-16)])
        slopes = np.diff(np.log10(times)) / 2
        assert_allclose(slopes, 1 - 2 / depth, atol=2e-3)
        leading = 1e-16 ** -(1 - 2 / depth) / (depth - 2)
        assert_allclose(times[-1], leading, rtol=0.02)
    shallow = np.diff([escape_time(start, 2.0, 2) for start in (1e-12, 1e-14)])
    assert_allclose(shallow, np.log(100) / 4, rtol=1e-6)
    assert escape_time(1e-3, 1.0, 4, normalized=True) == pytest.approx(4 * escape_time(1e-3, 1.0, 4))
    with pytest.raises(ValueError, match="expected 0 < start"):
        escape_time(0.6, 1.0, 3)
