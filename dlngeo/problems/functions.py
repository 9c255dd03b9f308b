"""A cost of which functions of dense matrices are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo._check import returned
from dlngeo.problems.base import MatrixCost, along, dense

__all__ = ["FunctionCost"]

_STEP = 1e-5  # of central differences of gradients, relative to the point


class FunctionCost(MatrixCost):
    """A cost given by functions of dense matrices, with the interface of the others.

    Parameters
    ----------
    cost, euclidean_gradient : callable
        ``X → E(X)`` and ``X → E′(X)`` on (m, n) arrays.
    shape : tuple of int
        Shape (m, n).
    euclidean_hessian : callable, optional
        ``(X, Z) → D²E(X)[Z]``; central differences of the gradient by default.

    Raises
    ------
    TypeError, ValueError
        If one is no function; when it is evaluated, if it returns something of another shape or a gradient that is not
        finite.

    See Also
    --------
    dlngeo.problems.AutodiffCost
    dlngeo.problems.MatrixCost

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import FunctionCost
    >>> cost = FunctionCost(lambda x: np.sum(x**4) / 4, lambda x: x**3, (2, 2))
    >>> x, z = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[1.0, 1.0], [1.0, 2.0]])
    >>> bool(np.allclose(cost.euclidean_hessian(x, z), 3 * x**2 * z, atol=1e-6))  # by differences
    True
    """

    def __init__(
        self,
        cost: Callable[[Any], Any],
        euclidean_gradient: Callable[[Any], Any],
        shape: tuple[int, int],
        euclidean_hessian: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        given: dict[str, Callable[..., Any]] = {"cost": cost, "euclidean_gradient": euclidean_gradient}
        if euclidean_hessian is not None:
            given["euclidean_hessian"] = euclidean_hessian
        for name, function in given.items():
            if not callable(function):
                raise TypeError(f"{name} must be a function of matrices, got {type(function).__name__}.")
        self.shape = _check.shape(shape)
        self._given = given

    def cost(self, point: Any) -> Any:
        """Evaluate ``E(X)``; ``inf`` where it is NaN."""
        value = float(returned(self._given["cost"](dense(point, self.shape)), (), "the cost", finite=False))
        return math.inf if math.isnan(value) else value

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``E′(X)``."""
        return returned(self._given["euclidean_gradient"](dense(point, self.shape)), self.shape, "the gradient")

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż]``."""
        x, z = dense(point, self.shape), along(point, direction, self.shape)
        if "euclidean_hessian" in self._given:
            return returned(self._given["euclidean_hessian"](x, z), self.shape, "the Hessian")
        size = float(np.linalg.norm(z))
        if size == 0:
            return np.zeros(self.shape)
        step = _STEP * (float(np.linalg.norm(x)) or 1.0) / size
        return (self.euclidean_gradient(x + step * z) - self.euclidean_gradient(x - step * z)) / (2 * step)

    def curvature(self, point: Any, direction: Any) -> Any:
        """Evaluate ``D²E(X)[Ż, Ż]``."""
        return float(np.sum(along(point, direction, self.shape) * self.euclidean_hessian(point, direction)))
