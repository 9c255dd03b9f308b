"""What a Hessian product on FixedRank costs beside a gradient, at any depth; ratios only, all from one run."""

import time

import numpy as np
import pytest
import scipy.sparse
from threadpoolctl import threadpool_limits

from dlngeo.pymanopt import FixedRank

pytestmark = pytest.mark.benchmark


def interleaved(cases, rounds=60):
    """The shortest time of each case, timed in turns, so that a busy moment strikes all alike.

    The time is that of the processor: on a busy machine the longer of two operations is interrupted more often.
    """
    best = dict.fromkeys(cases, np.inf)
    with threadpool_limits(1):
        for _ in range(rounds):
            for name, operation in cases.items():
                began = time.process_time()
                operation()
                best[name] = min(best[name], time.process_time() - began)
    return best


def instance(size, rank, depth, rng):
    """A point, a direction, and sparse derivatives with ten times as many entries as a point."""
    manifold = FixedRank(size, size, rank, depth, rng=rng)
    point = manifold.random_point()
    places = rng.integers(0, size, (2, 20 * rank * size))
    values = rng.standard_normal((2, places.shape[1]))
    gradient, product = (scipy.sparse.coo_array((v, tuple(places)), shape=(size, size)).tocsr() for v in values)
    return manifold, point, manifold.random_tangent_vector(point), gradient, product


def test_a_hessian_product_costs_a_small_multiple_of_a_gradient(rng, record_property):
    """It reads the gradient times 2r vectors and the product times r: three times what a gradient reads."""
    ratios = {}
    for rank in (3, 10, 20):
        manifold, point, direction, e, h = instance(4000, rank, 3.5, rng)
        times = interleaved(
            {
                "gradient": lambda m=manifold, x=point, e=e: m.euclidean_to_riemannian_gradient(x, e),
                "hessian": lambda m=manifold, x=point, e=e, h=h, z=direction: m.euclidean_to_riemannian_hessian(
                    x, e, h, z
                ),
            },
            rounds=30,
        )
        ratios[rank] = times["hessian"] / times["gradient"]
    record_property("Hessian product over gradient, by rank", ratios)
    assert max(ratios.values()) < 5, ratios


def test_its_time_is_flat_in_the_depth(rng, record_property):
    cases = {}
    for depth in (2, 4, 64, 1024):
        manifold, point, direction, e, h = instance(1000, 10, depth, rng)
        cases[depth] = lambda m=manifold, x=point, e=e, h=h, z=direction: m.euclidean_to_riemannian_hessian(x, e, h, z)
    times = interleaved(cases)
    record_property("seconds", times)
    assert max(times.values()) < 1.3 * min(times.values()), times


def test_its_time_is_linear_in_the_number_of_rows_and_columns(rng, record_property):
    sizes = np.array([10_000, 20_000, 40_000, 80_000])
    cases = {}
    for size in sizes:
        manifold, point, direction, e, h = instance(int(size), 4, 3.5, rng)
        cases[size] = lambda m=manifold, x=point, e=e, h=h, z=direction: m.euclidean_to_riemannian_hessian(x, e, h, z)
    times = interleaved(cases, rounds=8)
    slope = np.polyfit(np.log(sizes), np.log([times[size] for size in sizes]), 1)[0]
    record_property("slope", slope)
    assert 0.7 < slope < 1.6, times
