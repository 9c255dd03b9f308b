"""Gradient flows of a cost on any space of geomstats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geomstats.geometry.complex_manifold import ComplexManifold
from geomstats.geometry.manifold import Manifold

from dlngeo._check import returned
from dlngeo.flows.ensemble import FlowEnsemble, follow_all
from dlngeo.flows.integrate import Event, Progress
from dlngeo.flows.result import Cost, Course, FlowResult, Gradient, Pointwise, UserFunction
from dlngeo.flows.states import spectral_field, starts_of, state_of
from dlngeo.flows.stiff import ExponentialSteps, Posed

__all__ = ["Flow", "FlowEnsemble", "gradient_flow"]

_EXPLICIT, _EXPONENTIAL = 1e-11, 1e-4  # default tolerances


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

    See Also
    --------
    dlngeo.gradient_flow
    dlngeo.flows.FlowEnsemble

    Examples
    --------
    >>> import numpy as np
    >>> from geomstats.geometry.euclidean import Euclidean
    >>> from dlngeo import gradient_flow
    >>> flow = gradient_flow(Euclidean(2), lambda x: x, np.array([3.0, 4.0]), 1.0, cost=lambda x: x @ x / 2)
    >>> bool(np.allclose(flow(0.5), np.exp(-0.5) * np.array([3.0, 4.0])))
    True
    >>> bool(np.allclose(flow.losses, flow.gradient_norms**2 / 2)), flow.loss_increase, flow.singular_values
    (True, 0.0, None)
    """

    losses: np.ndarray | None = None
    gradient_norms: np.ndarray
    loss_increase: float | None = None
    singular_values: np.ndarray | None


def gradient_flow(
    space: Any,
    euclidean_gradient: Gradient,
    point: Any,
    t: Any,
    *,
    cost: Cost | None = None,
    euclidean_hessian: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    method: str = "auto",
    rtol: float | None = None,
    atol: float = 1e-13,
    loss_below: float | None = None,
    gradient_below: float | None = None,
    singular_value_below: float | None = None,
    events: Mapping[str, Callable[[float, np.ndarray], float]] | None = None,
    coordinates: str = "auto",
    dense_output: bool | None = None,
    progress: Progress = False,
) -> Any:
    r"""Follow the gradient flow ``ẋ = −grad E(x)`` of a cost E on a Riemannian manifold, from one start or many.

    Time is that of the metric. For the unnormalised :class:`~dlngeo.geomstats.DLNMetric` it is the time of training the
    N layers, ``Ẇ_p = −∂L/∂W_p`` from balanced weights [1]_; the normalised metric runs N times slower.

    Parameters
    ----------
    space : geomstats Manifold
        A real space whose points are arrays, equipped with a Riemannian metric; or a space of complex matrices with a
        spectral metric, followed in dense coordinates.
    euclidean_gradient : callable
        ``x → E′(x)``, the partial derivatives of E, of the shape of a point; of complex matrices the one with
        ``dE[Z] = Re Tr(E′* Z)``. Points are NumPy arrays on every backend.
        It is a function of one point; of many starts, it is called with many points along a first axis as well, to find
        out whether it takes them, and then once for all, which is faster.
    point : array, shape=[*point_shape] or [B, *point_shape], or tuple of arrays
        Start, or B of them. For matrices with the DLN metric of depth ≥ 2, also a singular value decomposition
        ``(u, s, vt)``, shapes [m, r], [r], [r, n], or with B before, which may hold singular values that a dense matrix
        cannot.
    t : float or array, shape=[k]
        The last time, from 0 on, with output at every step; or increasing output times, beginning with that of the
        start.
    cost : callable, optional
        ``x → E(x)``; called with many points like the gradient.
    euclidean_hessian : callable, optional
        ``(x, z) → D²E(x)[z]``, for exponential steps; without it they take differences of gradients.
    method : str
        ``"auto"`` (the default) begins with ``"DOP853"``, explicit and of order 8; where the flow has become stiff and
        is far from its end it goes on with ``"BDF"``, or with ``"implicit"`` if ``rtol`` is not given and the Jacobian
        would be large: the message says so. Many starts stay with DOP853. ``"implicit"`` makes the exponential steps
        of :class:`dlngeo.pymanopt.GradientFlow`, of order 2, whose number hardly grows with the time; the interpolants
        keep their Krylov spaces. Further ``"RK45"``, ``"RK23"``; for stiff flows ``"Radau"``, ``"BDF"``, ``"LSODA"``.
    rtol, atol : float
        Local error of a step; ``rtol`` defaults to 1e-11, and to 1e-4 for exponential steps, where it is relative to
        the point and ``atol`` does not count.
    loss_below, gradient_below, singular_value_below : float, optional
        Stop where the cost, the Riemannian norm of the gradient, or the smallest singular value (a drop of rank) falls
        below this.
    events : dict of callables, optional
        ``name → (t, x) → float``: zeros are located, and ``.events[name]`` lists their times. One with the attribute
        ``terminal = True`` stops the flow.
    coordinates : "auto", "factored" or "dense"
        State of the integrator. Factored: singular frames and log σ, see :mod:`dlngeo.flows.factored`; for matrices
        with the DLN metric of depth > 1, automatic from depth 2 on, and with the metric of layers with offsets, of
        which two or more are the least. Dense: the point itself, evaluated at its
        ``space.projection``, so that it does not drift off the manifold.
    dense_output : bool, optional
        Keep the interpolants, so that the result can be called with any time. By default for one start only: those of
        many flows fill the memory.
    progress : bool or callable
        True draws a bar on standard error; a function is called with the time reached after each step, of many flows
        the mean.

    Returns
    -------
    Flow, or FlowEnsemble from many starts
        Ctrl-C gives what is done so far, with the status ``"interrupted"``.

    Raises
    ------
    TypeError
        If ``space`` is no geomstats manifold.
    ValueError
        If the space has no metric, the point is not in it, the gradient has the wrong shape or is not finite at the
        start, or an option is out of range. Of many starts, the first at fault is named.

    See Also
    --------
    dlngeo.training_flow
    dlngeo.pymanopt.GradientFlow
    dlngeo.problems.MatrixCompletion

    Notes
    -----
    Many flows by an explicit method share their evaluations, each with the steps and the end that it has alone; one
    that fails or ends leaves the others. Velocities and thresholds of the batch are held against those of single flows
    on the way, and where a function or a space gives others for many points than for each, the flows are followed one
    by one, as they are by the other methods. What a function raises at one flow is raised, as by a single flow.

    The cost of an evaluation does not depend on depth. In dense coordinates, singular values below about
    ``1e-16 σ_max`` are lost, ``λ = σ^{1/N}`` is known to ``1e-16^{1/N}``, and where deep networks have such values the
    velocity is noise, for which no step is short enough.

    Depths below 2 may reach singular matrices in finite time, and the flow ends there: in dense coordinates with the
    event ``"singular"``, factored with the status ``"failed"``, at a time that is exact to the tolerances also near
    depth 2, where dense states lose the end of the way. From depth 2 on, flows never reach them; dense ones end
    with this event where a singular value falls below what they resolve and changes sign. So does the flow on any open
    set, such as that of SPD matrices, where it leaves it. At depth 1 and full rank nothing is singular.

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
    >>> starts = np.random.default_rng(0).standard_normal((100, 2, 2))
    >>> ensemble = gradient_flow(space, lambda x: np.eye(2) * (x - np.eye(2)), starts, 10.0)
    >>> ensemble.ends.shape, len(ensemble), ensemble[7].status
    ((100, 2, 2), 100, <FlowStatus.COMPLETE: 'complete'>)
    """
    field = spectral_field(getattr(space, "metric", None))
    if not (isinstance(space, Manifold) or (isinstance(space, ComplexManifold) and field == "complex")):
        raise TypeError(f"a geomstats space is expected, got {type(space).__name__}.")
    if getattr(space, "metric", None) is None:
        raise ValueError(f"{type(space).__name__} has no metric; call space.equip_with_metric(...) first.")
    gradient = Pointwise(euclidean_gradient, "the gradient", tuple(space.shape), field)
    many = starts_of(point, space.shape, field)
    states, starts = [], []
    for i, one in enumerate([point] if many is None else many):
        try:
            state, start = state_of(space, gradient, one, coordinates)
            returned(gradient(state.point(start)), space.shape, "the gradient at the start", field=field)
        except (TypeError, ValueError) as error:
            if many is None:
                raise
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"start {i}: {error}") from error
        states.append(state)
        starts.append(start)
    dense = many is None if dense_output is None else dense_output
    tolerance = rtol if rtol is not None else (_EXPONENTIAL if method == "implicit" else _EXPLICIT)
    options = {"method": method, "rtol": tolerance, "atol": atol, "dense_output": dense, "progress": progress}
    course = _GradientCourse(options, cost, loss_below, gradient_below)
    course.state, course.edge, course.singular_value_below = states[0], states[0].edge, singular_value_below
    course.space, course.hessian = space, None
    if euclidean_hessian is not None:
        course.hessian = UserFunction(euclidean_hessian, "the Hessian", tuple(space.shape), field)
    if method == "implicit" or rtol is None:
        course.exponential = partial(course.exponential_steps, tolerance if method == "implicit" else _EXPONENTIAL)
    course.watched = {}
    for name, function in (events or {}).items():
        if name in ("loss", "gradient", "rank", "singular"):
            raise ValueError(f"the event name {name!r} is taken; choose another.")
        course.watched[name] = UserFunction(function, f"the event {name!r}")
    return course.follow(starts[0], t) if many is None else follow_all(course, np.stack(starts), t)


class _GradientCourse(Course):
    kind = Flow
    state: Any
    space: Any
    hessian: Any
    singular_value_below: float | None
    watched: dict[str, UserFunction]

    def velocity(self, t: float, y: np.ndarray) -> np.ndarray:
        return self.state.velocity(t, y)

    def point(self, y: np.ndarray) -> np.ndarray:
        return self.state.point(y)

    def points(self, states: np.ndarray) -> np.ndarray:
        return self.state.points(states)

    def gradient_norm(self, y: np.ndarray) -> Any:
        return np.sqrt(self.state.squared_gradient_norm(y))

    def crossed(self, before: np.ndarray, after: np.ndarray) -> Any:
        return self.state.crossed(before, after)

    def take(self, starts: np.ndarray) -> None:
        """Expect many states along one axis."""
        points = self.points(starts)
        self.state.gradient.take(points)
        if self.cost is not None and self.loss_below is not None:
            self.cost.take(points)

    def exponential_steps(self, rtol: float, t: float, y: np.ndarray, last: float) -> ExponentialSteps:
        posed = Posed(self.space, self.state, self.state.gradient, self.hessian, self.cost)
        return ExponentialSteps(posed, t, y, last, rtol=rtol)

    def events(self) -> list[Event]:
        events, least = super().events(), self.singular_value_below
        if least is not None:
            events.append(Event("rank", lambda t, y: self.state.singular_values(y)[..., -1] - least, threshold=True))
        for name, watched in self.watched.items():
            terminal = bool(getattr(watched.function, "terminal", False))
            events.append(Event(name, partial(self._watch, watched), terminal, many=False))
        return events

    def _watch(self, function: UserFunction, t: float, y: np.ndarray) -> float:
        return float(function(t, self.point(y)))

    def measured(self, states: np.ndarray) -> dict[str, Any]:
        values = np.stack([self.state.singular_values(y) for y in states]) if self.state.spectral else None
        return {"gradient_norms": np.array([self.gradient_norm(y) for y in states]), "singular_values": values}
