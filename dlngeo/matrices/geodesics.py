r"""Geodesics of an invariant metric: from a velocity, and between two points.

Geodesics solve ``Ẍ = −Γ(Ẋ, Ẋ)`` with the closed-form Christoffel map of :class:`~dlngeo.matrices.frame.Frame`. From a
velocity they are integrated by SciPy's DOP853, a whole batch as one system. Between two points they are a boundary
value problem: SciPy's collocation starts from a path that never leaves the manifold, and Newton's method makes the
geodesic arrive. A failure is reported as such, never returned as an answer.

The functions here work on NumPy arrays; :mod:`dlngeo.geomstats` brings other backends to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_bvp
from scipy.interpolate import CubicSpline

from dlngeo.errors import GeodesicError
from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.paths import Path, balanced_path, connecting_paths
from dlngeo.shooting import ENERGY_DRIFT, integrate_geodesics
from dlngeo.weights.alignment import align
from dlngeo.weights.network import balanced_weights, differential

__all__ = ["Connecting", "connect", "shoot"]

Array = NDArray[np.float64]

# Collocation only has to get close: Newton's method on the initial velocity does the rest at a fraction of its cost.
_NODES, _MAX_NODES, _COARSE = 12, 48, 1e-3
_NEWTON_STEPS = 6
# The length of a path is a sum over chords, and again over twice as many to know how far that is from the length.
_CHORDS = 100
# Aligning balanced factors takes time in proportion to their number.
_MOST_FACTORS = 64


class Connecting(NamedTuple):
    """A geodesic between two points: its initial velocity, length, and relative end-point residual."""

    velocity: Array
    length: float
    residual: float


def _acceleration(kernel: Kernel, rank: int, x: Array, v: Array) -> Array:
    return -Frame.at(x, kernel, rank).christoffel(v, v)


def shoot(
    x: Array, v: Array, kernel: Kernel, rank: int, times: Array | None = None, tolerance: float = 1e-11
) -> tuple[Array, Array]:
    """Follow geodesics from points ``x`` with velocities ``v``.

    Parameters
    ----------
    x, v : array, shape=[..., m, n]
        Initial points and tangent vectors, of one shape. A batch is integrated as one system.
    kernel : Kernel
        Kernel of the metric.
    rank : int
        Rank of the points.
    times : array, shape=[t], optional
        Times, of either sign and in any order. Defaults to ``[1.0]``.
    tolerance : float
        Relative and absolute (times the size of ``x`` and ``v``) local error.

    Returns
    -------
    points, velocities : array, shape=[t, ..., m, n]
        The geodesics and their velocities at the given times.

    Raises
    ------
    GeodesicError
        If a geodesic reaches a singular matrix (below the declared rank) before the last time: it ends there.
    """
    times = np.ones(1) if times is None else np.atleast_1d(np.asarray(times, float))
    start = np.stack([x, v])
    out = np.empty((len(times), *start.shape))

    def rate(_: float, y: Array) -> Array:
        position, velocity = y.reshape(start.shape)
        return np.stack([velocity, _acceleration(kernel, rank, position, velocity)]).ravel()

    crossed = _crossing(x, v, kernel, rank, tolerance)
    for ahead in (True, False):
        wanted = np.flatnonzero(times > 0 if ahead else times < 0)
        if wanted.size:
            wanted = wanted[np.argsort(np.abs(times[wanted]))]
            out[wanted] = integrate_geodesics(rate, start, times[wanted], tolerance, crossed())
    out[times == 0] = start
    return out[:, 0], out[:, 1]


def _crossing(x: Array, v: Array, kernel: Kernel, rank: int, tolerance: float) -> Callable[[], Callable[[Array], bool]]:
    """Make watchers for geodesics that pass a singular matrix between two steps.

    A singular value that crosses zero turns round one singular vector, so the orientation of the two frames, each
    compared with that of the step before, changes sign. One that only touches zero, as even powers of λ do, or that is
    thrown off there, leaves no such trace, but the energy is no longer conserved. Where the kernel is smooth at zero,
    as at depth 1, nothing is wrong there.
    """
    if np.isfinite(kernel.divided_difference(1.0, 0.0, 0.0)):
        return lambda: lambda _: False

    def watcher() -> Callable[[Array], bool]:
        last = Frame.at(x, kernel, rank)
        energy = last.inner(v, v)

        def crossed(state: Array) -> bool:
            nonlocal last
            here = Frame.at(state[0], kernel, rank)
            turn = np.linalg.det(last.u.swapaxes(-1, -2) @ here.u) * np.linalg.det(last.vt @ here.vt.swapaxes(-1, -2))
            last = here
            drift = np.abs(here.inner(state[1], state[1]) - energy)
            return bool(np.any(turn < 0) or np.any(drift > ENERGY_DRIFT * tolerance * energy))

        return crossed

    return watcher


def connect(x0: Array, x1: Array, kernel: Kernel, rank: int, tolerance: float = 1e-10) -> Connecting:
    """Find a geodesic from ``x0`` to ``x1``.

    The search starts from a path that turns the column and row spaces along their principal angles and
    interpolates polar factors within them: rotations along one-parameter subgroups, and the N-th roots of the
    positive parts linearly, as balanced factors would move. Collocation shortens the path roughly to a geodesic, and
    Newton's method on the initial velocity makes it arrive. Where that fails, at integer depth and full rank the
    geodesic is sought among the balanced weights, whose coordinates stay good near singular matrices. Else a path
    through aligned balanced factors is tried, which at integer depth is close to a shortest one, and the end point is
    moved along the paths by continuation. The result is no longer than any of the paths: a longer geodesic is not a
    shortest one, and is refused.

    Like any descent, this finds a locally shortest geodesic.

    Parameters
    ----------
    x0, x1 : array, shape=[m, n]
        End points of the given rank.
    kernel : Kernel
        Kernel of the metric.
    rank : int
        Rank of the points.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm.

    Returns
    -------
    Connecting
        Initial velocity, length and residual.

    Raises
    ------
    GeodesicError
        If the points lie in different components (square matrices with determinants of opposite sign), or the
        search does not converge.
    """
    paths = connecting_paths(x0, x1, kernel, rank)
    try:
        return _shortest(paths, [_directly], kernel, rank, tolerance)
    except GeodesicError:
        depth = kernel.depth
        if depth is not None and depth in range(2, _MOST_FACTORS + 1):
            if x0.shape == (rank, rank):
                try:
                    return _shortest(paths, [_through_weights], kernel, rank, tolerance)
                except GeodesicError:
                    pass
            paths.append(balanced_path(x0, x1, int(depth), rank))
        return _shortest(paths, [_directly, _by_continuation], kernel, rank, tolerance)


def _shortest(
    paths: list[Path], attempts: list[Callable[..., Connecting]], kernel: Kernel, rank: int, tolerance: float
) -> Connecting:
    """Try the attempts on the paths, the shortest first, until a geodesic is found that is no longer than any."""
    rough, lengths = (
        [_length(path(np.linspace(0, 1, count)), kernel, rank) for path in paths]
        for count in (_CHORDS + 1, 2 * _CHORDS + 1)
    )
    known = [fine + 2 * abs(fine - coarse) for fine, coarse in zip(lengths, rough, strict=True) if np.isfinite(coarse)]
    bound = min(known, default=np.inf)
    failure: GeodesicError | None = None
    for i in np.argsort(lengths):
        for attempt in attempts:
            try:
                found = attempt(paths[i], kernel, rank, tolerance)
                if found.length <= 1.01 * bound + tolerance:
                    return found
                failure = _not_converged(
                    f"a geodesic of length {found.length:.3g} was found, but a path of length {bound:.3g} exists"
                )
            except GeodesicError as error:
                failure = error
    assert failure is not None
    raise failure


def _directly(path: Path, kernel: Kernel, rank: int, tolerance: float) -> Connecting:
    nodes = path(np.linspace(0, 1, _NODES))
    return _arrive(nodes[0], nodes[-1], _collocate(nodes, kernel, rank), kernel, rank, tolerance)


def _through_weights(path: Path, kernel: Kernel, rank: int, tolerance: float) -> Connecting:
    """Product of the shortest geodesic between the fibres of balanced weights."""
    x0, x1 = path(np.array([0.0, 1.0]))
    assert kernel.depth is not None
    depth = int(kernel.depth)
    start, end = (np.stack(balanced_weights(x, depth)) for x in (x0, x1))
    found = align(end, start, tolerance=0.1 * tolerance)
    velocity = differential(found.velocity, start)
    length = float(np.sqrt(Frame.at(x0, kernel, rank).inner(velocity, velocity)))
    return Connecting(velocity, length, found.residual)


def _by_continuation(path: Path, kernel: Kernel, rank: int, tolerance: float) -> Connecting:
    """Move the end point along the path, extrapolating the velocities already found for the next one."""
    start = path(np.zeros(1))[0]
    times, velocities = [0.0], [np.zeros_like(start)]
    step = 1 / 16
    while True:
        end = min(1.0, times[-1] + step)
        point = path(np.array([end]))[0]
        if len(times) == 1:
            guess = point - start
        else:
            slope = (velocities[-1] - velocities[-2]) / (times[-1] - times[-2])
            guess = velocities[-1] + (end - times[-1]) * slope
        try:
            found = _arrive(start, point, guess, kernel, rank, tolerance)
        except GeodesicError:
            step /= 2
            if step < 1 / 128:
                raise
            continue
        if end == 1:
            return found
        times.append(end)
        velocities.append(found.velocity)
        step *= 1.5


def _collocate(nodes: Array, kernel: Kernel, rank: int) -> Array:
    """Shorten a path, given at equidistant nodes, to a rough geodesic; returns the initial velocity of that."""
    count, m, n = nodes.shape
    times = np.linspace(0, 1, count)
    velocities = CubicSpline(times, nodes.reshape(count, -1))(times, 1)
    guess = np.concatenate([nodes.reshape(count, -1), velocities], axis=1).T
    size = m * n

    def rate(t: Array, y: Array) -> Array:
        x, v = y.T.reshape(len(t), 2, m, n).swapaxes(0, 1)
        return np.stack([v, _acceleration(kernel, rank, x, v)], axis=1).reshape(len(t), -1).T

    def gap(ya: Array, yb: Array) -> Array:
        return np.concatenate([ya[:size] - nodes[0].ravel(), yb[:size] - nodes[-1].ravel()])

    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = solve_bvp(rate, gap, times, guess, tol=_COARSE, max_nodes=_MAX_NODES)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise _not_converged(f"collocation left the manifold ({error})") from None
    if found.status != 0:
        raise _not_converged(found.message)
    return found.y[size:, 0].reshape(m, n)


def _arrive(x0: Array, x1: Array, velocity: Array, kernel: Kernel, rank: int, tolerance: float) -> Connecting:
    """Correct a velocity by Newton's method until its geodesic from ``x0`` ends at ``x1``.

    The Jacobian comes from difference quotients along an orthonormal basis of the tangent space, whose geodesics are
    integrated together with the geodesic itself: as one system they take the same steps, so that errors cancel.
    """
    frame, target = Frame.at(x0, kernel, rank), Frame.at(x1, kernel, rank)
    velocity = frame.project(velocity)
    basis, test = _tangent_basis(frame), _tangent_basis(target)
    scale = float(np.linalg.norm(x1))
    residual = float("nan")
    for _ in range(_NEWTON_STEPS):
        [end], _ = shoot(x0, velocity, kernel, rank, tolerance=0.01 * tolerance)
        previous, residual = residual, float(np.linalg.norm(end - x1)) / scale
        if residual <= tolerance:
            return Connecting(velocity, float(np.sqrt(frame.inner(velocity, velocity))), residual)
        if residual > previous:
            break
        step = 1e-6 * float(np.linalg.norm(velocity))
        fan = np.concatenate([velocity[None], velocity + step * basis])
        [ends], _ = shoot(np.broadcast_to(x0, fan.shape), fan, kernel, rank, tolerance=1e-9)
        jacobian = np.einsum("aij,bij->ab", test, ends[1:] - ends[0]) / step
        missing = np.einsum("aij,ij->a", test, x1 - end)
        velocity = velocity + np.einsum("b,bij->ij", np.linalg.lstsq(jacobian, missing, rcond=None)[0], basis)
    raise _not_converged("the collocated geodesic misses its end point", residual)


def _tangent_basis(frame: Frame) -> Array:
    """Frobenius-orthonormal basis of the tangent space, shape=[dim, m, n]."""
    u, v = np.linalg.svd(frame.u)[0], np.linalg.svd(frame.vt.T)[0]
    r = frame.rank
    row, column = np.indices((frame.m, frame.n)).reshape(2, -1)
    tangent = (row < r) | (column < r)
    return u.T[row[tangent], :, None] * v.T[column[tangent], None, :]


def _not_converged(cause: str, residual: float = float("nan")) -> GeodesicError:
    return GeodesicError(
        f"no geodesic was found between the points: {cause} (status: not converged, relative residual {residual:.1e}). "
        "They may be far apart, or no shortest path may exist inside the manifold; "
        "go through an intermediate point, or use another log_solver.",
        status="not converged",
        residual=residual,
    )


def _length(points: Array, kernel: Kernel, rank: int) -> float:
    """Length of a path through the given points, by its chords with the metric at their midpoints."""
    try:
        frame = Frame.at((points[1:] + points[:-1]) / 2, kernel, rank)
        chords = frame.split(np.diff(points, axis=0))
        return float(np.sqrt(frame.pair(chords, frame.scale(chords, -1))).sum())
    except ValueError:
        return float("inf")
