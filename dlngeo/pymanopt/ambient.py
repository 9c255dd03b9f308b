"""What Euclidean gradients and Hessian products may be, and their blocks at a factored point.

pymanopt passes on unchecked what a cost function returns as its gradient or Hessian product, and autodiff backends
return derivatives with respect to the three factors. Everything here costs O((m + n) r²) and the products of the
gradient with r vectors, or 2r for a Hessian.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator

from dlngeo import _check
from dlngeo._linalg import combine, gram

__all__ = ["SecondOrderParts", "gradient_part", "second_order_parts", "tangent_part", "tangent_part_of_autodiff"]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

# Roundoff may break the identities of an autodiff gradient by a part of the largest gradient seen, since what is left
# of it near a minimum is a difference of large numbers. A wrong cost breaks them by a part of the gradient itself.
_TOLERANCE = {np.dtype(np.float64): (1e-6, 1e-11), np.dtype(np.float32): (1e-3, 1e-5)}


class SecondOrderParts(NamedTuple):
    """What a Riemannian Hessian takes of ``E′`` and ``D²E[Z]``: tangent triples, ``E′ Z_r`` and ``E′ᵀ Z_l``."""

    gradient: Triple
    hessian: Triple
    along: np.ndarray
    across: np.ndarray


def gradient_part(point: Triple, gradient: Any, largest: float) -> tuple[Triple, float]:
    """Tangent part of ``E′`` in any form, and the updated scale of the largest autodiff gradient.

    See :func:`tangent_part` and :func:`tangent_part_of_autodiff`.
    """
    if _is_autodiff(gradient):
        return tangent_part_of_autodiff(point, gradient, largest)
    u, _, vt = point
    return tangent_part(u, vt, gradient), largest


def second_order_parts(
    point: Triple, gradient: Any, hessian: Any, tangent: Triple, bent: bool, largest: float
) -> tuple[SecondOrderParts, float]:
    """Parts of ``E′`` and ``D²E[Z]``, each in any form, that the Riemannian Hessian is made of.

    Parameters
    ----------
    point, tangent : tuple of arrays
        ``(u, s, vt)``, and ``(Up, M, Vp)`` of Z.
    gradient, hessian : array, sparse matrix, LinearOperator or sequence of arrays
        ``E′`` and ``D²E[Z]``.
    bent : bool
        Whether the rank is below m and n, so that ``E′`` has a normal part, which counts.
    largest : float
        Scale of the largest autodiff gradient so far, which is returned updated.

    Raises
    ------
    TypeError, ValueError
        As :func:`gradient_part`; also if the gradient is an autodiff triple, the Hessian product a matrix, and E′ has a
        normal part, of which the triple tells nothing.
    """
    u, _, vt = point
    left, _, right = tangent
    along, across = np.zeros_like(left), np.zeros_like(right)
    if _is_autodiff(hessian):  # the normal part of E′ is in it
        g, largest = gradient_part(point, gradient, largest)
        return SecondOrderParts(g, _hessian_part_of_autodiff(point, hessian, g, tangent), along, across), largest
    if not bent:
        g, largest = gradient_part(point, gradient, largest)
    elif _is_autodiff(gradient):
        raise ValueError(
            "the gradient is a triple of derivatives in u, s and vt, which tells nothing of its normal part; "
            "the Hessian product is a matrix. Give both in the same form."
        )
    else:
        r = u.shape[1]
        ev, etu = _products(np.hstack((u, left)), np.hstack((vt.T, right)), gradient)  # in one pass over E′
        g, along, across = _split(u, vt, ev[:, :r], etu[:, :r]), ev[:, r:], etu[:, r:]
    return SecondOrderParts(g, tangent_part(u, vt, hessian), along, across), largest


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
    return _split(u, vt, *_products(u, vt.T, vector))


def _split(u: np.ndarray, vt: np.ndarray, ev: np.ndarray, etu: np.ndarray) -> Triple:
    core = gram(u, ev)
    return combine((ev, None), (u, -core)), core, combine((etu, None), (vt.T, -core.T))


def _products(u: np.ndarray, v: np.ndarray, vector: Any) -> tuple[np.ndarray, np.ndarray]:
    """``E v`` and ``Eᵀ u``."""
    m, n = u.shape[0], v.shape[0]
    if isinstance(vector, tuple | list):
        return _factored_products(u, v, [_check.real(a, "a factor of the derivative") for a in vector])
    if isinstance(vector, LinearOperator):
        _require_shape(vector.shape, (m, n))
        ev = vector.matmat(v)
        try:
            return ev, vector.rmatmat(u)
        except (NotImplementedError, TypeError) as error:  # SciPy calls None where rmatvec was left out
            raise ValueError("the LinearOperator has no adjoint; define rmatvec or rmatmat.") from error
    if not scipy.sparse.issparse(vector):
        if not hasattr(vector, "__array__"):
            raise TypeError(
                f"a derivative of type {type(vector).__name__} is not understood; pass an ({m}, {n}) array, a SciPy "
                "sparse matrix or LinearOperator, a pair of factors, or the autodiff triple (du, ds, dvt)."
            )
        vector = _check.real(vector, "the derivative")
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
        raise ValueError(f"the derivative has shape {tuple(shape)}, the matrices are {expected}; pass it unreshaped.")


def _is_autodiff(vector: Any) -> bool:
    """Whether it is a triple of derivatives in the factors: its middle is a vector, not a matrix."""
    return isinstance(vector, tuple | list) and len(vector) == 3 and np.ndim(vector[1]) == 1


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
    du, ds, dvt = _like(point, gradient)
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


def _hessian_part_of_autodiff(point: Triple, product: Any, gradient: Triple, tangent: Triple) -> Triple:
    r"""Blocks of ``D²E[Z]``, and of the normal part of ``E′`` with them, from an autodiff Hessian product.

    The product differentiates ``(du, ds, dvt)`` along the velocities ``(u̇, ṡ, v̇ᵀ)`` of the factors. With
    ``H = D²E[Z]``, ``u̇ = (Z_l + U offdiag M)/s``, ``ṡ = diag M`` and ``v̇ = Z_r/s`` the chain rule gives

    .. math::
        \dot{du} &= H V \Sigma + E' Z_r + E' V \dot\Sigma, \\
        \dot{dvt}^\top &= H^\top U \Sigma + E'^\top Z_l + E'^\top U (\operatorname{offdiag} M + \dot\Sigma) .

    ``H V`` and ``E′ Z_r`` cannot be told apart, and need not be: the Riemannian Hessian holds their parts orthogonal to
    U as ``φ_0l (H V + E′ Z_r Σ⁻¹)`` only, and ``Uᵀ E′ Z_r`` is known from the gradient. Likewise on the other side.

    Parameters
    ----------
    point : tuple of arrays
        ``(u, s, vt)``.
    product : sequence of arrays
        Derivatives of ``(du, ds, dvt)``, of the shapes of the point; only read. That of ``ds`` is not needed.
    gradient, tangent : tuple of arrays
        ``(Up, M, Vp)`` of the Euclidean gradient and of Z.

    Returns
    -------
    blocks : tuple of arrays
        ``((I − UUᵀ)(H V + E′ Z_r Σ⁻¹), Uᵀ H V, (I − VVᵀ)(Hᵀ U + E′ᵀ Z_l Σ⁻¹))``.

    Raises
    ------
    ValueError
        If the shapes are not those of the point.
    """
    u, s, vt = point
    d_du, _, d_dvt = _like(point, product)
    g_left, g, g_right = gradient
    z_left, z, z_right = tangent
    ev, etu = u @ g + g_left, vt.T @ g.T + g_right
    hv = d_du - ev * np.diagonal(z)  # H V Σ + E′ Z_r
    htu = d_dvt.T - etu @ z  # Hᵀ U Σ + E′ᵀ Z_l
    columns = u.T @ hv - g_right.T @ z_right  # UᵀHV Σ
    rows = (vt @ htu - g_left.T @ z_left).T  # Σ UᵀHV
    # Both give UᵀHV; by least squares, each entry is divided by the larger singular value, so to speak.
    core = (columns * s + s[:, None] * rows) / (s**2 + s[:, None] ** 2)
    return (hv - u @ (u.T @ hv)) / s, core, (htu - vt.T @ (vt @ htu)) / s


def _like(point: Triple, derivatives: Any) -> Triple:
    """Arrays of derivatives in the factors, of the shapes of the point."""
    du, ds, dvt = (_check.real(a, "the autodiff derivative") for a in derivatives)
    u, s, vt = point
    if (du.shape, ds.shape, dvt.shape) != (u.shape, s.shape, vt.shape):
        raise ValueError(
            f"the autodiff derivative has shapes {du.shape}, {ds.shape}, {dvt.shape}, the point {u.shape}, {s.shape}, "
            f"{vt.shape}; pass the derivatives with respect to u, s and vt, in this order."
        )
    return du, ds, dvt
