r"""Matrix completion over row blocks on a cluster of dask workers.

The entries stay on the workers, cut by rows; the factors travel. Every task is a pure function of a block and of
factors, and a block is made by a task from its source. The scheduler holds the recipes of all that is still needed, so
that what a lost worker held is computed again by the others, and nothing else has to know. (Data that a client scatters
would be lost with its worker: it has no recipe.)

For each evaluation ``u s`` goes out in parts, a row to one block, and ``v`` to every worker, about ``(m + n w) r``
numbers on w workers; a product with the residual from either side takes and returns as many again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dlngeo import _check
from dlngeo.problems import _observations
from dlngeo.problems._pattern import ENOUGH_ENTRIES, Pattern, padded
from dlngeo.problems.base import Products, direction_factors, is_factored
from dlngeo.problems.least_squares import LeastSquares

__all__ = ["DistributedCompletion", "RowBlock"]

# How often a task that raised, for example because a file server was busy, is tried again.
_RETRIES = 3


class RowBlock(NamedTuple):
    """Rows ``first`` to ``last`` (not included) of the matrix, and how a worker comes by their entries.

    ``load()`` returns ``(rows, cols, values)``, with rows counted from the top of the whole matrix. It is pickled, runs
    on a worker, and again on another if the first is lost: it must return the same entries each time.

    See Also
    --------
    dlngeo.problems.DistributedCompletion
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import RowBlock
    >>> rows, columns, values = np.array([0, 1, 1, 2]), np.array([0, 0, 2, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    >>> block = RowBlock(1, 3, lambda: (rows[1:], columns[1:], values[1:]))
    >>> [part.tolist() for part in block.load()]
    [[1, 1, 2], [0, 2, 1], [2.0, 3.0, 4.0]]
    """

    first: int
    last: int
    load: Callable[[], tuple[Any, Any, Any]]


class DistributedCompletion(LeastSquares):
    """The cost of :class:`MatrixCompletion`, of entries that are held by the workers of a cluster.

    Points are triples ``(u, s, vt)``; derivatives are operators. It poses problems and solves as its local sibling,
    from which the results differ by roundoff, and goes on if workers are lost, as long as one is left.

    Parameters
    ----------
    client : distributed.Client
        Connection to the cluster (``pip install dlngeo[cluster]``).
    blocks : sequence of RowBlock
        Blocks that cover the rows, in ascending order; several for each worker balance the load.
    shape : tuple of int
        Shape (m, n) of the matrix.
    dtype : data type, optional
        float64 or float32, as for :class:`MatrixCompletion`.

    Raises
    ------
    ValueError
        If the blocks do not cover the rows one after the other, or their entries are bad, or there are none.

    See Also
    --------
    dlngeo.problems.MatrixCompletion
    dlngeo.problems.RowBlock

    Examples
    --------
    >>> from distributed import Client  # doctest: +SKIP
    >>> problem = MatrixCompletion(rows, cols, values, shape).distribute(Client(), n_blocks=8)  # doctest: +SKIP
    """

    def __init__(
        self, client: Any, blocks: Sequence[RowBlock], shape: tuple[int, int], *, dtype: Any = np.float64
    ) -> None:
        super().__init__(_check.shape(shape))
        bounds = [block.first for block in blocks] + [self.shape[0]]
        if not blocks or bounds[0] != 0 or [block.last for block in blocks] != bounds[1:] or np.diff(bounds).min() <= 0:
            raise ValueError(
                f"the blocks have rows {[(b.first, b.last) for b in blocks]}; they must follow each other from 0 to "
                f"{self.shape[0]}, none of them empty."
            )
        self._client = client
        self._rows = [slice(block.first, block.last) for block in blocks]
        self._dtype = np.dtype(dtype)
        self._blocks = [self._submit(_make_block, block, self.shape[1], self._dtype) for block in blocks]
        sizes, squares = zip(*client.gather([self._submit(_measure, block) for block in self._blocks]), strict=True)
        self._size, self._total = sum(sizes), sum(squares)
        if not self._size:
            raise ValueError("there are no observed entries; give at least one.")

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        m, n = self.shape
        return f"DistributedCompletion({m}×{n}, {len(self)} entries in {len(self._blocks)} blocks)"

    # The calculus; values are lists of futures, one for each block.

    def _apply(self, x: tuple[np.ndarray, np.ndarray]) -> list[Any]:
        left, right = x
        return self._each(_sample, left, self._share(right.T), False)

    def _adjoint(self, y: list[Any], factored: bool) -> Products:
        """Operator whose entries stay on the workers."""
        return Products(self.shape, self._dtype, partial(self._times, y), partial(self._transposed_times, y))

    def _difference(self, arrays: tuple[np.ndarray, ...]) -> tuple[list[Any], float]:
        u, s, vt = arrays
        entries = self._each(_sample, u * s, self._share(vt.T), True)
        return entries, sum(self._client.gather([self._submit(_squares, e) for e in entries]))

    def _squared_scale(self) -> float:
        return self._total

    def _evaluate(self, point: Any) -> tuple[list[Any], float]:
        return super()._evaluate(_factored(point))

    def _along(self, point: Any, direction: Any) -> list[Any]:
        return super()._along(_factored(point), direction)

    def curvature(self, point: Any, direction: Any) -> float:
        """Evaluate ``Σ_Ω Ż_ij²``, from a part of the entries if there are many."""
        left, right = direction_factors(_factored(point), direction, self.shape)
        stride = max(1, len(self) // ENOUGH_ENTRIES)
        squares, counts = zip(
            *self._client.gather(self._each(_squared_norm, left, self._share(right.T), stride)), strict=True
        )
        return sum(squares) * (len(self) / sum(counts)) if sum(counts) else 0.0

    # Inside: futures of blocks, of entries and of thin arrays.

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False, retries=_RETRIES)

    def _share(self, matrix: np.ndarray) -> Any:
        """Future of an array that every block needs: it is sent once, and workers copy it from each other.

        It is a task rather than scattered data, so that it survives the loss of its worker.
        """
        return self._submit(_identity, np.ascontiguousarray(matrix))

    def _each(self, function: Callable[..., Any], left: np.ndarray, *arguments: Any) -> list[Any]:
        """Futures of ``function(block, its rows of left, *arguments)`` for all blocks."""
        pairs = zip(self._blocks, self._rows, strict=True)
        return [self._submit(function, block, left[rows], *arguments) for block, rows in pairs]

    def _times(self, entries: list[Any], right: np.ndarray) -> np.ndarray:
        shared = self._share(right)
        pairs = zip(self._blocks, entries, strict=True)
        return np.concatenate(self._client.gather([self._submit(_times, block, e, shared) for block, e in pairs]))

    def _transposed_times(self, entries: list[Any], left: np.ndarray) -> np.ndarray:
        triples = zip(self._blocks, entries, self._rows, strict=True)
        parts = [self._submit(_transposed_times, block, e, left[rows]) for block, e, rows in triples]
        while len(parts) > 1:  # in pairs, in a fixed order: sums are the same on any cluster, whatever is lost
            pairs = [parts[k : k + 2] for k in range(0, len(parts), 2)]
            parts = [self._submit(operator.add, *pair) if len(pair) == 2 else pair[0] for pair in pairs]
        return self._client.gather(parts[0])


def _factored(point: Any) -> Any:
    if not is_factored(point):
        raise TypeError("a distributed problem takes points (u, s, vt), as those of dlngeo.pymanopt.FixedRank.")
    return point


def row_blocks(entries: tuple[np.ndarray, ...], m: int, n_blocks: int, directory: Any) -> list[RowBlock]:
    """Cut entries ``(rows, cols, values)``, sorted by row, into blocks of about as many, and optionally to files."""
    rows = entries[0]
    counts = np.cumsum(np.bincount(rows, minlength=m))
    ends = np.searchsorted(counts, np.linspace(0, len(rows), n_blocks + 1)[1:-1]) + 1
    bounds = np.unique(np.clip([0, *ends, m], 0, m)).tolist()
    blocks = []
    for first, last in pairwise(bounds):
        part = slice(*np.searchsorted(rows, [first, last]))
        arrays = tuple(np.array(a[part]) for a in entries)
        if directory is None:
            blocks.append(RowBlock(first, last, partial(_identity, arrays)))
        else:
            path = Path(directory).resolve() / f"rows-{first}-{last}.npz"
            np.savez(path, rows=arrays[0], cols=arrays[1], values=arrays[2])
            blocks.append(RowBlock(first, last, partial(_read, str(path))))
    return blocks


# Tasks: pure functions that run on workers, one thread each, since a worker runs several at once.


def _identity(value: Any) -> Any:
    return value


def _read(path: str) -> tuple[Any, Any, Any]:
    with np.load(path) as file:
        return file["rows"], file["cols"], file["values"]


class _Block(NamedTuple):
    """Pattern and values of a block of rows; there may be none."""

    pattern: Pattern
    values: np.ndarray


def _make_block(block: RowBlock, n: int, dtype: np.dtype) -> _Block:
    rows, cols, values = (np.asarray(a) for a in block.load())
    shape = block.last - block.first, n
    if not rows.size:
        return _Block(Pattern(np.zeros(shape[0] + 1, np.int32), np.empty(0, np.int32), shape, 1), np.empty(0, dtype))
    matrix = _observations.csr(rows - block.first, cols, values, shape, dtype)
    return _Block(Pattern(matrix.indptr, matrix.indices, shape, threads=1), matrix.data)


def _measure(block: _Block) -> tuple[int, float]:
    return len(block.pattern), _squares(block.values)


def _squares(entries: np.ndarray) -> float:
    return float(np.sum(np.square(entries, dtype=np.float64)))


def _sample(block: _Block, left: np.ndarray, right: np.ndarray, subtract: bool) -> np.ndarray:
    dtype = block.values.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        factors = padded(left, dtype), padded(right, dtype)
        return block.pattern.sample(*factors, block.values if subtract else None)[0]


def _squared_norm(block: _Block, left: np.ndarray, right: np.ndarray, stride: int) -> tuple[float, int]:
    dtype = block.values.dtype
    return block.pattern.squares(padded(left, dtype), padded(right, dtype), stride)


def _times(block: _Block, entries: np.ndarray, right: np.ndarray) -> np.ndarray:
    return block.pattern.times(entries, right)


def _transposed_times(block: _Block, entries: np.ndarray, left: np.ndarray) -> np.ndarray:
    return block.pattern.transposed_times(entries, left)
