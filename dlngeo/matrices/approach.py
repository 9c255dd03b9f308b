r"""Where the search for many geodesics starts: a path between each two matrices, with its velocity, in closed form.

The column and row spaces turn along their principal angles. Within them ``X = O P``, O orthogonal and P positive, moves
by ``O(t) = O_0 exp(tΩ)`` and by a line of the roots ``P^{1/N}``, or of log P at infinite depth: as balanced weights of
a common frame would. Nothing on the path is singular.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlngeo._linalg import rotation_logs

__all__ = ["Approach"]

Array = NDArray[np.float64]


class _Turn(NamedTuple):
    """Orthonormal frames that turn by angles from one to another, shape=[b, m, r]."""

    start: Array
    direction: Array
    angle: Array
    end: Array

    @classmethod
    def between(cls, a: Array, b: Array) -> _Turn:
        """Along the principal angles of the spaces of two frames."""
        w, _, zt = np.linalg.svd(a.mT @ b)
        return cls.of(a @ w, b @ zt.mT)

    @classmethod
    def of(cls, start: Array, end: Array) -> _Turn:
        """From each vector to one that is orthogonal to the others."""
        cosine = np.sum(start * end, axis=-2)
        across = end - start * cosine[..., None, :]
        sine = np.linalg.norm(across, axis=-2)
        return cls(start, across / np.where(sine > 0, sine, 1.0)[..., None, :], np.arctan2(sine, cosine), end)

    def reversed(self, which: Any) -> _Turn:
        """Turn some the other way round along their widest angle, which changes the orientation."""
        end = self.end.copy()
        end[which, :, -1] *= -1
        return self.of(self.start, end)

    def at(self, t: Array) -> tuple[Array, Array]:
        """Frames and their velocities, shape=[b, t, m, r]."""
        angle = self.angle[:, None, :] * t[:, None]
        cosine, sine = np.cos(angle)[..., None, :], np.sin(angle)[..., None, :]
        start, direction = self.start[:, None], self.direction[:, None]
        velocity = (direction * cosine - start * sine) * self.angle[:, None, None, :]
        return start * cosine + direction * sine, velocity


class Approach:
    """Paths between pairs of matrices of a rank.

    Parameters
    ----------
    x0, x1 : array, shape=[b, m, n]
        End points, of positive singular values up to the rank.
    depth, rank : float, int
        Depth, which may be infinite, of the roots that move along lines; and the rank.

    Attributes
    ----------
    joined : array of bool, shape=[b]
        Whether the path is there: the orientations within the spaces agree.

    See Also
    --------
    dlngeo.matrices.paths.connecting_paths
    dlngeo.matrices.logarithms.logarithms

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.matrices.approach import Approach
    >>> paths = Approach(np.eye(2)[None], np.diag([4.0, 9.0])[None], 2.0, 2)  # one pair, at depth 2
    >>> points, velocities = paths.at(np.array([0.5]))
    >>> bool(np.allclose(points[0, 0], np.diag([1.5**2, 2.0**2])))
    True
    """

    def __init__(self, x0: Array, x1: Array, depth: float, rank: int) -> None:
        self._depth = depth
        frames = [np.linalg.svd(x, full_matrices=False) for x in (x0, x1)]
        (u0, _, v0), (u1, _, v1) = ((u[..., :rank], s, vt[..., :rank, :].mT) for u, s, vt in frames)
        self._columns = _Turn.between(u0, u1) if rank < x0.shape[-2] else None
        self._rows = _Turn.between(v0, v1) if rank < x0.shape[-1] else None
        o0, root0 = self._polar(self._core(x0, "start"))
        o1, root1 = self._polar(self._core(x1, "end"))
        against = np.linalg.det(o0) * np.linalg.det(o1) < 0
        turn = self._rows if self._columns is None else self._columns
        if turn is not None and against.any():
            # Where the spaces agree there are many ways round.
            around = against & (turn.angle[:, -1] > 1e-8)
            self._columns, self._rows = (
                (self._columns, turn.reversed(around)) if self._columns is None else (turn.reversed(around), self._rows)
            )
            o1, root1 = self._polar(self._core(x1, "end"))
            against &= ~around
        self.joined = ~against
        o1 = np.where(against[:, None, None], o0, o1)
        self._o0, self._spin = o0, rotation_logs(o0.mT @ o1)
        self._root0, self._move = root0, root1 - root0

    def _core(self, x: Array, place: str) -> Array:
        """Coordinates of end points in the frames there."""
        left = x if self._columns is None else getattr(self._columns, place).mT @ x
        return left if self._rows is None else left @ getattr(self._rows, place)

    def _polar(self, core: Array) -> tuple[Array, Array]:
        u, s, vt = np.linalg.svd(core)
        root = np.log(s) if np.isinf(self._depth) else s ** (1 / self._depth)
        return u @ vt, (vt.mT * root[..., None, :]) @ vt

    def at(self, t: Array) -> tuple[Array, Array]:
        """Points and velocities at times, shape=[b, t, m, n]."""
        roots = self._root0[:, None] + t[:, None, None] * self._move[:, None]
        w, q = np.linalg.eigh(roots)
        frequencies, modes = np.linalg.eigh(1j * self._spin)
        phases = np.exp(-1j * t[:, None] * frequencies[:, None])[..., None, :]
        modes = modes[:, None]
        o = self._o0[:, None] @ ((modes * phases) @ modes.conj().mT).real
        values, slopes = self._power(w)
        p = (q * values[..., None, :]) @ q.mT
        growth = q @ (slopes * (q.mT @ self._move[:, None] @ q)) @ q.mT
        core, velocity = o @ p, o @ (self._spin[:, None] @ p + growth)
        for turn, left in ((self._columns, True), (self._rows, False)):
            if turn is not None:
                frame, speed = turn.at(t)
                if left:
                    core, velocity = frame @ core, speed @ core + frame @ velocity
                else:
                    core, velocity = core @ frame.mT, core @ speed.mT + velocity @ frame.mT
        return core, velocity

    def _power(self, w: Array) -> tuple[Array, Array]:
        """``h(w)`` and its divided differences, ``h(w) = w^N`` or the exponential."""
        a, b = w[..., :, None], w[..., None, :]
        if np.isinf(self._depth):
            half = (a - b) / 2
            mean = np.exp((a + b) / 2) * np.where(half == 0, 1.0, np.sinh(half) / np.where(half == 0, 1.0, half))
            return np.exp(w), mean
        top, ratio = np.maximum(a, b), np.minimum(a, b) / np.maximum(a, b)
        gap = 1 - ratio
        near = gap < 1e-8
        quotient = -np.expm1(self._depth * np.log1p(-gap)) / np.where(near, 1.0, gap)
        return w**self._depth, top ** (self._depth - 1) * np.where(near, self._depth, quotient)
