r"""Approximation of a given matrix, the cost that a deep linear network has on whitened data.

.. math:: E(X) = \tfrac12 \| X - T \|_F^2, \qquad E'(X) = X - T, \qquad D^2E(X)[Z] = Z .
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from dlngeo.problems import _observations
from dlngeo.problems.base import (
    LastPoint,
    MatrixCost,
    direction_factors,
    factors,
    finite_cost,
    is_factored,
    low_rank,
)

__all__ = ["LowRankApproximation"]


class LowRankApproximation(MatrixCost):
    r"""The cost ``E(X) = ½ ‖X − T‖²`` of a target that is dense, sparse, or known by its products only.

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
    """

    def __init__(self, target: Any, *, squared_norm: float | None = None) -> None:
        self._array: np.ndarray | None = None
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
            target = self._array = _observations.real(target, "target", 2)
            self._squared_norm = float(np.vdot(target, target))
        self._target = target
        self.shape = (int(target.shape[0]), int(target.shape[1]))
        self._last = LastPoint()

    def __repr__(self) -> str:
        return f"LowRankApproximation({self.shape[0]}×{self.shape[1]})"

    def cost(self, point: Any) -> float:
        """Evaluate ``½ ‖X − T‖²``, less ``½‖T‖²`` if that is unknown; ``inf``, never NaN, where it overflows."""
        arrays = factors(point, self.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            if len(arrays) == 1 or self._array is not None:
                difference = self._difference(arrays)
                value = 0.5 * float(np.vdot(difference, difference))
                if self._squared_norm is None:
                    value -= 0.5 * float(np.vdot(self._dense(), self._dense()))
            else:
                u, s, vt = arrays
                left = u * s
                target_v = self._last.get(arrays)
                if target_v is None:
                    target_v = self._target @ vt.T
                    self._last.keep(arrays, target_v)
                value = 0.5 * float(np.vdot(left.T @ left, vt @ vt.T)) - float(np.vdot(left, target_v))
                value += 0.5 * (self._squared_norm or 0.0)
        return finite_cost(value, arrays)

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``X − T``: an array if X or T is one, otherwise an operator."""
        arrays = factors(point, self.shape)
        if len(arrays) == 1 or self._array is not None:
            return self._difference(arrays)
        u, s, vt = arrays
        return low_rank(u * s, vt) - aslinearoperator(self._target)

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Return ``Ż``: as a pair of factors at a factored point, dense at a dense one."""
        if is_factored(point):
            return direction_factors(point, direction, self.shape)
        return factors(direction, self.shape)[0]

    def curvature(self, point: Any, direction: Any) -> float:
        """Evaluate ``‖Ż‖²``."""
        if not is_factored(point):
            return float(np.linalg.norm(factors(direction, self.shape)[0])) ** 2
        left, right = direction_factors(point, direction, self.shape)
        return float(np.vdot(left.T @ left, right @ right.T))

    def relative_error(self, point: Any) -> float:
        """Evaluate ``‖X − T‖ / ‖T‖``.

        Raises
        ------
        ValueError
            If the target is zero, or of unknown norm.
        """
        if not self._squared_norm:
            raise ValueError("the relative error is undefined, since the norm of the target is 0 or unknown.")
        return math.sqrt(max(0.0, 2 * self.cost(point)) / self._squared_norm)  # roundoff may make an exact fit negative

    def _difference(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        difference = self._last.get(arrays)
        if difference is None:
            x = arrays[0] if len(arrays) == 1 else (arrays[0] * arrays[1]) @ arrays[2]
            difference = x - self._dense()
            self._last.keep(arrays, difference)
        return difference

    def _dense(self) -> np.ndarray:
        """Target as an array, for dense points, which are arrays of the same size."""
        if self._array is not None:
            return self._array
        if scipy.sparse.issparse(self._target):
            return self._target.toarray()
        return self._target @ np.eye(self.shape[1])
