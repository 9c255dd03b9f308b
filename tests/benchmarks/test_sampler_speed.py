"""Effective samples for the time at no more bias than plain NumPy, and a cost free of the depth, timed in turns."""

import time

import numba
import numpy as np
import pytest
from geomstats.geometry.general_linear import GeneralLinear
from sampler_table import Problem, Reference, effective_samples, equilibrium, langevin

from dlngeo.geomstats import SpectralMetric
from dlngeo.kernels import DepthKernel, InfiniteDepthKernel, RegularizedKernel, RelaxedDepthKernel
from dlngeo.sampling import Langevin

pytestmark = pytest.mark.benchmark

# (d, N), steps of both at a bias below 1 %, chains, effective samples for the time, ours over NumPy's, at least
CASES = [(3, 3, 0.1, 0.05, 200, 1.25), (3, 64, 0.004, 0.001, 200, 5), (20, 3, 0.14, 0.05, 20, 1.2)]


@pytest.fixture(autouse=True)
def _one_thread():  # as NumPy has
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.mark.parametrize(("d", "depth", "step", "other", "chains", "least"), CASES, ids=str)
def test_more_effective_samples_than_numpy_at_no_more_bias(d, depth, step, other, chains, least):
    problem, rng = Problem(d, depth, "isotropic"), np.random.default_rng(0)
    _, start = equilibrium(problem, chains, rng, 80)
    runs = [(langevin(problem, start, step, rng), 60), (Reference(problem, start, other, rng), 60)]
    for run, steps in runs:
        run.run(steps)
    values, seconds = ([], []), ([], [])
    for _ in range(20):
        for k, (run, steps) in enumerate(runs):
            began = time.perf_counter()
            values[k].append(run.run(steps))
            seconds[k].append(time.perf_counter() - began)
    rates, biases, errors = [], [], []
    for parts, times in zip(values, seconds, strict=True):
        x = np.concatenate(parts, axis=1) / problem.exact
        effective = effective_samples(x)
        rates.append(effective / (len(times) * np.median(times)))
        biases.append(abs(x.mean() - 1))
        errors.append(x.std() / effective**0.5)
    ratio = rates[0] / rates[1]
    ours, theirs = (f"{100 * bias:.1f} %" for bias in biases)
    print(f"d = {d}, depth {depth}: {ratio:.1f} × the effective samples for the time; bias {ours} and {theirs}")
    assert ratio >= least
    assert biases[0] <= max(biases[1], 0.01) + 2 * np.hypot(*errors)


@pytest.mark.parametrize("d", [3, 20])
def test_a_step_costs_the_same_at_every_depth(d):
    rng = np.random.default_rng(0)
    start = rng.uniform(-1, 1, (200 if d == 3 else 20, d, d)) / d
    runs = {depth: langevin(Problem(d, depth, "isotropic"), start, 1e-5, rng) for depth in (3, 64)}
    times = {depth: [] for depth in runs}
    for _ in range(30):
        for depth, run in runs.items():
            began = time.perf_counter()
            run.run(30)
            times[depth].append(time.perf_counter() - began)
    ratio = np.median(times[64][2:]) / np.median(times[3][2:])
    print(f"d = {d}: a step at depth 64 takes {ratio:.2f} × one at depth 3")
    assert ratio < 1.5


@pytest.mark.parametrize("d", [4, 10])
def test_a_step_at_real_or_infinite_depth_and_of_any_kernel_costs_little_more(d):
    rng = np.random.default_rng(0)
    start = np.eye(d) + 0.1 * rng.standard_normal((64, d, d))
    kernels = [
        DepthKernel(3),
        DepthKernel(2.5),
        InfiniteDepthKernel(),
        RelaxedDepthKernel([0.0, 0.7, 0.2]),
        RegularizedKernel(InfiniteDepthKernel(), 0.5),
    ]
    chains = []
    for kernel in kernels:
        space = GeneralLinear(d, equip=False)
        space.equip_with_metric(SpectralMetric, kernel=kernel)
        sampler = Langevin(space, np.copy, 1.0, 1e-4)
        chains.append((sampler, sampler.step(sampler.start(start), rng), []))
    for _ in range(20):
        for sampler, state, times in chains:
            began = time.perf_counter()
            for _ in range(10):
                state = sampler.step(state, rng)
            times.append(time.perf_counter() - began)
    base, *others = (np.median(times[2:]) for *_, times in chains)
    for kernel, seconds in zip(kernels[1:], others, strict=True):
        print(f"d = {d}: a step of {kernel!r} takes {seconds / base:.2f} × one at depth 3")
    assert max(others) < 5 * base
