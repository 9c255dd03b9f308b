"""Anderson's acceleration of many fixed-point iterations, compiled."""

from __future__ import annotations

import math

import numpy as np

from dlngeo.compiled import jit
from dlngeo.compiled.svd import dot

__all__ = ["mix"]

# Differences that are dependent on later ones, to that, are left out.
_DEPENDENT = 1e-7


@jit
def _less(a, factor, b):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        a[i] -= factor * b[i]


@jit
def _mix(past, stored, which, unknown, change, out):  # type: ignore[no-untyped-def]
    memory, size = past.shape[2], past.shape[3]
    # Of the differences with the past, orthonormal ones, and what moves along with each.
    basis, moves, rest = np.empty((memory, size)), np.empty((memory, size)), np.empty(size)
    for n in range(which.size):
        values, changes = past[0, which[n]], past[1, which[n]]
        count = min(stored[which[n]] + 1, memory)
        stored[which[n]] = count
        for i in range(size):
            for j in range(count - 1, 0, -1):
                values[j, i], changes[j, i] = values[j - 1, i], changes[j - 1, i]
            values[0, i], changes[0, i] = unknown[n, i], change[n, i]
            rest[i], out[n, i] = change[n, i], unknown[n, i] + change[n, i]
        used = 0
        for j in range(1, count):
            f, v = basis[used], moves[used]
            for i in range(size):
                f[i], v[i] = changes[0, i] - changes[j, i], values[0, i] - values[j, i]
            length = math.sqrt(dot(f, f))
            for k in range(used):
                c = dot(basis[k], f)
                _less(f, c, basis[k])
                _less(v, c, moves[k])
            left = math.sqrt(dot(f, f))
            if not left > _DEPENDENT * length:
                continue
            for i in range(size):
                f[i], v[i] = f[i] / left, v[i] / left
            c = dot(f, rest)
            _less(rest, c, f)
            _less(out[n], c, f)
            _less(out[n], c, v)
            used += 1


def mix(past: np.ndarray, stored: np.ndarray, which: np.ndarray, unknown: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Store unknowns and their changes, and combine the past so that the change is least.

    Parameters
    ----------
    past : array, shape=[2, b, memory, n]
        The last unknowns and changes of all iterations, the newest first; changed in place.
    stored : array of int, shape=[b]
        How many are stored; changed in place.
    which : array of int, shape=[k]
        Which iterations go on.
    unknown, change : array, shape=[k, n]
        Where they are, and by how much the fixed point would change that.

    Returns
    -------
    array, shape=[k, n]
        Where to go on.
    """
    out = np.empty_like(unknown)
    _mix(past, stored, which, unknown, change, out)
    return out
