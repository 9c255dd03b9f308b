"""Singular values and orthonormal rows of small matrices, compiled into the steps of the chains.

One-sided Jacobi rotations [1]_ are faster than LAPACK up to size eight; beyond, LAPACK is.

References
----------
.. [1] J. Demmel, K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13 (1992).
"""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["orthonormalize", "orthonormalize_rows", "svd"]

_EPS = np.finfo(float).eps
_JACOBI = 8  # the largest size at which rotations are the faster way

_jit = numba.njit(cache=True, error_model="numpy")
_sums = numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})  # in an order that vectorises


@_sums
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_jit
def svd(a, ut, s, vt):  # type: ignore[no-untyped-def]
    """Decompose a square matrix as ``a = utᵀ diag(s) vt``, s descending; it is overwritten.

    Returns
    -------
    bool
        Whether the matrix is finite and s positive; otherwise the results are undefined.
    """
    r = a.shape[0]
    for i in range(r):
        for j in range(r):
            if not abs(a[i, j]) < math.inf:
                return False
    if r > _JACOBI:
        left, values, right = np.linalg.svd(a)
        for k in range(r):
            s[k] = values[k]
            for i in range(r):
                ut[k, i], vt[k, i] = left[i, k], right[k, i]
        return s[r - 1] > 0.0
    # The columns of a, as rows, are made orthogonal by rotations, which are collected.
    w, rotation, squares = a.T.copy(), np.eye(r), np.empty(r)
    for _ in range(40):
        turned = False
        for k in range(r):
            squares[k] = _dot(w[k], w[k])
        for i in range(r - 1):
            for j in range(i + 1, r):
                gamma = _dot(w[i], w[j])
                if not gamma * gamma > 4 * _EPS * _EPS * squares[i] * squares[j]:
                    continue
                turned = True
                half = (squares[j] - squares[i]) / (2.0 * gamma)
                tangent = math.copysign(1.0, half) / (abs(half) + math.sqrt(1.0 + half * half))
                cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
                sine = tangent * cosine
                squares[i] -= tangent * gamma
                squares[j] += tangent * gamma
                for k in range(r):
                    x, y = w[i, k], w[j, k]
                    w[i, k], w[j, k] = cosine * x - sine * y, sine * x + cosine * y
                    x, y = rotation[i, k], rotation[j, k]
                    rotation[i, k], rotation[j, k] = cosine * x - sine * y, sine * x + cosine * y
        if not turned:
            break
    for k in range(r):
        squares[k] = math.sqrt(_dot(w[k], w[k]))
        if not squares[k] > 0.0:
            return False
    for place in range(r):
        k = int(np.argmax(squares))
        s[place] = squares[k]
        for i in range(r):
            ut[place, i], vt[place, i] = w[k, i] / squares[k], rotation[k, i]
        squares[k] = -1.0
    return True


@_jit
def orthonormalize_rows(a, triangle):  # type: ignore[no-untyped-def]
    """Make rows orthonormal in place by Gram–Schmidt, twice: ``a = triangle · a′`` with a lower triangle.

    Returns
    -------
    float
        Least sine of the angle between a row and those before it: 0 if they are linearly dependent, or not finite.
    """
    r, m = a.shape
    least = 1.0
    for k in range(r):
        scale = 0.0
        for i in range(m):
            scale = max(scale, abs(a[k, i]))
        if not 0.0 < scale < math.inf:
            return 0.0
        for i in range(m):
            a[k, i] /= scale
        length = _dot(a[k], a[k])
        for j in range(r):
            triangle[k, j] = 0.0
        for _ in range(2):
            for j in range(k):
                total = _dot(a[j], a[k])
                triangle[k, j] += total * scale
                for i in range(m):
                    a[k, i] -= total * a[j, i]
        size = math.sqrt(_dot(a[k], a[k]))
        if not size > 0.0:
            return 0.0
        least = min(least, size / math.sqrt(length))
        triangle[k, k] = scale * size
        for i in range(m):
            a[k, i] /= size
    return least


@_jit
def orthonormalize(a, triangle):  # type: ignore[no-untyped-def]
    """QR of a tall matrix in place: ``a`` becomes Q, and R goes to ``triangle``; see :func:`orthonormalize_rows`."""
    return orthonormalize_rows(a.T, triangle.T)
