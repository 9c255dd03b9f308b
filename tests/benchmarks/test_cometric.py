"""The price of the cometric beside what it cannot do without."""

import time

import numpy as np
import pytest

from dlngeo import DepthKernel
from dlngeo.matrices.frame import Frame

REPEATS = 30


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


@pytest.mark.benchmark
@pytest.mark.parametrize("depth", [2, 3, 7.5])
def test_a_dense_cometric_costs_little_more_than_one_svd_and_four_products(depth, rng):
    """At d = 200, factoring included. The two are timed in turn, so that other load falls on both, and the fastest
    runs are compared: those that were disturbed least.
    """
    x, z = rng.standard_normal((2, 200, 200))
    kernel = DepthKernel(depth)

    def cometric():
        Frame.at(x, kernel).cometric(z)

    def bound():
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        u @ (u.T @ z @ vt.T) @ vt

    for f in (cometric, bound):
        f()
    times = np.array([[seconds(cometric), seconds(bound)] for _ in range(REPEATS)])
    ours, theirs = times.min(axis=0)
    ratio = ours / theirs
    print(f"depth {depth}: {1e3 * ours:.2f} ms, {ratio:.2f} × one SVD and four products")
    assert ratio <= 1.3
