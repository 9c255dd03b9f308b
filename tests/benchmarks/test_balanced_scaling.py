"""Balanced costs what its weights say, O(N d² r): linear in the depth, and ever less than a dense solve."""

import itertools
import time

import numpy as np
import pytest
import scipy.sparse
from threadpoolctl import threadpool_limits

from dlngeo.pymanopt import Balanced

pytestmark = pytest.mark.benchmark


def interleaved(cases, rounds):
    """Shortest processor time of each case, measured in turns, on one thread: other work does not count."""
    times = dict.fromkeys(cases, np.inf)
    with threadpool_limits(1):
        for _, (name, run) in itertools.product(range(rounds), cases.items()):
            start = time.process_time()
            run()
            times[name] = min(times[name], time.process_time() - start)
    return times


def instance(depth, d, rng):
    """A manifold of square layers, a point and a vector."""
    manifold = Balanced((d,) * (depth + 1), rng=rng)
    point = manifold.random_point()
    return manifold, point, [rng.standard_normal((d, d)) for _ in range(depth)]


@pytest.mark.parametrize("operation", ["frames and projection", "projection", "retraction"])
def test_time_is_linear_in_the_depth(operation, rng, record_property):
    depths = (8, 64)
    cases = {}
    for depth in depths:
        manifold, point, vector = instance(depth, 32, rng)
        tangent = manifold.projection(point, vector)
        if operation == "retraction":
            cases[depth] = lambda m=manifold, w=point, v=tangent: m.retraction(w, 1e-3 * v)
        elif operation == "projection":
            cases[depth] = lambda m=manifold, w=point, v=vector: m.projection(w, v)
        else:
            points = itertools.cycle([point, manifold.random_point()])  # never the last one, whose frames are kept
            cases[depth] = lambda m=manifold, w=points, v=vector: m.projection(next(w), v)
    times = interleaved(cases, 12)
    ratio = times[64] / times[8]
    record_property("seconds", times)
    record_property("time at N = 64 : N = 8", ratio)
    assert 4 < ratio < 14, times


def normal_vectors(point):
    """The normal vectors ``S_p W_p − W_p S_{p−1}`` of a basis of symmetric generators S, as sparse rows."""
    depth, d = len(point), point[0].shape[0]
    pairs = list(itertools.combinations_with_replacement(range(d), 2))
    rows = np.zeros(((depth - 1) * len(pairs), depth, d, d))
    for p, (a, (i, j)) in itertools.product(range(depth - 1), enumerate(pairs)):
        s = np.zeros((d, d))
        s[i, j] = s[j, i] = 1
        rows[p * len(pairs) + a, p], rows[p * len(pairs) + a, p + 1] = s @ point[p], -point[p + 1] @ s
    return scipy.sparse.csr_array(rows.reshape(len(rows), -1))


def test_jacobi_systems_beat_the_dense_normal_equations_by_a_growing_factor(rng, record_property):
    factors = {}
    for depth in (4, 32):
        manifold, point, vector = instance(depth, 8, rng)
        flat, rows = np.concatenate([v.ravel() for v in vector]), normal_vectors(point)
        gram = (rows @ rows.T).toarray()  # given away: only its solution is timed
        points = itertools.cycle([point, manifold.random_point()])
        times = interleaved(
            {
                "ours": lambda m=manifold, w=points, v=vector: m.projection(next(w), v),
                "dense": lambda a=gram, b=rows, v=flat: v - b.T @ np.linalg.solve(a, b @ v),
            },
            8,
        )
        got = np.concatenate([v.ravel() for v in manifold.projection(point, vector)])
        np.testing.assert_allclose(got, flat - rows.T @ np.linalg.solve(gram, rows @ flat), atol=1e-8)
        factors[depth] = times["dense"] / times["ours"]
    record_property("times as fast as a dense solve", factors)
    assert factors[32] > 8
    assert factors[32] > 8 * factors[4], factors
