"""Matrix completion: least squares on the observed entries of a matrix."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.problems import _observations
from dlngeo.problems._pattern import ENOUGH_ENTRIES, Pattern, padded
from dlngeo.problems.base import Products, direction_factors, is_factored
from dlngeo.problems.distributed import DistributedCompletion, row_blocks
from dlngeo.problems.least_squares import LeastSquares
from dlngeo.problems.reweighted import complete

__all__ = ["MatrixCompletion"]


class MatrixCompletion(LeastSquares):
    """The least-squares cost ``E(X) = ½ Σ_{(i,j) ∈ Ω} (X_ij − a_ij)²`` of a partly observed matrix.

    The sum is neither divided by the number of entries nor by the variance of the values. The gradient
    ``P_Ω(X) − a`` and the Hessian product ``P_Ω(Z)`` are as sparse as the observations, and a factored point
    ``(u, s, vt)`` is never multiplied out: one evaluation costs ``O(|Ω| r)`` time and ``O(|Ω|)`` memory.

    Parameters
    ----------
    rows, cols : array-like of int, shape=[n_entries]
        Places Ω of the observed entries, each at most once.
    values : array-like, shape=[n_entries]
        Observed values ``a``, finite.
    shape : tuple of int
        Shape (m, n) of the matrix.
    dtype : data type, optional
        float64, or float32, which halves the memory and the traffic: products are then taken in single precision, so
        that residuals are exact to 1e-7 of the entries. Sums of squares are always in double precision.
    threads : int, optional
        Threads to use on large problems; the environment variable NUMBA_NUM_THREADS, by default the number of cores.

    Attributes
    ----------
    rows, cols, values : array, shape=[n_entries]
        The observations, sorted by row, then by column.
    n_sampled : int
        Number of times that entries of a point were computed: what a solver really paid.

    Raises
    ------
    TypeError
        If places are not integers or values not real numbers, or ``dtype`` is neither float64 nor float32.
    ValueError
        If there are no entries, lengths differ, a place is out of range or occurs twice, or a value is not finite.

    See Also
    --------
    dlngeo.sklearn.LowRankImputer
    dlngeo.problems.MatrixSensing
    dlngeo.FixedRank

    Notes
    -----
    The residual at the last factored point is kept. An optimiser asks for the cost of a trial point, its cost once
    more, and its gradient; only the first of these computes. In all it holds 20 bytes for each entry (12 in single
    precision), where row, column and value take 16.

    Solvers multiply small matrices besides, where several threads of BLAS wait for each other more than they compute;
    ``threadpoolctl.threadpool_limits(1, "blas")`` around the solver leaves the threads to the entries.

    Examples
    --------
    >>> import numpy as np
    >>> problem = MatrixCompletion([0, 1, 1], [0, 0, 2], [1.0, 2.0, 3.0], shape=(2, 3))
    >>> problem.cost(np.zeros((2, 3)))
    7.0
    """

    def __init__(
        self,
        rows: Any,
        cols: Any,
        values: Any,
        shape: tuple[int, int],
        *,
        dtype: Any = np.float64,
        threads: int | None = None,
    ) -> None:
        super().__init__(_check.shape(shape))
        self._dtype = np.dtype(dtype)
        if self._dtype not in (np.float64, np.float32):
            raise TypeError(f"dtype must be float64 or float32, got {self._dtype}.")
        matrix = _observations.csr(rows, cols, values, self.shape, self._dtype)
        self.pattern = Pattern(matrix.indptr, matrix.indices, self.shape, threads)
        self._data = matrix.data
        self.cols, self.values = _read_only(matrix.indices), _read_only(matrix.data)
        self.n_sampled = 0

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the entries; computed when asked for, since solvers do without."""
        index = self.cols.dtype
        return _read_only(np.repeat(np.arange(self.shape[0], dtype=index), np.diff(self.pattern.indptr)))

    @classmethod
    def from_matrix(cls, matrix: Any, observed: Any = None) -> MatrixCompletion:
        """Observe the entries of a dense (m, n) array that are not NaN, or those where ``observed`` is true.

        Entries of a masked array that are masked, and those of a table of pandas that are missing, are not observed.
        """
        return cls(*_observations.of_matrix(matrix, observed))

    @classmethod
    def from_sparse(cls, matrix: Any) -> MatrixCompletion:
        """Observe the stored entries of a SciPy sparse matrix, stored zeros included."""
        return cls(*_observations.of_sparse(matrix))

    def null_space(self) -> np.ndarray:
        """Return the unit matrices of the entries that are not observed, shape=[k, m, n]."""
        m, n = self.shape
        hidden = np.ones((m, n), dtype=bool)
        hidden[self.rows, self.cols] = False
        return np.eye(m * n)[hidden.ravel()].reshape(-1, m, n)

    def __len__(self) -> int:
        return self.values.size

    def __repr__(self) -> str:
        return f"MatrixCompletion({self.shape[0]}×{self.shape[1]}, {len(self)} entries)"

    # The calculus.

    def _apply(self, x: Any) -> np.ndarray:
        self.n_sampled += 1
        if isinstance(x, tuple):
            return self.pattern.sample(padded(x[0], self._dtype), padded(x[1].T, self._dtype), None)[0]
        return x[..., self.rows, self.cols]

    def _adjoint(self, y: np.ndarray, factored: bool) -> Any:
        """Matrix with these entries on Ω and zeros elsewhere: sparse (CSR) if ``factored``."""
        if factored:
            return self.pattern.matrix(y)
        out = np.zeros((*y.shape[:-1], *self.shape))
        out[..., self.rows, self.cols] = y
        return out

    def _difference(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, Any]:
        if len(arrays) == 1:
            return super()._difference(arrays)
        self.n_sampled += 1
        u, s, vt = arrays
        return self.pattern.sample(padded(u, self._dtype, s), padded(vt.T, self._dtype), self._data)

    def curvature(self, point: Any, direction: Any, max_entries: int | None = ENOUGH_ENTRIES) -> Any:
        """Evaluate ``D²E(X)[Ż, Ż] = Σ_Ω Ż_ij²``, from a part of the entries if there are many.

        Parameters
        ----------
        max_entries : int or None
            Take one in so many entries, evenly over rows and columns, that at least half as many are left. None takes
            all, and so does a dense point.
        """
        if not is_factored(point):
            return super().curvature(point, direction)
        stride = 1 if max_entries is None else max(1, len(self) // max_entries)
        if len(self) < stride * sum(self.shape):  # fewer entries than rows and columns: a factor for each entry
            places = self.pattern.thinned(stride)
            left, right = direction_factors(point, direction, self.shape, places)
            entries = np.einsum("kc,ck->k", left, right)
            return float(np.vdot(entries, entries)) * (len(self) / max(1, entries.size))
        left, right = direction_factors(point, direction, self.shape)
        squares, count = self.pattern.squares(padded(left, self._dtype), padded(right.T, self._dtype), stride)
        return squares * (len(self) / count) if count else 0.0

    def split(self, fraction: float, rng: Any = None) -> tuple[MatrixCompletion, MatrixCompletion]:
        """Split the entries at random into those to fit and those to hold out.

        Parameters
        ----------
        fraction : float
            Fraction of the entries to hold out, in (0, 1).
        rng : numpy.random.Generator or int, optional
            Source of randomness, or its seed.

        Returns
        -------
        train, heldout : MatrixCompletion
            The two parts, of the same shape.

        Raises
        ------
        ValueError
            If one of the parts would be empty.
        """
        options: dict[str, Any] = {"shape": self.shape, "dtype": self._dtype, "threads": self.pattern.threads}
        train, heldout = (
            MatrixCompletion(*(a[part] for a in (self.rows, self.cols, self.values)), **options)
            for part in parts_at_random(len(self), fraction, rng)
        )
        return train, heldout

    complete = complete

    def distribute(self, client: Any, n_blocks: int, directory: Any = None) -> DistributedCompletion:
        """Hand the entries to the workers of a cluster, in blocks of rows with about as many entries each.

        Parameters
        ----------
        client : distributed.Client
            Connection to the cluster (``pip install dlngeo[cluster]``).
        n_blocks : int
            Number of blocks, several for each worker; fewer if some rows have very many entries.
        directory : path, optional
            An existing folder that all workers see, to which the blocks are written and from which workers read them,
            again if one is lost. Without it the blocks remain in the memory of the scheduler for that.

        Returns
        -------
        DistributedCompletion
            The same cost.
        """
        blocks = row_blocks(
            (self.rows, self.cols, self.values), self.shape[0], _check.positive_integer(n_blocks, "n_blocks"), directory
        )
        return DistributedCompletion(client, blocks, self.shape, dtype=self._dtype)

    def _derivatives_at(self, point: Any) -> Any:
        from dlngeo.problems._derivatives import EntryDerivatives  # with geomstats, as in MatrixCost.problem

        return EntryDerivatives(self, point)

    def _gradient_for_products(self, point: Any) -> Any:
        if not is_factored(point):
            return self.euclidean_gradient(point)
        # Its products are shared by several threads, which those of a sparse matrix are not.
        entries, pattern = self.residual(point), self.pattern
        return Products(
            self.shape, self._dtype, partial(pattern.times, entries), partial(pattern.transposed_times, entries)
        )


def parts_at_random(count: int, fraction: float, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Split places at random into those to fit and a fraction to hold out, as masks; see MatrixCompletion.split."""
    n_heldout = round(fraction * count) if 0 < fraction < 1 else 0
    if not 0 < n_heldout < count:
        raise ValueError(
            f"holding out the fraction {fraction} of {count} entries leaves one part empty; "
            "choose a fraction inside (0, 1), or observe more entries."
        )
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(rng).permutation(count)[:n_heldout]] = True
    return ~chosen, chosen


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
