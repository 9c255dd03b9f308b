"""Entries of a low-rank product at given places: the bottleneck of matrix completion.

A fancy-indexed NumPy gather writes two (entries, r) temporaries; the compiled loop writes none, and is 10–20 times
faster at millions of entries.
"""

from __future__ import annotations

from threading import Lock

import numba
import numpy as np

__all__ = ["sampled_product"]

# Below this many multiplications starting the threads costs more than they save (about 30 µs, measured).
_PARALLEL_FROM = 200_000

# Numba's fallback threading layer, workqueue, aborts the process when two Python threads enter a parallel loop at once.
_one_parallel_loop = Lock()


def _entries(rows: np.ndarray, cols: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.empty(rows.size)
    for k in numba.prange(rows.size):
        i, j = rows[k], cols[k]
        total = 0.0
        for c in range(left.shape[1]):
            total += left[i, c] * right[j, c]
        out[k] = total
    return out


_serial = numba.njit(cache=True)(_entries)
_parallel = numba.njit(cache=True, parallel=True)(_entries)


def sampled_product(rows: np.ndarray, cols: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Evaluate ``(left rightᵀ)[rows, cols]`` without forming the product.

    Parameters
    ----------
    rows, cols : int array, shape=[n_entries]
        Places, in range (they are not checked here). Row-major order is the fastest.
    left : float64 array, shape=[m, r]
        Left factor.
    right : float64 array, shape=[n, r]
        Right factor, one row for each column of the product.

    Returns
    -------
    float64 array, shape=[n_entries]
        The entries.
    """
    left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
    if rows.size * left.shape[1] < _PARALLEL_FROM:
        return _serial(rows, cols, left, right)
    with _one_parallel_loop:
        return _parallel(rows, cols, left, right)
