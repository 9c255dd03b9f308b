"""The flow on the matrices of the rank that has risen, and the driver of the singular values that wait."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.kernels import DepthKernel
from dlngeo.problems._rise import effective_size, needed_drive
from dlngeo.problems._waiting import Waiting, across, leading_pair
from dlngeo.pymanopt.fixed_rank import FixedRank
from dlngeo.pymanopt.following import Follower, StalledError

__all__ = ["Growth", "StalledError"]

_RISEN = 0.01  # of the largest singular value, at which one that rises joins it
_SHORTEST = 0.02  # of the drive needed, which a step may add in any case
_ROUND_OFF = 1e-9  # of drives and of the largest gradient
_RELATIVE = 1e-5  # of the largest gradient, where no bound is given
_FITTED = 1e-5  # of the residual at X = 0; what rises to fit less than this is of no account


class Growth:
    """A flow of full rank that grows; :mod:`dlngeo.problems.growth` has the mathematics."""

    def __init__(self, cost: Any, depth: float, size: float, tolerance: float, flow_time: float, least: float | None):
        self.cost, self.depth, self.tolerance, self.flow_time, self.least = cost, depth, tolerance, flow_time, least
        m, n = cost.shape
        residual = cost.residual((np.zeros((m, 1)), np.zeros(1), np.zeros((1, n))))
        if not isinstance(residual, np.ndarray):
            raise TypeError(
                f"the residual of {cost!r} is a {type(residual).__name__}, and this adds up residuals over time, which "
                "takes arrays; use MatrixCompletion, or pass the target as an array."
            )
        self.waiting = Waiting(self._matrix, residual, (m, n))
        self.waiting.add(residual, 1.0)
        self.whole = float(np.linalg.norm(residual))
        u, slope, vt = self.waiting.top()
        if slope == 0:
            raise ValueError("the gradient is zero at X = 0, so that nothing rises from a small start; are all data 0?")
        curvature = cost.curvature((u, np.ones(1), vt), (0 * u, np.ones(1), 0 * vt))
        self.expected = slope / curvature  # the first singular value, were it alone
        self.start = effective_size(depth) * size
        if not self.start < _RISEN * self.expected:
            raise ValueError(
                f"size {size:g} is not small: the first singular value is to rise to about {self.expected:.3g} from "
                "below a hundredth of that; lower the size."
            )
        self.closing = 1 / (curvature * float(DepthKernel(depth)(size, size)))
        self.births: list[float] = []
        self.largest = 0.0
        begin = self._due(np.zeros(0)) / slope
        if not begin < flow_time:
            raise ValueError(f"flow_time {flow_time:g} is before the first singular value has risen, at {begin:.6g}.")
        self.waiting.add(residual, begin - 1.0)
        point = self._joined((np.zeros((m, 0)), np.zeros(0), np.zeros((0, n))), begin)
        self.follower = Follower(self._posed(point), point, tolerance=tolerance, time=begin, keeps=False)
        self.residual = cost.residual(point)

    @property
    def problem(self) -> Any:
        """The problem on the matrices of the rank that has risen."""
        return self.follower.problem

    def progress(self) -> dict[str, Any]:
        """Report what has been reached, and what it took."""
        follower = self.follower
        return {
            "flow_time": follower.time,
            "births": list(self.births),
            "rejected": follower.rejected,
            "products": follower.products,
            "error": follower.error,
        }

    def end(self) -> tuple[str, str] | None:
        """Status and message, where the flow has come to its end."""
        follower = self.follower
        self.largest = max(self.largest, follower.gradient_norm)
        if follower.time >= self.flow_time:
            return "flow time", f"Flow time {follower.time:.6g} reached."
        bound = _RELATIVE * self.largest if self.least is None else self.least
        rests = follower.gradient_norm == 0 or (follower.gradient_norm < bound and follower.at_rest())
        fitted = np.linalg.norm(self.residual) < _FITTED * self.whole
        if rests and (fitted or not (self._waits() and follower.time + self._allowance() < self.closing)):
            return "converged", f"The gradient has the norm {follower.gradient_norm:.3g}, and nothing more rises."
        return None

    def step(self) -> None:
        """Go on by a pair of steps, or where the risen part is at rest to where the next may rise."""
        follower, before, first = self.follower, self.follower.time, self.residual
        if not self._waits():
            follower.advance(self.flow_time)
            return
        limit = min(self.flow_time, self.closing, before + self._allowance())
        if follower.gradient_norm <= _ROUND_OFF * self.largest:
            # A saddle among the matrices of this rank, where steps would follow round-off.
            follower.time = limit
            self.waiting.add(first, limit - before)
        else:
            follower.advance(limit)
            self.residual = self.cost.residual(follower.point)
            self.waiting.add(first + self.residual, (follower.time - before) / 2)
            u, _, vt = follower.point
            self.waiting.project(u, vt)
        point = self._joined(follower.point, follower.time)
        if len(point[1]) > len(follower.point[1]):
            follower.place(self._posed(point), point)
            self.residual = self.cost.residual(point)

    # Inside.

    def _waits(self) -> bool:
        """Whether others may still rise."""
        return self.follower.time < self.closing and len(self.births) < min(self.cost.shape)

    def _due(self, s: np.ndarray) -> float:
        return needed_drive(self.depth, self.start, _RISEN * max([self.expected, *s]))

    def _allowance(self) -> float:
        """Time in which the next may rise, at the rate at which the driver grows now."""
        u, s, vt = self.follower.point
        due, rate = self._due(s), leading_pair(across(self._matrix(self.residual), u, vt))[1]
        left = max(due - self.waiting.top()[1], _SHORTEST * due)
        return left / rate if rate > 0 else math.inf

    def _joined(self, point: Any, time: float) -> Any:
        """Let all that is due join a point, at a time."""
        u, s, vt = point
        while len(s) < min(self.cost.shape):
            left, drive, right = self.waiting.top()
            if drive < (1 - _ROUND_OFF) * self._due(s):
                break
            s = np.append(s, _RISEN * max([self.expected, *s]))
            u, vt = np.hstack((u, left)), np.vstack((vt, right))
            self.births.append(time)
            self.waiting.project(u, vt)
        return u, s, vt

    def _posed(self, point: Any) -> Any:
        m, n = self.cost.shape
        return self.cost.problem(FixedRank(m, n, len(point[1]), self.depth))

    def _matrix(self, residual: np.ndarray) -> Any:
        return self.cost._adjoint(residual, True)
