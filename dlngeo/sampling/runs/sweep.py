"""Sweeps: the same sampler over a grid of depths, temperatures, shapes, seeds, on all cores or on a cluster.

One code path for all of joblib's backends: processes of this machine, or, inside
``joblib.parallel_config(backend="dask")``, the workers of a cluster. Cells draw from independent streams, whose keys
are the coordinates of the cell and not its place in the grid: a grid may grow, or be run in parts, in any order and by
any number of workers, and every cell stays what it was. So a cell whose worker was killed is run again, to the same
result. With a folder for checkpoints a cell that is done is not done again, and one that is half done goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numba
import numpy as np
import xarray
from threadpoolctl import threadpool_limits

from dlngeo import _check
from dlngeo.sampling.chain import Sampler
from dlngeo.sampling.runs.lost_workers import RETRIES, Losses, WorkerLostError, label, loss_errors, reporting, words
from dlngeo.sampling.runs.store import CheckpointError, plain

__all__ = ["Cell", "WorkerLostError", "cell_path", "run_cells", "sweep"]

_POLL = 0.1  # seconds between looks at how far the workers are
_RESERVED = ("rng", "chain", "draw")


class Cell(NamedTuple):
    """What to run in a cell of a sweep.

    Attributes
    ----------
    sampler : Sampler
    initial_points : array, Samples or dict
        As :meth:`Sampler.sample` takes them.
    observables : dict of callable
        Functions of points, shape=[n, *point_shape], to values, shape=[n, …], by name.

    See Also
    --------
    dlngeo.sampling.sweep
    dlngeo.sampling.Sampler

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import BrownianMotion, Cell
    >>> cell = Cell(BrownianMotion(Euclidean(2), 0.1), np.zeros((3, 2)), {"norm": lambda x: np.linalg.norm(x, axis=-1)})
    >>> draws = cell.sampler.sample(cell.initial_points, 5, rng=0)
    >>> bool(np.allclose(draws.observe(cell.observables["norm"]) ** 2, np.sum(draws.points**2, axis=-1)))
    True
    """

    sampler: Sampler
    initial_points: Any
    observables: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}


def sweep(
    make: Callable[..., Cell],
    grid: Mapping[str, Iterable[Any]],
    n_steps: int,
    *,
    seed: int,
    burn_in: int = 0,
    thin: int = 1,
    n_jobs: int | None = None,
    backend: Any = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    retries: int = RETRIES,
    progress: bool | Callable[[int], Any] = False,
) -> xarray.Dataset:
    """Run a sampler at each point of a grid.

    Parameters
    ----------
    make : callable
        ``make(rng, **coordinates)`` returns the :class:`Cell` of one point of the grid, with initial points that may be
        drawn from the generator ``rng``. It is sent to the workers, so it may be any function, a local one too.
    grid : dict
        Values of the coordinates by name: ``{"depth": [1, 2, 4], "beta": [1.0, 10.0], "replica": range(5)}``. They are
        numbers, strings, or tuples of such.
    n_steps, burn_in, thin
        As in :meth:`Sampler.sample`.
    seed : int
        Root of all streams: a cell gets the child of ``numpy.random.SeedSequence(seed)`` whose spawn key is the digest
        of its coordinates.
    n_jobs : int, optional
        Cells to run at a time, −1 for all cores, as in joblib: by default 1, or what ``joblib.parallel_config`` says.
        Each runs in one thread.
    backend : str, optional
        Backend of joblib; by default processes, or what ``joblib.parallel_config`` says.
    checkpoint_dir : path, optional
        Folder for one checkpoint of each cell, which all workers can reach. What is done there is not done again, and
        what is half done goes on.
    checkpoint_every
        As in :meth:`Sampler.sample`.
    retries : int
        How many times in a row a cell is run again whose worker was killed, by a lack of memory or from outside. It
        goes on from its checkpoint, and may lose any number of workers if the checkpoint gets further between them.
        Cells that lost a worker come after the others, so that one that kills every worker is the last. On a cluster
        dask decides (``distributed.scheduler.allowed-failures``, 3 by default).
    progress : bool or callable
        Show a progress bar; or call this now and then with the number of steps done in all cells. What a killed worker
        did since the checkpoint is taken off.

    Returns
    -------
    xarray.Dataset
        Observables and the statistics of the sampler at all draws, of dimensions ``(*grid, "chain", "draw", …)``, with
        the coordinates of the grid. ArviZ takes what is left of it at one point of the grid.

    Raises
    ------
    CheckpointError
        If a checkpoint is one of another run, or damaged.
    KeyboardInterrupt
        On Ctrl-C; the checkpoints keep what is done.
    WorkerLostError
        If a cell loses its worker more than ``retries`` times in a row, or dask gives it up; it says which, and the
        checkpoints keep what is done.
    TypeError, ValueError
        If the grid is empty or its values are of other types, observables differ in shape from cell to cell, or a
        step fails.

    See Also
    --------
    dlngeo.sampling.Cell
    dlngeo.sampling.Samples

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo.sampling import BrownianMotion, Cell, sweep
    >>> def make(rng, dim):
    ...     square = {"square": lambda x: np.sum(x**2, axis=-1)}
    ...     return Cell(BrownianMotion(Euclidean(dim), 0.1), np.zeros((4000, dim)), square)
    >>> found = sweep(make, {"dim": [1, 2, 4]}, n_steps=10, seed=0)
    >>> bool(np.allclose(found.square.isel(draw=-1).mean("chain") / found.dim, 1, atol=0.1))  # of mean dim · t
    True
    """
    axes = {name: list(values) for name, values in grid.items()}
    for name, values in axes.items():
        if not values or name in _RESERVED:
            raise ValueError(f"the grid's {name!r} " + ("has no values." if not values else "is a name taken here."))
        if len({json.dumps(plain(value)) for value in values}) < len(values):
            raise ValueError(f"the grid's {name!r} holds a value twice: {values}. Replicas need a coordinate.")
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    options = {"burn_in": burn_in, "thin": thin, "checkpoint_every": checkpoint_every}
    columns = run_cells(make, cells, n_steps, seed, n_jobs, backend, checkpoint_dir, retries, progress, **options)
    return _dataset(axes, columns, {"seed": seed, "n_steps": n_steps, "burn_in": burn_in, "thin": thin})


def run_cells(
    make: Callable[..., Cell],
    cells: Sequence[dict[str, Any]],
    n_steps: int,
    seed: int,
    n_jobs: int | None = None,
    backend: Any = None,
    checkpoint_dir: str | Path | None = None,
    retries: int = RETRIES,
    progress: bool | Callable[[int], Any] = False,
    **options: Any,
) -> list[dict[str, np.ndarray]]:
    """Run some cells, in parallel, and return observables and statistics of each; see :func:`sweep`."""
    n_steps = _check.positive_integer(n_steps, "n_steps")
    for name, value in (("seed", seed), ("retries", retries)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}.")
    paths = [None if checkpoint_dir is None else cell_path(checkpoint_dir, cell) for cell in cells]
    for path in paths:
        if path is not None and path.with_name(f"{path.name}.zarr").exists():
            raise CheckpointError(
                f"{path.parent} holds stores of zarr, which are not read any more; give another folder."
            )
    losses, found, run, here = Losses(cells, paths, retries), {}, joblib.delayed(_run), os.getpid()
    with (
        joblib.parallel_config(backend) if backend is not None else nullcontext(),
        reporting(),
        _counted(progress, len(cells), n_steps) as (counts, under_way),
        threadpool_limits(1),
    ):
        while left := losses.ordered([place for place in range(len(cells)) if place not in found]):
            tasks = (
                run(make, cells[k], n_steps, int(seed), {**options, "checkpoint": paths[k]}, (counts.filename, k), here)
                for k in left
            )
            try:
                for place, columns in joblib.Parallel(n_jobs, return_as="generator_unordered")(tasks):
                    counts[place] = n_steps
                    found[place] = columns
            except loss_errors() as error:
                losses.add([place for place in left if place not in found], counts, under_way, error)
    return [found[place] for place in range(len(cells))]


def cell_path(folder: str | Path, cell: Mapping[str, Any]) -> Path:
    """Where the checkpoint of a cell is, named for its coordinates.

    Parameters
    ----------
    folder : path
        The folder that :func:`sweep` got.
    cell : dict
        Coordinates by name.
    """
    name = re.sub(r"[^A-Za-z0-9.,=+-]+", "_", ",".join(words(cell)))
    return Path(folder) / f"{name[:80]}-{_digest(cell).hex()[:8]}"


def _run(
    make: Callable[..., Cell],
    cell: dict[str, Any],
    n_steps: int,
    seed: int,
    options: dict[str, Any],
    counter: tuple[str, int],
    parent: int,
) -> tuple[int, dict[str, np.ndarray]]:
    """Run one cell, in a worker."""
    if os.getppid() == parent:  # not in this process, nor on a cluster
        _end_with(parent)
    key = tuple(int(word) for word in np.frombuffer(_digest(cell)[:16], dtype="<u4"))
    for_start, for_chain = (np.random.default_rng(s) for s in np.random.SeedSequence(seed, spawn_key=key).spawn(2))
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1), _counting(*counter) as tick:
            sampler, points, observables = make(for_start, **cell)
            samples = sampler.sample(points, n_steps, rng=for_chain, progress=tick, **options)
            if samples.status == "interrupted":
                raise KeyboardInterrupt
            columns = {name: samples.observe(function) for name, function in observables.items()}
    finally:
        numba.set_num_threads(threads)
    for name in columns.keys() & samples.statistics.keys():
        raise ValueError(f"the observable {name!r} has the name of a statistic of {type(sampler).__name__}; rename it.")
    return counter[1], {**columns, **samples.statistics}


@cache
def _end_with(parent: int) -> None:
    """End this process with the one that started it, however that ends: left alone, it would hold its checkpoints.

    The kernel could do it (``PR_SET_PDEATHSIG``), but by the end of the thread that started this process, which is one
    of loky's own and ends before the process does.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _dataset(
    axes: Mapping[str, Sequence[Any]], columns: list[dict[str, np.ndarray]], about: dict[str, Any]
) -> xarray.Dataset:
    sizes = [len(values) for values in axes.values()]
    variables = {}
    for name in sorted(set().union(*columns)):
        shapes = {found[name].shape if name in found else () for found in columns}
        if len(shapes) > 1:
            raise ValueError(
                f"{name!r} has different shapes in different cells, {sorted(shapes)}; give observables and chains of "
                "one shape, or sweep over each apart."
            )
        (shape,) = shapes
        dims = (*axes, "chain", "draw", *(f"{name}_dim_{k}" for k in range(len(shape) - 2)))
        variables[name] = (dims, np.stack([found[name] for found in columns]).reshape(*sizes, *shape))
    coordinates = {name: [label(value) for value in values] for name, values in axes.items()}
    return xarray.Dataset(variables, coordinates, about)


def _digest(cell: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(plain(cell), sort_keys=True).encode()).digest()


@contextmanager
def _counting(file: str, place: int) -> Iterator[Callable[[int], Any] | bool]:
    """Mark a cell as under way, for as long as the block lasts or if it is never left, and count its steps."""
    try:
        counts, under_way = np.memmap(file, dtype=np.int64, mode="r+").reshape(2, -1)
    except OSError:
        yield False  # on another machine; then only whole cells are counted
        return

    def tick(done: int) -> None:
        counts[place] = done

    under_way[place] = 1
    try:
        yield tick
    finally:
        under_way[place] = 0


@contextmanager
def _counted(
    progress: bool | Callable[[int], Any], n_cells: int, n_steps: int
) -> Iterator[tuple[np.memmap, np.memmap]]:
    """Give a file in which workers count their steps, and mark the cells under way; and show the sum."""
    from rich.progress import Progress  # which draws from Python's random as it is imported

    with tempfile.TemporaryDirectory(prefix="dlngeo-") as folder, Progress(disable=progress is not True) as bar:
        counts, under_way = np.memmap(Path(folder) / "steps", dtype=np.int64, mode="w+", shape=(2, n_cells))
        task, over = bar.add_task("sampling", total=n_cells * n_steps), threading.Event()

        def report() -> None:
            done = int(np.sum(counts))
            bar.update(task, completed=done)
            if callable(progress):
                progress(done)

        def watch() -> None:
            while not over.wait(_POLL):
                report()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield counts, under_way
        finally:
            over.set()
            watcher.join()
            report()
