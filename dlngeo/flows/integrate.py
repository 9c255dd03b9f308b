"""One loop around the ODE solvers of SciPy: outputs, events, progress and interruption."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import scipy.integrate
from scipy.optimize import brentq

from dlngeo._check import real
from dlngeo.flows.stiff import Automatic, ExponentialSteps

__all__ = ["METHODS", "Event", "FlowStatus", "Run", "Trajectory", "integrate", "reporter", "solver_of", "times_of"]

METHODS: dict[str, Any] = {
    "auto": Automatic,
    **{name: getattr(scipy.integrate, name) for name in ("DOP853", "RK45", "RK23", "Radau", "BDF", "LSODA")},
    "implicit": ExponentialSteps,
}

Progress = bool | Callable[[float], None]


class FlowStatus(StrEnum):
    """How an integration ended.

    See Also
    --------
    dlngeo.flows.FlowResult

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo import gradient_flow
    >>> from dlngeo.flows import FlowStatus
    >>> flow = gradient_flow(Euclidean(1), lambda x: x, np.ones(1), 5.0, gradient_below=np.exp(-2))
    >>> flow.status == FlowStatus.EVENT == "event", bool(np.isclose(flow.t[-1], 2))
    (True, True)
    """

    COMPLETE = "complete"  #: the last time was reached
    EVENT = "event"  #: a terminal event stopped it before
    INTERRUPTED = "interrupted"  #: Ctrl-C stopped it; what was done is kept
    FAILED = "failed"  #: the solver could not go on; the message says why


@dataclass(frozen=True)
class Event:
    """A function of time and state that is watched for a zero."""

    name: str
    function: Callable[[Any, np.ndarray], Any]
    terminal: bool = True  # stop at the first zero
    threshold: bool = False  # the event is that the function is not positive; it may be so at the start
    many: bool = True  # the function takes many states, along leading axes


@dataclass
class Trajectory:
    """States at the output times, how the integration ended, times of events, and the state as a function of time."""

    t: np.ndarray
    states: np.ndarray
    status: FlowStatus
    message: str
    n_evaluations: int
    events: dict[str, list[float]] = field(default_factory=dict)
    solution: Any = None


def times_of(t: Any) -> tuple[float, float, np.ndarray | None]:
    """Return first and last time, and the output times, None for each step of the solver; see :func:`integrate`."""
    times = real(t, "t").astype(float)
    if times.ndim > 1 or times.size == 0 or not np.isfinite(times).all():
        raise ValueError(f"t must be a finite time or a sequence of them, got {t!r}.")
    if times.ndim == 0:
        if times <= 0:
            raise ValueError(f"the time must be positive, got {float(times):g}; a gradient flow runs forward.")
        return 0.0, float(times), None
    if times.size < 2 or np.any(np.diff(times) <= 0):
        raise ValueError("output times must increase, and be two at least: the first is that of the start.")
    return float(times[0]), float(times[-1]), times


def integrate(
    velocity: Callable[[float, np.ndarray], np.ndarray],
    start: np.ndarray,
    t: Any,
    *,
    method: str = "auto",
    rtol: float = 1e-11,
    atol: float = 1e-13,
    events: Sequence[Event] = (),
    crossed: Callable[[np.ndarray, np.ndarray], bool] | None = None,
    dense_output: bool = True,
    progress: Progress = False,
    exponential: Callable[[float, np.ndarray, float], Any] | None = None,
) -> Trajectory:
    """Integrate ``ẏ = velocity(t, y)`` from ``start``.

    Explicit methods shorten trial steps at which the velocity is not finite; the others, and all where no step is short
    enough, end there with the status ``"failed"``.

    Parameters
    ----------
    velocity : callable
    start : array, shape=[size]
    t, method, rtol, atol, dense_output, progress
        As in :func:`dlngeo.gradient_flow`.
    events : sequence of Event
    crossed : callable, optional
        Whether a path from one state to another passes where the exact flow does not: the integration ends before, with
        the event ``"singular"``.
    exponential : callable, optional
        ``(t, y, last) →`` a solver by exponential steps, for ``"implicit"`` and what ``"auto"`` may change to.

    Raises
    ------
    ValueError
        If ``t``, the method or a tolerance is out of range.
    """
    first, last, outputs = times_of(t)
    watched = _Velocity(velocity)
    make, y = solver_of(method, rtol, atol), np.array(start, dtype=float)
    if make is ExponentialSteps:
        if exponential is None:
            raise ValueError('method="implicit" is there for gradient_flow alone; take "BDF" or "Radau" here.')
        solver = exponential(first, y, last)
    else:
        more = {"exponential": exponential} if make is Automatic else {}
        solver = make(watched, first, y, last, rtol=rtol, atol=atol, **more)
    run = Run(first, solver.y, outputs, events, crossed, dense_output)
    try:
        with reporter(progress, first, last) as report:
            run.start(evaluate(events, first, solver.y))
            while run.status is None:
                reason = watched.step(solver)
                if reason is None:
                    t, y = float(solver.t), solver.y
                    through = crossed is not None and crossed(run.state, y)
                    run.accept(t, y.copy(), evaluate(events, t, y), through, solver.dense_output)
                    report(run.t)
                run.close(reason, last)
    except KeyboardInterrupt:
        run.interrupt()
    run.message += getattr(solver, "note", "")
    return run.trajectory(solver.nfev)


def solver_of(method: str, rtol: float, atol: float) -> Any:
    """Return the solver of SciPy, once the options are in range."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if not (0 < rtol < 1 and 0 <= atol < math.inf):
        raise ValueError(f"tolerances must be positive and rtol below 1, got rtol={rtol:g}, atol={atol:g}.")
    return METHODS[method]


def evaluate(events: Sequence[Event], t: Any, states: np.ndarray) -> np.ndarray:
    """Values of the events at a state, shape=[n_events], or at many, shape=[k, n_events]."""
    values = [
        event.function(t, states)
        if event.many or states.ndim == 1
        else [event.function(when, y) for when, y in zip(t, states, strict=True)]
        for event in events
    ]
    return np.stack(values, axis=-1).astype(float) if values else np.empty((*states.shape[:-1], 0))


def passed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which values have changed sign, or come to zero."""
    return (before * after < 0) | ((after == 0) & (before != 0))


class _Velocity:
    """The velocity, with a memory of where it was not finite, and of whether an error is its own."""

    def __init__(self, function: Callable[[float, np.ndarray], np.ndarray]) -> None:
        self.function, self.lost, self.inside = function, math.nan, False

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        self.inside = True
        out = self.function(t, y)
        self.inside = False
        if not np.isfinite(out).all() and np.isfinite(y).all():
            self.lost = t
        return out

    def step(self, solver: Any) -> str | None:
        """Let the solver make a step; return why it could not."""
        self.lost, reason = math.nan, None
        try:
            reason = solver.step()
        except (ValueError, np.linalg.LinAlgError) as error:  # implicit methods factorise a Jacobian that is not finite
            if self.inside:
                raise
            reason = str(error)
        else:
            if solver.status != "failed":
                reason = None if np.isfinite(solver.y).all() else "the step is not finite"
        return reason and explained(reason, self.lost)


def explained(reason: str, lost: float) -> str:
    """Why no step could be made, and where the velocity was not finite, if anywhere."""
    where = "" if math.isnan(lost) else f"; the velocity is not finite at t = {lost:.6g}, check the gradient there"
    return reason.rstrip(".") + where


class Run:
    """The accepted part of an integration, and how it ended; the status is None until then."""

    def __init__(
        self,
        t: float,
        state: np.ndarray,
        outputs: np.ndarray | None,
        events: Sequence[Event],
        crossed: Any,
        dense_output: bool,
    ) -> None:
        self.outputs, self.events, self.crossed, self.dense = outputs, events, crossed, dense_output
        self.t, self.state = float(t), state.copy()
        # Pairs, so that an interruption cannot come between their halves.
        self.output: list[tuple[float, np.ndarray]] = [(self.t, self.state)]
        self.pieces: list[tuple[float, Any]] = []
        self.happened: dict[str, list[float]] = {event.name: [] for event in events}
        self.stopped: str | None = None  # name of the terminal event
        self.status: FlowStatus | None = None
        self.message = self.undefined = ""

    def start(self, values: np.ndarray) -> None:
        """Take the values of the events at the start, of which a threshold may have been passed already."""
        self._take(self.t, values)
        if self.undefined:
            raise ValueError(f"{self.undefined}, the start; check the function there.")
        for event, value in zip(self.events, values, strict=True):
            if event.threshold and value <= 0:
                self.happened[event.name].append(self.t)
                self.stopped = event.name
                self.close(None, math.inf)
                return

    def accept(self, t: float, state: np.ndarray, values: np.ndarray, through: bool, interpolate: Any) -> None:
        """Take over a step, up to the first terminal event.

        The interpolant is asked for if it is kept, or where :func:`passed` or ``through`` is true, or an output is due.
        """
        before = self.values
        self._take(t, values)
        if self.undefined:
            return
        due: Any = [] if self.outputs is None else self.outputs[(self.outputs > self.t) & (self.outputs <= t)]
        found = np.flatnonzero(passed(before, values)) if self.events else ()
        interpolant: Any = interpolate() if self.dense or len(found) or through or len(due) else None
        stop, name = t, None
        if through:
            stop, name = self._last_before(interpolant, t), "singular"
        for when, event in sorted((self._zero(self.events[i], interpolant, t), i) for i in found):
            if when > stop:
                break
            self.happened[self.events[event].name].append(when)
            if self.events[event].terminal:
                stop, name = when, self.events[event].name
                break
        if name == "singular":
            self.happened[name] = [stop]
        if name is not None:
            state = interpolant(stop) if stop > self.t else self.state
        for when in due:
            if when <= stop:
                self.output.append((float(when), state if when == stop else interpolant(when)))
        if self.outputs is None and stop > self.output[-1][0]:
            self.output.append((stop, state))
        if self.dense:
            self.pieces.append((t, interpolant))
        self.t, self.state, self.stopped = stop, state, name

    def _take(self, t: float, values: np.ndarray) -> None:
        """Take values of the events, of which one that is NaN would never be seen to pass zero."""
        self.values = values
        for event, value in zip(self.events, values, strict=True):
            if math.isnan(value):
                self.undefined = f"the function of the event {event.name!r} is nan at t = {t:.6g}"

    def close(self, reason: str | None, last: float) -> None:
        """End the run if no step could be made, for the reason given, or none is left to be made."""
        if reason := reason or self.undefined:
            self.status, self.message = FlowStatus.FAILED, f"stopped at t = {self.t:.6g}: {reason}."
        elif self.stopped is not None:
            self.status, self.message = FlowStatus.EVENT, f"event {self.stopped!r} at t = {self.t:.6g}."
        elif self.t >= last:
            self.status, self.message = FlowStatus.COMPLETE, f"reached t = {last:g}."

    def interrupt(self) -> None:
        if self.status is None:
            self.status = FlowStatus.INTERRUPTED
            self.message = f"interrupted at t = {self.t:.6g}; resume(t) goes on from there."

    def _last_before(self, interpolant: Any, t: float) -> float:
        """Bisect for the last time from which the start of the step is not yet parted."""
        low, high = self.t, t
        while high - low > 1e-14 * max(1.0, abs(t)):
            middle = (low + high) / 2
            low, high = (low, middle) if self.crossed(self.state, interpolant(middle)) else (middle, high)
        return low

    def _zero(self, event: Event, interpolant: Any, t: float) -> float:
        a, b = (event.function(s, interpolant(s)) for s in (self.t, t))
        if a * b >= 0:  # the interpolant differs from the states at the ends by round-off
            return t
        return float(brentq(lambda s: event.function(s, interpolant(s)), self.t, t, xtol=1e-14 * max(1.0, abs(t))))

    def trajectory(self, n_evaluations: int) -> Trajectory:
        assert self.status is not None
        if self.t > self.output[-1][0]:  # ended between two output times
            self.output.append((self.t, self.state))
        times, states = zip(*self.output, strict=True)
        solution = None
        if self.pieces:
            ends, interpolants = zip(*self.pieces, strict=True)
            solution = scipy.integrate.OdeSolution([times[0], *ends], interpolants)
        stacked = np.stack(states)
        return Trajectory(np.array(times), stacked, self.status, self.message, n_evaluations, self.happened, solution)


@contextmanager
def reporter(progress: Progress, first: float, last: float) -> Iterator[Callable[[float], None]]:
    """Open what shows the time reached."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda t: None
    else:
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("flow", total=last - first)
            yield lambda t: bar.update(task, completed=t - first)
