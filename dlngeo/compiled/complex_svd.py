"""Singular values of graded complex matrices, to their own digits: LAPACK has that for real ones alone.

A QR decomposition with pivoting leaves rows of decreasing size, and rotations then make these orthogonal to the
accuracy of each [1]_.

References
----------
.. [1] Z. Drmač, K. Veselić, "New fast and accurate Jacobi SVD algorithm. I", SIAM J. Matrix Anal. Appl. 29 (2008).
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from dlngeo.compiled import jit

__all__ = ["graded_svd"]


@jit
def _orthogonalize(w, rotation, tolerance):  # type: ignore[no-untyped-def]
    """Turn rows until they are orthogonal; the same turns are made of the rows of ``rotation``."""
    r, n = w.shape
    for _ in range(60):
        turned = False
        for i in range(r - 1):
            for j in range(i + 1, r):
                one, other, product = 0.0, 0.0, 0j
                for k in range(n):
                    a, b = w[i, k], w[j, k]
                    one += a.real * a.real + a.imag * a.imag
                    other += b.real * b.real + b.imag * b.imag
                    product += a.conjugate() * b
                size = abs(product)
                if not size > tolerance * math.sqrt(one) * math.sqrt(other):
                    continue
                turned = True
                phase = product.conjugate() / size
                half = (other - one) / (2.0 * size)
                tangent = math.copysign(1.0, half) / (abs(half) + math.sqrt(1.0 + half * half))
                cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
                sine = tangent * cosine
                for rows in (w, rotation):
                    for k in range(rows.shape[1]):
                        a, b = rows[i, k], phase * rows[j, k]
                        rows[i, k], rows[j, k] = cosine * a - sine * b, sine * a + cosine * b
        if not turned:
            break


def graded_svd(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decompose a square complex matrix as ``u diag(s) vt``, s descending.

    Each singular value is accurate to its own digits if scaled rows and columns would be well-conditioned.
    """
    q, upper, order = scipy.linalg.qr(a, pivoting=True)
    w, rotation = upper.conj(), np.eye(len(a), dtype=complex)  # rows of it are columns of R*
    _orthogonalize(w, rotation, np.finfo(float).eps * max(2, len(a)))
    top = np.abs(w).max(axis=1)
    if not top.min() > 0:
        return np.linalg.svd(a, full_matrices=False)  # the columns of a null space are arbitrary
    s = top * np.linalg.norm(w / top[:, None], axis=1)
    sort = np.argsort(-s, kind="stable")
    vectors = np.empty_like(w)
    vectors[:, order] = (w / s[:, None]).conj()  # R* rotationᵀ = (rows of w)ᵀ
    return q @ rotation.T[:, sort], s[sort], vectors[sort]
