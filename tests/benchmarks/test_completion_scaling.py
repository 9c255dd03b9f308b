"""What an iteration on matrix completion costs: little more than its raw parts, and how it grows.

At full size, 100,000 × 100,000 with 20 million entries, the first two run only on request, since they take minutes:
``DLNGEO_FULL_SIZE=1 pytest -m benchmark -rP tests/benchmarks/test_completion_scaling.py``. The growth is drawn by
``plot_scaling.py``.
"""

import os
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from completion_growth import GROWTHS, best_time, growth, iterations, iterations_and_parts, observations, problem
from pymanopt.optimizers import ConjugateGradient

from dlngeo.problems import MatrixCompletion, QuadraticLineSearcher
from dlngeo.problems._pattern import padded
from dlngeo.pymanopt import FixedRank

pytestmark = pytest.mark.benchmark

FULL_SIZE = "DLNGEO_FULL_SIZE" in os.environ
SIZE, ENTRIES = (100_000, 20_000_000) if FULL_SIZE else (20_000, 4_000_000)


def test_an_iteration_costs_little_more_than_its_raw_parts(rng, record_property):
    seconds, parts = iterations_and_parts(problem(SIZE, SIZE, ENTRIES, rng), steps=10)
    ratios = seconds / sum(parts.values())  # each to what was measured around it, since the load varies
    ratio = np.median(ratios)
    record_property("milliseconds of the raw parts", {k: round(1e3 * np.median(t), 1) for k, t in parts.items()})
    record_property("iteration / raw parts: median, quartiles", np.quantile(ratios, (0.5, 0.25, 0.75)).round(2))
    # The dense algebra beside the raw parts runs on one thread, they on all: the busier the cores, the smaller.
    assert ratio < (1.5 if FULL_SIZE else 2)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_memory_stays_below_three_times_the_data(dtype, rng, record_property):
    tracemalloc.start()
    rows, cols, values = observations(SIZE, SIZE, ENTRIES, rng)
    data = rows.nbytes + cols.nbytes + values.nbytes
    tracemalloc.reset_peak()  # what it took to invent the data does not count
    completion = MatrixCompletion(rows, cols, values, (SIZE, SIZE), dtype=dtype)
    del rows, cols, values
    iterations(completion, steps=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    record_property("peak memory / data", peak / data)
    assert data < peak < 3 * data


@pytest.mark.parametrize("name", GROWTHS)
def test_growth(name, record_property):
    sizes, seconds = growth(name)
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    record_property("slope", slope)
    low, high = GROWTHS[name].slopes
    assert low < slope < high, (sizes, seconds)


def test_compiled_products_against_scipy(rng, record_property):
    size, rank = 20_000, 10
    completion = problem(size, size, 2_000_000, rng, threads=1)
    rows, pattern = completion.rows, completion.pattern
    left, right = rng.standard_normal((2, size, rank))
    matrix = pattern.matrix(completion.values)
    operations = {
        "gather": lambda: np.einsum("kc,kc->k", left[rows], right[completion.cols]),
        "sample": lambda: pattern.sample(padded(left, float), padded(right, float), None),
        "SciPy E v": lambda: matrix @ right,
        "E v": lambda: pattern.times(completion.values, right),
        "SciPy Eᵀ u": lambda: matrix.T @ left,
        "Eᵀ u": lambda: pattern.transposed_times(completion.values, left),
    }
    seconds = {name: best_time(operation) for name, operation in operations.items()}
    record_property("nanoseconds for each entry, one thread", {k: 1e9 * t / rows.size for k, t in seconds.items()})
    assert seconds["sample"] < seconds["gather"] / 3
    assert seconds["E v"] < 1.5 * seconds["SciPy E v"]
    assert seconds["Eᵀ u"] < 1.5 * seconds["SciPy Eᵀ u"]


def test_most_steps_along_the_quadratic_are_accepted_at_once(record_property):
    rng = np.random.default_rng(0)
    size, rank = 500, 4
    low_rank = rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size))
    mask = scipy.sparse.random_array((size, size), density=0.08, rng=rng).tocoo()
    completion = MatrixCompletion(*mask.coords, low_rank[mask.coords], (size, size))
    counts = {}
    for depth in (1, 3):
        for name, searcher in (("adaptive", None), ("quadratic", QuadraticLineSearcher(completion))):
            completion.n_sampled = 0
            optimizer = ConjugateGradient(
                verbosity=0, max_iterations=400, min_gradient_norm=1e-4, min_step_size=0, line_searcher=searcher
            )
            start = completion.initial_point(rank, 100.0, rng=1)
            result = optimizer.run(completion.problem(FixedRank(size, size, rank, depth)), initial_point=start)
            counts[depth, name] = result.iterations, completion.n_sampled
        record_property(
            f"iterations, samplings at depth {depth}", (counts[depth, "adaptive"], counts[depth, "quadratic"])
        )
        steps, samplings = counts[depth, "quadratic"]
        assert samplings < 1.15 * steps
        assert samplings < 0.8 * counts[depth, "adaptive"][1]
