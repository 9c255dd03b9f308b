"""What the model at one point saves beside the manifold itself; ratios only, all from one run."""

import numpy as np
import pytest
from test_hessian_cost import interleaved

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

pytestmark = pytest.mark.benchmark


def completion(size, rank, per_parameter, rng):
    """As many entries a parameter of a matrix of this rank."""
    places = rng.choice(size * size, per_parameter * rank * (2 * size - rank), replace=False)
    return MatrixCompletion(*np.divmod(places, size), rng.standard_normal(places.size), (size, size), threads=1)


@pytest.mark.parametrize(
    ("size", "data_rank", "per_parameter", "rank", "least"),
    [(60, 3, 2, 12, 3.5), (60, 3, 2, 60, 3.5), (1000, 5, 10, 10, 1.2)],
    ids=["low rank", "full rank", "large"],
)
def test_a_product_costs_a_fraction_of_that_of_the_manifold(
    size, data_rank, per_parameter, rank, least, rng, record_property
):
    manifold = FixedRank(size, size, rank, 3, rng=rng)
    problem = completion(size, data_rank, per_parameter, rng).problem(manifold)
    point = manifold.random_point()
    vector = manifold.random_tangent_vector(point)
    model = manifold.local(problem, point)
    w = model.coordinates(vector)
    problem.riemannian_gradient(point)
    times = interleaved(
        {"manifold": lambda: problem.riemannian_hessian(point, vector), "model": lambda: model.product(w)}
    )
    record_property("Hessian product of the manifold over that of the model", times["manifold"] / times["model"])
    assert times["manifold"] > least * times["model"], times


def test_the_model_and_its_first_product_cost_little_more_than_one_of_the_manifold(rng, record_property):
    """What is evaluated once at a point must not cost more than it saves, tables of r³ numbers included."""
    ratios = {}
    for depth in (3, 3.5):
        manifold = FixedRank(60, 60, 30, depth, rng=rng)
        problem = completion(60, 3, 2, rng).problem(manifold)
        points = iter([manifold.random_point() for _ in range(200)])
        vector = manifold.random_tangent_vector(next(points))

        def of_manifold(problem=problem, points=points, vector=vector):
            problem.riemannian_hessian(next(points), vector)

        def of_model(manifold=manifold, problem=problem, points=points):
            model = manifold.local(problem, next(points))
            model.product(model.gradient)

        times = interleaved({"manifold": of_manifold, "model": of_model}, rounds=20)
        ratios[depth] = times["model"] / times["manifold"]
    record_property("a model and its first product, over one product of the manifold, by depth", ratios)
    assert max(ratios.values()) < 1.3, ratios
