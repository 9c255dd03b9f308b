"""What drives the singular values that have not risen yet, in as much memory as the data take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg
from scipy.sparse.linalg import LinearOperator

from dlngeo.problems.base import Products, as_operator, low_rank

__all__ = ["Waiting", "across", "leading_pair"]

Array = np.ndarray
Pair = tuple[Array, float, Array]

_SMALL = 16  # sides of which all singular values are computed
_NEGLIGIBLE = 1e-4  # of the norm of the driver, what is dropped of it at a time


class Waiting:
    """The driver ``C = −∫ E′ dt``, less its parts along the risen singular vectors: ``−𝒜*(y) + L R``.

    Parameters
    ----------
    adjoint : callable
        ``𝒜*``, from residuals to matrices in any form that has products with thin matrices.
    residual : array
        A residual, for its shape.
    shape : tuple of int
        Shape (m, n) of the matrices.
    """

    def __init__(self, adjoint: Callable[[Array], Any], residual: Array, shape: tuple[int, int]) -> None:
        self._adjoint, self._integral = adjoint, np.zeros(residual.shape)
        self._left, self._right = np.zeros((shape[0], 0)), np.zeros((0, shape[1]))
        self._top: Pair | None = None

    @property
    def width(self) -> int:
        """Number of columns of L."""
        return self._left.shape[1]

    def add(self, residual: Array, time: float) -> None:
        """Subtract ``time · 𝒜*(residual)``."""
        self._integral += time * residual
        self._top = None

    def project(self, u: Array, vt: Array) -> None:
        """Replace C by ``(1 − u uᵀ) C (1 − v vᵀ)``."""
        driver = self._operator()
        rows, columns = driver.rmatmat(u).T, driver.matmat(vt.T)
        columns -= u @ (u.T @ columns)
        left, right = np.hstack((self._left, -u, -columns)), np.vstack((self._right, rows, vt))
        (p, core), (q, other) = np.linalg.qr(left), np.linalg.qr(right.T)
        w, s, zt = np.linalg.svd(core @ other.T)
        # What is dropped along u and v the next projection removes again.
        keep = int(np.count_nonzero(s > _NEGLIGIBLE * s[0]))
        self._left, self._right, self._top = p @ (w[:, :keep] * s[:keep]), zt[:keep] @ q.T, None

    def top(self) -> Pair:
        """Largest singular value of C, with its singular vectors, shapes (m, 1) and (1, n)."""
        if self._top is None:
            self._top = leading_pair(self._operator())
        return self._top

    def _operator(self) -> LinearOperator:
        return low_rank(self._left, self._right) - as_operator(self._adjoint(self._integral))


def across(matrix: Any, u: Array, vt: Array) -> LinearOperator:
    """Products of ``(1 − u uᵀ) G (1 − v vᵀ)``."""
    operator = as_operator(matrix)

    def less(vectors: Array, frame: Array) -> Array:
        return vectors - frame @ (frame.T @ vectors)

    return Products(
        operator.shape,
        np.float64,
        lambda x: less(operator.matmat(less(x, vt.T)), u),
        lambda x: less(operator.rmatmat(less(x, u)), vt.T),
    )


def leading_pair(operator: LinearOperator) -> Pair:
    """``(u, σ, vᵀ)`` of the largest singular value, of shapes (m, 1) and (1, n)."""
    m, n = operator.shape
    if min(m, n) <= _SMALL:  # where Lanczos runs out of directions, and ARPACK gives up on round-off
        u, s, vt = np.linalg.svd(operator.matmat(np.eye(n)), full_matrices=False)
        return u[:, :1], float(s[0]), vt[:1]
    image = operator.matmat(np.random.default_rng(0).standard_normal((n, 1)))  # depends on nothing
    back = operator.rmatmat(image)
    if not np.any(back):  # ARPACK refuses zero
        return np.eye(m, 1), 0.0, np.eye(1, n)
    u, s, vt = scipy.sparse.linalg.svds(operator, 1, v0=(image if m < n else back)[:, 0])
    return u, float(s[0]), vt
