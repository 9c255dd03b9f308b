"""Explicit paths between matrices of one rank: where the search for a geodesic starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from dlngeo._linalg import rotation_between
from dlngeo.errors import GeodesicError
from dlngeo.shooting import Path
from dlngeo.weights.alignment import act, nearest_chords
from dlngeo.weights.network import end_to_end

__all__ = ["balanced_path", "connecting_paths"]

Array = NDArray[np.float64]


def connecting_paths(x0: Array, x1: Array, depth: float, rank: int) -> list[Path]:
    """Two paths from ``x0`` to ``x1`` through matrices of the given rank: by right and by left polar factors.

    The N-th roots of the positive factors move linearly, N being the depth.

    See Also
    --------
    dlngeo.matrices.paths.balanced_path
    dlngeo.matrices.approach.Approach

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.matrices.paths import connecting_paths
    >>> x, turn = np.diag([4.0, 9.0]), np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> middles = [path(np.array([0.5]))[0] for path in connecting_paths(np.eye(2), turn @ x, 2, 2)]
    >>> half = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)  # half of the turn
    >>> bool(np.allclose(middles, [half @ np.diag([1.5**2, 2.0**2]), np.diag([2.0**2, 1.5**2]) @ half]))
    True
    """
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
    turn = rotation_between(o0, o1)
    root0, root1 = (_on_spectrum(p, lambda w: np.log(w) if np.isinf(depth) else w ** (1 / depth)) for p in (p0, p1))

    def path(t: Array) -> Array:
        o = o0 @ turn(t)
        t = np.asarray(t)[..., None, None]
        positive = _on_spectrum((1 - t) * root0 + t * root1, np.exp if np.isinf(depth) else lambda w: w**depth)
        return o @ positive if side == "right" else positive @ o

    return path


def _on_spectrum(a: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function to the eigenvalues of symmetric matrices."""
    w, q = np.linalg.eigh(a)
    return (q * function(w)[..., None, :]) @ q.swapaxes(-1, -2)


def balanced_path(x0: Array, x1: Array, depth: int, rank: int) -> Path:
    """Path of the products of straight lines between balanced factors that are aligned along the fibre of ``x1``.

    The nearest chord between the fibres, of local optima from several starts; see :func:`dlngeo.weights.alignment.act`.
    Factors through ``rank`` inner dimensions are ``Λ Vᵀ, Λ, …, Λ, U Λ`` with ``X = U Λ^N Vᵀ``.

    See Also
    --------
    dlngeo.matrices.paths.connecting_paths
    dlngeo.weights.alignment.nearest_chords

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.matrices.paths import balanced_path
    >>> [middle] = balanced_path(np.eye(2), np.diag([4.0, 9.0]), 2, 2)(np.array([0.5]))
    >>> bool(np.allclose(middle, np.diag([1.5**2, 2.0**2])))
    True
    """
    factors, frames = [], []
    for x in (x0, x1):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        u, lam, vt = u[:, :rank], s[:rank] ** (1 / depth), vt[:rank]
        factors.append([lam[:, None] * vt, *(depth - 2) * [np.diag(lam)], u * lam])
        frames.append(vt)
    start, end = factors
    signs = np.full(depth - 1, np.sign(np.linalg.det(frames[0] @ frames[1].T)))
    gauges, chords = nearest_chords(end, start, signs)
    end = act(gauges[np.argmin(chords)], end)

    def path(t: Array) -> Array:
        t = np.asarray(t)[..., None, None]
        product = end_to_end([(1 - t) * a + t * b for a, b in zip(start, end, strict=True)])
        product[t[..., 0, 0] == 0], product[t[..., 0, 0] == 1] = x0, x1
        return product

    return path
