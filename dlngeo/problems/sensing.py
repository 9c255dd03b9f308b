r"""Matrix sensing: least squares on linear measurements of a matrix.

.. math:: E(X) = \tfrac12 \sum_i (\langle A_i, X \rangle - y_i)^2, \qquad
   E'(X) = \sum_i (\langle A_i, X \rangle - y_i) A_i, \qquad D^2E(X)[Z] = \sum_i \langle A_i, Z \rangle A_i .
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.problems import _observations
from dlngeo.problems.base import Products
from dlngeo.problems.least_squares import LeastSquares

__all__ = ["MatrixSensing", "RankOneSensing"]


class _Sensing(LeastSquares):
    """Least squares on as many linear measurements as there are values."""

    def __init__(self, shape: tuple[int, int], values: Any, n_measurements: int) -> None:
        super().__init__(shape)
        self.values = self._data = _observations.real(values, "values", 1)
        if self.values.size != n_measurements:
            raise ValueError(f"there are {n_measurements} measurements and {self.values.size} values; give one each.")

    def __len__(self) -> int:
        return self.values.size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, {len(self)} measurements)"


class RankOneSensing(_Sensing):
    """The cost ``½ Σ_i (a_iᵀ X b_i − y_i)²`` of measurements by matrices of rank one.

    At a factored point the derivatives are operators, and nothing of size m×n is formed. Matrix completion is the case
    of unit vectors.

    Parameters
    ----------
    left : array-like, shape=[n_measurements, m]
        Vectors ``a_i``.
    right : array-like, shape=[n_measurements, n]
        Vectors ``b_i``.
    values : array-like, shape=[n_measurements]
        Measured values ``y``.

    Raises
    ------
    ValueError
        If the numbers of measurements differ, there is none, or an entry is not finite.
    TypeError
        If the data are not real.

    See Also
    --------
    dlngeo.problems.MatrixSensing
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixCompletion, RankOneSensing
    >>> one, rows, columns, values = np.eye(3), [0, 1, 2], [1, 1, 0], [1.0, 2.0, 3.0]
    >>> cost, x = RankOneSensing(one[rows], one[columns], values), np.arange(9.0).reshape(3, 3)
    >>> completion = MatrixCompletion(rows, columns, values, (3, 3))
    >>> bool(np.allclose(cost.euclidean_gradient(x), completion.euclidean_gradient(x)))
    True
    """

    def __init__(self, left: Any, right: Any, values: Any) -> None:
        self._left, self._right = _observations.real(left, "left", 2), _observations.real(right, "right", 2)
        if len(self._left) != len(self._right):
            raise ValueError(f"left {self._left.shape} and right {self._right.shape} must have as many rows.")
        super().__init__((self._left.shape[1], self._right.shape[1]), values, len(self._left))

    def _apply(self, x: Any) -> np.ndarray:
        if isinstance(x, tuple):
            return np.einsum("pk,pk->p", self._left @ x[0], self._right @ x[1].T)
        return np.einsum("...pn,pn->...p", self._left @ x, self._right)

    def _adjoint(self, y: Any, factored: bool) -> Any:
        if not factored:
            return (self._left.T * y[..., None, :]) @ self._right
        return Products(
            self.shape,
            np.float64,
            lambda x: self._left.T @ (y[:, None] * (self._right @ x)),
            lambda x: self._right.T @ (y[:, None] * (self._left @ x)),
        )


class MatrixSensing(_Sensing):
    """The cost ``½ Σ_i (⟨A_i, X⟩ − y_i)²`` of measurements by dense matrices.

    The derivatives are (m, n) arrays, each as large as one of the measurements.

    Parameters
    ----------
    measurements : array-like, shape=[n_measurements, m, n]
        Matrices ``A_i``.
    values : array-like, shape=[n_measurements]
        Measured values ``y``.

    Raises
    ------
    ValueError
        If the numbers of measurements and values differ, there is none, or an entry is not finite.
    TypeError
        If the data are not real.

    See Also
    --------
    dlngeo.problems.RankOneSensing
    dlngeo.problems.MatrixCompletion

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import MatrixSensing
    >>> cost = MatrixSensing([np.eye(2), np.ones((2, 2))], [2.0, 4.0])  # the trace, and the sum of all entries
    >>> float(cost.cost(np.ones((2, 2)))), float(cost.cost(np.eye(2)))  # 0, and ½ (2 − 4)²
    (0.0, 2.0)
    >>> cost.euclidean_gradient(np.eye(2)).tolist()
    [[-2.0, -2.0], [-2.0, -2.0]]
    """

    def __init__(self, measurements: Any, values: Any) -> None:
        measurements = _observations.real(measurements, "measurements", 3)
        self._flat = measurements.reshape(len(measurements), -1)
        super().__init__(measurements.shape[1:], values, len(measurements))

    def _apply(self, x: Any) -> np.ndarray:
        x = x[0] @ x[1] if isinstance(x, tuple) else x
        return x.reshape(*x.shape[:-2], -1) @ self._flat.T

    def _adjoint(self, y: Any, factored: bool) -> np.ndarray:
        return (y @ self._flat).reshape(*y.shape[:-1], *self.shape)
