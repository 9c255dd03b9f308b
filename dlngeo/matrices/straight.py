r"""Geodesics in closed form, where they are known.

Depth 1, full rank
    Straight lines.
One pair of frames, every depth
    Λ = Σ^{1/N} moves along a line, as ``g(Z, Z) ≥ N |dΛ|²`` with equality there; at infinite depth log Σ.
Depth 2, one orthogonal factor
    With ``X = O P`` and ``OᵀẊ`` symmetric, P moves as in twice the Bures–Wasserstein metric [1]_,
    ``P(t) = (1 + tL) P (1 + tL)``, L symmetric. No path in all matrices is shorter: the distance between the pairs of
    balanced factors is as long.
Rank 1, finite depth
    ``X = λ^N u vᵀ`` is the cone ``N dλ² + λ² (|du|² + |dv|²)``: lines in the plane of ``√N λ`` and the angle
    ``√((α² + β²)/N)``, α and β being those by which u and v turn along great circles.

All is decided to round-off, for each pair or velocity by itself; what is none of these is left out.

References
----------
.. [1] R. Bhatia, T. Jain, Y. Lim, "On the Bures–Wasserstein distance between positive definite matrices", Expositiones
   Mathematicae 37 (2019), arXiv:1712.01504.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlngeo.matrices.blocks import Blocks
from dlngeo.matrices.frame import Frame
from dlngeo.shooting import LARGEST

__all__ = ["Line", "between", "from_velocity"]

Array = NDArray[np.float64]
Mask = Any
Moves = Callable[[float], tuple[Array, Array]]

_EPS = np.finfo(float).eps
# Velocities that are faster, relative to the point, may overflow.
_FAST = 1e100


class Line(NamedTuple):
    """Geodesics in closed form of those of a batch that have one.

    Attributes
    ----------
    which : array of bool, shape=[b]
        Which have one.
    at : callable
        Time → points and velocities of these.
    until : array, shape=[k]
        Times at which these end at a singular matrix.

    See Also
    --------
    dlngeo.matrices.straight.from_velocity

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.straight import from_velocity
    >>> x, v = np.diag([4.0, 1.0])[None], -np.diag([4.0, 1.0])[None]  # the square roots are 2 − t and 1 − t/2
    >>> [line] = from_velocity(x, v, KernelSurface(DepthKernel(2), 2))
    >>> line.which, line.until.round(4)
    (array([ True]), array([2.]))
    """

    which: Mask
    at: Moves
    until: Array


def between(x0: Array, x1: Array, surface: Any) -> tuple[Array, Mask]:
    """Find initial velocities of shortest geodesics, shape=[b, m, n], and which pairs have one in closed form.

    See Also
    --------
    dlngeo.matrices.straight.from_velocity
    dlngeo.matrices.logarithms.logarithms

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.straight import between
    >>> x0, x1 = np.stack([np.eye(2)] * 2), np.array([[[4.0, 0.0], [0.0, 9.0]], [[1.0, 1.0], [0.0, 1.0]]])
    >>> velocity, found = between(x0, x1, KernelSurface(DepthKernel(2), 2))
    >>> found, bool(np.allclose(velocity[0], np.diag([2.0, 4.0])))  # square roots from 1 to 2 and 3
    (array([ True, False]), True)
    """
    velocity, found = np.zeros_like(x0), np.zeros(len(x0), dtype=bool)
    if surface.depth is None:
        return velocity, found
    for rule in _BETWEEN:
        left = np.flatnonzero(~found)
        if left.size:
            values, holds = rule(x0[left], x1[left], surface)
            velocity[left[holds]] = values[holds]
            found[left[holds]] = True
    return velocity, found


def from_velocity(x: Array, v: Array, surface: Any) -> list[Line]:
    """Geodesics in closed form of points and tangent vectors, shape=[b, m, n]; none is twice there.

    See Also
    --------
    dlngeo.matrices.straight.between
    dlngeo.shooting.shoot

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.straight import from_velocity
    >>> x, v = np.diag([4.0, 1.0])[None], np.diag([4.0, 2.0])[None]  # both square roots grow by 1
    >>> [line] = from_velocity(x, v, KernelSurface(DepthKernel(2), 2))
    >>> bool(np.allclose(line.at(1.0)[0], np.diag([9.0, 4.0])))
    True
    """
    lines: list[Line] = []
    if surface.depth is None:
        return lines
    if _flat(x, surface):
        return [Line(np.ones(len(x), dtype=bool), lambda t: (x + t * v, v), np.full(len(x), np.inf))]
    # At size 1: the metric of a depth is homogeneous.
    size, speed = (np.abs(z).max(axis=(-2, -1)) for z in (x, v))
    left: Any = np.flatnonzero((size > 0) & (size < LARGEST) & (speed < _FAST * size))
    s = np.linalg.svd(x[left] / size[left, None, None], compute_uv=False)
    left = left[s[:, surface.rank - 1] > _EPS * s[:, 0]]
    for rule in _FROM:
        if not left.size:
            break
        unit = size[left, None, None]
        line = rule(x[left] / unit, v[left] / unit, surface)
        if line is not None and line.which.any():
            which = np.zeros(len(x), dtype=bool)
            which[left[line.which]] = True
            lines.append(Line(which, partial(_times, unit[line.which], line.at), line.until))
            left = left[~line.which]
    return lines


def _times(unit: Array, at: Moves, t: float) -> tuple[Array, Array]:
    points, velocities = at(t)
    return unit * points, unit * velocities


def _rounding(x: Array) -> Any:
    return (8 + max(x.shape[-2:])) * _EPS


def _norm(x: Array) -> Array:
    top = np.abs(x).max(axis=(-2, -1), initial=np.finfo(float).tiny)  # whose square may underflow
    return top * np.linalg.norm(x / top[..., None, None], axis=(-2, -1))


def _scaled(x: Array) -> Array:
    return x / _norm(x)[..., None, None]


# Depth 1.


def _flat(x: Array, surface: Any) -> bool:
    return surface.depth == 1 and surface.rank == min(x.shape[-2:])


def _straight_between(x0: Array, x1: Array, surface: Any) -> tuple[Array, Mask]:
    if not _flat(x0, surface):
        return x0, np.zeros(len(x0), dtype=bool)
    # Invertible matrices of opposite sign are in different components.
    one = x0.shape[-2] != x0.shape[-1] or np.linalg.slogdet(x0)[0] * np.linalg.slogdet(x1)[0] > 0
    return x1 - x0, np.broadcast_to(one, len(x0))


# One pair of frames.


def _aligned_between(x0: Array, x1: Array, surface: Any) -> tuple[Array, Mask]:
    r, depth = surface.rank, surface.depth
    points = np.stack([_scaled(x0), _scaled(x1)])
    u, _, vt = np.linalg.svd(points.sum(axis=0), full_matrices=False)
    u, vt = u[..., :r], vt[..., :r, :]
    spectra = np.diagonal(u.mT @ points @ vt.mT, axis1=-2, axis2=-1)
    miss = _norm(points - (u * spectra[..., None, :]) @ vt).max(axis=0)
    falls = np.diff(spectra, axis=-1).max(axis=(0, -1), initial=0.0)
    holds = (np.maximum(miss, falls) <= _rounding(x0)) & (spectra.min(axis=(0, -1)) > 0)
    s, ends = spectra[0], np.where(holds[:, None], spectra, 1.0)
    move = np.log(ends[1]) - np.log(ends[0]) + (np.log(_norm(x1)) - np.log(_norm(x0)))[:, None]
    if np.isfinite(depth):  # the relative change of λ, which is exact for close points too
        move = depth * np.expm1(move / depth)
    return (u * (s * move * _norm(x0)[:, None])[:, None, :]) @ vt, holds


def _aligned_from(x: Array, v: Array, surface: Any) -> Line | None:
    size = _norm(x)
    frame = Frame.at(_scaled(x), surface.kernel, surface.rank)
    blocks = frame.split(v)
    rates = np.diagonal(blocks.core, axis1=-2, axis2=-1)
    off = blocks.core - rates[..., None, :] * np.eye(surface.rank)
    rest = frame.scale(Blocks(off, blocks.left, blocks.right), -0.5)
    # What rounding makes of entries that are zero, in the metric.
    most = _rounding(x) * np.linalg.norm(rates, axis=-1) / np.sqrt(frame.phi.min(axis=(-2, -1)))
    which = np.sqrt(frame.pair(rest, rest)) <= most
    if not which.any():
        return None
    u, vt, s, unit = (a[which] for a in (frame.u, frame.vt, frame.s, size[:, None]))
    relative = rates[which] / (unit * s)
    depth = surface.depth
    # Up to where one is zero, or leaves the numbers of double precision.
    room = np.where(relative < 0, -np.inf, np.log(LARGEST) - np.log(unit * s))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        span = room if np.isinf(depth) else depth * np.expm1(room / depth)
        until = np.where(relative == 0, np.inf, span / relative).min(axis=-1)

    def at(t: float) -> tuple[Array, Array]:
        if np.isinf(depth):
            growth = np.exp(t * relative)
            speed = relative * growth
        else:
            step = np.maximum(1 + t * relative / depth, 0.0)
            growth, speed = step**depth, relative * step ** (depth - 1)
        scale = unit * s
        return (u * (scale * growth)[..., None, :]) @ vt, (u * (scale * speed)[..., None, :]) @ vt

    return Line(which, at, until)


# Depth 2, one orthogonal factor.


def _one_factor(x: Array, surface: Any) -> bool:
    return surface.depth == 2 and x.shape[-2] == x.shape[-1] == surface.rank


def _symmetric(a: Array) -> Array:
    return (a + a.mT) / 2


def _polar(x: Array) -> tuple[Array, Array, Array]:
    """``X = O Q diag(s) Qᵀ``: O Q, s and Q. O is 1, to the last digit, where X is symmetric and positive."""
    u, s, vt = np.linalg.svd(x)
    even = _norm(x - x.mT) <= _EPS * _norm(x)
    w, q = np.linalg.eigh(_symmetric(x))
    even &= w[..., 0] > 0
    pick = even[:, None, None]
    return np.where(pick, q, u), np.where(even[:, None], w, s), np.where(pick, q, vt.mT)


def _wasserstein_between(x0: Array, x1: Array, surface: Any) -> tuple[Array, Mask]:
    if not _one_factor(x0, surface):
        return x0, np.zeros(len(x0), dtype=bool)
    left, s, q = _polar(x0)
    other = left.mT @ x1 @ q  # in the frame of P
    holds = _norm(other - other.mT) <= _rounding(x0) * _norm(other)
    other = _symmetric(other)
    holds &= np.linalg.eigvalsh(other)[..., 0] > _rounding(x0) * _norm(other)
    # T = P^{-1/2} (P^{1/2} P′ P^{1/2})^{1/2} P^{-1/2}
    roots = np.sqrt(s)[..., None, :]
    w, modes = np.linalg.eigh(_symmetric(roots.mT * other * roots))
    outer = np.maximum(roots.mT * roots, np.finfo(float).tiny)
    turn = (modes * np.sqrt(np.maximum(w, 0.0))[..., None, :]) @ modes.mT / outer - np.eye(surface.rank)
    return left @ (turn * s[..., None, :] + s[..., None] * turn) @ q.mT, holds


def _wasserstein_from(x: Array, v: Array, surface: Any) -> Line | None:
    if not _one_factor(x, surface):
        return None
    left, s, q = _polar(x)
    core = left.mT @ v @ q
    which = _norm(core - core.mT) <= _rounding(x) * _norm(core)
    if not which.any():
        return None
    left, s, q, core = (a[which] for a in (left, s, q, core))
    move = _symmetric(core) / (s[..., :, None] + s[..., None, :])
    least = np.linalg.eigvalsh(move)[..., 0]
    with np.errstate(divide="ignore"):
        until = np.where(least < 0, -1 / least, np.inf)

    def at(t: float) -> tuple[Array, Array]:
        side = np.eye(s.shape[-1]) + t * move
        half = side * s[..., None, :]
        return left @ half @ side @ q.mT, left @ (half @ move + (half @ move).mT) @ q.mT

    return Line(which, at, until)


# Rank 1.


class _Cone(NamedTuple):
    """Factors ``λ, u, v`` of matrices of rank 1."""

    lam: Array
    u: Array
    v: Array

    @classmethod
    def of(cls, x: Array, depth: float) -> _Cone:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return cls(s[:, 0] ** (1 / depth), u[..., 0], vt[..., 0, :])


def _is_cone(x: Array, surface: Any) -> bool:
    return surface.rank == 1 and np.isfinite(surface.depth) and max(x.shape[-2:]) > 1


def _outer(u: Array, v: Array) -> Array:
    return u[..., :, None] * v[..., None, :]


def _toward(a: Array, b: Array) -> tuple[Array, Array]:
    """Angle from unit vectors to others, and directions."""
    cosine = np.sum(a * b, axis=-1)
    across = b - a * cosine[:, None]
    sine = np.linalg.norm(across, axis=-1)
    return np.arctan2(sine, cosine), across / np.where(sine > 0, sine, 1.0)[:, None]


def _cone_between(x0: Array, x1: Array, surface: Any) -> tuple[Array, Mask]:
    if not _is_cone(x0, surface):
        return x0, np.zeros(len(x0), dtype=bool)
    depth = surface.depth
    unit = _norm(x0)[:, None, None]
    start, end = _Cone.of(x0 / unit, depth), _Cone.of(x1 / unit, depth)
    ways = [(_toward(start.u, sign * end.u), _toward(start.v, sign * end.v)) for sign in (1.0, -1.0)]
    turns = [np.hypot(a, b) for (a, _), (b, _) in ways]
    flip = turns[1] < turns[0]
    (a, eu), (b, ev) = (
        tuple(np.where(flip.reshape(-1, *(1,) * (p.ndim - 1)), q, p) for p, q in zip(*side, strict=True))
        for side in zip(*ways, strict=True)
    )
    angle = np.hypot(a, b) / np.sqrt(depth)
    # Half turns have no direction, and on a line none at all.
    holds = (angle < np.pi - 1e-6) & (np.maximum(a, b) < np.pi - 1e-6)
    rate = end.lam * np.sinc(angle / np.pi) / start.lam  # of the angle, in units of all of it
    growth = depth * (end.lam * np.cos(angle) / start.lam - 1)
    sigma = (start.lam**depth)[:, None, None]
    turn = _outer(eu * a[:, None], start.v) + _outer(start.u, ev * b[:, None])
    return unit * sigma * (growth[:, None, None] * _outer(start.u, start.v) + rate[:, None, None] * turn), holds


def _cone_from(x: Array, v: Array, surface: Any) -> Line | None:
    if not _is_cone(x, surface):
        return None
    depth, unit = surface.depth, _norm(x)[:, None, None]
    lam, u, w = _Cone.of(x / unit, depth)
    sigma, z = lam**depth, v / unit
    core = np.einsum("bi,bij,bj->b", u, z, w) / sigma
    left = (np.einsum("bij,bj->bi", z, w) / sigma[:, None]) - core[:, None] * u
    right = (np.einsum("bij,bi->bj", z, u) / sigma[:, None]) - core[:, None] * w
    a, b = np.linalg.norm(left, axis=-1), np.linalg.norm(right, axis=-1)
    spin = np.hypot(a, b) / np.sqrt(depth)
    with np.errstate(divide="ignore"):
        until = np.where((spin == 0) & (core < 0), -depth / core, np.inf)

    def at(t: float) -> tuple[Array, Array]:
        along, across = 1 + t * core / depth, t * spin
        radius, angle = np.hypot(along, across), np.arctan2(across, along)
        slope = (along * core / depth + across * spin) / radius
        # How far both vectors have turned, in units of their angle per angle of the cone, and how fast.
        part = np.where(spin > 0, angle / np.where(spin > 0, spin, 1.0), t)
        pace = 1 / radius**2
        (uu, du), (ww, dw) = (
            (
                y * np.cos(c * part)[:, None] + d * (part * np.sinc(c * part / np.pi))[:, None],
                pace[:, None] * (d * np.cos(c * part)[:, None] - y * (c * np.sin(c * part))[:, None]),
            )
            for y, d, c in ((u, left, a), (w, right, b))
        )
        size = (sigma * radius**depth)[:, None, None] * unit
        point = size * _outer(uu, ww)
        stretch = (depth * slope / radius)[:, None, None]
        return point, stretch * point + size * (_outer(du, ww) + _outer(uu, dw))

    return Line(np.ones(len(x), dtype=bool), at, until)


_BETWEEN = _straight_between, _aligned_between, _wasserstein_between, _cone_between
_FROM = _aligned_from, _wasserstein_from, _cone_from
