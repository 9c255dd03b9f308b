"""What all flows have in common: the functions of the user, the levels at which to stop, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from dlngeo._check import returned
from dlngeo.flows.integrate import Event, FlowStatus, Trajectory

__all__ = [
    "Cost",
    "FlowResult",
    "Gradient",
    "checked_cost",
    "checked_gradient",
    "common",
    "loss_events",
    "losses_along",
]

Cost = Callable[[np.ndarray], Any]
Gradient = Callable[[np.ndarray], Any]


@dataclass(kw_only=True)
class FlowResult:
    """The path of a flow, and how it ended.

    Attributes
    ----------
    t : array, shape=[k]
        Output times; the last is where the flow ended.
    points : array, shape=[k, *point_shape]
        Points at each time.
    status : FlowStatus
        ``"complete"``, ``"event"``, ``"interrupted"`` or ``"failed"``; a string.
    message : str
        The same in words.
    n_evaluations : int
        Evaluations of the velocity.
    events : dict
        Times at which each event happened.
    """

    t: np.ndarray
    points: np.ndarray
    status: FlowStatus
    message: str
    n_evaluations: int
    events: dict[str, np.ndarray]
    _at: Callable[[float], Any] | None = field(repr=False)
    _resume: Callable[[np.ndarray], Any] = field(repr=False)

    def __call__(self, t: Any) -> Any:
        """Evaluate the flow, for the point or the weights at a time, or at each of several.

        Parameters
        ----------
        t : float or array, shape=[k]

        Returns
        -------
        array, shape=[*point_shape] or [k, *point_shape]; or layers, or a list of these

        Raises
        ------
        ValueError
            If a time is outside those covered, or the flow was computed with ``dense_output=False``.
        """
        times = np.asarray(t, dtype=float)
        if self._at is None:
            raise ValueError("there is no interpolant; compute the flow with dense_output=True, over several steps.")
        if not np.all((times >= self.t[0]) & (times <= self.t[-1])):
            raise ValueError(
                f"the flow covers times from {self.t[0]:g} to {self.t[-1]:g} only; use resume(t) to go on."
            )
        if times.ndim == 0:
            return self._at(float(times))
        values = [self._at(float(when)) for when in times]
        return np.stack(values) if values and isinstance(values[0], np.ndarray) else values

    def resume(self, t: Any) -> Self:
        """Go on from the last state, with the same settings.

        What is measured against the start is measured from the new one.

        Parameters
        ----------
        t : float or array, shape=[k]
            The last time, or output times, all later than ``self.t[-1]``; the result begins there.

        Returns
        -------
        FlowResult
            The continuation alone.
        """
        times = np.atleast_1d(np.asarray(t, dtype=float))
        if not np.all(times > self.t[-1]):
            raise ValueError(f"the flow has reached t = {self.t[-1]:g}; resume it to later times.")
        return self._resume(np.concatenate((self.t[-1:], times)))


def common(done: Trajectory, at: Callable[[np.ndarray], Any], run: Callable[[np.ndarray, Any], Any]) -> dict[str, Any]:
    """Return the fields that every result takes from its trajectory, but for points and message.

    Parameters
    ----------
    done : Trajectory
    at : callable
        State → what the result is called for.
    run : callable
        ``(state, times)`` → result, for the continuation.
    """
    solution = done.solution
    return {
        "t": done.t,
        "status": done.status,
        "n_evaluations": done.n_evaluations,
        "events": {name: np.array(times) for name, times in done.events.items()},
        "_at": None if solution is None else lambda t: at(solution(t)),
        "_resume": lambda times: run(done.states[-1], times),
    }


def checked_gradient(function: Gradient, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Check the shape of the user's gradient at each call; at a trial step that is too far it need not be finite."""
    return lambda x: returned(function(x), shape, "the gradient", finite=False)


def checked_cost(function: Cost) -> Callable[[np.ndarray], float]:
    """Check at each call that the user's cost is one number."""
    return lambda x: float(returned(function(x), (), "the cost", finite=False))


def loss_events(
    cost: Callable[[np.ndarray], float] | None,
    norm: Callable[[np.ndarray], float],
    loss_below: float | None,
    gradient_below: float | None,
) -> list[Event]:
    """Events at which the cost, or the norm of the gradient, as functions of the state, falls below a level."""
    events = []
    if loss_below is not None:
        if cost is None:
            raise ValueError("loss_below needs the cost; pass cost=.")
        events.append(Event("loss", lambda t, y: cost(y) - loss_below, threshold=True))
    if gradient_below is not None:
        events.append(Event("gradient", lambda t, y: norm(y) - gradient_below, threshold=True))
    return events


def losses_along(
    points: np.ndarray, cost: Callable[[np.ndarray], float] | None, message: str, rtol: float
) -> dict[str, Any]:
    """Costs at the points, their largest rise, and the message with a remark if it is larger than the tolerance."""
    if cost is None:
        return {"losses": None, "loss_increase": None, "message": message}
    losses = np.array([cost(x) for x in points])
    rise = max(0.0, float(np.max(np.diff(losses), initial=0.0)))
    if rise > 100 * rtol * np.max(np.abs(losses)):
        message += f" The cost rose by {rise:.2g} in one step: tighten rtol, or check the gradient against the cost."
    return {"losses": losses, "loss_increase": rise, "message": message}
