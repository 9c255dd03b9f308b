r"""The orthographic retraction of balanced weights, and the position step of RATTLE, of many chains, compiled.

From ``W_p = Q_p Λ Q_{p−1}ᵀ`` a tangent vector V leads to the balanced weights ``Y = W + V + ν`` with ν normal at W: a
retraction of second order [1]_, and what the constraint forces of RATTLE do [2]_. Both sides of ``P_W(Y − W) = V`` live
in the frames of W: a tangent vector is cores ``M_p`` and sides ``B_p ⊥ Q_p``,

.. math:: V_p = Q_p M_p Q_{p-1}^\top + B_p Q_{p-1}^\top + Q_p B_{p-1}^\top,

of squared norm ``Σ ‖M_p‖² + ‖B_0‖² + ‖B_N‖² + 2 Σ_{0<p<N} ‖B_p‖²``. Y is sought as frames ``Y_p`` and a diagonal μ, so
that every iterate is balanced to round-off and no matrix of the size of a layer is formed. The residual
``ρ = V − P_W(Y − W)`` is projected to the tangent space at Y, written as a motion of its frames and of μ,
``A_p μ − μ A_{p−1} + D`` with skew ``A_p``, ``A_0 = 0`` and symmetric D, by least squares (one tridiagonal system for
each pair of singular values), and followed. The residual shrinks by the square of the angle between the two tangent
spaces, ``O(‖V‖²κ²)``, each time.

In these variables a single λ crosses zero smoothly, μ_k < 0, which the multipliers of the balance equations do
not, being singular there. Afterwards ``(μ_k, Y_p e_k)`` is written as ``(−μ_k, (−1)^p Y_p e_k)``.

Frames and sides have the shape (N + 1, D, r) with D the largest width, and zeros below row ``d_p``.

References
----------
.. [1] P.-A. Absil, J. Malick, "Projection-like retractions on matrix manifolds", SIAM J. Optim. 22 (2012).
.. [2] H. C. Andersen, "Rattle: a 'velocity' version of the Shake algorithm", J. Comput. Phys. 52 (1983).
"""

from __future__ import annotations

import math

import numba
import numpy as np

from dlngeo._threads import one_parallel_loop
from dlngeo.sampling._svd import orthonormalize

__all__ = ["leap", "project", "retract"]

# The residual ‖ρ‖ relative to ‖W‖ at which to stop, how often to try, and how near the way back must return.
TOLERANCE, ITERATIONS, RETURN = 1e-12, 60, 1e-9

_jit = numba.njit(cache=True, error_model="numpy")
_over_chains = numba.njit(cache=True, error_model="numpy", parallel=True)


@_jit
def _tangent(lam, cores, work):  # type: ignore[no-untyped-def]
    """Subtract the normal part ``S_p Λ − Λ S_{p−1}`` of cores, S symmetric."""
    depth, r = cores.shape[0], lam.size
    pivot, t = work[0], work[1]
    for k in range(r):
        # For k = l the tangent vectors are the same in all layers, also at λ_k = 0.
        mean = 0.0
        for p in range(depth):
            mean += cores[p, k, k]
        for p in range(depth):
            cores[p, k, k] = mean / depth
        for q in range(k + 1, r):
            diagonal, off = lam[k] ** 2 + lam[q] ** 2, lam[k] * lam[q]
            for p in range(depth - 1):
                side = cores[p, k, q] * lam[q] - lam[k] * cores[p + 1, k, q]
                side = (side + cores[p, q, k] * lam[k] - lam[q] * cores[p + 1, q, k]) / 2
                ratio = off / pivot[p - 1] if p > 0 else 0.0
                pivot[p] = diagonal - off * ratio
                t[p] = side + ratio * t[p - 1] if p > 0 else side
            below = 0.0
            for p in range(depth - 2, -1, -1):
                t[p] = (t[p] + off * below) / pivot[p]
                below = t[p]
            for p in range(depth):
                upper, lower = t[p] if p < depth - 1 else 0.0, t[p - 1] if p > 0 else 0.0
                cores[p, k, q] -= upper * lam[q] - lam[k] * lower
                cores[p, q, k] -= upper * lam[k] - lam[q] * lower


@_jit
def _difference(q, lam, y, mu, widths, cores, sides, c, e, work):  # type: ignore[no-untyped-def]
    """Cores and sides of ``P_W(Y − W)`` in the frames of W; ``c_p = Q_pᵀ Y_p`` and ``e_p = Y_p − Q_p c_p``."""
    depth, r = cores.shape[0], lam.size
    for p in range(depth + 1):
        for i in range(r):
            for j in range(r):
                total = 0.0
                for a in range(widths[p]):
                    total += q[p, a, i] * y[p, a, j]
                c[p, i, j] = total
        if widths[p] > r:
            for a in range(widths[p]):
                for j in range(r):
                    total = y[p, a, j]
                    for i in range(r):
                        total -= q[p, a, i] * c[p, i, j]
                    e[p, a, j] = total
    for p in range(depth):
        for i in range(r):
            for j in range(r):
                total = 0.0
                for k in range(r):
                    total += c[p + 1, i, k] * mu[k] * c[p, j, k]
                cores[p, i, j] = total - lam[i] if i == j else total
    _tangent(lam, cores, work)
    for p in range(depth + 1):
        if widths[p] > r:
            for a in range(widths[p]):
                for j in range(r):
                    total = 0.0
                    for k in range(r):
                        total += e[p, a, k] * mu[k] * _neighbours(c, p, j, k)
                    sides[p, a, j] = total


@_jit
def _neighbours(c, p, i, j):  # type: ignore[no-untyped-def]
    """Entry of the mean of ``c_{p−1}`` and ``c_{p+1}``, or the one of them that there is."""
    if p == 0:
        return c[1, i, j]
    if p == c.shape[0] - 1:
        return c[p - 1, i, j]
    return (c[p - 1, i, j] + c[p + 1, i, j]) / 2


@_jit
def _squared_norm(cores, sides, widths):  # type: ignore[no-untyped-def]
    depth, r = cores.shape[0], cores.shape[1]
    total = 0.0
    for p in range(depth):
        for i in range(r):
            for j in range(r):
                total += cores[p, i, j] ** 2
    for p in range(depth + 1):
        if widths[p] > r:
            weight = 1.0 if p == 0 or p == depth else 2.0
            for a in range(widths[p]):
                for j in range(r):
                    total += weight * sides[p, a, j] ** 2
    return total


@_jit
def _turns(mu, cores, turns, stretch, work):  # type: ignore[no-untyped-def]
    """Skew ``A_p`` and symmetric D with ``A_p μ − μ A_{p−1} + D`` closest to cores, ``A_0 = 0``."""
    depth, r = cores.shape[0], mu.size
    pivot, u, v = work[0], work[1], work[2]
    for k in range(r):
        mean = 0.0
        for p in range(depth):
            mean += cores[p, k, k]
        stretch[k, k] = mean / depth
        for p in range(depth):
            turns[p, k, k] = 0.0
        for q in range(k + 1, r):
            # T a + g d = f and g·a + 2N d = Σ (x + y), with x and y the entries (k, q) and (q, k).
            square, off, gap = mu[k] ** 2 + mu[q] ** 2, 2 * mu[k] * mu[q], mu[q] - mu[k]
            total = 0.0
            for p in range(depth):
                x, y = cores[p, k, q], cores[p, q, k]
                total += x + y
                side, diagonal, border = mu[q] * x - mu[k] * y, square, gap
                if p < depth - 1:
                    side += mu[q] * cores[p + 1, q, k] - mu[k] * cores[p + 1, k, q]
                    diagonal, border = 2 * square, 2 * gap
                ratio = off / pivot[p - 1] if p > 0 else 0.0
                pivot[p] = diagonal - off * ratio
                u[p] = side + ratio * u[p - 1] if p > 0 else side
                v[p] = border + ratio * v[p - 1] if p > 0 else border
            above_u, above_v, gu, gv = 0.0, 0.0, 0.0, 0.0
            for p in range(depth - 1, -1, -1):
                above_u, above_v = (u[p] + off * above_u) / pivot[p], (v[p] + off * above_v) / pivot[p]
                u[p], v[p] = above_u, above_v
                border = 2 * gap if p < depth - 1 else gap
                gu += border * above_u
                gv += border * above_v
            d = (total - gu) / (2 * depth - gv)
            stretch[k, q] = stretch[q, k] = d
            for p in range(depth):
                turns[p, k, q] = u[p] - d * v[p]
                turns[p, q, k] = -turns[p, k, q]


@_jit
def _diagonalize(s, o):  # type: ignore[no-untyped-def]
    """Rotate a symmetric matrix to a diagonal one, ``oᵀ s o``, in place, by Jacobi's method."""
    r = s.shape[0]
    for i in range(r):
        for j in range(r):
            o[i, j] = 1.0 if i == j else 0.0
    size = 0.0
    for i in range(r):
        for j in range(r):
            size = max(size, abs(s[i, j]))
    for _ in range(30):
        turned = False
        for i in range(r - 1):
            for j in range(i + 1, r):
                if not abs(s[i, j]) > 1e-17 * size:
                    continue
                turned = True
                half = (s[j, j] - s[i, i]) / (2 * s[i, j])
                t = math.copysign(1.0, half) / (abs(half) + math.sqrt(1 + half * half))
                cosine = 1 / math.sqrt(1 + t * t)
                sine = t * cosine
                for k in range(r):
                    a, b = s[k, i], s[k, j]
                    s[k, i], s[k, j] = cosine * a - sine * b, sine * a + cosine * b
                for k in range(r):
                    a, b = s[i, k], s[j, k]
                    s[i, k], s[j, k] = cosine * a - sine * b, sine * a + cosine * b
                    a, b = o[k, i], o[k, j]
                    o[k, i], o[k, j] = cosine * a - sine * b, sine * a + cosine * b
                s[i, j] = s[j, i] = 0.0
        if not turned:
            return


@_jit
def _follow(q, y, mu, widths, cores, sides, c, e, turns, work):  # type: ignore[no-untyped-def]
    """Move (Y, μ) along the projection to its tangent space of a vector given in the frames of W."""
    depth, r = cores.shape[0], mu.size
    h = np.zeros((depth + 1, r, r))  # Y_pᵀ B_p
    for p in range(depth + 1):
        if widths[p] > r:
            for i in range(r):
                for j in range(r):
                    for a in range(widths[p]):
                        h[p, i, j] += e[p, a, i] * sides[p, a, j]
    moved, half = np.empty((depth, r, r)), np.empty((r, r))
    for p in range(depth):
        for i in range(r):
            for j in range(r):
                total = h[p + 1, i, j]
                for k in range(r):
                    total += c[p + 1, k, i] * cores[p, k, j]
                half[i, j] = total
        for i in range(r):
            for j in range(r):
                total = 0.0
                for k in range(r):
                    total += half[i, k] * c[p, k, j] + c[p + 1, k, i] * h[p, j, k]
                moved[p, i, j] = total
    stretch, rotation = np.empty((r, r)), np.empty((r, r))
    _turns(mu, moved, turns, stretch, work)
    for k in range(r):
        stretch[k, k] += mu[k]
    _diagonalize(stretch, rotation)
    new, triangle, inside, outside = np.empty(y.shape[1:]), np.empty((r, r)), np.empty((r, r)), np.empty((r, r))
    for p in range(depth + 1):
        d = widths[p]
        for i in range(r):
            for j in range(r):
                # The frame turns within itself by A_p …
                total = rotation[i, j]
                if p > 0:
                    for k in range(r):
                        total += turns[p - 1, i, k] * rotation[k, j]
                inside[i, j] = total
        if d > r:
            # … and out of itself by (1 − Y Yᵀ)(Q K + B C) μ⁻¹.
            for i in range(r):
                for j in range(r):
                    half[i, j] = 0.0
                    if p > 0:
                        total = h[p - 1, j, i]
                        for k in range(r):
                            total += cores[p - 1, i, k] * c[p - 1, k, j]
                        half[i, j] += total
                    if p < depth:
                        total = h[p + 1, j, i]
                        for k in range(r):
                            total += cores[p, k, i] * c[p + 1, k, j]
                        half[i, j] += total
                    if 0 < p < depth:
                        half[i, j] /= 2
            for i in range(r):
                for j in range(r):
                    # Y: A_p − (cᵀ K + h C) μ⁻¹, all rotated; B: C μ⁻¹, rotated.
                    outside[i, j] = 0.0
                    for k in range(r):
                        outside[i, j] += _neighbours(c, p, i, k) / mu[k] * rotation[k, j]
            back = np.zeros((r, r))
            for i in range(r):
                for k in range(r):
                    total = 0.0
                    for a in range(r):
                        total += c[p, a, i] * half[a, k] + h[p, i, a] * _neighbours(c, p, a, k)
                    for j in range(r):
                        back[i, j] += total / mu[k] * rotation[k, j]
            for i in range(r):
                for j in range(r):
                    inside[i, j] -= back[i, j]
                    triangle[i, j] = 0.0
                    for k in range(r):
                        triangle[i, j] += half[i, k] / mu[k] * rotation[k, j]
        for a in range(d):
            for j in range(r):
                total = 0.0
                for k in range(r):
                    total += y[p, a, k] * inside[k, j]
                    if d > r:
                        total += q[p, a, k] * triangle[k, j] + sides[p, a, k] * outside[k, j]
                new[a, j] = total
        if not orthonormalize(new[:d], triangle) > 0.0:
            return False
        for a in range(d):
            for j in range(r):
                y[p, a, j] = new[a, j]
    for k in range(r):
        mu[k] = stretch[k, k]
    return True


@_jit
def _solve(q, lam, widths, cores, sides, y, mu):  # type: ignore[no-untyped-def]
    """Find balanced (Y, μ) with ``P_W(Y − W)`` the given vector; return the residual relative to ``‖W‖``, or ∞."""
    depth, r = cores.shape[0], lam.size
    y[:], mu[:] = q, lam
    c, e = np.zeros((depth + 1, r, r)), np.zeros(q.shape)
    rho, outer, turns, work = cores.copy(), sides.copy(), np.empty((depth, r, r)), np.empty((3, depth))
    for p in range(depth + 1):
        for k in range(r):
            c[p, k, k] = 1.0
    size = math.sqrt(depth * np.sum(lam**2))
    for _ in range(ITERATIONS):
        if not _follow(q, y, mu, widths, rho, outer, c, e, turns, work):
            return math.inf
        _difference(q, lam, y, mu, widths, rho, outer, c, e, work)
        for p in range(depth):
            for i in range(r):
                for j in range(r):
                    rho[p, i, j] = cores[p, i, j] - rho[p, i, j]
        for p in range(depth + 1):
            if widths[p] > r:
                for a in range(widths[p]):
                    for j in range(r):
                        outer[p, a, j] = sides[p, a, j] - outer[p, a, j]
        residual = math.sqrt(_squared_norm(rho, outer, widths)) / size
        if not residual < 1e3:
            return math.inf
        if residual <= TOLERANCE:
            return residual
    return math.inf


@_jit
def _fold(y, mu, widths):  # type: ignore[no-untyped-def]
    """Make μ positive and descending by signs ``(−1)^p`` of columns, and a permutation."""
    depth, r = y.shape[0] - 1, mu.size
    for k in range(r):
        if mu[k] < 0:
            mu[k] = -mu[k]
            for p in range(1, depth + 1, 2):
                for a in range(widths[p]):
                    y[p, a, k] = -y[p, a, k]
    for i in range(1, r):
        k = i
        while k > 0 and mu[k - 1] < mu[k]:
            mu[k - 1], mu[k] = mu[k], mu[k - 1]
            for p in range(depth + 1):
                for a in range(widths[p]):
                    y[p, a, k - 1], y[p, a, k] = y[p, a, k], y[p, a, k - 1]
            k -= 1


@_jit
def _leap_one(q, lam, cores, sides, widths, step):  # type: ignore[no-untyped-def]
    depth, r = cores.shape[0], lam.size
    y, mu, back, nu = np.zeros(q.shape), np.empty(r), np.zeros(q.shape), np.empty(r)
    core, side = cores * step, sides * step
    residual = _solve(q, lam, widths, core, side, y, mu)
    if not residual < math.inf:
        return math.inf
    _fold(y, mu, widths)
    c, e, work = np.empty((depth + 1, r, r)), np.zeros(q.shape), np.empty((3, depth))
    # The way back, −ε times the new momentum, is P(W − W′) in the new frames.
    _difference(y, mu, q, lam, widths, core, side, c, e, work)
    if not _solve(y, mu, widths, core, side, back, nu) < math.inf:
        return math.inf
    miss_core, miss_side = np.empty(cores.shape), np.zeros(sides.shape)
    _difference(q, lam, back, nu, widths, miss_core, miss_side, c, e, work)
    miss = math.sqrt(_squared_norm(miss_core, miss_side, widths) / (depth * np.sum(lam**2)))
    if not miss < RETURN:
        return math.inf
    q[:], lam[:], cores[:], sides[:] = y, mu, core / -step, side / -step
    return residual


@_jit
def _retract_one(q, lam, cores, sides, widths):  # type: ignore[no-untyped-def]
    y, mu = np.zeros(q.shape), np.empty(lam.size)
    residual = _solve(q, lam, widths, cores, sides, y, mu)
    if not residual < math.inf and not _first(q, lam, widths, cores, sides, y, mu):
        return math.nan
    _fold(y, mu, widths)
    q[:], lam[:] = y, mu
    return residual


@_jit
def _first(q, lam, widths, cores, sides, y, mu):  # type: ignore[no-untyped-def]
    """First iterate of :func:`_solve`."""
    depth, r = cores.shape[0], lam.size
    y[:], mu[:] = q, lam
    c, turns, work = np.zeros((depth + 1, r, r)), np.empty((depth, r, r)), np.empty((3, depth))
    for p in range(depth + 1):
        for k in range(r):
            c[p, k, k] = 1.0
    moved = _follow(q, y, mu, widths, cores, sides, c, np.zeros(q.shape), turns, work)
    return moved and np.all(np.isfinite(mu)) and np.all(mu != 0.0)


# Loops of one call each, since what stands in a parallel loop takes long to compile.


@_over_chains
def _leap(q, lam, cores, sides, widths, steps, residuals):  # type: ignore[no-untyped-def]
    for n in numba.prange(lam.shape[0]):
        if residuals[n] < math.inf:
            residuals[n] = max(residuals[n], _leap_one(q[n], lam[n], cores[n], sides[n], widths, steps[n]))


@_over_chains
def _retract(q, lam, cores, sides, widths, residuals):  # type: ignore[no-untyped-def]
    for n in numba.prange(lam.shape[0]):
        residuals[n] = _retract_one(q[n], lam[n], cores[n], sides[n], widths)


@_over_chains
def _project(lam, cores):  # type: ignore[no-untyped-def]
    for n in numba.prange(lam.shape[0]):
        _tangent(lam[n], cores[n], np.empty((3, cores.shape[1])))


def project(lam: np.ndarray, cores: np.ndarray) -> None:
    """Project cores to the tangent space, in place.

    Parameters
    ----------
    lam : array, shape=[chains, r]
        Singular values of the layers.
    cores : array, shape=[chains, N, r, r]
        Cores in the frames.
    """
    with one_parallel_loop:
        _project(lam, cores)


def leap(
    frames: np.ndarray,
    lam: np.ndarray,
    cores: np.ndarray,
    sides: np.ndarray,
    widths: np.ndarray,
    steps: np.ndarray,
    residuals: np.ndarray,
) -> None:
    """Move chains by the position step of RATTLE, and back to see that it is reversible, in place.

    Parameters
    ----------
    frames : array, shape=[chains, N + 1, D, r]
        Frames ``Q_p``.
    lam : array, shape=[chains, r]
        Singular values of the layers.
    cores, sides : array, shape=[chains, N, r, r], [chains, N + 1, D, r]
        Momentum.
    widths : array of int, shape=[N + 1]
        ``d_p``.
    steps : array, shape=[chains]
        Step sizes.
    residuals : array, shape=[chains]
        Largest residual so far. Chains at which it is infinite do not move, and those whose step has no solution or
        does not lead back get infinity.
    """
    with one_parallel_loop:
        _leap(frames, lam, cores, sides, widths, steps, residuals)


def retract(
    frames: np.ndarray, lam: np.ndarray, cores: np.ndarray, sides: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Move chains along tangent vectors by the orthographic retraction, in place.

    Parameters
    ----------
    frames, lam, cores, sides, widths
        As in :func:`leap`, with tangent vectors for momenta.

    Returns
    -------
    array, shape=[chains]
        Residuals relative to the norm of the weights. Infinite where no solution was found and the chain moved by the
        first iterate, a retraction of first order; NaN where that failed too, and the chain stayed.
    """
    residuals = np.zeros(len(lam))
    with one_parallel_loop:
        _retract(frames, lam, cores, sides, widths, residuals)
    return residuals
