"""Matrices of fixed rank in the metric of a depth, by several optimizers: the rows that are compared with others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymanopt.manifolds import FixedRankEmbedded
from pymanopt.optimizers import ConjugateGradient, TrustRegions
from pymanopt.optimizers.optimizer import Optimizer

from dlngeo.jobs.output import History
from dlngeo.kernels import InfiniteDepthKernel, RegularizedKernel
from dlngeo.problems import MatrixCompletion, Record, Solution, solve
from dlngeo.pymanopt import FixedRank, GradientFlow, SmallStartLineSearcher

__all__ = ["OPTIMIZERS", "Path", "Row", "Task", "embedded", "follow", "grown", "manifold"]

# In words, and the limit of iterations unless one is given.
OPTIMIZERS = {
    "flow": ("gradient flow", 120),
    "cg": ("conjugate gradients", 500),
    "trust-regions": ("trust regions", 200),
}
# Steps of a flow that grows without a smaller error: what rises then is noise, or what no low rank accounts for.
_PATIENCE = 25

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
    iterations: int | None
    patience: int | None
    seed: int


@dataclass
class Row:
    """One line of the table, with the path that led to it.

    ``best`` is the point with the smallest validation error, which is what is reported, and ``best_iteration`` where it
    was; ``history`` maps a column name to one value per recorded iteration, which are counted in ``unit``. A ``floor``
    is no method: it was given the test entries.
    """

    name: str
    depth: float | None = None
    optimizer: str | None = None
    unit: str = "iterations"
    floor: bool = False
    status: str = ""
    message: str = ""
    iterations: int = 0
    best_iteration: int = 0
    seconds: float = 0.0
    best: Point | None = None
    last: Point | None = None
    history: dict[str, list[Any]] = field(default_factory=dict)


class Path(History):
    """The history of a row."""

    def __init__(self, task: Task) -> None:
        self._task = task
        super().__init__(
            "iteration", "train_error", "validation_error", "test_error", "seconds", "singular_values"
        )  # fmt: skip

    def visit(self, iteration: int, point: Point, validation_error: float, seconds: float) -> None:
        task = self._task
        self.add(
            iteration,
            lambda: (
                iteration,
                task.train.relative_error(point),
                validation_error,
                task.test.relative_error(point),
                seconds,
                np.pad(np.sort(point[1])[::-1], (0, task.rank))[: task.rank].tolist(),
            ),
        )


def manifold(task: Task, name: str, depth: float, optimizer: str, tick: Tick) -> Row:
    """Find the best point of a path on the matrices of fixed rank, in the metric of a depth.

    Infinite depth lives on square invertible matrices only; there ``σ² + ε²`` stands for ``σ²`` in the metric, ε being
    the size of the start: singular values that have not risen are at the start in both.
    """
    kernel = RegularizedKernel(InfiniteDepthKernel(), task.start) if math.isinf(depth) else None
    space = FixedRank(*task.train.shape, task.rank, depth=2 if kernel else depth, kernel=kernel)
    unit = "steps" if optimizer == "flow" else "iterations"
    return follow(task, Row(name, depth, optimizer, unit), space, tick)


def grown(task: Task, name: str, depth: float, tick: Tick) -> Row:
    """Find the best point of the flow of full rank, whose rank grows as the flow has it: the model's is not told."""
    path = Path(task)

    def watch(record: Record, point: Point) -> None:
        path.visit(record.iteration, point, record.heldout_error, record.seconds)
        tick(name, record.iteration)

    solution = task.train.follow(
        depth,
        task.start,
        heldout=task.validation,
        patience=task.patience or _PATIENCE,
        max_iterations=task.iterations or OPTIMIZERS["flow"][1],
        callback=watch,
    )
    return _filled(Row(name, None, "flow", "steps"), solution, path)


def embedded(task: Task, name: str, tick: Tick) -> Row:
    """Find the best point of a path on the manifold of pymanopt, which has no Hessian, by conjugate gradients."""
    return follow(task, Row(name, optimizer="cg"), FixedRankEmbedded(*task.train.shape, task.rank), tick)


def follow(task: Task, row: Row, space: Any, tick: Tick) -> Row:
    """Fill a row by the path of its optimizer on a manifold of factored matrices."""
    path = Path(task)

    def watch(record: Record, point: Point) -> None:
        path.visit(record.iteration, point, record.heldout_error, record.seconds)
        tick(row.name, record.iteration)

    problem, start = task.train.problem(space), task.train.initial_point(task.rank, task.start, task.seed)
    solution = solve(
        problem,
        _optimizer(row, task, float(space.norm(start, problem.riemannian_gradient(start)))),
        initial_point=start,
        heldout_error=task.validation.relative_error,
        patience=task.patience,
        callback=watch,
    )
    return _filled(row, solution, path)


def _filled(row: Row, solution: Solution, path: Path) -> Row:
    row.status, row.iterations = solution.status, solution.iterations
    row.best_iteration, row.seconds = solution.best.iteration, solution.history[-1].seconds
    row.best, row.last, row.history = solution.best_point, solution.point, path.columns
    return row


def _optimizer(row: Row, task: Task, first: float) -> Optimizer:
    """Make the optimizer of a row; ``first`` is the norm of the gradient at the start."""
    assert row.optimizer is not None
    most = task.iterations or OPTIMIZERS[row.optimizer][1]
    if row.optimizer == "flow":
        return GradientFlow(max_iterations=most)
    options: dict[str, Any] = {
        "verbosity": 0,
        "max_iterations": most + 1,  # of which pymanopt counts the evaluation at the start as one
        "max_time": math.inf,
        # A small start is near a saddle, where a deep metric makes every gradient small: that is not convergence.
        "min_gradient_norm": 1e-6 * min(1.0, first),
    }
    if row.optimizer == "trust-regions":
        return TrustRegions(**options)
    return ConjugateGradient(**options, line_searcher=SmallStartLineSearcher())
