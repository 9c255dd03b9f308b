"""Products with trust regions, and copies of everything that solvers keep."""

import copy
import pickle

import autograd.numpy as anp
import numpy as np
import pymanopt
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.hypersphere import Hypersphere
from pymanopt.manifolds import Euclidean
from pymanopt.optimizers import ConjugateGradient, TrustRegions

from dlngeo import end_to_end
from dlngeo.geomstats import DLNMetric
from dlngeo.problems import (
    AutodiffCost,
    LowRankApproximation,
    MatrixCompletion,
    MatrixSensing,
    QuadraticCost,
    QuadraticLineSearcher,
    RankOneSensing,
    Regression,
)
from dlngeo.pymanopt import Balanced, FixedRank, Product, check_gradient, check_hessian, from_geomstats

TARGET = np.random.default_rng(3).standard_normal((4, 3))
FACTORS = {
    "factored": lambda: FixedRank(4, 3, 2, 3, rng=0),
    "weights": lambda: Balanced((3, 5, 4), 2, rng=0),
    "one layer": lambda: Balanced((3, 4), 2, rng=0),
}


def matrix(arrays):
    """The matrix of a point of any of the factors."""
    return (arrays[0] * arrays[1]) @ arrays[2] if len(arrays) == 3 else end_to_end(arrays)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_of_a_product_has_derivatives_and_is_minimised_to_second_order(name, first):
    factors = [FACTORS[name](), Euclidean(4)]
    manifold = Product(factors if first else factors[::-1])

    @pymanopt.function.autograd(manifold)
    def cost(*arrays):
        *of_matrix, bias = arrays if first else (*arrays[1:], arrays[0])
        return anp.sum((matrix(of_matrix) + bias[:, None] - TARGET) ** 2)

    problem = pymanopt.Problem(manifold, cost)
    assert check_gradient(problem, rng=1)
    assert max(check_hessian(problem, rng=1, curve="retraction").residuals.values()) < 1e-9
    assert check_hessian(problem, rng=1, curve="retraction").slope > 2.8
    result = TrustRegions(verbosity=0, max_iterations=100).run(problem)
    assert result.gradient_norm < 1e-6
    assert result.cost < 1e-6  # a bias leaves rank 2 of 4×3
    again = ConjugateGradient(verbosity=0, max_iterations=2).run(problem)
    assert np.isfinite(again.cost)


def test_a_product_measures_weights_of_one_layer_as_arrays():
    layer, line = FACTORS["one layer"](), Euclidean(2)
    manifold = Product([layer, line])
    a = manifold.random_point()
    v = 0.2 * manifold.random_tangent_vector(a)
    b = [layer.exp([a[0]], [v[0]])[0], a[1] + v[1]]
    assert manifold.dist(a, b) == pytest.approx(manifold.norm(a, v), rel=1e-8)
    np.testing.assert_allclose(manifold.log(a, b)[0], v[0], atol=1e-9)
    np.testing.assert_allclose(manifold.pair_mean(a, b)[0], layer.exp([a[0]], [v[0] / 2])[0], atol=1e-9)


def costs(rng):
    low = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 5))
    return [
        MatrixCompletion.from_matrix(low),
        LowRankApproximation(low),
        Regression(np.eye(5), low),
        RankOneSensing(rng.standard_normal((9, 6)), rng.standard_normal((9, 5)), np.ones(9)),
        MatrixSensing(rng.standard_normal((9, 6, 5)), np.ones(9)),
        QuadraticCost(low),
        AutodiffCost(sum_of_squares, (6, 5)),
    ]


def sum_of_squares(x):
    return anp.sum(x**2)


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_what_was_used_can_be_copied(copied, rng):
    for manifold in (
        FixedRank(6, 5, 2),
        Balanced((3, 4, 2)),
        Balanced((3, 4)),
        Product([FixedRank(4, 3, 2), Balanced((3, 4))]),
        from_geomstats(GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=3)),
        from_geomstats(Hypersphere(2)),
    ):
        copied(manifold)
        point = manifold.random_point()
        vector = manifold.random_tangent_vector(point)
        manifold.retraction(point, 0.1 * vector)
        for other in (copied(manifold), copied(copied(manifold))):
            assert other.norm(copied(point), copied(vector)) == pytest.approx(manifold.norm(point, vector))
    manifold = FixedRank(6, 5, 2, rng=0)
    point = manifold.random_point()
    for cost in costs(rng):
        for _ in range(2):  # new, and used
            assert copied(cost).cost(point) == pytest.approx(cost.cost(point), rel=1e-12)
            assert isinstance(copied(QuadraticLineSearcher(cost)), QuadraticLineSearcher)
            cost.euclidean_gradient(point)
    completion = costs(rng)[0]
    solution = completion.solve(manifold, ConjugateGradient(verbosity=0, max_iterations=3), initial_point=point)
    assert copied(solution).best.cost == solution.best.cost
    assert copied(completion.complete(1, rng=0)).rank == 1
    check = check_gradient(completion.problem(manifold), point)
    assert str(copied(check)) == str(check)


@pytest.mark.parametrize("make", [*FACTORS.values(), lambda: from_geomstats(Hypersphere(2))])
def test_a_gradient_that_is_not_finite_is_that_of_the_cost(make):
    manifold = make()
    point = manifold.random_point()
    with pytest.raises(ValueError, match="the Euclidean gradient of the cost holds NaN"):
        manifold.euclidean_to_riemannian_gradient(
            point, [a * np.nan for a in point] if isinstance(point, list | tuple) else point * np.nan
        )
