"""The methods that know nothing of depth, and the one made of it that follows no path: what depth is compared with."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from dlngeo.jobs.methods import Path, Point, Row, Task, Tick

__all__ = ["RIDGES", "additive", "alternating_least_squares", "reweighted", "truncated_svd"]

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
_ALS_SWEEPS = 60


def additive(task: Task, name: str) -> Row:
    r"""Offsets of rows and columns: ``min ½ Σ_Ω (a_i + b_j − x_ij)² + ½ λ (‖a‖² + ‖b‖²)``, the mean being zero.

    The validation entries choose λ among `RIDGES`.
    """
    began = time.perf_counter()
    train, (m, n) = task.train, task.train.shape
    count, ones = len(train), np.ones(2 * len(train))
    places = np.repeat(np.arange(count), 2), np.column_stack((train.rows, m + train.cols)).ravel()
    design = scipy.sparse.csr_array((ones, places), (count, m + n))
    row, least = Row(name, status="converged"), math.inf
    for ridge in RIDGES:
        offsets = scipy.sparse.linalg.lsqr(design, train.values, damp=math.sqrt(ridge), atol=1e-10, btol=1e-10)[0]
        left = np.column_stack((offsets[:m], np.ones(m)))
        point = _svd_of_product(left, np.column_stack((np.ones(n), offsets[m:])))
        if (error := task.validation.relative_error(point)) < least:
            least, row.best, row.message = error, point, f"λ = {ridge:g} chosen on the validation entries"
    row.last, row.seconds = row.best, time.perf_counter() - began
    return row


def reweighted(task: Task, name: str, tick: Tick) -> Row:
    """Reweighted least squares, see :mod:`dlngeo.problems.reweighted`: the rank is not given."""
    began, path, row = time.perf_counter(), Path(task), Row(name, unit="sweeps")

    def watch(sweep: Any, point: Point) -> None:
        path.visit(sweep.iteration, point, sweep.heldout_error, sweep.seconds)
        row.last, row.iterations = point, sweep.iteration
        tick(name, sweep.iteration)

    found = task.train.complete(heldout=task.validation, rng=task.seed, callback=watch)
    row.best, row.best_iteration = found.point, len(found.history)
    row.status, row.message = found.status, f"rank {found.rank}"
    row.history, row.seconds = path.columns, time.perf_counter() - began
    return row


def alternating_least_squares(task: Task, name: str, tick: Tick) -> Row:
    r"""Alternating least squares: ``min ½ Σ_Ω ((L Rᵀ)_ij − a_ij)² + ½ λ (‖L‖² + ‖R‖²)``.

    The validation entries choose the number of sweeps and λ among `RIDGES` (in units of the standardised data); the
    time is that of the whole search, the path that of the λ chosen.
    """
    began = time.perf_counter()
    row, chosen = Row(name, unit="sweeps"), math.inf
    problem = task.train
    by_row = _grouped(problem.rows, problem.cols, problem.values, problem.shape[0])
    by_col = _grouped(problem.cols, problem.rows, problem.values, problem.shape[1])
    _, _, vt = problem.initial_point(task.rank, 1.0, task.seed)
    done = 0
    try:
        for ridge in RIDGES:
            path, stale, errors = Path(task), 0, [math.inf]
            right = vt.T * math.sqrt(problem.shape[1] / task.rank)
            for sweep in range(1, _ALS_SWEEPS + 1):
                left = _ridge_solve(by_row, right, ridge)
                right = _ridge_solve(by_col, left, ridge)
                point = _svd_of_product(left, right)
                error = task.validation.relative_error(point)
                path.visit(sweep, point, error, time.perf_counter() - began)
                stale = 0 if error < min(errors) * (1 - 1e-4) else stale + 1
                errors.append(error)
                if error < chosen:
                    chosen, row.best, row.best_iteration = error, point, sweep
                    row.message, row.history = f"λ = {ridge:g} chosen on the validation entries", path.columns
                if row.history is path.columns:
                    row.last, row.iterations = point, sweep
                done += 1
                tick(name, done)
                if stale == 5:
                    break
        row.status = "converged"
    except KeyboardInterrupt:
        row.status = "interrupted"
    row.seconds = time.perf_counter() - began
    return row


def _grouped(
    keys: np.ndarray, others: np.ndarray, values: np.ndarray, size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each key, the other indices and the values that occur with it."""
    order = np.argsort(keys, kind="stable")
    bounds = np.searchsorted(keys[order], np.arange(1, size))
    return list(zip(np.split(others[order], bounds), np.split(values[order], bounds), strict=True))


def _ridge_solve(groups: list[tuple[np.ndarray, np.ndarray]], factor: np.ndarray, ridge: float) -> np.ndarray:
    """One half sweep: a small regularised least-squares problem for each row."""
    eye = ridge * np.eye(factor.shape[1])
    pairs = ((factor[index], values) for index, values in groups)
    return np.array([np.linalg.solve(f.T @ f + eye, f.T @ v) for f, v in pairs])


def _svd_of_product(left: np.ndarray, right: np.ndarray) -> Point:
    """SVD of ``left rightᵀ`` from the factors."""
    (q, a), (p, b) = np.linalg.qr(left), np.linalg.qr(right)
    u, s, vt = np.linalg.svd(a @ b.T)
    return q @ u, s, vt @ p.T


def truncated_svd(task: Task, name: str, matrix: np.ndarray) -> Row:
    """Find the best matrix of this rank if every entry were known: a floor, not a method."""
    began = time.perf_counter()
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    point = u[:, : task.rank], s[: task.rank], vt[: task.rank]
    return Row(
        name, status="all entries known", floor=True, seconds=time.perf_counter() - began, best=point, last=point
    )
