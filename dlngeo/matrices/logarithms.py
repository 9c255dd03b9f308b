r"""Logarithms of many pairs of matrices at once, by a fixed point at the middles of their geodesics.

Unknown are the middle M of the geodesic from X to Y, and its velocity w there: ``exp_M(−w) = X``, ``exp_M(w) = Y``. With
``A`` the cometric, at each point symmetric and positive, ``A_M^{1/2} A_X^{-1/2}`` is an isometry from the tangent space
at X to that at M. The misses at both ends, brought to the middle by it, change middle and velocity:

.. math:: M \leftarrow M + \tfrac12(r_X + r_Y), \qquad w \leftarrow w + \tfrac12(r_Y - r_X).

From the middle an error grows on the way to the ends by far less than from one end to the other, so that the iteration
contracts for near points, and with Anderson's acceleration [1]_ for nearly all: 10 to 20 times two halves of a geodesic.
Points move, and misses are measured, in the coordinates ``U Λ Vᵀ``, Λ the roots of the singular values: there the
metric of a network is within a factor of its depth of the flat one, however near to singular matrices.

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

_ITERATIONS, _MEMORY, _CORRECTIONS = 60, 12, 3
# Roots beyond the 8th are no straighter.
_ROOT = 8.0
# Integrations need not be finer than a part of the miss that is known, down to a part of what is accepted.
_COARSE, _FINER, _FINE = 1e-3, 3e-3, 0.03
# A longer geodesic has a shorter one beside it, but the length of the path is known to Gauss' rule only.
_LONGER = 1.01
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_ROUNDING, _MOST_ROUNDING = 8 * np.finfo(float).eps, 1e-6


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
    """

    def __init__(self, x0: Array) -> None:
        count = len(x0)
        self.velocity, self.found = np.zeros_like(x0), np.zeros(count, dtype=bool)
        self.length, self.residual = np.full((2, count), np.inf)
        self.iterations = np.zeros(count, dtype=int)


def logarithms(x0: Array, x1: Array, surface: Any, tolerance: float) -> Logarithms:
    """Find initial velocities of geodesics from points to points of a :class:`~dlngeo.matrices.geodesics.KernelSurface`.

    The miss of each, in the metric at its end and relative to the norm of that, is at most the tolerance or, if more,
    what the rounding of the points amounts to there, up to 1e-6.
    """
    out, depth = Logarithms(x0), surface.depth or 2.0
    approach = Approach(x0, x1, depth, surface.rank)
    points, speeds = approach.at(np.concatenate([[0.5], (1 + _NODES) / 2]))
    bound = np.sqrt(surface.inner(points[:, 1:], speeds[:, 1:], speeds[:, 1:])) @ _WEIGHTS / 2
    ends = [_Chart(Frame.at(x, surface.kernel, surface.rank), min(depth, _ROOT)) for x in (x0, x1)]
    middle = _Chart(Frame.at(points[:, 0], surface.kernel, surface.rank), min(depth, _ROOT))
    sizes = np.minimum(*(end.size for end in ends))
    accepted = sizes * np.maximum(tolerance, np.minimum(_ROUNDING / np.minimum(*(e.fineness for e in ends)), _MOST_ROUNDING))
    halves, fine = _middles(approach, middle, ends, speeds[:, 0] / 2, surface, accepted, out)
    _verify(x0, x1, halves, fine, ends, surface, accepted, out)
    out.found &= out.length <= _LONGER * bound + tolerance
    return out


def _middles(
    approach: Approach, middle: Any, ends: Any, velocity: Array, surface: Any, accepted: Array, out: Logarithms
) -> tuple[Array, Array]:
    """Find the middles; return the velocities at the starts, and the relative tolerance that they were found with."""
    count, shape = len(velocity), velocity.shape[1:]
    unknown = np.stack([np.zeros_like(velocity), middle.flatten(velocity)], axis=1).reshape(count, -1)
    history, initial = _History(unknown), np.zeros_like(velocity)
    fine, left = np.full(count, _COARSE), np.flatnonzero(approach.joined)
    for _ in range(_ITERATIONS):
        if not left.size:
            break
        move, speed = unknown[left].reshape(-1, 2, *shape).swapaxes(0, 1)
        here = middle.take(left).moved(move)
        point, w = here.point, here.half_power(speed)
        both, came = surface.ends(np.stack([point, point]), np.stack([-w, w]), fine[left])
        (reached, velocities), came = both, came.all(axis=0)
        out.iterations[left] += 1
        misses, squares = [], np.zeros(len(left))
        for end, x in zip(ends, reached, strict=True):
            there = end.take(left)
            miss = there.miss(np.where(came[:, None, None], x, there.point))
            squares += np.sum(miss**2, axis=(-2, -1))
            misses.append(miss)
        total = np.where(came, np.sqrt(squares), np.inf)
        length = np.linalg.norm(speed, axis=(-2, -1))
        done = came & (total <= accepted[left]) & (fine[left] * length <= _FINE * accepted[left])
        out.found[left[done]] = True
        initial[left[done]] = -2 * velocities[0][done]
        with np.errstate(divide="ignore", invalid="ignore"):
            finer = np.clip(_FINER * total / length, _FINE / 2 * accepted[left] / length, _COARSE)
        fine[left] = np.where(came & np.isfinite(finer), finer, fine[left])
        change = np.stack([misses[0] + misses[1], misses[1] - misses[0]], axis=1).reshape(len(left), -1) / 2
        unknown[left] = history.step(left, unknown[left], change, total)
        left = left[~done]
    return initial, fine


def _verify(
    x0: Array, x1: Array, initial: Array, fine: Array, ends: Any, surface: Any, accepted: Array, out: Logarithms
) -> None:
    """Follow the geodesics from the starts, and correct their velocities by what they miss."""
    start, end = ends
    left = np.flatnonzero(out.found)
    out.found[:] = False
    for _ in range(_CORRECTIONS):
        if not left.size:
            break
        at, to, v = start.take(left), end.take(left), initial[left]
        (reached, _), came = surface.ends(x0[left][None], v[None], fine[left] / 2)
        reached, came = reached[0], came[0]
        miss = to.flatten(x1[left] - np.where(came[:, None, None], reached, 0.0))
        total = np.linalg.norm(miss, axis=(-2, -1))
        out.iterations[left] += 1
        done = came & (total <= accepted[left])
        which = left[done]
        out.velocity[which], out.residual[which], out.found[which] = v[done], (total / to.size)[done], True
        out.length[which] = np.linalg.norm(at.flatten(v), axis=(-2, -1))[done]
        initial[left] = v + at.frame.half_power(to.miss(np.where(came[:, None, None], reached, to.point)))
        left = left[~done & came]


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

    def miss(self, x: Array) -> Array:
        """Orthonormal coordinates of what leads from other points to these, to first order."""
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
        self._past = np.zeros((2, count, _MEMORY, size))
        self._stored = np.zeros(count, dtype=np.int64)
        self._best, self._least = unknown.copy(), np.full(count, np.inf)
        # Where nothing came back yet: the middle of the path, and no velocity.
        self._best[:, size // 2 :] = 0

    def step(self, left: Array, unknown: Array, change: Array, total: Array) -> Array:
        """Unknowns to go on with, of some pairs, from the last ones; an infinite miss tells that an end was lost."""
        better, lost = total < self._least[left], np.isinf(total)
        which = left[better]
        self._least[which], self._best[which] = total[better], unknown[better]
        self._stored[left[lost]] = 0
        came = left[~lost]
        out = (unknown + self._best[left]) / 2  # half the way back
        out[~lost] = mix(self._past, self._stored, came, unknown[~lost], change[~lost])
        return out
