r"""Geodesics of an invariant metric: from a velocity, and between two points.

Geodesics of a depth are followed in closed form where there is one (:mod:`dlngeo.matrices.straight`), else by compiled
steps (:mod:`dlngeo.compiled.geodesics`); those of other kernels solve ``Ẍ = −Γ(Ẋ, Ẋ)`` with the closed-form
Christoffel map of :class:`~dlngeo.matrices.frame.Frame`, which :mod:`dlngeo.shooting` integrates. Between points,
many are found together by their middles (:mod:`dlngeo.matrices.logarithms`). For the pairs that are left, the search
starts from paths that never leave the manifold, which SciPy's collocation shortens. It is as follows.

The first paths turn the column and row spaces along their principal angles and interpolate polar factors within them:
rotations along one-parameter subgroups, and the N-th roots of the positive parts linearly, as balanced factors would
move. Collocation shortens the path roughly to a geodesic, and Newton's method on the initial velocity makes it arrive.
Where that fails, at integer depth and full rank the geodesic is sought among the balanced weights, whose coordinates
stay good near singular matrices. Else a path through aligned balanced factors is tried, which at integer depth is close
to a shortest one, and the end point is moved along the paths by continuation.

Factored matrices are in :mod:`dlngeo.matrices.factored`, complex ones in :mod:`dlngeo.matrices.complex_geodesics`. The
functions here work on NumPy arrays; :mod:`dlngeo.geomstats` brings other backends to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_bvp
from scipy.interpolate import CubicSpline

from dlngeo.compiled.geodesics import geodesics
from dlngeo.errors import GeodesicError, SingularError
from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.logarithms import logarithms
from dlngeo.matrices.paths import balanced_path, connecting_paths
from dlngeo.matrices.straight import between, from_velocity
from dlngeo.shooting import (
    LARGEST,
    MAX_STEPS,
    Attempt,
    Connecting,
    Path,
    Surface,
    at,
    ends_at,
    length,
    newton,
    not_converged,
    rate,
    shoot,
    spend,
)
from dlngeo.weights.alignment import align
from dlngeo.weights.balanced import BalancedFrame
from dlngeo.weights.bases import tangent_basis
from dlngeo.weights.geodesics import BALANCED
from dlngeo.weights.network import balanced_weights, differential, end_to_end, horizontal_lift

__all__ = ["KernelSurface"]

Array = NDArray[np.float64]

# Collocation only has to get close: Newton's method on the initial velocity does the rest at a fraction of its cost.
_NODES, _MAX_NODES, _COARSE = 12, 48, 1e-3
# Steps of a geodesic that a search tries, where layers can take over, and where not.
_SEARCHED = 200, 2000
# Pairs further apart in size, or nearer to a lower rank, are not sought together.
_FAR, _REGULAR = np.log(1e12), 1e-14
# Aligning balanced factors takes time in proportion to their number.
_MOST_FACTORS = 64


class KernelSurface(Surface):
    """Matrices of one rank with the metric of a kernel.

    See Also
    --------
    dlngeo.matrices.complex_geodesics.surface_of
    dlngeo.shooting.shoot

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.shooting import shoot
    >>> x, v = np.array([[1.2, 0.3], [-0.2, 0.9]]), np.array([[0.0, 0.5], [0.1, 0.2]])
    >>> surface = KernelSurface(DepthKernel(3), 2)
    >>> [end], [velocity] = shoot(x, v, surface)
    >>> bool(np.isclose(surface.inner(x, v, v), surface.inner(end, velocity, velocity)))  # the speed is constant
    True
    """

    point_ndim = 2

    def __init__(self, kernel: Kernel, rank: int) -> None:
        self.kernel, self.rank = kernel, rank
        self.depth = kernel.depth
        self._layered = self.depth in range(2, _MOST_FACTORS + 1)

    def _frame(self, x: Array) -> Frame:
        return Frame.at(x, self.kernel, self.rank)

    def acceleration(self, x: Array, v: Array) -> Array:
        """Christoffel map, ``−Γ(V, V)``."""
        return -self._frame(x).christoffel(v, v)

    def inner(self, x: Array, v: Array, w: Array) -> Array:
        """Inner product ``g_X(V, W)``."""
        return self._frame(x).inner(v, w)

    def follow(self, start: Array, times: Array, tolerance: float) -> Array:
        """Geodesics in closed form, or by compiled steps for kernels of a depth; else those of any surface."""
        if self.depth is None:
            return super().follow(start, times, tolerance)
        shape, sign = start.shape[1:], np.sign(times[0])
        x, v = start.reshape(2, -1, *shape[-2:])
        out = np.empty((len(times), 2, *x.shape))
        left: Any = np.ones(len(x), dtype=bool)
        until = np.full(len(x), np.inf)
        for line in from_velocity(x, sign * v, self):
            with np.errstate(over="ignore", invalid="ignore"):  # after its end
                for place, time in zip(out, np.abs(times), strict=True):
                    place[:, line.which] = line.at(time)
            finite = np.all(np.abs(out[:, 0, line.which]) < LARGEST, axis=(0, -2, -1))
            until[line.which], left = np.where(finite, line.until, np.minimum(line.until, 0.0)), left & ~line.which
        if left.any():
            # Where there are no layers to turn to, an ill-conditioned point takes many steps.
            most = MAX_STEPS if self._layered else 20 * MAX_STEPS
            points, velocities, steps, came = self._flow(x[left], sign * v[left], np.abs(times), tolerance, most)
            spend(int(np.abs(steps).max()))
            out[:, 0, left], out[:, 1, left] = points, velocities
            until[left] = np.where(steps < 0, came, np.inf)
        last = np.abs(times[-1])
        if not np.all(until > last):
            raise ends_at(float(sign * until.min()), float(times[-1]))
        out[:, 1] *= sign
        return out.reshape(len(times), 2, *shape)

    def ends(self, x: Array, v: Array, tolerance: Array) -> tuple[Array, Array, Any]:
        """End points and velocities at unit time, shape=[k, b, m, n], and which geodesics came there, shape=[k, b].

        Each has its own tolerance, relative to its length in the metric, shape=[b].
        """
        shape = x.shape
        x, v = x.reshape(-1, *shape[-2:]), v.reshape(-1, *shape[-2:])
        if self.depth is None:
            ends, came = self._ends(np.stack([x, v]), float(np.min(tolerance)))
        else:
            each = np.broadcast_to(tolerance, shape[:-2]).ravel()
            [points], [velocities], steps, _ = self._flow(x, v, np.ones(1), each, _SEARCHED[not self._layered])
            ends, came = np.stack([points, velocities]), steps >= 0
        ends[:, ~came] = 0
        return ends[0].reshape(shape), ends[1].reshape(shape), came.reshape(shape[:-2])

    def _ends(self, start: Array, tolerance: float) -> tuple[Array, Any]:
        """Halve a batch until it comes to its end, or is a single geodesic that does not."""
        try:
            return np.stack(shoot(start[0], start[1], self, tolerance=tolerance))[:, 0], np.ones(start.shape[1], bool)
        except GeodesicError:
            if start.shape[1] == 1:
                return np.zeros_like(start), np.zeros(1, dtype=bool)
        half = start.shape[1] // 2
        parts = [self._ends(part, tolerance) for part in (start[:, :half], start[:, half:])]
        return np.concatenate([ends for ends, _ in parts], axis=1), np.concatenate([came for _, came in parts])

    def _flow(self, x: Array, v: Array, times: Array, tolerance: Any, most: int) -> tuple[Array, Array, Any, Array]:
        """Follow geodesics by compiled steps, as square matrices of twice the rank at most, of size 1."""
        unit = np.abs(x).max(axis=(-2, -1), keepdims=True)
        unit = np.where(unit > 0, unit, 1.0)
        x, v = x / unit, v / unit
        m, n = x.shape[-2:]
        left = right = None
        if max(m, n) > 2 * self.rank:
            frame = self._frame(x)
            blocks = frame.split(v)
            if m > 2 * self.rank:
                left = np.linalg.qr(np.concatenate([frame.u, blocks.left], axis=-1))[0]
                x, v = left.mT @ x, left.mT @ v
            if n > 2 * self.rank:
                right = np.linalg.qr(np.concatenate([frame.vt.mT, blocks.right], axis=-1))[0]
                x, v = x @ right, v @ right
        a, b = x.shape[-2:]
        size = max(a, b)
        if a != b:
            x, v = (np.pad(z, ((0, 0), (0, size - a), (0, size - b))) for z in (x, v))
        points, velocities, steps, until = geodesics(
            x, v, self.rank, float(self.depth or 0), self.kernel.at_one, tolerance, times, most
        )
        for k in np.flatnonzero(steps == -1 - most) if a == b == self.rank else ():
            if self._layered:
                each = float(np.broadcast_to(tolerance, len(x))[k])
                points[k], velocities[k], steps[k] = self._above(x[k], v[k], times, each)
        out = []
        for z in (points, velocities):
            z = z[..., :a, :b].swapaxes(0, 1)
            z = z if left is None else left @ z
            out.append(unit * (z if right is None else z @ right.mT))
        return out[0], out[1], steps, until

    def _above(self, x: Array, v: Array, times: Array, tolerance: float) -> tuple[Array, Array, int]:
        """Follow one geodesic as the product of balanced weights, which stay smooth where a matrix is ill-conditioned.

        A matrix moves by far more than its small singular values in short time, which takes many steps.
        """
        weights = np.stack(balanced_weights(x, int(self.depth or 0)))
        lift = horizontal_lift(self._frame(x).metric(v), weights)
        try:
            ends, velocities = shoot(weights, lift * (self.kernel.at_one / len(weights)), BALANCED, times, tolerance)
        except GeodesicError:
            return np.zeros((len(times), *x.shape)), np.zeros((len(times), *x.shape)), -1
        points = np.stack([end_to_end(list(w)) for w in ends])
        return points, np.stack([differential(list(s), list(w)) for w, s in zip(ends, velocities, strict=True)]), 0

    def together(self, x0: Array, x1: Array, tolerance: float) -> Connecting:
        """Geodesics in closed form, and by a fixed point for all pairs at once."""
        count = len(x0)
        velocity, length, residual = np.zeros_like(x0), np.full(count, np.inf), np.zeros(count)
        sizes = np.abs(np.stack([x0, x1])).max(axis=(-2, -1))
        some: Any = np.flatnonzero(np.all((sizes > 0) & (sizes < LARGEST), axis=0))
        spectra = [
            np.linalg.svd(x[some] / s[some, None, None], compute_uv=False) for x, s in zip((x0, x1), sizes, strict=True)
        ]
        regular = [s[:, self.rank - 1] > _REGULAR * s[:, 0] for s in spectra]
        some = some[np.all(regular, axis=0)]
        # Kernels of a depth are homogeneous, so that the size of the points is free.
        unit = np.ones(count) if self.depth is None else sizes[0]
        lines, found = between(x0[some], x1[some], self)
        straight, left = some[found], some[~found]
        velocity[straight] = lines[found]
        far = np.abs(np.log(sizes[1, left]) - np.log(sizes[0, left])) > _FAR
        left = left[~far]
        if left.size:
            scale = unit[left, None, None]
            known = logarithms(x0[left] / scale, x1[left] / scale, self, tolerance)
            which = left[known.found]
            velocity[which], residual[which] = (scale * known.velocity)[known.found], known.residual[known.found]
            straight = np.concatenate([straight, which])
        if straight.size:
            x, v = (z[straight] / unit[straight, None, None] for z in (x0, velocity))
            length[straight] = np.sqrt(self.inner(x, v, v)) * unit[straight] ** (1 / (self.depth or np.inf))
        return Connecting(velocity, length, residual)

    def crossed(self, before: Array, after: Array) -> bool:
        """Whether a singular value crosses zero between two points.

        It turns round one singular vector there, so the orientation of the frames of one point, compared with those of
        the other, changes sign. One that only touches zero, as even powers of λ do, or that is thrown off there, leaves
        no such trace, but the energy is no longer conserved. Where the kernel is smooth at zero, as at depth 1, and all
        matrices nearby have the rank of the points, nothing is wrong there.
        """
        if self.rank == min(before.shape[-2:]) and self.kernel.smooth_at_zero:
            return False
        (u0, _, v0), (u1, _, v1) = (np.linalg.svd(x, full_matrices=False) for x in (before, after))
        r = slice(self.rank)
        turn = np.linalg.det(u0[..., r].mT @ u1[..., r]) * np.linalg.det(v0[..., r, :] @ v1[..., r, :].mT)
        return bool(np.any(turn < 0))

    def settle(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Points and velocities as they are: among matrices they drift by less than the error along the geodesic."""
        return x, v

    def basis(self, x: Array) -> tuple[Array, Array]:
        """``A^{1/2} E`` and ``A^{-1/2} E``, where E is the basis of weights of one layer, shape=[dim, m, n]."""
        frame, flat = self._frame(x), tangent_basis(BalancedFrame([x], self.rank))[0]
        blocks = frame.split(flat)
        return frame.assemble(frame.scale(blocks, 0.5)), frame.assemble(frame.scale(blocks, -0.5))

    def attempts(self, x0: Array, x1: Array, tolerance: float) -> Iterator[tuple[float, Attempt]]:
        """Ways that the head of this module tells of, for one pair that :meth:`together` finds none for."""
        paths = [(length(path, self), path) for path in connecting_paths(x0, x1, self.depth or 1.0, self.rank)]
        bound = min(known for known, _ in paths)
        tried = []
        for _, path in sorted(paths, key=lambda pair: pair[0]):
            yield bound, partial(self._directly, path, tolerance)
            tried.append(path)
        if self._layered:
            depth = int(self.depth or 0)
            if x0.shape == (self.rank, self.rank):
                yield bound, partial(self._through_weights, x0, x1, depth, tolerance)
            path = balanced_path(x0, x1, depth, self.rank)
            paths.append((length(path, self), path))
            bound = min(bound, paths[-1][0])
        for _, path in sorted(paths, key=lambda pair: pair[0]):
            if path not in tried:
                yield bound, partial(self._directly, path, tolerance)
            yield bound, partial(self._by_continuation, path, tolerance)

    def _directly(self, path: Path, tolerance: float) -> Connecting:
        nodes = path(np.linspace(0, 1, _NODES))
        return newton(nodes[0], at(nodes[-1]), self._collocate(nodes), self, tolerance)

    def _through_weights(self, x0: Array, x1: Array, depth: int, tolerance: float) -> Connecting:
        """Product of the shortest geodesic between the fibres of balanced weights."""
        start, end = (np.stack(balanced_weights(x, depth)) for x in (x0, x1))
        found = align(end, start, tolerance=0.1 * tolerance)
        velocity = differential(found.velocity, start)
        return Connecting(velocity, float(np.sqrt(self.inner(x0, velocity, velocity))), found.residual)

    def _by_continuation(self, path: Path, tolerance: float) -> Connecting:
        """Move the end point along the path, extrapolating the velocities already found for the next one."""
        start = path(np.zeros(1))[0]
        times, velocities, step = [0.0], [np.zeros_like(start)], 1 / 16
        while True:
            end = min(1.0, times[-1] + step)
            point = path(np.array([end]))[0]
            if len(times) == 1:
                guess = point - start
            else:
                slope = (velocities[-1] - velocities[-2]) / (times[-1] - times[-2])
                guess = velocities[-1] + (end - times[-1]) * slope
            try:
                found = newton(start, at(point), guess, self, tolerance)
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

    def _collocate(self, nodes: Array) -> Array:
        """Shorten a path, given at equidistant nodes, to a rough geodesic; returns the initial velocity of that."""
        count, m, n = nodes.shape
        times, size, flat = np.linspace(0, 1, count), m * n, nodes.reshape(count, -1)
        guess = np.concatenate([flat, CubicSpline(times, flat)(times, 1)], axis=1).T

        def slope(t: Array, y: Array) -> Array:
            x, v = y.T.reshape(len(t), 2, m, n).swapaxes(0, 1)
            return rate(self, x, v).swapaxes(0, 1).reshape(len(t), -1).T

        def gap(ya: Array, yb: Array) -> Array:
            return np.concatenate([ya[:size] - flat[0], yb[:size] - flat[-1]])

        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                found = solve_bvp(slope, gap, times, guess, tol=_COARSE, max_nodes=_MAX_NODES)
        except (SingularError, np.linalg.LinAlgError) as error:
            raise not_converged(f"collocation left the manifold ({error})") from None
        if found.status != 0:
            raise not_converged(found.message)
        return found.y[size:, 0].reshape(m, n)
