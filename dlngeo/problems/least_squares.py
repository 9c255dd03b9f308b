r"""Least squares on linear data of a matrix, in one place: the residual is computed once at each point, and kept.

.. math:: E(X) = \tfrac12 \| \mathcal A X - b \|^2, \qquad
   E'(X) = \mathcal A^* (\mathcal A X - b), \qquad D^2E(X)[Z] = \mathcal A^* \mathcal A Z .
"""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np

from dlngeo.problems.base import MatrixCost, direction_factors, factors, finite_cost, is_factored
from dlngeo.problems.growth import follow

__all__ = ["LeastSquares", "gram_squares"]

_NULL = 1e-12  # of the largest eigenvalue of 𝒜*𝒜


class LeastSquares(MatrixCost):
    """The cost ``½ ‖𝒜X − b‖²`` of a linear map 𝒜, which subclasses give with its adjoint.

    Dense points may be a batch, shape=[..., m, n]; so are then the costs and the derivatives.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._last: tuple[tuple[np.ndarray, ...], Any, Any] | None = None

    # What a subclass gives.

    #: ``b``, where it is an array, and the number of its axes.
    _data: Any
    _axes: int = 1
    #: What ``‖𝒜X − b‖²`` lacks of the squared error.
    _constant: float = 0.0

    @abc.abstractmethod
    def _apply(self, x: Any) -> Any:
        """Evaluate ``𝒜X`` at an array X, or at ``X = L R`` given as the pair ``(L, R)``.

        Values are arrays, the axes of the batch first; for a pair they may be a pair that stands for its product.
        """

    @abc.abstractmethod
    def _adjoint(self, y: Any, factored: bool) -> Any:
        """Evaluate ``𝒜*y``, an array unless ``factored``."""

    def _difference(self, arrays: tuple[np.ndarray, ...]) -> tuple[Any, Any]:
        """Evaluate ``𝒜X − b`` and its squared norm, at a dense or a factored X."""
        y = self._apply(arrays[0] if len(arrays) == 1 else (arrays[0] * arrays[1], arrays[2]))
        residual = (y[0] @ y[1] if isinstance(y, tuple) else y) - self._data
        return residual, self._squares(residual)

    def _squares(self, y: Any) -> Any:
        """Evaluate ``‖y‖²``, for each matrix of a batch."""
        if isinstance(y, tuple):
            return gram_squares(*y)
        return float(np.vdot(y, y)) if y.ndim == self._axes else np.sum(y * y, axis=tuple(range(-self._axes, 0)))

    def _squared_scale(self) -> float:
        """Evaluate the squared norm of all data."""
        return float(np.linalg.norm(self._data)) ** 2 + self._constant

    # The calculus.

    def residual(self, point: Any) -> Any:
        """Evaluate ``𝒜X − b``, a read-only array; a ValueError tells a point of the wrong shape."""
        return self._evaluate(point)[0]

    def cost(self, point: Any) -> Any:
        """Evaluate ``½ ‖𝒜X − b‖²``; ``inf``, never NaN, if the point is not finite or the sum overflows."""
        return self._evaluate(point)[1]

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``𝒜*(𝒜X − b)``, an array at a dense point."""
        return self._adjoint(self.residual(point), is_factored(point))

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``𝒜*𝒜Ż``, an array at a dense point."""
        return self._adjoint(self._along(point, direction), is_factored(point))

    def curvature(self, point: Any, direction: Any) -> Any:
        """Evaluate ``‖𝒜Ż‖²``."""
        return self._squares(self._along(point, direction))

    def relative_error(self, point: Any) -> Any:
        """Evaluate ``‖𝒜X − b‖ / ‖b‖``, which on data that were held out is the error of prediction.

        Raises
        ------
        ValueError
            If all data are zero, or of unknown norm.
        """
        scale = math.sqrt(self._squared_scale())
        if not scale > 0:
            raise ValueError("the relative error is undefined, since the norm of the data is 0 or unknown; use cost.")
        # An error that is a difference of large numbers may come out negative at an exact fit.
        error = np.sqrt(np.maximum(0.0, 2 * self.cost(point))) / scale
        return error if np.ndim(error) else float(error)

    follow = follow

    def null_space(self) -> np.ndarray:
        """Orthonormal basis of the matrices Z with ``𝒜Z = 0``, shape=[k, m, n]; it applies 𝒜 to all m n units."""
        m, n = self.shape
        units = np.eye(m * n).reshape(m * n, m, n)
        images = np.stack([np.ravel(self._adjoint(self._apply(z), False)) for z in units])
        values, vectors = np.linalg.eigh((images + images.T) / 2)
        return vectors.T[values <= _NULL * max(float(values[-1]), 0.0)].reshape(-1, m, n)

    # Inside.

    def _derivatives_at(self, point: Any) -> Any:
        from dlngeo.problems._derivatives import LeastSquaresDerivatives  # with geomstats, as in MatrixCost.problem

        return LeastSquaresDerivatives(self, point)

    def _evaluate(self, point: Any) -> tuple[Any, Any]:
        """Residual and cost; those of the last point are kept, in case they are asked for again, as optimisers do."""
        arrays, last = factors(point, self.shape, self.field), self._last
        if last is None or not _same(arrays, last[0]):
            last = self._last = None  # so that its memory is free
            with np.errstate(over="ignore", invalid="ignore"):  # a trial point may overflow: the cost is then +inf
                residual, squares = self._difference(arrays)
                cost = finite_cost(0.5 * (squares + self._constant), arrays)
            if isinstance(residual, np.ndarray):
                residual.flags.writeable = False
            # With a copy of the arrays: identity would prove nothing about an array written into.
            last = self._last = tuple(np.array(a) for a in arrays), residual, cost
        return last[1:]

    def _along(self, point: Any, direction: Any) -> Any:
        """Evaluate ``𝒜Ż``."""
        if is_factored(point):
            return self._apply(direction_factors(point, direction, self.shape, field=self.field))
        (x,), (z,) = (factors(a, self.shape, self.field) for a in (point, direction))
        if x.shape != z.shape:
            raise ValueError(f"the direction has shape {z.shape}, the point {x.shape}; give one for each matrix.")
        return self._apply(z)


def _same(arrays: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> bool:
    """Compare by the body of np.array_equal, at a third of the cost on small arrays."""
    pairs = zip(arrays, others, strict=False)
    return len(arrays) == len(others) and all(a.shape == b.shape and (a == b).all() for a, b in pairs)


def gram_squares(left: np.ndarray, right: np.ndarray) -> float:
    """Evaluate ``‖L R‖²`` from the Gram matrices."""
    return float(np.vdot(left.T @ left, right @ right.T))
