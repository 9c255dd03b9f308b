"""Follow a gradient flow by exponential steps, each solving the flow linearised at its point, with error control."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dlngeo.pymanopt._krylov import Krylov
from dlngeo.pymanopt.model import displacement, models_of

__all__ = ["Follower", "StalledError"]

_GROWTH, _LEAST, _SAFETY = 4.0, 0.2, 0.9  # of step sizes, from one to the next
_FIRST = 0.1  # the first displacement, relative to the point
# What a step that is far too long ends in. Any other error is the user's.
_NO_POINT = (ValueError, OverflowError, FloatingPointError, np.linalg.LinAlgError)
_ATTEMPTS = 60  # at one step
_SHORTEST = 1e-13  # relative to the time; what is shorter is lost in round-off
_ROUND_OFF = 1e-14  # by which the cost may seem to rise


class StalledError(RuntimeError):
    """No step is short enough; the message gives the cause."""


class Pair(NamedTuple):
    """Two steps of one size, and the path along them."""

    start: float
    size: float
    first: Krylov
    second: Krylov
    end: float
    point: Any

    def __call__(self, t: float) -> Any:
        """Return the point at a time between, to the order of the method."""
        if t >= self.end:
            return self.point
        middle = self.start + self.size
        krylov, since = (self.first, t - self.start) if t <= middle else (self.second, t - middle)
        return krylov.model.point if since <= 0 else krylov.model.move(krylov.step(since))


class Follower:
    r"""The gradient flow of a problem from a point, advanced by two steps of one size at a time.

    A step of size h solves the flow linearised at its point exactly, but for the residual of its Krylov space, and
    moves along the solution: ``x ↦ R_x(−h φ₁(h Hess E) grad E)``, the exponential Rosenbrock–Euler method [1]_, of
    order two. One step of 2h in the Krylov space of the first of the two costs no product more, and differs from them
    by three times their error. Unlike the linearly implicit ``(I + hH)⁻¹``, ``φ₁`` is right at negative curvature for
    steps of any length: near a saddle the flow leaves as it should.

    A step is refused, and a shorter one tried, where the error exceeds the tolerance, the cost rises or is not finite,
    or the end is no point of the manifold.

    Parameters
    ----------
    problem : pymanopt Problem
    point : point
    tolerance : float
        Bound of the estimated error of a pair of steps, relative to the point in the metric.
    time : float
        Flow time of ``point``.
    step : float, optional
        First step size; by default a tenth of the time in which the point would change by its own length.
    most : int
        Products for one step at most; a step that needs more is shortened.

    keeps : bool
        Whether to keep the last steps, for points between.

    Attributes
    ----------
    point, time, cost : Any
        Where the flow has come to.
    step_size : float
        Size of the next step; with ``point`` and ``time`` all that going on takes.
    steps, rejected, products : int
        Steps made and refused (pairs count as one), and products with the Hessian.
    error : float
        Sum of the estimated errors of all steps.
    last : Pair or None
        The steps made last, if they are kept.

    References
    ----------
    .. [1] M. Hochbruck, A. Ostermann, J. Schweitzer, "Exponential Rosenbrock-type methods", SIAM J. Numer. Anal. 47
       (2009).
    """

    def __init__(
        self,
        problem: Any,
        point: Any,
        *,
        tolerance: float,
        time: float = 0.0,
        step: float | None = None,
        most: int = 100,
        keeps: bool = True,
    ) -> None:
        self.keeps = keeps
        self.tolerance, self.most, self.time = tolerance, most, time
        self.steps = self.rejected = self.products = 0
        self.error = 0.0
        self.place(problem, point, step)

    def place(self, problem: Any, point: Any, step: float | None = None) -> None:
        """Go on at a point, which may be one of another problem on another manifold; time and counts go on."""
        self.problem, self.point, self.cost = problem, point, float(problem.cost(point))
        if not math.isfinite(self.cost):
            raise ValueError(f"the cost is {self.cost} at the initial point; start where it is finite.")
        self._model_at = models_of(problem, point)
        self.krylov = self._krylov_at(point)
        if not math.isfinite(self.gradient_norm):
            raise ValueError("the gradient is not finite at the initial point; start where it is.")
        self.last: Pair | None = None
        self.step_size = step if step is not None else self._first_step()

    @property
    def gradient_norm(self) -> float:
        """Norm of the Riemannian gradient."""
        return self.krylov.gradient_norm

    def at_rest(self) -> bool:
        """Whether the flow would stay here for longer than it has taken so far: whether this is not a saddle."""
        if self.gradient_norm == 0:
            return True
        before = self.krylov.products
        lowest = self.krylov.lowest
        self.products += self.krylov.products - before
        # Nothing has been seen of the flow at its start: any negative curvature makes that a saddle.
        return lowest >= 0 or (self.steps > 0 and -lowest * self.time < 1)

    def advance(self, limit: float = math.inf) -> None:
        """Make two steps, not beyond the time ``limit``.

        Raises
        ------
        StalledError
            If no step is short enough. The state is that before.
        """
        if self.gradient_norm == 0:
            raise StalledError("the gradient is zero")
        h, reason = self.step_size, ""
        for _ in range(_ATTEMPTS):
            whole = 2 * h >= limit - self.time
            if whole:
                h = (limit - self.time) / 2
            if h <= _SHORTEST * abs(self.time):
                break
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of steps that are far too long
                h, outcome = self._attempt(h, whole)
            if isinstance(outcome, tuple):
                self._accept(h, limit if whole and outcome[3] else self.time + 2 * h, outcome)
                return
            reason = outcome
            self.rejected += 1
        raise StalledError(f"no step from t = {self.time:.6g} is short enough: {reason}")

    def at(self, t: float) -> Any:
        """Return the point at a time within the last pair of steps, to the order of the method."""
        return self.point if self.last is None else self.last(t)

    def return_to(self, t: float) -> None:
        """Go back to a time within the last pair of steps."""
        self.point, self.time = self.at(t), t
        self.cost, self.last = float(self.problem.cost(self.point)), None
        self.krylov = self._krylov_at(self.point)

    def _attempt(self, h: float, whole: bool) -> tuple[float, Any]:
        """Try two steps of size h; return the size tried or to be tried next, and what was found or why not."""
        try:
            reached = self._reach(self.krylov, 2 * h)
            if reached < 2 * h:
                h, whole = reached / 2, False
            if h == 0:
                return 0.0, "the Krylov space serves no time"
            first = self.krylov.model
            first.release()  # shorter steps take no more products
            far = first.move(self.krylov.step(2 * h))
            second = self._krylov_at(first.move(self.krylov.step(h)))
            reached = self._reach(second, h)
            if reached < h:
                return reached, "its Krylov space is too small"
            end = second.model.move(second.step(h))
            cost = float(self.problem.cost(end))
            if not (math.isfinite(cost) and cost <= self.cost + _ROUND_OFF * abs(self.cost)):
                return h * (0.5), f"the cost goes from {self.cost:g} to {cost:g}"
            error = displacement(self.problem.manifold, far, end) / 3
            if not error <= self.tolerance:
                return h * self._factor(error), f"the error of a step is {error:.2g}"
            second.model.release()
            return h, (second, self._krylov_at(end), cost, whole, error)
        except _NO_POINT as failure:
            return h * _LEAST, str(failure)

    def _accept(self, h: float, time: float, outcome: tuple[Any, ...]) -> None:
        second, krylov, cost, whole, error = outcome
        grown = h * self._factor(error)
        # A step cut short by the limit says little of the next.
        step_size = max(self.step_size, grown) if whole else grown
        if self.keeps:
            self.last = Pair(self.time, h, self.krylov, second, time, krylov.model.point)
        self.steps, self.error = self.steps + 1, self.error + error
        self.point, self.time, self.cost, self.krylov = krylov.model.point, time, cost, krylov
        self.step_size = step_size

    def _factor(self, error: float) -> float:
        """By how much the next step may be longer, or has to be shorter."""
        if not math.isfinite(error):
            return _LEAST
        best = _GROWTH if error == 0 else _SAFETY * (self.tolerance / error) ** (1 / 3)
        return min(max(best, _LEAST), _GROWTH)

    def _krylov_at(self, point: Any) -> Krylov:
        # What the Hessian's products leave over has to be small beside the errors of the steps.
        return Krylov(self._model_at(point), min(0.1, self.tolerance), self.most)

    def _reach(self, krylov: Krylov, t: float) -> float:
        before = krylov.products
        try:
            return krylov.reach(t)
        finally:
            self.products += krylov.products - before

    def _first_step(self) -> float:
        if self.gradient_norm == 0:
            return 1.0
        # The length of the velocity relative to the point, as that of a displacement is.
        t = 1 / self.gradient_norm
        for _ in range(_ATTEMPTS):
            try:
                moved = displacement(
                    self.problem.manifold, self.krylov.model.move(-t * self.krylov.model.gradient), self.point
                )
            except _NO_POINT:
                moved = math.inf
            if _FIRST / 4 <= moved <= _FIRST:
                break
            t *= min(max(0.5 * _FIRST / moved, 1e-3), 1e3) if moved > 0 else 10.0
        return t
