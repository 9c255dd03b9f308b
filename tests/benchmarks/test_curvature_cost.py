"""The price of curvature beside that of the connection."""

import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dlngeo import DepthKernel
from dlngeo.matrices.curvature import Curvature
from dlngeo.matrices.frame import Frame

REPEATS = 40


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


@pytest.mark.benchmark
@pytest.mark.parametrize("depth", [2, 3, 7.5])
def test_a_sectional_curvature_costs_less_than_five_christoffel_maps_and_the_first_less_than_forty(depth, rng):
    """At d = 20, the first with the factoring and all tables, whose fresh memory costs more than their arithmetic.

    All are timed in turn, so that other load falls on each, and the fastest runs are compared: those disturbed least.
    """
    x, y, z = rng.standard_normal((3, 20, 20))
    kernel = DepthKernel(depth)
    known = Curvature(Frame.at(x, kernel))

    def christoffel():
        Frame.at(x, kernel).christoffel(y, z)

    def first():
        Curvature(Frame.at(x, kernel)).sectional(y, z)

    def further():
        known.sectional(y, z)

    def scalar():
        Curvature(Frame.at(x, kernel)).scalar()

    with threadpool_limits(1):
        runs = (christoffel, first, further, scalar)
        for f in runs:
            f()
        times = np.array([[seconds(f) for f in runs] for _ in range(REPEATS)]).min(axis=0)
    ratios = times[1:] / times[0]
    print(
        f"depth {depth}: Christoffel map {1e3 * times[0]:.2f} ms; sectional curvature {ratios[0]:.1f}, known point "
        f"{ratios[1]:.1f}, scalar curvature {ratios[2]:.1f} times that"
    )
    assert ratios[0] <= 20
    assert ratios[1] <= 5


@pytest.mark.benchmark
def test_ricci_curvature_costs_far_less_than_its_trace_over_a_basis(rng):
    """At d = 10, differences known, 100 sectional curvatures cost over 8 times as much as all of Ricci."""
    frame = Frame.at(rng.standard_normal((10, 10)), DepthKernel(3))
    y = rng.standard_normal((10, 10))
    basis = np.eye(100).reshape(100, 10, 10)
    known = Curvature(frame)

    def trace():
        for e in basis:
            known.sectional(e, y)

    def closed():
        fresh = Curvature(frame)
        fresh._differences = known._differences
        fresh.ricci(y, y)

    trace()
    closed()
    with threadpool_limits(1):
        times = np.array([[seconds(trace), seconds(closed)] for _ in range(10)]).min(axis=0)
    print(f"Ricci curvature: 1/{times[0] / times[1]:.0f} of its trace")
    assert times[0] > 8 * times[1]
