"""Balanced against the null space of its equations, Taylor slopes, and the submersion onto FixedRank."""

import math
from itertools import pairwise

import geomstats.backend as gs
import numpy as np
import oracles
import pymanopt
import pytest
from fixed_ranks import library
from geomstats.geometry.general_linear import GeneralLinear
from pymanopt.optimizers import ConjugateGradient, SteepestDescent, TrustRegions
from scipy.linalg import null_space

from dlngeo import end_to_end, gradient_flow, imbalance
from dlngeo.errors import GeodesicError
from dlngeo.geomstats import BalancedMatrices, DLNMetric
from dlngeo.kernels import DepthKernel
from dlngeo.matrices.frame import Frame
from dlngeo.problems import MatrixCompletion, solve
from dlngeo.pymanopt import Balanced, FixedRank, check_gradient, check_hessian, check_retraction, pull_back
from dlngeo.weights.balanced import BalancedFrame
from dlngeo.weights.network import differential, layer_gradient, layer_hessian

# Widths and singular values of the product: generic, repeated ones, rank below the widths, deep, one layer.
CASES = {
    "square": ((3, 3, 3), (1.7, 0.9, 0.2)),
    "widths 3 5 2 4": ((3, 5, 2, 4), (1.4, 0.6)),
    "equal": ((3, 4, 3, 3), (0.8, 0.8, 0.8)),
    "low rank": ((4, 3, 5, 4), (1.1, 0.4)),
    "low rank, equal": ((4, 4, 4), (1.1, 1.1)),
    "deep": ((3,) * 7, (2.0, 0.6, 0.3)),
    "one layer": ((4, 3), (1.3, 0.7)),
    "one full layer": ((3, 3), (1.3, 0.7, 0.7)),
    "rank 1": ((3, 2, 4), (0.9,)),
}
QUICK = ("widths 3 5 2 4", "low rank, equal", "one layer", "rank 1")
over_few = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)


def setup(rng, widths, singular_values):
    manifold = Balanced(widths, len(singular_values), rng=rng)
    u, s, vt = oracles.factors(rng, widths[-1], widths[0], singular_values)
    return manifold, oracles.balanced_factors(rng, u, s, vt, widths[1:-1])


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, rng):
    return setup(rng, *request.param)


def flat(layers):
    return np.concatenate([np.ravel(layer) for layer in layers])


def shaped(manifold, vector):
    shapes = [(b, a) for a, b in pairwise(manifold.widths)]
    ends = np.cumsum([a * b for a, b in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]


def gaussian(rng, manifold):
    return [rng.standard_normal((b, a)) for a, b in pairwise(manifold.widths)]


def equations(manifold, point, vector):
    """Derivative along a vector of ``W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ`` and of the vanishing of all minors of size r + 1."""
    balance = [
        (b.T @ db + db.T @ b - a @ da.T - da @ a.T).ravel()
        for (a, b), (da, db) in zip(pairwise(point), pairwise(vector), strict=True)
    ]
    minors = []
    for w, dw in zip(point, vector, strict=True):
        u, _, vt = np.linalg.svd(w)
        minors.append((u[:, manifold.rank :].T @ dw @ vt[manifold.rank :].T).ravel())
    return np.concatenate([*balance, *minors])


def tangent_projector(manifold, point):
    """Orthogonal projector onto the null space of the equations, and its dimension."""
    columns = [equations(manifold, point, shaped(manifold, e)) for e in np.eye(flat(point).size)]
    size = len(columns)
    basis = null_space(np.reshape(np.stack(columns, axis=1), (-1, size)), rcond=1e-10) if columns[0].size else None
    return (np.eye(size), size) if basis is None else (basis @ basis.T, basis.shape[1])


class Loss:
    """A cost of every layer and of the product, with no symmetry: its gradient is neither tangent nor horizontal."""

    def __init__(self, rng, manifold):
        self.below = [oracles.Cost(rng, b, a) for a, b in pairwise(manifold.widths)]
        self.above = oracles.Cost(rng, manifold.widths[-1], manifold.widths[0])

    def __call__(self, w):
        return self.above(end_to_end(w)) + sum(cost(layer) for cost, layer in zip(self.below, w, strict=True))

    def gradient(self, w):
        layers = layer_gradient(self.above.gradient(end_to_end(w)), w)
        return [a + cost.gradient(layer) for a, cost, layer in zip(layers, self.below, w, strict=True)]

    def hessian(self, w, v):
        x, v = end_to_end(w), list(v)
        layers = layer_hessian(self.above.gradient(x), self.above.hessian(x, differential(v, w)), v, w)
        return [a + cost.hessian(b, c) for a, cost, b, c in zip(layers, self.below, w, v, strict=True)]


def riemannian(manifold, loss, point):
    """Riemannian gradient, and the Hessian as a function of a tangent vector."""
    euclidean = loss.gradient(point)
    for layer in euclidean:
        layer.flags.writeable = False

    def hessian(vector):
        return manifold.euclidean_to_riemannian_hessian(point, euclidean, loss.hessian(point, vector), vector)

    return manifold.euclidean_to_riemannian_gradient(point, euclidean), hessian


# The tangent space.


def test_projection_is_that_onto_the_null_space_of_the_equations(case, rng):
    manifold, point = case
    projector, dimension = tangent_projector(manifold, point)
    assert manifold.dim == dimension
    for v in (gaussian(rng, manifold) for _ in range(2)):
        want = projector @ flat(v)
        np.testing.assert_allclose(flat(manifold.projection(point, v)), want, atol=1e-11)
        np.testing.assert_allclose(flat(manifold.to_tangent_space(point, tuple(v))), want, atol=1e-11)
        np.testing.assert_allclose(flat(manifold.euclidean_to_riemannian_gradient(point, v)), want, atol=1e-11)
        there = manifold.random_point()
        moved = manifold.transport(point, there, manifold.projection(point, v))
        np.testing.assert_allclose(flat(moved), tangent_projector(manifold, there)[0] @ want, atol=1e-9)


def test_random_points_and_vectors_lie_where_they_should_and_repeat(case):
    manifold, _ = case
    point = manifold.random_point(5)
    assert type(point) is list
    assert [w.shape for w in point] == [(b, a) for a, b in pairwise(manifold.widths)]
    assert all(np.abs(g).max() < 1e-13 for g in imbalance(point))
    assert np.linalg.matrix_rank(end_to_end(point)) == manifold.rank
    np.testing.assert_array_equal(flat(point), flat(manifold.random_point(np.random.default_rng(5))))
    one, two = (Balanced(manifold.widths, manifold.rank, rng=3) for _ in range(2))
    np.testing.assert_array_equal(flat(one.random_point()), flat(two.random_point()))
    v = one.random_tangent_vector(point)
    np.testing.assert_array_equal(flat(v), flat(two.random_tangent_vector(point)))
    assert one.norm(point, v) == pytest.approx(1)
    np.testing.assert_allclose(flat(one.projection(point, v)), flat(v), atol=1e-12)


def test_random_points_have_products_of_uniform_singular_values():
    manifold = Balanced((3, 5, 2), rng=0)
    products = [end_to_end(manifold.random_point()) for _ in range(2000)]
    s = np.linalg.svd(products, compute_uv=False)
    assert abs(np.mean(s) - 1 / 2) < 4 * math.sqrt(1 / 12 / s.size)
    assert abs(np.mean(s**2) - 1 / 3) < 4 * math.sqrt(4 / 45 / s.size)
    # The column space is uniform: so are the squared entries of a product with a fixed vector, relative to its length.
    direction = np.array([w @ np.ones(3) for w in products])
    part = direction[:, 0] ** 2 / np.sum(direction**2, axis=1)
    assert abs(np.mean(part) - 1 / 2) < 4 * math.sqrt(1 / 8 / len(part))


def test_tangent_vectors_have_arithmetic_and_keep_what_they_came_from(case):
    manifold, point = case
    a, b = (manifold.random_tangent_vector(point) for _ in range(2))
    before = flat(a)
    for scalar in (2.0, np.float64(2), np.array(2.0)):
        for got in (scalar * a - b / scalar + -a, a * scalar - b / scalar + (-a)):
            assert type(got) is type(a)
            np.testing.assert_allclose(flat(got), flat(a) - flat(b) / 2, atol=1e-15)
    accumulated = a
    accumulated += b
    accumulated *= 2
    np.testing.assert_allclose(flat(accumulated), 2 * flat(a) + 2 * flat(b), atol=1e-15)
    np.testing.assert_array_equal(flat(a), before)
    zero = manifold.zero_vector(point)
    np.testing.assert_array_equal(flat(a + zero), flat(a))
    assert manifold.inner_product(point, a, b) == pytest.approx(flat(a) @ flat(b), abs=1e-15)
    np.testing.assert_array_equal(flat(manifold.embedding(point, a)), flat(a))
    np.testing.assert_allclose(flat(manifold.retraction(point, zero)), flat(point), atol=1e-14)


def test_points_written_into_are_seen(rng):
    manifold, point = setup(rng, (3, 3, 3), (1.7, 0.9, 0.2))
    v = gaussian(rng, manifold)
    first = flat(manifold.projection(point, v))
    for w, new in zip(point, manifold.random_point(), strict=True):
        w[...] = new
    fresh = Balanced((3, 3, 3)).projection([w.copy() for w in point], v)
    np.testing.assert_array_equal(flat(manifold.projection(point, v)), flat(fresh))
    assert np.abs(flat(fresh) - first).max() > 0.1


# Geodesics and the retraction.


def test_exp_stays_on_the_manifold_and_accelerates_normally_to_it(case):
    manifold, point = case
    v = 0.3 * manifold.random_tangent_vector(point)

    def along(t):
        return flat(manifold.exp(point, t * v))

    velocity = oracles.derivative(along, step=0.1, levels=4)
    np.testing.assert_allclose(velocity, flat(v), atol=1e-8)
    there = manifold.exp(point, v)
    assert all(np.abs(g).max() < 1e-13 for g in imbalance(there))
    projector, dimension = tangent_projector(manifold, there)
    assert dimension == manifold.dim
    acceleration = oracles.second_derivative(lambda h: along(1 + h), step=0.2, levels=4)
    np.testing.assert_allclose(projector @ acceleration, 0, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_exp_of_a_horizontal_vector_lies_over_the_geodesic_below(name, rng):
    manifold, point = setup(rng, *CASES[name])
    below = FixedRank(manifold.widths[-1], manifold.widths[0], manifold.rank, manifold.depth)
    horizontal = manifold.projection(point, layer_gradient(rng.standard_normal(end_to_end(point).shape), point))
    horizontal = 0.3 / manifold.norm(point, horizontal) * horizontal
    u, s, vt = np.linalg.svd(end_to_end(point), full_matrices=False)
    r = manifold.rank
    start = (u[:, :r], s[:r], vt[:r])
    end = below.exp(start, below.projection(start, differential(list(horizontal), point)))
    np.testing.assert_allclose(end_to_end(manifold.exp(point, horizontal)), oracles.dense(*end), atol=1e-9)


@over_few
def test_log_inverts_exp_and_dist_is_a_distance(name, rng):
    manifold, point = setup(rng, *CASES[name])
    size = 0.5 * min(np.linalg.svd(point[0])[1][: manifold.rank])
    v = size * manifold.random_tangent_vector(point)
    end = manifold.exp(point, v)
    log = manifold.log(point, end)
    np.testing.assert_allclose(flat(log), flat(v), atol=2e-9)
    assert type(log) is type(v)
    assert manifold.dist(point, end) == pytest.approx(size, rel=1e-9)
    assert manifold.dist(end, point) == pytest.approx(size, rel=1e-9)
    assert manifold.dist(point, point) < 1e-14
    middle = manifold.pair_mean(point, end)
    assert type(middle) is list
    np.testing.assert_allclose(flat(middle), flat(manifold.exp(point, v / 2)), atol=2e-9)


# Connected manifolds: as some width exceeds the rank at either end, or inside every pair of layers.
@pytest.mark.parametrize(
    ("widths", "rank"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in (((3, 5, 2, 4), 2), ((20, 30, 15), 1))), ((4, 3), 2)],
)
def test_geodesics_between_far_points_arrive_and_are_no_chords(widths, rank, rng):
    manifold = Balanced(widths, rank, rng=rng)
    a, b = manifold.random_point(), manifold.random_point()
    v, distance = manifold.log(a, b), manifold.dist(a, b)
    assert distance == pytest.approx(np.linalg.norm(flat(v)), rel=1e-12)
    corners = [a, *(manifold.exp(a, t * v) for t in np.arange(1, 9) / 8)]
    np.testing.assert_allclose(flat(corners[-1]), flat(b), atol=1e-8)
    sides = [np.linalg.norm(flat(p) - flat(q)) for p, q in pairwise(corners)]
    assert np.linalg.norm(flat(a) - flat(b)) < sum(sides) < distance < 1.05 * sum(sides)


def test_geodesics_are_those_of_geomstats_and_of_rank_1(rng):
    space, manifold = BalancedMatrices(3, 3), Balanced((3, 3, 3, 3), rng=rng)
    a = manifold.random_point()
    b = manifold.exp(a, 0.4 * manifold.random_tangent_vector(a))
    log = gs.to_numpy(space.metric.log(gs.from_numpy(np.stack(b)), gs.from_numpy(np.stack(a))))
    np.testing.assert_allclose(np.stack(manifold.log(a, b)), log, atol=1e-9)
    # Balanced weights of rank 1 and widths (m, 1, n) are the pairs of vectors of one length: a cone, which is flat in
    # its length and otherwise a product of spheres, so that turning u by α and v by β spans an angle of √((α² + β²)/2).
    manifold, angles, lengths = Balanced((3, 1, 4)), (0.7, 0.4), (1.3, 0.8)
    ends = []
    for length, (alpha, beta) in zip(lengths, [(0.0, 0.0), angles], strict=True):
        row, column = np.zeros((1, 3)), np.zeros((4, 1))
        row[0, :2], column[:2, 0] = [np.cos(alpha), np.sin(alpha)], [np.cos(beta), np.sin(beta)]
        ends.append([length * row, length * column])
    angle = np.hypot(*angles) / math.sqrt(2)
    want = math.sqrt(2 * (lengths[0] ** 2 + lengths[1] ** 2 - 2 * lengths[0] * lengths[1] * np.cos(angle)))
    assert manifold.dist(*ends) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("widths", [(2, 2, 2), (2, 3, 2)], ids=str)
def test_points_of_different_components_have_no_geodesic(widths, rng):
    manifold, point = setup(rng, widths, (1.3, 0.6))
    other = [point[0] @ np.diag([1.0, -1.0]), point[1]]
    layers = "layer 1 " if widths[1] == 2 else "the product of layers 1 to 2 "
    with pytest.raises(GeodesicError, match=f"the determinants of {layers}.* opposite signs") as caught:
        manifold.dist(point, other)
    assert caught.value.status == "disconnected"


@pytest.mark.parametrize("widths", [(3, 4, 3), (3, 3)], ids=str)  # the second is flat, where nothing slows the solver
def test_a_geodesic_that_meets_a_lower_rank_is_an_error(widths, rng):
    manifold, point = setup(rng, widths, (1.7, 0.9, 0.2))
    frame = BalancedFrame(point)
    reach = 0.2 ** (1 / manifold.depth)
    shrinking = [reach * q @ np.diag([0, 0, -1.0]) @ p.T for p, q in pairwise(frame.q)]  # takes the smallest λ to zero
    manifold.exp(point, [0.99 * a for a in shrinking])
    with pytest.raises(GeodesicError, match=r"singular matrix just after time 0\.909"):
        manifold.exp(point, [1.1 * a for a in shrinking])


def test_retraction_is_of_second_order(case):
    manifold, point = case
    v = manifold.random_tangent_vector(point)
    steps = 0.2 * min(np.linalg.svd(point[0])[1][: manifold.rank]) * np.array([1, 1 / 2, 1 / 4, 1 / 8])
    errors = [np.linalg.norm(flat(manifold.retraction(point, t * v)) - flat(manifold.exp(point, t * v))) for t in steps]
    if manifold.rank == manifold.widths[0] == manifold.widths[-1] and manifold.depth == 1:
        np.testing.assert_allclose(errors, 0, atol=1e-13)  # an open set of a flat space
    else:
        assert errors[-1] > 1e-10
        assert np.log2(errors[-2] / errors[-1]) > 2.9
    there = manifold.retraction(point, v)
    assert type(there) is list
    assert all(np.abs(g).max() < 1e-12 for g in imbalance(there))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("widths", [(3, 5, 2, 4), (4, 3, 4), (3,) * 65, (4, 3)], ids=lambda w: f"depth {len(w) - 1}")
def test_long_steps_are_finite_and_not_thrown_off(widths, rng):
    manifold = Balanced(widths, rng=rng)
    point = [0.1 * w for w in manifold.random_point()]
    v = manifold.random_tangent_vector(point)
    target = rng.standard_normal((widths[-1], widths[0]))
    problem = pull_back(manifold, lambda x: 0.5 * np.sum((x - target) ** 2), lambda x: x - target)
    for exponent in (0, 1, 3, 10, 60, 80, 153.9, 300):
        step = 10.0**exponent * v
        moved = manifold.retraction(point, step)
        assert all(np.isfinite(w).all() for w in moved)
        assert np.isfinite(end_to_end(moved)).all()
        assert not math.isnan(problem.cost(moved))
        if exponent <= 3 and len(widths) < 60:
            length = np.linalg.norm(flat(moved) - flat(point))
            assert 0.3 < length / 10.0**exponent < 1.6
    assert problem.cost(moved) == math.inf
    undefined = pull_back(manifold, lambda x: math.nan, lambda x: x)
    assert undefined.cost(point) == math.inf


# Derivatives.


def test_gradient_represents_the_derivative(case, rng):
    manifold, point = case
    loss = Loss(rng, manifold)
    gradient, _ = riemannian(manifold, loss, point)
    v = manifold.random_tangent_vector(point)
    scale = 0.1 * min(np.linalg.svd(point[0])[1][: manifold.rank])
    slope = oracles.derivative(lambda t: loss(manifold.retraction(point, scale * t * v)), step=1.0) / scale
    assert manifold.inner_product(point, gradient, v) == pytest.approx(slope, rel=1e-7, abs=1e-8)


def test_hessian_is_self_adjoint_and_tangent(case, rng):
    manifold, point = case
    _, hessian = riemannian(manifold, Loss(rng, manifold), point)
    a, b = (manifold.random_tangent_vector(point) for _ in range(2))
    of_a, of_b = hessian(a), hessian(b)
    size = np.linalg.norm(flat(of_a)) + np.linalg.norm(flat(of_b))
    assert abs(flat(of_a) @ flat(b) - flat(a) @ flat(of_b)) < 1e-13 * size
    np.testing.assert_allclose(tangent_projector(manifold, point)[0] @ flat(of_a), flat(of_a), atol=1e-11 * size)


def test_cost_along_the_retraction_has_the_taylor_orders(case, rng):
    manifold, point = case
    loss = Loss(rng, manifold)
    gradient, hessian = riemannian(manifold, loss, point)
    v = manifold.random_tangent_vector(point)
    slope, curvature = flat(gradient) @ flat(v), flat(hessian(v)) @ flat(v)
    scale = 0.2 * min(np.linalg.svd(point[0])[1][: manifold.rank])

    def along(t):
        return loss(manifold.retraction(point, t * v))

    steps = scale * np.array([1, 1 / 2, 1 / 4, 1 / 8])
    linear = np.array([along(t) - loss(point) - t * slope for t in steps])
    quadratic = np.abs(linear - steps**2 * curvature / 2)
    np.testing.assert_allclose(np.log2(np.abs(linear[-2] / linear[-1])), 2, atol=0.2)
    visible = quadratic[1:] > 1e-13 * abs(loss(point))
    assert visible[0]
    assert np.log2(quadratic[:-1] / quadratic[1:])[visible][-1] > 2.8
    # The slope would not see an error of a thousandth.
    second = oracles.second_derivative(lambda t: along(t * scale), step=1.0) / scale**2
    assert curvature == pytest.approx(second, rel=1e-6, abs=1e-6 * manifold.norm(point, hessian(v)))


# The submersion.


def test_a_cost_of_the_product_has_the_gradient_and_hessian_of_fixed_rank(case, rng):
    manifold, point = case
    x = end_to_end(point)
    cost = oracles.Cost(rng, *x.shape)
    problem = pull_back(manifold, cost, cost.gradient, cost.hessian)
    gradient = problem.riemannian_gradient(point)
    frame, below = BalancedFrame(point, manifold.rank), Frame.at(x, DepthKernel(manifold.depth), manifold.rank)
    np.testing.assert_allclose(flat(frame.horizontal(list(gradient))), flat(gradient), atol=1e-11)
    np.testing.assert_allclose(differential(list(gradient), point), below.cometric(cost.gradient(x)), atol=1e-11)
    # In a Riemannian submersion the Hessian on horizontal vectors is that below.
    y, z = (below.project(rng.standard_normal(x.shape)) for _ in range(2))
    upstairs = flat(problem.riemannian_hessian(point, tuple(frame.lift(z)))) @ flat(frame.lift(y))
    downstairs = below.inner(below.hessian(z, cost.gradient(x), cost.hessian(x, z)), y)
    assert upstairs == pytest.approx(downstairs, rel=1e-9)


def test_short_steps_of_steepest_descent_follow_the_gradient_flow(rng):
    manifold, point = setup(rng, (3, 5, 3, 3), (1.4, 0.9, 0.4))
    x = end_to_end(point)
    target = x + 0.5 * rng.standard_normal(x.shape)
    problem = pull_back(manifold, lambda x: 0.5 * np.sum((x - target) ** 2), lambda x: x - target)
    space = GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=3)
    exact = gradient_flow(space, lambda x: x - target, x, 0.4).points[-1]
    errors = []
    for count in (40, 80, 160):
        w = point
        for _ in range(count):
            w = manifold.retraction(w, -0.4 / count * problem.riemannian_gradient(w))
        errors.append(np.linalg.norm(end_to_end(w) - exact))
    assert np.linalg.norm(exact - x) > 0.3
    assert errors[-1] < 2e-2
    np.testing.assert_allclose(np.log2(errors[-2] / errors[-1]), 1, atol=0.1)


# Training.


def regression(rng, widths, rank):
    """Least squares for a product of lower rank than the hidden widths, from noisy data."""
    truth = oracles.dense(*oracles.factors(rng, widths[-1], widths[0], np.geomspace(2, 0.5, rank)))
    inputs = rng.standard_normal((widths[0], 40))
    outputs = truth @ inputs + 0.3 * rng.standard_normal((widths[-1], 40))

    def gradient(x):
        return (x @ inputs - outputs) @ inputs.T / 40

    return lambda x: np.sum((x @ inputs - outputs) ** 2) / 80, gradient, lambda x, z: z @ inputs @ inputs.T / 40


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient, TrustRegions], ids=lambda o: o.__name__)
@pytest.mark.parametrize(("widths", "rank"), [((5, 8, 8, 6), 2), ((4, 3, 5), None), ((5, 4), 2)], ids=str)
def test_the_solvers_train_networks_to_the_best_product_of_their_rank(optimizer, widths, rank, rng):
    manifold = Balanced(widths, rank, rng=rng)
    functions = regression(rng, widths, manifold.rank)
    limits = {"max_iterations": 500, "min_gradient_norm": 1e-7, "verbosity": 0}
    solution = solve(pull_back(manifold, *functions), optimizer(**limits))
    below = FixedRank(widths[-1], widths[0], manifold.rank, 1, rng=rng)
    dense = [
        pymanopt.function.numpy(below)(f)
        for f in (lambda *p: functions[0](oracles.dense(*p)), lambda *p: functions[1](oracles.dense(*p)))
    ]
    best = ConjugateGradient(**limits).run(pymanopt.Problem(below, dense[0], euclidean_gradient=dense[1]))
    assert solution.history[-1].cost == pytest.approx(best.cost, rel=1e-9)
    costs = [record.cost for record in solution.history]
    assert all(b <= a for a, b in pairwise(costs))
    assert all(np.abs(g).max() < 1e-12 for g in imbalance(solution.point))


def test_trust_regions_converge_quadratically_though_the_hessian_is_singular_along_the_orbits(rng):
    manifold = Balanced((5, 8, 8, 6), 2, rng=rng)
    problem = pull_back(manifold, *regression(rng, manifold.widths, 2))
    solution = solve(problem, TrustRegions(verbosity=0, max_iterations=60, min_gradient_norm=1e-10))
    gradients = np.array([record.gradient_norm for record in solution.history])
    assert solution.status == "converged"
    late = gradients[(gradients < 1e-1) & (gradients > 1e-9)]
    assert late.size >= 2
    assert gradients[-1] < 1e-10
    # Once close, each step squares the gradient, but for a constant.
    close = np.flatnonzero(gradients < 1e-2)[0]
    for before, after in pairwise(gradients[close:]):
        assert after < max(10 * before**2, 1e-13)
    basis = np.eye(flat(solution.point).size)
    columns = [
        flat(problem.riemannian_hessian(solution.point, manifold.projection(solution.point, shaped(manifold, e))))
        for e in basis
    ]
    values = np.sort(np.linalg.eigvalsh(np.stack(columns)))[::-1]
    below = (6 + 5 - 2) * 2  # dimension of the matrices of rank 2: the rest of the directions are gauge, or normal
    assert values[below - 1] > 1e-3
    np.testing.assert_allclose(values[below:], 0, atol=1e-9)


def test_matrix_completion_runs_upstairs_at_every_depth(rng):
    truth = oracles.dense(*oracles.factors(rng, 12, 10, (3.0, 2.0)))
    completion = MatrixCompletion.from_matrix(truth, rng.random(truth.shape) < 0.7)
    for widths in ((10, 12), (10, 6, 12), (10, 6, 6, 12)):  # three layers are not a triple (u, s, vt)
        manifold = Balanced(widths, 2, rng=1)
        result = TrustRegions(verbosity=0, max_iterations=100).run(completion.problem(manifold))
        np.testing.assert_allclose(end_to_end(result.point), truth, atol=1e-6)


# Autodiff.


@pytest.mark.parametrize("backend", ["autograd", "torch", "jax"])
@pytest.mark.parametrize("name", ["low rank, equal", "one layer"])
def test_autodiff_costs_have_the_derivatives_of_given_ones_and_train(backend, name, rng):
    sin, total, array, differentiated = library(backend)
    manifold, point = setup(rng, *CASES[name])
    target = rng.standard_normal((manifold.widths[-1], manifold.widths[0]))

    @differentiated(manifold)
    def cost(*weights):
        return total(sin(oracles.multiply(weights)) * array(target)) + total(weights[0] ** 2)

    problem = pymanopt.Problem(manifold, cost)
    x = end_to_end(point)
    v = manifold.random_tangent_vector(point)
    gradient = layer_gradient(np.cos(x) * target, point)
    hessian = layer_hessian(np.cos(x) * target, -np.sin(x) * target * differential(list(v), point), list(v), point)
    gradient[0], hessian[0] = gradient[0] + 2 * point[0], hessian[0] + 2 * v[0]
    want = manifold.euclidean_to_riemannian_gradient(point, gradient)
    np.testing.assert_allclose(flat(problem.riemannian_gradient(point)), flat(want), atol=1e-12)
    want = manifold.euclidean_to_riemannian_hessian(point, gradient, hessian, v)
    np.testing.assert_allclose(flat(problem.riemannian_hessian(point, v)), flat(want), atol=1e-12)
    for optimizer in (SteepestDescent, ConjugateGradient, TrustRegions):
        result = optimizer(verbosity=0, max_iterations=4).run(problem, initial_point=point)
        assert result.cost < problem.cost(point) - 1e-3


def test_typical_distance_is_the_norm_of_typical_weights(rng):
    manifold = Balanced((5, 7, 6, 4), 2, scale=0.3)
    factors = oracles.factors(rng, 4, 5, [1.0, 1.0])
    u, s, vt = factors
    s = 0.3 * math.sqrt(20) / np.linalg.norm(oracles.dense(*factors)) * s  # entries of root mean square 0.3
    weights = oracles.balanced_factors(rng, u, s, vt, (7, 6))
    assert manifold.typical_dist == pytest.approx(np.linalg.norm(flat(weights)) / 8)


@pytest.mark.parametrize("name", [pytest.param("equal", marks=pytest.mark.slow), "low rank"])
def test_the_checks_of_derivatives_and_retraction_pass(name, rng):
    manifold, point = setup(rng, *CASES[name])
    depth, loss, numpy_backend = manifold.depth, Loss(rng, manifold), pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        numpy_backend(lambda *w: loss(w)),
        euclidean_gradient=numpy_backend(lambda *w: loss.gradient(w)),
        euclidean_hessian=numpy_backend(lambda *a: loss.hessian(a[:depth], a[depth:])),
    )
    for found in (check_gradient(problem, point), check_hessian(problem, point), check_retraction(manifold, point)):
        assert found, str(found)


# Refusals.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((3,),), ValueError, "too few"),
        (((3, 0, 2),), ValueError, "at least 1"),
        (((3, 2.5),), TypeError, "integer"),
        (((3, 4, 2), 3), ValueError, "rank 3 exceeds"),
        (((3, 4, 2), 0), ValueError, "at least 1"),
    ],
    ids=str,
)
def test_impossible_manifolds_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Balanced(*arguments)


def test_what_is_no_point_or_vector_is_refused_with_a_remedy(rng):
    manifold, point = setup(rng, (3, 5, 2, 4), (1.4, 0.6))
    v = manifold.random_tangent_vector(point)
    with pytest.raises(ValueError, match=r"not balanced of rank 2.*rebalance"):
        manifold.projection(gaussian(rng, manifold), v)
    with pytest.raises(ValueError, match="not balanced of rank 1"):
        Balanced((3, 5, 2, 4), 1).projection(point, v)
    with pytest.raises(ValueError, match="rank below 2"):
        manifold.projection([0 * w for w in point], v)
    with pytest.raises(ValueError, match=r"the point has layers of shapes .* first layer first"):
        manifold.projection(point[::-1], v)
    with pytest.raises(ValueError, match="the vector has layers of shapes"):
        manifold.projection(point, v[:2])
    with pytest.raises(ValueError, match="the tangent vector holds NaN"):
        manifold.retraction(point, v * np.nan)
    with pytest.raises(ValueError, match="the point holds NaN"):
        manifold.projection([w * np.nan for w in point], v)
    with pytest.raises(ValueError, match=r"not balanced of rank 2.*rebalance"):
        manifold.dist(point, gaussian(rng, manifold))
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="scale must be positive"):
            Balanced((3, 2), scale=bad)
    with pytest.raises(TypeError, match="FixedRank"):
        pull_back(FixedRank(3, 2, 1), np.sum, np.ones_like)
