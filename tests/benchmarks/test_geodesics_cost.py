"""Closed forms beside the automatic differentiation of geomstats, and a batch beside a loop; ratios within one run."""

import json
import os
import subprocess
import sys
import time

import geomstats.backend as gs
import numpy as np
import pytest
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.numerics.geodesic import ExpODESolver, LogShootingSolver
from geomstats.numerics.ivp import GSIVPIntegrator

from dlngeo.geomstats import DLNMetric, SpectralMetric
from dlngeo.kernels import DepthKernel, RegularizedKernel
from dlngeo.pymanopt import from_geomstats


class Generic(RiemannianMetric):
    """Depth 3 by its metric matrix alone, on flattened 2×2 matrices; geomstats differentiates it."""

    def __init__(self, space):
        super().__init__(space)
        self.exp_solver = ExpODESolver(space, integrator=GSIVPIntegrator(10, "rk4"))
        self.log_solver = LogShootingSolver(space)

    def metric_matrix(self, base_point=None):
        x = gs.reshape(base_point, (*base_point.shape[:-1], 2, 2))
        xt = gs.moveaxis(x, -1, -2)

        def power(a, exponent):
            w, q = gs.linalg.eigh(a)
            return gs.einsum("...ik,...k,...jk->...ij", q, w**exponent, q)

        def product(a, b):
            both = gs.einsum("...ik,...lj->...ijkl", a, b)
            return gs.reshape(both, (*base_point.shape[:-1], 4, 4))

        eye = gs.broadcast_to(gs.eye(2), x.shape)
        left, right = x @ xt, xt @ x
        terms = [
            product(power(left, 2 / 3), eye),
            product(power(left, 1 / 3), power(right, 1 / 3)),
            product(eye, power(right, 2 / 3)),
        ]
        return gs.linalg.inv(sum(terms))


def timed(f, repeats):
    """The value of ``f`` and the seconds it takes, at best."""
    value, times = None, []
    for _ in range(repeats):
        start = time.perf_counter()
        value = f()
        times.append(time.perf_counter() - start)
    return value, min(times)


def measure():
    ours = GeneralLinear(2, equip=False)
    ours.equip_with_metric(DLNMetric, depth=3)
    theirs = Euclidean(4, equip=False)
    theirs.equip_with_metric(Generic)
    x, v = gs.array([[1.5, 0.4], [-0.3, 1.0]]), gs.array([[0.2, -0.1], [0.3, 0.1]])
    end = ours.metric.exp(v, x)
    flat_x, flat_v, flat_end = (gs.reshape(a, (4,)) for a in (x, v, end))
    rows = {
        "christoffels": (
            lambda: ours.metric.christoffels(x),
            lambda: theirs.metric.christoffels(flat_x),
        ),
        "exp": (lambda: ours.metric.exp(v, x), lambda: theirs.metric.exp(flat_v, flat_x)),
        "log": (lambda: ours.metric.log(end, x), lambda: theirs.metric.log(flat_end, flat_x)),
    }
    out = {}
    for name, (closed, generic) in rows.items():
        (ours_value, ours_time), (theirs_value, theirs_time) = timed(closed, 5), timed(generic, 1)
        difference = np.max(np.abs(gs.to_numpy(ours_value).ravel() - gs.to_numpy(theirs_value).ravel()))
        out[name] = [ours_time, theirs_time, float(difference)]
    return out


@pytest.mark.benchmark
def test_closed_forms_beat_automatic_differentiation():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env=os.environ | {"GEOMSTATS_BACKEND": "autograd"},
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    result = json.loads(run.stdout.splitlines()[-1])
    for name, (ours, theirs, difference) in result.items():
        print(f"{name}: {1e3 * ours:.2f} ms, {theirs / ours:.0f} × as fast; difference {difference:.1e}")
        assert difference < 1e-4, name
    ratios = {name: theirs / ours for name, (ours, theirs, _) in result.items()}
    assert ratios["christoffels"] > 5
    assert ratios["exp"] > 10
    assert ratios["log"] > 50


@pytest.mark.benchmark
@pytest.mark.parametrize("d", [2, 4])
def test_exp_of_a_batch_costs_a_fraction_of_a_loop(d):
    space = GeneralLinear(d, equip=False)
    metric = space.equip_with_metric(DLNMetric, depth=3).metric
    rng = np.random.default_rng(0)
    x = gs.from_numpy(2 * np.eye(d) + 0.3 * rng.standard_normal((64, d, d)))
    v = gs.from_numpy(0.3 * rng.standard_normal((64, d, d)))
    _, batch = timed(lambda: metric.exp(v, x), 3)
    _, loop = timed(lambda: [metric.exp(b, a) for a, b in zip(x, v, strict=True)], 1)
    print(f"d = {d}: batch {1e3 * batch:.1f} ms, loop {loop / batch:.1f} × as long")
    assert loop > 3 * batch


@pytest.mark.benchmark
@pytest.mark.parametrize(
    ("kernel", "length", "least"),
    [
        (DepthKernel(3), 1500, 20),
        (RegularizedKernel(DepthKernel(3), 0.1), 0.1, 5),
        (RegularizedKernel(DepthKernel(3), 0.1), 1500, 5),
    ],
    ids=["long step, depth 3", "no depth", "long step, no depth"],
)
def test_the_closed_retraction_of_dense_matrices_takes_a_fraction_of_exp(kernel, length, least):
    """Where exp is dear: long trial steps, which are halved until the geodesic exists, and kernels without depth."""
    space = GeneralLinear(4, equip=False).equip_with_metric(SpectralMetric, kernel=kernel)
    start, direction = np.random.default_rng(0).standard_normal((2, 4, 4)) / 3 + np.array(
        [2 * np.eye(4), np.zeros((4, 4))]
    )
    seconds = []
    for retraction in ("closed form", "exp"):
        manifold = from_geomstats(space, retraction=retraction)
        step = direction * (length / manifold.norm(start, direction))
        seconds.append(timed(lambda m=manifold, v=step: m.retraction(start, v), 3)[1])
    print(f"{kernel!r}, length {length:g}: {1e3 * seconds[0]:.2f} ms, exp {seconds[1] / seconds[0]:.0f} × as long")
    assert seconds[1] > least * seconds[0]


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(measure()) + "\n")


@pytest.mark.benchmark
@pytest.mark.parametrize("d", [3, 10, 24, 64])
def test_a_logarithm_costs_some_tens_of_exponentials(d):
    """And an exponential some tens of SVDs of LAPACK, of which its stages take one each."""
    metric = GeneralLinear(d, equip=False).equip_with_metric(DLNMetric, depth=3).metric
    x, y = np.eye(d) + 0.4 * np.random.default_rng(0).standard_normal((2, d, d)) / np.sqrt(d)
    velocity, log = timed(lambda: metric.log(y, x), 3)
    _, exp = timed(lambda: metric.exp(velocity, x), 3)
    _, svd = timed(lambda: np.linalg.svd(x), 10)
    print(f"d = {d}: log {1e3 * log:.1f} ms = {log / exp:.0f} exps, of {exp / svd:.0f} SVDs")
    assert log < 60 * exp
    assert exp < 300 * svd


@pytest.mark.benchmark
@pytest.mark.parametrize("depth", [2, 3, np.inf])
def test_a_hundred_distances_cost_a_fraction_of_a_loop(depth):
    metric = GeneralLinear(3, equip=False).equip_with_metric(DLNMetric, depth=depth).metric
    x, y = np.eye(3) + 0.3 * np.random.default_rng(0).standard_normal((2, 100, 3, 3))
    y *= (np.sign(np.linalg.det(x)) * np.sign(np.linalg.det(y)))[:, None, None]
    _, batch = timed(lambda: metric.dist(x, y), 3)
    _, loop = timed(lambda: [metric.dist(a, b) for a, b in zip(x, y, strict=True)], 1)
    print(f"depth {depth:g}: 100 distances {1e3 * batch:.0f} ms = {100 * batch / loop:.0f} single ones")
    assert loop > 2 * batch
