"""Approximation of a given matrix, the cost that a deep linear network has on whitened data."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator

from dlngeo.problems import _observations
from dlngeo.problems.base import as_operator, low_rank
from dlngeo.problems.least_squares import LeastSquares, gram_squares

__all__ = ["LowRankApproximation"]


class LowRankApproximation(LeastSquares):
    """The cost ``E(X) = ½ ‖X − T‖²`` of a target that is dense, sparse, or known by its products only.

    Its gradient is ``E′(X) = X − T``, its Hessian the identity.

    Where the target is no array, nothing of size m×n is formed at a factored point: the cost is
    ``½ (‖X‖² − 2⟨X, T⟩ + ‖T‖²)``, whose terms cancel near an exact fit, so that it is exact to 1e-16 of ``‖T‖²``
    rather than of itself; the gradient does not suffer from it.

    Parameters
    ----------
    target : array-like, SciPy sparse matrix or LinearOperator, shape=[m, n]
        ``T``. An operator needs its adjoint.
    squared_norm : float, optional
        ``‖T‖²`` of a ``LinearOperator``. Without it the cost lacks the constant ``½‖T‖²``.

    Raises
    ------
    TypeError
        If the target is not real.
    ValueError
        If it is empty or not finite, or ``squared_norm`` is given for another target than an operator.

    See Also
    --------
    dlngeo.problems.QuadraticCost
    dlngeo.problems.Regression
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> from dlngeo.problems import LowRankApproximation
    >>> cost = LowRankApproximation(scipy.sparse.diags_array([3.0, 2.0, 1.0]))
    >>> one = np.eye(3)
    >>> round(float(cost.cost((one[:, :2], np.array([3.0, 2.0]), one[:2]))), 4)  # ½ Σ_{k>2} σ_k², the least at rank 2
    0.5
    """

    _axes = 2
    _data: np.ndarray | None = None  # the target, if it is an array

    def __init__(self, target: Any, *, squared_norm: float | None = None) -> None:
        self._squared_norm: float | None
        if squared_norm is not None and not isinstance(target, LinearOperator):
            raise ValueError("squared_norm belongs to a LinearOperator; of arrays and sparse matrices it is computed.")
        if isinstance(target, LinearOperator):
            self._squared_norm = None if squared_norm is None else float(squared_norm)
        elif scipy.sparse.issparse(target):
            target = scipy.sparse.csr_array(target)
            _observations.real(target.data, "the stored entries of the target", 1)
            target = target.astype(np.float64)
            self._squared_norm = float(target.data @ target.data)
        else:
            target = self._data = _observations.real(target, "target", 2)
            self._squared_norm = float(np.vdot(target, target))
        self._target = target
        super().__init__((int(target.shape[0]), int(target.shape[1])))

    def __repr__(self) -> str:
        return f"LowRankApproximation({self.shape[0]}×{self.shape[1]})"

    def _apply(self, x: Any) -> Any:
        return x

    def _adjoint(self, y: Any, factored: bool) -> Any:
        return y if factored else np.array(y)  # a residual is kept, a gradient the caller's

    def _difference(self, arrays: tuple[np.ndarray, ...]) -> tuple[Any, Any]:
        if self._data is not None:
            return super()._difference(arrays)
        if len(arrays) == 1:  # which is of the size that the target has as an array
            sparse = scipy.sparse.issparse(self._target)
            target = self._target.toarray() if sparse else self._target @ np.eye(self.shape[1])
            residual = arrays[0] - target
            lacking = np.vdot(target, target) if self._squared_norm is None else 0.0
            return residual, self._squares(residual) - lacking
        u, s, vt = arrays
        left = u * s
        squares = gram_squares(left, vt) - 2 * float(np.vdot(left, self._target @ vt.T)) + (self._squared_norm or 0.0)
        return low_rank(left, vt) - as_operator(self._target), squares

    def _squared_scale(self) -> float:
        return self._squared_norm or 0.0
