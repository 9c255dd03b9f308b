"""Small starts of every manifold, and the line search that keeps to them."""

import geomstats.geometry.general_linear as general_linear
import numpy as np
import pytest
from geomstats.geometry.hypersphere import Hypersphere
from geomstats.geometry.spd_matrices import SPDMatrices
from pymanopt.manifolds import FixedRankEmbedded, Sphere
from pymanopt.optimizers import ConjugateGradient, SteepestDescent

import dlngeo
from dlngeo.geomstats import DLNMetric, FixedRankMatrices
from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import Balanced, FixedRank, SmallStartLineSearcher, from_geomstats, small_start


def dense(point):
    if isinstance(point, list):
        return dlngeo.end_to_end(point)
    return point if isinstance(point, np.ndarray) else (point[0] * point[1]) @ point[2]


def test_manifolds_of_one_shape_and_rank_start_at_the_same_matrix():
    fixed = FixedRankMatrices(5, 4, 2)
    manifolds = [FixedRank(5, 4, 2, depth=3), FixedRankEmbedded(5, 4, 2), Balanced((4, 3, 6, 5), 2)]
    manifolds.append(from_geomstats(fixed))
    points = [small_start(manifold, 1e-2, rng=1) for manifold in manifolds]
    for point in points:
        np.testing.assert_allclose(dense(point), dense(points[0]), atol=1e-15)
    np.testing.assert_allclose(np.linalg.svd(dense(points[0]))[1], [1e-2, 1e-2, 0, 0], atol=1e-15)
    assert not np.allclose(dense(small_start(manifolds[0], 1e-2, rng=2)), dense(points[0]))
    problem = MatrixCompletion([0], [0], [1.0], (5, 4))
    np.testing.assert_array_equal(problem.initial_point(2, 1e-2, 1)[0], points[0][0])
    for manifold, point in zip(manifolds[:2], points, strict=False):
        assert type(point) is type(manifold.random_point())


def test_spaces_of_geomstats_start_in_the_space():
    space = general_linear.GeneralLinear(3, equip=False)
    space.equip_with_metric(DLNMetric, depth=3)
    x = small_start(from_geomstats(space), 1e-3, rng=0)
    np.testing.assert_allclose(x @ x.T, 1e-6 * np.eye(3), atol=1e-20)
    y = small_start(from_geomstats(SPDMatrices(3)), 0.1, rng=0)
    np.testing.assert_allclose(y, 0.1 * np.eye(3), atol=1e-15)


@pytest.mark.parametrize("manifold", [Sphere(3), from_geomstats(Hypersphere(2))])
def test_where_nothing_is_small_is_refused(manifold):
    with pytest.raises(TypeError, match="draw a start of your own"):
        small_start(manifold)


def test_bad_options_are_refused():
    for size in (0, -1.0, np.inf):
        with pytest.raises(ValueError, match="size must be positive"):
            small_start(FixedRank(3, 3, 1), size)
    with pytest.raises(ValueError, match="first_step"):
        SmallStartLineSearcher(first_step=0)
    with pytest.raises(ValueError, match="max_trials"):
        SmallStartLineSearcher(max_trials=0)


def test_conjugate_gradients_complete_a_matrix_at_depth_8_where_their_own_search_stops():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 50))
    shown = rng.random(truth.shape) < 0.3
    problem = MatrixCompletion(*np.nonzero(shown), truth[shown], truth.shape)
    manifold = FixedRank(60, 50, 2, depth=8)

    def run(**options):
        solver = ConjugateGradient(verbosity=0, max_iterations=400, **options)
        result = solver.run(problem.problem(manifold), initial_point=small_start(manifold, rng=0))
        return result.iterations, np.linalg.norm(dense(result.point) - truth) / np.linalg.norm(truth)

    iterations, error = run()
    assert iterations < 10
    assert error > 0.9
    assert run(line_searcher=SmallStartLineSearcher())[1] < 1e-6
    searched = SteepestDescent(verbosity=0, max_iterations=5, line_searcher=SmallStartLineSearcher())
    assert searched.run(problem.problem(manifold), initial_point=small_start(manifold, rng=0)).iterations == 5
