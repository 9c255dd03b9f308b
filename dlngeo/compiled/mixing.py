"""Anderson's acceleration of many fixed-point iterations, compiled."""

from __future__ import annotations

import numpy as np

from dlngeo.compiled import jit

__all__ = ["mix"]

# Differences that are dependent on later ones, to that, are left out.
_DEPENDENT = 1e-7


@jit
def _mix(past, stored, which, unknown, change, out):  # type: ignore[no-untyped-def]
    memory, size = past.shape[2], past.shape[3]
    basis, moves = np.empty((2, memory, size))
    for n in range(which.size):
        k = which[n]
        values, changes = past[0, k], past[1, k]
        for j in range(min(stored[k], memory - 1), 0, -1):
            values[j] = values[j - 1]
            changes[j] = changes[j - 1]
        values[0] = unknown[n]
        changes[0] = change[n]
        stored[k] = min(stored[k] + 1, memory)
        rest = change[n].copy()
        new = unknown[n] + change[n]
        used = 0
        for j in range(1, stored[k]):
            # Of the differences with the past, orthonormal ones, and what moves along with each.
            f = changes[0] - changes[j]
            v = values[0] - values[j]
            length = np.sqrt(np.sum(f * f))
            for _ in range(2):
                for i in range(used):
                    c = np.sum(basis[i] * f)
                    f -= c * basis[i]
                    v -= c * moves[i]
            size_left = np.sqrt(np.sum(f * f))
            if not size_left > _DEPENDENT * length:
                continue
            basis[used] = f / size_left
            moves[used] = v / size_left
            c = np.sum(basis[used] * rest)
            rest -= c * basis[used]
            new -= c * (moves[used] + basis[used])
            used += 1
        out[n] = new


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
