"""MatrixCompletion against slow dense definitions, Taylor slopes and bad input."""

import numpy as np
import pymanopt
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import dense, factors, project
from pymanopt.manifolds import FixedRankEmbedded, Stiefel
from pymanopt.optimizers import ConjugateGradient

from dlngeo.problems import LowRankApproximation, MatrixCompletion, QuadraticCost, Regression
from dlngeo.problems._pattern import Pattern, padded
from dlngeo.pymanopt import FixedRank


def instance(rng, m=9, n=7, rank=3, fraction=0.6):
    """A noisy low-rank matrix, the mask of its observed entries, and the problem, with entries in random order."""
    matrix = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n)) + 0.1 * rng.standard_normal((m, n))
    mask = rng.random((m, n)) < fraction
    mask[0, 0] = True
    rows, cols = np.nonzero(mask)
    order = rng.permutation(rows.size)
    rows, cols = rows[order], cols[order]
    return matrix, mask, MatrixCompletion(rows, cols, matrix[rows, cols], (m, n))


def random_point(rng, m=9, n=7, rank=3):
    return factors(rng, m, n, np.exp(rng.uniform(-3, 2, rank)))


@pytest.fixture
def setting(rng):
    """A problem and a point."""
    return instance(rng)[2], random_point(rng)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_cost_and_gradient_are_the_dense_ones(m, n, seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, min(m, n) + 1))
    matrix, mask, problem = instance(rng, m, n, rank, fraction=rng.uniform(0.05, 1))
    point = random_point(rng, m, n, rank)
    residual = np.where(mask, dense(*point) - matrix, 0)
    for x in (point, dense(*point)):
        assert problem.cost(x) == pytest.approx(0.5 * np.sum(residual**2), rel=1e-12)
        gradient = problem.euclidean_gradient(x)
        np.testing.assert_allclose(gradient.toarray() if x is point else gradient, residual, atol=1e-12)
    expected = np.linalg.norm(residual) / np.linalg.norm(matrix[mask])
    assert problem.relative_error(point) == pytest.approx(expected, rel=1e-12)


def test_gradient_and_hessian_have_the_taylor_order_of_a_quadratic_along_curves_of_factors():
    rng = np.random.default_rng(0)
    m, n, rank = 9, 7, 3
    _, _, problem = instance(rng, m, n, rank)
    u, s, vt = point = random_point(rng, m, n, rank)
    du, ds, dvt = direction = tuple(rng.standard_normal(a.shape) for a in point)
    velocity = du @ np.diag(s) @ vt + u @ np.diag(ds) @ vt + u @ np.diag(s) @ dvt
    hessian = problem.euclidean_hessian(point, direction)
    assert scipy.sparse.issparse(hessian)
    slope = np.sum(problem.euclidean_gradient(point).toarray() * velocity)

    steps = 2.0 ** -np.arange(4, 12)
    moved = [(u + t * du, s + t * ds, vt + t * dvt) for t in steps]
    first = [abs(problem.cost(p) - problem.cost(point) - t * slope) for p, t in zip(moved, steps, strict=True)]
    gradients = [(problem.euclidean_gradient(p) - problem.euclidean_gradient(point)).toarray() for p in moved]
    second = [np.linalg.norm(g - t * hessian.toarray()) for g, t in zip(gradients, steps, strict=True)]
    for errors in (first, second):
        assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2, abs=0.05)

    dense_hessian = problem.euclidean_hessian(dense(*point), velocity)
    np.testing.assert_allclose(dense_hessian, hessian.toarray(), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("columns", [1, 4, 6])
def test_products_over_a_pattern_are_the_dense_ones_on_one_thread_and_on_many(columns, index, dtype):
    rng = np.random.default_rng(1)
    m, n = 31, 20
    mask = rng.random((m, n)) < rng.random((m, 1)) ** 3  # very unequal rows
    mask[[0, 5, 6, 30]] = False  # empty ones, the first and last among them
    rows, cols = np.nonzero(mask)
    indptr = np.concatenate(([0], np.cumsum(mask.sum(1)))).astype(index)
    left, right = rng.standard_normal((m, columns)).astype(dtype), rng.standard_normal((columns, n)).astype(dtype).T
    entries = rng.standard_normal(rows.size).astype(dtype)
    e = np.zeros((m, n))
    e[mask] = entries
    low_rank = left.astype(float) @ right.T.astype(float)
    atol = 50 * float(np.finfo(dtype).eps)
    for parallel_from in (10**9, 0):
        pattern = Pattern(indptr, cols.astype(index), (m, n), threads=3, parallel_from=parallel_from)
        ours = padded(left, dtype), padded(right, dtype)
        for subtracted in (None, entries):
            expected = low_rank[mask] - (0 if subtracted is None else subtracted)
            out, squares = pattern.sample(*ours, subtracted)
            assert out.dtype == dtype
            np.testing.assert_allclose(out, expected, atol=atol)
            assert squares == pytest.approx(np.sum(expected**2), rel=atol)
        squares, count = pattern.squares(*ours, 1)
        assert count == rows.size
        assert squares == pytest.approx(np.sum(low_rank[mask] ** 2), rel=atol)
        for stride in (2, 3, 50):
            squares, count = pattern.squares(*ours, stride)
            i, j = pattern.thinned(stride)
            assert i.size == count
            assert mask[i, j].all()
            assert squares == pytest.approx(np.sum(low_rank[i, j] ** 2), rel=atol)
        np.testing.assert_allclose(pattern.times(entries, right), e @ right, atol=atol)
        np.testing.assert_allclose(pattern.transposed_times(entries, left), e.T @ left, atol=atol)


@pytest.mark.parametrize("equal_rows", [True, False])
def test_the_estimated_curvature_favours_no_column(equal_rows):
    rng = np.random.default_rng(8)
    m, n, stride = 4000, 16, 16
    rows, cols = np.nonzero(np.ones((m, n), bool) if equal_rows else rng.random((m, n)) < 0.7)
    values = np.ones(rows.size)
    problem = MatrixCompletion(rows, cols, values, (m, n))
    z = np.outer(np.ones(m), np.arange(1.0, n + 1))  # columns of very different weight
    point = (np.ones((m, 1)), np.ones(1), np.zeros((1, n)))
    direction = (np.zeros((m, 1)), np.zeros(1), z[:1])
    exact = problem.curvature(point, direction, max_entries=None)
    assert exact == pytest.approx(np.sum(z[rows, cols] ** 2))
    assert problem.curvature(z, z) == pytest.approx(exact)
    estimate = problem.curvature(point, direction, max_entries=rows.size // stride)
    # One entry in sixteen of z², whose relative standard deviation is 0.9: rows.size / 16 of them.
    assert abs(estimate / exact - 1) < (1e-12 if equal_rows else 4 * 0.9 / np.sqrt(rows.size / stride))


def test_single_precision_agrees_to_its_precision():
    rng = np.random.default_rng(9)
    _, _, problem = instance(rng, 40, 30)
    single = MatrixCompletion(problem.rows, problem.cols, problem.values, problem.shape, dtype=np.float32)
    point = random_point(rng, 40, 30, 3)
    assert single.values.dtype == single.residual(point).dtype == np.float32
    assert single.split(0.5, 0)[0].values.dtype == np.float32
    assert single.cost(point) == pytest.approx(problem.cost(point), rel=1e-6)
    np.testing.assert_allclose(single.residual(point), problem.residual(point), atol=1e-5)
    with pytest.raises(TypeError, match="float64 or float32, got int64"):
        MatrixCompletion([0], [0], [1.0], (1, 1), dtype=int)
    with pytest.raises(ValueError, match="not finite, the first inf"):
        MatrixCompletion([0], [0], [1e300], (1, 1), dtype=np.float32)


def test_solvers_get_the_same_derivative_as_an_operator(setting):
    problem, point = setting
    operator = problem.problem(FixedRank(9, 7, 3)).euclidean_gradient(point)
    np.testing.assert_allclose(operator @ np.eye(7), problem.euclidean_gradient(point).toarray(), atol=1e-14)
    np.testing.assert_allclose(operator.T @ np.eye(9), problem.euclidean_gradient(point).toarray().T, atol=1e-14)


def test_directions_of_both_forms_are_one(setting):
    problem, point = setting
    ours, theirs = FixedRank(9, 7, 3, rng=0), FixedRankEmbedded(9, 7, 3)
    tangent = ours.random_tangent_vector(point)
    velocity, triple = ours.embedding(point, tangent), theirs.embedding(point, tangent)
    np.testing.assert_allclose(
        problem.euclidean_hessian(point, velocity).toarray(),
        problem.euclidean_hessian(point, triple).toarray(),
        atol=1e-13,
    )
    assert problem.curvature(point, velocity) == pytest.approx(problem.curvature(point, triple))
    for bad in (velocity[:2], (*triple[:2], triple[2].T), (*velocity[:2], velocity[2].T), triple[0]):
        with pytest.raises(ValueError, match="the direction has shapes"):
            problem.euclidean_hessian(point, bad)


def test_one_point_is_sampled_once_and_a_new_one_again(setting, rng):
    problem, point = setting
    for _ in range(2):
        for ask in (problem.cost, problem.euclidean_gradient, problem.cost, problem.relative_error):
            ask(list(point))
    assert problem.n_sampled == 1
    problem.cost((point[0], 2 * point[1], point[2]))
    assert problem.n_sampled == 2
    # Short-lived points, whose addresses are reused.
    assert len({problem.cost(random_point(rng)) for _ in range(20)}) == 20
    with pytest.raises(ValueError, match="read-only"):
        problem.euclidean_gradient(point).data[0] = 0


def test_writing_into_a_point_is_noticed(setting, rng):
    problem, point = setting
    for x in (point, rng.standard_normal((9, 7))):
        before = problem.cost(x)
        x[0][...] *= 2
        assert problem.cost(x) != before


def test_an_optimiser_pays_one_sampling_for_each_trial_point(setting):
    problem, start = setting
    manifold = FixedRankEmbedded(9, 7, 3)
    trials = []
    retraction = manifold.retraction
    manifold.retraction = lambda *a: trials.append(None) or retraction(*a)
    ConjugateGradient(verbosity=0, max_iterations=20).run(problem.problem(manifold), initial_point=start)
    assert problem.n_sampled == 1 + len(trials)


def test_fixed_rank_embedded_gets_the_projected_gradient_at_equal_singular_values(rng):
    matrix, mask, problem = instance(rng)
    u, _, vt = point = problem.initial_point(3, 0.5, rng)
    gradient = problem.problem(FixedRankEmbedded(9, 7, 3)).riemannian_gradient(point)
    ambient = u @ gradient.M @ vt + gradient.Up @ vt + u @ gradient.Vp.T
    np.testing.assert_allclose(ambient, project(u, vt, np.where(mask, dense(*point) - matrix, 0)), atol=1e-13)


def test_a_full_observation_is_solved():
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 7))
    solution = MatrixCompletion.from_matrix(matrix).solve(
        FixedRankEmbedded(9, 7, 3),
        ConjugateGradient(verbosity=0, min_gradient_norm=1e-8),
        initial_point=random_point(rng, 9, 7, 3),
    )
    assert solution.status == "converged"
    np.testing.assert_allclose(dense(*solution.point), matrix, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("factor", [0, 1, 2])
def test_cost_is_infinite_never_nan(bad, factor):
    problem = MatrixCompletion([1], [1], [2.0], (3, 4))  # row 0 and column 0 are not observed
    for place in (0, -1):
        point = [np.ones((3, 2)), np.ones(2), np.ones((2, 4))]
        point[factor] = point[factor].copy()
        point[factor].flat[place] = bad
        cost = problem.cost(tuple(point))
        assert cost == np.inf or (bad == 1e200 and np.isfinite(cost))
    x = np.zeros((3, 4))
    x[0, 0] = bad
    assert problem.cost(x) == (2.0 if bad == 1e200 else np.inf)
    x[1, 1] = 1e200
    assert problem.cost(x) == np.inf


def test_constructors_agree():
    rng = np.random.default_rng(6)
    matrix, mask, problem = instance(rng)
    stored_zero = scipy.sparse.coo_array(([0.0, 2.0], ([0, 1], [1, 0])), shape=(2, 2))
    assert MatrixCompletion.from_sparse(stored_zero).values.tolist() == [0.0, 2.0]
    csr = scipy.sparse.csr_array((problem.values, (problem.rows, problem.cols)), shape=(9, 7))
    for other in (
        MatrixCompletion.from_matrix(np.where(mask, matrix, np.nan)),
        MatrixCompletion.from_matrix(matrix, observed=mask),
        MatrixCompletion.from_sparse(csr),
        MatrixCompletion.from_sparse(scipy.sparse.csc_matrix(csr)),
    ):
        for name in ("rows", "cols", "values"):
            np.testing.assert_array_equal(getattr(other, name), getattr(problem, name))


def test_masked_and_missing_entries_are_not_observed_and_masks_are_lost_nowhere():
    pandas = pytest.importorskip("pandas")
    values = np.array([[1.0, 2, -999], [4, -999, 6]])
    mask = values == -999
    masked = np.ma.array(values, mask=mask)
    want = MatrixCompletion.from_matrix(values, ~mask)
    holes = np.where(mask, np.nan, values)
    some = np.ma.array(np.where(np.arange(6).reshape(2, 3) == 0, np.nan, values), mask=mask)
    for matrix in (
        masked,
        np.matrix(holes),
        pandas.DataFrame(holes),
        pandas.DataFrame(holes).convert_dtypes(),  # integers with pandas.NA
        pandas.DataFrame(holes.astype(object)),
    ):
        got = MatrixCompletion.from_matrix(matrix)
        for name in ("rows", "cols", "values"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    assert MatrixCompletion.from_matrix(masked, np.ones((2, 3), bool)).values.tolist() == [1, 2, 4, 6]
    assert MatrixCompletion.from_matrix(some).values.tolist() == [2, 4, 6]
    assert len(MatrixCompletion.from_matrix(np.ma.array(np.ones((2, 3))))) == 6
    index = np.ma.array([0, 1], mask=[False, True])
    for make in (
        lambda: MatrixCompletion(index, [0, 1], [1.0, 2.0], (2, 2)),
        lambda: MatrixCompletion([0, 1], index, [1.0, 2.0], (2, 2)),
        lambda: MatrixCompletion([0, 1], [0, 1], np.ma.array([1.0, 2.0], mask=[False, True]), (2, 2)),
        lambda: MatrixCompletion.from_matrix(values, np.ma.array(~mask, mask=mask)),
        lambda: LowRankApproximation(masked),
        lambda: QuadraticCost(masked),
        lambda: Regression(masked, np.ones((2, 3))),
        lambda: Regression(np.ones((2, 3)), masked),
        lambda: want.cost(masked),
        lambda: FixedRank(2, 3, 2).norm(FixedRank(2, 3, 2).random_point()._replace(vt=masked), (masked,) * 3),
    ):
        with pytest.raises(TypeError, match="a masked array, whose mask would be lost"):
            make()
    sparse = scipy.sparse.csr_array(values)
    for make, match in (
        (lambda: MatrixCompletion.from_matrix(sparse), "use from_sparse"),
        (lambda: MatrixCompletion.from_matrix(pandas.DataFrame({"a": ["x"]})), "numbers alone"),
        (lambda: Regression(sparse, np.ones((2, 3))), r"got a sparse csr_array; pass its toarray\(\)"),
        (lambda: want.cost(sparse), "got a sparse"),
    ):
        with pytest.raises(TypeError, match=match):
            make()


def test_integers_and_huge_shapes_are_fine():
    problem = MatrixCompletion([0, 2**20], [2**40, 0], np.array([1, 2], dtype=np.int8), (2**21, 2**41))
    assert problem.values.dtype == np.float64
    assert problem.cols.tolist() == [2**40, 0]
    assert len(MatrixCompletion(np.array([0], dtype=np.uint8), [0], [True], (1, 1))) == 1


def test_split_is_a_reproducible_partition():
    _, _, problem = instance(np.random.default_rng(7), 30, 20)
    train, heldout = problem.split(0.25, rng=1)
    assert len(heldout) == round(0.25 * len(problem))
    parts = [
        set(zip(p.rows.tolist(), p.cols.tolist(), p.values.tolist(), strict=True)) for p in (train, heldout, problem)
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == parts[2]
    np.testing.assert_array_equal(problem.split(0.25, rng=1)[1].rows, heldout.rows)
    assert not np.array_equal(problem.split(0.25, rng=2)[1].rows, heldout.rows)
    for fraction in (0, 1, -0.5, 1e-9, np.nan):
        with pytest.raises(ValueError, match="choose a fraction inside"):
            problem.split(fraction)


def test_initial_point_has_orthonormal_frames():
    problem = MatrixCompletion([0], [0], [1.0], (9, 7))
    u, s, vt = problem.initial_point(4, 1e-3, rng=0)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(vt @ vt.T, np.eye(4), atol=1e-14)
    assert (s == 1e-3).all()
    with pytest.raises(ValueError, match="lower the rank"):
        problem.initial_point(8, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0, 3], [0, 0], [1, 2], (3, 2)), ValueError, r"rows must lie in \[0, 3\), got 3"),
        (([0, 1], [0, -1], [1, 2], (3, 2)), ValueError, r"cols must lie in \[0, 2\), got -1"),
        (([0, 1], [0], [1, 2], (3, 2)), ValueError, "one length, got 2, 1 and"),
        (([0, 1], [0, 1], [[1, 2]], (3, 2)), ValueError, "one length"),
        (([[0, 1]], [0, 1], [1, 2], (3, 2)), ValueError, "rows must have one axis"),
        (([], [], [], (3, 2)), ValueError, "no observed entries"),
        (([0.0, 1.0], [0, 1], [1, 2], (3, 2)), TypeError, "rows must be integers"),
        (([0, 1], [True, False], [1, 2], (3, 2)), TypeError, "cols must be integers"),
        (([0, 1], [0, 1], [1, np.nan], (3, 2)), ValueError, r"not finite, the first nan at \(1, 1\)"),
        (([0, 1], [0, 1], [np.inf, 2], (3, 2)), ValueError, "leave missing entries out"),
        (([0, 1], [0, 1], ["a", "b"], (3, 2)), TypeError, "real numbers"),
        (([0, 1], [0, 1], [1j, 2], (3, 2)), TypeError, "real numbers"),
        (
            ([1, 0, 1], [1, 0, 1], [1, 2, 3], (3, 2)),
            ValueError,
            r"1 entries are repeated, the first at \(1, 1\); merge",
        ),
        (([0], [0], [1], (3,)), ValueError, "must be a pair"),
        (([0], [0], [1], 3), ValueError, "must be a pair"),
        (([0], [0], [1], (3, 0)), ValueError, "columns must be at least 1"),
        (([0], [0], [1], (3, 2.0)), TypeError, "columns must be an integer"),
    ],
)
def test_bad_observations_say_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        MatrixCompletion(*arguments)


def test_bad_matrices_points_and_manifolds_say_what_is_wrong():
    problem = MatrixCompletion([0], [0], [1.0], (3, 2))
    for x in (np.zeros((2, 3)), (np.zeros((3, 1)), np.zeros(2), np.zeros((2, 2))), np.zeros(6)):
        with pytest.raises(ValueError, match="the point has shapes"):
            problem.cost(x)
    parts = np.zeros((3, 1)), np.zeros(1), np.zeros((1, 2), complex)
    for x in (np.zeros((3, 2), complex), np.ma.zeros((3, 2)), parts):
        with pytest.raises(TypeError, match="the point must be real numbers"):
            problem.cost(x)
    for arguments, error, message in (
        ([np.full((2, 2), np.nan)], ValueError, "no observed entries"),
        ([np.zeros(3)], ValueError, "two axes"),
        ([[["a"]]], TypeError, "real numbers"),
        ([np.zeros((2, 2)), np.ones(2, dtype=bool)], ValueError, "observed must be a boolean array"),
    ):
        with pytest.raises(error, match=message):
            MatrixCompletion.from_matrix(*arguments)
    with pytest.raises(TypeError, match="use from_matrix"):
        MatrixCompletion.from_sparse(np.eye(2))
    with pytest.raises(ValueError, match="relative error is undefined"):
        MatrixCompletion([0], [0], [0.0], (3, 2)).relative_error(np.zeros((3, 2)))
    with pytest.raises(TypeError, match="needs triples"):
        problem.problem(pymanopt.manifolds.Product([Stiefel(3, 2), Stiefel(3, 2)]))
