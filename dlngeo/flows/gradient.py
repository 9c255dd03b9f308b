"""Gradient flow of a cost on any space of geomstats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from geomstats.geometry.manifold import Manifold

from dlngeo._check import returned
from dlngeo.flows.integrate import Event, Progress, integrate
from dlngeo.flows.result import (
    Cost,
    FlowResult,
    Gradient,
    checked_cost,
    checked_gradient,
    common,
    loss_events,
    losses_along,
)
from dlngeo.flows.states import state_of

__all__ = ["Flow", "gradient_flow"]


@dataclass(kw_only=True)
class Flow(FlowResult):
    """A gradient flow: points along it, and how it ended.

    Call it with a time, or an array of times, for the points there.

    Attributes
    ----------
    t, points, status, message, n_evaluations, events
        As in :class:`~dlngeo.flows.FlowResult`.
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
    """

    losses: np.ndarray | None
    gradient_norms: np.ndarray
    loss_increase: float | None
    singular_values: np.ndarray | None


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
    gradient, cost = checked_gradient(euclidean_gradient, space.shape), cost and checked_cost(cost)
    state, start = state_of(space, gradient, point, coordinates)
    returned(gradient(state.point(start)), space.shape, "the gradient at the start")

    def norm(y: np.ndarray) -> float:
        return math.sqrt(state.squared_gradient_norm(y))

    watched = loss_events(cost and (lambda y: cost(state.point(y))), norm, loss_below, gradient_below)
    if singular_value_below is not None:
        watched.append(
            Event("rank", lambda t, y: float(state.singular_values(y)[-1]) - singular_value_below, threshold=True)
        )
    for name, function in (events or {}).items():
        watched.append(_user_event(name, function, state))

    def run(y: np.ndarray, times: Any) -> Flow:
        done = integrate(
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
        points = np.stack([state.point(y) for y in done.states])
        return Flow(
            **common(done, state.point, run),
            **losses_along(points, cost, done.message, rtol),
            points=points,
            gradient_norms=np.array([norm(y) for y in done.states]),
            singular_values=np.stack([state.singular_values(y) for y in done.states]) if state.spectral else None,
        )

    return run(start, t)


def _user_event(name: str, function: Callable[[float, np.ndarray], float], state: Any) -> Event:
    if name in ("loss", "gradient", "rank"):
        raise ValueError(f"the event name {name!r} is taken; choose another.")
    return Event(name, lambda t, y: float(function(t, state.point(y))), bool(getattr(function, "terminal", False)))
