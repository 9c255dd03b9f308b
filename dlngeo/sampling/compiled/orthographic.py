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

import numpy as np

from dlngeo.compiled import in_threads, jit
from dlngeo.compiled.dense import copy
from dlngeo.compiled.svd import orthonormalize_rows
from dlngeo.sampling.compiled.pairs import diagonalize, tangent
from dlngeo.sampling.compiled.pairs import turns as pair_turns

__all__ = ["leap", "project", "retract"]

# The residual ‖ρ‖ relative to ‖W‖ at which to stop, how often to try, and how near the way back must return.
TOLERANCE, ITERATIONS, RETURN = 1e-12, 60, 1e-9


@jit
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
    tangent(lam, cores, work)
    for p in range(depth + 1):
        if widths[p] > r:
            for a in range(widths[p]):
                for j in range(r):
                    total = 0.0
                    for k in range(r):
                        total += e[p, a, k] * mu[k] * _neighbours(c, p, j, k)
                    sides[p, a, j] = total


@jit
def _neighbours(c, p, i, j):  # type: ignore[no-untyped-def]
    """Entry of the mean of ``c_{p−1}`` and ``c_{p+1}``, or the one of them that there is."""
    if p == 0:
        return c[1, i, j]
    if p == c.shape[0] - 1:
        return c[p - 1, i, j]
    return (c[p - 1, i, j] + c[p + 1, i, j]) / 2


@jit
def _squared_norm(cores, sides):  # type: ignore[no-untyped-def]
    depth, r, widest = cores.shape[0], cores.shape[1], sides.shape[1]
    total = 0.0
    for p in range(depth):
        for i in range(r):
            for j in range(r):
                total += cores[p, i, j] ** 2
        for a in range(widest):
            for j in range(r):
                total += sides[p, a, j] ** 2 + sides[p + 1, a, j] ** 2
    return total


@jit
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
    pair_turns(mu, moved, turns, stretch, work)
    for k in range(r):
        stretch[k, k] += mu[k]
    diagonalize(stretch, rotation)
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
        if not orthonormalize_rows(new[:d].T, triangle) > 0.0:
            return False
        copy(new[:d], y[p])
    for k in range(r):
        mu[k] = stretch[k, k]
    return True


@jit
def _solve(q, lam, widths, cores, sides, y, mu, iterations):  # type: ignore[no-untyped-def]
    """Find balanced (Y, μ) with ``P_W(Y − W)`` the given vector; return the residual relative to ``‖W‖``.

    It ends at the first iterate, which is never far, if later ones are no better.
    """
    depth, r = cores.shape[0], lam.size
    c, e, first, nu = np.zeros((depth + 1, r, r)), np.zeros(q.shape), np.zeros(q.shape), np.zeros(r)
    rho, outer, turns, work = cores.copy(), sides.copy(), np.empty((depth, r, r)), np.empty((3, depth))
    _copy(q, lam, y, mu)
    square, residual, initial = 0.0, math.inf, math.inf
    for k in range(r):
        square += depth * lam[k] ** 2
        for p in range(depth + 1):
            c[p, k, k] = 1.0
    size = math.sqrt(square)
    for iteration in range(iterations):
        if not _follow(q, y, mu, widths, rho, outer, c, e, turns, work):
            residual = math.inf
            break
        _difference(q, lam, y, mu, widths, rho, outer, c, e, work)
        _subtract_from(cores, rho)
        _subtract_from(sides, outer)
        residual = math.sqrt(_squared_norm(rho, outer)) / size
        if residual <= TOLERANCE or not residual < math.inf:
            break
        if iteration == 0:
            initial = residual
            _copy(y, mu, first, nu)
    if initial < math.inf and not residual < initial:
        _copy(first, nu, y, mu)
        return initial
    return residual


@jit
def _subtract_from(a, b):  # type: ignore[no-untyped-def]
    """Overwrite b with ``a − b``."""
    for p in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                b[p, i, j] = a[p, i, j] - b[p, i, j]


@jit
def _scale(a, factor, out):  # type: ignore[no-untyped-def]
    """Write the multiple of a."""
    for p in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                out[p, i, j] = factor * a[p, i, j]


@jit
def _copy(q, lam, y, mu):  # type: ignore[no-untyped-def]
    _scale(q, 1.0, y)
    for k in range(lam.size):
        mu[k] = lam[k]


@jit
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


@jit
def _move(q, lam, cores, sides, widths, steps, residuals, leap):  # type: ignore[no-untyped-def]
    """Move chains along vectors, in place; for a leap also the vectors, and only if the way back is found.

    Calls stand once, in a loop over chains and over the ways there and back, as each would be compiled anew.
    """
    chains, depth, r = cores.shape[0], cores.shape[1], lam.shape[1]
    y, mu, back, nu = np.zeros(q.shape[1:]), np.empty(r), np.zeros(q.shape[1:]), np.empty(r)
    c, e, work = np.empty((depth + 1, r, r)), np.zeros(q.shape[1:]), np.empty((3, depth))
    core, new_core = np.empty((depth, r, r)), np.empty((depth, r, r))
    side, new_side = np.empty(q.shape[1:]), np.empty(q.shape[1:])
    for n in range(chains):
        if not residuals[n] < math.inf:
            continue
        _scale(cores[n], steps[n], core)
        _scale(sides[n], steps[n], side)
        way_from, way_to = (q[n], lam[n]), (y, mu)
        for way in range(2 if leap else 1):
            residual = _solve(
                way_from[0], way_from[1], widths, core, side, way_to[0], way_to[1], ITERATIONS if leap else 2
            )
            residuals[n] = math.inf if leap and not residual <= TOLERANCE else max(residuals[n], residual)
            if not residuals[n] < math.inf:
                break
            if way == 0:
                _fold(y, mu, widths)
            # There, P(W − W′) in the new frames, −ε times the new momentum; and back, what is missed.
            if leap:
                _difference(way_to[0], way_to[1], q[n], lam[n], widths, core, side, c, e, work)
            if way == 0:
                _scale(core, -1.0 / steps[n], new_core)
                _scale(side, -1.0 / steps[n], new_side)
                way_from, way_to = (y, mu), (back, nu)
            elif not math.sqrt(_squared_norm(core, side)) < RETURN * math.sqrt(depth) * lam[n, 0]:
                residuals[n] = math.inf
        if residuals[n] < math.inf:
            _copy(y, mu, q[n], lam[n])
            if leap:
                _scale(new_core, 1.0, cores[n])
                _scale(new_side, 1.0, sides[n])


@jit
def _project(lam, cores):  # type: ignore[no-untyped-def]
    work = np.empty((3, cores.shape[1]))
    for n in range(lam.shape[0]):
        tangent(lam[n], cores[n], work)


def project(lam: np.ndarray, cores: np.ndarray) -> None:
    """Project cores in the frames, shape=[chains, N, r, r], to the tangent space, in place."""
    in_threads(lambda s: _project(lam[s], cores[s]), len(lam))


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

    Frames ``Q_p`` and sides have the shape [chains, N + 1, D, r]. Chains of infinite residual do not move, and
    those whose step has no solution or does not lead back get infinity.
    """
    arrays = frames, lam, cores, sides
    in_threads(lambda s: _move(*[a[s] for a in arrays], *[widths, steps[s], residuals[s], True]), len(lam))


def retract(
    frames: np.ndarray, lam: np.ndarray, cores: np.ndarray, sides: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Move chains along tangent vectors by a retraction of second order, in place.

    Two iterations leave an error of fourth order in the length of the vector. Where it is too long for that, the first
    of them, a retraction of first order, is kept.

    The residuals relative to the norm of the weights are infinite where these lost rank and the chain stayed.
    """
    residuals, steps, arrays = np.zeros(len(lam)), np.ones(len(lam)), (frames, lam, cores, sides)
    in_threads(lambda s: _move(*[a[s] for a in arrays], *[widths, steps[s], residuals[s], False]), len(lam))
    return residuals
