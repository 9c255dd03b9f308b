"""Each reference does what its paper claims."""

import itertools
import math

import numpy as np
import pytest
import references
import references_packages as packages

from dlngeo.problems import MatrixCompletion


def instance(m, n, rank, oversampling, seed, condition=10.0):
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((k, rank)))[0] for k in (m, n))
    truth = (u * np.linspace(condition, 1, rank)) @ v.T * math.sqrt(m * n / rank)
    while True:
        places = np.unravel_index(rng.permutation(m * n)[: round(oversampling * rank * (m + n - rank))], (m, n))
        if all(np.bincount(p, minlength=k).min() > rank for p, k in zip(places, (m, n), strict=True)):
            return truth, MatrixCompletion(*places, truth[places], (m, n))


def off(factors, truth):
    return np.linalg.norm(factors[0] @ factors[1] - truth) / np.linalg.norm(truth)


def test_least_norm_is_that_of_dense_least_squares(rng):
    """Also where the system is singular, as it always is: its solutions form a space of dimension r² at least."""
    _, problem = instance(9, 7, 2, 1.2, 0)
    u, v = rng.standard_normal((9, 2)), rng.standard_normal((7, 2))
    a, b = rng.standard_normal((9, 2)), rng.standard_normal((7, 2))
    matrix = references.linear(problem, u, v).toarray()
    expected = (a @ v.T + u @ b.T)[problem.rows, problem.cols]
    np.testing.assert_allclose(matrix @ np.concatenate((a.ravel(), b.ravel())), expected, atol=1e-12)
    found = references.least_norm(problem, u, v, problem.values)
    dense = np.linalg.lstsq(matrix, problem.values, rcond=1e-10)[0]
    np.testing.assert_allclose(np.concatenate([f.ravel() for f in found]), dense, rtol=1e-7, atol=1e-7)
    assert np.linalg.matrix_rank(matrix) <= matrix.shape[1] - 4


METHODS = {
    "R2RILS": references.r2rils,
    "GNMR": references.gnmr,
    "GNMR, updating": lambda problem, rank: references.gnmr(problem, rank, alpha=1),
    "MatrixIRLS": references.matrix_irls,
}


@pytest.mark.parametrize("name", METHODS)
def test_an_ill_conditioned_matrix_of_known_rank_is_recovered(name):
    truth, problem = instance(40, 30, 2, 2.5, 1)
    found, _ = METHODS[name](problem, 2)
    assert off(found, truth) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["R2RILS", "GNMR", "MatrixIRLS"])
def test_few_entries_are_enough_where_the_rank_is_known(name):
    """Rank 5, condition 10, half as many entries again as parameters: what the papers show."""
    truth, problem = instance(90, 80, 5, 1.5, 2)
    found, _ = METHODS[name](problem, 5)
    assert off(found, truth) < 1e-10


def test_factors_of_the_setting_variant_swing_about_the_limit():
    """So that the estimate must be the linearised matrix."""
    u, v, limit = 2.0, 1.0, 6.0
    problem = MatrixCompletion([0], [0], [limit], (1, 1))
    for _ in range(40):
        a, b = references.least_norm(problem, np.array([[u]]), np.array([[v]]), np.array([limit + u * v]))
        linearised = a.item() * v + u * b.item() - u * v
        u, v = a.item(), b.item()
    assert linearised == pytest.approx(limit, rel=1e-12)
    assert u / v == pytest.approx(2)
    assert abs(u * v - limit) > 0.1
    factors, _ = references.gnmr(problem, 1)
    assert (factors[0] @ factors[1]).item() == pytest.approx(limit)


def test_r2rils_averages_its_frames_with_the_new_factors():
    """The second estimate, by dense least squares."""
    _, problem = instance(12, 10, 2, 1.6, 11)
    _, (left, right) = itertools.islice(references.r2rils_steps(problem, 2), 2)
    u, _, v = references.leading(problem, 2)
    for _ in range(2):
        solution = np.linalg.lstsq(references.linear(problem, u, v).toarray(), problem.values, rcond=1e-10)[0]
        a, b = solution[:24].reshape(12, 2), solution[24:].reshape(10, 2)
        x = a @ v.T + u @ b.T
        u, v = (f + g / np.linalg.norm(g, axis=0) for f, g in ((u, a), (v, b)))
        u, v = (f / np.linalg.norm(f, axis=0) for f in (u, v))
    p, s, q = np.linalg.svd(x)
    np.testing.assert_allclose(left @ right, (p[:, :2] * s[:2]) @ q[:2], atol=1e-7 * s[0])


def weighted(problem, x, inverse_weights):
    """Matrix of least ``⟨X, W X⟩`` on the data, and its multipliers, by dense linear algebra."""
    (m, n), (u, _, vt) = problem.shape, np.linalg.svd(x)
    turn = np.kron(u, vt.T)
    inverse = turn @ (inverse_weights.ravel()[:, None] * turn.T)
    places = problem.rows * n + problem.cols
    multipliers = np.linalg.solve(inverse[np.ix_(places, places)], problem.values)
    return (inverse[:, places] @ multipliers).reshape(m, n), multipliers


def test_a_step_of_hm_irls_has_harmonic_means_of_weights():
    _, problem = instance(9, 7, 1, 2.0, 3)
    x, floor = references.filled(problem), math.inf
    for step in itertools.islice(references.hm_irls_steps(problem, 1), 3):
        s = np.linalg.svd(x)[1]
        floor = min(floor, s[1])
        of_rows, of_cols = (1 / (np.concatenate((s, np.zeros(k - s.size))) ** 2 + floor**2) for k in (9, 7))
        weights = 2 / (1 / of_rows[:, None] + 1 / of_cols)
        x, _ = weighted(problem, x, 1 / weights)
        np.testing.assert_allclose(step, x, atol=1e-8 * np.abs(x).max())


def test_a_step_of_matrix_irls_has_geometric_means_of_weights():
    _, problem = instance(9, 7, 1, 2.0, 3)
    x, floor = references.filled(problem), math.inf
    for left, right in itertools.islice(references.matrix_irls_steps(problem, 3), 3):
        s = np.linalg.svd(x)[1]
        floor = min(floor, s[3])
        of_rows, of_cols = (np.maximum(np.concatenate((s, np.zeros(k - s.size))), floor) for k in (9, 7))
        x, multipliers = weighted(problem, x, of_rows[:, None] * of_cols)
        z = x.copy()  # its part on the tangent space: elsewhere the inverse weights are those of the floor
        z[problem.rows, problem.cols] -= floor**2 * multipliers
        u, d, vt = np.linalg.svd(z)
        np.testing.assert_allclose(left @ right, (u[:, :3] * d[:3]) @ vt[:3], atol=1e-7 * np.abs(x).max())


def test_hm_irls_recovers_where_the_rank_is_known():
    truth, problem = instance(24, 20, 2, 1.8, 4)
    steps = itertools.islice(references.hm_irls_steps(problem, 2), 40)
    assert min(np.linalg.norm(x - truth) for x in steps) < 1e-9 * np.linalg.norm(truth)


def test_alternating_steps_are_exact_minimisers(rng):
    """The gradient in the factor that was solved for last vanishes, and the cost never rises."""
    _, problem = instance(20, 15, 3, 2.0, 5)
    ridge, last = 0.3, math.inf
    matrix = references.filled(problem)
    seen = matrix != 0
    for left, right in itertools.islice(references.als_steps(problem, rng.standard_normal((4, 15)), ridge), 30):
        residual = seen * (left @ right) - matrix
        np.testing.assert_allclose(left.T @ residual + ridge * right, 0, atol=1e-9 * np.abs(matrix).max())
        cost = np.sum(residual**2) + ridge * (np.sum(left**2) + np.sum(right**2))
        assert cost <= last * (1 + 1e-12)
        last = cost


def test_als_takes_a_small_ridge_without_noise_and_a_larger_one_with_it(rng):
    truth, problem = instance(40, 30, 2, 4.0, 6)
    found, _ = references.als(*problem.split(0.1, 0), 2)
    assert off(found, truth) < 1e-5
    scale = np.sqrt(np.mean(problem.values**2))
    noisy = MatrixCompletion(
        problem.rows, problem.cols, problem.values / scale + rng.standard_normal(len(problem)), problem.shape
    )
    train, validation = noisy.split(0.1, 0)
    best, _ = references.als(train, validation, 8)
    unridged, _ = references.als(train, validation, 8, ridges=(1e-8,), patience=300)
    assert off(best, truth / scale) < 0.7 * off(unridged, truth / scale)


def test_validation_entries_choose_the_rank():
    """Under noise, where a larger rank fits the entries better and the unseen ones worse."""
    truth, problem = instance(30, 25, 3, 3.0, 7, condition=2)
    values = problem.values + 0.05 * np.std(truth) * np.random.default_rng(0).standard_normal(len(problem))
    problem = MatrixCompletion(problem.rows, problem.cols, values, problem.shape)
    found, _ = references.with_chosen_rank(
        references.r2rils, *problem.split(0.1, 0), problem, range(1, 7), iterations=15, inner=200
    )
    assert found[0].shape[1] == 3
    assert off(found, truth) < 0.1


def test_the_best_iterate_is_kept_and_patience_ends_the_search():
    problem = MatrixCompletion([0], [0], [1.0], (1, 1))
    errors = [0.5, 0.2, 0.4, 0.3, 0.6, 0.01]
    steps = ((np.array([[1 + e]]), np.eye(1)) for e in errors)
    found, count = references.best_of(steps, problem, None, iterations=100, patience=3)
    assert found[0].item() == 1.2
    assert count == 5


def test_the_nuclear_norm_has_a_dual_certificate():
    """Weak duality: any Y on the data with ``‖Y‖ ≤ 1`` bounds the norm from below by ``⟨Y, a⟩``."""
    pytest.importorskip("cvxpy")
    _, problem = instance(14, 12, 2, 1.6, 8)
    (left, right), _ = packages.nuclear_norm(problem)
    x = left @ right
    assert references.error(problem, (left, right)) < 1e-3
    u, s, vt = np.linalg.svd(x)
    rank = int(np.sum(s > 1e-3 * s[0]))
    # The certificate: UVᵀ on the tangent space, supported on the data, by least squares; scaled into the unit ball.
    sign = u[:, :rank] @ vt[:rank]
    basis = np.zeros((len(problem), 14, 12))
    basis[np.arange(len(problem)), problem.rows, problem.cols] = 1
    off_u, off_v = np.eye(14) - u[:, :rank] @ u[:, :rank].T, np.eye(12) - vt[:rank].T @ vt[:rank]
    tangent = basis - off_u @ basis @ off_v
    y = np.linalg.lstsq(tangent.reshape(len(problem), -1).T, sign.ravel(), rcond=1e-8)[0]
    dual = np.tensordot(y, basis, 1)
    bound = np.sum(dual[problem.rows, problem.cols] * problem.values) / max(1.0, np.linalg.norm(dual, 2))
    assert bound <= s.sum() * (1 + 1e-4)
    assert bound == pytest.approx(s.sum(), rel=0.02)


@pytest.mark.slow
def test_cmfrec_completes_a_matrix():
    pytest.importorskip("cmfrec")
    truth, problem = instance(30, 25, 2, 4.0, 9)
    train, validation = problem.split(0.1, 0)
    found, _ = packages.cmfrec(train, validation, 2)
    assert off(found, truth) < 1e-2


@pytest.mark.slow
def test_layers_are_trained_by_gradient_descent_from_balanced_weights():
    """The first products are small partial isometries; the last fit the data with a bias toward low rank."""
    pytest.importorskip("torch")
    truth, problem = instance(20, 16, 1, 3.0, 10)
    left, right = next(packages.layer_steps(problem, 3, 1e-3, every=1))
    np.testing.assert_allclose(np.linalg.svd(left @ right)[1], 1e-3, rtol=1e-12)
    found, _ = packages.layers(*problem.split(0.1, 0), 3, 1e-3, iterations=3000)
    s = np.linalg.svd(found[0] @ found[1])[1]
    assert off(found, truth) < 0.05
    assert s[1] < 0.05 * s[0]
