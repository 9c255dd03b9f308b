r"""The position step of RATTLE on matrices of a fixed rank, of many chains, in closed form, compiled.

From ``Y = U Λ Vᵀ`` a tangent vector ``T = U K Vᵀ + L Vᵀ + U Rᵀ``, ``UᵀL = 0``, ``VᵀR = 0``, leads to the matrix of
rank r whose difference from Y is T and a normal vector [1]_,

.. math:: Y' = (U(\Lambda + K) + L) (\Lambda + K)^{-1} ((\Lambda + K) V^\top + R^\top),

and the momentum there is the tangent part of ``(Y′ − Y)/ε``. The same formula leads back: what is inverted there,
``U′ᵀ Y V′``, is regular where ``Λ + K = Uᵀ Y′ V`` is, as both are if and only if ``UᵀU′`` and ``VᵀV′`` are. Without L
or R nothing is inverted, and for square matrices of full rank the motion is straight.

References
----------
.. [1] P.-A. Absil, I. V. Oseledets, "Low-rank retractions: a survey and new results", Comput. Optim. Appl. 62 (2015).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dlngeo.compiled import in_threads, jit
from dlngeo.compiled.dense import copy, divide
from dlngeo.compiled.svd import orthonormalize_rows, svd

__all__ = ["Point", "Tangent", "draw_frames", "leap"]

# How near the way back must return, relative to λ_1: far above round-off, far below what a law could show.
RETURN = 1e-9
# Products of entries, over all chains, below which threads cost more than they save.
_WORK = 50_000


class Point(NamedTuple):
    """Matrices ``U Λ Vᵀ``: shape=[chains, m, r], [chains, r], [chains, n, r]."""

    u: np.ndarray
    lam: np.ndarray
    v: np.ndarray


class Tangent(NamedTuple):
    """Tangent vectors: K, shape=[chains, r, r], L, shape=[chains, m, r], and R, shape=[chains, n, r].

    L and R have shape [chains, 0, r] where the frame is square.
    """

    core: np.ndarray
    left: np.ndarray
    right: np.ndarray


# Arrays are copied and multiplied in loops, all in one layout: anything else multiplies the time to compile.


@jit
def _transpose(a, out):  # type: ignore[no-untyped-def]
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[j, i] = a[i, j]


@jit
def _left_times(a, b, out):  # type: ignore[no-untyped-def]
    """``aᵀb``."""
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            out[i, j] = 0.0
    for k in range(a.shape[0]):
        for i in range(a.shape[1]):
            factor = a[k, i]
            for j in range(b.shape[1]):
                out[i, j] += factor * b[k, j]


@jit
def _times_right(a, b, out):  # type: ignore[no-untyped-def]
    """``abᵀ``."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            total = 0.0
            for k in range(b.shape[1]):
                total += a[i, k] * b[j, k]
            out[i, j] = total


@jit
def _frame(q, inner, outer, step, out, triangle):  # type: ignore[no-untyped-def]
    """Orthonormal columns of ``q·inner + step·outer``, which is ``out · triangleᵀ``."""
    rows = np.empty((q.shape[1], q.shape[0]))
    for i in range(q.shape[1]):
        for a in range(q.shape[0]):
            total = step * outer[a, i]
            for k in range(q.shape[1]):
                total += q[a, k] * inner[k, i]
            rows[i, a] = total
    fine = orthonormalize_rows(rows, triangle) > 0.0
    _transpose(rows, out)
    return fine


@jit
def _side(q, new, lam, cosines, core, step, out):  # type: ignore[no-untyped-def]
    """``(new·core − q Λ cosines)/step``: what of the way is not in the new frame."""
    for a in range(q.shape[0]):
        for j in range(lam.size):
            total = 0.0
            for k in range(lam.size):
                total += new[a, k] * core[k, j] - q[a, k] * lam[k] * cosines[k, j]
            out[a, j] = total / step


@jit
def _miss(u, lam, v, new_u, s, new_v, core, left, right, step):  # type: ignore[no-untyped-def]
    """Distance from ``UΛ`` of ``Y V`` where the way back ends, relative to λ_1."""
    m, r = u.shape
    back, across, ahead = np.empty((r, r)), np.zeros((r, r)), np.empty((m, r))
    for i in range(r):
        for j in range(r):
            back[i, j] = (s[i] if i == j else 0.0) - step * core[i, j]
    for a in range(v.shape[0]):
        for i in range(r):
            total = -step * right[a, i]
            for k in range(r):
                total += new_v[a, k] * back[i, k]
            for j in range(r):
                across[i, j] += total * v[a, j]
    for a in range(m):
        for i in range(r):
            ahead[a, i] = -step * left[a, i]
            for k in range(r):
                ahead[a, i] += new_u[a, k] * back[k, i]
    divide(back, across)
    square = 0.0
    for a in range(m):
        for j in range(r):
            total = -u[a, j] * lam[j]
            for k in range(r):
                total += ahead[a, k] * across[k, j]
            square += total**2
    return math.sqrt(square) / lam[0]


@jit
def _leap(u, lam, v, core, left, right, steps, residuals):  # type: ignore[no-untyped-def]
    (m, r), n = u.shape[1:], v.shape[1]
    tall, wide = m > r, n > r
    k, kt, a, s, b = np.empty((r, r)), np.empty((r, r)), np.empty((r, r)), np.empty(r), np.empty((r, r))
    c1, c0, kept = np.empty((r, r)), np.empty((r, r)), np.empty((r, r))
    product, new_core = np.empty((r, r)), np.empty((r, r))
    q1, q0, r1, r0 = np.empty((m, r)), np.empty((n, r)), np.zeros((r, r)), np.zeros((r, r))
    new_u, new_v, new_left, new_right = np.empty((m, r)), np.empty((n, r)), np.empty((m, r)), np.empty((n, r))
    for c in range(lam.shape[0]):
        if not residuals[c] < math.inf:
            continue
        step, residual, fine = steps[c], 0.0, True
        for i in range(r):
            for j in range(r):
                k[i, j] = step * core[c, i, j]
            k[i, i] += lam[c, i]
        _transpose(k, kt)
        # Y′ in the frames q1 and q0.
        if tall:
            fine = _frame(u[c], k, left[c], step, q1, r1)
            _transpose(r1, product)
        else:
            copy(u[c], q1)
            copy(k, product)
        if wide:
            fine = fine and _frame(v[c], kt, right[c], step, q0, r0)
            if tall:
                divide(k, r0)
                _left_times(r1, r0, product)
            else:
                copy(r0, product)
        else:
            copy(v[c], q0)
        if not (fine and svd(product, a, s, b, False)):
            residuals[c] = math.inf
            continue
        _times_right(q1, a, new_u)
        _times_right(q0, b, new_v)
        if not (tall or wide):
            # The momentum stays, in new frames.
            _times_right(core[c], b, product)
            _transpose(product, kt)
            _times_right(a, kt, new_core)
        else:
            _left_times(u[c], new_u, c1)
            _left_times(v[c], new_v, c0)
            for i in range(r):
                for j in range(r):
                    product[i, j] = lam[c, i] * c0[i, j]
            _left_times(c1, product, kept)  # U′ᵀ Y V′
            if tall:
                _side(u[c], new_u, lam[c], c0, kept, step, new_left)
            if wide:
                _transpose(kept, kt)
                _side(v[c], new_v, lam[c], c1, kt, step, new_right)
            for i in range(r):
                for j in range(r):
                    new_core[i, j] = ((s[i] if i == j else 0.0) - kept[i, j]) / step
            if tall and wide:
                residual = _miss(u[c], lam[c], v[c], new_u, s, new_v, new_core, new_left, new_right, step)
                if not residual < RETURN:
                    residuals[c] = math.inf
                    continue
            if tall:
                copy(new_left, left[c])
            if wide:
                copy(new_right, right[c])
        residuals[c] = max(residuals[c], residual)
        copy(new_u, u[c])
        copy(new_v, v[c])
        copy(new_core, core[c])
        for i in range(r):
            lam[c, i] = s[i]


def leap(point: Point, momentum: Tangent, steps: np.ndarray, residuals: np.ndarray) -> None:
    """Move chains by the position step of RATTLE, in place.

    Residuals are the largest miss of a way back so far, relative to λ_1. Chains at which it is infinite do not move,
    and those whose step has no solution or misses by more than 1e-9 get infinity.
    """
    arrays = (*point, *momentum, steps, residuals)
    (m, r), n = point.u.shape[1:], point.v.shape[1]
    in_threads(lambda s: _leap(*[a[s] for a in arrays]), len(steps), _WORK // ((m + n) * r * r))


@jit
def _orthonormal(noise, out):  # type: ignore[no-untyped-def]
    r = noise.shape[1]
    triangle = np.empty((r, r))
    for c in range(noise.shape[0]):
        orthonormalize_rows(noise[c], triangle)
        _transpose(noise[c], out[c])


def draw_frames(rng: np.random.Generator, chains: int, count: int, d: int, r: int) -> np.ndarray:
    """Draw frames from Haar measure, shape=[chains, count, d, r]: Gaussian columns made orthonormal one by one."""
    noise, out = rng.standard_normal((chains * count, r, d)), np.empty((chains * count, d, r))
    in_threads(lambda s: _orthonormal(noise[s], out[s]), chains * count, _WORK // (d * r * r))
    return out.reshape(chains, count, d, r)
