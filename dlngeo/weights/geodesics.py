r"""Geodesics of manifolds of weights in the flat space of all weights, from a velocity and between two points.

Geodesics solve ``Ẅ = II(Ẇ, Ẇ)`` with the second fundamental form of the manifold. From a velocity they are integrated
by SciPy's DOP853, a whole batch as one system, and their ends projected to the manifold, off which they have drifted by
the integrator's error. Between two points, Newton's method on the initial velocity starts from the projected chord, and
then from a path between the points that has been shortened to almost a geodesic. A failure is reported as such, never
returned as an answer.

The functions here work on stacked weights in NumPy, shape=[..., N, d, d]; :mod:`dlngeo.geomstats` brings other backends
to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from dlngeo._linalg import rotation_between
from dlngeo.errors import GeodesicError
from dlngeo.shooting import ENERGY_DRIFT, integrate_geodesics
from dlngeo.weights.balanced import BalancedFrame, inner, norm
from dlngeo.weights.bases import tangent_basis
from dlngeo.weights.projections import nearest, snap
from dlngeo.weights.unbalanced import LeafFrame, nearby

__all__ = ["BALANCED", "Surface", "balanced_weights_path", "connect", "leaf", "relaxed", "shoot"]

Array = NDArray[np.float64]

_NEWTON_STEPS = 8
# The rough geodesic that Newton's method starts from.
_NODES, _SWEEPS, _OVER_RELAXATION = 16, 100, 1.6
_CHORDS = 100


@dataclass(frozen=True)
class Surface:
    """A manifold of stacked weights: what its geodesics need to know.

    Attributes
    ----------
    frame : callable
        Weights → an object with ``tangent`` and ``second_fundamental_form``, for a batch.
    basis : callable
        Weights, one point → orthonormal basis of the tangent space, shape=[dim, N, d, d].
    project : callable
        Weights close to the manifold → weights on it.
    full_rank : bool
        Whether all layers are invertible on it, so that a geodesic ends at a singular layer.
    retract : callable
        The same, but cheap, and only continuous in the normal part: it fixes the manifold, and keeps tangent steps to
        first order.
    path : callable
        Two points → a path between them, a function of times; raises :class:`~dlngeo.errors.GeodesicError` if there
        is none.
    """

    frame: Callable[[Array], Any]
    basis: Callable[[Array], Array]
    project: Callable[[Array], Array]
    retract: Callable[[Array], Array]
    path: Callable[[Array, Array], Callable[[Array], Array]]
    full_rank: bool


def leaf(imbalance: Array) -> Surface:
    """Leaf of weights of the given imbalance, shape=[N−1, d, d]; see :mod:`dlngeo.weights.unbalanced`."""

    def project(weights: Array) -> Array:
        return nearby(weights, imbalance)

    def path(w0: Array, w1: Array) -> Callable[[Array], Array]:
        def points(t: Array) -> Array:
            try:
                return project(w0 + t[:, None, None, None] * (w1 - w0))
            except ValueError as error:
                raise _not_converged(f"the chord cannot be projected to the leaf ({error})") from None

        return points

    return Surface(LeafFrame, lambda w: LeafFrame(w).tangent_basis(), project, project, path, full_rank=False)


def shoot(
    weights: Array, velocities: Array, surface: Surface, times: Array | None = None, tolerance: float = 1e-11
) -> tuple[Array, Array]:
    """Follow geodesics from weights with given velocities.

    Parameters
    ----------
    weights, velocities : array, shape=[..., N, d, d]
        Initial points and tangent vectors, of one shape. A batch is integrated as one system.
    surface : Surface
        The manifold: ``BALANCED``, or a :func:`leaf`.
    times : array, shape=[t], optional
        Times, of either sign and in any order. Defaults to ``[1.0]``.
    tolerance : float
        Local error, relative and (times the size of the layers) absolute.

    Returns
    -------
    points, velocities : array, shape=[t, ..., N, d, d]
        On the manifold, and tangent to it, to round-off.

    Raises
    ------
    GeodesicError
        If a geodesic of balanced weights reaches a singular layer before the last time: it leaves the manifold there.
        Or if its energy is not conserved. A geodesic that goes straight through a singular point of a leaf, as it can
        if some ``G_p`` is singular, is followed beyond it.
    """
    times = np.ones(1) if times is None else np.atleast_1d(np.asarray(times, float))
    start = np.stack([weights, velocities])
    out = np.empty((len(times), *start.shape))

    def rate(_: float, y: Array) -> Array:
        position, velocity = y.reshape(start.shape)
        return np.stack([velocity, surface.frame(position).second_fundamental_form(velocity, velocity)]).ravel()

    for ahead in (True, False):
        wanted = np.flatnonzero(times > 0 if ahead else times < 0)
        if wanted.size:
            wanted = wanted[np.argsort(np.abs(times[wanted]))]
            ended = _watch(weights, velocities, surface, tolerance)
            out[wanted] = integrate_geodesics(rate, start, times[wanted], tolerance, ended)
    out[times == 0] = start
    points = surface.project(out[:, 0])
    velocities_there = surface.frame(points).tangent(out[:, 1])
    points[times == 0], velocities_there[times == 0] = start
    return points, velocities_there


def _watch(weights: Array, velocities: Array, surface: Surface, tolerance: float) -> Callable[[Array], bool]:
    """Make a watcher for geodesics that pass a singular layer between two steps, or lose energy.

    The equation is smooth across a vanishing singular value, since the manifold goes on there as an immersed one, with
    a negative λ. But the orthogonal polar factor of every layer jumps, by a half turn; in a step that resolves the
    geodesic it turns by far less than a right angle, which makes the singular values of the sum of both √2.
    """
    energy, last = inner(velocities, velocities), _orthogonal_factor(weights)

    def ended(state: Array) -> bool:
        nonlocal last
        drift = np.abs(inner(state[1], state[1]) - energy)
        if np.any(drift > ENERGY_DRIFT * tolerance * energy):
            return True
        if not surface.full_rank:
            return False
        here = _orthogonal_factor(state[0])
        turned = np.linalg.svd(last + here, compute_uv=False).min()
        last = here
        return bool(turned < np.sqrt(2))

    return ended


def _orthogonal_factor(weights: Array) -> Array:
    u, _, vt = np.linalg.svd(weights[..., 0, :, :])
    return u @ vt


def connect(w0: Array, w1: Array, surface: Surface, tolerance: float = 1e-10) -> Array:
    """Find the initial velocity of a geodesic between two points.

    Parameters
    ----------
    w0, w1 : array, shape=[N, d, d]
        Points on the manifold.
    surface : Surface
        The manifold.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm.

    Returns
    -------
    array, shape=[N, d, d]
        Tangent vector at ``w0``. Like any descent, this finds a locally shortest geodesic; on the balanced weights one
        longer than the known path is refused.

    Raises
    ------
    GeodesicError
        If the points lie in different components, or the search does not converge.
    """
    path = surface.path(w0, w1)
    bound, failure = _length(path), None
    for guess in (lambda: surface.frame(w0).tangent(w1 - w0), lambda: relaxed(w0, w1, surface)):
        try:
            found = _arrive(w0, w1, guess(), surface, tolerance)
        except GeodesicError as error:
            failure = error
            continue
        if norm(found) <= 1.01 * bound + tolerance:
            return found
        failure = _not_converged(
            f"a geodesic of length {norm(found):.3g} was found, but a path of length {bound:.3g} exists"
        )
    assert failure is not None
    raise failure


def _arrive(w0: Array, w1: Array, velocity: Array, surface: Surface, tolerance: float) -> Array:
    """Correct a velocity by Newton's method until its geodesic from ``w0`` ends at ``w1``.

    The Jacobian comes from difference quotients along an orthonormal basis of the tangent space, whose geodesics are
    integrated together with the geodesic itself: as one system they take the same steps, so that errors cancel. It is
    kept as long as each step with it gains a digit.
    """
    scale, basis = float(norm(w1)), surface.basis(w0)
    jacobian, residual = None, np.inf
    for _ in range(_NEWTON_STEPS):
        [end], _ = shoot(w0, velocity, surface, tolerance=0.01 * tolerance)
        previous, residual = residual, float(norm(end - w1)) / scale
        if residual <= tolerance:
            return velocity
        if residual > previous:
            break
        if jacobian is None or residual > 0.1 * previous:
            jacobian = _jacobian(w0, velocity, basis, surface)
        change = np.linalg.lstsq(jacobian, (w1 - end).ravel(), rcond=None)[0]
        velocity = velocity + np.tensordot(change, basis, 1)
    raise _not_converged("Newton's method misses the end point", residual)


def _jacobian(w0: Array, velocity: Array, basis: Array, surface: Surface) -> Array:
    step = 1e-6 * max(float(norm(velocity)), 1e-3 * float(norm(w0)))
    fan = np.concatenate([velocity[None], velocity + step * basis])
    [ends], _ = shoot(np.broadcast_to(w0, fan.shape), fan, surface, tolerance=1e-9)
    return ((ends[1:] - ends[0]) / step).reshape(len(basis), -1).T


def relaxed(w0: Array, w1: Array, surface: Surface) -> Array:
    """Return the initial velocity of a rough geodesic: a path whose points move to the middle of their neighbours.

    Even and odd points move in turn, by more than the whole way, which takes sweeps in proportion to the number of
    points (successive over-relaxation). Steps are tangent, so that a cheap way back to the manifold does.
    """
    points = surface.path(w0, w1)(np.linspace(0, 1, _NODES + 1))
    size = float(norm(points).max())
    for _ in range(_SWEEPS):
        largest = 0.0
        for first in (1, 2):
            i = np.arange(first, _NODES, 2)
            step = surface.frame(points[i]).tangent((points[i - 1] + points[i + 1]) / 2 - points[i])
            points[i] = surface.retract(points[i] + _OVER_RELAXATION * step)
            largest = max(largest, float(norm(step).max()))
        if largest < 1e-4 * size:
            break
    length = float(norm(np.diff(points, axis=0)).sum())
    slope = surface.frame(points[0]).tangent(-11 * points[0] + 18 * points[1] - 9 * points[2] + 2 * points[3])
    return slope * (length / norm(slope))


def balanced_weights_path(w0: Array, w1: Array) -> Callable[[Array], Array]:
    """Path of balanced weights, ``W_p = O_p S_{p−1}`` with ``S_p = O_p S_{p−1} O_pᵀ``: S moves linearly, each O turns.

    The polar factors ``O_1, …, O_N`` of the layers and the positive ``S_0`` are coordinates on all balanced weights of
    full rank, which so are ``SPD(d) × O(d)^N``: their components are told apart by the signs of ``det W_p``.

    Raises
    ------
    GeodesicError
        If a determinant changes sign between the points.
    """
    signs = [np.sign(np.linalg.det(w)) for w in (w0, w1)]
    if np.any(signs[0] != signs[1]):
        layer = int(np.flatnonzero(signs[0] != signs[1])[0]) + 1
        raise GeodesicError(
            f"the determinants of layer {layer} of the two points have opposite signs, and no path of invertible "
            "layers joins them. Align one point to the other along its fibre, if their products have determinants of "
            "the same sign.",
            status="disconnected",
        )
    turns = []
    for a, b in zip(w0, w1, strict=True):
        o0, o1 = polar(a)[0], polar(b)[0]
        turns.append((o0, rotation_between(o0, o1)))
    s0, s1 = (polar(w[0])[1] for w in (w0, w1))

    def path(t: Array) -> Array:
        s = (1 - t[:, None, None]) * s0 + t[:, None, None] * s1
        layers = []
        for o0, turn in turns:
            o = o0 @ turn(t)
            layers.append(o @ s)
            s = o @ s @ o.swapaxes(-1, -2)
        points = np.stack(layers, axis=-3)
        points[t == 0], points[t == 1] = w0, w1
        return points

    return path


BALANCED = Surface(
    BalancedFrame, lambda w: tangent_basis(BalancedFrame(w)), nearest, snap, balanced_weights_path, full_rank=True
)


def _length(path: Callable[[Array], Array]) -> float:
    """Length of a path: its chords, and as much again as more chords add."""
    coarse, fine = (
        float(norm(np.diff(path(np.linspace(0, 1, count)), axis=0)).sum()) for count in (_CHORDS + 1, 2 * _CHORDS + 1)
    )
    return fine + 2 * (fine - coarse)


def _not_converged(cause: str, residual: float = float("nan")) -> GeodesicError:
    return GeodesicError(
        f"no geodesic was found between the points: {cause} (status: not converged, relative residual {residual:.1e}). "
        "They may be far apart; go through an intermediate point, or use another log_solver.",
        status="not converged",
        residual=residual,
    )
