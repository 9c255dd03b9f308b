"""Quadratic costs of a matrix, whose critical points at each rank are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo.problems import _observations
from dlngeo.problems.regression import Regression

__all__ = ["QuadraticCost"]


class QuadraticCost(Regression):
    r"""The cost ``E(X) = ½ Tr((X − T) C (X − T)ᵀ)``: regression in terms of its solution and its covariance.

    It is the :class:`Regression` with the inputs ``C^{1/2}`` and the outputs ``T C^{1/2}``; with ``C = I``, low-rank
    approximation.

    On the matrices of rank k its critical points are ``T_I C^{−1/2}``, where ``T_I`` is the sum of k singular triples
    I of ``T C^{1/2}``; those of the k largest singular values are the minima, and all others strict saddles [1]_.

    Parameters
    ----------
    target : array, shape=[m, n]
        T.
    covariance : array, shape=[n, n], optional
        C, symmetric positive definite. Defaults to the identity.

    Attributes
    ----------
    target, covariance : array
        T and C.
    convexity, smoothness : float
        Least and largest eigenvalue of C: strong convexity and smoothness of E.

    Raises
    ------
    TypeError
        If the data are not real.
    ValueError
        If a shape does not fit, an entry is not finite, or C is not symmetric positive definite.

    See Also
    --------
    dlngeo.problems.LowRankApproximation

    References
    ----------
    .. [1] B. Bah, H. Rauhut, U. Terstiege, M. Westdickenberg, "Learning deep linear neural networks: Riemannian
       gradient flows and convergence to global minimizers", Information and Inference 11 (2022), arXiv:1910.05505.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import QuadraticCost
    >>> problem = QuadraticCost(np.diag([3.0, 2.0, 1.0]))
    >>> float(problem.cost(problem.minimum(2)))
    0.5
    """

    def __init__(self, target: Any, covariance: Any = None) -> None:
        self.target = _observations.real(target, "target", 2)
        n = self.target.shape[1]
        self.covariance = np.eye(n) if covariance is None else _observations.real(covariance, "covariance", 2)
        c = self.covariance
        if c.shape != (n, n) or not np.allclose(c, c.T, rtol=1e-12, atol=0):
            raise ValueError(f"the covariance must be a symmetric {n}×{n} matrix; got shape {c.shape}.")
        values, vectors = np.linalg.eigh(c)
        if not values[0] > 1e-14 * values[-1]:
            raise ValueError(
                f"the covariance is singular (eigenvalues from {values[0]:.1e} to {values[-1]:.1e}): take as many "
                "samples as inputs at least, and no inputs that depend on each other."
            )
        self.convexity, self.smoothness = float(values[0]), float(values[-1])
        self._root = (vectors * np.sqrt(values)) @ vectors.T
        self._inverse_root = (vectors / np.sqrt(values)) @ vectors.T
        super().__init__(self._root, self.target @ self._root)
        self._svd = np.linalg.svd(self._data, full_matrices=False)

    @classmethod
    def from_data(cls, inputs: Any, outputs: Any) -> QuadraticCost:
        """Mean squared error ``½ Σ_i ‖X a_i − b_i‖²/k`` up to a constant, from k samples in columns.

        Parameters
        ----------
        inputs : array, shape=[n, k]
        outputs : array, shape=[m, k]
        """
        a, b = _observations.samples(inputs, outputs)
        return cls(np.linalg.lstsq(a.T, b.T, rcond=None)[0].T, a @ a.T / a.shape[1])

    def critical_point(self, indices: Sequence[int]) -> np.ndarray:
        """Critical point on the matrices of rank ``len(indices)``: the sum of these singular triples.

        Parameters
        ----------
        indices : sequence of int
            Places among the singular values of ``T C^{1/2}``, largest first, from 0.
        """
        u, s, vt = self._svd
        chosen = list(indices)
        return (u[:, chosen] * s[chosen]) @ vt[chosen] @ self._inverse_root

    def minimum(self, rank: int) -> np.ndarray:
        """Global minimum on the matrices of rank at most r: Eckart and Young, weighted."""
        return self.critical_point(range(_check.rank(rank, *self.target.shape)))

    def nearest_critical_point(self, x: np.ndarray, rank: int) -> tuple[tuple[int, ...], float]:
        """Triples of the critical point of rank k that a matrix resembles most, and the distance from it.

        The k triples are those with the largest ``u_iᵀ X C^{1/2} v_i/s_i``, which is 1 for those that X has, and 0 for
        the others.
        """
        u, s, vt = self._svd
        shares = np.einsum("ji,jk,ik->i", u, x, vt @ self._root) / np.where(s > 0, s, np.inf)
        chosen = tuple(sorted(np.argsort(-shares)[:rank].tolist()))
        return chosen, float(np.linalg.norm(x - self.critical_point(chosen)))
