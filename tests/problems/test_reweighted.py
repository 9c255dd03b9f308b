import math

import numpy as np
import pytest
from oracles import dense

from dlngeo.kernels import of_depth
from dlngeo.problems import MatrixCompletion, reweighted


def instance(m, n, rank, oversampling, rng, condition=3.0, noise=0.0):
    """Low-rank matrix of unit mean square, and ``oversampling`` times as many of its entries as it has parameters."""
    u, v = (np.linalg.qr(rng.standard_normal((k, rank)))[0] for k in (m, n))
    truth = (u * np.linspace(condition, 1, rank)) @ v.T
    truth *= math.sqrt(m * n) / np.linalg.norm(truth)
    count = round(oversampling * rank * (m + n - rank))
    while True:
        places = np.unravel_index(np.sort(rng.permutation(m * n)[:count]), (m, n))
        if all(np.bincount(p, minlength=k).min() >= rank for p, k in zip(places, (m, n), strict=True)):
            break
    values = truth[places] + noise * rng.standard_normal(count)
    return truth, MatrixCompletion(*places, values, (m, n))


def error(point, truth):
    return np.linalg.norm(dense(*point) - truth) / np.linalg.norm(truth)


def first(count, problem, depth, most):
    states = reweighted._sweeps(problem, None, of_depth(depth, normalized=True), most, inner_tolerance=1e-13)
    return [next(states) for _ in range(count)]


@pytest.mark.parametrize("depth", [2, 3.5, 8, math.inf])
@pytest.mark.parametrize(("m", "n"), [(9, 7), (7, 9)])
def test_a_sweep_finds_the_matrix_of_least_norm_on_the_data(depth, m, n, rng):
    """Against the minimiser by dense linear algebra, with the cometric of all m×n entries, and no elimination."""
    truth = rng.standard_normal((m, n))
    places = np.nonzero(rng.random((m, n)) < 0.6)
    problem = MatrixCompletion(*places, truth[places], (m, n))
    unit = np.linalg.norm(problem.values) / math.sqrt(len(problem))
    kernel = of_depth(depth)
    sampling = np.zeros((len(problem), m * n))
    sampling[np.arange(len(problem)), places[0] * n + places[1]] = 1
    x = np.zeros((m, n))
    x[places] = problem.values / unit
    for sweep, point in first(4, problem, depth, min(m, n)):
        u, s, vt = np.linalg.svd(x)
        floored = [np.concatenate([np.maximum(s, sweep.floor), np.full(k - s.size, sweep.floor)]) for k in (m, n)]
        weights = kernel(floored[0][:, None], floored[1])
        turn = np.kron(u, vt.T)  # of row-major matrices
        cometric = turn @ (weights.ravel()[:, None] * turn.T)
        multipliers = np.linalg.solve(sampling @ cometric @ sampling.T, problem.values / unit)
        x = (cometric @ (sampling.T @ multipliers)).reshape(m, n)
        np.testing.assert_allclose(x[places], problem.values / unit, atol=1e-10)
        # Z is the next matrix less its residual on the data, which the multipliers are but for a factor.
        z = x.copy()
        z[places] -= multipliers * float(kernel(sweep.floor, sweep.floor))
        assert sweep.rank == np.count_nonzero(s > sweep.floor)
        left = np.linalg.svd(z)
        best = (left[0][:, : sweep.rank] * left[1][: sweep.rank]) @ left[2][: sweep.rank]
        np.testing.assert_allclose(dense(*point), unit * best, atol=1e-8 * unit)
        residual = np.linalg.norm(multipliers) * float(kernel(sweep.floor, sweep.floor)) / math.sqrt(len(problem))
        assert sweep.residual == pytest.approx(residual, rel=1e-7)


@pytest.mark.parametrize("seed", range(10))
def test_the_rank_is_found_and_the_matrix_recovered(seed):
    rng = np.random.default_rng(seed)
    m, n, rank = [(40, 30, 2), (30, 45, 3)][seed % 2]
    truth, problem = instance(m, n, rank, 2.5, rng, condition=10)
    found = problem.complete()
    assert found.status == "exact"
    assert error(found.point, truth) < 1e-8
    assert found.rank == rank
    u, s, vt = found.point
    np.testing.assert_allclose(u.T @ u, np.eye(found.rank), atol=1e-12)
    np.testing.assert_allclose(vt @ vt.T, np.eye(found.rank), atol=1e-12)
    assert np.all(np.diff(s) <= 0)


@pytest.mark.slow
def test_depth_four_needs_fewer_entries_than_other_depths():
    """Ten per cent more entries than parameters, rank 5 unknown, condition 10: 16 and 8 of 20 were recovered."""
    recovered = {4: 0, math.inf: 0, 2: 0}
    for seed in range(8):
        truth, problem = instance_with_few_entries(np.random.default_rng(seed))
        for depth in recovered:
            most = reweighted._largest_rank(problem)
            found = reweighted._run(of_depth(depth, normalized=True), most, 1e-10, 200, problem, None, None)
            recovered[depth] += error(found.point, truth) < 1e-6
    assert recovered[4] >= 5
    assert recovered[4] > recovered[math.inf] > recovered[2] == 0


def instance_with_few_entries(rng, m=80, rank=4, oversampling=1.15):
    u, v = (np.linalg.qr(rng.standard_normal((m, rank)))[0] for _ in range(2))
    truth = (u * np.linspace(10, 1, rank)) @ v.T
    shown = np.zeros((m, m), bool)
    for i in range(m):
        shown[i, rng.permutation(m)[:rank]] = True
    for j in range(m):
        hidden = np.flatnonzero(~shown[:, j])
        shown[rng.permutation(hidden)[: max(0, rank - shown[:, j].sum())], j] = True
    more = round(oversampling * rank * (2 * m - rank)) - int(shown.sum())
    hidden = rng.permutation(np.flatnonzero(~shown.ravel()))
    shown.ravel()[hidden[:more]] = True
    places = np.nonzero(shown)
    return truth, MatrixCompletion(*places, truth[places], (m, m))


@pytest.mark.slow
def test_noise_costs_little_more_than_with_the_rank_known(rng):
    """Against least squares on the tangent space of the truth, which knows the rank and the singular vectors."""
    ratios = []
    for _ in range(4):
        truth, problem = instance(50, 40, 2, 4, rng, noise=0.05)
        found = problem.complete(depth=8, rng=rng)
        assert found.status == "held out"
        u, _, vt = np.linalg.svd(truth, full_matrices=False)
        u, v = u[:, :2], vt[:2].T
        columns = [np.einsum("ek,el->ekl", u[problem.rows], np.eye(40)[problem.cols])]
        columns.append(np.einsum("ek,el->ekl", np.eye(50)[problem.rows], v[problem.cols]))
        basis = np.concatenate([c.reshape(len(problem), -1) for c in columns], axis=1)
        z = np.linalg.lstsq(basis, problem.values, rcond=1e-10)[0]
        oracle = u @ z[: 2 * 40].reshape(2, 40) + z[2 * 40 :].reshape(50, 2) @ v.T
        ratios.append(error(found.point, truth) * np.linalg.norm(truth) / np.linalg.norm(oracle - truth))
    assert np.mean(ratios) < 1.3


def test_held_out_entries_choose_the_sweep(rng):
    _, problem = instance(40, 30, 2, 5, rng, noise=0.3)
    train, heldout = problem.split(0.2, rng)
    seen = []
    found = train.complete(heldout=heldout, callback=lambda sweep, _: seen.append(sweep))
    assert found.status == "held out"
    errors = [sweep.heldout_error for sweep in seen]
    assert heldout.relative_error(found.point) == min(errors) == found.history[-1].heldout_error
    assert len(seen) > len(found.history)
    floors = [sweep.floor for sweep in seen]
    assert all(np.diff(floors) <= 0)


@pytest.mark.slow
def test_the_answer_does_not_depend_on_units_order_or_transposition(rng):
    truth, problem = instance(30, 25, 2, 3, rng, noise=0.1)
    base = dense(*problem.complete(rng=1).point)
    assert np.array_equal(dense(*problem.complete(rng=1).point), base)
    assert not np.array_equal(dense(*problem.complete(rng=2).point), base)
    for unit in (1e-150, 1e150):
        scaled = MatrixCompletion(problem.rows, problem.cols, unit * problem.values, (30, 25))
        np.testing.assert_allclose(dense(*scaled.complete(rng=1).point) / unit, base, atol=1e-6)
    truth, problem = instance(30, 25, 2, 3, rng)
    turned = MatrixCompletion(problem.cols, problem.rows, problem.values, (25, 30)).complete()
    assert error(turned.point, truth.T) < 1e-8


def test_rows_without_entries_are_zero_and_a_given_rank_bounds_the_result(rng):
    truth, problem = instance(30, 25, 3, 3, rng)
    keep = problem.rows != 4
    less = MatrixCompletion(problem.rows[keep], problem.cols[keep], problem.values[keep], (30, 25))
    found = less.complete()
    assert found.status == "exact"
    np.testing.assert_allclose(dense(*found.point)[4], 0, atol=1e-10)
    assert (found.empty_rows.tolist(), found.empty_columns.tolist()) == ([4], [])
    others = np.arange(30) != 4
    np.testing.assert_allclose(dense(*found.point)[others], truth[others], atol=1e-7)
    bounded = problem.complete(2, rng=0)
    assert bounded.rank <= 2
    assert bounded.status == "held out"
    assert problem.complete(3).status == "exact"


def test_a_fit_with_more_parameters_than_entries_is_not_called_exact(rng):
    entries = np.nonzero(rng.random((24, 20)) < 0.4)
    problem = MatrixCompletion(*entries, rng.standard_normal(len(entries[0])), (24, 20))
    seen = []
    found = problem.complete(16, rng=0, callback=lambda sweep, _: seen.append(sweep))
    assert min(sweep.residual for sweep in seen) < 1e-10
    assert found.status == "held out"


@pytest.mark.parametrize("unit", [1e-150, 1.0, 1e150])
def test_round_off_is_no_rank(unit, rng):
    u, v = (np.linalg.qr(rng.standard_normal((k, 4)))[0] for k in (6, 5))
    point = u, unit * np.array([3.0, 1e-3, 4e-9, 3e-9]), v.T
    for allowance, rank in ((4.9e-9, 3), (5.1e-9, 2), (1e-3, 2), (1.1e-3, 1), (10.0, 1), (0.0, 4)):
        parts = reweighted._without_zeros(point, unit * allowance)
        assert [p.shape for p in parts] == [(6, rank), (rank,), (rank, 5)]
        np.testing.assert_array_equal(parts[1], point[1][:rank])


def test_large_matrices_are_decomposed_in_part(rng):
    truth, problem = instance(520, 500, 2, 4, rng)
    found = problem.complete()
    assert found.status == "exact"
    assert error(found.point, truth) < 1e-8


def test_interruption_returns_the_last_point(rng):
    _, problem = instance(30, 25, 2, 3, rng)
    points = []

    def stop(sweep, point):
        points.append(point)
        if sweep.iteration == 5:
            raise KeyboardInterrupt

    found = problem.complete(callback=stop)
    assert found.status == "interrupted"
    assert len(found.history) == 5
    np.testing.assert_array_equal(found.point[0], points[-1][0])
    limited = problem.complete(max_iterations=7, heldout=problem)
    assert len(limited.history) <= 7


def test_single_precision_entries_are_met_in_double(rng):
    truth, problem = instance(30, 25, 2, 3, rng)
    single = MatrixCompletion(problem.rows, problem.cols, problem.values, (30, 25), dtype=np.float32)
    rounded = MatrixCompletion(problem.rows, problem.cols, single.values.astype(float), (30, 25))
    for entries in (single, rounded):
        found = entries.complete()
        assert (found.status, found.rank) == ("exact", 2)
        assert error(found.point, truth) < 1e-5
    whole = np.rint(3 * truth[:, :1]) @ np.rint(3 * truth[:1])  # which single precision holds as well, but exactly
    found = MatrixCompletion(problem.rows, problem.cols, whole[problem.rows, problem.cols], (30, 25)).complete()
    assert (found.status, found.rank) == ("exact", 1)
    assert found.history[-1].residual < 1e-10
    assert error(found.point, whole) < 1e-8


def test_a_fit_that_predicts_nothing_says_so(rng):
    """One entry a row: the rows that are held out have none, and a column that is not seen is filled with zeros."""
    for columns in (2, 3):
        problem = MatrixCompletion(np.arange(60), rng.integers(0, 2, 60), rng.standard_normal(60), (60, columns))
        found = problem.complete(rng=0)
        assert found.status == "undetermined"
        assert found.empty_rows.tolist() == []
        assert found.empty_columns.tolist() == [2] * (columns - 2)
    train, heldout = problem.split(0.5, 0)
    assert train.complete(heldout=heldout).status == "undetermined"


def test_bad_input_is_refused(rng):
    _, problem = instance(30, 25, 2, 3, rng)
    for arguments, match in (
        ({"depth": 1}, "no bias"),
        ({"depth": 1.5}, "no bias"),
        ({"rank": 26}, "rank"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"heldout": MatrixCompletion([0], [0], [1.0], (2, 2))}, "of one matrix"),
    ):
        with pytest.raises(ValueError, match=match):
            problem.complete(**arguments)
    zeros = MatrixCompletion([0, 1], [0, 1], [0.0, 0.0], (2, 2))
    with pytest.raises(ValueError, match="nothing to complete"):
        zeros.complete()
