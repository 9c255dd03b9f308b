"""FixedRank costs what its size m + n says, in time and in memory; ratios only, all from one run."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from completion_growth import best_time
from pymanopt.manifolds import FixedRankEmbedded
from threadpoolctl import threadpool_limits

from dlngeo.pymanopt import FixedRank

pytestmark = pytest.mark.benchmark

OPERATIONS = {
    "inner_product": lambda m, x, y, v, e: m.inner_product(x, v, v),
    "retraction": lambda m, x, y, v, e: m.retraction(x, v),
    "transport": lambda m, x, y, v, e: m.transport(x, y, v),
    "embedding": lambda m, x, y, v, e: m.embedding(x, v),
    "to_tangent_space": lambda m, x, y, v, e: m.to_tangent_space(x, v),
    "sparse gradient": lambda m, x, y, v, e: m.euclidean_to_riemannian_gradient(x, e),
    "factored gradient": lambda m, x, y, v, e: m.euclidean_to_riemannian_gradient(x, (x.u * x.s, y.vt)),
}


def instance(size, rank, depth, rng):
    manifold = FixedRank(size, size, rank, depth, rng=rng)
    x, y = manifold.random_point(), manifold.random_point()
    v = manifold.random_tangent_vector(x)
    entries = 4 * size  # as many observations in a row at every size
    places = rng.integers(0, size, (2, entries))
    gradient = scipy.sparse.coo_array((rng.standard_normal(entries), tuple(places)), shape=(size, size)).tocsr()
    return manifold, x, y, v, gradient


@pytest.mark.parametrize("name", OPERATIONS)
def test_time_is_linear_in_the_number_of_rows_and_columns(name, rng, record_property):
    # The arrays leave the caches within this range, which alone raises the slope to 1.1–1.4. An m×n array, of slope 2,
    # would take from 80 GB to 5 TB.
    sizes = np.array([100_000, 200_000, 400_000, 800_000])
    times = []
    for size in sizes:
        arguments = instance(int(size), 4, 3.5, rng)
        times.append(best_time(lambda arguments=arguments: OPERATIONS[name](*arguments)))
    slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    record_property("slope", slope)
    assert 0.7 < slope < 1.6, f"{name}: time ~ (m + n)^{slope:.2f}, {times}"


def test_time_is_flat_in_the_depth(rng, record_property):
    depths = (2, 4, 64, 1024)
    cases = {}
    for depth in depths:
        manifold, x, _, v, _ = instance(5000, 10, depth, rng)
        cases[depth] = lambda m=manifold, x=x, v=v: m.retraction(x, v)
    # In turns, so that a busy moment strikes every depth alike, and on one BLAS thread: NumPy and SciPy bring a library
    # each, whose threads wait for each other longer than such small products take.
    with threadpool_limits(1):
        rounds = [[best_time(cases[depth], repeats=1) for depth in depths] for _ in range(40)]
    times = dict(zip(depths, np.min(rounds, axis=0), strict=True))
    record_property("seconds", times)
    assert max(times.values()) < 1.3 * min(times.values()), times


def peak_memory(operation):
    tracemalloc.start()
    operation()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_transport_never_holds_the_matrix(rng, record_property):
    size, rank = 6000, 10
    manifold, x, y, v, _ = instance(size, rank, 3, rng)
    peer = FixedRankEmbedded(size, size, rank)
    ours = peak_memory(lambda: manifold.transport(x, y, v))
    theirs = peak_memory(lambda: peer.transport(x, y, v))
    dense = 8 * size**2
    speed = best_time(lambda: peer.transport(x, y, v), 2) / best_time(lambda: manifold.transport(x, y, v))
    record_property("peak bytes against FixedRankEmbedded", (ours, theirs))
    record_property("times as fast as FixedRankEmbedded", speed)
    assert theirs > dense  # what is measured is real
    assert ours < dense / 50
    assert speed > 5
    for a, b in zip(manifold.transport(x, y, v), peer.transport(x, y, v), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * math.sqrt(size))


def test_every_operation_stays_far_below_the_matrix(rng, record_property):
    arguments = instance(6000, 10, 3.5, rng)
    peaks = {name: peak_memory(lambda run=run: run(*arguments)) for name, run in OPERATIONS.items()}
    record_property("peak bytes", peaks)
    assert max(peaks.values()) < 8 * 6000**2 / 25, peaks
