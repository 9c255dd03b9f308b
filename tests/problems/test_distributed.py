"""Matrix completion on dask workers against the local one, and through the loss of a worker."""

import os
import signal
import threading

import numpy as np
import pytest
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient

from dlngeo.problems import DistributedCompletion, MatrixCompletion, QuadraticLineSearcher, RowBlock
from dlngeo.pymanopt import FixedRank

M, N, RANK = 60, 40, 3


class InThisProcess:
    """What of a client the problem uses, carried out at once: the arithmetic, without a cluster."""

    def __init__(self):
        self.tasks = []

    def submit(self, function, *arguments, pure, retries):
        self.tasks.append(function.__name__)
        return function(*arguments)

    def gather(self, futures):
        return futures


@pytest.fixture
def local(rng):
    matrix = rng.standard_normal((M, RANK)) @ rng.standard_normal((RANK, N)) + 0.1 * rng.standard_normal((M, N))
    mask = rng.random((M, N)) < rng.random((M, 1))
    mask[20:35] = False  # rows that nothing observes
    return MatrixCompletion.from_matrix(matrix, observed=mask)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def agree(ours, local, rng):
    manifold = FixedRank(M, N, RANK, 3, rng=rng)
    point = local.initial_point(RANK, 2.0, rng=rng)
    tangent = manifold.random_tangent_vector(point)
    direction = manifold.embedding(point, tangent)
    assert len(ours) == len(local)
    assert ours.cost(point) == pytest.approx(local.cost(point), rel=1e-13)
    assert ours.relative_error(point) == pytest.approx(local.relative_error(point), rel=1e-13)
    assert ours.curvature(point, direction) == pytest.approx(local.curvature(point, direction), rel=1e-13)
    for derivative, expected in (
        (ours.euclidean_gradient(point), local.euclidean_gradient(point)),
        (ours.euclidean_hessian(point, direction), local.euclidean_hessian(point, direction)),
    ):
        np.testing.assert_allclose(derivative @ np.eye(N), expected.toarray(), atol=1e-13)
        np.testing.assert_allclose(derivative.T @ np.eye(M), expected.toarray().T, atol=1e-13)
    for where in (manifold, FixedRankEmbedded(M, N, RANK)):
        pair = (p.problem(where).riemannian_gradient(point) for p in (ours, local))
        for a, b in zip(*pair, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("n_blocks", [1, 2, 5, 100])
def test_blocks_of_rows_add_up(n_blocks, local, rng, tmp_path):
    for directory in (None, tmp_path):
        agree(local.distribute(InThisProcess(), n_blocks, directory), local, rng)
    assert (len(list(tmp_path.iterdir())) > 1) == (n_blocks > 1)


def test_blocks_may_be_empty_or_unsorted_and_in_single_precision(local, rng):
    order = rng.permutation(len(local))
    rows, cols, values = local.rows[order], local.cols[order], local.values[order]

    def block(first, last):
        part = (first <= rows) & (rows < last)
        return RowBlock(first, last, lambda: (rows[part], cols[part], values[part]))

    blocks = [block(0, 21), block(21, 30), block(30, M)]
    agree(DistributedCompletion(InThisProcess(), blocks, (M, N)), local, rng)
    single = DistributedCompletion(InThisProcess(), blocks, (M, N), dtype=np.float32)
    point = local.initial_point(RANK, 2.0, rng=rng)
    assert single.cost(point) == pytest.approx(local.cost(point), rel=1e-6)
    for bad in (blocks[:2], blocks[1:], blocks[::-1], [], [*blocks, block(M, M)]):
        with pytest.raises(ValueError, match="must follow each other from 0 to 60"):
            DistributedCompletion(InThisProcess(), bad, (M, N))
    with pytest.raises(ValueError, match="no observed entries"):
        DistributedCompletion(InThisProcess(), [RowBlock(0, M, lambda: ([], [], []))], (M, N))
    with pytest.raises(TypeError, match="takes points"):
        single.cost(np.zeros((M, N)))


def test_one_point_is_sampled_once_and_overflow_is_infinite(local, rng):
    client = InThisProcess()
    ours = local.distribute(client, 3)
    u, s, vt = point = local.initial_point(RANK, 2.0, rng=rng)
    for _ in range(2):
        ours.cost(point)
        ours.euclidean_gradient(point)
    assert client.tasks.count("_sample") == 3
    for bad in (np.nan, np.inf, 1e200):
        assert ours.cost((u, s * bad, vt)) == np.inf


def solve(problem, callback=None):
    optimizer = ConjugateGradient(verbosity=0, max_iterations=12, line_searcher=QuadraticLineSearcher(problem))
    start = problem.initial_point(RANK, 5.0, rng=1)
    return problem.solve(FixedRank(M, N, RANK, 3), optimizer, initial_point=start, callback=callback)


@pytest.mark.slow
def test_two_workers_solve_as_one_process(client, local, rng, tmp_path):
    expected = solve(local)
    for directory in (None, tmp_path):
        ours = local.distribute(client, 6, directory)
        agree(ours, local, rng)
        costs = [r.cost for r in solve(ours).history]
        assert costs == pytest.approx([r.cost for r in expected.history], rel=1e-9)


@pytest.mark.slow
def test_a_worker_that_is_killed_during_a_step_loses_nothing(client, local, tmp_path):
    def block(first, last):
        part = slice(*np.searchsorted(local.rows, [first, last]))
        arrays, log = [np.array(a[part]) for a in (local.rows, local.cols, local.values)], str(tmp_path / "loads")

        def load():
            with open(log, "a") as file:
                file.write(f"{first}\n")
            return arrays

        return RowBlock(first, last, load)

    problem = DistributedCompletion(client, [block(k, k + 10) for k in range(0, M, 10)], (M, N))
    undisturbed = solve(problem)
    assert len((tmp_path / "loads").read_text().split()) == 6
    victim = next(iter(client.run(os.getpid).values()))
    killer = threading.Timer(0.02, os.kill, (victim, signal.SIGKILL))
    steps = []

    def disturb(record, point):
        steps.append((record.iteration, killer.finished.is_set()))
        if record.iteration == 4:
            killer.start()  # strikes while the next step is computed

    disturbed = solve(problem, disturb)
    assert (4, False) in steps
    assert (5, True) in steps
    # Blocks of which the other worker holds a copy need no loading; what is lost is computed again all the same.
    assert victim not in client.run(os.getpid).values()
    assert len(disturbed.history) == len(undisturbed.history) == 12
    for a, b in zip(disturbed.point, undisturbed.point, strict=True):
        np.testing.assert_array_equal(a, b)
