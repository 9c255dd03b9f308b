r"""Geodesics of an invariant metric: from a velocity, and between two points.

Geodesics solve ``Ẍ = −Γ(Ẋ, Ẋ)`` with the closed-form Christoffel map of :class:`~dlngeo.frame.Frame`. From a
velocity they are integrated by SciPy's DOP853, a whole batch as one system. Between two points they are a boundary
value problem: SciPy's collocation starts from a path that never leaves the manifold, and Newton's method makes the
geodesic arrive. A failure is reported as such, never returned as an answer.

The functions here work on NumPy arrays; :mod:`dlngeo.geomstats` brings other backends to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853, solve_bvp
from scipy.interpolate import CubicSpline
from scipy.linalg import polar, schur

from dlngeo.frame import Frame
from dlngeo.kernels import Kernel

__all__ = ["Connecting", "GeodesicError", "connect", "shoot"]

Array = NDArray[np.float64]

# A geodesic of unit length takes tens of steps. One that takes thousands is running into det X = 0, where the
# coordinates X are singular for N > 1 and the steps shrink without bound.
_MAX_STEPS = 1000
# Collocation only has to get close: Newton's method on the initial velocity does the rest at a fraction of its cost.
_NODES, _MAX_NODES, _COARSE = 12, 48, 1e-3
_NEWTON_STEPS = 6


class GeodesicError(ValueError):
    """No geodesic was found; the message gives the cause, the figures and the remedy.

    Attributes
    ----------
    status : str
        ``"singular"`` if the path runs into a singular matrix, ``"not converged"`` if the boundary value problem was
        not solved, ``"disconnected"`` if no path exists.
    residual : float
        Distance by which the end point is missed, relative to its norm; NaN where nothing was shot.
    """

    def __init__(self, message: str, status: str, residual: float = float("nan")) -> None:
        super().__init__(message)
        self.status = status
        self.residual = residual


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

    crossed = _crossing(x, kernel, rank)
    for ahead in (True, False):
        wanted = np.flatnonzero(times > 0 if ahead else times < 0)
        if wanted.size:
            wanted = wanted[np.argsort(np.abs(times[wanted]))]
            out[wanted] = _integrate(rate, start, times[wanted], tolerance, crossed())
    out[times == 0] = start
    return out[:, 0], out[:, 1]


def _crossing(x: Array, kernel: Kernel, rank: int) -> Callable[[], Callable[[Array], bool]]:
    """Make watchers for geodesics that pass through a singular matrix between two steps.

    A singular value that crosses zero turns round one singular vector, so the orientation of the two frames, each
    compared with that of the step before, changes sign. Where the kernel is smooth at zero, as at depth 1, nothing
    is wrong with that.
    """
    if np.isfinite(kernel.divided_difference(1.0, 0.0, 0.0)):
        return lambda: lambda _: False

    def watcher() -> Callable[[Array], bool]:
        last = Frame.at(x, kernel, rank)

        def crossed(position: Array) -> bool:
            nonlocal last
            here = Frame.at(position, kernel, rank)
            turn = np.linalg.det(last.u.swapaxes(-1, -2) @ here.u) * np.linalg.det(last.vt @ here.vt.swapaxes(-1, -2))
            last = here
            return bool(np.any(turn < 0))

        return crossed

    return watcher


def _integrate(
    rate: Callable[[float, Array], Array],
    start: Array,
    times: Array,
    tolerance: float,
    crossed: Callable[[Array], bool],
) -> Array:
    """States at ``times``, which have one sign and grow in size."""
    size = np.maximum(np.abs(start).max(axis=(-2, -1), keepdims=True), np.finfo(float).tiny)
    atol = np.broadcast_to(tolerance * size, start.shape).ravel()
    out = np.empty((len(times), *start.shape))
    filled, time = 0, 0.0
    try:
        solver = DOP853(rate, 0.0, start.ravel(), times[-1], rtol=tolerance, atol=atol)
        for _ in range(_MAX_STEPS):
            solver.step()
            if solver.status == "failed" or crossed(solver.y.reshape(start.shape)[0]):
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
    except (ValueError, np.linalg.LinAlgError):
        pass  # the frame refuses singular and overflowing points
    raise GeodesicError(
        f"the geodesic runs into a singular matrix just after time {time:.3g}, before time {times[-1]:g}: "
        "the metric is incomplete there. Shorten the tangent vector.",
        status="singular",
    )


def connect(x0: Array, x1: Array, kernel: Kernel, rank: int, tolerance: float = 1e-10) -> Connecting:
    """Find a geodesic from ``x0`` to ``x1``.

    The search starts from a path that turns the column and row spaces along their principal angles and
    interpolates polar factors within them: rotations along one-parameter subgroups, and the N-th roots of the
    positive parts linearly, as balanced factors would move. Collocation shortens the path roughly to a geodesic, and
    Newton's method on the initial velocity makes it arrive. Where that fails, the end point is moved along the path by
    continuation.
    The result is no longer than the path: a longer geodesic is not a shortest one, and is refused.

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
    paths = [
        (_length(path(np.linspace(0, 1, 8 * _NODES)), kernel, rank), path) for path in _paths(x0, x1, kernel, rank)
    ]
    bound = min(length for length, _ in paths)
    failure: GeodesicError | None = None
    for _, path in sorted(paths, key=lambda pair: pair[0]):
        for attempt in (_directly, _by_continuation):
            try:
                found = attempt(path, kernel, rank, tolerance)
                # The bound is a sum over chords, which is right to second order.
                if found.length <= 1.01 * bound + tolerance:
                    return found
                failure = _not_converged(
                    f"a geodesic of length {found.length:.3g} was found, but a path of length {bound:.3g} exists"
                )
            except GeodesicError as error:
                failure = error
    assert failure is not None
    raise failure


Path = Callable[[Array], Array]


def _directly(path: Path, kernel: Kernel, rank: int, tolerance: float) -> Connecting:
    nodes = path(np.linspace(0, 1, _NODES))
    return _arrive(nodes[0], nodes[-1], _collocate(nodes, kernel, rank), kernel, rank, tolerance)


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


# First paths.


def _paths(x0: Array, x1: Array, kernel: Kernel, rank: int) -> list[Path]:
    """Two paths from ``x0`` to ``x1`` through matrices of the given rank: by right and by left polar factors."""
    (u0, s0, vt0), (u1, s1, vt1) = (np.linalg.svd(x, full_matrices=False) for x in (x0, x1))
    for s, name in ((s0, "first"), (s1, "second")):
        if s[rank - 1] <= np.finfo(float).eps * s[0]:
            raise GeodesicError(
                f"the {name} point has rank below {rank} to working precision; no geodesic joins singular matrices.",
                status="singular",
            )
    columns, left0, left1 = _align(u0[:, :rank], u1[:, :rank])
    rows, right0, right1 = _align(vt0[:rank].T, vt1[:rank].T)
    core0, core1 = left0.T @ x0 @ right0, left1.T @ x1 @ right1
    if np.linalg.slogdet(core0)[0] != np.linalg.slogdet(core1)[0]:
        # Going round the other way along the widest principal angle changes the orientation, if there is a way round.
        if rank < x0.shape[0]:
            columns, left1 = _slerp(left0, left1, flip=True)
        elif rank < x0.shape[1]:
            rows, right1 = _slerp(right0, right1, flip=True)
        else:
            raise GeodesicError(
                "the determinants of the two points have opposite signs: invertible matrices of either sign "
                "are separated by det X = 0, and no path joins them. Change the sign of a row of one point, "
                "or project both to GL⁺(d).",
                status="disconnected",
            )
        core1 = left1.T @ x1 @ right1
    depth = getattr(kernel, "depth", 1.0)

    def through(core: Path) -> Path:
        def path(t: Array) -> Array:
            points = columns(t) @ core(t) @ rows(t).swapaxes(-1, -2)
            points[t == 0], points[t == 1] = x0, x1
            return points

        return path

    return [through(_polar_path(core0, core1, depth, side)) for side in ("right", "left")]


def _align(a: Array, b: Array) -> tuple[Path, Array, Array]:
    """Path of frames between two subspaces along their principal angles, and the bases at its ends."""
    w, _, zt = np.linalg.svd(a.T @ b)
    path, end = _slerp(a @ w, b @ zt.T, flip=False)
    return path, a @ w, end


def _slerp(a: Array, b: Array, flip: bool) -> tuple[Path, Array]:
    """Rotate principal vectors ``a`` to ``b`` by columns; with ``flip``, the last, widest one to its negative."""
    if flip:
        b = b * np.where(np.arange(b.shape[1]) == b.shape[1] - 1, -1.0, 1.0)
    cosine = np.sum(a * b, axis=0)
    across = b - a * cosine
    sine = np.linalg.norm(across, axis=0)
    angle = np.arctan2(sine, cosine)
    if flip and sine[-1] < 1e-8:
        # The subspaces agree, so the half turn may go through any vector orthogonal to them.
        across[:, -1], sine[-1] = np.linalg.svd(a)[0][:, -1], 1.0
    direction = across / np.where(sine > 0, sine, 1.0)

    def path(t: Array) -> Array:
        turn = np.multiply.outer(t, angle)[..., None, :]
        return a * np.cos(turn) + direction * np.sin(turn)

    return path, b


def _polar_path(c0: Array, c1: Array, depth: float, side: str) -> Path:
    """Path between square matrices of one orientation, interpolating their polar factors."""
    (o0, p0), (o1, p1) = polar(c0, side=side), polar(c1, side=side)
    skew = _rotation_log(o0.T @ o1)
    # exp(t L) of a real skew matrix from the spectrum of the Hermitian matrix i L.
    frequencies, modes = np.linalg.eigh(1j * skew)
    root0, root1 = (_on_spectrum(p, lambda w: np.log(w) if np.isinf(depth) else w ** (1 / depth)) for p in (p0, p1))

    def path(t: Array) -> Array:
        t = np.asarray(t)[..., None, None]
        turn = (modes * np.exp(-1j * t * frequencies)) @ modes.conj().T
        positive = _on_spectrum((1 - t) * root0 + t * root1, np.exp if np.isinf(depth) else lambda w: w**depth)
        o = o0 @ turn.real
        return o @ positive if side == "right" else positive @ o

    return path


def _on_spectrum(a: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function to the eigenvalues of symmetric matrices."""
    w, q = np.linalg.eigh(a)
    return (q * function(w)[..., None, :]) @ q.swapaxes(-1, -2)


def _rotation_log(q: Array) -> Array:
    """Skew logarithm of a rotation; eigenvalues −1, which come in pairs, turn by π in the plane of a pair."""
    t, z = schur(q, output="real")
    skew, reversed_ = np.zeros_like(t), []
    i = 0
    while i < len(t):
        if i + 1 < len(t) and t[i + 1, i] != 0:
            skew[i + 1, i] = np.arctan2(t[i + 1, i], t[i, i])
            skew[i, i + 1] = -skew[i + 1, i]
            i += 2
        else:
            if t[i, i] < 0:
                reversed_.append(i)
            i += 1
    for a, b in zip(reversed_[::2], reversed_[1::2], strict=True):
        skew[b, a], skew[a, b] = np.pi, -np.pi
    return z @ skew @ z.T


def batched(function: Callable[..., Any], ndim: int, *arrays: Array) -> list[Any]:
    """Apply ``function`` to every member of the broadcast batches of ``arrays`` of ``ndim`` trailing axes."""
    shape = np.broadcast_shapes(*(a.shape[:-ndim] for a in arrays))
    flat = [np.broadcast_to(a, (*shape, *a.shape[-ndim:])).reshape(-1, *a.shape[-ndim:]) for a in arrays]
    return [function(*members) for members in zip(*flat, strict=True)]
