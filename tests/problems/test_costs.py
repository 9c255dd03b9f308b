"""Every cost against its literal definition, by Taylor slopes along straight lines, and on the solvers."""

from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pytest
import scipy.sparse
from oracles import dense, factors
from pymanopt.manifolds import Euclidean, FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient, TrustRegions
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import dlngeo
from dlngeo.geomstats import FixedRankMatrices
from dlngeo.problems import (
    AutodiffCost,
    LowRankApproximation,
    MatrixCompletion,
    MatrixSensing,
    QuadraticCost,
    QuadraticLineSearcher,
    RankOneSensing,
    Regression,
)
from dlngeo.problems.base import as_operator
from dlngeo.pymanopt import FixedRank
from dlngeo.sampling import Langevin

M, N, RANK = 7, 5, 3
ONE = np.ones((1, 1))


def least_squares(forms, values):
    """Literal ``½ Σ (⟨A_i, X⟩ − y_i)²`` by a loop over measurements."""
    return lambda x: 0.5 * sum((np.sum(a * x) - y) ** 2 for a, y in zip(forms, values, strict=True))


def instances():
    rng = np.random.default_rng(3)
    few, many = rng.standard_normal((N, 4)), rng.standard_normal((N, 40)) * np.arange(1, 41)
    target = rng.standard_normal((M, N)) * (rng.random((M, N)) < 0.6)
    left, right, y = rng.standard_normal((50, M)), rng.standard_normal((50, N)), rng.standard_normal(50)
    forms = rng.standard_normal((50, M, N))
    values, vectors = np.linalg.eigh(many @ many.T)
    whitener = vectors @ np.diag(values**-0.5) @ vectors.T

    def regression(a, b):
        return lambda x: 0.5 * np.linalg.norm(x @ a - b) ** 2

    to_target = regression(np.eye(N), target)
    few_out, many_out = rng.standard_normal((M, 4)), rng.standard_normal((M, 40))
    operator = aslinearoperator(target)
    known, square = target != 0, 0.5 * np.sum(target**2)
    return {
        "completion": (
            MatrixCompletion.from_matrix(target, observed=known),
            lambda x: 0.5 * np.sum((x - target)[known] ** 2),
        ),
        "regression, few samples": (Regression(few, few_out), regression(few, few_out)),
        "regression, many samples": (Regression(many, many_out), regression(many, many_out)),
        "regression, whitened": (Regression(many, many_out, whiten=True), regression(whitener @ many, many_out)),
        "quadratic": (
            QuadraticCost(target, few @ few.T + np.eye(N)),
            lambda x: 0.5 * np.trace((x - target) @ (few @ few.T + np.eye(N)) @ (x - target).T),
        ),
        "rank-one sensing": (
            RankOneSensing(left, right, y),
            least_squares([np.outer(a, b) for a, b in zip(left, right, strict=True)], y),
        ),
        "dense sensing": (MatrixSensing(forms, y), least_squares(forms, y)),
        "dense target": (LowRankApproximation(target), to_target),
        "sparse target": (LowRankApproximation(scipy.sparse.coo_array(target)), to_target),
        "operator target": (LowRankApproximation(operator, squared_norm=2 * square), to_target),
        "operator target of unknown norm": (LowRankApproximation(operator), lambda x: to_target(x) - square),
        "autodiff": (
            AutodiffCost(lambda x: anp.sum(anp.cosh(x - target)), (M, N)),
            lambda x: np.sum(np.cosh(x - target)),
        ),
    }


CASES = instances()
QUADRATIC = [name for name in CASES if name != "autodiff"]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def factored_point(rng, scale=1.0):
    return factors(rng, M, N, scale * np.array([2.0, 2.0, 0.3]))


def tangent_at(rng, point):
    """A manifold, a tangent vector there, and the matrix that it is."""
    manifold = FixedRank(M, N, RANK, 3, rng=rng)
    tangent = manifold.random_tangent_vector(point)
    return manifold, tangent, point[0] @ tangent.M @ point[2] + tangent.Up @ point[2] + point[0] @ tangent.Vp.T


def as_array(derivative):
    """A derivative of any matrix form as an array."""
    if isinstance(derivative, tuple):
        return derivative[0] @ derivative[1]
    if scipy.sparse.issparse(derivative):
        return derivative.toarray()
    if isinstance(derivative, LinearOperator):
        np.testing.assert_allclose(derivative.T @ np.eye(M), (derivative @ np.eye(N)).T, atol=1e-12)
        np.testing.assert_allclose(derivative @ np.ones(N), (derivative @ np.eye(N)).sum(1), atol=1e-12)
        np.testing.assert_allclose(derivative.T @ np.ones(M), (derivative @ np.eye(N)).sum(0), atol=1e-12)
        return derivative @ np.eye(N)
    return derivative


def slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(np.abs(errors)), 1)[0]


def test_cost_is_the_literal_one(case, rng):
    cost, literal = case
    point = factored_point(rng)
    for x in (point, dense(*point)):
        for _ in range(2):  # kept, and then another point in between
            assert cost.cost(x) == pytest.approx(literal(dense(*point)), rel=1e-12)
        assert cost.cost(2 * dense(*point)) == pytest.approx(literal(2 * dense(*point)), rel=1e-12)


def test_derivatives_at_a_dense_point_have_their_taylor_orders(case, rng):
    cost, literal = case
    x, z = rng.standard_normal((2, M, N))
    gradient, hessian = cost.euclidean_gradient(x), cost.euclidean_hessian(x, z)
    steps = 2.0 ** -np.arange(3, 9)
    first = [literal(x + t * z) - literal(x) - t * np.sum(gradient * z) for t in steps]
    assert slope(steps, first) == pytest.approx(2, abs=0.1)
    # The cubic term of a quadratic vanishes; a cosine is added, which makes the remainder of third order.
    curvature = cost.curvature(x, z)
    assert curvature == pytest.approx(np.sum(z * hessian), rel=1e-12)
    second = [
        literal(x + t * z) + np.sin(t) - literal(x) - t * (np.sum(gradient * z) + 1) - t**2 / 2 * curvature
        for t in steps
    ]
    assert slope(steps, second) == pytest.approx(3, abs=0.15)
    # D²E is symmetric.
    w = rng.standard_normal((M, N))
    assert np.sum(w * hessian) == pytest.approx(np.sum(z * cost.euclidean_hessian(x, w)), rel=1e-12)


def test_a_batch_of_dense_points_gives_one_value_and_one_derivative_for_each(case, rng):
    cost, literal = case
    x, z = rng.standard_normal((2, 2, 4, M, N))
    values, gradients, products = cost.cost(x), cost.euclidean_gradient(x), cost.euclidean_hessian(x, z)
    curvatures = cost.curvature(x, z)
    assert values.shape == curvatures.shape == (2, 4)
    for k in np.ndindex(2, 4):
        assert values[k] == pytest.approx(literal(x[k]), rel=1e-12)
        assert curvatures[k] == pytest.approx(cost.curvature(x[k], z[k]), rel=1e-12)
        np.testing.assert_allclose(gradients[k], cost.euclidean_gradient(x[k]), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(products[k], cost.euclidean_hessian(x[k], z[k]), rtol=1e-12, atol=1e-12)
    x[1, 2, 0, 0] = np.inf
    np.testing.assert_array_equal(cost.cost(x), np.where(np.arange(8).reshape(2, 4) == 6, np.inf, values))
    assert cost.cost(x[:1, 0]).shape == (1,)
    with pytest.raises(ValueError, match="the direction has shape"):
        cost.euclidean_hessian(x[0], z[0, 0])


def test_a_gradient_may_be_written_into(case, rng):
    cost, _ = case
    x = rng.standard_normal((M, N))
    before = cost.euclidean_gradient(x)
    cost.euclidean_gradient(x)[...] = 0
    np.testing.assert_array_equal(cost.euclidean_gradient(x), before)


@pytest.mark.parametrize("name", QUADRATIC)
def test_derivatives_at_a_factored_point_are_those_at_the_dense_one(name, rng):
    cost, _ = CASES[name]
    point = factored_point(rng)
    manifold, tangent, z = tangent_at(rng, point)
    np.testing.assert_allclose(
        as_array(cost.euclidean_gradient(point)), cost.euclidean_gradient(dense(*point)), atol=1e-11
    )
    for other in (manifold, FixedRankEmbedded(M, N, RANK)):
        direction = other.embedding(point, tangent)
        product = as_array(cost.euclidean_hessian(point, direction))
        np.testing.assert_allclose(product, cost.euclidean_hessian(dense(*point), z), rtol=1e-11, atol=1e-11)
        assert cost.curvature(point, direction) == pytest.approx(cost.curvature(dense(*point), z), rel=1e-11)


def test_riemannian_derivatives_are_those_of_the_dense_ones(case, rng):
    cost, _ = case
    point = factored_point(rng)
    manifold, tangent, z = tangent_at(rng, point)
    problem = cost.problem(manifold)
    e = cost.euclidean_gradient(dense(*point))
    h = cost.euclidean_hessian(dense(*point), z)
    pairs = [
        (problem.riemannian_gradient(point), manifold.euclidean_to_riemannian_gradient(point, e)),
        (problem.riemannian_hessian(point, tangent), manifold.euclidean_to_riemannian_hessian(point, e, h, tangent)),
    ]
    embedded = FixedRankEmbedded(M, N, RANK)  # singular values are equal
    pairs.append((cost.problem(embedded).riemannian_gradient(point), embedded.projection(point, e)))
    for ours, expected in pairs:
        size = max(np.linalg.norm(b) for b in expected)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-11 * size)
    assert cost.curvature(point, manifold.embedding(point, tangent)) == pytest.approx(np.sum(z * h), rel=1e-10)


@pytest.mark.parametrize(
    "name", [*QUADRATIC[:4], *(pytest.param(name, marks=pytest.mark.slow) for name in QUADRATIC[4:])]
)
def test_solvers_reach_a_critical_point(name):
    cost, _ = CASES[name]
    manifold = FixedRank(M, N, RANK, 2, rng=0)
    start = cost.initial_point(RANK, 1.0, rng=0)
    for optimizer in (
        ConjugateGradient(verbosity=0, line_searcher=QuadraticLineSearcher(cost), max_iterations=3000),
        TrustRegions(verbosity=0),
    ):
        solution = cost.solve(manifold, optimizer, initial_point=start)
        scale = solution.history[0].gradient_norm
        assert solution.history[-1].gradient_norm < 1e-4 * scale
        assert solution.history[-1].cost < solution.history[0].cost


def test_one_cost_runs_on_a_solver_a_flow_and_a_sampler(case, rng):
    cost, literal = case
    space = FixedRankMatrices(M, N, RANK, depth=3)
    start = factored_point(rng, 0.5)
    problem = cost.problem(FixedRank(M, N, RANK, 3))
    norm = problem.manifold.norm(start, problem.riemannian_gradient(start))
    h = 1e-3 * literal(3 * dense(*start)) / norm**2  # short against the time in which the loss falls
    flow = dlngeo.gradient_flow(space, cost.euclidean_gradient, start, [0, h, 2 * h], cost=cost.cost)
    assert flow.gradient_norms[0] == pytest.approx(norm, rel=1e-10)
    assert flow.losses == pytest.approx([literal(x) for x in flow.points], rel=1e-10)
    # The loss falls at the squared norm of the gradient: Simpson's rule.
    fall = np.dot([1, 4, 1], flow.gradient_norms**2) * h / 3
    assert flow.losses[0] - flow.losses[2] == pytest.approx(fall, rel=1e-3)
    other = dlngeo.gradient_flow(space, cost.euclidean_gradient, dense(*start), 2 * h, coordinates="dense")
    np.testing.assert_allclose(other.points[-1], flow.points[-1], atol=1e-9 * np.linalg.norm(dense(*start)))

    def one_by_one(points):
        return np.stack([cost.euclidean_gradient(x) for x in points])

    points = np.stack([dense(*factored_point(rng)) for _ in range(3)])
    runs = [
        Langevin(space, gradient, 10.0, h / 100, potential=cost.cost).sample(points, 4, rng=0)
        for gradient in (cost.euclidean_gradient, one_by_one)
    ]
    np.testing.assert_allclose(runs[0].points, runs[1].points, rtol=1e-10)
    energies = np.vectorize(literal, signature="(m,n)->()")(runs[0].points)
    np.testing.assert_allclose(runs[0].statistics["energy"], energies, rtol=1e-10)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_target_of_full_observation_is_approximated_by_its_truncated_svd(depth):
    rng = np.random.default_rng(5)
    target = rng.standard_normal((M, N))
    u, s, vt = np.linalg.svd(target)
    cost = LowRankApproximation(target)
    optimizer = ConjugateGradient(
        verbosity=0, line_searcher=QuadraticLineSearcher(cost), max_iterations=3000, min_gradient_norm=1e-9
    )
    solution = cost.solve(FixedRank(M, N, RANK, depth), optimizer, initial_point=cost.initial_point(RANK, 1.0, rng=1))
    np.testing.assert_allclose(dense(*solution.point), (u[:, :RANK] * s[:RANK]) @ vt[:RANK], atol=1e-6)
    assert cost.relative_error(solution.point) == pytest.approx(np.linalg.norm(s[RANK:]) / np.linalg.norm(s))


def test_a_line_search_on_a_flat_manifold_takes_one_trial_and_is_exact():
    rng = np.random.default_rng(6)
    inputs, outputs = rng.standard_normal((N, 30)), rng.standard_normal((M, 30))
    cost = Regression(inputs, outputs)
    manifold = Euclidean(M, N)
    searcher = QuadraticLineSearcher(cost)
    x = rng.standard_normal((M, N))
    d = -cost.euclidean_gradient(x)
    size, new = searcher.search(cost.cost, manifold, x, d, cost.cost(x), -np.sum(d * d))
    assert searcher.n_trials == 1
    assert size == pytest.approx(np.linalg.norm(new - x))
    assert np.sum(cost.euclidean_gradient(new) * d) == pytest.approx(0, abs=1e-10 * np.sum(d * d))
    # In M N dimensions conjugate gradients then end after as many steps.
    optimizer = ConjugateGradient(verbosity=0, line_searcher=searcher, max_iterations=3 * M * N, min_gradient_norm=1e-9)
    solution = cost.solve(manifold, optimizer, initial_point=x)
    np.testing.assert_allclose(solution.point, outputs @ np.linalg.pinv(inputs), atol=1e-8)


def test_a_line_search_backs_off_where_the_retraction_bends_and_gives_up_where_nothing_decreases():
    cost = LowRankApproximation(np.ones((M, N)))
    manifold = FixedRank(M, N, 1, 6)
    x = cost.initial_point(1, 1e-4, rng=0)
    problem = cost.problem(manifold)
    d = problem.riemannian_gradient(x) * -1.0
    df0 = -(manifold.norm(x, d) ** 2)
    searcher = QuadraticLineSearcher(cost)
    size, new = searcher.search(problem.cost, manifold, x, d, problem.cost(x), df0)
    assert size > 0
    assert problem.cost(new) < problem.cost(x)
    calls = []
    rising = QuadraticLineSearcher(cost, max_trials=4)
    assert rising.search(lambda p: calls.append(p) or np.inf, manifold, x, d, 1.0, df0) == (0.0, x)
    assert len(calls) == rising.n_trials == 4
    steps = [np.linalg.norm(dense(*p) - dense(*x)) for p in calls]
    assert all(0 < b < a for a, b in pairwise(steps))
    with pytest.raises(TypeError, match="MatrixCost"):
        QuadraticLineSearcher(lambda x: 0.0)
    with pytest.raises(ValueError, match=r"in \(0, 1/2\)"):
        QuadraticLineSearcher(cost, sufficient_decrease=0.5)


def test_whitened_inputs_have_the_given_map_as_their_minimum(rng):
    inputs, outputs = rng.standard_normal((N, 30)) * np.arange(1, N + 1)[:, None], rng.standard_normal((M, 30))
    cost = Regression(inputs, outputs, whiten=True)
    white = cost.whitener @ inputs
    np.testing.assert_allclose(white @ white.T, np.eye(N), atol=1e-12)
    best = outputs @ white.T
    np.testing.assert_allclose(cost.euclidean_gradient(best), 0, atol=1e-12)
    np.testing.assert_allclose(best @ cost.whitener, outputs @ np.linalg.pinv(inputs), atol=1e-12)
    expected = np.linalg.norm(best @ white - outputs) / np.linalg.norm(outputs)
    assert cost.relative_error(best) == pytest.approx(expected)
    assert Regression(inputs, outputs).whitener is None


@pytest.mark.parametrize("name", CASES)
def test_cost_is_infinite_never_nan(name, rng):
    cost, _ = CASES[name]
    for bad in (np.nan, np.inf, 1e200):
        u, s, vt = factored_point(rng)
        assert cost.cost((u, s * bad, vt)) == np.inf
        assert cost.cost((u, s, np.where(np.arange(N) == 0, bad, vt))) == np.inf
        assert cost.cost(np.full((M, N), bad)) == np.inf


def test_factored_functions_form_no_matrix(rng):
    def squares(u, s, vt):  # ½ ‖X‖⁴ from Gram matrices
        left = u * s
        return 0.5 * anp.sum((left.T @ left) * (vt @ vt.T)) ** 2

    cost = AutodiffCost(squares, (M, N), factored=True)
    whole = AutodiffCost(lambda x: 0.5 * anp.sum(x**2) ** 2, (M, N))
    point = factored_point(rng)
    manifold = FixedRank(M, N, RANK, 2, rng=rng)
    direction = manifold.embedding(point, manifold.random_tangent_vector(point))
    assert cost.cost(point) == pytest.approx(whole.cost(dense(*point)))
    for a, b in zip(cost.euclidean_hessian(point, direction), whole.euclidean_hessian(point, direction), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
    assert cost.curvature(point, direction) == pytest.approx(whole.curvature(point, direction))
    with pytest.raises(ValueError, match="takes factors"):
        cost.cost(dense(*point))
    with pytest.raises(ValueError, match="velocity of each factor"):
        cost.euclidean_hessian(point, direction[:2])


@pytest.mark.parametrize("backend", ["pytorch", "jax"])
def test_autodiff_by_torch_and_jax(backend, rng):
    if backend == "pytorch":
        sine = pytest.importorskip("torch").sin
        atol = 1e-12
    else:
        jax = pytest.importorskip("jax")
        sine = jax.numpy.sin
        atol = 1e-12 if jax.config.jax_enable_x64 else 1e-5
    cost = AutodiffCost(lambda x: sine(x).sum(), (M, N), backend=backend)
    point = factored_point(rng)
    x = dense(*point)
    assert cost.cost(point) == pytest.approx(np.sin(x).sum(), abs=10 * atol)
    np.testing.assert_allclose(cost.euclidean_gradient(x), np.cos(x), atol=atol)
    np.testing.assert_allclose(cost.euclidean_gradient(point)[2], (point[0] * point[1]).T @ np.cos(x), atol=10 * atol)
    np.testing.assert_allclose(cost.euclidean_hessian(x, x), -np.sin(x) * x, atol=10 * atol)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Regression(np.ones((3, 4)), np.ones((2, 5))), ValueError, "as many columns"),
        (lambda: Regression(np.ones(3), np.ones((2, 3))), ValueError, "inputs must have 2 axes"),
        (lambda: Regression(np.ones((3, 4)), np.full((2, 4), np.nan)), ValueError, "outputs must be finite"),
        (lambda: Regression(1j * np.ones((3, 4)), np.ones((2, 4))), TypeError, "inputs must be real"),
        (lambda: Regression(np.ones((3, 9)), np.ones((2, 9)), whiten=True), ValueError, "linearly dependent"),
        (lambda: Regression(np.ones((3, 2)), np.ones((2, 2)), whiten=True), ValueError, "linearly dependent"),
        (lambda: Regression(ONE, 0 * ONE).relative_error(ONE), ValueError, "undefined"),
        (lambda: RankOneSensing(np.ones((3, 4)), np.ones((2, 4)), [1, 2, 3]), ValueError, "as many rows"),
        (lambda: RankOneSensing(np.ones((3, 4)), np.ones((3, 4)), [1, 2]), ValueError, "3 measurements and 2 values"),
        (lambda: MatrixSensing(np.ones((3, 4)), [1, 2, 3]), ValueError, "measurements must have 3 axes"),
        (lambda: MatrixSensing([ONE], [0]).relative_error(ONE), ValueError, "undefined"),
        (lambda: LowRankApproximation(np.ones((2, 2)), squared_norm=4), ValueError, "belongs to a LinearOperator"),
        (lambda: LowRankApproximation([[np.inf]]), ValueError, "target must be finite"),
        (lambda: LowRankApproximation(aslinearoperator(np.eye(2))).relative_error(np.eye(2)), ValueError, "unknown"),
        (lambda: AutodiffCost(np.sum, (2, 2), backend="numpy"), ValueError, "backend must be"),
        (lambda: AutodiffCost(lambda x: x, (2, 2)).cost(np.eye(2)), ValueError, r"the cost has shape \(2, 2\)"),
        (lambda: Regression(ONE, ONE).cost(np.ones((3, 2))), ValueError, "the point has shapes"),
    ],
)
def test_bad_arguments_say_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("form", ["dense", "sparse", "pair", "lists"])
@pytest.mark.parametrize("complex_", [False, True])
def test_operators_have_the_products_of_matrices_of_every_form(rng, form, complex_):
    parts = [rng.standard_normal(shape) + complex_ * 1j * rng.standard_normal(shape) for shape in ((5, 2), (2, 3))]
    a = parts[0] @ parts[1]
    forms = {"dense": a, "sparse": scipy.sparse.csr_array(a), "pair": tuple(parts), "lists": a.tolist()}
    operator = as_operator(forms[form])
    assert operator.dtype == a.dtype
    assert as_operator(operator) is operator
    right, left = rng.standard_normal((3, 4)) * (1 + complex_ * 1j), rng.standard_normal((5, 4)) * (1 - complex_ * 2j)
    for found, expected in (
        (operator @ right, a @ right),
        (operator @ right[:, 0], a @ right[:, 0]),
        (operator.H @ left, a.conj().T @ left),
        (operator.rmatvec(left[:, 0]), a.conj().T @ left[:, 0]),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
