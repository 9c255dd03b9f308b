"""The price of a gradient flow beside depth, and beside training layer by layer."""

import time

import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from threadpoolctl import threadpool_limits

import dlngeo
from dlngeo import DepthKernel
from dlngeo.flows.factored import FactoredState
from dlngeo.geomstats import DLNMetric, FixedRankMatrices


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def interleaved(functions, repeats):
    """Least seconds of each; they are timed in turn, so that other load falls on all."""
    with threadpool_limits(1, user_api="blas"):
        return np.min([[seconds(f) for f in functions] for _ in range(repeats)], axis=0)


@pytest.mark.benchmark
@pytest.mark.parametrize(("d", "rank"), [(4, 4), (60, 5), (60, 60)])
def test_an_evaluation_costs_the_same_at_every_depth(rng, d, rank):
    target = rng.standard_normal((d, d))
    u, v = (np.linalg.qr(rng.standard_normal((d, rank)))[0] for _ in range(2))
    calls = []
    for depth in (2, 64):
        state = FactoredState((d, d), rank, DepthKernel(depth), lambda x: x - target)
        y = state.pack(u, np.linspace(1, 0.1, rank), v.T)
        calls.append(lambda state=state, y=y: [state.velocity(0.0, y) for _ in range(20)])
    shallow, deep = interleaved(calls, 30)
    print(f"d = {d}, rank {rank}: {5e4 * deep:.0f} µs at depth 64, {deep / shallow:.2f} × depth 2")
    assert deep <= 1.2 * shallow


@pytest.mark.benchmark
@pytest.mark.parametrize(("d", "rank", "least"), [(100, 5, 20), (40, 4, 5), (20, 20, 2)])
def test_a_flow_is_faster_than_the_integration_of_64_layers_to_the_same_accuracy(rng, d, rank, least):
    """Layers of width d; both end within 1e-8 of the same matrix. Below full rank only the rank is paid for."""
    depth, times = 64, [0.0, 0.3]
    space = FixedRankMatrices(d, d, rank, equip=False) if rank < d else GeneralLinear(d, equip=False)
    space.equip_with_metric(DLNMetric, depth=depth)
    frames = [np.linalg.qr(rng.standard_normal((d, rank)))[0] for _ in range(4)]
    target = (frames[0] * np.linspace(1.5, 0.5, rank)) @ frames[1].T
    start = 0.3 * (target + (frames[2] * np.linspace(1, 0.5, rank)) @ frames[3].T)  # of which the rank is kept
    u, s, vt = np.linalg.svd(start)
    start = (u[:, :rank] * s[:rank]) @ vt[:rank]
    weights = dlngeo.balanced_weights(start, [d] * (depth + 1), rank)
    options = {"rtol": 1e-9, "atol": 1e-11, "dense_output": False}
    found = {}

    def ours():
        found["ours"] = dlngeo.gradient_flow(space, lambda x: x - target, start, times, **options)

    def layers():
        found["layers"] = dlngeo.training_flow(weights, lambda x: x - target, times, **options)

    mine, theirs = interleaved([ours, layers], 3)
    difference = np.abs(found["ours"].points[-1] - found["layers"].points[-1]).max()
    moved = 1 - np.linalg.norm(found["ours"].points[-1] - target) / np.linalg.norm(start - target)
    print(
        f"d = {d}, rank {rank}: {1e3 * mine:.0f} ms, layers {theirs / mine:.1f} × as long; difference {difference:.1e} "
        f"after {moved:.2f} of the way; evaluations {found['ours'].n_evaluations} and {found['layers'].n_evaluations}"
    )
    assert difference < 1e-8
    assert moved > 0.3
    assert theirs > least * mine


@pytest.mark.benchmark
@pytest.mark.parametrize(("d", "depth", "least"), [(2, 5, 15), (2, np.inf, 15), (3, 5, 10), (3, np.inf, 10)])
def test_many_flows_together_are_faster_than_one_by_one(rng, d, depth, least):
    """2,000 completions of Cohen, Menon and Veraszto, the diagonal observed, beside single flows from twenty starts."""
    space = GeneralLinear(d, equip=False)
    space.equip_with_metric(DLNMetric, depth=depth, normalized=True)
    seen, starts = np.diag(np.arange(d, 0.0, -1)), 0.5 * rng.standard_normal((2000, d, d))
    few, found = 20, {}

    def gradient(x):
        return np.eye(d) * (x - seen)

    def together():
        found["together"] = dlngeo.gradient_flow(space, gradient, starts, 10.0).ends

    def alone():
        flows = [dlngeo.gradient_flow(space, gradient, x, 10.0, dense_output=False) for x in starts[:few]]
        found["alone"] = np.stack([flow.points[-1] for flow in flows])

    ours, singles = interleaved([together, alone], 2)
    singles *= len(starts) / few
    difference = np.abs(found["together"][:few] - found["alone"]).max()
    print(f"{d}×{d}, depth {depth}: {ours:.1f} s, singly {singles / ours:.0f} × as long; difference {difference:.1e}")
    assert difference < 1e-8
    assert singles > least * ours
