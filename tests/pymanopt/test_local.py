"""The quadratic model at a point: the Hessian, gradient and retraction of the manifold, on flat arrays."""

import math
import tracemalloc

import numpy as np
import oracles
import pymanopt
import pytest
from fixed_ranks import Quadratic, assert_close, library, of_metric, setup
from test_hessian import SHAPES

from dlngeo import DepthKernel
from dlngeo.matrices._hessian import ConnectionTerm, _Tables
from dlngeo.matrices.blocks import combined
from dlngeo.problems import (
    AutodiffCost,
    LowRankApproximation,
    MatrixCompletion,
    MatrixSensing,
    RankOneSensing,
    Regression,
)
from dlngeo.problems._pattern import Pattern, padded
from dlngeo.pymanopt import Balanced, FixedRank, GradientProblem

METRICS = [1, 1.5, 2, 3, 8, 17, math.inf, DepthKernel(3, normalized=True), Quadratic()]
CASES = [(shape, k) for shape in SHAPES for k in METRICS if k != math.inf or shape[0] == shape[1] == len(shape[2])]
over_cases = pytest.mark.parametrize(("shape", "metric"), CASES, ids=str)


def completion(rng, m, n, **options):
    """About half of the entries of a matrix, all columns among them."""
    places = np.unique(np.concatenate((rng.choice(m * n, m * n // 2, replace=False), np.arange(n))))
    return MatrixCompletion(*np.divmod(places, n), rng.standard_normal(places.size), (m, n), **options)


COSTS = {
    "completion": completion,
    "single precision": lambda rng, m, n: completion(rng, m, n, dtype=np.float32),
    "approximation": lambda rng, m, n: LowRankApproximation(rng.standard_normal((m, n))),
    "regression": lambda rng, m, n: Regression(rng.standard_normal((n, 9)), rng.standard_normal((m, 9))),
    "rank one": lambda rng, m, n: RankOneSensing(*(rng.standard_normal((8, k)) for k in (m, n)), np.ones(8)),
    "sensing": lambda rng, m, n: MatrixSensing(rng.standard_normal((8, m, n)), np.ones(8)),
}


def assert_same(problem, point, tolerance=2e-13):
    """Compare the model with what the problem itself says, relative to what these are made of."""
    manifold = problem.manifold
    model = manifold.local(problem, point)
    assert model.cost == problem.cost(point)
    gradient, vector = problem.riemannian_gradient(point), manifold.random_tangent_vector(point)
    want = problem.riemannian_hessian(point, vector)
    got = model.tangent(model.product(model.coordinates(vector)))
    size = max(manifold.norm(point, want), manifold.norm(point, gradient), 1e-3)
    assert manifold.norm(point, got - want) < tolerance * size
    assert manifold.norm(point, model.tangent(model.gradient) - gradient) < tolerance * size


@over_cases
def test_the_connection_term_is_the_formula(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    frame = manifold._frame(point)
    z, w = (manifold._blocks(manifold.random_tangent_vector(point)) for _ in range(2))
    p = frame.scale(w, -0.5)
    connection = frame.christoffel_blocks(z, frame.scale(z, -1), frame.scale(p, 1), p)
    want = frame.scale(combined((1, frame.cometric_derivative(z, p)), (1, connection)), -0.5)
    coordinates = frame.scale(z, -0.5)
    got = ConnectionTerm(frame, p)(coordinates)
    tables = ConnectionTerm(frame, p)
    gradient, sigma = frame.phi * p.core, np.diag(frame.s)
    tables._core = _Tables(
        frame, np.sqrt(frame.phi), p.core, gradient @ sigma + sigma @ gradient.T, sigma @ gradient + gradient.T @ sigma
    )
    size = max(np.abs(a).max() for a in want if a is not None) + 1e-9
    for other in (got, tables(coordinates)):
        for a, b in zip(other, want, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, atol=1e-12 * size)


@over_cases
@pytest.mark.parametrize("name", ["completion", "approximation"])
def test_it_is_the_hessian_and_the_gradient_in_every_metric(shape, metric, name, rng):
    manifold, point = setup(rng, shape, metric)
    assert_same(COSTS[name](rng, *shape[:2]).problem(manifold), point)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (0, 1, 2, 4, 5)], ids=str)
@pytest.mark.parametrize("name", COSTS)
def test_it_is_that_of_every_least_squares(name, shape, rng):
    manifold, point = setup(rng, shape, 3)
    cost = COSTS[name](rng, *shape[:2])
    assert_same(cost.problem(manifold), point, 1e-6 if name == "single precision" else 2e-13)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (0, 1, 5)], ids=str)
@pytest.mark.parametrize("kind", ["autodiff", "autograd", "euclidean", "differences"])
def test_other_problems_are_asked_for_their_hessian(kind, shape, rng):
    metric = 1 if kind == "differences" else 3
    manifold, point = setup(rng, shape, metric)
    target = rng.standard_normal(shape[:2])
    sin, total, array, decorator = library("autograd")

    def cost(x):
        return total(sin(x) * array(target))

    if kind == "autodiff":
        problem = AutodiffCost(cost, shape[:2]).problem(manifold)
    elif kind == "autograd":
        problem = pymanopt.Problem(manifold, decorator(manifold)(lambda u, s, vt: cost((u * s) @ vt)))
    elif kind == "euclidean":
        direct, backend = oracles.Cost(rng, *shape[:2]), pymanopt.function.numpy(manifold)
        problem = pymanopt.Problem(
            manifold,
            backend(lambda *x: direct(oracles.dense(*x))),
            euclidean_gradient=backend(lambda *x: direct.gradient(oracles.dense(*x))),
            euclidean_hessian=backend(
                lambda u, s, vt, du, ds, dvt: direct.hessian(
                    oracles.dense(u, s, vt), (du * s + u * ds) @ vt + (u * s) @ dvt
                )
            ),
        )
    else:
        problem = GradientProblem(manifold, decorator(manifold)(lambda u, s, vt: cost((u * s) @ vt)))
    assert_same(problem, point, 1e-12)


@over_cases
def test_coordinates_are_isometric_and_products_symmetric(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    model = manifold.local(completion(rng, *shape[:2]).problem(manifold), point)
    vectors = [manifold.random_tangent_vector(point) for _ in range(2)]
    a, b = map(model.coordinates, vectors)
    assert a.size == model.gradient.size
    assert model.dot(a, b) == pytest.approx(manifold.inner_product(point, *vectors), abs=1e-14)
    assert model.norm(a) == pytest.approx(1, abs=1e-14)
    assert_close(model.tangent(a), vectors[0], atol=1e-14 * max(np.abs(z).max() for z in vectors[0]))
    of_a, of_b = map(model.product, (a, b))
    assert of_a @ b == pytest.approx(a @ of_b, abs=1e-12 * model.norm(of_a))
    # Products and gradients are tangent, so that what is combined of them is.
    for w in (of_a, model.gradient):
        left, _, right = model.tangent(w)
        size = max(np.abs(left).max(), np.abs(right).max())
        np.testing.assert_allclose(point[0].T @ left, 0, atol=1e-13 * size)
        np.testing.assert_allclose(point[2] @ right, 0, atol=1e-13 * size)


@over_cases
def test_it_moves_by_the_retraction(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    model = manifold.local(completion(rng, *shape[:2]).problem(manifold), point)
    step = 0.1 * np.min(point[1] / np.sqrt(np.diagonal(manifold.kernel(point[1][:, None], point[1]))))
    vector = step * manifold.random_tangent_vector(point)
    got, want = model.move(model.coordinates(vector)), manifold.retraction(point, vector)
    # As matrices: frames are arbitrary where singular values coincide.
    np.testing.assert_allclose(oracles.dense(*got), oracles.dense(*want), atol=1e-13 * max(point[1]))
    np.testing.assert_allclose(got.s, want.s, rtol=1e-12)


def test_a_step_that_is_too_long_ends_where_that_of_the_manifold_does(rng):
    manifold, point = setup(rng, SHAPES[0], 3)
    model = manifold.local(completion(rng, 7, 5).problem(manifold), point)
    assert_close(model.move(1e200 * model.gradient), manifold.retraction(point, 1e200 * model.tangent(model.gradient)))
    with pytest.raises(ValueError, match="the tangent vector"):
        model.move(np.nan * model.gradient)


def test_bad_input_is_refused(rng):
    manifold, point = setup(rng, SHAPES[0], 3)
    problem = completion(rng, 7, 5).problem(manifold)
    for other in (of_metric(7, 5, 3, 2, rng), Balanced([5, 3, 7])):
        with pytest.raises(ValueError, match="ask the manifold of the problem"):
            manifold.local(completion(rng, 7, 5).problem(other), point)
    with pytest.raises(ValueError, match="coordinates have shape"):
        manifold.local(problem, point).product(np.zeros(3))
    with pytest.raises(ValueError, match="the point has shapes"):
        manifold.local(problem, (point[0][:, :2], point[1], point[2]))
    with pytest.raises(ValueError, match="Euclidean gradient"):
        manifold.local(problem, (point[0], point[1], np.nan * point[2]))


@pytest.mark.parametrize("bent", [True, False])
def test_one_pass_over_the_entries_shares_them_among_threads(bent, rng):
    m, n, k = 40, 30, 6
    dense = np.where(rng.random((m, n)) < 0.3, rng.standard_normal((m, n)), 0)
    rows, cols = np.nonzero(dense)
    indptr = np.searchsorted(rows, np.arange(m + 1))
    moved, u, turned_u = rng.standard_normal((3, m, k))
    (v, moved_v), turn = rng.standard_normal((2, n, k)), rng.standard_normal((1, k))
    z = (dense != 0) * (moved @ v.T + bent * u @ moved_v.T)
    sides = (np.hstack([padded(a, float) for a in side]) for side in ((moved, u), (v, moved_v)))
    thin = *sides, *(padded(a, float) for a in (turned_u, turn) if bent)
    for threads, least in ((1, 1e9), (3, 0)):
        pattern = Pattern(indptr, cols, (m, n), threads, parallel_from=least)
        of_v, of_u = pattern.along(dense[rows, cols], *thin)
        np.testing.assert_allclose(of_v[:, :k], z @ v + bent * dense @ (moved_v * turn), atol=1e-12)
        if bent:
            np.testing.assert_allclose(of_u[:, :k], z.T @ u + dense.T @ turned_u, atol=1e-12)
        else:
            assert of_u is None


def test_nothing_of_the_size_of_the_matrix_is_formed(rng):
    size, rank = 2000, 5
    manifold = FixedRank(size, size, rank, 3, rng=rng)
    places = rng.choice(size * size, 20 * size, replace=False)
    cost = MatrixCompletion(*np.divmod(places, size), rng.standard_normal(places.size), (size, size))
    point, problem = manifold.random_point(), cost.problem(manifold)
    manifold.local(problem, point).product(np.zeros(manifold.dim + rank**2 * 2))  # compiles
    tracemalloc.start()
    model = manifold.local(problem, point)
    model.product(model.gradient)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size**2 / 10


def test_what_is_given_back_is_made_anew_once(rng):
    manifold, point = setup(rng, SHAPES[-1], 3)
    problem = completion(rng, *SHAPES[-1][:2]).problem(manifold)
    made, derivatives_at = [], problem.derivatives_at
    problem.derivatives_at = lambda x: made.append(x) or derivatives_at(x)
    model = manifold.local(problem, point)
    vector = model.coordinates(manifold.random_tangent_vector(point))
    want = model.product(vector)
    model.release()
    for _ in range(2):
        np.testing.assert_array_equal(model.product(vector), want)
    assert len(made) == 2
