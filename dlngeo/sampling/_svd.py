"""A singular value decomposition of small matrices that keeps the digits of every singular value.

The product of N factors has singular values ``λ^N``, which for deep networks span more orders of magnitude than a
double has digits. A decomposition that is accurate relative to the largest of them, as LAPACK's ``gesdd`` is, loses the
others. QR with column pivoting followed by one-sided Jacobi rotations [1]_ keeps them where rows and columns
are graded in descending order. Columns are stored as unit vectors and norms apart, so that squares do
not underflow. For sizes up to about ten it is faster than a call of LAPACK per matrix, and it is compiled into the
step of the chains.

References
----------
.. [1] Z. Drmač, K. Veselić, "New fast and accurate Jacobi SVD algorithm", SIAM J. Matrix Anal. Appl. 29 (2008).
"""

from __future__ import annotations

import math

import numba
import numpy as np

__all__ = ["graded_svd", "orthonormalize", "orthonormalize_pivoted"]

_EPS = np.finfo(float).eps


@numba.njit(cache=True, error_model="numpy")
def graded_svd(a, u, s, v):  # type: ignore[no-untyped-def]
    """Decompose a square matrix as ``a = u diag(s) vᵀ``, s descending; ``a`` is overwritten.

    Returns
    -------
    bool
        Whether the rotations converged to a matrix of full rank; otherwise the results are undefined.
    """
    r = a.shape[0]
    order = np.arange(r)
    reflectors = np.zeros((r, r))
    # Householder QR with column pivoting: a[:, order] = Q R, R left in the upper triangle.
    for k in range(r):
        best, largest = k, -1.0
        for j in range(k, r):
            size = _norm(a, k, j)
            if size > largest:
                best, largest = j, size
        if not largest > 0 or not largest < math.inf:
            return False
        if best != k:
            order[k], order[best] = order[best], order[k]
            for i in range(r):
                a[i, k], a[i, best] = a[i, best], a[i, k]
        alpha = -largest if a[k, k] > 0 else largest
        # v = (x − α e)/(x_k − α) has a leading 1; the reflection is 1 − β v vᵀ with β = (α − x_k)/α.
        head = a[k, k] - alpha
        beta = -head / alpha
        reflectors[k, k] = beta
        for i in range(k + 1, r):
            reflectors[i, k] = a[i, k] / head
        for j in range(k + 1, r):
            total = a[k, j]
            for i in range(k + 1, r):
                total += reflectors[i, k] * a[i, j]
            total *= beta
            a[k, j] -= total
            for i in range(k + 1, r):
                a[i, j] -= total * reflectors[i, k]
        a[k, k] = alpha
    # One-sided Jacobi on L = Rᵀ: L J = W S, so that a[:, order] = (Q J) S Wᵀ.
    w, rotation = np.zeros((r, r)), np.eye(r)
    for k in range(r):
        scale = 0.0
        for j in range(k, r):
            scale = max(scale, abs(a[k, j]))
        total = 0.0
        for j in range(k, r):
            w[j, k] = a[k, j] / scale
            total += w[j, k] ** 2
        total = math.sqrt(total)
        for j in range(k, r):
            w[j, k] /= total
        s[k] = scale * total
    if not _rotate(w, s, rotation):
        return False
    # U = Q J, by applying the reflections to J from the last to the first.
    for k in range(r - 1, -1, -1):
        for j in range(r):
            total = rotation[k, j]
            for i in range(k + 1, r):
                total += reflectors[i, k] * rotation[i, j]
            total *= reflectors[k, k]
            rotation[k, j] -= total
            for i in range(k + 1, r):
                rotation[i, j] -= total * reflectors[i, k]
    rank = np.argsort(-s)
    values = s.copy()
    for k in range(r):
        s[k] = values[rank[k]]
        for i in range(r):
            u[i, k] = rotation[i, rank[k]]
            v[order[i], k] = w[i, rank[k]]
    return True


@numba.njit(cache=True, error_model="numpy")
def _norm(a, k, j):  # type: ignore[no-untyped-def]
    """Norm of ``a[k:, j]`` without underflow."""
    scale = 0.0
    for i in range(k, a.shape[0]):
        scale = max(scale, abs(a[i, j]))
    if scale == 0.0:
        return 0.0
    total = 0.0
    for i in range(k, a.shape[0]):
        total += (a[i, j] / scale) ** 2
    return scale * math.sqrt(total)


@numba.njit(cache=True, error_model="numpy")
def _rotate(w, s, rotation):  # type: ignore[no-untyped-def]
    """Orthogonalise the columns ``s_k w_k`` by plane rotations, ``|w_k| = 1``; collect them in ``rotation``."""
    r = w.shape[0]
    for _ in range(40):
        turned = False
        for i in range(r - 1):
            for j in range(i + 1, r):
                gamma = 0.0
                for k in range(r):
                    gamma += w[k, i] * w[k, j]
                if abs(gamma) <= 4 * _EPS:
                    continue
                turned = True
                p, q = (i, j) if s[i] >= s[j] else (j, i)
                ratio = s[q] / s[p]
                # tan θ / ratio, from tan 2θ = 2 γ ratio/(1 − ratio²), with no division by a ratio that may underflow.
                gap = 1.0 - ratio * ratio
                slope = 2.0 * gamma / (gap + math.sqrt(gap * gap + (2.0 * gamma * ratio) ** 2))
                tangent = slope * ratio
                cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
                sine = tangent * cosine
                np2, nq2 = 0.0, 0.0
                for k in range(r):
                    a, b = w[k, p], w[k, q]
                    w[k, p] = cosine * (a + tangent * ratio * b)
                    w[k, q] = cosine * (b - slope * a)
                    np2 += w[k, p] ** 2
                    nq2 += w[k, q] ** 2
                    a, b = rotation[k, p], rotation[k, q]
                    rotation[k, p] = cosine * a + sine * b
                    rotation[k, q] = cosine * b - sine * a
                np2, nq2 = math.sqrt(np2), math.sqrt(nq2)
                if not nq2 > 0:
                    return False
                for k in range(r):
                    w[k, p] /= np2
                    w[k, q] /= nq2
                s[p] *= np2
                s[q] *= nq2
        if not turned:
            return True
    return False


@numba.njit(cache=True, error_model="numpy")
def orthonormalize(a, triangle):  # type: ignore[no-untyped-def]
    """QR of a tall matrix in place by Gram–Schmidt, twice: ``a`` becomes Q, and R goes to ``triangle``.

    Returns
    -------
    float
        Least sine of the angle between a column and those before it: 0 if they are linearly dependent.
    """
    m, r = a.shape
    least = 1.0
    for k in range(r):
        scale = 0.0
        for i in range(m):
            scale = max(scale, abs(a[i, k]))
        if not 0.0 < scale < math.inf:
            return 0.0
        length = 0.0
        for i in range(m):
            a[i, k] /= scale
            length += a[i, k] ** 2
        for j in range(r):
            triangle[j, k] = 0.0
        for _ in range(2):
            for j in range(k):
                total = 0.0
                for i in range(m):
                    total += a[i, j] * a[i, k]
                triangle[j, k] += total * scale
                for i in range(m):
                    a[i, k] -= total * a[i, j]
        size = 0.0
        for i in range(m):
            size += a[i, k] ** 2
        size = math.sqrt(size)
        if not size > 0.0:
            return 0.0
        least = min(least, size / math.sqrt(length))
        triangle[k, k] = scale * size
        for i in range(m):
            a[i, k] /= size
    return least


@numba.njit(cache=True, error_model="numpy")
def orthonormalize_pivoted(a, triangle, order):  # type: ignore[no-untyped-def]
    """QR of a square matrix with column pivoting, ``a[:, order] = Q R``: ``a`` becomes Q; columns may be graded.

    Where all that is left underflows, R has zeros and Q is completed by unit vectors.
    """
    r = a.shape[0]
    norms = np.empty(r)
    for k in range(r):
        order[k] = k
        norms[k] = _norm(a, 0, k)
        for j in range(r):
            triangle[j, k] = 0.0
            a[j, k] = a[j, k] / norms[k] if norms[k] > 0.0 else 0.0
    for k in range(r):
        best = k
        for j in range(k + 1, r):
            if norms[j] > norms[best]:
                best = j
        if best != k:
            order[k], order[best] = order[best], order[k]
            norms[k], norms[best] = norms[best], norms[k]
            for i in range(r):
                a[i, k], a[i, best] = a[i, best], a[i, k]
                triangle[i, k], triangle[i, best] = triangle[i, best], triangle[i, k]
        if not norms[k] > 0.0:
            _complete(a, k)
        triangle[k, k] = norms[k]
        # Columns are kept as unit vectors of their remainder, and the norms of these.
        for j in range(k + 1, r):
            length = 0.0
            for _ in range(2):
                total = 0.0
                for i in range(r):
                    total += a[i, k] * a[i, j]
                triangle[k, j] += total * norms[j]
                length = 0.0
                for i in range(r):
                    a[i, j] -= total * a[i, k]
                    length += a[i, j] ** 2
            length = math.sqrt(length)
            norms[j] *= length
            for i in range(r):
                a[i, j] = a[i, j] / length if length > 0.0 else 0.0


@numba.njit(cache=True, error_model="numpy")
def _complete(a, k):  # type: ignore[no-untyped-def]
    """Make column k of ``a`` a unit vector orthogonal to those before it."""
    r = a.shape[0]
    best = 0.0
    trial = np.empty(r)
    for axis in range(r):
        trial[:] = 0.0
        trial[axis] = 1.0
        for _ in range(2):
            for j in range(k):
                total = 0.0
                for i in range(r):
                    total += a[i, j] * trial[i]
                for i in range(r):
                    trial[i] -= total * a[i, j]
        length = math.sqrt(np.sum(trial**2))
        if length > best:
            best = length
            a[:, k] = trial / length
