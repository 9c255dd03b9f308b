r"""Linear systems of balanced weights in their frames, one for each pair of singular values, compiled.

Vectors of the form ``T_p Λ − Λ T_{p−1}`` are determined by tridiagonal systems; see :mod:`dlngeo.weights.balanced`,
whose projections, array by array, these are for a single chain.
"""

from __future__ import annotations

import math

from dlngeo.compiled import jit

__all__ = ["diagonalize", "tangent", "turns"]


@jit
def tangent(lam, cores, work):  # type: ignore[no-untyped-def]
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


@jit
def turns(mu, cores, skew, stretch, work):  # type: ignore[no-untyped-def]
    """Skew ``A_p`` and symmetric D with ``A_p μ − μ A_{p−1} + D`` closest to cores, ``A_0 = 0``."""
    depth, r = cores.shape[0], mu.size
    pivot, u, v = work[0], work[1], work[2]
    for k in range(r):
        mean = 0.0
        for p in range(depth):
            mean += cores[p, k, k]
        stretch[k, k] = mean / depth
        for p in range(depth):
            skew[p, k, k] = 0.0
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
                skew[p, k, q] = u[p] - d * v[p]
                skew[p, q, k] = -skew[p, k, q]


@jit
def diagonalize(s, o):  # type: ignore[no-untyped-def]
    """Rotate a symmetric matrix to a diagonal one, ``oᵀ s o``, in place, by Jacobi's method."""
    r = s.shape[0]
    size = 0.0
    for i in range(r):
        for j in range(r):
            o[i, j] = 1.0 if i == j else 0.0
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
