"""Chords against dense matrices, and the solvers of pymanopt that need them."""

import numpy as np
import oracles
import pytest
from pymanopt.optimizers import NelderMead, ParticleSwarm

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

CASES = [(6, 5, 2, 3), (5, 5, 5, 2), (4, 7, 4, 1), (5, 4, 2, 2.5)]


@pytest.mark.parametrize(("m", "n", "rank", "depth"), CASES)
def test_chords_are_those_of_dense_matrices(m, n, rank, depth):
    manifold = FixedRank(m, n, rank, depth, geodesics=False, rng=0)
    a, b = manifold.random_point(), manifold.random_point()
    x, y = oracles.dense(*a), oracles.dense(*b)
    assert manifold.dist(a, b) == pytest.approx(np.linalg.norm(y - x), rel=1e-13)
    assert manifold.dist(b, a) == pytest.approx(manifold.dist(a, b), rel=1e-13)
    u, vt = a.u, a.vt
    left, right = u @ u.T, vt.T @ vt
    want = (y - x) - (np.eye(m) - left) @ (y - x) @ (np.eye(n) - right)
    log = manifold.log(a, b)
    assert type(log) is type(manifold.zero_vector(a))
    np.testing.assert_allclose(u @ log.M @ vt + log.Up @ vt + u @ log.Vp.T, want, atol=1e-13)
    np.testing.assert_allclose(u.T @ log.Up, 0, atol=1e-13)
    np.testing.assert_allclose(vt @ log.Vp, 0, atol=1e-13)
    # Close points keep their digits, which the difference of squares would lose.
    near = manifold.retraction(a, 1e-9 * manifold.random_tangent_vector(a))
    apart = np.linalg.norm(oracles.dense(*near) - x)
    assert manifold.dist(a, near) == pytest.approx(apart, rel=1e-5)
    assert manifold.dist(a, a) < 1e-14


@pytest.mark.parametrize(("m", "n", "rank", "depth"), CASES)
def test_logarithms_undo_retractions_to_first_order_and_descend_to_the_point(m, n, rank, depth):
    manifold = FixedRank(m, n, rank, depth, geodesics=False, rng=0)
    a, b = manifold.random_point(), manifold.random_point()
    v = a.s.min() * manifold.random_tangent_vector(a)
    steps = 0.1 / 2.0 ** np.arange(4)
    errors = [manifold.norm(a, manifold.log(a, manifold.retraction(a, t * v)) - t * v) for t in steps]
    if depth == 1 and rank == min(m, n) == m == n:
        np.testing.assert_allclose(errors, 0, atol=1e-12)
    else:
        assert np.log2(errors[-2] / errors[-1]) > 1.8 or errors[-1] < 1e-12
    log = manifold.log(a, b)
    slope = oracles.derivative(lambda t: manifold.dist(manifold.retraction(a, t * log), b) ** 2 / 2, step=1e-2)
    chord = log.M, log.Up, log.Vp
    assert slope == pytest.approx(-sum(float(np.sum(block**2)) for block in chord), rel=1e-6)
    middle = manifold.pair_mean(a, b)
    np.testing.assert_allclose(oracles.dense(*middle), oracles.dense(*manifold.retraction(a, log / 2)), atol=1e-14)


def completion(rng):
    low = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    shown = rng.random((6, 5)) < 0.85
    return MatrixCompletion(*np.nonzero(shown), low[shown], (6, 5))


@pytest.mark.parametrize("solver", [ParticleSwarm, NelderMead])
def test_solvers_without_derivatives_run_on_chords(solver):
    cost = completion(np.random.default_rng(0))

    def run(iterations):
        np.random.seed(0)  # noqa: NPY002
        manifold = FixedRank(6, 5, 2, depth=3, geodesics=False, rng=0)
        return solver(verbosity=0, max_iterations=iterations).run(cost.problem(manifold)).cost

    assert run(25) < 0.95 * run(1)
