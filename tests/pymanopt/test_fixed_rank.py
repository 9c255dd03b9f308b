"""FixedRank against dense definitions, Taylor slopes, and pymanopt's own manifold at depth 1."""

import math

import autograd.numpy as anp
import numpy as np
import oracles
import pymanopt
import pytest
import scipy.sparse
from fixed_ranks import Quadratic, assert_close, autodiff_triple, matrix, matrix_forms, of_metric, setup
from hypothesis import given
from hypothesis import strategies as st
from pymanopt.manifolds import Euclidean, FixedRankEmbedded, Product
from pymanopt.optimizers import ConjugateGradient, SteepestDescent
from pymanopt.optimizers.line_search import BackTrackingLineSearcher
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from dlngeo import DepthKernel, InfiniteDepthKernel
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

# m, n and singular values: generic, one side full, m < 2r with a repeated value, square, ill conditioned, rank 1.
SHAPES = [
    (7, 5, (1.9, 0.7, 0.3)),
    (3, 5, (1.0, 1.0, 0.2)),
    (5, 4, (1.5, 1.5, 0.6)),
    (3, 3, (2.0, 1.0, 0.5)),
    (8, 6, (0.1, 1.0, 1e-3)),
    (4, 1, (0.7,)),
]
DEPTHS = [1, 1.5, 2, 3.5, 8, math.inf]
CASES = [(shape, d) for shape in SHAPES for d in DEPTHS if math.isfinite(d) or shape[0] == shape[1] == len(shape[2])]
over_cases = pytest.mark.parametrize(("shape", "depth"), CASES, ids=str)


def assert_tangent(point, tangent):
    u, _, vt = point
    size = max(np.linalg.norm(a) for a in tangent)
    np.testing.assert_allclose(u.T @ tangent.Up, 0, atol=1e-13 * size)
    np.testing.assert_allclose(vt @ tangent.Vp, 0, atol=1e-13 * size)


# The metric and the gradient.


@over_cases
def test_gradient_is_the_cometric_of_the_definition(shape, depth, rng):
    manifold, point = setup(rng, shape, depth)
    x, e = oracles.dense(*point), rng.standard_normal(shape[:2])
    gradient = manifold.euclidean_to_riemannian_gradient(point, e)
    if depth == 1:
        expected = oracles.project(point[0], point[2], e)
    elif float(depth).is_integer():
        expected = oracles.literal_cometric(x, e, int(depth), len(shape[2]))
    else:
        expected = oracles.schur_cometric(x, e, oracles.naive(depth), len(shape[2]))
    # The square root of XXᵀ loses half the digits of the smallest singular values.
    np.testing.assert_allclose(matrix(point, gradient), expected, atol=1e-8 * np.linalg.norm(expected))
    assert_tangent(point, gradient)


@over_cases
def test_gradient_represents_the_derivative_in_the_metric(shape, depth, rng):
    manifold, point = setup(rng, shape, depth)
    e = rng.standard_normal(shape[:2])
    gradient = manifold.euclidean_to_riemannian_gradient(point, e)
    for _ in range(3):
        direction = manifold.random_tangent_vector(point)
        pairing = np.sum(e * matrix(point, direction))
        assert manifold.inner_product(point, gradient, direction) == pytest.approx(pairing, rel=1e-10, abs=1e-12)
    # On the gradient both are ⟨E′, A E′⟩ > 0.
    assert manifold.norm(point, gradient) ** 2 == pytest.approx(np.sum(e * matrix(point, gradient)), rel=1e-10)


@over_cases
def test_cost_along_the_retraction_has_the_taylor_order(shape, depth, rng):
    manifold, point = setup(rng, shape, depth)
    cost = oracles.Cost(rng, *shape[:2])
    x = oracles.dense(*point)
    gradient = manifold.euclidean_to_riemannian_gradient(point, cost.gradient(x))
    direction = manifold.random_tangent_vector(point)
    slope = manifold.inner_product(point, gradient, direction)
    scale = 0.05 * np.min(point[1] / np.sqrt(np.diagonal(manifold.kernel(point[1][:, None], point[1]))))
    steps = scale * np.array([1, 1 / 2, 1 / 4, 1 / 8])
    remainders = [
        abs(cost(oracles.dense(*manifold.retraction(point, t * direction))) - cost(x) - t * slope) for t in steps
    ]
    assert remainders[-1] > 1e-12 * abs(cost(x))
    orders = np.log2(np.array(remainders[:-1]) / remainders[1:])
    np.testing.assert_allclose(orders[-1], 2, atol=0.1)


def test_depth_one_is_the_frobenius_metric_of_fixed_rank_embedded(rng):
    manifold, point = setup(rng, SHAPES[0], 1)
    peer = FixedRankEmbedded(7, 5, 3)
    a, b = (manifold.random_tangent_vector(point) for _ in range(2))
    assert manifold.inner_product(point, a, b) == pytest.approx(peer.inner_product(point, a, b), rel=1e-14)
    assert manifold.dim == peer.dim


def test_metric_is_that_of_the_arrays_as_they_are_now(rng):
    manifold, (u, s, vt) = setup(rng, SHAPES[0], 3)
    tangent = manifold.random_tangent_vector((u, s, vt))
    assert manifold.norm((u, s, vt), tangent) == pytest.approx(1)
    s *= 2  # in place: a memo on identity alone would not see it
    fresh = FixedRank(7, 5, 3, 3)
    assert manifold.norm((u, s, vt), tangent) == fresh.norm((u, s, vt), tangent) != pytest.approx(1)


def test_kernel_is_evaluated_once_for_many_operations_at_a_point(rng):
    class Counting(Quadratic):
        calls = 0

        def __call__(self, s, t):
            Counting.calls += 1
            return super().__call__(s, t)

        divided_difference = Quadratic.divided_difference

    manifold = FixedRank(7, 5, 3, kernel=Counting(), rng=rng)
    point = manifold.random_point()
    tangent = manifold.random_tangent_vector(point)
    before = Counting.calls
    for _ in range(5):
        manifold.inner_product(point, tangent, tangent)
        manifold.retraction(point, tangent)
    assert Counting.calls == before


# Ambient forms.


@pytest.mark.parametrize("form", matrix_forms(np.eye(2)))
@over_cases
def test_every_form_of_a_matrix_gives_the_dense_gradient(shape, depth, form, rng):
    manifold, point = setup(rng, shape, depth)
    e = rng.standard_normal(shape[:2])
    vector = matrix_forms(e)[form]
    for method in (manifold.projection, manifold.euclidean_to_riemannian_gradient):
        expected = method(point, e)
        assert_close(method(point, vector), expected, atol=1e-12)
    np.testing.assert_allclose(
        matrix(point, manifold.projection(point, vector)), oracles.project(point[0], point[2], e), atol=1e-12
    )


@over_cases
def test_autodiff_triple_gives_the_dense_gradient_without_being_written_to(shape, depth, rng):
    manifold, point = setup(rng, shape, depth)
    e = rng.standard_normal(shape[:2])
    triple = autodiff_triple(point, e)
    for a in triple:
        a.flags.writeable = False
    for sequence in (tuple(triple), list(triple)):
        got = manifold.euclidean_to_riemannian_gradient(point, sequence)
        want = manifold.euclidean_to_riemannian_gradient(point, e)
        assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_single_precision_autodiff_is_accepted(rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    e = rng.standard_normal((7, 5))
    triple = [a.astype(np.float32) for a in autodiff_triple(point, e)]
    got = manifold.euclidean_to_riemannian_gradient(point, triple)
    np.testing.assert_allclose(
        got.M, manifold.euclidean_to_riemannian_gradient(point, e).M, atol=1e-5 * np.linalg.norm(e)
    )


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_a_cost_of_the_signs_of_the_factors_is_found_out(which, size, rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    triple = list(autodiff_triple(point, rng.standard_normal((7, 5))))
    triple[which] = triple[which] + size  # the gradient of the sum of the entries
    with pytest.raises(ValueError, match=r"depends on more than .*\(u \* s\) @ vt"):
        manifold.euclidean_to_riemannian_gradient(point, triple)


def test_roundoff_of_a_vanishing_gradient_is_no_contradiction(rng):
    """Near a minimum with large residual the autodiff triple is all roundoff, and must not be rejected."""
    manifold, point = setup(rng, SHAPES[0], 2)
    e = rng.standard_normal((7, 5))
    manifold.euclidean_to_riemannian_gradient(point, autodiff_triple(point, e))
    noise = [1e-14 * rng.standard_normal(a.shape) for a in point]
    manifold.euclidean_to_riemannian_gradient(point, noise)
    with pytest.raises(ValueError, match="contradict"):  # but not a gradient of the same shape that counts
        manifold.euclidean_to_riemannian_gradient(point, [1e10 * a for a in noise])


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        (np.zeros((5, 7)), ValueError, r"shape \(5, 7\)"),
        (np.zeros(35), ValueError, r"shape \(35,\)"),
        (scipy.sparse.csr_array((7, 4)), ValueError, r"shape \(7, 4\)"),
        (aslinearoperator(np.zeros((5, 7))), ValueError, r"shape \(5, 7\)"),
        (LinearOperator((7, 5), matvec=lambda x: np.zeros(7), dtype=float), ValueError, "rmatvec"),
        ((np.zeros((7, 2)), np.zeros((5, 2))), ValueError, r"pair \(7×k, k×5\)"),
        ((np.zeros((7, 2)), np.zeros((3, 5))), ValueError, "pair"),
        ((np.zeros((7, 2)), np.zeros((2, 3)), np.zeros((3, 5))), ValueError, "triple"),
        ((np.zeros((7, 2)),) * 4, ValueError, "pair"),
        ((np.zeros((7, 3)), np.zeros(3), np.zeros((5, 3))), ValueError, "with respect to u, s and vt"),
        ((np.zeros((7, 2)), np.zeros(2), np.zeros((2, 5))), ValueError, "with respect to u, s and vt"),
        ("gradient", TypeError, "str"),
        (None, TypeError, "NoneType"),
    ],
    ids=lambda v: None if isinstance(v, type) else str(v)[:20],
)
def test_other_gradients_are_refused_with_a_remedy(vector, error, message, rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    with pytest.raises(error, match=message):
        manifold.euclidean_to_riemannian_gradient(point, vector)


# Tangent vectors.


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_transport_is_the_dense_projection(m, n, seed):
    rng = np.random.default_rng(seed)
    manifold = FixedRank(m, n, int(rng.integers(1, min(m, n) + 1)), 3, rng=rng)
    a, b = manifold.random_point(), manifold.random_point()
    tangent = manifold.projection(a, rng.standard_normal((m, n)))
    moved = manifold.transport(a, b, tangent)
    np.testing.assert_allclose(matrix(b, moved), oracles.project(b.u, b.vt, matrix(a, tangent)), atol=1e-12)
    assert_tangent(b, moved)
    assert_close(manifold.transport(a, a, tangent), tangent, atol=1e-12)


@over_cases
def test_embedding_is_the_velocity_of_the_factors(shape, depth, rng):
    manifold, point = setup(rng, shape, depth)
    tangent = manifold.random_tangent_vector(point)
    velocity = manifold.embedding(point, tangent)
    (u, s, vt), (du, ds, dvt) = point, velocity
    expected = matrix(point, tangent)
    assert [a.shape for a in velocity] == [a.shape for a in point]
    np.testing.assert_allclose(
        (du * s) @ vt + (u * ds) @ vt + (u * s) @ dvt, expected, atol=1e-12 * np.linalg.norm(expected)
    )


def test_arithmetic_of_tangent_vectors(rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    a, b = (manifold.random_tangent_vector(point) for _ in range(2))
    for scalar in (2.0, np.float64(2), np.array(2.0)):
        for got in (scalar * a - b / scalar + -a, a * scalar - b / scalar + (-a)):
            assert type(got) is type(a)
            np.testing.assert_allclose(matrix(point, got), matrix(point, a) - matrix(point, b) / 2, atol=1e-13)
    assert a._fields == ("Up", "M", "Vp")
    assert manifold.random_point()._fields == ("u", "s", "vt")
    zero = manifold.zero_vector(point)
    assert manifold.norm(point, zero) == 0
    np.testing.assert_array_equal(matrix(point, a + zero), matrix(point, a))


def test_to_tangent_space_removes_what_is_not_tangent(rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    tangent = manifold.random_tangent_vector(point)
    (u, _, vt), (left, core, right) = point, tangent
    drifted = type(tangent)(left + u @ rng.standard_normal((3, 3)), core, right + vt.T @ rng.standard_normal((3, 3)))
    assert_close(manifold.to_tangent_space(point, drifted), tangent, atol=1e-12)


@over_cases
def test_random_points_and_vectors_are_valid_and_repeatable(shape, depth, rng):
    m, n, s = shape
    twins = [FixedRank(m, n, len(s), depth, rng=5) for _ in range(2)]
    points = [manifold.random_point() for manifold in twins]
    vectors = [manifold.random_tangent_vector(p) for manifold, p in zip(twins, points, strict=True)]
    for a, b in zip(points[0] + vectors[0], points[1] + vectors[1], strict=True):
        np.testing.assert_array_equal(a, b)
    u, s, vt = points[0]
    np.testing.assert_allclose(u.T @ u, np.eye(s.size), atol=1e-13)
    np.testing.assert_allclose(vt @ vt.T, np.eye(s.size), atol=1e-13)
    assert np.all(s > 0)
    assert np.all(np.diff(s) < 0)
    assert twins[0].norm(points[0], vectors[0]) == pytest.approx(1, rel=1e-12)
    assert_tangent(points[0], vectors[0])
    assert not np.array_equal(twins[0].random_point().s, s)


def test_frames_of_random_points_are_uniform(rng):
    """In means over Haar measure, all of odd degree vanish, ``⟨⟨u_k, a⟩²⟩ = 1/m``, and ``⟨⟨u_1, a⟩⟨u_2, b⟩⟩ = 0``.

    QR factors without their signs pass the second and fail the first: their ``u_11`` is never positive.
    """
    manifold = FixedRank(4, 3, 2, 3, rng=rng)
    u, _, vt = (np.stack(factors) for factors in zip(*(manifold.random_point() for _ in range(4000)), strict=True))
    for q in (u, np.swapaxes(vt, 1, 2)):
        size = q.shape[1]
        a, b = oracles.orthogonal(rng, size)[:2]
        moments = [
            (np.sign(q).reshape(len(q), -1), 0.0),
            (q.reshape(len(q), -1), 0.0),
            ((q[:, :, 0] @ a)[:, None] * (q[:, :, 1] @ b)[:, None], 0.0),
            ((np.swapaxes(q, 1, 2) @ a) ** 2, 1 / size),
            ((np.swapaxes(q, 1, 2) @ a) ** 4, 3 / (size * (size + 2))),
        ]
        for samples, mean in moments:
            error = samples.std(axis=0) / math.sqrt(len(samples))
            assert np.all(abs(samples.mean(axis=0) - mean) < 4.5 * error)
    # The frames of the two sides are independent: so is the sign of the product of their first entries.
    product = np.sign(u[:, 0, 0] * vt[:, 0, 0])
    assert abs(product.mean()) < 4.5 / math.sqrt(len(product))


def test_random_tangent_vectors_are_isotropic_in_the_metric(rng):
    """The mean of ``⟨ξ, e⟩²`` over the unit sphere is 1/dim for every unit vector e."""
    manifold, point = setup(rng, (4, 3, (1.5, 0.1)), 4)
    units = [manifold.random_tangent_vector(point) for _ in range(4)]
    draws = [manifold.random_tangent_vector(point) for _ in range(2000)]
    for e in units:
        squares = np.array([manifold.inner_product(point, e, xi) ** 2 for xi in draws])
        z = (squares.mean() - 1 / manifold.dim) / (squares.std() / math.sqrt(squares.size))
        assert abs(z) < 4


# Solvers.


def completion(rng, m=24, n=17, rank=3, noise=0.0):
    target = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) + noise * rng.standard_normal((m, n))
    return MatrixCompletion.from_matrix(target, rng.random((m, n)) < 0.6)


@pytest.mark.parametrize("optimizer", [SteepestDescent, ConjugateGradient])
def test_iterates_at_depth_one_are_those_of_fixed_rank_embedded(optimizer, rng):
    problem = completion(rng)
    manifold, peer = FixedRank(24, 17, 3, depth=1, rng=rng), FixedRankEmbedded(24, 17, 3)
    start = manifold.random_point()
    results = [
        optimizer(max_iterations=10, verbosity=0, log_verbosity=1).run(problem.problem(m), initial_point=start)
        for m in (manifold, peer)
    ]
    ours, theirs = (r.log["iterations"] for r in results)
    assert len(ours["cost"]) == 10
    np.testing.assert_allclose(ours["cost"], theirs["cost"], rtol=1e-9)
    for p, q in zip(ours["point"], theirs["point"], strict=True):
        np.testing.assert_allclose(oracles.dense(*p), oracles.dense(*q), atol=1e-9)
    assert np.all(np.diff(ours["cost"]) < 0)


SLOW = [pytest.param(depth, marks=pytest.mark.slow) for depth in (1.5, 3.5, 8, Quadratic())]


@pytest.mark.parametrize("optimizer", [pytest.param(SteepestDescent, marks=pytest.mark.slow), ConjugateGradient])
@pytest.mark.parametrize("metric", [1, 2, *SLOW], ids=str)
def test_costs_never_increase_and_halve_on_average(optimizer, metric, rng):
    """No cost rises and the first falls: by Armijo's rule. How far they fall in 60 steps is the luck of the start."""
    falls = []
    for _ in range(8):
        problem, manifold = completion(rng), of_metric(24, 17, 3, metric, rng)
        result = optimizer(max_iterations=60, verbosity=0, log_verbosity=1).run(
            problem.problem(manifold), initial_point=manifold.random_point()
        )
        costs = np.array(result.log["iterations"]["cost"])
        assert np.all(np.diff(costs) <= 0)
        assert costs[1] < costs[0]
        falls.append(math.log(costs[0] / costs[-1]))
    error = np.std(falls, ddof=1) / math.sqrt(len(falls))
    assert np.mean(falls) - math.log(2) > 2 * error  # least at depth 8: 1.3 ± 0.2 in logarithms


def test_infinite_depth_keeps_the_sign_of_the_determinant(rng):
    """At infinite depth singular matrices are infinitely far: those of the other sign are out of reach."""
    target = np.diag([2.0, 0.5, -1.0]) @ oracles.orthogonal(rng, 3)
    target *= np.sign(np.linalg.det(target))  # the determinant is now positive
    problem = MatrixCompletion.from_matrix(target)
    manifold = FixedRank(3, 3, 3, depth=math.inf, rng=rng)
    for sign in (1, -1):
        u, s, vt = oracles.factors(rng, 3, 3, (1.2, 1.0, 0.8))
        u = u * [1, 1, sign * np.sign(np.linalg.det(u @ vt))]
        result = ConjugateGradient(max_iterations=100, verbosity=0, log_verbosity=1).run(
            problem.problem(manifold), initial_point=(u, s, vt)
        )
        assert np.all(np.diff(result.log["iterations"]["cost"]) <= 0)
        assert np.sign(np.linalg.det(oracles.dense(*result.point))) == sign
        # The nearest matrix of the other sign is singular, and loses the smallest singular value, 0.5.
        assert result.cost == pytest.approx(0 if sign == 1 else 0.5 * 0.5**2, abs=1e-2)


@pytest.mark.parametrize("metric", [1, 2, 3.5, 8, 60, Quadratic()], ids=str)
def test_a_line_search_survives_an_overflow(metric, rng):
    problem, manifold = completion(rng), of_metric(24, 17, 3, metric, rng)
    point = manifold.random_point()
    far = manifold.retraction(point, 1e300 * manifold.random_tangent_vector(point))
    assert all(np.isfinite(a).all() for a in far)
    assert problem.cost(far) == math.inf
    searcher = BackTrackingLineSearcher(contraction_factor=1e-15, initial_step_size=1e300)
    result = SteepestDescent(searcher, max_iterations=5, verbosity=0).run(
        problem.problem(manifold), initial_point=point
    )
    assert result.cost < problem.cost(point)


def test_it_works_inside_a_product(rng):
    manifold = Product([FixedRank(6, 5, 2, 3, rng=rng), Euclidean(5)])
    target = rng.standard_normal((6, 5))

    @pymanopt.function.autograd(manifold)
    def cost(u, s, vt, offset):
        return anp.sum(((u * s) @ vt + offset - target) ** 2)

    start = [manifold.manifolds[0].random_point(), np.zeros(5)]
    result = ConjugateGradient(max_iterations=40, verbosity=0, log_verbosity=1).run(
        pymanopt.Problem(manifold, cost), initial_point=start
    )
    costs = np.array(result.log["iterations"]["cost"])
    assert np.all(np.diff(costs) <= 0)
    assert costs[1] < costs[0]
    assert all(np.any(a != b) for a, b in zip((*start[0], start[1]), (*result.point[0], result.point[1]), strict=True))


# Validation.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 4, 4), ValueError, "rank 4"),
        ((0, 4, 1), ValueError, "m must be at least 1"),
        ((3.0, 4, 1), TypeError, "m must be an integer"),
        ((3, 4, 2, 0.5), ValueError, "depth"),
        ((3, 4, 2, "deep"), TypeError, "depth"),
        ((3, 4, 3, math.inf), ValueError, "m = n = rank"),
        ((4, 4, 3, math.inf), ValueError, "m = n = rank"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        FixedRank(*arguments)


def test_kernels_are_checked_too():
    with pytest.raises(ValueError, match="square invertible"):
        FixedRank(4, 3, 2, kernel=InfiniteDepthKernel())
    with pytest.raises(TypeError, match="subclass"):
        FixedRank(4, 3, 2, kernel=lambda s, t: 1.0)
    kernel = DepthKernel(3, normalized=True)
    assert FixedRank(4, 3, 2, kernel=kernel).kernel is kernel
    assert isinstance(FixedRank(3, 3, 3, math.inf).kernel, InfiniteDepthKernel)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_points_off_the_manifold_are_refused(bad, rng):
    manifold, (u, s, vt) = setup(rng, SHAPES[0], 2)
    tangent = manifold.random_tangent_vector((u, s, vt))
    point = (u, np.array([1.0, bad, 0.5]), vt)
    with pytest.raises(ValueError, match="positive and finite"):
        manifold.inner_product(point, tangent, tangent)
    with pytest.raises(ValueError, match="positive and finite"):
        manifold.euclidean_to_riemannian_gradient(point, np.zeros((7, 5)))
    with pytest.raises(ValueError, match="expected"):
        manifold.norm((u, s[:2], vt), tangent)


def test_a_tangent_vector_that_is_not_finite_is_refused(rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    with pytest.raises(ValueError, match="tangent vector holds NaN"):
        manifold.retraction(point, math.nan * manifold.random_tangent_vector(point))


def test_typical_distance_is_a_fraction_of_that_to_entries_of_the_given_size(rng):
    for depth in (1, 2, 8):
        for how in ({"depth": depth}, {"kernel": DepthKernel(depth, normalized=True)}):
            manifold = FixedRank(9, 8, 4, scale=0.5, rng=rng, **how)
            size = 0.5 * math.sqrt(9 * 8 / 4)  # of four singular values, which make entries of size 0.5
            distance = math.sqrt(depth * 4) * size ** (1 / depth)
            factor = math.sqrt(depth) if "kernel" in how else 1
            assert manifold.typical_dist == pytest.approx(factor * distance / 16)
    assert FixedRank(4, 4, 4, math.inf).typical_dist == pytest.approx(2 / 16)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="scale must be positive"):
            FixedRank(4, 3, 2, scale=bad)
