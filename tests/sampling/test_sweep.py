"""Sweeps: every cell is what it would be alone, whoever runs it and however often its worker dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numba
import numpy as np
import pytest
from networks import SQUARES
from threadpoolctl import threadpool_info

from dlngeo.geomstats import FixedRankMatrices
from dlngeo.sampling import Cell, CheckpointError, Langevin, Sampler, Samples, sweep
from dlngeo.sampling.runs import lost_workers as _losses
from dlngeo.sampling.runs import sweep as ensemble
from dlngeo.sampling.runs.lost_workers import Losses
from dlngeo.sampling.runs.sweep import WorkerLostError, cell_path

GRID = {"depth": [2, 3], "beta": [1.0, 4.0], "shape": [(2, 3), (3, 3)]}
N_STEPS = 40
CLUSTER = {"processes": True, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}


def make(rng, depth, beta, shape, chains=3):
    m, n = shape
    space = FixedRankMatrices(m, n, 2, depth=depth)
    points = np.einsum("cik,cjk->cij", rng.standard_normal((chains, m, 2)), rng.standard_normal((chains, n, 2)))
    return Cell(Langevin(space, SQUARES, beta, 0.02), points, {"norm": lambda x: np.linalg.norm(x, axis=(1, 2))})


class Walk(Sampler):
    """A slow walk."""

    def __init__(self, pause=0.0):
        self.pause = pause

    def start(self, points):
        return {"x": points}

    def step(self, state, rng):
        time.sleep(self.pause)
        return {"x": state["x"] + rng.standard_normal(state["x"].shape)}

    def points(self, state):
        return state["x"]

    def settings(self):
        return {"sampler": "Walk"}


def walk(rng, k, **options):
    return Cell(Walk(**options), rng.standard_normal((2, 3)), {"x": lambda x: x, "first": lambda x: x[:, 0]})


def test_the_result_has_the_coordinates_of_the_grid():
    found = sweep(make, GRID, N_STEPS, seed=0, burn_in=10, thin=3)
    assert dict(found.sizes) == {"depth": 2, "beta": 2, "shape": 2, "chain": 3, "draw": 10}
    assert set(found.data_vars) == {"norm", "energy", "virial"}
    assert found["shape"].values.tolist() == ["2x3", "3x3"]
    assert found.attrs == {"seed": 0, "n_steps": N_STEPS, "burn_in": 10, "thin": 3}
    vectors = sweep(walk, {"k": range(2)}, 5, seed=0)
    assert vectors["x"].dims == ("k", "chain", "draw", "x_dim_0")
    assert np.array_equal(vectors["x"][..., 0], vectors["first"])


def test_a_cell_depends_on_its_coordinates_and_the_seed_alone():
    whole = sweep(make, GRID, N_STEPS, seed=3)
    part = {"shape": [(3, 3)], "beta": [9.0, 4.0], "depth": [3]}
    found = sweep(make, part, N_STEPS, seed=3)
    at = {"depth": 3, "beta": 4.0, "shape": "3x3"}
    assert np.array_equal(found.sel(at)["norm"], whole.sel(at)["norm"])
    assert not np.array_equal(sweep(make, part, N_STEPS, seed=4).sel(at)["norm"], whole.sel(at)["norm"])


def test_cells_have_streams_of_their_own():
    found = sweep(walk, {"k": range(50)}, 40, seed=0)["x"].values
    steps = np.diff(found, axis=2).reshape(50, -1)
    assert len(np.unique(found[:, :, 0])) == found[:, :, 0].size
    correlations = np.corrcoef(steps)[np.triu_indices(50, 1)]
    assert abs(np.sqrt(steps.shape[1]) * correlations).max() < 5  # the largest of 1225 z-scores


@pytest.mark.parametrize("backend", [None, pytest.param("loky", marks=pytest.mark.slow), "threading"])
def test_workers_change_nothing(backend):
    alone = sweep(make, GRID, N_STEPS, seed=1)
    assert sweep(make, GRID, N_STEPS, seed=1, n_jobs=2, backend=backend).identical(alone)


@pytest.mark.slow
def test_workers_run_in_one_thread_each_and_this_process_gets_its_own_back():
    def threads(rng, k):
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        counts = [os.getpid(), numba.get_num_threads(), max(blas)]
        return Cell(Walk(), np.zeros((1, 3)), {"counts": lambda x: np.broadcast_to(counts, (len(x), 3))})

    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    before = (numba.get_num_threads(), threadpool_info())
    with joblib.parallel_config("loky", inner_max_num_threads=2):
        found = sweep(threads, {"k": range(4)}, 1, seed=0, n_jobs=2)["counts"].values.reshape(-1, 3)
    assert os.getpid() not in found[:, 0]
    assert np.all(found[:, 1:] == 1)
    alone = sweep(threads, {"k": range(2)}, 1, seed=0)["counts"].values.reshape(-1, 3)
    assert np.all(alone == [os.getpid(), 1, 1])
    assert (numba.get_num_threads(), threadpool_info()) == before


def test_cells_that_are_done_are_not_done_again(tmp_path):
    def counting(rng, k):
        cell = walk(rng, k)
        step = cell.sampler.step
        log = tmp_path / "log"

        def logged(state, generator):
            with log.open("a") as file:
                file.write(f"{k}\n")
            return step(state, generator)

        cell.sampler.step = logged
        return cell

    folder = tmp_path / "checkpoints"
    first = sweep(counting, {"k": [0, 1]}, 20, seed=0, checkpoint_dir=folder, n_jobs=2)
    (tmp_path / "log").unlink()
    second = sweep(counting, {"k": [0, 1, 2]}, 20, seed=0, checkpoint_dir=folder)
    again = (tmp_path / "log").read_text().split()
    assert [again.count(k) for k in "012"] == [1, 1, 22]  # one step is compared
    assert second.sel(k=[0, 1]).identical(first)
    assert sorted(path.name for path in folder.iterdir()) == sorted(cell_path(folder, {"k": k}).name for k in range(3))
    with pytest.raises(CheckpointError, match="the initial points differed"):
        sweep(counting, {"k": [0]}, 20, seed=1, checkpoint_dir=folder)


def test_a_folder_of_stores_of_zarr_is_refused(tmp_path):
    path = cell_path(tmp_path, {"k": 1})
    path.with_name(f"{path.name}.zarr").mkdir()
    with pytest.raises(CheckpointError, match="holds stores of zarr"):
        sweep(walk, {"k": [0, 1]}, 5, seed=0, checkpoint_dir=tmp_path)
    assert not path.exists()


def test_ctrl_c_keeps_what_is_done(tmp_path):
    def interrupted(rng, k):
        cell, calls = walk(rng, k), iter(range(9))
        step = cell.sampler.step

        def pressed(state, generator):
            if k == 1 and next(calls) == 8:
                raise KeyboardInterrupt
            return step(state, generator)

        cell.sampler.step = pressed
        return cell

    with pytest.raises(KeyboardInterrupt):
        sweep(interrupted, {"k": range(3)}, 20, seed=0, checkpoint_dir=tmp_path)
    assert Samples.load(cell_path(tmp_path, {"k": 0})).status == "complete"
    assert Samples.load(cell_path(tmp_path, {"k": 1})).n_steps == 6  # the first step is compared, twice
    assert not cell_path(tmp_path, {"k": 2}).exists()
    found = sweep(walk, {"k": range(3)}, 20, seed=0, checkpoint_dir=tmp_path)
    assert found.identical(sweep(walk, {"k": range(3)}, 20, seed=0))


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_loses_nothing(tmp_path):
    distributed = pytest.importorskip("distributed")
    folder = tmp_path / "checkpoints"

    def deadly(rng, k):
        """Kill the worker once, in the middle of a cell, some time after a checkpoint."""
        cell = walk(rng, k)
        step, mark = cell.sampler.step, Path(tmp_path, f"killed {k}")

        def killed(state, generator):
            reached = cell_path(folder, {"k": k}).exists() and Samples.load(cell_path(folder, {"k": k})).n_steps
            if k % 2 and reached >= 10 and not mark.exists():
                mark.write_text(str(reached))
                os.kill(os.getpid(), signal.SIGKILL)
            return step(state, generator)

        cell.sampler.step = killed
        return cell

    grid = {"k": range(4)}
    with (
        distributed.LocalCluster(**CLUSTER) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = sweep(deadly, grid, 30, seed=0, checkpoint_dir=folder, checkpoint_every=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "killed 1", "killed 3"]
    assert found.identical(sweep(walk, grid, 30, seed=0))


def test_progress_counts_the_steps_of_all_workers():
    for n_jobs in (1, 2):
        seen = []
        sweep(lambda rng, k: walk(rng, k, pause=0.01), {"k": range(4)}, 30, seed=0, n_jobs=n_jobs, progress=seen.append)
        assert sorted(seen) == seen
        assert seen[-1] == 120
        assert any(0 < done < 120 and done % 30 for done in seen)
    sweep(walk, {"k": [0]}, 3, seed=0, progress=True)


def ragged(rng, k):
    return Cell(Walk(), np.zeros((1, 3)), {"x": lambda x: x[:, :k]})


class Reporting(Walk):
    def statistics(self, state):
        return {"x": state["x"][:, 0]}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"grid": {"k": []}}, ValueError, "'k' has no values"),
        ({"grid": {"chain": [1]}}, ValueError, "'chain' is a name taken"),
        ({"grid": {"k": [1, 1]}}, ValueError, "holds a value twice"),
        ({"grid": {"k": [object()]}}, TypeError, "must be numbers, strings"),
        ({"seed": None}, ValueError, "seed must be an integer"),
        ({"seed": -1}, ValueError, "seed must be an integer"),
        ({"retries": -1}, ValueError, "retries must be an integer"),
        ({"retries": 1.0}, ValueError, "retries must be an integer"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"burn_in": 5}, ValueError, "burn_in must be"),
        ({"make": ragged, "grid": {"k": [1, 2]}}, ValueError, "'x' has different shapes"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        sweep(**{"make": walk, "grid": {"k": [0]}, "n_steps": 5, "seed": 0, **options})


def test_an_observable_that_hides_a_statistic_is_refused():
    def make(rng, k):
        return Cell(Reporting(), np.zeros((1, 3)), {"x": lambda x: x})

    with pytest.raises(ValueError, match="'x' has the name of a statistic"):
        sweep(make, {"k": [0]}, 5, seed=0)


# Workers that are killed. The last tests, as each leaves the others without the processes they share.


def killing(folder, when, *, always=False):
    """Make walks, of which that of ``k = 1`` kills its process, in the step of a number, once all others are done."""
    client = os.getpid()

    def make(rng, k):
        with (folder / "runs").open("a") as file:
            file.write(f"{k}\n")
        cell, calls = walk(rng, k), iter(range(1000))
        step = cell.sampler.step

        def killed(state, generator):
            with (folder / f"steps {k}").open("a") as file:
                file.write("1\n")
            if k == 1 and next(calls) == when and (always or not (folder / "killed").exists()):
                assert os.getpid() != client
                while not (always or (folder / "go").exists()):
                    time.sleep(0.01)
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(state, generator)

        cell.sampler.step = killed
        return cell

    return make


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    code = """
import sys
from functools import partial
from test_sweep import sweep, walk
sweep(partial(walk, pause=0.02), {"k": range(2)}, 500, seed=0, n_jobs=2, checkpoint_dir=sys.argv[1], checkpoint_every=5)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
    )
    paths = [cell_path(tmp_path, {"k": k}) for k in range(2)]
    while not all(path.exists() and Samples.load(path).n_steps >= 10 for path in paths):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=8)  # which ends with the last process that could write; those left need 10 s
    assert max(Samples.load(path).n_steps for path in paths) < 500
    found = sweep(walk, {"k": range(2)}, 500, seed=0, checkpoint_dir=tmp_path)
    assert found.identical(sweep(walk, {"k": range(2)}, 500, seed=0))


@pytest.mark.parametrize(
    "kept", [pytest.param(0, id="alone"), pytest.param(10, id="checkpoints", marks=pytest.mark.slow)]
)
def test_a_cell_whose_worker_is_killed_is_run_again(kept, tmp_path, monkeypatch):
    options = {"checkpoint_dir": tmp_path / "checkpoints", "checkpoint_every": 5} if kept else {}
    returned, seen = [], []

    class Watched(joblib.Parallel):
        def __call__(self, tasks):
            for found in super().__call__(tasks):
                yield found
                returned.append(found[0])

    def progress(done):
        seen.append(done)
        if done == 32 and returned == [0]:  # 20 steps of one cell and 12 of the other
            (tmp_path / "go").touch()

    monkeypatch.setattr(joblib, "Parallel", Watched)
    make = killing(tmp_path, 14 if kept else 12)  # with a checkpoint the first step is compared, twice
    with pytest.warns(RuntimeWarning, match="a worker was killed; these cells are run again: k=1") as warned:
        found = sweep(make, {"k": range(2)}, 20, seed=0, n_jobs=2, backend="loky", progress=progress, **options)
    assert warned[0].filename == __file__
    assert found.identical(sweep(walk, {"k": range(2)}, 20, seed=0))
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1", "1"]
    assert len((tmp_path / "steps 1").read_text().split()) == (15 + 1 + 10 if kept else 13 + 20)
    assert min(seen[seen.index(32) :]) == 20 + kept
    assert (seen[-1], returned[:2]) == (40, [0, 1])


@pytest.mark.slow
def test_a_cell_that_always_kills_its_worker_is_named_and_the_others_are_kept(tmp_path):
    grid, options = {"k": range(3)}, {"seed": 0, "checkpoint_dir": tmp_path / "checkpoints"}
    make = killing(tmp_path, 5, always=True)
    with (
        pytest.warns(RuntimeWarning, match="k=1"),
        pytest.raises(WorkerLostError, match=r"killed, 2 times in a row, .*k=1.*; what is done is in the") as caught,
    ):
        sweep(make, grid, 20, n_jobs=2, backend="loky", retries=1, **options)
    assert {"k": 1} in caught.value.cells
    assert isinstance(caught.value.__cause__, _losses.TerminatedWorkerError)
    assert (tmp_path / "runs").read_text().split().count("1") == 2
    found = sweep(walk, grid, 20, **options)
    assert found.identical(sweep(walk, grid, 20, seed=0))


@pytest.mark.slow
def test_a_cell_that_dask_gives_up_is_named_and_the_cluster_serves_on(tmp_path):
    """Left to itself, joblib would wait for it for ever."""
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    grid, options = {"k": range(3)}, {"seed": 0, "checkpoint_dir": tmp_path / "checkpoints"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(**CLUSTER) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        with pytest.raises(WorkerLostError, match=r"killed, and dask gave up, .*k=1") as caught:
            sweep(killing(tmp_path, 5, always=True), grid, 20, **options)
        assert {"k": 1} in caught.value.cells
        assert isinstance(caught.value.__cause__, distributed.KilledWorker)
        client.wait_for_workers(2)
        found = sweep(walk, grid, 20, **options)
    assert (tmp_path / "runs").read_text().split().count("1") == 2
    assert found.identical(sweep(walk, grid, 20, seed=0))


def test_cells_are_marked_as_long_as_they_are_under_way(tmp_path):
    with ensemble._counted(False, 3, 10) as (counts, under_way):
        with ensemble._counting(counts.filename, 1) as tick:
            tick(4)
            assert (counts.tolist(), under_way.tolist()) == ([0, 4, 0], [0, 1, 0])
        assert (counts.tolist(), under_way.tolist()) == ([0, 4, 0], [0, 0, 0])
        with pytest.raises(ZeroDivisionError), ensemble._counting(counts.filename, 1):
            raise ZeroDivisionError
        assert not under_way.any()
    with ensemble._counting(str(tmp_path / "absent"), 1) as tick:
        assert tick is False


def lose(losses, marks, *, error=None, counts=None):
    counts, marks = np.zeros(len(marks), int) if counts is None else counts, np.array(marks)
    try:
        losses.add(list(range(len(marks))), counts, marks, error or _losses.TerminatedWorkerError())
    finally:
        assert not marks.any()


@pytest.mark.filterwarnings("ignore:a worker was killed")
def test_losses_are_counted_in_a_row_and_afresh_after_progress(tmp_path):
    cells, paths = [{"k": k} for k in range(4)], [tmp_path / str(k) for k in range(4)]
    losses, counts = Losses(cells, paths, 2), np.array([3, 7, 20, 0])  # the third was done, and lost on its way
    lose(losses, [1, 1, 0, 0], counts=counts)
    assert counts.tolist() == [0, 0, 0, 0]
    Walk().sample(np.zeros((1, 3)), 2, checkpoint=paths[0])
    lose(losses, [1, 1, 0, 0], counts=counts)
    assert (losses.in_a_row, counts.tolist()) == ([1, 2, 0, 0], [2, 0, 0, 0])
    assert losses.ordered([0, 1, 2, 3]) == [2, 3, 0, 1]
    lose(losses, [1, 0, 1, 0])
    with pytest.raises(WorkerLostError, match="3 times in a row, with these cells under way: k=1;") as caught:
        lose(losses, [0, 1, 1, 0])
    assert caught.value.cells == [{"k": 1}]
    # A worker that died before it had begun, or on another machine, leaves no mark.
    lose(Losses(cells, paths, 1), [0, 0, 0, 0])
    with pytest.raises(WorkerLostError, match=r"killed, once, .*: k=0; k=1; k=2; k=3;"):
        lose(Losses(cells, paths, 0), [0, 0, 0, 0])
    with pytest.raises(WorkerLostError, match=r"k=7; and 2 more; nothing is kept"):
        lose(Losses([{"k": k} for k in range(10)], [None] * 10, 0), [0] * 10)


def test_what_dask_gave_up_is_not_run_again():
    error = ValueError()
    error.cells = [{"k": 2}]
    with pytest.raises(WorkerLostError, match="and dask gave up, with these cells under way: k=2;"):
        lose(Losses([{"k": k} for k in range(4)], [None] * 4, 3), [0, 0, 0, 0], error=error)
