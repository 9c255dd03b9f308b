"""Cells of a sweep whose worker was killed: which they are, how often it happened, and when to give up."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError

from dlngeo.sampling.runs.store import CheckpointError, read_manifest

__all__ = ["RETRIES", "Losses", "WorkerLostError", "label", "loss_errors", "reporting", "words"]

RETRIES = 3  # as many as dask allows a task by default
_NAMED = 8  # cells in a message


class WorkerLostError(RuntimeError):
    """Workers were killed again and again while they ran certain cells.

    Attributes
    ----------
    cells : list of dict
        The coordinates of these cells. One of them may be what kills the workers, most likely by lack of memory.

    See Also
    --------
    dlngeo.sampling.sweep
    dlngeo.sampling.CheckpointError

    Examples
    --------
    >>> from dlngeo.sampling import WorkerLostError
    >>> try:  # as sweep does
    ...     raise WorkerLostError("a worker was killed", [{"depth": 2, "size": 100}, {"depth": 3, "size": 10000}])
    ... except WorkerLostError as error:
    ...     print(max(cell["size"] for cell in error.cells))
    10000
    """

    def __init__(self, message: str, cells: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.cells = [dict(cell) for cell in cells]


class Losses:
    """How often in a row each cell, of a checkpoint at its path, lost its worker.

    As many losses in a row as ``retries`` are forgiven, counted afresh where the checkpoint got further since.
    """

    def __init__(self, cells: Sequence[Mapping[str, Any]], paths: Sequence[Path | None], retries: int) -> None:
        self._cells, self._paths, self._retries = cells, paths, retries
        self.in_a_row, self._kept = [0] * len(cells), [0] * len(cells)

    def ordered(self, places: Sequence[int]) -> list[int]:
        """Put those last that lost workers, so that one that kills every worker keeps no other from being done."""
        return sorted(places, key=lambda place: self.in_a_row[place])

    def add(self, left: Sequence[int], counts: np.ndarray, under_way: np.ndarray, error: Exception) -> None:
        """Count a loss, and set the counts of steps and marks of the cells that are left to what is kept.

        It is the end if it is one too many, or dask gave up, which has run the cell again by itself.
        """
        blamed = getattr(error, "cells", [self._cells[place] for place in left])
        lost = [place for place in left if under_way[place]] or [p for p in left if self._cells[p] in blamed]
        counts[list(left)] = under_way[:] = 0
        for place in lost:
            before, self._kept[place] = self._kept[place], _kept(self._paths[place])
            self.in_a_row[place] = 1 if self._kept[place] > before else self.in_a_row[place] + 1
            counts[place] = self._kept[place]
        again = isinstance(error, TerminatedWorkerError)
        bad = [self._cells[place] for place in lost if not again or self.in_a_row[place] > self._retries]
        if bad:
            kept = "what is done is in the checkpoints" if self._paths[0] else "nothing is kept without checkpoints"
            times = "once" if self._retries == 0 else f"{self._retries + 1} times in a row"
            times = times if again else "and dask gave up"
            raise WorkerLostError(
                f"workers were killed, {times}, with these cells under way: {_named(bad)}; {kept}. If memory is short, "
                "run fewer cells at a time, or smaller ones.",
                bad,
            ) from error
        names = _named([self._cells[place] for place in lost])
        warnings.warn(f"a worker was killed; these cells are run again: {names}.", RuntimeWarning, stacklevel=4)


def loss_errors() -> tuple[type[Exception], ...]:
    """Errors by which the backends of joblib say that a worker was killed, and with it what it ran."""
    dask = sys.modules.get("distributed.scheduler")  # whoever runs on a cluster has imported it
    found = [getattr(dask, name, None) for name in ("KilledWorker", "NoWorkerError")]  # the second is new
    return (TerminatedWorkerError, *(error for error in found if error is not None))


@contextmanager
def reporting() -> Iterator[None]:
    """Have dask say that it gave up a task, for want of workers that survive it; joblib 1.6 would wait for ever.

    Its backend hears of what tasks return or raise, and of no other end. It serves for no second run after that, so
    that this one gets its own.
    """
    given, _ = joblib.parallel.get_active_backend()
    if not hasattr(given, "client"):
        yield
        return
    options = {**given.submit_kwargs, "wait_for_workers_timeout": given.wait_for_workers_timeout}
    backend = type(given)(client=given.client, scatter=given._scatter, **options)

    def submit(batch: Any, callback: Callable[[Any], Any]) -> Any:
        def tell(done: Any) -> None:
            error = done.exception()
            if error is not None:
                error.cells = [arguments[1] for _, arguments, _ in batch.items]
                callback(error)

        future = type(backend).submit(backend, batch, callback)
        future.add_done_callback(tell)
        return future

    backend.submit = submit
    with joblib.parallel_config(backend):
        try:
            yield
        finally:
            given.client.cancel(list(backend._results))  # it would run what joblib has given up


def words(cell: Mapping[str, Any]) -> list[str]:
    """Return ``name=value`` for each coordinate."""
    return [f"{name}={label(value)}" for name, value in cell.items()]


def label(value: Any) -> Any:
    """Return a number or a string as it is, and ``3x4`` for the tuple (3, 4)."""
    return "x".join(str(label(entry)) for entry in value) if isinstance(value, (tuple, list)) else value


def _named(cells: Sequence[Mapping[str, Any]]) -> str:
    more = [f"and {len(cells) - _NAMED} more"] if len(cells) > _NAMED else []
    return "; ".join([*(", ".join(words(cell)) for cell in cells[:_NAMED]), *more])


def _kept(path: Path | None) -> int:
    """Read how many steps a checkpoint has got to."""
    try:
        return 0 if path is None else int(read_manifest(path)["n_steps"])
    except (CheckpointError, OSError):
        return 0  # none was made yet; if it is damaged, the next run says so
