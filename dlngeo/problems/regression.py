r"""Linear regression with several outputs, the cost that a deep linear network is trained on.

.. math:: E(X) = \tfrac12 \| X A - B \|_F^2, \qquad E'(X) = (X A - B) A^\top, \qquad D^2E(X)[Z] = Z A A^\top .
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.problems import _observations
from dlngeo.problems.base import LastPoint, MatrixCost, direction_factors, factors, finite_cost, is_factored

__all__ = ["Regression"]


class Regression(MatrixCost):
    r"""The cost ``E(X) = ½ ‖X A − B‖²`` of a linear map from inputs to outputs.

    With more samples than inputs the data are compressed without loss: for ``A = L Q`` with orthonormal rows of Q,
    ``‖XA − B‖² = ‖XL − BQᵀ‖² + ‖B − BQᵀQ‖²``, which has n samples and a constant. At a factored point the gradient is
    a pair of factors, ``(XA − B, Aᵀ)``.

    Parameters
    ----------
    inputs : array-like, shape=[n, n_samples]
        Inputs ``A``, one sample a column.
    outputs : array-like, shape=[m, n_samples]
        Outputs ``B``.
    whiten : bool
        Replace A by ``(A Aᵀ)^{-1/2} A``, so that ``E(X) = ½ ‖X − B Aᵀ (A Aᵀ)^{-1/2}‖²`` plus a constant. The map of
        the given inputs is then ``X @ whitener``.

    Attributes
    ----------
    shape : tuple of int
        Shape (m, n) of X.
    whitener : array, shape=[n, n] or None
        ``(A Aᵀ)^{-1/2}``, if the inputs were whitened.

    Raises
    ------
    ValueError
        If the numbers of samples differ, there is none, an entry is not finite, or inputs to be whitened are linearly
        dependent.
    TypeError
        If the data are not real.
    """

    def __init__(self, inputs: Any, outputs: Any, *, whiten: bool = False) -> None:
        inputs, outputs = _observations.real(inputs, "inputs", 2), _observations.real(outputs, "outputs", 2)
        if inputs.shape[1] != outputs.shape[1]:
            raise ValueError(
                f"inputs {inputs.shape} and outputs {outputs.shape} must have as many columns, one for each sample."
            )
        self.shape = outputs.shape[0], inputs.shape[0]
        self._scale = float(np.linalg.norm(outputs))
        self._constant = 0.0
        self.whitener: np.ndarray | None = None
        if inputs.shape[1] > inputs.shape[0]:
            q, r = np.linalg.qr(inputs.T)
            compressed = outputs @ q
            self._constant = 0.5 * float(np.linalg.norm(outputs - compressed @ q.T)) ** 2
            inputs, outputs = r.T, compressed
        if whiten:
            p, d, wt = np.linalg.svd(inputs, full_matrices=False)
            if d.size < self.shape[1] or d[-1] <= max(inputs.shape) * np.finfo(float).eps * d[0]:
                raise ValueError(
                    f"the {self.shape[1]} inputs are linearly dependent over the samples, so they cannot be whitened; "
                    "give more samples, or project the inputs onto their span first."
                )
            self.whitener = (p / d) @ p.T
            inputs = p @ wt
        self._inputs, self._outputs = inputs, outputs
        self._last = LastPoint()

    def __repr__(self) -> str:
        return f"Regression({self.shape[0]}×{self.shape[1]}{'' if self.whitener is None else ', whitened'})"

    def cost(self, point: Any) -> float:
        """Evaluate ``½ ‖X A − B‖²``; ``inf``, never NaN, where it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            residual = self._residual(point)
            value = 0.5 * float(np.vdot(residual, residual)) + self._constant
        return finite_cost(value, factors(point, self.shape))

    def euclidean_gradient(self, point: Any) -> Any:
        """Evaluate ``(X A − B) Aᵀ``: as the pair of its factors at a factored point, dense at a dense one."""
        residual = self._residual(point)
        return (residual, self._inputs.T) if is_factored(point) else residual @ self._inputs.T

    def euclidean_hessian(self, point: Any, direction: Any) -> Any:
        """Evaluate ``Ż A Aᵀ``: as a pair of factors at a factored point, dense at a dense one."""
        if not is_factored(point):
            return factors(direction, self.shape)[0] @ self._inputs @ self._inputs.T
        left, right = direction_factors(point, direction, self.shape)
        return left, (right @ self._inputs) @ self._inputs.T

    def curvature(self, point: Any, direction: Any) -> float:
        """Evaluate ``‖Ż A‖²``."""
        if not is_factored(point):
            return float(np.linalg.norm(factors(direction, self.shape)[0] @ self._inputs)) ** 2
        left, right = direction_factors(point, direction, self.shape)
        right = right @ self._inputs
        return float(np.vdot(left.T @ left, right @ right.T))

    def relative_error(self, point: Any) -> float:
        """Evaluate ``‖X A − B‖ / ‖B‖``.

        Raises
        ------
        ValueError
            If all outputs are zero.
        """
        if self._scale == 0:
            raise ValueError("the relative error is undefined, since all outputs are 0; use cost instead.")
        return math.sqrt(2 * self.cost(point)) / self._scale

    def _residual(self, point: Any) -> np.ndarray:
        arrays = factors(point, self.shape)
        residual = self._last.get(arrays)
        if residual is None:
            if len(arrays) == 1:
                residual = arrays[0] @ self._inputs - self._outputs
            else:
                u, s, vt = arrays
                residual = (u * s) @ (vt @ self._inputs) - self._outputs
            self._last.keep(arrays, residual)
        return residual
