"""GradientFlow: the path against an explicit integrator, its order, its limits, its ends, and any manifold."""

import math
import pickle

import autograd.numpy as anp
import numpy as np
import oracles
import pymanopt
import pytest
import scipy.integrate
from fixed_ranks import Quadratic, autodiff_triple, matrix_forms, of_metric
from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDMatrices
from numpy.testing import assert_allclose
from pymanopt.manifolds import (
    Euclidean,
    FixedRankEmbedded,
    Grassmann,
    Product,
    Sphere,
    Stiefel,
    SymmetricPositiveDefinite,
)

import dlngeo
from dlngeo import Kernel
from dlngeo.geomstats import FixedRankMatrices, SpectralMetric
from dlngeo.problems import LowRankApproximation, MatrixCompletion
from dlngeo.pymanopt import Balanced, FixedRank, GradientFlow, from_geomstats, small_start
from dlngeo.pymanopt.following import Follower
from dlngeo.pymanopt.model import displacement

METRICS = [1, 1.5, 2, 3, 8, Quadratic()]
SHAPES = [(3, 3, [1.2, 0.7, 0.3]), (4, 3, [1.1, 0.4]), (3, 4, [0.9, 0.5, 0.2])]
CASES = [
    (metric, *shape) if metric == 3 or shape is SHAPES[0] else pytest.param(metric, *shape, marks=pytest.mark.slow)
    for metric in METRICS
    for shape in SHAPES
] + [(math.inf, *SHAPES[0])]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_costs_by_autodiff_bear_the_round_off_of_late_lanczos_vectors(depth, seed):
    target, manifold = np.diag([3.0, 1.0, 0.0]), FixedRank(3, 3, 2, depth)
    cost = pymanopt.function.autograd(manifold)(lambda u, s, vt: anp.sum(((u * s) @ vt - target) ** 2) / 2)
    start = small_start(manifold, 1e-3, seed)
    result = GradientFlow(max_iterations=60).run(pymanopt.Problem(manifold, cost), initial_point=start)
    assert "min grad norm" in result.stopping_criterion
    assert_allclose(np.sort(result.point[1]), [1, 3], atol=1e-4)


class Entries:
    """Half the entries of a matrix, weighed: neither convex along geodesics nor invariant."""

    def __init__(self, rng, m, n):
        self.target, self.weights = rng.standard_normal((m, n)), rng.uniform(0.3, 1.5, (m, n))

    def cost(self, x):
        return 0.5 * np.sum(self.weights * (x - self.target) ** 2)

    def gradient(self, x):
        return self.weights * (x - self.target)

    def problem(self, manifold):
        def dense(arrays):
            return arrays[0] if len(arrays) == 1 else (arrays[0] * arrays[1]) @ arrays[2]

        def hessian(*arrays):
            if len(arrays) == 2:
                return self.weights * arrays[1]
            u, s, vt, du, ds, dvt = arrays
            return self.weights * ((du * s + u * ds) @ vt + (u * s) @ dvt)

        numpy = pymanopt.function.numpy(manifold)
        return pymanopt.Problem(
            manifold,
            numpy(lambda *x: self.cost(dense(x))),
            euclidean_gradient=numpy(lambda *x: self.gradient(dense(x))),
            euclidean_hessian=numpy(hessian),
        )


def matrix(point):
    u, s, vt = point
    return (u * s) @ vt


def exact(cost, metric, m, n, x, t):
    """The end of the flow by an explicit method of order eight."""
    space = FixedRankMatrices(m, n, np.linalg.matrix_rank(x), equip=False)
    kernel = metric if isinstance(metric, Kernel) else dlngeo.kernels.of_depth(metric)
    space.equip_with_metric(SpectralMetric, kernel=kernel)
    return dlngeo.gradient_flow(space, cost.gradient, x, t, method="DOP853", rtol=1e-11).points[-1]


@pytest.mark.parametrize(("metric", "m", "n", "s"), CASES)
def test_the_path_is_that_of_an_explicit_method_to_second_order(rng, metric, m, n, s):
    cost, start = Entries(rng, m, n), oracles.factors(rng, m, n, s)
    manifold = of_metric(m, n, len(s), metric, rng)
    want = exact(cost, metric, m, n, matrix(start), 1.5)
    errors, steps = [], []
    for tolerance in (1e-2, 1e-5):
        result = GradientFlow(tolerance, flow_time=1.5).run(cost.problem(manifold), initial_point=start)
        assert result.flow_time == 1.5
        error = manifold.norm(result.point, manifold.projection(result.point, matrix(result.point) - want))
        errors.append(error / manifold.norm(result.point, manifold.projection(result.point, want)))
        steps.append(result.iterations)
        assert errors[-1] < 3 * result.error
    if metric == 1 and len(s) == min(m, n):
        assert errors[-1] < 1e-4  # a linear flow, of which only the Krylov space makes an error
        assert steps == [4, 4]
        return
    # A thousandth of the tolerance takes ten times the steps, and leaves a hundredth of the error.
    assert 5 < steps[1] / steps[0] < 16
    assert 15 < errors[0] / errors[1] < 500


@pytest.mark.parametrize("metric", [1, 2, 3, Quadratic()])
def test_spaces_of_geomstats_follow_the_same_flow(rng, metric):
    cost, (u, s, vt) = Entries(rng, 3, 3), oracles.factors(rng, 3, 3, [1.2, 0.7, 0.3])
    kernel = metric if isinstance(metric, Kernel) else dlngeo.kernels.of_depth(metric)
    space = FixedRankMatrices(3, 3, 3, equip=False)
    space.equip_with_metric(SpectralMetric, kernel=kernel)
    flow = GradientFlow(1e-4, flow_time=1.0)
    dense = flow.run(cost.problem(from_geomstats(space)), initial_point=(u * s) @ vt)
    factored = flow.run(cost.problem(of_metric(3, 3, 3, metric, rng)), initial_point=(u, s, vt))
    assert_allclose(dense.point, matrix(factored.point), rtol=1e-3, atol=1e-3)
    assert_allclose(dense.point, exact(cost, metric, 3, 3, (u * s) @ vt, 1.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("widths", [(3, 4, 3), (3, 3, 3, 3)])
def test_weights_and_their_product_follow_the_same_flow(rng, widths):
    cost, start = LowRankApproximation(rng.standard_normal((3, 3))), oracles.factors(rng, 3, 3, [1.2, 0.7, 0.3])
    weights = dlngeo.balanced_weights(matrix(start), widths, rng=0)
    flow = GradientFlow(1e-5, flow_time=2.0)
    above = flow.run(cost.problem(Balanced(widths)), initial_point=weights)
    below = flow.run(cost.problem(FixedRank(3, 3, 3, depth=len(widths) - 1)), initial_point=start)
    assert_allclose(dlngeo.end_to_end(above.point), matrix(below.point), atol=2e-4)
    assert np.abs(dlngeo.imbalance(above.point)).max() < 1e-12


def test_the_limit_of_a_completion_is_that_of_a_long_explicit_run(rng):
    u, v = rng.standard_normal((2, 5, 1))
    truth = u @ v.T
    rows, cols = np.nonzero(rng.random((5, 5)) < 0.7)
    data = MatrixCompletion(rows, cols, truth[rows, cols], (5, 5))
    start = data.initial_point(5, 1e-2, 0)
    result = GradientFlow(1e-3, min_gradient_norm=1e-9).run(
        data.problem(FixedRank(5, 5, 5, depth=3)), initial_point=start
    )
    space = FixedRankMatrices(5, 5, 5, equip=True, depth=3)
    flow = dlngeo.gradient_flow(space, data.euclidean_gradient, start, 60.0, method="DOP853", rtol=1e-8)
    assert_allclose(matrix(result.point), flow.points[-1], atol=2e-2 * np.abs(truth).max())
    assert result.gradient_norm < 1e-9
    assert data.cost(result.point) < 1e-10


def test_the_cost_falls_at_every_step(rng):
    rows, cols = np.nonzero(rng.random((8, 6)) < 0.6)
    data = MatrixCompletion(rows, cols, rng.standard_normal(rows.size), (8, 6))
    flow = GradientFlow(0.1, log_verbosity=1)
    result = flow.run(data.problem(FixedRank(8, 6, 3, depth=4)), initial_point=data.initial_point(3, 1e-3, 0))
    costs, times = (np.array(result.log["iterations"][name]) for name in ("cost", "flow_time"))
    assert len(costs) == result.iterations + 1 > 20
    assert np.all(np.diff(costs) <= 1e-14 * costs[:-1])
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize("depth", [2, 3])
def test_plateaus_end_at_the_times_of_the_exact_solution(depth):
    # With E′ diagonal in the frames of X each singular value follows σ̇ = N σ^{2−2/N} (a − σ) on its own.
    size, targets = 1e-4, np.array([3.0, 1.0, 0.3])
    problem = LowRankApproximation(np.diag(targets)).problem(FixedRank(3, 3, 3, depth=depth))
    halves = {f"half {k}": lambda t, x, k=k: np.sort(x[1])[::-1][k] - targets[k] / 2 for k in range(3)}
    result = GradientFlow(1e-4, events=halves).run(problem, initial_point=(np.eye(3), np.full(3, size), np.eye(3)))
    for k, target in enumerate(targets):

        def passing(eta, target=target):  # dt/d(log σ)
            return np.exp((2 / depth - 1) * eta) / (depth * (target - np.exp(eta)))

        want = scipy.integrate.quad(passing, math.log(size), math.log(target / 2), epsrel=1e-10)[0]
        assert_allclose(result.events[f"half {k}"], [want], rtol=2e-3)


def test_a_saddle_is_left_at_the_rate_of_its_curvature():
    # E = (x² − 1)²/4 + y²/2 from x = 1e-8: ẋ = x − x³, and x/√(1 − x²) grows as eᵗ.
    manifold = Euclidean(2)

    @pymanopt.function.autograd(manifold)
    def cost(x):
        return (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 / 2

    flow = GradientFlow(1e-4, min_gradient_norm=1e-6, events={"half": lambda t, x: x[0] - 0.5})
    result = flow.run(pymanopt.Problem(manifold, cost), initial_point=np.array([1e-8, 0.3]))
    assert_allclose(result.events["half"], [math.log(0.5 / math.sqrt(0.75)) - math.log(1e-8)], rtol=1e-3)
    assert_allclose(result.point, [1, 0], atol=1e-5)


# Ends.


def completion(rng):
    rows, cols = np.nonzero(rng.random((6, 6)) < 0.6)
    data = MatrixCompletion(rows, cols, rng.standard_normal(rows.size), (6, 6))
    return data, data.problem(FixedRank(6, 6, 2, depth=3)), data.initial_point(2, 1e-2, 0)


def test_a_run_goes_on_bit_by_bit_where_it_was_interrupted(rng):
    _, problem, start = completion(rng)
    whole = GradientFlow().run(problem, initial_point=start)

    def interrupt(t, point):
        if t > whole.flow_time / 100:
            raise KeyboardInterrupt
        return 1.0

    part = GradientFlow(events={"interrupt": interrupt}).run(problem, initial_point=start)
    assert "interrupted" in part.stopping_criterion
    assert 0 < part.iterations < whole.iterations
    rest = GradientFlow().run(problem, resume=pickle.loads(pickle.dumps(part)))
    for name in ("iterations", "flow_time", "rejected", "error", "cost", "stopping_criterion"):
        assert str(getattr(rest, name)).split(",")[0] == str(getattr(whole, name)).split(",")[0]
    for a, b in zip(rest.point, whole.point, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_stops_at_a_time_at_an_event_and_at_limits(rng):
    _, problem, start = completion(rng)
    result = GradientFlow(flow_time=0.7).run(problem, initial_point=start)
    assert result.flow_time == 0.7
    assert "flow time" in result.stopping_criterion

    def one(t, point):
        return point[1].max() - 1

    one.terminal = True
    result = GradientFlow(1e-4, events={"one": one}).run(problem, initial_point=start)
    assert_allclose(result.point[1].max(), 1, atol=1e-8)
    assert result.events["one"] == [result.flow_time]
    assert "event 'one'" in result.stopping_criterion
    assert GradientFlow(max_iterations=3).run(problem, initial_point=start).iterations == 3
    assert GradientFlow(max_time=0.0).run(problem, initial_point=start).iterations == 0


def test_held_out_entries_choose_a_point(rng):
    data, _, start = completion(rng)
    train, held = data.split(0.2, 0)
    manifold = FixedRank(6, 6, 2, depth=3)
    whole = GradientFlow().run(train.problem(manifold), initial_point=start)
    solution = train.solve(manifold, GradientFlow(), initial_point=start)
    assert [record.iteration for record in solution.history] == list(range(whole.iterations + 1))
    assert_allclose(solution.history[-1].gradient_norm, whole.gradient_norm, rtol=1e-9)
    solution = train.solve(manifold, GradientFlow(), initial_point=start, heldout=held, patience=5)
    assert solution.status in ("stopped early", "converged")
    assert solution.best.heldout_error == min(record.heldout_error for record in solution.history)
    assert len(solution.history) == solution.iterations + 1
    assert train.solve(manifold, GradientFlow(flow_time=0.1), initial_point=start).status == "flow time"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_steps_stay_where_the_cost_is_finite(bad):
    manifold = Euclidean(2)
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda x: bad if x[0] > 2 else float(-x[0] + x[1] ** 2)),
        euclidean_gradient=numpy(lambda x: np.array([-1.0, 2 * x[1]])),
        euclidean_hessian=numpy(lambda x, v: np.array([0.0, 2 * v[1]])),
    )
    result = GradientFlow(0.1).run(problem, initial_point=np.array([1.0, 1.0]))
    assert "stalled" in result.stopping_criterion
    assert str(bad) in result.stopping_criterion
    assert_allclose(result.point[0], 2.0, atol=1e-6)
    with pytest.raises(ValueError, match=r"the cost is .* at the initial point"):
        GradientFlow().run(problem, initial_point=np.array([3.0, 1.0]))


def test_a_cost_unbounded_below_is_followed_to_where_the_flow_ends():
    manifold = FixedRank(3, 3, 3, depth=3)
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda u, s, vt: -float(np.trace((u * s) @ vt))),
        euclidean_gradient=numpy(lambda u, s, vt: -np.eye(3)),
        euclidean_hessian=numpy(lambda *x: np.zeros((3, 3))),
    )
    # λ = σ^{1/3} has λ̇ = λ², and is infinite at t = 1/λ(0).
    result = GradientFlow(1e-3).run(problem, initial_point=(np.eye(3), np.array([0.5, 0.4, 0.3]), np.eye(3)))
    assert "stalled" in result.stopping_criterion
    assert_allclose(result.flow_time, 0.5 ** (-1 / 3), rtol=1e-2)
    assert np.isfinite(result.point[1]).all()


# Any manifold.


def of_x(manifold, function):
    return pymanopt.Problem(manifold, pymanopt.function.autograd(manifold)(function))


def test_pymanopts_own_manifolds_are_followed_to_a_minimum():
    def bowl(x):
        return anp.sum((x - 2) ** 2) ** 2 + anp.sum((x - 2) ** 2)

    def barrier(x):
        return anp.trace(x) + anp.trace(anp.linalg.inv(x))

    for manifold, start, cost, least in (
        (Euclidean(4), np.zeros(4), bowl, 0.0),
        (SymmetricPositiveDefinite(4), np.diag([1.0, 5.0, 0.2, 2.0]), barrier, 8.0),
        (Grassmann(4, 2), np.linalg.qr(np.eye(4)[:, :2] + 0.4)[0], lambda x: -anp.trace(x.T @ (WEIGHTS * x.T).T), -7.0),
        (Stiefel(4, 2), np.eye(4)[:, :2], lambda x: anp.sum((x - np.eye(4)[:, [1, 2]]) ** 2), 0.0),
    ):
        result = GradientFlow(0.02).run(of_x(manifold, cost), initial_point=start)
        assert_allclose(result.cost, least, atol=1e-6)
        assert "grad norm" in result.stopping_criterion


WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0])


def test_the_rayleigh_quotient_on_a_sphere_follows_its_closed_form():
    a, manifold = np.array([0.0, 1.0, 2.5]), Sphere(3)
    start = np.array([0.1, 0.3, 1.0])
    start /= np.linalg.norm(start)
    problem = of_x(manifold, lambda x: anp.sum(a * x**2) / 2)
    want = np.exp(-3 * a) * start  # x(t) ∝ e^{−At} x(0)
    want /= np.linalg.norm(want)
    errors = []
    for tolerance in (1e-3, 1e-6):
        result = GradientFlow(tolerance, flow_time=3.0).run(problem, initial_point=start)
        errors.append(np.linalg.norm(result.point - want))
        assert errors[-1] < 4 * result.error  # the errors are relative to the typical distance, π
    assert 15 < errors[0] / errors[1] < 500


def test_products_and_embedded_matrices(rng):
    product = Product([Sphere(3), Euclidean(2)])
    problem = of_x(product, lambda x, y: -x[0] + anp.sum((y - 1) ** 2))
    result = GradientFlow().run(problem, initial_point=[np.array([0.0, 0.6, 0.8]), np.zeros(2)])
    assert_allclose(result.point[0], [1, 0, 0], atol=1e-3)
    assert_allclose(result.point[1], [1, 1], atol=1e-3)
    data, _, start = completion(rng)
    flow = GradientFlow(1e-4, flow_time=2.0)
    embedded = flow.run(data.problem(FixedRankEmbedded(6, 6, 2)), initial_point=start)
    ours = flow.run(data.problem(FixedRank(6, 6, 2, depth=1)), initial_point=start)
    assert_allclose(matrix(embedded.point), matrix(ours.point), atol=2e-3)


@pytest.mark.parametrize("metric", [1, 3, Quadratic()])
def test_a_problem_without_hessian_follows_the_same_flow(rng, metric):
    cost, start = Entries(rng, 4, 3), oracles.factors(rng, 4, 3, [1.1, 0.4])
    manifold = of_metric(4, 3, 2, metric, rng)
    numpy = pymanopt.function.numpy(manifold)
    bare = pymanopt.Problem(
        manifold,
        numpy(lambda u, s, vt: cost.cost((u * s) @ vt)),
        euclidean_gradient=numpy(lambda u, s, vt: cost.gradient((u * s) @ vt)),
    )
    flow = GradientFlow(1e-4, flow_time=1.0)
    a, b = (flow.run(problem, initial_point=start) for problem in (bare, cost.problem(manifold)))
    assert_allclose(matrix(a.point), matrix(b.point), atol=1e-6)


def test_a_metric_without_hessian_gets_differences_of_gradients():
    space = SPDMatrices(2, equip=False)
    manifold = from_geomstats(space.equip_with_metric(SPDAffineMetric))
    problem = of_x(manifold, lambda x: anp.trace(x) - anp.log(anp.linalg.det(x)))
    result = GradientFlow(1e-4, flow_time=1.0).run(problem, initial_point=np.diag([3.0, 0.5]))
    # On diagonal matrices ẋ = x² (1/x − 1): logistic curves.
    x = np.array([3.0, 0.5])
    assert_allclose(np.diag(result.point), x * math.e / (1 + x * (math.e - 1)), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"tolerance": 1.5}, "tolerance must be below 1"),
        ({"flow_time": 0.0}, "flow_time must be positive"),
        ({"first_step": -1.0}, "first_step must be"),
        ({"max_products": 0}, "max_products"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GradientFlow(**options)


def test_an_event_that_is_nan_is_named(rng):
    _, problem, start = completion(rng)
    with pytest.raises(ValueError, match="the event 'lost' is nan"):
        GradientFlow(events={"lost": lambda t, x: math.nan}).run(problem, initial_point=start)
    with pytest.raises(ValueError, match="is not later"):
        GradientFlow(flow_time=1.0).run(problem, resume=GradientFlow(flow_time=1.0).run(problem, initial_point=start))


def test_an_event_that_turns_nan_on_the_way_ends_the_run_and_loses_nothing(rng):
    _, problem, start = completion(rng)
    result = GradientFlow(events={"lost": lambda t, x: math.nan if t > 1 else 1.0}).run(problem, initial_point=start)
    assert "the function of the event 'lost' is nan" in result.stopping_criterion
    assert result.flow_time > 1


def test_a_start_near_a_saddle_is_no_end_however_small_its_gradient():
    manifold = Euclidean(1)
    problem = of_x(manifold, lambda x: (x[0] ** 2 - 1) ** 2 / 4)
    result = GradientFlow(min_gradient_norm=1e-6).run(problem, initial_point=np.array([1e-9]))
    assert_allclose(result.point, 1, atol=1e-5)
    result = GradientFlow(min_gradient_norm=1e-6).run(problem, initial_point=np.array([1 + 1e-9]))
    assert result.iterations == 0


def test_a_misspelt_argument_is_no_random_start(rng):
    _, problem, start = completion(rng)
    with pytest.raises(TypeError, match="intial_point"):
        GradientFlow().run(problem, intial_point=start)


@pytest.mark.parametrize(
    "form",
    ["pair", *(pytest.param(form, marks=pytest.mark.slow) for form in ("dense", "csr_array", "operator", "triple"))],
)
def test_gradients_of_every_form_have_differences(rng, form):
    cost, start = Entries(rng, 4, 3), oracles.factors(rng, 4, 3, [1.1, 0.4])
    manifold = of_metric(4, 3, 2, 3, rng)
    numpy = pymanopt.function.numpy(manifold)
    bare = pymanopt.Problem(
        manifold,
        numpy(lambda u, s, vt: cost.cost((u * s) @ vt)),
        euclidean_gradient=numpy(lambda u, s, vt: matrix_forms(cost.gradient((u * s) @ vt))[form]),
    )
    flow = GradientFlow(1e-3, flow_time=0.5)
    a, b = (flow.run(problem, initial_point=start) for problem in (bare, cost.problem(manifold)))
    assert_allclose(matrix(a.point), matrix(b.point), atol=1e-6)


def test_derivatives_in_the_factors_without_a_hessian_are_refused(rng):
    cost, start = Entries(rng, 4, 3), oracles.factors(rng, 4, 3, [1.1, 0.4])
    manifold = of_metric(4, 3, 2, 3, rng)
    numpy = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy(lambda u, s, vt: cost.cost((u * s) @ vt)),
        euclidean_gradient=numpy(lambda u, s, vt: autodiff_triple((u, s, vt), cost.gradient((u * s) @ vt))),
    )
    with pytest.raises(ValueError, match="pass the Hessian as well"):
        GradientFlow().run(problem, initial_point=start)


def test_no_step_of_a_large_tolerance_may_raise_the_cost():
    # Relative to x = 1000 a step over many wells of the cosine is short.
    problem = of_x(Euclidean(1), lambda x: anp.cos(x[0]))
    result = GradientFlow(0.5, log_verbosity=1).run(problem, initial_point=np.array([1001.0]))
    assert np.all(np.diff(result.log["iterations"]["cost"]) <= 0)
    assert_allclose(result.cost, -1)


def test_the_path_between_two_steps_is_continuous(rng):
    _, problem, start = completion(rng)
    follower = Follower(problem, start, tolerance=0.05)
    for _ in range(5):
        follower.advance()
    pair = follower.last
    middle = pair.start + pair.size
    for t in (middle, pair.end):
        before, after = (matrix(pair(t + shift)) for shift in (-1e-9 * pair.size, 1e-9 * pair.size))
        assert_allclose(before, after, atol=1e-7)
    assert_allclose(matrix(pair(pair.end)), matrix(follower.point))
    assert np.abs(matrix(pair(middle)) - (matrix(pair(pair.start)) + matrix(pair(pair.end))) / 2).max() > 1e-4


@pytest.mark.parametrize("widths", [(3, 4, 3), (3, 3, 3, 3)])
def test_weights_are_as_far_apart_as_their_products(rng, widths):
    cost, (u, s, vt) = LowRankApproximation(rng.standard_normal((3, 3))), oracles.factors(rng, 3, 3, [1.2, 0.7, 0.3])
    above, below = Balanced(widths), FixedRank(3, 3, 3, depth=len(widths) - 1)
    lengths = []
    for manifold, point in ((above, dlngeo.balanced_weights((u * s) @ vt, widths, rng=0)), (below, (u, s, vt))):
        step = cost.problem(manifold).riemannian_gradient(point) * -1e-5  # of the weights it is horizontal
        lengths.append(displacement(manifold, manifold.retraction(point, step), point))
    assert_allclose(lengths[0], lengths[1], rtol=1e-4)


def test_a_step_cut_short_by_the_end_says_nothing_of_the_next(rng):
    _, problem, start = completion(rng)
    first = GradientFlow(flow_time=0.5).run(problem, initial_point=start)
    cut = GradientFlow(flow_time=0.5 + 1e-9).run(problem, resume=first)
    assert cut.step_size >= first.step_size
