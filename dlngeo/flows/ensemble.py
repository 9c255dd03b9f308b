"""Many flows of one gradient at once, each with steps and an end of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import index
from typing import Any

import numpy as np

from dlngeo._check import real
from dlngeo.flows.batch import Batch
from dlngeo.flows.integrate import (
    FlowStatus,
    Run,
    Trajectory,
    evaluate,
    explained,
    integrate,
    passed,
    reporter,
    solver_of,
    times_of,
)

__all__ = ["FlowEnsemble", "follow_all"]

_ENTRIES = 2**21  # of the stages of all members that step together: about what the caches hold


@dataclass(kw_only=True)
class FlowEnsemble:
    """Gradient flows from many starts, each with its own end.

    ``len(ensemble)`` is their number, and ``ensemble[i]`` a :class:`~dlngeo.flows.Flow`, with what is measured along
    it. It can be pickled, and then resumed if the functions given can be pickled.

    Attributes
    ----------
    status : array of FlowStatus, shape=[B]
        How each ended.
    t_end : array, shape=[B]
        Where each ended.
    ends : array, shape=[B, *point_shape]
        Points there.
    t : array, shape=[k], or None
        Output times, if they were given.
    points : array, shape=[B, k, *point_shape], or None
        Points at the output times; NaN at times after the end of a flow.
    n_evaluations : array, shape=[B]
        Evaluations of the velocity.

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.flows.Flow

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo import gradient_flow
    >>> starts = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    >>> ensemble = gradient_flow(Euclidean(2), lambda x: x, starts, [0.0, 0.5, 1.0])
    >>> len(ensemble), ensemble.points.shape, bool(np.allclose(ensemble.ends, np.exp(-1) * starts))
    (3, (3, 3, 2), True)
    >>> bool(np.allclose(ensemble[2].gradient_norms, 5 * np.exp([0.0, -0.5, -1.0])))
    True
    """

    status: np.ndarray
    t_end: np.ndarray
    ends: np.ndarray = field(repr=False)
    t: np.ndarray | None = field(repr=False)
    points: np.ndarray | None = field(repr=False)
    n_evaluations: np.ndarray = field(repr=False)
    _course: Any = field(repr=False)
    _done: list[Trajectory] = field(repr=False)

    def __len__(self) -> int:
        return len(self._done)

    def __getitem__(self, i: int) -> Any:
        return self._course.result(self._done[index(i)])

    def resume(self, t: Any) -> FlowEnsemble:
        """Go on from the last states, with the same settings.

        Flows that are complete or were interrupted go on, each from where it is; those ended by an event or a failure
        stay as they are, and ``ensemble[i].resume(t)`` resumes one of them.

        Parameters
        ----------
        t : float or array, shape=[k]
            The last time, or output times, all later than every ``t_end``.

        Returns
        -------
        FlowEnsemble
            The continuation alone.

        Raises
        ------
        ValueError
            If a time is not later, or the result was pickled and a function of the flow could not be.
        """
        times = np.atleast_1d(real(t, "t").astype(float))
        latest = self.t_end.max()
        if not np.all(times > latest):
            raise ValueError(f"the flows have reached t = {latest:g}; resume them to later times.")
        _, last, _ = times_of(np.concatenate(([latest], times)))
        goes = np.isin(self.status, [FlowStatus.COMPLETE, FlowStatus.INTERRUPTED])
        done = [
            Trajectory(d.t[-1:], d.states[-1:], d.status, d.message, 0, {k: list(v) for k, v in d.events.items()})
            for d in self._done
        ]
        rows = np.flatnonzero(goes)
        if rows.size:
            starts = np.stack([done[i].states[-1] for i in rows])
            for i, new in zip(rows, _integrate(self._course, starts, self.t_end[rows], last, times), strict=True):
                done[i] = new
        return _ensemble(self._course, done, times)


def follow_all(course: Any, starts: np.ndarray, t: Any) -> FlowEnsemble:
    """Follow a course of gradient flows from many states, shape=[B, size]."""
    first, last, outputs = times_of(t)
    return _ensemble(course, _integrate(course, starts, np.full(len(starts), first), last, outputs), outputs)


def _ensemble(course: Any, done: list[Trajectory], times: np.ndarray | None) -> FlowEnsemble:
    last = np.stack([d.states[-1] for d in done])
    points = None
    if times is not None:
        states = np.full((len(done), len(times), last.shape[-1]), np.nan)
        for i, d in enumerate(done):
            _, here, there = np.intersect1d(times, d.t, assume_unique=True, return_indices=True)
            states[i, here] = d.states[there]
        reached = np.isfinite(states).all(axis=-1)
        found = course.points(states[reached])
        points = np.full((*reached.shape, *found.shape[1:]), np.nan)
        points[reached] = found
    return FlowEnsemble(
        status=np.array([d.status for d in done], dtype=object),
        t_end=np.array([d.t[-1] for d in done]),
        ends=course.points(last),
        t=times,
        points=points,
        n_evaluations=np.array([d.n_evaluations for d in done]),
        _course=course,
        _done=done,
    )


class _Differs(Exception):
    """What is found of many states is not what is found of each."""


def _integrate(
    course: Any, starts: np.ndarray, first: np.ndarray, last: float, outputs: np.ndarray | None
) -> list[Trajectory]:
    options = dict(course.options)
    progress = options.pop("progress")
    method = solver_of(options["method"], options["rtol"], options["atol"])
    method = getattr(method, "first", method)
    earliest = float(first.min())
    with reporter(progress, earliest, last) as report:
        if hasattr(method, "n_stages") and len(starts) > 1:  # explicit
            course.take(starts)
            try:
                return _together(course, method, starts, first, last, outputs, report)
            except _Differs:
                pass
        done: list[Trajectory] = []
        for i, (since, y) in enumerate(zip(first, starts, strict=True)):
            if done and done[-1].status == FlowStatus.INTERRUPTED:
                run = Run(since, y, outputs, [], None, False)
                run.interrupt()
                done.append(run.trajectory(0))
                continue

            def of_all(t: float, i: int = i, since: float = since) -> None:
                report(earliest + (i + (t - since) / (last - since)) / len(starts) * (last - earliest))

            t = last if outputs is None else np.concatenate(([since], outputs[outputs > since]))
            events, crossed = course.events(), course.crossed
            done.append(
                integrate(
                    course.velocity,
                    y,
                    t,
                    events=events,
                    crossed=crossed,
                    progress=of_all,
                    exponential=course.exponential,
                    **options,
                )
            )
    return done


def _together(
    course: Any,
    method: Any,
    starts: np.ndarray,
    first: np.ndarray,
    last: float,
    outputs: np.ndarray | None,
    report: Callable[[float], None],
) -> list[Trajectory]:
    events, dense = course.events(), course.options["dense_output"]
    runs = [Run(t, y, outputs, events, course.crossed, dense) for t, y in zip(first, starts, strict=True)]
    counts, reached = np.zeros(len(runs), dtype=int), first.copy()
    try:
        for i, (run, values) in enumerate(zip(runs, _of_many(evaluate, events, first, starts), strict=True)):
            try:
                run.start(values)
            except ValueError as error:
                raise ValueError(f"start {i}: {error}") from None
        waiting = np.array([i for i, run in enumerate(runs) if run.status is None], dtype=int)
        width = max(2, _ENTRIES // (method.n_stages * starts.shape[1]))
        for block in np.split(waiting, range(width, len(waiting), width)):
            for members, batch in _steps(course, method, [runs[i] for i in block], last):
                counts[block[members]], reached[block[members]] = batch.n_evaluations, batch.t
                report(float(reached.mean()))
            reached[block] = last
    except KeyboardInterrupt:
        pass
    for run in runs:
        run.interrupt()
    return [run.trajectory(int(count)) for run, count in zip(runs, counts, strict=True)]


def _steps(course: Any, method: Any, runs: list[Run], last: float) -> Iterator[tuple[np.ndarray, Batch]]:
    """Make steps of all runs together until each has ended; yield those under way, and the batch, after each."""
    if not runs:
        return
    velocity = partial(_of_many, course.velocity)
    tolerances = {name: course.options[name] for name in ("rtol", "atol")}
    batch = Batch([method(course.velocity, run.t, run.state, last, **tolerances) for run in runs], velocity)
    _require_same(batch, velocity(batch.t, batch.y), batch.f, batch.y, batch.h)
    events, outputs, dense, members, turn = runs[0].events, runs[0].outputs, runs[0].dense, np.arange(len(runs)), 0
    shared = [event.many for event in events]
    own = [event for event in events if event.many]
    scale = np.max([np.abs(run.values[shared]) for run in runs], axis=0)
    while len(members):
        made, stuck = batch.step(last)
        rows = np.flatnonzero(made)
        t, y, before = batch.t[rows], batch.y[rows], batch.y_old[rows]
        values, through = _of_many(evaluate, events, t, y), _of_many(course.crossed, before, y)
        asked = through | dense
        if events and rows.size:
            asked |= passed(np.stack([runs[i].values for i in members[rows]]), values).any(axis=-1)
        if outputs is not None:
            due = (np.searchsorted(outputs, when, side="right") for when in (batch.t_old[rows], t))
            asked |= np.not_equal(*due)
        found = rows[asked]
        pieces = dict(zip(found.tolist(), batch.interpolants(found), strict=True)) if found.size else {}
        for row, when, state, value, over in zip(rows.tolist(), t.tolist(), y, values, through, strict=True):
            run = runs[members[row]]
            run.accept(when, state.copy(), value, over, partial(pieces.get, row))
            run.close(None, last)
        for row in np.flatnonzero(stuck):
            runs[members[row]].close(explained(method.TOO_SMALL_STEP, batch.lost[row]), last)
        yield members, batch
        ended, turn = np.array([runs[i].status is not None for i in members]), turn + 1
        # A function that mixes the points of a batch may have shown none of it at the start. So all are held against
        # those of a single flow, of one member at each step, and of each at its end.
        checked = np.flatnonzero(ended[rows]) if ended[rows].any() else [turn % len(rows)] if rows.size else []
        for i in checked:
            _require_same(batch, batch.f[rows[i]], course.velocity(t[i], y[i]), y[i], batch.taken[rows[i]])
            same = np.allclose(values[i, shared], evaluate(own, t[i], y[i]), 1e-6, 1e-9 * scale, equal_nan=True)
            if not same or through[i] != course.crossed(before[i], y[i]):
                raise _Differs
        if ended.any():
            batch.keep(~ended)
            members = members[~ended]


def _of_many(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # of a space that takes no batch, or of the user, and then a single flow raises it again
        raise _Differs from error


def _require_same(batch: Batch, many: np.ndarray, alone: np.ndarray, y: np.ndarray, h: Any) -> None:
    """Raise where two velocities differ by more than the error that a step may have."""
    allowed = batch.method.atol + batch.method.rtol * np.abs(y)
    if np.any(np.expand_dims(h, -1) * np.abs(many - alone) > allowed):
        raise _Differs
