"""Linear regression with several outputs, the cost that a deep linear network is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.problems import _observations
from dlngeo.problems.least_squares import LeastSquares

__all__ = ["Regression"]


class Regression(LeastSquares):
    """The cost ``E(X) = ½ ‖X A − B‖²`` of a linear map from inputs to outputs.

    Its derivatives are ``E′(X) = (XA − B) Aᵀ`` and ``D²E(X)[Z] = Z A Aᵀ``.
    With more samples than inputs the data are compressed without loss: for ``A = L Q`` with orthonormal rows of Q,
    ``‖XA − B‖² = ‖XL − BQᵀ‖² + ‖B − BQᵀQ‖²``, which has n samples and a constant. At a factored point the gradient and
    the Hessian product are pairs of factors, ``(XA − B, Aᵀ)`` and ``(L, R A Aᵀ)`` for ``Ż = L R``.

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

    See Also
    --------
    dlngeo.problems.QuadraticCost
    dlngeo.problems.LowRankApproximation

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import Regression
    >>> inputs, outputs = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), np.array([[0.0, 3.0, 3.0]])
    >>> line = np.linalg.lstsq(inputs.T, outputs.T, rcond=None)[0].T  # 1.5 t + 0.5, with residuals ½, 1, ½
    >>> cost = Regression(inputs, outputs)
    >>> bool(np.allclose(cost.euclidean_gradient(line), 0)), round(float(cost.cost(line)), 4)
    (True, 0.75)
    """

    _axes = 2

    def __init__(self, inputs: Any, outputs: Any, *, whiten: bool = False) -> None:
        inputs, outputs = _observations.samples(inputs, outputs)
        super().__init__((outputs.shape[0], inputs.shape[0]))
        self.whitener: np.ndarray | None = None
        if inputs.shape[1] > inputs.shape[0]:
            q, r = np.linalg.qr(inputs.T)
            compressed = outputs @ q
            self._constant = float(np.linalg.norm(outputs - compressed @ q.T)) ** 2
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
        self._inputs, self._data = inputs, outputs

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}×{self.shape[1]}{'' if self.whitener is None else ', whitened'})"

    def _apply(self, x: Any) -> Any:
        return (x[0], x[1] @ self._inputs) if isinstance(x, tuple) else x @ self._inputs

    def _adjoint(self, y: Any, factored: bool) -> Any:
        if isinstance(y, tuple):
            return y[0], y[1] @ self._inputs.T
        return (y, self._inputs.T) if factored else y @ self._inputs.T
