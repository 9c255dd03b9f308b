r"""Matrix sensing: least squares on linear measurements of a matrix.

.. math:: E(X) = \tfrac12 \sum_i (\langle A_i, X \rangle - y_i)^2, \qquad
   E'(X) = \sum_i (\langle A_i, X \rangle - y_i) A_i, \qquad D^2E(X)[Z] = \sum_i \langle A_i, Z \rangle A_i .
"""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from dlngeo.problems import _observations
from dlngeo.problems.base import LastPoint, MatrixCost, direction_factors, factors, finite_cost, is_factored

__all__ = ["MatrixSensing", "RankOneSensing"]


class _Sensing(MatrixCost):
    """Least squares on linear measurements, which subclasses take and transpose."""

    def __init__(self, shape: tuple[int, int], values: Any, n_measurements: int) -> None:
        self.shape = shape
        self.values = _observations.real(values, "values", 1)
        if self.values.size != n_measurements:
            raise ValueError(f"there are {n_measurements} measurements and {self.values.size} values; give one each.")
        self._last = LastPoint()

    def __len__(self) -> int:
        return self.values.size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}, {len(self)} measurements)"

    @abc.abstractmethod
    def _measure(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        """Evaluate ``⟨A_i, X⟩`` for a dense X, or for ``X = L R`` given as ``(L, R)``; shape=[n_measurements]."""

    @abc.abstractmethod
    def _transpose(self, weights: np.ndarray, dense: bool) -> Any:
        """Evaluate ``Σ_i w_i A_i``, as an array if ``dense``."""

    def residual(self, point: Any) -> np.ndarray:
        """Evaluate ``⟨A_i, X⟩ − y_i``, shape=[n_measurements]."""
        arrays = factors(point, self.shape)
        residual = self._last.get(arrays)
        if residual is None:
            product = arrays if len(arrays) == 1 else (arrays[0] * arrays[1], arrays[2])
            residual = self._measure(product) - self.values
            residual.flags.writeable = False
            self._last.keep(arrays, residual)
        return residual

    def cost(self, point: Any) -> float:
        """Evaluate ``½ Σ_i (⟨A_i, X⟩ − y_i)²``; ``inf``, never NaN, where it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            residual = self.residual(point)
            value = 0.5 * float(residual @ residual)
        return finite_cost(value, factors(point, self.shape))

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``Σ_i (⟨A_i, X⟩ − y_i) A_i``, an array at a dense point."""
        return self._transpose(self.residual(point), dense=not is_factored(point))

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``Σ_i ⟨A_i, Ż⟩ A_i``, an array at a dense point."""
        return self._transpose(self._measure_direction(point, direction), dense=not is_factored(point))

    def curvature(self, point: Any, direction: Any) -> float:
        """Evaluate ``Σ_i ⟨A_i, Ż⟩²``."""
        measured = self._measure_direction(point, direction)
        return float(measured @ measured)

    def relative_error(self, point: Any) -> float:
        """Evaluate ``‖⟨A, X⟩ − y‖ / ‖y‖``, which on measurements that were held out is the error of prediction.

        Raises
        ------
        ValueError
            If all values are zero.
        """
        scale = float(np.linalg.norm(self.values))
        if scale == 0:
            raise ValueError("the relative error is undefined, since all values are 0; use cost instead.")
        return math.sqrt(2 * self.cost(point)) / scale

    def _measure_direction(self, point: Any, direction: Any) -> np.ndarray:
        if is_factored(point):
            return self._measure(direction_factors(point, direction, self.shape))
        return self._measure(factors(direction, self.shape))


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
    """

    def __init__(self, left: Any, right: Any, values: Any) -> None:
        self._left, self._right = _observations.real(left, "left", 2), _observations.real(right, "right", 2)
        if len(self._left) != len(self._right):
            raise ValueError(f"left {self._left.shape} and right {self._right.shape} must have as many rows.")
        super().__init__((self._left.shape[1], self._right.shape[1]), values, len(self._left))

    def _measure(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        if len(arrays) == 1:
            return np.einsum("pn,pn->p", self._left @ arrays[0], self._right)
        return np.einsum("pk,pk->p", self._left @ arrays[0], self._right @ arrays[1].T)

    def _transpose(self, weights: np.ndarray, dense: bool) -> Any:
        if dense:
            return (self._left.T * weights) @ self._right
        return LinearOperator(
            self.shape,
            matvec=lambda x: self._left.T @ (weights * (self._right @ np.ravel(x))),
            rmatvec=lambda y: self._right.T @ (weights * (self._left @ np.ravel(y))),
            matmat=lambda x: self._left.T @ (weights[:, None] * (self._right @ x)),
            rmatmat=lambda y: self._right.T @ (weights[:, None] * (self._left @ y)),
            dtype=np.float64,
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
    """

    def __init__(self, measurements: Any, values: Any) -> None:
        measurements = _observations.real(measurements, "measurements", 3)
        self._flat = measurements.reshape(len(measurements), -1)
        super().__init__(measurements.shape[1:], values, len(measurements))

    def _measure(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
        x = arrays[0] if len(arrays) == 1 else arrays[0] @ arrays[1]
        return self._flat @ x.ravel()

    def _transpose(self, weights: np.ndarray, dense: bool) -> np.ndarray:
        return (weights @ self._flat).reshape(self.shape)
