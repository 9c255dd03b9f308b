"""What every cost of a matrix has in common: the forms of a point, and the way to a solver."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pymanopt
import scipy.sparse
from pymanopt.manifolds import FixedRankEmbedded
from scipy.sparse.linalg import LinearOperator

from dlngeo import _check
from dlngeo._linalg import adjoint, small_factors
from dlngeo.problems.monitor import Record, Solution, error_on, solve

__all__ = [
    "MatrixCost",
    "Products",
    "along",
    "as_operator",
    "dense",
    "direction_factors",
    "factors",
    "finite_cost",
    "is_factored",
    "low_rank",
]

Product = Callable[[np.ndarray], np.ndarray]


class MatrixCost(abc.ABC):
    """A smooth function of m×n matrices, with the derivatives that solvers take.

    A point is a triple ``(u, s, vt)`` for ``X = (u * s) @ vt``, as on the fixed-rank manifolds of
    :mod:`dlngeo.pymanopt` and pymanopt, or a dense (m, n) array, as on every manifold of matrices; also a batch of
    these, shape=[..., m, n], as samplers have, whose costs have the shape [...]. A direction is, at a factored point,
    what the manifold's ``embedding`` makes of a tangent vector: the velocity ``(u̇, ṡ, v̇ᵀ)`` of the factors,
    ``Ż = u̇ s vᵀ + u ṡ vᵀ + u s v̇ᵀ``, or a triple ``(U, S, V)`` with a square S for ``Ż = U S Vᵀ``; at a dense point it
    is the array ``Ż``, of the shape of the point.

    One cost runs everywhere: ``cost.problem(manifold)`` poses it to the solvers of pymanopt, and ``cost.cost`` and
    ``cost.euclidean_gradient`` are what :func:`dlngeo.gradient_flow` and :class:`dlngeo.sampling.Langevin` take.

    Derivatives at a factored point are arrays, sparse matrices, ``LinearOperator`` objects, or pairs (m×k, k×n) that
    stand for their product: whatever forms no larger array than the data.

    Attributes
    ----------
    shape : tuple of int
        Shape (m, n).

    See Also
    --------
    dlngeo.problems.FunctionCost
    dlngeo.problems.AutodiffCost
    dlngeo.problems.FreeEnergy

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import LowRankApproximation, MatrixCost
    >>> cost, x = LowRankApproximation(np.eye(3, 2)), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> isinstance(cost, MatrixCost), bool(np.isclose(cost.cost(np.linalg.svd(x, full_matrices=False)), cost.cost(x)))
    (True, True)
    >>> cost.cost(np.stack([x, np.eye(3, 2)])).tolist()
    [41.5, 0.0]
    """

    shape: tuple[int, int]
    #: Numbers that the matrices have as entries.
    field: _check.Field = "real"

    @abc.abstractmethod
    def cost(self, point: Any) -> Any:
        """Evaluate ``E(X)``; ``inf``, never NaN, where it overflows, so that a line search backs off."""

    @abc.abstractmethod
    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``E′(X)``."""

    @abc.abstractmethod
    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż]``."""

    @abc.abstractmethod
    def curvature(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż, Ż]``, by which a line search can step to the minimum along ``X + tŻ``."""

    def initial_point(self, rank: int, size: float, rng: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw ``(u, s, vt)`` with random orthonormal frames and all singular values equal to ``size``.

        The smaller ``size``, the stronger the bias of a deep metric toward low rank. At one seed the frames of a
        smaller rank are the first columns of those of a larger one.
        """
        m, n = self.shape
        return small_factors(m, n, _check.rank(rank, m, n), size, rng, self.field)

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
        from dlngeo.pymanopt import Balanced, FixedRank, pull_back  # with geomstats, which dense matrices do without
        from dlngeo.pymanopt.ambient import tangent_part_of_autodiff

        if self.field == "complex" and not (isinstance(manifold, FixedRank) and manifold.field == "complex"):
            raise TypeError(
                f'the data are complex and {manifold} is not; pose them on FixedRank(m, n, rank, field="complex").'
            )
        if isinstance(manifold, Balanced):
            return pull_back(manifold, self.cost, self.euclidean_gradient, self.euclidean_hessian)
        if manifold.point_layout not in (1, 3):
            raise TypeError(
                f"{manifold} has points of layout {manifold.point_layout}; {type(self).__name__} needs triples "
                "(u, s, vt) or dense matrices, as on dlngeo.pymanopt.FixedRank or from_geomstats(space)."
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
            return self._gradient_for_products(grouped(point))

        @numpy_backend
        def hessian(*arrays: Any) -> Any:
            return self.euclidean_hessian(grouped(arrays[:layout]), grouped(arrays[layout:]))

        if type(manifold) is FixedRankEmbedded:  # not a subclass, whose metric may be another
            # Its euclidean_to_riemannian_gradient takes derivatives with respect to u, s and vt, and divides by
            # s_k² − s_l². Its projection is the same gradient, takes a sparse matrix, and has no such gap.
            @numpy_backend
            def projected(*point: Any) -> Any:
                vector = self._gradient_for_products(point)
                if not isinstance(vector, tuple | list):
                    return manifold.projection(point, vector)
                if len(vector) == 2:
                    return manifold.projection(point, low_rank(*vector))
                return type(manifold.zero_vector(point))(*tangent_part_of_autodiff(point, vector)[0])

            return pymanopt.Problem(manifold, cost, riemannian_gradient=projected)
        posed = _Posed(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)
        if layout == 3:
            posed.derivatives_at = self._derivatives_at
        return posed

    def solve(
        self,
        manifold: pymanopt.manifolds.manifold.Manifold,
        optimizer: pymanopt.optimizers.optimizer.Optimizer,
        *,
        initial_point: Any = None,
        heldout: Any = None,
        patience: int | None = None,
        tolerance: float = 0.0,
        callback: Callable[[Record, Any], None] | None = None,
    ) -> Solution:
        """Minimise on a manifold, watching the error on held-out data; see :func:`dlngeo.problems.solve`.

        ``heldout`` is a problem of the same shape with a ``relative_error(point)``.
        """
        return solve(
            self.problem(manifold),
            optimizer,
            initial_point=initial_point,
            heldout_error=error_on(heldout, self),
            patience=patience,
            tolerance=tolerance,
            callback=callback,
        )

    def _gradient_for_products(self, point: Any) -> Any:
        """``E′(X)`` in the form that multiplies fastest with thin matrices; a hook for subclasses that have one."""
        return self.euclidean_gradient(point)

    #: Evaluates :class:`dlngeo.pymanopt.local.Derivatives` at a factored point; a hook likewise.
    _derivatives_at: Callable[[Any], Any] | None = None


class _Posed(pymanopt.Problem):
    """A problem that may offer what :meth:`FixedRank.local <dlngeo.pymanopt.FixedRank.local>` takes of its cost."""

    derivatives_at: Callable[[Any], Any] | None = None


# Points and directions.


def is_factored(point: Any) -> bool:
    """Whether a point is a triple of factors rather than one array."""
    return isinstance(point, list | tuple)


def factors(point: Any, shape: tuple[int, int], field: _check.Field = "real") -> tuple[np.ndarray, ...]:
    """Return arrays ``(u, s, vt)`` of a factored point, or the one array of a dense one or of a batch, in doubles."""
    m, n = shape
    arrays = tuple(_double(a, "the point", field) for a in (point if is_factored(point) else (point,)))
    shapes = tuple(a.shape for a in arrays)
    rank = arrays[1].size if len(arrays) == 3 else 0
    if not (len(shapes) == 1 and shapes[0][-2:] == (m, n)) and shapes != ((m, rank), (rank,), (rank, n)):
        raise ValueError(
            f"the point has shapes {shapes}; pass (u, s, vt) of shapes ({m}, r), (r,), (r, {n}), "
            f"or one array of shape ({m}, {n}) or (..., {m}, {n})."
        )
    return arrays


def _double(value: Any, name: str, field: _check.Field = "real") -> np.ndarray:
    array = _check.numbers(value, name, field)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)


def direction_factors(
    point: Any,
    direction: Any,
    shape: tuple[int, int],
    places: tuple[Any, Any] = (slice(None), slice(None)),
    field: _check.Field = "real",
) -> tuple[np.ndarray, np.ndarray]:
    """Compute factors ``L`` (m×k) and ``R`` (k×n) of the direction ``Ż = L R`` at a factored point, k = 2r.

    ``places`` are the rows of L and the columns of R that are wanted, all by default.
    """
    u, s, vt = factors(point, shape, field)
    arrays = tuple(_double(a, "the direction", field) for a in direction)
    shapes = tuple(a.shape for a in arrays)
    rows, cols = places
    if shapes == (u.shape, s.shape, vt.shape):
        du, ds, dvt = arrays
        u, du = u[rows], du[rows]
        return np.hstack((du * s + u * ds, u * s)), np.hstack((vt.T[cols], dvt.T[cols])).T
    if len(arrays) == 3 and arrays[1].ndim == 2:
        (m, n), (k, other) = shape, arrays[1].shape
        if shapes == ((m, k), (k, other), (n, other)):
            return arrays[0][rows] @ arrays[1], adjoint(arrays[2][cols])
    raise ValueError(
        f"the direction has shapes {shapes}; pass the velocity of (u, s, vt), of shapes {u.shape}, {s.shape}, "
        f"{vt.shape}, or (U, S, V) with a square S."
    )


def dense(point: Any, shape: tuple[int, int]) -> np.ndarray:
    """Multiply a point out."""
    arrays = factors(point, shape)
    return arrays[0] if len(arrays) == 1 else (arrays[0] * arrays[1]) @ arrays[2]


def along(point: Any, direction: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return a direction in any form as a dense matrix."""
    if is_factored(direction):
        left, right = direction_factors(point, direction, shape)
        return left @ right
    z = _check.real(direction, "the direction").astype(float)
    if z.shape[-2:] != shape:
        raise ValueError(f"the direction has shape {z.shape}; expected that of the matrices, {shape}.")
    return z


class Products(LinearOperator):
    """A matrix that is known by its products ``A right`` and ``A* left`` with thin matrices."""

    def __init__(self, shape: tuple[int, int], dtype: Any, times: Product, transposed_times: Product) -> None:
        super().__init__(dtype, shape)
        self._times, self._transposed_times = times, transposed_times

    def _matmat(self, right: np.ndarray) -> np.ndarray:
        return self._times(right)

    def _rmatmat(self, left: np.ndarray) -> np.ndarray:
        return self._transposed_times(left)

    def _rmatvec(self, left: np.ndarray) -> np.ndarray:
        return self._transposed_times(left.reshape(-1, 1))


def as_operator(matrix: Any) -> LinearOperator:
    """Products of a matrix of any form, a pair of factors included, without SciPy's copy of a transpose."""
    if isinstance(matrix, tuple):
        return low_rank(*matrix)
    if isinstance(matrix, LinearOperator):
        return matrix
    matrix = matrix if scipy.sparse.issparse(matrix) else np.asarray(matrix)
    return Products(
        matrix.shape, matrix.dtype, lambda right: matrix @ right, lambda left: (matrix.T @ left.conj()).conj()
    )


def low_rank(left: Any, right: Any) -> LinearOperator:
    """Multiply ``left @ right`` as an operator, which multiplies one factor after the other."""
    return as_operator(left) @ as_operator(right)


def finite_cost(value: Any, arrays: tuple[np.ndarray, ...]) -> Any:
    """Return ``value``, or ``inf`` if it or an entry of the point is not finite; for each matrix of a batch."""
    # An infinity that meets no data, or zeros only, does not show in the value.
    if np.ndim(value):
        return np.where(np.isfinite(value) & np.isfinite(arrays[0]).all(axis=(-2, -1)), value, math.inf)
    return float(value) if math.isfinite(value) and all(np.isfinite(a).all() for a in arrays) else math.inf
