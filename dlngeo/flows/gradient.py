"""Gradient flow of a cost on any space of geomstats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geomstats.geometry.manifold import Manifold

from dlngeo.flows.integrate import Event, FlowStatus, Progress, Trajectory, integrate
from dlngeo.flows.states import CheckedGradient, Gradient, state_of

__all__ = ["Flow", "gradient_flow"]

Cost = Callable[[np.ndarray], Any]


@dataclass
class Flow:
    """A gradient flow: points along it, and how it ended.

    Call it with a time, or an array of times, for the points there.

    Attributes
    ----------
    t : array, shape=[k]
        Output times; the last is where the flow ended.
    points : array, shape=[k, *point_shape]
    status : FlowStatus
        ``"complete"``, ``"event"``, ``"interrupted"`` or ``"failed"``; a string.
    message : str
        The same in words.
    losses : array, shape=[k], or None
        The cost at the points; None without ``cost``.
    gradient_norms : array, shape=[k]
        Riemannian norms ``√g(grad E, grad E)``, whose squares are the rates at which the cost falls.
    loss_increase : float or None
        Largest rise of the cost from one point to the next: 0, if the flow was followed exactly, and if not, a measure
        of the error. Beyond what the tolerances explain, ``message`` says so.
    singular_values : array, shape=[k, r], or None
        For spectral metrics, in descending order. Where the state was factored, small ones have the relative accuracy
        that dense matrices lose.
    n_evaluations : int
        Evaluations of the velocity.
    events : dict
        Times at which each event happened.
    """

    t: np.ndarray
    points: np.ndarray
    status: FlowStatus
    message: str
    losses: np.ndarray | None
    gradient_norms: np.ndarray
    loss_increase: float | None
    singular_values: np.ndarray | None
    n_evaluations: int
    events: dict[str, np.ndarray]
    _points_at: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)
    _resume: Callable[[Any], Flow] | None = field(default=None, repr=False)

    def __call__(self, t: Any) -> np.ndarray:
        """Points at given times.

        Parameters
        ----------
        t : float or array, shape=[k]

        Returns
        -------
        array, shape=[*point_shape] or [k, *point_shape]

        Raises
        ------
        ValueError
            If a time is outside those covered, or the flow was computed with ``dense_output=False``.
        """
        times = np.asarray(t, dtype=float)
        check_times(times, self.t, self._points_at is not None)
        assert self._points_at is not None
        points = self._points_at(np.atleast_1d(times))
        return points if times.ndim else points[0]

    def resume(self, t: Any) -> Flow:
        """Go on from the last state, with the same settings.

        Parameters
        ----------
        t : float or array, shape=[k]
            The last time, or output times, all later than ``self.t[-1]``; the result begins there.

        Returns
        -------
        Flow
            The continuation alone.
        """
        assert self._resume is not None
        return self._resume(later_times(t, float(self.t[-1])))


def gradient_flow(
    space: Any,
    euclidean_gradient: Gradient,
    point: Any,
    t: Any,
    *,
    cost: Cost | None = None,
    method: str = "DOP853",
    rtol: float = 1e-11,
    atol: float = 1e-13,
    loss_below: float | None = None,
    gradient_below: float | None = None,
    singular_value_below: float | None = None,
    events: Mapping[str, Callable[[float, np.ndarray], float]] | None = None,
    coordinates: str = "auto",
    dense_output: bool = True,
    progress: Progress = False,
) -> Flow:
    r"""Follow the gradient flow ``ẋ = −grad E(x)`` of a cost E on a Riemannian manifold.

    Time is that of the metric. For the unnormalised :class:`~dlngeo.geomstats.DLNMetric` it is the time of training the
    N layers, ``Ẇ_p = −∂L/∂W_p`` from balanced weights [1]_; the normalised metric runs N times slower.

    Parameters
    ----------
    space : geomstats Manifold
        A real space whose points are arrays, equipped with a Riemannian metric.
    euclidean_gradient : callable
        ``x → E′(x)``, the partial derivatives of E, of the shape of a point. Points are NumPy arrays on every backend.
    point : array, shape=[*point_shape], or tuple of arrays
        Start. For matrices with the DLN metric of depth ≥ 2, also a singular value decomposition ``(u, s, vt)``, which
        may hold singular values that a dense matrix cannot.
    t : float or array, shape=[k]
        The last time, from 0 on, with output at every step; or increasing output times, beginning with that of the
        start.
    cost : callable, optional
        ``x → E(x)``.
    method : str
        ``"DOP853"`` (explicit, of order 8), ``"RK45"``, ``"RK23"``; for stiff flows ``"Radau"``, ``"BDF"``,
        ``"LSODA"``.
    rtol, atol : float
        Local error of a step.
    loss_below, gradient_below, singular_value_below : float, optional
        Stop where the cost, the Riemannian norm of the gradient, or the smallest singular value (a drop of rank) falls
        below this.
    events : dict of callables, optional
        ``name → (t, x) → float``: zeros are located, and ``.events[name]`` lists their times. One with the attribute
        ``terminal = True`` stops the flow.
    coordinates : "auto", "factored" or "dense"
        State of the integrator. Factored: singular frames and log σ, see :mod:`dlngeo.flows.factored`; for matrices
        with the DLN metric of depth > 1, automatic from depth 2 on. Dense: the point itself, evaluated at its
        ``space.projection``, so that it does not drift off the manifold.
    dense_output : bool
        Keep the interpolants, so that the result can be called with any time.
    progress : bool or callable
        True draws a bar on standard error; a function is called with the time reached after each step.

    Returns
    -------
    Flow
        Ctrl-C gives what is done so far, with the status ``"interrupted"``.

    Raises
    ------
    TypeError
        If ``space`` is no geomstats manifold.
    ValueError
        If the space has no metric, the point is not in it, the gradient has the wrong shape or is not finite at the
        start, or an option is out of range.

    Notes
    -----
    The cost of an evaluation does not depend on depth. In dense coordinates, singular values below about
    ``1e-16 σ_max`` are lost, ``λ = σ^{1/N}`` is known to ``1e-16^{1/N}``, and where deep networks have such values the
    velocity is noise, for which no step is short enough. Depths below 2 reach singular matrices in
    finite time, where the factored state ends with the status ``"failed"``.

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018, arXiv:1802.06509.

    Examples
    --------
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from dlngeo.geomstats import DLNMetric
    >>> space = GeneralLinear(2, equip=False)
    >>> _ = space.equip_with_metric(DLNMetric, depth=3)
    >>> flow = gradient_flow(space, lambda x: x - 2 * np.eye(2), 0.1 * np.eye(2), 10.0)
    >>> np.round(flow.points[-1], 6)
    array([[2., 0.],
           [0., 2.]])
    """
    if not isinstance(space, Manifold):
        raise TypeError(f"a geomstats space is expected, got {type(space).__name__}.")
    if getattr(space, "metric", None) is None:
        raise ValueError(f"{type(space).__name__} has no metric; call space.equip_with_metric(...) first.")
    if loss_below is not None and cost is None:
        raise ValueError("loss_below needs the cost; pass cost=.")
    gradient = CheckedGradient(euclidean_gradient, space.shape)
    state, start = state_of(space, gradient, point, coordinates)
    gradient.first(state.point(start))

    watched = []
    if loss_below is not None and cost is not None:
        watched.append(Event("loss", lambda t, y: float(cost(state.point(y))) - loss_below, threshold=True))
    if gradient_below is not None:
        watched.append(
            Event("gradient", lambda t, y: math.sqrt(state.squared_gradient_norm(y)) - gradient_below, threshold=True)
        )
    if singular_value_below is not None:
        watched.append(
            Event("rank", lambda t, y: float(state.singular_values(y)[-1]) - singular_value_below, threshold=True)
        )
    for name, function in (events or {}).items():
        watched.append(_user_event(name, function, state))

    def run(y: np.ndarray, times: Any) -> Flow:
        trajectory = integrate(
            state.velocity,
            y,
            times,
            method=method,
            rtol=rtol,
            atol=atol,
            events=watched,
            dense_output=dense_output,
            progress=progress,
        )
        return _flow(trajectory, state, cost, rtol, run)

    return run(start, t)


def _user_event(name: str, function: Callable[[float, np.ndarray], float], state: Any) -> Event:
    if name in ("loss", "gradient", "rank"):
        raise ValueError(f"the event name {name!r} is taken; choose another.")
    return Event(name, lambda t, y: float(function(t, state.point(y))), bool(getattr(function, "terminal", False)))


def _flow(
    trajectory: Trajectory, state: Any, cost: Cost | None, rtol: float, run: Callable[[np.ndarray, Any], Flow]
) -> Flow:
    points = np.stack([state.point(y) for y in trajectory.states])
    losses, increase, message = losses_along(points, cost, trajectory.message, rtol)
    spectral = state.spectral
    solution = trajectory.solution
    return Flow(
        t=trajectory.t,
        points=points,
        status=trajectory.status,
        message=message,
        losses=losses,
        gradient_norms=np.sqrt([state.squared_gradient_norm(y) for y in trajectory.states]),
        loss_increase=increase,
        singular_values=np.stack([state.singular_values(y) for y in trajectory.states]) if spectral else None,
        n_evaluations=trajectory.n_evaluations,
        events={name: np.array(times) for name, times in trajectory.events.items()},
        _points_at=None if solution is None else lambda t: np.stack([state.point(y) for y in solution(t).T]),
        _resume=lambda t: run(trajectory.states[-1], t),
    )


# What flows of points and of weights share.


def losses_along(
    points: np.ndarray, cost: Cost | None, message: str, rtol: float
) -> tuple[np.ndarray | None, float | None, str]:
    """Costs at the points, their largest rise, and the message with a remark if it is larger than the tolerance."""
    if cost is None:
        return None, None, message
    losses = np.array([float(cost(x)) for x in points])
    rise = max(0.0, float(np.max(np.diff(losses), initial=0.0)))
    if rise > 100 * rtol * np.max(np.abs(losses)):
        message += f" The cost rose by {rise:.2g} in one step: tighten rtol, or check the gradient against the cost."
    return losses, rise, message


def check_times(times: np.ndarray, covered: np.ndarray, dense: bool) -> None:
    """Raise unless the interpolant exists and covers the times."""
    if not dense:
        raise ValueError("there is no interpolant; compute the flow with dense_output=True, over more than one step.")
    if not bool(np.all((times >= covered[0]) & (times <= covered[-1]))):
        raise ValueError(f"the flow covers times from {covered[0]:g} to {covered[-1]:g} only; use resume(t) to go on.")


def later_times(t: Any, last: float) -> np.ndarray:
    """Output times of a continuation: ``last`` first, then ``t``."""
    times = np.atleast_1d(np.asarray(t, dtype=float))
    if not np.all(times > last):
        raise ValueError(f"the flow has reached t = {last:g}; resume it to later times.")
    return np.concatenate(([last], times))
