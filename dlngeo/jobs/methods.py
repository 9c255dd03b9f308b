"""The methods that are compared. Each takes the same entries and reports its path in the same way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pymanopt.manifolds
from pymanopt.optimizers import ConjugateGradient
from pymanopt.optimizers.line_search import AdaptiveLineSearcher

from dlngeo.problems import MatrixCompletion, Record, solve
from dlngeo.pymanopt import FixedRank

__all__ = ["ALS_RIDGES", "Row", "Task", "alternating_least_squares", "infinite_depth", "manifold", "truncated_svd"]

ALS_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)
_ALS_SWEEPS = 60
# An infinitely deep network has full rank, so that a step costs an SVD of the whole matrix.
MAX_SIDE_OF_INFINITE_DEPTH = 600

Point = tuple[np.ndarray, np.ndarray, np.ndarray]
Tick = Callable[[str, int], None]


@dataclass(frozen=True)
class Task:
    """Standardised entries to fit, to choose when to stop, and only to report; and what every method is given."""

    train: MatrixCompletion
    validation: MatrixCompletion
    test: MatrixCompletion
    rank: int
    start: float
    iterations: int
    patience: int | None
    seed: int


@dataclass
class Row:
    """One line of the table, with the path that led to it.

    ``best`` is the point with the smallest validation error, which is what is reported, and ``best_iteration`` where it
    was; ``history`` maps a column name to one value per recorded iteration.
    """

    name: str
    depth: float | None = None
    status: str = ""
    message: str = ""
    iterations: int = 0
    best_iteration: int = 0
    seconds: float = 0.0
    best: Point | None = None
    last: Point | None = None
    history: dict[str, list[Any]] = field(default_factory=dict)


class _Path:
    """Records a path at iterations 0, 1, … 20 and then ever more sparsely, so that watching stays cheap."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._next = 0
        self.history: dict[str, list[Any]] = {
            name: []
            for name in ("iteration", "train_error", "validation_error", "test_error", "seconds", "singular_values")
        }

    def add(self, iteration: int, point: Point, validation_error: float, seconds: float) -> None:
        if iteration < self._next:
            return
        self._next = max(iteration + 1, math.ceil(iteration * 1.04))
        values = (
            iteration,
            self._task.train.relative_error(point),
            validation_error,
            self._task.test.relative_error(point),
            seconds,
            np.sort(point[1])[::-1][: self._task.rank].tolist(),
        )
        for column, value in zip(self.history.values(), values, strict=True):
            column.append(value)


def manifold(task: Task, name: str, depth: float | None, tick: Tick) -> Row:
    """Conjugate gradient on a manifold of fixed rank: ours of the given depth, or pymanopt's if ``depth`` is None."""
    m, n = task.train.shape
    theirs = pymanopt.manifolds.FixedRankEmbedded
    space = theirs(m, n, task.rank) if depth is None else FixedRank(m, n, task.rank, depth=depth)
    start = task.train.initial_point(task.rank, task.start, task.seed)
    return _conjugate_gradient(task, Row(name, depth), space, start, tick)


def infinite_depth(task: Task, name: str, tick: Tick) -> Row:
    """Conjugate gradient in the metric of infinite depth.

    Its kernel vanishes at a zero singular value, so that it exists on square invertible matrices only. The matrix is
    padded to a square one by rows or columns that nothing observes, which changes neither the cost nor the error, and
    the rank is full.
    """
    side = max(task.train.shape)
    train, validation, test = (
        MatrixCompletion(part.rows, part.cols, part.values, (side, side))
        for part in (task.train, task.validation, task.test)
    )
    padded = replace(task, train=train, validation=validation, test=test)
    start = padded.train.initial_point(side, task.start, task.seed)
    row = _conjugate_gradient(padded, Row(name, math.inf), FixedRank(side, side, side, depth=math.inf), start, tick)
    row.best, row.last = (_cropped(point, task.train.shape) for point in (row.best, row.last))
    return row


def _conjugate_gradient(task: Task, row: Row, space: Any, start: Point, tick: Tick) -> Row:
    path = _Path(task)

    def watch(record: Record, point: Point) -> None:
        path.add(record.iteration, point, record.heldout_error, record.seconds)
        tick(row.name, record.iteration)

    # The first trial step is short, and the search may halve often: from a small start the cost falls steeply, and a
    # step that jumps far from it forgets the start, on which the bias toward low rank rests.
    search = AdaptiveLineSearcher(initial_step_size=0.01, max_iterations=40)
    problem = task.train.problem(space)
    # A small start is near a saddle, where a deep metric makes every gradient small: that is not convergence.
    first = float(space.norm(start, problem.riemannian_gradient(start)))
    solution = solve(
        problem,
        ConjugateGradient(
            verbosity=0,
            max_iterations=task.iterations + 1,
            max_time=math.inf,
            min_gradient_norm=1e-6 * min(1.0, first),
            line_searcher=search,
        ),
        initial_point=start,
        heldout_error=task.validation.relative_error,
        patience=task.patience,
        callback=watch,
    )
    row.status, row.iterations = solution.status, solution.iterations
    row.best_iteration, row.seconds = solution.best.iteration, solution.history[-1].seconds
    row.best, row.last, row.history = solution.best_point, solution.point, path.history
    return row


def _cropped(point: Point | None, shape: tuple[int, int]) -> Point | None:
    """Return the upper left block of a factored matrix, factored as an SVD again."""
    if point is None or (point[0].shape[0], point[2].shape[1]) == shape:
        return point
    u, s, vt = point
    return np.linalg.svd((u[: shape[0]] * s) @ vt[:, : shape[1]], full_matrices=False)


def alternating_least_squares(task: Task, name: str, tick: Tick) -> Row:
    r"""Alternating least squares: ``min ½ Σ_Ω ((L Rᵀ)_ij − a_ij)² + ½ λ (‖L‖² + ‖R‖²)``.

    The validation entries choose the number of sweeps and λ among `ALS_RIDGES` (in units of the standardised data); the
    time is that of the whole search, the path that of the λ chosen.
    """
    began = time.perf_counter()
    row, chosen = Row(name), math.inf
    problem = task.train
    by_row = _grouped(problem.rows, problem.cols, problem.values, problem.shape[0])
    by_col = _grouped(problem.cols, problem.rows, problem.values, problem.shape[1])
    _, _, vt = problem.initial_point(task.rank, 1.0, task.seed)
    done = 0
    try:
        for ridge in ALS_RIDGES:
            path, stale, errors = _Path(task), 0, [math.inf]
            right = vt.T * math.sqrt(problem.shape[1] / task.rank)
            for sweep in range(1, _ALS_SWEEPS + 1):
                left = _ridge_solve(by_row, right, ridge)
                right = _ridge_solve(by_col, left, ridge)
                point = _svd_of_product(left, right)
                error = task.validation.relative_error(point)
                path.add(sweep, point, error, time.perf_counter() - began)
                stale = 0 if error < min(errors) * (1 - 1e-4) else stale + 1
                errors.append(error)
                if error < chosen:
                    chosen, row.best, row.best_iteration = error, point, sweep
                    row.message, row.history = f"λ = {ridge:g} chosen on the validation entries", path.history
                if row.history is path.history:
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
    return Row(name, status="all entries known", seconds=time.perf_counter() - began, best=point, last=point)
