"""What the limit of a gradient flow costs: beside layers trained in PyTorch, and beside conjugate gradients at size."""

import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pymanopt.optimizers import ConjugateGradient
from threadpoolctl import threadpool_limits

from dlngeo.problems import MatrixCompletion
from dlngeo.pymanopt import FixedRank, GradientFlow

sys.path.insert(0, str(Path(__file__).parents[1] / "reproductions"))

pytestmark = pytest.mark.benchmark


def timed(f):
    began = time.perf_counter()
    return f(), time.perf_counter() - began


def test_the_limit_is_reached_before_layers_are_trained_and_is_nearer(record_property):
    """The problem of docs/bias.md: 60×60 of rank 3, two entries for each parameter, depth 3, start 1e-3."""
    pytest.importorskip("torch", reason="torch trains the layers")
    from bias import instance
    from references_packages import layer_steps

    errors, seconds = [], []
    for seed in range(5):
        truth, observed = instance("exact", 2.0, seed)
        train, _ = observed.split(0.1, seed)
        unseen = np.ones(truth.shape, bool)
        unseen[observed.rows, observed.cols] = False

        def error(left, right, truth=truth, unseen=unseen):
            return np.linalg.norm((left @ right - truth)[unseen]) / np.linalg.norm(truth[unseen])

        def layers(train=train, seed=seed):
            steps = layer_steps(train, 3, 1e-3, seed)
            return [next(steps) for _ in range(600)][-1]  # of every tenth step

        with threadpool_limits(1):
            import torch

            torch.set_num_threads(1)
            train.follow(3, 1e-3, max_iterations=2)  # compiled
            (found, mine), (trained, theirs) = timed(lambda train=train: train.follow(3, 1e-3)), timed(layers)
        u, s, vt = found.point
        errors.append((error(u * s, vt), error(*trained)))
        seconds.append((mine, theirs))
    errors, seconds = np.array(errors), np.array(seconds)
    record_property("seconds, flow and layers", np.median(seconds, axis=0).round(2).tolist())
    record_property("median errors, flow and layers", np.median(errors, axis=0).tolist())
    assert np.median(errors[:, 0]) < np.median(errors[:, 1]) / 5
    assert np.median(seconds[:, 0] / seconds[:, 1]) < 1


def large(size, rank, rng):
    """A matrix of a rank, of which 20 entries are observed for each row and each rank."""
    left, right = rng.standard_normal((2, size, rank)) / rank**0.25
    count = 20 * rank * 2 * size
    places = np.unique(rng.integers(size * size, size=count))
    rows, cols = (a.astype(np.int32) for a in np.divmod(places, size))
    values = np.einsum("kr,kr->k", left[rows], right[cols])
    return MatrixCompletion(rows, cols, values, (size, size)), rows.nbytes + cols.nbytes + values.nbytes


@pytest.mark.parametrize(("size", "rank"), [(2_000, 5), (10_000, 5)])
def test_the_whole_flow_beside_conjugate_gradients_to_the_same_cost(size, rank, record_property):
    warm, _ = large(50, rank, np.random.default_rng(0))  # compiled code is no data
    GradientFlow(max_iterations=3).run(
        warm.problem(FixedRank(50, 50, rank, depth=3)), initial_point=warm.initial_point(rank, 1.0, 0)
    )
    tracemalloc.start()
    completion, data = large(size, rank, np.random.default_rng(size))
    problem, start = completion.problem(FixedRank(size, size, rank, depth=3)), completion.initial_point(rank, 1.0, 0)
    tracemalloc.reset_peak()
    flow, mine = timed(lambda: GradientFlow().run(problem, initial_point=start))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    class Reached(Exception):
        pass

    def stop(record, point):
        if record.cost <= flow.cost:
            raise Reached

    optimizer = ConjugateGradient(verbosity=0, max_iterations=2000, min_gradient_norm=0, min_step_size=0)

    def conjugate_gradients():
        with pytest.raises(Reached):
            completion.solve(problem.manifold, optimizer, initial_point=start, callback=stop)

    _, theirs = timed(conjugate_gradients)
    record_property("steps, products", (flow.iterations, flow.products))
    record_property("seconds of the flow / of conjugate gradients", round(mine / theirs, 2))
    record_property("peak memory / data", round(peak / data, 2))
    assert flow.cost < 1e-8 * completion.cost(start)
    assert peak < 3 * data
