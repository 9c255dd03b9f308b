"""Minimise with any pymanopt optimiser while watching held-out data: history, early stopping, interruption.

pymanopt offers no callback. Its line-search optimisers and trust regions ask for the Riemannian gradient exactly once
at each accepted point, and never at a rejected one (trust regions ask again at the same point, which is recognised).
That call is the hook: a stand-in for the problem observes it, and ends the run by an exception caught here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pymanopt

__all__ = ["Monitored", "Record", "Solution", "StoppedEarly", "error_on", "solve"]


@dataclass(frozen=True)
class Record:
    """What was seen at one accepted point.

    Attributes
    ----------
    iteration : int
        Number of accepted steps so far; 0 is the initial point.
    cost : float
        Value of the cost.
    gradient_norm : float
        Norm of the Riemannian gradient in the manifold's metric.
    heldout_error : float
        Error on held-out data; NaN if none was given.
    singular_values : array, shape=[r] or None
        Singular values of the point, if it is a matrix or a triple ``(u, s, vt)``.
    seconds : float
        Time since the start, the watching itself not counted.

    See Also
    --------
    dlngeo.problems.Solution
    dlngeo.problems.solve

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> from dlngeo.problems import LowRankApproximation
    >>> manifold = pymanopt.manifolds.Euclidean(2, 2)
    >>> solver = pymanopt.optimizers.SteepestDescent(verbosity=0)
    >>> found = LowRankApproximation(np.diag([3.0, 4.0])).solve(manifold, solver, initial_point=np.zeros((2, 2)))
    >>> first = found.history[0]
    >>> first.iteration, first.cost, first.gradient_norm, first.heldout_error
    (0, 12.5, 5.0, nan)
    """

    iteration: int
    cost: float
    gradient_norm: float
    heldout_error: float
    singular_values: np.ndarray | None
    seconds: float


@dataclass
class Solution:
    """Result of :func:`solve`.

    Attributes
    ----------
    status : str
        Why it ended: ``"converged"`` (small gradient), ``"stalled"`` (no step decreases the cost), ``"stopped early"``
        (the held-out error did not improve), ``"iteration limit"``, ``"time limit"``, ``"event"`` and ``"flow time"``
        (of a gradient flow), ``"interrupted"`` (Ctrl-C) or ``"stopped"`` (any other reason that the optimiser gives).
    message : str
        The same in words, from the optimiser where it is its own.
    iterations : int
        Number of accepted steps.
    point : Any
        The last point.
    best_point : Any
        The point with the smallest held-out error, or with the smallest cost where nothing is held out.
    best : Record
        What was seen there.
    history : list of Record
        One for each accepted point, the initial one first.

    See Also
    --------
    dlngeo.problems.solve
    dlngeo.problems.Record
    dlngeo.problems.Followed

    Examples
    --------
    >>> import numpy as np
    >>> from pymanopt.optimizers import TrustRegions
    >>> from dlngeo import FixedRank
    >>> from dlngeo.problems import LowRankApproximation
    >>> cost = LowRankApproximation(np.diag([3.0, 2.0, 1.0]))
    >>> found = cost.solve(FixedRank(3, 3, 2, depth=3, rng=0), TrustRegions(verbosity=0))
    >>> found.status, np.round(np.sort(found.point[1]), 4), round(found.best.cost, 4)
    ('converged', array([2., 3.]), 0.5)
    """

    status: str
    message: str
    iterations: int
    point: Any
    best_point: Any
    best: Record
    history: list[Record] = field(repr=False)


def solve(
    problem: pymanopt.Problem,
    optimizer: pymanopt.optimizers.optimizer.Optimizer,
    *,
    initial_point: Any = None,
    heldout_error: Callable[[Any], float] | None = None,
    patience: int | None = None,
    tolerance: float = 0.0,
    callback: Callable[[Record, Any], None] | None = None,
) -> Solution:
    """Run a pymanopt optimiser, keep a history, and stop when the held-out error stops improving.

    Parameters
    ----------
    problem : pymanopt.Problem
        Any problem; :meth:`dlngeo.problems.MatrixCompletion.problem` makes one.
    optimizer : pymanopt optimiser
        SteepestDescent, ConjugateGradient or TrustRegions, with its own stopping rules, which stay in force.
    initial_point : point, optional
        Where to start; a random point of the manifold by default.
    heldout_error : callable, optional
        Function of a point, computed on data that the cost does not see.
    patience : int, optional
        Stop after this many accepted steps in a row without an improvement of the held-out error. Without it
        the optimiser runs to its own end.
    tolerance : float
        Relative decrease of the held-out error that counts as an improvement for ``patience``.
    callback : callable, optional
        Called as ``callback(record, point)`` at each accepted point.

    Returns
    -------
    Solution
        Also after Ctrl-C, with status ``"interrupted"`` and everything seen so far.

    Raises
    ------
    ValueError
        If the cost is infinite or NaN at the initial point, or if ``patience`` is given with nothing to watch.
    KeyboardInterrupt
        If interrupted before the initial point was evaluated.

    See Also
    --------
    dlngeo.problems.Solution
    dlngeo.pymanopt.GradientFlow

    Examples
    --------
    >>> import numpy as np
    >>> import pymanopt
    >>> from dlngeo.problems import LowRankApproximation, solve
    >>> problem = LowRankApproximation(np.eye(2)).problem(pymanopt.manifolds.Euclidean(2, 2))
    >>> solver, start = pymanopt.optimizers.SteepestDescent(verbosity=0), np.zeros((2, 2))
    >>> solve(problem, solver, initial_point=start, heldout_error=np.linalg.norm, patience=1).status  # which only grows
    'stopped early'
    """
    monitored = Monitored(problem, heldout_error, patience, tolerance, callback)
    if initial_point is None:
        initial_point = problem.manifold.random_point()
    if not math.isfinite(value := float(problem.cost(initial_point))):
        raise ValueError(f"the cost is {value} at the initial point; start from a point with finite entries.")
    try:
        result = optimizer.run(monitored, initial_point=initial_point)
        monitored.riemannian_gradient(result.point)  # steepest descent never asks at its last point
    except StoppedEarly as stop:
        return monitored.solution("stopped early", str(stop))
    except KeyboardInterrupt:
        if not monitored.history:
            raise
        return monitored.solution("interrupted", f"Interrupted after {monitored.history[-1].iteration} iterations.")
    return monitored.solution(_status(result.stopping_criterion), result.stopping_criterion)


def error_on(heldout: Any, problem: Any) -> Callable[[Any], float] | None:
    """Return the function that measures a point by held-out data, once they are of the matrix of the problem."""
    if heldout is None:
        return None
    if heldout.shape != problem.shape:
        raise ValueError(f"heldout is {heldout.shape}, the problem is {problem.shape}; they must be of one matrix.")
    return heldout.relative_error


class StoppedEarly(Exception):
    """Unwinds the optimiser; never reaches the user."""


class Monitored:
    """A stand-in for a :class:`pymanopt.Problem` that watches the points at which the gradient is taken.

    ``problem`` may be exchanged on the way, for one on a manifold of another rank.
    """

    def __init__(
        self,
        problem: pymanopt.Problem,
        heldout_error: Callable[[Any], float] | None,
        patience: int | None,
        tolerance: float,
        callback: Callable[[Record, Any], None] | None,
    ) -> None:
        if patience is not None and heldout_error is None:
            raise ValueError("patience needs something to watch; pass held-out data as well.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}.")
        self.problem = problem
        self._heldout_error = heldout_error
        self._patience = patience
        self._tolerance = tolerance
        self._callback = callback
        self._started = time.perf_counter()
        self._watching = 0.0
        self._last_cost: tuple[Any, float] = (None, math.nan)
        self._reference = (math.inf, 0)  # the last held-out error that counted as an improvement, and its iteration
        self.history: list[Record] = []
        self.point: Any = None
        self.best_point: Any = None
        self.best: Record | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    @property
    def unwatched(self) -> pymanopt.Problem:
        """The problem itself, for an optimizer that takes gradients elsewhere than at accepted points."""
        return self.problem

    def cost(self, point: Any) -> float:
        value = self.problem.cost(point)
        self._last_cost = (point, float(value))
        return value

    def riemannian_gradient(self, point: Any) -> Any:
        gradient = self.problem.riemannian_gradient(point)
        if point is not self.point:
            self._watch(point, gradient)
        return gradient

    def solution(self, status: str, message: str) -> Solution:
        assert self.best is not None
        return Solution(
            status, message, self.history[-1].iteration, self.point, self.best_point, self.best, self.history
        )

    def _watch(self, point: Any, gradient: Any) -> None:
        began = time.perf_counter()
        known, cost = self._last_cost
        record = Record(
            iteration=len(self.history),
            cost=cost if known is point else float(self.problem.cost(point)),
            gradient_norm=float(self.problem.manifold.norm(point, gradient)),
            heldout_error=math.nan if self._heldout_error is None else float(self._heldout_error(point)),
            singular_values=_singular_values(point),
            seconds=began - self._started - self._watching,
        )
        self.history.append(record)
        self.point = point
        if self.best is None or _figure_of_merit(record) < _figure_of_merit(self.best):
            self.best, self.best_point = record, point
        if self._callback is not None:
            self._callback(record, point)
        self._watching += time.perf_counter() - began
        self._stop_if_stale(record)

    def _stop_if_stale(self, record: Record) -> None:
        error, iteration = self._reference
        if record.heldout_error < error * (1 - self._tolerance):
            self._reference = (record.heldout_error, record.iteration)
        elif self._patience is not None and record.iteration - iteration >= self._patience:
            raise StoppedEarly(f"The held-out error has not improved for {self._patience} iterations.")


def _figure_of_merit(record: Record) -> float:
    return record.cost if math.isnan(record.heldout_error) else record.heldout_error


def _singular_values(point: Any) -> np.ndarray | None:
    if isinstance(point, list | tuple) and len(point) == 3 and np.ndim(point[1]) == 1:
        return np.array(point[1])
    if isinstance(point, np.ndarray) and point.ndim == 2 and np.isfinite(point).all():
        return np.linalg.svd(point, compute_uv=False)
    return None


def _status(criterion: str) -> str:
    """Name of the stopping criterion, which pymanopt gives in words only."""
    for words, name in (
        ("grad norm", "converged"),
        ("step_size", "stalled"),
        ("max iterations", "iteration limit"),
        ("max time", "time limit"),
        ("stalled", "stalled"),
        ("interrupted", "interrupted"),
        ("event", "event"),
        ("flow time", "flow time"),
    ):
        if words in criterion:
            return name
    return "stopped"
