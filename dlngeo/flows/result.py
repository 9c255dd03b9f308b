"""What all flows have in common: the functions of the user, what is followed, and the result."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from dlngeo._check import Field, real, returned
from dlngeo.flows.integrate import Event, FlowStatus, Trajectory, integrate

__all__ = ["Cost", "Course", "FlowResult", "Gradient", "Pointwise", "UserFunction"]

Cost = Callable[[np.ndarray], Any]
Gradient = Callable[[np.ndarray], Any]


@dataclass(kw_only=True)
class FlowResult:
    """The path of a flow, and how it ended. It can be pickled, and then resumed if the functions given can be pickled.

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
        Times at which each event happened; ``"singular"``, if the flow ended at the edge of its space.

    See Also
    --------
    dlngeo.flows.Flow
    dlngeo.flows.TrainingFlow
    dlngeo.flows.BalancingFlow

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo import gradient_flow
    >>> flow = gradient_flow(Euclidean(1), lambda x: x, np.ones(1), 1.0)
    >>> further = flow.resume(2.0)
    >>> bool(np.allclose([flow(0.5), further(1.5)], np.exp([[-0.5], [-1.5]])))
    True
    """

    t: np.ndarray
    points: np.ndarray
    status: FlowStatus
    message: str
    n_evaluations: int
    events: dict[str, np.ndarray]
    _course: Course = field(repr=False)
    _solution: Any = field(repr=False)
    _end: np.ndarray = field(repr=False)

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
        times = real(t, "t").astype(float)
        if self._solution is None:
            raise ValueError("there is no interpolant; compute the flow with dense_output=True, over several steps.")
        if not np.all((times >= self.t[0]) & (times <= self.t[-1])):
            raise ValueError(
                f"the flow covers times from {self.t[0]:g} to {self.t[-1]:g} only; use resume(t) to go on."
            )
        if times.ndim == 0:
            return self._course.at(self._solution(float(times)))
        values = [self._course.at(self._solution(float(when))) for when in times]
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

        Raises
        ------
        ValueError
            If a time is not later, or the result was pickled and a function of the flow could not be.
        """
        times = np.atleast_1d(real(t, "t").astype(float))
        if not np.all(times > self.t[-1]):
            raise ValueError(f"the flow has reached t = {self.t[-1]:g}; resume it to later times.")
        return self._course.follow(self._end, np.concatenate((self.t[-1:], times)))


class Course(ABC):
    """What a flow follows: a velocity in its state, the functions of the user, and the options of the integration."""

    kind: ClassVar[type[FlowResult]]
    edge: str  # what it means that the path crosses singular points
    exponential: Callable[[float, np.ndarray, float], Any] | None = None  # makes a solver by exponential steps

    def __init__(
        self,
        options: dict[str, Any],
        cost: Cost | None = None,
        loss_below: float | None = None,
        gradient_below: float | None = None,
    ) -> None:
        progress = options["progress"]
        self.options = {**options, "progress": UserFunction(progress, "progress") if callable(progress) else progress}
        self.cost = None if cost is None else Pointwise(cost, "the cost", ())
        self.loss_below, self.gradient_below = loss_below, gradient_below
        if loss_below is not None and cost is None:
            raise ValueError("loss_below needs the cost; pass cost=.")

    @abstractmethod
    def velocity(self, t: float, y: np.ndarray) -> np.ndarray:
        """Return the time derivative of the state."""

    @abstractmethod
    def point(self, y: np.ndarray) -> np.ndarray:
        """Point of a state."""

    def gradient_norm(self, y: np.ndarray) -> float:
        """Norm of the gradient of the cost, where there is one."""
        raise NotImplementedError

    @abstractmethod
    def measured(self, states: np.ndarray) -> dict[str, Any]:
        """Fields of the result besides those of all flows."""

    @abstractmethod
    def crossed(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether singular points lie between two states."""

    def at(self, y: np.ndarray) -> Any:
        """Evaluate what the result is called for."""
        return self.point(y)

    def events(self) -> list[Event]:
        cost, loss, slope = self.cost, self.loss_below, self.gradient_below
        events = []
        if cost is not None and loss is not None:
            events.append(Event("loss", lambda t, y: cost(self.point(y)) - loss, threshold=True))
        if slope is not None:
            events.append(Event("gradient", lambda t, y: self.gradient_norm(y) - slope, threshold=True))
        return events

    def follow(self, start: np.ndarray, t: Any) -> Any:
        """Integrate, and measure along the path."""
        return self.result(
            integrate(
                self.velocity,
                start,
                t,
                events=self.events(),
                crossed=self.crossed,
                exponential=self.exponential,
                **self.options,
            )
        )

    def result(self, done: Trajectory) -> Any:
        """Measure along a path."""
        message = f"{done.message} {self.edge}" if "singular" in done.events else done.message
        points = np.stack([self.point(y) for y in done.states])
        fields = self.measured(done.states)
        if self.cost is not None:
            losses = np.array([float(self.cost(x)) for x in points])
            rise = max(0.0, float(np.max(np.diff(losses), initial=0.0)))
            if not np.isfinite(losses).all():
                where = int(np.argmin(np.isfinite(losses)))
                message += f" The cost is {losses[where]} at t = {done.t[where]:.6g}: check it there."
            elif rise > 100 * self.options["rtol"] * np.max(np.abs(losses)):
                message += f" The cost rose by {rise:.2g} in one step: tighten rtol, or check the gradient against it."
            fields |= {"losses": losses, "loss_increase": rise}
        return self.kind(
            t=done.t,
            points=points,
            status=done.status,
            message=message,
            n_evaluations=done.n_evaluations,
            events={name: np.array(times) for name, times in done.events.items()},
            _course=self,
            _solution=done.solution,
            _end=done.states[-1],
            **fields,
        )


class UserFunction:
    """A function of the user, whose values are checked at each call; at a trial step too far they need not be finite.

    What cannot be pickled, such as a lambda, is left behind, and is named when it is called.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, shape: tuple[int, ...] | None = None, field: Field = "real"
    ) -> None:
        self.function, self.name, self.shape, self.field = function, name, shape, field

    def __call__(self, *arguments: Any) -> Any:
        value = self.function(*arguments)
        return value if self.shape is None else returned(value, self.shape, self.name, finite=False, field=self.field)

    def __deepcopy__(self, memo: Any) -> UserFunction:
        return self  # a function has no state of a flow

    def __reduce__(self) -> Any:
        function = self.function
        try:
            pickle.dumps(function)
        except Exception:  # of many types
            function = _Lost(self.name)
        return type(self), (function, self.name, self.shape, self.field)


class Pointwise(UserFunction):
    """A function of one point, called once for many points if it has shown that it takes them, else for each."""

    point_ndim: int | None = None
    together = False

    def take(self, points: np.ndarray) -> None:
        """Expect many points along one axis, and find out, at some, whether one call does for all."""
        self.point_ndim, self.together = points.ndim - 1, False
        values = self(points)
        # A count that is no side of a point, or a function that takes other axes for the first might pass.
        count = next(k for k in range(max(2, len(points)), 10**9) if k not in points.shape[1:])
        which = np.arange(count) % len(points)
        self.together = True
        many, scale = self(points[which]), np.max(np.abs(values), where=np.isfinite(values), initial=0.0)
        self.together = self.together and np.allclose(many, values[which], 1e-9, 1e-9 * scale, equal_nan=True)

    def __call__(self, *arguments: Any) -> Any:
        x = arguments[0]
        if self.point_ndim is None or x.ndim == self.point_ndim:
            return super().__call__(x)
        shape = (len(x), *(self.shape or ()))
        if self.together and len(x) > 1:
            try:
                return returned(self.function(x), shape, self.name, finite=False, field=self.field)
            except Exception:  # whatever a function of one point makes of many
                self.together = False
        return np.reshape([super(Pointwise, self).__call__(one) for one in x], shape)


@dataclass
class _Lost:
    """In place of a function that could not be pickled."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        raise ValueError(
            f"{self.name} was lost when the flow was pickled: pickle takes functions of modules, not lambdas or those "
            "inside others. Start a flow from its last point."
        )
