"""Completion of complex matrices against dense definitions, and by solvers."""

import numpy as np
import pytest
from complex_numbers import adjoint, gaussian
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo.problems import ComplexCompletion, LowRankApproximation, MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow, check_gradient, check_hessian


@pytest.fixture
def truth(rng):
    return gaussian(rng, 12, 2) @ gaussian(rng, 2, 9)


@pytest.fixture
def problem(truth, rng):
    return ComplexCompletion.from_matrix(np.where(rng.random(truth.shape) < 0.75, truth, np.nan))


def dense(point):
    u, s, vt = point
    return (u * s) @ vt


def test_costs_and_derivatives_are_those_of_the_definition(problem, truth, rng):
    manifold = FixedRank(12, 9, 3, depth=3, field="complex", rng=0)
    point, mask = manifold.random_point(), np.zeros(truth.shape, bool)
    mask[problem.rows, problem.cols] = True
    x, v = dense(point), manifold.random_tangent_vector(point)
    gap = np.where(mask, x - truth, 0)
    for p in (point, x):
        np.testing.assert_allclose(problem.cost(p), np.sum(np.abs(gap) ** 2) / 2, rtol=1e-12)
    np.testing.assert_allclose(problem.relative_error(point), np.linalg.norm(gap) / np.linalg.norm(truth[mask]))
    np.testing.assert_allclose(problem.euclidean_gradient(point).toarray(), gap, atol=1e-12)
    np.testing.assert_allclose(problem.euclidean_gradient(x), gap, atol=1e-12)
    velocity = manifold.embedding(point, v)
    z = (velocity[0] * point.s + point.u * velocity[1]) @ point.vt + (point.u * point.s) @ velocity[2]
    expected = np.where(mask, z, 0)
    np.testing.assert_allclose(problem.euclidean_hessian(point, velocity).toarray(), expected, atol=1e-12)
    np.testing.assert_allclose(problem.euclidean_hessian(x, z), expected, atol=1e-12)
    np.testing.assert_allclose(problem.curvature(point, velocity), np.linalg.norm(expected) ** 2, rtol=1e-12)
    operator, right, left = problem._gradient_for_products(point), gaussian(rng, 9, 2), gaussian(rng, 12, 2)
    np.testing.assert_allclose(operator @ right, gap @ right, atol=1e-12)
    np.testing.assert_allclose(operator.rmatmat(left), adjoint(gap) @ left, atol=1e-12)
    batch = gaussian(rng, 4, 12, 9)
    np.testing.assert_allclose(problem.cost(batch), [problem.cost(one) for one in batch], rtol=1e-12)


def test_real_data_give_what_real_completion_gives(rng):
    shown = np.where(rng.random((6, 5)) < 0.7, rng.standard_normal((6, 5)), np.nan)
    one, other = MatrixCompletion.from_matrix(shown), ComplexCompletion.from_matrix(shown)
    x = rng.standard_normal((6, 5))
    np.testing.assert_allclose(other.cost(x), one.cost(x), rtol=1e-12)
    # A real point is one of a complex manifold only as a complex one.
    turned = np.exp(1j) * x
    assert other.cost(turned) != pytest.approx(one.cost(x))


def test_checks_pass(problem):
    posed = problem.problem(FixedRank(12, 9, 3, depth=3, field="complex", rng=0))
    for check in (check_gradient(posed), check_hessian(posed, curve="retraction")):
        assert check, str(check)


@pytest.mark.parametrize("optimizer", [ConjugateGradient, TrustRegions, GradientFlow])
def test_solvers_recover_the_matrix(optimizer, problem, truth):
    manifold = FixedRank(12, 9, 2, depth=2, field="complex", rng=0)
    options = {} if optimizer is GradientFlow else {"verbosity": 0, "max_iterations": 500, "min_gradient_norm": 1e-9}
    start = problem.initial_point(2, 1.0, rng=0)
    assert np.iscomplexobj(start[0])
    result = optimizer(**options).run(problem.problem(manifold), initial_point=type(manifold.random_point())(*start))
    assert np.linalg.norm(dense(result.point) - truth) < 1e-3 * np.linalg.norm(truth)


def test_solve_watches_data_that_were_held_out(problem):
    train, heldout = problem.split(0.2, rng=0)
    assert len(train) + len(heldout) == len(problem)
    manifold = FixedRank(12, 9, 2, depth=2, field="complex", rng=0)
    found = train.solve(manifold, ConjugateGradient(verbosity=0, max_iterations=60), heldout=heldout)
    np.testing.assert_allclose(found.history[-1].heldout_error, heldout.relative_error(found.point), rtol=1e-6)


def test_complex_data_are_refused_by_real_problems_and_manifolds(problem, truth, rng):
    refusing = [
        lambda: MatrixCompletion.from_matrix(truth),
        lambda: MatrixCompletion([0], [0], [1j], (2, 2)),
        lambda: LowRankApproximation(truth),
        lambda: MatrixCompletion([0], [0], [1.0], (2, 2)).cost(1j * np.eye(2)),
    ]
    for call in refusing:
        with pytest.raises(TypeError, match="must be real numbers"):
            call()
    for manifold in (FixedRank(12, 9, 2), FixedRankEmbedded(12, 9, 2)):
        with pytest.raises(TypeError, match=r"the data are complex.*field=\"complex\""):
            problem.problem(manifold)
    real = MatrixCompletion([0], [0], [1.0], (3, 3)).problem(FixedRank(3, 3, 1, field="complex", rng=0))
    with pytest.raises(TypeError, match="must be real numbers"):
        real.cost(real.manifold.random_point())
    with pytest.raises(NotImplementedError, match="give one"):
        problem.follow()
