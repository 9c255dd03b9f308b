"""The Riemannian Hessian on FixedRank: Taylor slopes, second derivatives, symmetry, every form of derivatives."""

import math
import tracemalloc

import numpy as np
import oracles
import pytest
from fixed_ranks import Quadratic, assert_close, autodiff_triple, matrix, matrix_forms, setup
from scipy.sparse.linalg import aslinearoperator

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank

# m, n and singular values: generic, one side full, m < 2r with repeated values, all repeated, square, ill conditioned.
SHAPES = [
    (7, 5, (1.9, 0.7, 0.3)),
    (3, 5, (1.0, 1.0, 0.2)),
    (5, 3, (0.9, 0.8, 0.7)),
    (5, 4, (1.5, 1.5, 0.6)),
    (8, 7, (0.8, 0.8)),
    (3, 3, (2.0, 1.0, 0.5)),
    (3, 3, (1.2, 1.2, 1.2)),
    (8, 6, (0.1, 1.0, 1e-3)),
    (4, 3, (0.7,)),
]
METRICS = [1, 2, 3, 3.5, 8, math.inf, Quadratic()]
CASES = [(shape, k) for shape in SHAPES for k in METRICS if k != math.inf or shape[0] == shape[1] == len(shape[2])]
over_cases = pytest.mark.parametrize(("shape", "metric"), CASES, ids=str)


def hessian_of(manifold, point, cost):
    x = oracles.dense(*point)

    def hessian(tangent):
        product = cost.hessian(x, matrix(point, tangent))
        return manifold.euclidean_to_riemannian_hessian(point, cost.gradient(x), product, tangent)

    return hessian


@over_cases
def test_it_is_self_adjoint_and_tangent(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    hessian = hessian_of(manifold, point, oracles.Cost(rng, *shape[:2]))
    a, b = (manifold.random_tangent_vector(point) for _ in range(2))
    of_a, of_b = hessian(a), hessian(b)
    size = max(manifold.norm(point, of_a), manifold.norm(point, of_b))
    assert abs(manifold.inner_product(point, of_a, b) - manifold.inner_product(point, a, of_b)) < 1e-12 * size
    u, _, vt = point
    np.testing.assert_allclose(u.T @ of_a.Up, 0, atol=1e-12 * size)
    np.testing.assert_allclose(vt @ of_a.Vp, 0, atol=1e-12 * size)


@over_cases
def test_cost_along_the_retraction_is_the_quadratic_model_to_third_order(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    cost = oracles.Cost(rng, *shape[:2])
    x = oracles.dense(*point)
    gradient = manifold.euclidean_to_riemannian_gradient(point, cost.gradient(x))
    hessian = hessian_of(manifold, point, cost)
    direction = manifold.random_tangent_vector(point)
    slope = manifold.inner_product(point, gradient, direction)
    curvature = manifold.inner_product(point, hessian(direction), direction)
    scale = 0.1 * np.min(point[1] / np.sqrt(np.diagonal(manifold.kernel(point[1][:, None], point[1]))))

    def along(t):
        return cost(oracles.dense(*manifold.retraction(point, t * direction)))

    steps = scale * np.array([1, 1 / 2, 1 / 4, 1 / 8])
    remainders = np.array([abs(along(t) - cost(x) - t * slope - t**2 * curvature / 2) for t in steps])
    orders = np.log2(remainders[:-1] / remainders[1:])
    visible = remainders[1:] > 1e-13 * abs(cost(x))
    assert visible[0]
    assert orders[visible][-1] > 2.9
    # The slope would not see an error of a thousandth.
    second = oracles.second_derivative(lambda t: along(t * scale), step=1.0, levels=6) / scale**2
    assert curvature == pytest.approx(second, rel=1e-6, abs=1e-6 * manifold.norm(point, hessian(direction)))


# Forms.


@pytest.mark.parametrize("form", matrix_forms(np.eye(2)))
@over_cases
def test_every_form_of_a_matrix_gives_the_dense_result(shape, metric, form, rng):
    manifold, point = setup(rng, shape, metric)
    gradient, product = rng.standard_normal((2, *shape[:2]))
    direction = manifold.random_tangent_vector(point)
    want = manifold.euclidean_to_riemannian_hessian(point, gradient, product, direction)
    size = max(np.abs(a).max() for a in want)
    forms = matrix_forms(gradient)[form], matrix_forms(product)[form]
    for pair in ((forms[0], product), (gradient, forms[1]), forms):
        got = manifold.euclidean_to_riemannian_hessian(point, *pair, direction)
        assert_close(got, want, atol=1e-12 * size)


def triples(point, cost, velocity):
    """Derivatives in the factors and their product with a velocity, as autodiff gives them, by the product rule."""
    (u, s, vt), (du, ds, dvt) = point, velocity
    x = oracles.dense(u, s, vt)
    z = (du * s) @ vt + (u * ds) @ vt + (u * s) @ dvt
    e, h = cost.gradient(x), cost.hessian(x, z)
    product = [
        h @ vt.T * s + e @ dvt.T * s + e @ vt.T * ds,
        np.einsum("ik,ij,kj->k", du, e, vt) + np.einsum("ik,ij,kj->k", u, h, vt) + np.einsum("ik,ij,kj->k", u, e, dvt),
        ds[:, None] * (u.T @ e) + s[:, None] * (du.T @ e) + s[:, None] * (u.T @ h),
    ]
    return autodiff_triple(point, e), product


@over_cases
def test_autodiff_triples_give_the_dense_result_and_are_only_read(shape, metric, rng):
    manifold, point = setup(rng, shape, metric)
    cost = oracles.Cost(rng, *shape[:2])
    direction = manifold.random_tangent_vector(point)
    want = hessian_of(manifold, point, cost)(direction)
    gradient, product = triples(point, cost, manifold.embedding(point, direction))
    for a in (*gradient, *product):
        a.flags.writeable = False
    size = max(np.abs(a).max() for a in want)
    # A derivative in the factors holds E′ times s: the smallest singular value costs its digits.
    tolerance = 1e-13 * max(point[1]) / min(point[1])
    for g in (gradient, cost.gradient(oracles.dense(*point))):
        got = manifold.euclidean_to_riemannian_hessian(point, g, product, direction)
        assert_close(got, want, atol=tolerance * size)


def test_a_gradient_in_the_factors_cannot_go_with_a_matrix(rng):
    direct = oracles.Cost(rng, 7, 5)
    manifold, point = setup(rng, SHAPES[0], 3)
    direction = manifold.random_tangent_vector(point)
    gradient, _ = triples(point, direct, manifold.embedding(point, direction))
    with pytest.raises(ValueError, match="in the same form"):
        manifold.euclidean_to_riemannian_hessian(point, gradient, np.zeros((7, 5)), direction)
    # Where nothing is normal it can.
    manifold, point = setup(rng, SHAPES[1], 3)
    cost = oracles.Cost(rng, 3, 5)
    x, direction = oracles.dense(*point), manifold.random_tangent_vector(point)
    gradient, _ = triples(point, cost, manifold.embedding(point, direction))
    product = cost.hessian(x, matrix(point, direction))
    got = manifold.euclidean_to_riemannian_hessian(point, gradient, product, direction)
    assert_close(got, hessian_of(manifold, point, cost)(direction), atol=1e-11)


@pytest.mark.parametrize(
    ("product", "error", "message"),
    [
        (np.zeros((5, 7)), ValueError, r"shape \(5, 7\)"),
        ((np.zeros((7, 3)), np.zeros(3), np.zeros((5, 3))), ValueError, "with respect to u, s and vt"),
        (None, TypeError, "NoneType"),
    ],
    ids=["transposed", "wrong triple", "nothing"],
)
def test_other_products_are_refused(product, error, message, rng):
    manifold, point = setup(rng, SHAPES[0], 2)
    with pytest.raises(error, match=message):
        manifold.euclidean_to_riemannian_hessian(
            point, np.zeros((7, 5)), product, manifold.random_tangent_vector(point)
        )


@pytest.mark.parametrize("form", ["sparse", "operator", "pair"])
def test_nothing_of_the_size_of_the_matrix_is_formed(form, rng):
    size, rank = 2000, 5
    manifold = FixedRank(size, size, rank, 3, rng=rng)
    point = manifold.random_point()
    direction = manifold.random_tangent_vector(point)
    places = rng.choice(size * size, 20 * size, replace=False)
    problem = MatrixCompletion(*np.divmod(places, size), rng.standard_normal(places.size), (size, size))
    gradient = problem.euclidean_gradient(point)
    product = problem.euclidean_hessian(point, manifold.embedding(point, direction))
    if form == "operator":
        gradient, product = aslinearoperator(gradient), aslinearoperator(product)
    elif form == "pair":
        gradient, product = (point.u, point.vt), (direction.Up, point.vt)
    tracemalloc.start()
    manifold.euclidean_to_riemannian_hessian(point, gradient, product, direction)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * size**2 / 10
