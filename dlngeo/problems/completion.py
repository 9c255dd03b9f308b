r"""Matrix completion: least squares on the observed entries of a matrix.

.. math:: E(X) = \tfrac12 \sum_{(i,j) \in \Omega} (X_{ij} - a_{ij})^2, \qquad
   E'(X) = P_\Omega(X) - a, \qquad D^2E(X)[Z] = P_\Omega(Z).

The gradient is as sparse as the observations, and a factored point ``(u, s, vt)`` is never multiplied out: one
evaluation costs O(|Ω| r) time and O(|Ω|) memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
import scipy.sparse
from pymanopt.manifolds import FixedRankEmbedded

from dlngeo import _check
from dlngeo.problems import _observations
from dlngeo.problems._sampled import sampled_product
from dlngeo.problems.monitor import Record, Solution, solve

__all__ = ["MatrixCompletion"]


class MatrixCompletion:
    r"""The least-squares cost ``E(X) = ½ Σ_{(i,j) ∈ Ω} (X_ij − a_ij)²`` of a partly observed matrix.

    The sum is neither divided by the number of entries nor by the variance of the values. A point is a triple
    ``(u, s, vt)`` for ``X = (u * s) @ vt``, as on the fixed-rank manifolds of :mod:`dlngeo.pymanopt` and
    pymanopt, or a dense (m, n) array, as on every manifold of matrices.

    Parameters
    ----------
    rows, cols : array-like of int, shape=[n_entries]
        Places Ω of the observed entries, each at most once.
    values : array-like, shape=[n_entries]
        Observed values ``a``, finite.
    shape : tuple of int
        Shape (m, n) of the matrix.

    Attributes
    ----------
    rows, cols, values : array, shape=[n_entries]
        The observations, sorted by row, then by column.
    n_sampled : int
        Number of times that entries of a point were computed: what a solver really paid.

    Raises
    ------
    TypeError
        If places are not integers or values not real numbers.
    ValueError
        If there are no entries, lengths differ, a place is out of range or occurs twice, or a value is not finite.

    Notes
    -----
    The residual at the last factored point is kept. An optimiser asks for the cost of a trial point, its cost once
    more, and its gradient; only the first of these computes.

    Examples
    --------
    >>> import numpy as np
    >>> problem = MatrixCompletion([0, 1, 1], [0, 0, 2], [1.0, 2.0, 3.0], shape=(2, 3))
    >>> problem.cost(np.zeros((2, 3)))
    7.0
    """

    def __init__(self, rows: Any, cols: Any, values: Any, shape: tuple[int, int]) -> None:
        self.shape = _observations.shape(shape)
        pattern = _observations.csr(rows, cols, values, self.shape)
        self._indices, self._indptr = pattern.indices, pattern.indptr
        self.rows = np.repeat(np.arange(self.shape[0], dtype=self._indices.dtype), np.diff(self._indptr))
        self.cols = self._indices
        self.values = pattern.data
        for array in (self.rows, self.cols, self.values):
            array.flags.writeable = False
        self.n_sampled = 0
        self._memo: tuple[tuple[Any, ...], np.ndarray] | None = None

    @classmethod
    def from_matrix(cls, matrix: Any, observed: Any = None) -> MatrixCompletion:
        """Observe the entries of a dense (m, n) array that are not NaN, or those where ``observed`` is true."""
        return cls(*_observations.of_matrix(matrix, observed))

    @classmethod
    def from_sparse(cls, matrix: Any) -> MatrixCompletion:
        """Observe the stored entries of a SciPy sparse matrix, stored zeros included."""
        return cls(*_observations.of_sparse(matrix))

    def __len__(self) -> int:
        return self.values.size

    def __repr__(self) -> str:
        return f"MatrixCompletion({self.shape[0]}×{self.shape[1]}, {len(self)} entries)"

    # The calculus.

    def residual(self, point: Any) -> np.ndarray:
        """Evaluate ``X_ij − a_ij`` on Ω.

        Parameters
        ----------
        point : tuple or array
            ``(u, s, vt)`` of shapes (m, r), (r,), (r, n), or a dense (m, n) array.

        Returns
        -------
        array, shape=[n_entries]
            The residual, read-only, in the order of :attr:`rows` and :attr:`cols`.

        Raises
        ------
        ValueError
            If the point has the wrong shape.
        """
        if not isinstance(point, list | tuple):
            arrays = (point,)
        else:
            arrays = tuple(point)
            if self._memo is not None and all(map(np.array_equal, arrays, self._memo[0])):
                return self._memo[1]
        with np.errstate(over="ignore", invalid="ignore"):  # a trial point may overflow: the cost is then +inf
            residual = self._sample(arrays) - self.values
        residual.flags.writeable = False
        if len(arrays) == 3:
            # A copy, because identity would prove nothing about a point that was written into. To copy and compare
            # O((m + n) r) numbers is little beside O(|Ω| r); at a dense point sampling is a mere gather.
            self._memo = (tuple(np.array(a) for a in arrays), residual)
        return residual

    def cost(self, point: Any) -> float:
        """Evaluate ``E(X) = ½ Σ_Ω (X_ij − a_ij)²``.

        Returns
        -------
        float
            The cost; ``inf``, never NaN, if the point holds a NaN or an infinity or the sum overflows, so that a line
            search backs off.
        """
        arrays = point if isinstance(point, list | tuple) else (point,)
        residual = self.residual(point)
        with np.errstate(over="ignore", invalid="ignore"):
            value = 0.5 * float(residual @ residual)
        # An infinity in a row that nothing observes does not show in the residual.
        return value if math.isfinite(value) and all(np.isfinite(a).all() for a in arrays) else math.inf

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``E′(X) = P_Ω(X) − a``: sparse (CSR) at a factored point, dense at a dense one."""
        return self._matrix(self.residual(point), dense=not isinstance(point, list | tuple))

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż] = P_Ω(Ż)``.

        Parameters
        ----------
        point : tuple or array
            ``(u, s, vt)``, or a dense (m, n) array.
        direction : tuple or array
            For a factored point the velocity ``(u̇, ṡ, v̇ᵀ)`` of its factors, so that
            ``Ż = u̇ s vᵀ + u ṡ vᵀ + u s v̇ᵀ``; for a dense point the (m, n) array ``Ż``.

        Returns
        -------
        csr_array or array, shape=[m, n]
            Sparse at a factored point, dense at a dense one.
        """
        if not isinstance(point, list | tuple):
            return self._matrix(self._sample((direction,)), dense=True)
        (u, s, vt), (du, ds, dvt) = point, direction
        s, ds = np.asarray(s, dtype=np.float64), np.asarray(ds, dtype=np.float64)
        left = np.hstack((du * s + u * ds, u * s))
        right = np.vstack((vt, dvt))
        return self._matrix(self._sample((left, np.ones(2 * s.size), right)), dense=False)

    def relative_error(self, point: Any) -> float:
        """Evaluate ``‖P_Ω(X) − a‖ / ‖a‖``, which on entries that were held out is the error of prediction.

        Raises
        ------
        ValueError
            If all values are zero.
        """
        scale = float(np.linalg.norm(self.values))
        if scale == 0:
            raise ValueError("the relative error is undefined, since all observed values are 0; use cost instead.")
        return math.sqrt(2 * self.cost(point)) / scale

    # Towards solvers.

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
        n_heldout = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < n_heldout < len(self):
            raise ValueError(
                f"holding out the fraction {fraction} of {len(self)} entries leaves one part empty; "
                "choose a fraction inside (0, 1), or observe more entries."
            )
        chosen = np.zeros(len(self), dtype=bool)
        chosen[np.random.default_rng(rng).permutation(len(self))[:n_heldout]] = True
        train, heldout = (
            MatrixCompletion(self.rows[part], self.cols[part], self.values[part], self.shape)
            for part in (~chosen, chosen)
        )
        return train, heldout

    def initial_point(self, rank: int, size: float, rng: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw ``(u, s, vt)`` with random orthonormal frames and all singular values equal to ``size``.

        The smaller ``size``, the stronger the bias of a deep metric toward low rank. At one seed the frames of a
        smaller rank are the first columns of those of a larger one.
        """
        m, n = self.shape
        rank = _check.rank(rank, m, n)
        of_u, of_v = np.random.default_rng(rng).spawn(2)
        u, _ = np.linalg.qr(of_u.standard_normal((rank, m)).T)
        v, _ = np.linalg.qr(of_v.standard_normal((rank, n)).T)
        return u, np.full(rank, float(size)), np.ascontiguousarray(v.T)

    def problem(self, manifold: pymanopt.manifolds.manifold.Manifold) -> pymanopt.Problem:
        """Pose the problem on a pymanopt manifold.

        Parameters
        ----------
        manifold : pymanopt manifold
            One whose points are triples ``(u, s, vt)`` or dense (m, n) arrays, or
            :class:`~dlngeo.pymanopt.Balanced` weights with a product of shape (m, n), which is multiplied out.

        Returns
        -------
        pymanopt.Problem
            With closed-form gradient and Hessian.

        Raises
        ------
        TypeError
            If the points of the manifold are neither triples nor single arrays nor balanced weights.
        """
        from dlngeo.pymanopt import Balanced, pull_back  # here, since it loads geomstats

        if isinstance(manifold, Balanced):
            return pull_back(manifold, self.cost, self.euclidean_gradient, self.euclidean_hessian)
        if manifold.point_layout not in (1, 3):
            raise TypeError(
                f"{manifold} has points of layout {manifold.point_layout}; matrix completion needs triples (u, s, vt) "
                "or dense matrices, as on dlngeo.pymanopt.FixedRank or from_geomstats(space)."
            )
        layout: int = manifold.point_layout
        numpy_backend = pymanopt.function.numpy(manifold)

        def grouped(arrays: tuple[Any, ...]) -> Any:
            return arrays if layout == 3 else arrays[0]

        @numpy_backend
        def cost(*point: Any) -> float:
            return self.cost(grouped(point))

        @numpy_backend
        def gradient(*point: Any) -> Any:
            return self.euclidean_gradient(grouped(point))

        @numpy_backend
        def hessian(*arrays: Any) -> Any:
            return self.euclidean_hessian(grouped(arrays[:layout]), grouped(arrays[layout:]))

        if type(manifold) is FixedRankEmbedded:  # not a subclass, whose metric may be another
            # Its euclidean_to_riemannian_gradient takes derivatives with respect to u, s and vt, and divides by
            # s_k² − s_l². Its projection is the same gradient, takes a sparse matrix, and has no such gap.
            @numpy_backend
            def projected(*point: Any) -> Any:
                return manifold.projection(point, self.euclidean_gradient(point))

            return pymanopt.Problem(manifold, cost, riemannian_gradient=projected)
        return pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)

    def solve(
        self,
        manifold: pymanopt.manifolds.manifold.Manifold,
        optimizer: pymanopt.optimizers.optimizer.Optimizer,
        *,
        initial_point: Any = None,
        heldout: MatrixCompletion | None = None,
        patience: int | None = None,
        tolerance: float = 0.0,
        callback: Callable[[Record, Any], None] | None = None,
    ) -> Solution:
        """Minimise on a manifold, watching the error on held-out entries; see :func:`dlngeo.problems.solve`."""
        if heldout is not None and heldout.shape != self.shape:
            raise ValueError(
                f"heldout is {heldout.shape}, the problem is {self.shape}; they must be parts of one matrix."
            )
        return solve(
            self.problem(manifold),
            optimizer,
            initial_point=initial_point,
            heldout_error=None if heldout is None else heldout.relative_error,
            patience=patience,
            tolerance=tolerance,
            callback=callback,
        )

    # Inside.

    def _sample(self, arrays: tuple[Any, ...]) -> np.ndarray:
        """Entries on Ω of a factored or a dense matrix, given as a tuple of three arrays or of one."""
        m, n = self.shape
        arrays = tuple(np.asarray(a, dtype=np.float64) for a in arrays)
        shapes = tuple(a.shape for a in arrays)
        self.n_sampled += 1
        if shapes == ((m, n),):
            return arrays[0][self.rows, self.cols]
        rank = arrays[1].size if len(arrays) == 3 else 0
        if shapes != ((m, rank), (rank,), (rank, n)):
            raise ValueError(
                f"the point has shapes {shapes}; pass (u, s, vt) of shapes ({m}, r), (r,), (r, {n}), "
                f"or one ({m}, {n}) array."
            )
        u, s, vt = arrays
        return sampled_product(self.rows, self.cols, u * s, vt.T)

    def _matrix(self, entries: np.ndarray, *, dense: bool) -> Any:
        """Matrix with these entries on Ω and zeros elsewhere."""
        if dense:
            out = np.zeros(self.shape)
            out[self.rows, self.cols] = entries
            return out
        return scipy.sparse.csr_array((entries, self._indices, self._indptr), shape=self.shape)
