"""Small dense matrices in loops, compiled into the steps of the chains.

NumPy's assignments to slices and its solvers take seconds to compile, to word errors that cannot happen here.
"""

from __future__ import annotations

from dlngeo.compiled import jit

__all__ = ["copy", "divide"]


@jit
def copy(source, out):  # type: ignore[no-untyped-def]
    """Copy a matrix."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            out[i, j] = source[i, j]


@jit
def divide(a, b):  # type: ignore[no-untyped-def]
    """Overwrite b with ``a⁻¹b`` by elimination with pivots, and a; it is not finite where a is singular."""
    r, columns = b.shape
    for k in range(r):
        best = k
        for i in range(k + 1, r):
            if abs(a[i, k]) > abs(a[best, k]):
                best = i
        if best != k:
            for j in range(r):
                a[k, j], a[best, j] = a[best, j], a[k, j]
            for j in range(columns):
                b[k, j], b[best, j] = b[best, j], b[k, j]
        for i in range(k + 1, r):
            factor = a[i, k] / a[k, k]
            for j in range(k, r):
                a[i, j] -= factor * a[k, j]
            for j in range(columns):
                b[i, j] -= factor * b[k, j]
    for k in range(r - 1, -1, -1):
        for i in range(k + 1, r):
            for j in range(columns):
                b[k, j] -= a[k, i] * b[i, j]
        for j in range(columns):
            b[k, j] /= a[k, k]
