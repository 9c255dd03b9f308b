"""What a Euclidean gradient may be, and its tangent part at a factored point.

pymanopt passes on unchecked what a cost function returns as its gradient, and autodiff backends return derivatives with
respect to the three factors. Everything here costs O((m + n) r²) and the products of the gradient with r vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator

__all__ = ["tangent_part", "tangent_part_of_autodiff"]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

# Roundoff may break the identities of an autodiff gradient by a part of the largest gradient seen, since what is left
# of it near a minimum is a difference of large numbers. A wrong cost breaks them by a part of the gradient itself.
_TOLERANCE = {np.dtype(np.float64): (1e-6, 1e-11), np.dtype(np.float32): (1e-3, 1e-5)}


def tangent_part(u: np.ndarray, vt: np.ndarray, vector: Any) -> Triple:
    r"""Frobenius-orthogonal projection of an ambient m×n matrix E onto the tangent space, as ``(Up, M, Vp)``.

    .. math:: M = U^\top E V, \quad U_p = (I - UU^\top) E V, \quad V_p = (I - VV^\top) E^\top U .

    Parameters
    ----------
    u : array, shape=[m, r]
    vt : array, shape=[r, n]
    vector : array, sparse matrix, LinearOperator or tuple
        ``E`` as an array of shape (m, n), a SciPy sparse matrix or array, a SciPy ``LinearOperator`` with its
        adjoint, a pair (m×k, k×n) that stands for its product, or a triple (m×k, k×l, n×l) for ``U S Vᵀ``.

    Raises
    ------
    TypeError
        If ``vector`` is none of these.
    ValueError
        If it has the wrong shape, or a ``LinearOperator`` lacks the adjoint.
    """
    ev, etu = _products(u, vt, vector)
    core = u.T @ ev
    return ev - u @ core, core, etu - vt.T @ core.T


def _products(u: np.ndarray, vt: np.ndarray, vector: Any) -> tuple[np.ndarray, np.ndarray]:
    """``E V`` and ``Eᵀ U``."""
    m, n, v = u.shape[0], vt.shape[1], vt.T
    if isinstance(vector, tuple | list):
        return _factored_products(u, v, [np.asarray(a) for a in vector])
    if isinstance(vector, LinearOperator):
        _require_shape(vector.shape, (m, n))
        ev = vector.matmat(v)
        try:
            return ev, vector.rmatmat(u)
        except (NotImplementedError, TypeError) as error:  # SciPy calls None where rmatvec was left out
            raise ValueError("the LinearOperator of the gradient has no adjoint; define rmatvec or rmatmat.") from error
    if not scipy.sparse.issparse(vector):
        if not hasattr(vector, "__array__"):
            raise TypeError(
                f"a gradient of type {type(vector).__name__} is not understood; pass an ({m}, {n}) array, a SciPy "
                "sparse matrix or LinearOperator, a pair of factors, or the autodiff triple (du, ds, dvt)."
            )
        vector = np.asarray(vector)
    _require_shape(vector.shape, (m, n))
    return vector @ v, vector.T @ u


def _factored_products(u: np.ndarray, v: np.ndarray, factors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    m, n = u.shape[0], v.shape[0]
    shapes = [a.shape for a in factors]
    fits = all(a.ndim == 2 for a in factors)
    if fits and len(factors) == 2:
        left, right = factors
        if left.shape[0] == m and right.shape[1] == n and left.shape[1] == right.shape[0]:
            return left @ (right @ v), right.T @ (left.T @ u)
    if fits and len(factors) == 3:
        left, middle, right = factors
        if (left.shape[0], right.shape[0]) == (m, n) and middle.shape == (left.shape[1], right.shape[1]):
            return left @ (middle @ (right.T @ v)), right @ (middle.T @ (left.T @ u))
    raise ValueError(
        f"a sequence of arrays of shapes {shapes} is no {m}×{n} matrix; pass a pair ({m}×k, k×{n}) for its product, "
        f"or a triple ({m}×k, k×l, {n}×l) for U S Vᵀ."
    )


def _require_shape(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(shape) != expected:
        raise ValueError(f"the gradient has shape {tuple(shape)}, the matrices are {expected}; pass E′(X) unreshaped.")


def tangent_part_of_autodiff(point: Triple, gradient: Any, largest: float = 0.0) -> tuple[Triple, float]:
    r"""Tangent part of ``E′`` from the derivatives of ``E((u * s) @ vt)`` with respect to the factors.

    By the chain rule ``du = E′ V Σ``, ``ds = diag(Uᵀ E′ V)`` and ``dvt = Σ Uᵀ E′``, whence ``M = Uᵀ du Σ⁻¹`` with no
    division by a difference of singular values.

    Parameters
    ----------
    point : tuple of arrays
        ``(u, s, vt)``.
    gradient : sequence of arrays
        ``(du, ds, dvt)``, of the shapes of the point; only read.
    largest : float
        Scale of the largest gradient so far.

    Returns
    -------
    blocks : tuple of arrays
        ``(Up, M, Vp)``.
    largest : float
        Updated scale.

    Raises
    ------
    ValueError
        If the shapes are not those of the point, or the cost is seen to depend on more than the product
        ``(u * s) @ vt``: then ``diag M ≠ ds``, or the two sides give two different M.
    """
    u, s, vt = point
    du, ds, dvt = (np.asarray(a) for a in gradient)
    if (du.shape, ds.shape, dvt.shape) != (u.shape, s.shape, vt.shape):
        raise ValueError(
            f"the autodiff gradient has shapes {du.shape}, {ds.shape}, {dvt.shape}, the point {u.shape}, {s.shape}, "
            f"{vt.shape}; pass the derivatives with respect to u, s and vt, in this order."
        )
    ev, etu = du / s, (dvt / s[:, None]).T
    core, other = u.T @ ev, etu.T @ vt.T
    scale = max(float(np.linalg.norm(a)) for a in (ev, etu, ds))
    largest = max(largest, scale)
    of_this, of_largest = _TOLERANCE.get(du.dtype, (1e-3, 1e-5))
    allowed = of_this * scale + of_largest * largest
    mismatch = max(float(np.max(np.abs(np.diagonal(core) - ds))), float(np.max(np.abs(core - other))))
    if mismatch > allowed:
        raise ValueError(
            f"the derivatives with respect to u, s and vt contradict each other by {mismatch:.2e} (allowed "
            f"{allowed:.2e}): the cost depends on more than the matrix (u * s) @ vt. Write it as a function of "
            "(u * s) @ vt, or pass euclidean_gradient as a matrix in any form that FixedRank.projection takes."
        )
    return (ev - u @ core, core, etu - vt.T @ core.T), largest
