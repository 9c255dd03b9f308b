"""Products over the observed entries of a matrix: all that matrix completion pays for.

The entries of a low-rank product, and their squared norm, are compiled loops; the products of a sparse matrix with thin
matrices from either side are those of SciPy, which are as fast as compiled loops (measured). All four release the
interpreter's lock, and a pool of ordinary threads shares the rows among them; unlike the parallel loops of Numba this
nests, survives a fork and may be entered by several threads at once.

Columns of the factors are padded by zeros to a multiple of four, the width of a vector register: loops without a
remainder take half of the time (measured at rank 10).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import scipy.sparse

__all__ = ["ENOUGH_ENTRIES", "Pattern", "padded"]

# A curvature estimated from so many entries is off by a percent or less; a step off by ε loses ε² of the decrease.
ENOUGH_ENTRIES = 2**16

_WIDTH = 4

# Sums may be reordered, which vectors need; NaN and infinity must survive, since costs report them.
_compiled = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _sample(
    first: int, last: int, indptr: Any, indices: Any, left: Any, right: Any, subtracted: Any, out: Any
) -> float:
    """Entries of ``left rightᵀ``, less ``subtracted`` unless it is empty, into ``out``; return their sum of squares."""
    squares = 0.0
    differs = subtracted.size > 0
    for i in range(first, last):
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uintp(indices[k])  # unsigned: no test for an index that counts from the end
            total = right.dtype.type(0)
            for c in range(left.shape[1]):
                total += left[i, c] * right[j, c]
            if differs:
                total -= subtracted[k]
            out[k] = total
            squares += np.float64(total) * np.float64(total)
    return squares


@_compiled
def _squares(first: int, last: int, indptr: Any, indices: Any, left: Any, right: Any, stride: int) -> Any:
    """Sum of squares of every ``stride``-th entry of ``left rightᵀ``, and how many these are.

    The place in a row where the stride begins runs through all residues from row to row, so that no column is favoured.
    """
    squares, count = 0.0, 0
    for i in range(first, last):
        for k in range(indptr[i] + i % stride, indptr[i + 1], stride):
            j = np.uintp(indices[k])
            total = right.dtype.type(0)
            for c in range(left.shape[1]):
                total += left[i, c] * right[j, c]
            squares += np.float64(total) * np.float64(total)
            count += 1
    return squares, count


@_compiled
def _along(
    first: int,
    last: int,
    indptr: Any,
    indices: Any,
    entries: Any,
    moved_and_u: Any,
    v_and_moved: Any,
    turned_u: Any,
    turn: Any,
    of_v: Any,
    of_u: Any,
    bent: bool,
) -> None:
    """Add what :meth:`Pattern.along` evaluates to ``of_v`` and, if ``bent``, to ``of_u``."""
    width = of_v.shape[1]
    both = 2 * width if bent else width
    for i in range(first, last):
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uintp(indices[k])
            z = of_v.dtype.type(0)
            for c in range(both):
                z += moved_and_u[i, c] * v_and_moved[j, c]
            if bent:
                e = entries[k]
                for c in range(width):
                    of_v[i, c] += z * v_and_moved[j, c] + e * v_and_moved[j, width + c] * turn[c]
                for c in range(width):
                    of_u[j, c] += z * moved_and_u[i, width + c] + e * turned_u[i, c]
            else:
                for c in range(width):
                    of_v[i, c] += z * v_and_moved[j, c]


def padded(matrix: Any, dtype: Any, scale: Any = None) -> np.ndarray:
    """Return ``matrix * scale`` in row-major order, with columns of zeros up to a multiple of the vector width.

    It is the matrix itself where that is of this form.
    """
    rows, columns = matrix.shape
    if scale is None and columns % _WIDTH == 0 and matrix.dtype == dtype and matrix.flags.c_contiguous:
        return matrix
    out = np.empty((rows, -(-columns // _WIDTH) * _WIDTH), dtype)
    np.multiply(matrix, 1 if scale is None else scale, out=out[:, :columns], casting="same_kind")
    out[:, columns:] = 0
    return out


class Pattern:
    """The places Ω of observed entries, sorted by row, then by column; entries are arrays in this order.

    Parameters
    ----------
    indptr, indices : int array
        Compressed rows: the columns of row i are ``indices[indptr[i]:indptr[i + 1]]``.
    shape : tuple of int
        Shape (m, n).
    threads : int, optional
        Threads to use; the environment variable NUMBA_NUM_THREADS, by default the number of cores.
    parallel_from : int
        Multiplications from which a product is shared among them; below, to start them costs more than they save.
    """

    def __init__(
        self,
        indptr: np.ndarray,
        indices: np.ndarray,
        shape: tuple[int, int],
        threads: int | None = None,
        *,
        parallel_from: int = 500_000,
    ) -> None:
        self.indptr, self.indices, self.shape, self.parallel_from = indptr, indices, shape, parallel_from
        self._thinned: tuple[int, np.ndarray, np.ndarray] | None = None
        self.threads: int = numba.config.NUMBA_NUM_THREADS if threads is None else threads  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return self.indices.size

    def sample(self, left: np.ndarray, right: np.ndarray, subtracted: np.ndarray | None) -> tuple[np.ndarray, float]:
        """Evaluate ``left rightᵀ`` on Ω, of shapes (m, k) and (n, k), less ``subtracted``; also its sum of squares.

        Both factors are :func:`padded`, in the type of the result. The sum is taken in double precision.
        """
        out = np.empty(len(self), left.dtype)
        if subtracted is None:
            subtracted = np.empty(0, left.dtype)
        arguments = (self.indptr, self.indices, left, right, subtracted, out)
        parts = self._map(_sample, [(*rows, *arguments) for rows in self._ranges(left.shape[1])])
        return out, sum(parts)

    def squares(self, left: np.ndarray, right: np.ndarray, stride: int) -> tuple[float, int]:
        """Sum the squares of one in ``stride`` entries of ``left rightᵀ`` on Ω, and count them."""
        arguments = (self.indptr, self.indices, left, right, stride)
        parts = self._map(_squares, [(*rows, *arguments) for rows in self._ranges(left.shape[1])])
        squares, counts = zip(*parts, strict=True)
        return sum(squares), sum(counts)

    def thinned(self, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries that :meth:`squares` takes; those of the last stride are kept."""
        if self._thinned is None or self._thinned[0] != stride:
            start = self.indptr[:-1] + np.arange(self.shape[0]) % stride
            counts = np.maximum(0, -(-(self.indptr[1:] - start) // stride))
            rows = np.repeat(np.arange(self.shape[0]), counts)
            within = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
            self._thinned = stride, rows, self.indices[start[rows] + stride * within]
        return self._thinned[1:]

    def matrix(self, entries: np.ndarray) -> scipy.sparse.csr_array:
        """Build the matrix E with ``entries`` on Ω and zeros elsewhere; it shares their memory."""
        return scipy.sparse.csr_array((entries, self.indices, self.indptr), shape=self.shape)

    def times(self, entries: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Multiply ``E right``; shapes (n, k) to (m, k)."""
        right = np.ascontiguousarray(right, entries.dtype)
        ranges = self._ranges(right.shape[1])
        return np.concatenate(self._map(lambda *rows: self._block(entries, rows) @ right, ranges))

    def transposed_times(self, entries: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Multiply ``Eᵀ left``; shapes (m, k) to (n, k).

        Each thread adds into an array of its own, which takes less than a second copy of the entries by columns would,
        and, since the thin arrays stay in the caches, less time (half of it, measured).
        """
        left = np.ascontiguousarray(left, entries.dtype)
        # To clear and add up the arrays must stay cheaper than the product.
        most = max(1, len(self) // self.shape[1])
        ranges = self._ranges(left.shape[1], most)
        first, *others = self._map(
            lambda *rows: self._block(entries, rows, transposed=True) @ left[slice(*rows)], ranges
        )
        for part in others:
            first += part
        return first

    def along(
        self, entries: np.ndarray, moved_and_u: np.ndarray, v_and_moved: np.ndarray, *turned: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Evaluate ``Z v + E moved_v turn`` and ``Zᵀ u + Eᵀ turned_u`` in one pass, ``Z = P_Ω(moved vᵀ + u moved_vᵀ)``.

        The arrays moved and u, and v and moved_v, are :func:`padded` and lie side by side; turned_u and the diagonal
        turn, shape=[1, r], are padded. Without these it is ``Z v`` for ``Z = P_Ω(moved vᵀ)``.
        """
        m, n = self.shape
        width, bent = v_and_moved.shape[1] // 2, len(turned) > 0
        turned_u, turn = turned or (moved_and_u, v_and_moved)
        of_v = np.zeros((m, width), entries.dtype)

        def part(first: int, last: int) -> np.ndarray:
            of_u = np.zeros((n if bent else 0, width), entries.dtype)
            rows = first, last, self.indptr, self.indices
            _along(*rows, entries, moved_and_u, v_and_moved, turned_u, turn[0], of_v, of_u, bent)
            return of_u

        of_u, *others = self._map(part, self._ranges(6 * width, max(1, len(self) // n)))  # as in transposed_times
        for other in others:
            of_u += other
        return of_v, of_u if bent else None

    def _block(self, entries: np.ndarray, rows: tuple[int, int], transposed: bool = False) -> Any:
        """Cut a range of rows out of E, without copying entries."""
        first, last = rows
        start, stop = int(self.indptr[first]), int(self.indptr[last])
        shape = last - first, self.shape[1]
        # Its arrays are set, since the constructors copy those that are small parts of others.
        if transposed:
            block = scipy.sparse.csc_array(shape[::-1], dtype=entries.dtype)
        else:
            block = scipy.sparse.csr_array(shape, dtype=entries.dtype)
        block.data, block.indices = entries[start:stop], self.indices[start:stop]
        block.indptr = self.indptr[first : last + 1] - self.indptr[first]
        return block

    def _ranges(self, columns: int, most: int | None = None) -> list[tuple[int, int]]:
        """Ranges of rows with about as many entries each, one for each thread (several, unless ``most`` is given)."""
        if len(self) * columns < self.parallel_from or self.threads == 1:
            return [(0, self.shape[0])]
        count = 8 * self.threads if most is None else min(self.threads, most)  # several, as threads may be held up
        ends = np.searchsorted(self.indptr, np.linspace(0, len(self), count + 1)[1:-1])
        bounds = np.unique([0, *ends, self.shape[0]]).tolist()
        return list(pairwise(bounds))

    def _map(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        """Results of the function at each tuple of arguments, in order, by several threads if there are several."""
        if len(calls) == 1:
            return [function(*calls[0])]
        return list(_pool(self.threads).map(lambda arguments: function(*arguments), calls))


_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="dlngeo")
    return _pools[threads]
