r"""Logarithms of many pairs of matrices at once, by a fixed point at the middles of their geodesics.

Unknown are the middle M of the geodesic from X to Y, and its velocity w there: ``exp_M(−w) = X``, ``exp_M(w) = Y``.
With ``A`` the cometric, at each point symmetric and positive, ``A_M^{1/2} A_X^{-1/2}`` is an isometry from the tangent
space at X to that at M. The misses at both ends, brought to the middle by it, change middle and velocity:

.. math:: M \leftarrow M + \tfrac12(r_X + r_Y), \qquad w \leftarrow w + \tfrac12(r_Y - r_X).

From the middle an error grows on the way to the ends by far less than from one end to the other, so that the
iteration contracts for near points, and with Anderson's acceleration [1]_ for nearly all: 10 to 20 times two halves of
a geodesic. Points move, and misses are measured, in the coordinates ``U Λ Vᵀ``, Λ the roots of the singular values:
there the metric of a network is within a factor of its depth of the flat one, however near to singular matrices.

The iteration starts from the middle of an explicit path, :mod:`dlngeo.matrices.approach`. Each pair converges by
itself, and is verified by the whole geodesic from X. Those that do not converge, or to a geodesic that is longer than
the path, are left to the search of :mod:`dlngeo.matrices.geodesics`.

References
----------
.. [1] H. F. Walker, P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlngeo.compiled.mixing import mix
from dlngeo.matrices.approach import Approach
from dlngeo.matrices.frame import Blocks, Frame

__all__ = ["Logarithms", "logarithms"]

Array = NDArray[np.float64]

# Far pairs that take more are likely to come to a geodesic that is not shortest.
_ITERATIONS, _MEMORY, _PATIENCE = 60, 30, 25
# Of the miss accepted, what the middle may leave at first, and if the whole geodesic then misses by more.
_PARTS = 0.5, 1e-3
# Roots beyond the 8th are no straighter.
_ROOT = 8.0
# Integrations need not be finer than a part of the miss that is known, down to a part of what is accepted.
_COARSE, _FINER, _FINE = 1e-3, 1e-2, 0.1
# A longer geodesic has a shorter one beside it, but the length of the path is known to Gauss' rule only.
_LONGER = 1.01
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_ROUNDING, _MOST_ROUNDING = 64 * np.finfo(float).eps, 1e-6


class Logarithms:
    """What was found of pairs.

    Attributes
    ----------
    velocity : array, shape=[b, m, n]
        Initial velocities.
    length, residual : array, shape=[b]
        Their lengths, and the misses at the ends; infinite where none was found.
    found : array of bool, shape=[b]
        Whether a geodesic was found that is no longer than the path that was known.
    iterations : array of int, shape=[b]
        Geodesics followed, two halves counting as one.

    See Also
    --------
    dlngeo.matrices.logarithms.logarithms

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.logarithms import logarithms
    >>> pairs = np.stack([np.eye(2)] * 2), np.stack([np.diag([4.0, 9.0]), np.diag([-4.0, 9.0])])
    >>> out = logarithms(*pairs, KernelSurface(DepthKernel(2), 2), 1e-10)
    >>> out.found, out.length.round(4)  # √10 by √N |ΔΛ|; no path joins the second pair
    (array([ True, False]), array([3.1623,    inf]))
    """

    def __init__(self, x0: Array) -> None:
        count = len(x0)
        self.velocity, self.found = np.zeros_like(x0), np.zeros(count, dtype=bool)
        self.length, self.residual = np.full((2, count), np.inf)
        self.iterations = np.zeros(count, dtype=int)


def logarithms(x0: Array, x1: Array, surface: Any, tolerance: float) -> Logarithms:
    """Find geodesics between pairs of points of a :class:`~dlngeo.matrices.geodesics.KernelSurface`, shape=[b, m, n].

    The miss of each, in the metric at its end and relative to the norm of that, is at most the tolerance or, if more,
    what the rounding of the points amounts to there, up to 1e-6.

    See Also
    --------
    dlngeo.matrices.straight.between
    dlngeo.shooting.connect_all

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.logarithms import logarithms
    >>> from dlngeo.shooting import shoot
    >>> surface, x, y = KernelSurface(DepthKernel(3), 2), np.array([[[1.2, 0.3], [-0.2, 0.9]]]), 2 + np.eye(2)[None]
    >>> [end], _ = shoot(x, logarithms(x, y, surface, 1e-10).velocity, surface)
    >>> bool(np.allclose(end, y))
    True
    """
    out, depth = Logarithms(x0), surface.depth or 2.0
    approach = Approach(x0, x1, depth, surface.rank)
    points, speeds = approach.at(np.concatenate([[0.5], (1 + _NODES) / 2]))
    bound = np.sqrt(surface.inner(points[:, 1:], speeds[:, 1:], speeds[:, 1:])) @ _WEIGHTS / 2
    ends = [_Chart(Frame.at(x, surface.kernel, surface.rank), min(depth, _ROOT)) for x in (x0, x1)]
    middle = _Chart(Frame.at(points[:, 0], surface.kernel, surface.rank), min(depth, _ROOT))
    sizes = np.minimum(*(end.size for end in ends))
    accepted = sizes * np.maximum(
        tolerance, np.minimum(_ROUNDING / np.minimum(*(e.fineness for e in ends)), _MOST_ROUNDING)
    )
    search = _Search(surface, middle, ends, speeds[:, 0] / 2)
    left: Any = np.flatnonzero(approach.joined)
    for part in _PARTS:
        arrived = search.middles(left, part * accepted[left], out)
        left = search.verify(arrived, (x0, x1), accepted[arrived], out)
    out.found &= out.length <= _LONGER * bound + tolerance
    return out


class _Search:
    """Middles of the geodesics between pairs, and what is known of them.

    Unknowns are a tangent vector at the first middle that leads to another, and the velocity there, both in orthonormal
    coordinates.
    """

    def __init__(self, surface: Any, middle: _Chart, ends: list[_Chart], velocity: Array) -> None:
        self._surface, self._middle, self._ends = surface, middle, ends
        self._shape, count = velocity.shape[1:], len(velocity)
        self._unknown = np.stack([np.zeros_like(velocity), middle.flatten(velocity)], axis=1).reshape(count, -1)
        self._history, self._initial = _History(self._unknown), np.zeros_like(velocity)
        self._fine = np.full(count, _COARSE)

    def middles(self, left: Any, accepted: Array, out: Logarithms) -> Any:
        """Find middles to an accepted miss at both ends; return for which pairs."""
        arrived = []
        while left.size:
            move, speed = self._unknown[left].reshape(-1, 2, *self._shape).swapaxes(0, 1)
            here = self._middle.take(left).moved(move)
            point, w, fine = here.point, here.half_power(speed), self._fine[left]
            reached, velocities, came = self._surface.ends(np.stack([point, point]), np.stack([-w, w]), fine)
            came = came.all(axis=0)
            misses = [end.take(left).miss(x, came) for end, x in zip(self._ends, reached, strict=True)]
            total = np.where(came, np.linalg.norm(np.concatenate(misses, axis=-1), axis=(-2, -1)), np.inf)
            length = np.maximum(np.linalg.norm(speed, axis=(-2, -1)), np.finfo(float).tiny)
            done = (total <= accepted) & (fine * length <= _FINE * accepted)
            finer = np.clip(_FINER * total / length, _FINE * accepted / length, _COARSE)
            self._fine[left] = np.where(came, finer, fine)
            self._initial[left] = -2 * velocities[0]
            first, second = misses
            change = np.stack([first + second, second - first], axis=1).reshape(len(left), -1) / 2
            self._unknown[left] = self._history.step(left, self._unknown[left], change, total)
            out.iterations[left] += 1
            arrived.append(left[done])
            go_on = ~done & (self._history.stale[left] < _PATIENCE) & (out.iterations[left] < _ITERATIONS)
            left, accepted = left[go_on], accepted[go_on]
        return np.sort(np.concatenate(arrived)) if arrived else left

    def verify(self, left: Any, points: tuple[Array, Array], accepted: Array, out: Logarithms) -> Any:
        """Follow the whole geodesics from the starts; return which pairs miss the end by more than is accepted."""
        if not left.size:
            return left
        (start, end), v = (x.take(left) for x in self._ends), self._initial[left]
        length = np.linalg.norm(start.flatten(v), axis=(-2, -1))
        fine = _FINE * accepted / np.maximum(length, np.finfo(float).tiny)
        [reached], _, [came] = self._surface.ends(points[0][left][None], v[None], fine)
        miss = np.linalg.norm(end.flatten(points[1][left] - reached), axis=(-2, -1))
        done = came & (miss <= accepted)
        which = left[done]
        out.velocity[which], out.length[which], out.residual[which] = v[done], length[done], (miss / end.size)[done]
        out.found[which] = True
        out.iterations[left] += 1
        return left[~done]


class _Chart:
    """Frames of points, orthonormal coordinates of their tangent spaces, and the roots ``U Λ Vᵀ`` of points near them.

    Orthonormal coordinates of Z are the matrix ``A^{-1/2} Z``.
    """

    def __init__(self, frame: Frame, depth: float) -> None:
        self.frame, self.depth = frame, depth
        s = frame.s
        roots = s ** (1 / depth)
        a, b, sa, sb = roots[..., :, None], roots[..., None, :], s[..., :, None], s[..., None, :]
        # The derivative of X in its root is one of its symmetric and its skew part in the frame.
        near = np.abs(a - b) < 1e-6 * (a + b)
        self.even = np.where(near, depth * np.sqrt(a * b) ** (depth - 1), (sa - sb) / np.where(near, 1.0, a - b))
        self.odd, self.null = (sa + sb) / (a + b), (s / roots)[..., None, :]
        self.root, self.point = (frame.u * roots[..., None, :]) @ frame.vt, frame.point
        self.size = np.sqrt(np.sum(s**2 / np.diagonal(frame.phi, axis1=-2, axis2=-1), axis=-1))
        flat = np.linalg.norm(s, axis=-1)
        # The least ratio of a change relative to the norm of the point and that in the metric.
        self.fineness = np.minimum(1.0, self.size * np.sqrt(frame.phi.min(axis=(-2, -1))) / flat)

    def take(self, index: Array) -> _Chart:
        """Those of some of the points."""
        out = object.__new__(_Chart)
        out.depth = self.depth
        out.frame = Frame(self.frame.u[index], self.frame.s[index], self.frame.vt[index], self.frame.kernel)
        out.frame.__dict__["phi"] = self.frame.phi[index]
        for name in ("even", "odd", "null", "root", "point", "size", "fineness"):
            setattr(out, name, getattr(self, name)[index])
        return out

    def flatten(self, z: Array) -> Array:
        """Orthonormal coordinates of tangent parts of matrices."""
        return self.frame.assemble(self.frame.scale(self.frame.split(z), -0.5))

    def miss(self, x: Array, where: Array) -> Array:
        """Orthonormal coordinates of what leads from other points to these, to first order, where these are known."""
        x = np.where(where[:, None, None], x, self.point)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        r = self.frame.rank
        root = (u[..., :r] * s[..., None, :r] ** (1 / self.depth)) @ vt[..., :r, :]
        blocks = self._scaled(self.frame.split(self.root - root), 1)
        return self.frame.assemble(self.frame.scale(blocks, -0.5))

    def moved(self, coordinates: Array) -> Frame:
        """Frames of the points to which the roots are led by tangent vectors in orthonormal coordinates."""
        blocks = self._scaled(self.frame.scale(self.frame.split(coordinates), 0.5), -1)
        u, s, vt = np.linalg.svd(self.root + self.frame.assemble(blocks), full_matrices=False)
        r = self.frame.rank
        return Frame(u[..., :r], s[..., :r] ** self.depth, vt[..., :r, :], self.frame.kernel)

    def _scaled(self, blocks: Blocks, power: int) -> Blocks:
        core, left, right = blocks
        core = (core + core.mT) / 2 * self.even**power + (core - core.mT) / 2 * self.odd**power
        null = self.null**power
        return Blocks(core, None if left is None else left * null, None if right is None else right * null)


class _History:
    """The last unknowns of each pair and their changes, for Anderson's acceleration."""

    def __init__(self, unknown: Array) -> None:
        count, size = unknown.shape
        self._past = np.zeros((2, count, min(_MEMORY, max(4, 2 * size // 3)), size))
        self._stored = np.zeros(count, dtype=np.int64)
        self._best, self._least = unknown.copy(), np.full(count, np.inf)
        self.stale = np.zeros(count, dtype=int)  # steps since the least miss
        # Where nothing came back yet: the middle of the path, and no velocity.
        self._best[:, size // 2 :] = 0

    def step(self, left: Array, unknown: Array, change: Array, total: Array) -> Array:
        """Unknowns to go on with, of some pairs, from the last ones; an infinite miss tells that an end was lost."""
        better, lost = total < self._least[left], np.isinf(total)
        which = left[better]
        self.stale[left] = np.where(better, 0, self.stale[left] + 1)
        self._least[which], self._best[which] = total[better], unknown[better]
        self._stored[left[lost]] = 0
        came = left[~lost]
        out = (unknown + self._best[left]) / 2  # half the way back
        out[~lost] = mix(self._past, self._stored, came, unknown[~lost], change[~lost])
        return out
