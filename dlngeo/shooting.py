"""Geodesics on any surface: one integrator, one root finder, one search and one length.

A :class:`Surface` says how its geodesics bend, where they end, and where to look for one between two points. From a
velocity they are integrated by SciPy's DOP853, a whole batch as one system, unless the surface has a way of its own to
follow them. Between points, a surface may find many geodesics together; for the pairs that are left, Newton's method on
the initial velocity makes a geodesic arrive, from one guess after the other. A failure is reported as such, never
returned as an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853

from dlngeo._check import Field, numbers
from dlngeo.errors import GeodesicError, SingularError

__all__ = [
    "LARGEST",
    "MAX_STEPS",
    "Attempt",
    "Connecting",
    "Path",
    "Surface",
    "at",
    "connect",
    "connect_all",
    "conserved",
    "ends_at",
    "length",
    "newton",
    "not_converged",
    "rate",
    "search",
    "shoot",
    "spend",
]

Array = NDArray[np.float64]
Path = Callable[[Array], Array]

# A geodesic of unit length takes tens of steps. One that takes thousands is running into a singular point, where the
# coordinates are singular and the steps shrink without bound.
MAX_STEPS = 1000
# Geodesics conserve energy, to some hundred tolerances where the point is well conditioned. Those that step over a
# singular point lose or gain a fair part of it, and their end points are wrong.
_ENERGY_DRIFT = 1e7
_NEWTON_STEPS = 10
# A search takes some hundred steps of integration, and thousands if every way to look for a geodesic is tried.
_SEARCH_STEPS = 3000
# Where a singular value is far below the norm, rounding may move the point by more than the tolerance, in the metric.
_ROUNDING, _MOST_ROUNDING = 8 * np.finfo(float).eps, 1e-6
# The length of a path is a sum over chords, and again over twice as many to know how far that is from the length.
_CHORDS = 100
# Beyond this, singular values and products of entries may overflow.
LARGEST = 1e300


class Connecting(NamedTuple):
    """A geodesic between two points, or each of many: initial velocity, length, and relative end-point residual."""

    velocity: Array
    length: Any
    residual: Any


Attempt = Callable[[], Connecting]

_steps_left: ContextVar[list[int] | None] = ContextVar("steps that the search may still take", default=None)


class Surface(ABC):
    """A manifold in a flat space of arrays, and a metric on it: what its geodesics need to know.

    Points and tangent vectors are NumPy arrays of one shape, of ``point_ndim`` axes, and batch over those before.
    """

    point_ndim: int
    #: Numbers that points hold.
    field: Field = "real"

    @abstractmethod
    def acceleration(self, x: Array, v: Array) -> Array:
        """Second derivative in the flat space of geodesics; raises a SingularError where the metric is not defined."""

    @abstractmethod
    def inner(self, x: Array, v: Array, w: Array) -> Array:
        """Inner product of tangent vectors at x, shape=[...]; raises as :meth:`acceleration`."""

    @abstractmethod
    def crossed(self, before: Array, after: Array) -> bool:
        """Whether a geodesic of the batch passes a singular point on a short way between two of its points."""

    @abstractmethod
    def settle(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Return points and velocities that are on the manifold but for the error of integration, to round-off."""

    def follow(self, start: Array, times: Array, tolerance: float) -> Array:
        """Integrate geodesics from points and velocities, shape=[2, ...], to times of one sign that grow in size.

        Returns shape=[t, 2, ...]. Raises what :func:`shoot` does. By default all are integrated as one system.
        """
        return _integrate(self, start, times, tolerance)

    @abstractmethod
    def basis(self, x: Array) -> tuple[Array, Array]:
        """Orthonormal basis of the tangent space at one point, or of a part to search in, and the momenta dual to it.

        Products in the flat space with the momenta, shape=[dim, *point_shape], are the components in the basis.
        """

    def together(self, x0: Array, x1: Array, tolerance: float) -> Connecting:
        """Geodesics between pairs, found all at once, shape=[b, *point_shape]; of infinite length where there is none.

        By default there is none.
        """
        return Connecting(np.zeros_like(x0), np.full(len(x0), np.inf), np.full(len(x0), np.inf))

    @abstractmethod
    def attempts(self, x0: Array, x1: Array, tolerance: float) -> Iterator[tuple[float, Attempt]]:
        """Ways to find a geodesic between two points, and of each the length of the shortest path known by then."""


def rate(surface: Surface, x: Array, v: Array) -> Array:
    """Right-hand side ``(V, acceleration)`` of the geodesic equation, shape=[2, ...].

    A SingularError is raised where the metric is not defined, and at what is not finite or so large that it overflows.
    """
    for array in (x, v):
        if not np.all(np.abs(array) < LARGEST):
            raise SingularError(f"the geodesic leaves the numbers of double precision, beyond {LARGEST:g}.")
    return np.stack([v, surface.acceleration(x, v)])


def shoot(
    x: Array, v: Array, surface: Surface, times: Array | None = None, tolerance: float = 1e-11
) -> tuple[Array, Array]:
    """Follow geodesics from points ``x`` with velocities ``v``.

    Parameters
    ----------
    x, v : array, shape=[..., *point_shape]
        Initial points and tangent vectors, of one shape.
    surface : Surface
        The manifold.
    times : array, shape=[t], optional
        Times, of either sign and in any order. Defaults to ``[1.0]``.
    tolerance : float
        Local error, relative and (times the size of each matrix) absolute; where the surface follows geodesics in its
        own way, relative to their length in the metric.

    Returns
    -------
    points, velocities : array, shape=[t, ..., *point_shape]
        The geodesics and their velocities at the given times.

    Raises
    ------
    GeodesicError
        If a geodesic reaches a singular point of the surface before the last time, or its energy is not conserved.
    """
    times = np.ones(1) if times is None else np.atleast_1d(np.asarray(times, float))
    start = np.stack([numbers(a, name, surface.field) for a, name in ((x, "the point"), (v, "the velocity"))])
    out = np.empty((len(times), *start.shape), start.dtype)
    for ahead in (True, False):
        wanted = np.flatnonzero(times > 0 if ahead else times < 0)
        if wanted.size:
            wanted = wanted[np.argsort(np.abs(times[wanted]))]
            out[wanted] = surface.follow(start, times[wanted], tolerance)
    moved = times != 0
    out[~moved] = start
    if moved.any():
        out[moved] = np.stack(surface.settle(out[moved, 0], out[moved, 1]), axis=1)
    return out[:, 0], out[:, 1]


def _integrate(surface: Surface, start: Array, times: Array, tolerance: float) -> Array:
    """States at ``times``, which have one sign and grow in size, of points and velocities, shape=[2, ...]."""
    tolerance = max(tolerance, 100 * np.finfo(float).eps)  # the least that SciPy takes
    size = np.maximum(np.abs(start).max(axis=(-2, -1), keepdims=True), np.finfo(float).tiny)
    atol = np.broadcast_to(tolerance * size, start.shape).ravel()
    out = np.empty((len(times), *start.shape))
    filled, time = 0, 0.0

    def slope(_: float, y: Array) -> Array:
        return rate(surface, *y.reshape(start.shape)).ravel()

    try:
        energy = surface.inner(start[0], start[1], start[1])
        solver = DOP853(slope, 0.0, start.ravel(), times[-1], rtol=tolerance, atol=atol)
        for _ in range(MAX_STEPS):
            spend(1)
            before = solver.y.reshape(start.shape)
            solver.step()
            if solver.status == "failed":
                break
            state = solver.y.reshape(start.shape)
            if surface.crossed(before[0], state[0]):
                time = _crossing(surface, solver.dense_output(), start.shape, time, solver.t)
                break
            drift = np.abs(surface.inner(state[0], state[1], state[1]) - energy)
            if not np.all(drift <= _ENERGY_DRIFT * tolerance * energy):
                break
            time = solver.t
            reached = filled + int(np.searchsorted(np.abs(times[filled:]), abs(time), side="right"))
            if reached > filled:
                dense = solver.dense_output()
                for i in range(filled, reached):
                    out[i] = (solver.y if times[i] == time else dense(times[i])).reshape(start.shape)
                filled = reached
            if solver.status == "finished":
                return out
    except (SingularError, np.linalg.LinAlgError):
        pass  # of points that the integrator tries; what else a kernel raises is its own matter
    raise ends_at(time, times[-1])


def ends_at(time: float, last: float) -> GeodesicError:
    """Error of a geodesic that ends at a time before the last one."""
    shown = f"{time:.3g}"
    if abs(float(shown)) >= abs(last):
        shown = f"{last:g} − {last - time:.1e}"
    return GeodesicError(
        f"the geodesic runs into a singular matrix just after time {shown}, before time {last:g}: "
        "the metric is incomplete there. Shorten the tangent vector.",
        status="singular",
    )


def spend(steps: int) -> None:
    """Count steps of integration; a search that has taken all of its own ends, with status "not converged"."""
    left = _steps_left.get()
    if left is not None:
        if left[0] < steps:
            left[0] = 0
            raise not_converged(f"the search took all of its {_SEARCH_STEPS} steps of integration")
        left[0] -= steps


def _crossing(
    surface: Surface, dense: Callable[[float], Array], shape: tuple[int, ...], early: float, late: float
) -> float:
    """Time of a crossing that is known to lie between two times, by bisection of the dense output of states."""
    for _ in range(30):
        middle = (early + late) / 2
        if surface.crossed(*(dense(t).reshape(shape)[0] for t in (early, middle))):
            late = middle
        else:
            early = middle
    return early


def conserved(before: float, after: float) -> None:
    """Refuse the end of a geodesic whose energy there is not that at the start, to 1e-6: status "not converged"."""
    drift = abs(after / before - 1) if before > 0 else 0.0
    if not drift < 1e-6:
        raise GeodesicError(
            f"the energy of the geodesic changed by {drift:.1e}, relatively: its end is not accurate (status: not "
            "converged). Shorten the tangent vector.",
            status="not converged",
        )


def connect(x0: Array, x1: Array, surface: Surface, tolerance: float = 1e-10) -> Connecting:
    """Find a geodesic from ``x0`` to ``x1``, no longer than the paths known between them.

    Like any descent, this finds a locally shortest geodesic.

    Parameters
    ----------
    x0, x1 : array, shape=[*point_shape]
        End points.
    surface : Surface
        The manifold, which knows where to look.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm, both in the metric there; where the rounding
        of the point is more, that, up to 1e-6.

    Returns
    -------
    Connecting
        Initial velocity, length and residual.

    Raises
    ------
    GeodesicError
        If the points lie in different components, or the search does not converge within 3000 steps of integration.
    """
    x0, x1 = (numbers(x, "the point", surface.field) for x in (x0, x1))
    found = surface.together(x0[None], x1[None], tolerance)
    if np.isfinite(found.length[0]):
        return Connecting(found.velocity[0], float(found.length[0]), float(found.residual[0]))
    return search(surface.attempts(x0, x1, tolerance), tolerance)


def connect_all(x0: Array, x1: Array, surface: Surface, tolerance: float = 1e-10) -> Connecting:
    """Find geodesics of many pairs at once, shape=[..., *point_shape]; see :func:`connect`.

    Those that are hard are sought one by one. An error says which pair it is of.
    """
    x0, x1 = (numbers(x, "the point", surface.field) for x in (x0, x1))
    shape = x0.shape[: x0.ndim - surface.point_ndim]
    starts, ends = (x.reshape(-1, *x0.shape[len(shape) :]) for x in (x0, x1))
    found = surface.together(starts, ends, tolerance)
    velocity, size, residual = (
        found.velocity.reshape(x0.shape),
        found.length.reshape(shape),
        found.residual.reshape(shape),
    )
    for index in map(tuple, np.argwhere(~np.isfinite(size)).tolist()):
        try:
            velocity[index], size[index], residual[index] = search(
                surface.attempts(x0[index], x1[index], tolerance), tolerance
            )
        except GeodesicError as error:
            if not index:
                raise
            message = f"pair {index if len(index) > 1 else index[0]}: {error}"
            raise GeodesicError(message, error.status, error.residual) from None
    return Connecting(velocity, size, residual)


def search(attempts: Iterable[tuple[float, Attempt]], tolerance: float) -> Connecting:
    """Make attempts in turn until a geodesic is found that is no longer than the path known: others are no shortest.

    It may be longer by the tolerance, and by a hundredth: the length of a path is known to its chords. Where all
    attempts raise a :class:`GeodesicError`, that of the last one is raised.
    """
    failure = not_converged("there is nothing to try")
    outer = _steps_left.get()
    left = [_SEARCH_STEPS] if outer is None else outer
    _steps_left.set(left)
    try:
        for bound, attempt in attempts:
            try:
                found = attempt()
            except GeodesicError as error:
                failure = error
                if left[0] == 0:
                    break
                continue
            if found.length <= 1.01 * bound + tolerance:
                return found
            failure = not_converged(
                f"a geodesic of length {found.length:.3g} was found, but a path of length {bound:.3g} exists"
            )
    finally:
        _steps_left.set(outer)
    if failure.status == "singular":  # which says to shorten a vector that nobody gave
        raise not_converged("the last geodesic that was tried runs into a singular matrix") from failure
    raise failure


def newton(
    x0: Array, target: Callable[[Array], Array], velocity: Array, surface: Surface, tolerance: float
) -> Connecting:
    """Correct a velocity by Newton's method until its geodesic from ``x0`` ends at a target.

    The Jacobian comes from difference quotients along the basis at ``x0``, whose geodesics are integrated together with
    the geodesic itself: as one system they take the same steps, so that errors cancel. It is kept as long as each step
    with it gains a digit.

    Parameters
    ----------
    target : callable
        End of a geodesic → the point to arrive at: a given one, or the nearest of a set that the basis of the surface
        is orthogonal to.
    velocity : array, shape=[*point_shape]
        Guess; the part of it in the span of the basis, in which it is sought, is used.
    tolerance : float
        Largest distance from the target accepted, as in :func:`connect`.

    Raises
    ------
    GeodesicError
        If a geodesic on the way ends at a singular point, or the end does not come closer.
    """
    basis, momenta = surface.basis(x0)
    velocity = _combine(_pair(momenta, velocity), basis)
    goal = target(x0)
    fineness = min(_fineness(surface, x0, momenta), _fineness(surface, goal, surface.basis(goal)[1]))
    accepted = max(tolerance, min(_ROUNDING / fineness, _MOST_ROUNDING))
    jacobian, residual = None, np.inf
    for _ in range(_NEWTON_STEPS):
        [end], _ = shoot(x0, velocity, surface, tolerance=0.01 * tolerance * fineness)
        goal = target(end)
        missing, speed = goal - end, _size(surface, x0, velocity)
        previous, residual = residual, _size(surface, goal, missing) / _size(surface, goal, goal)
        if residual <= accepted:
            return Connecting(velocity, speed, residual)
        if residual > previous:
            break
        if jacobian is None or residual > 0.1 * previous:
            test = surface.basis(end)[1]
            step = max(1e-6 * speed, 1e-9 / np.sqrt(fineness) * _size(surface, x0, x0))
            fan = np.concatenate([velocity[None], velocity + step * basis])
            [ends], _ = shoot(np.broadcast_to(x0, fan.shape), fan, surface, tolerance=1e-9 * fineness)
            jacobian = _pair(test, (ends[1:] - ends[0]) / step)
        change: Any = np.linalg.lstsq(jacobian, _pair(test, missing), rcond=None)[0]
        velocity = velocity + _combine(change, basis)
    raise not_converged("Newton's method misses the end point", residual)


def _fineness(surface: Surface, x: Array, momenta: Array) -> float:
    """Least ratio of a change relative to the norm of a point and that in the metric: 1 where this is the flat one."""
    return min(1.0, _size(surface, x, x) / (_norm(x) * max(map(_norm, momenta))))


def _size(surface: Surface, x: Array, v: Array) -> float:
    return float(np.sqrt(surface.inner(x, v, v)))


def at(point: Array) -> Callable[[Array], Array]:
    """Target of :func:`newton` that is one point."""
    return lambda _: point


def length(path: Path, surface: Surface) -> float:
    """Upper estimate of the length of a path: its chords at their midpoints, and twice what more chords change.

    It is infinite if the metric is not defined on the way.
    """
    coarse, fine = (_chords(path(np.linspace(0, 1, count)), surface) for count in (_CHORDS + 1, 2 * _CHORDS + 1))
    return fine + 2 * abs(fine - coarse) if np.isfinite(coarse) else np.inf


def _chords(points: Array, surface: Surface) -> float:
    chords = np.diff(points, axis=0)
    try:
        return float(np.sqrt(surface.inner((points[1:] + points[:-1]) / 2, chords, chords)).sum())
    except SingularError:
        return np.inf


def not_converged(cause: str, residual: float = float("nan")) -> GeodesicError:
    """Error of a search that finds no geodesic."""
    return GeodesicError(
        f"no geodesic was found between the points: {cause} (status: not converged, relative residual {residual:.1e}). "
        "They may be far apart, or no shortest path may exist inside the manifold; "
        "go through an intermediate point, or use another log_solver.",
        status="not converged",
        residual=residual,
    )


def _pair(basis: Array, vectors: Array) -> Array:
    """Products of a basis with one vector, shape=[dim], or with many, shape=[dim, n]."""
    flat = basis.reshape(len(basis), -1)
    return flat @ (vectors.ravel() if vectors.ndim < basis.ndim else vectors.reshape(len(vectors), -1).T)


def _combine(components: Any, basis: Array) -> Any:
    return np.tensordot(components, basis, 1)


def _norm(a: Array) -> float:
    return float(np.linalg.norm(a.ravel()))
