"""What Euclidean gradients and Hessian products may be, and their blocks at a factored point.

pymanopt passes on unchecked what a cost function returns as its gradient or Hessian product, and autodiff backends
return derivatives with respect to the three factors. Everything here costs O((m + n) r²) and the products of the
gradient with r vectors, or 2r for a Hessian.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator

from dlngeo import _check
from dlngeo._linalg import adjoint, combine, gram, is_complex, skew, symmetric

__all__ = [
    "SecondOrderParts",
    "gradient_part",
    "is_autodiff",
    "products",
    "second_order_parts",
    "tangent_part",
    "tangent_part_of_autodiff",
]

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

# Roundoff may break the identities of an autodiff gradient by a part of the largest gradient seen, since what is left
# of it near a minimum is a difference of large numbers. A wrong cost breaks them by a part of the gradient itself.
_TOLERANCE = {np.dtype(np.float64): (1e-6, 1e-11), np.dtype(np.float32): (1e-3, 1e-5)}

# Singular values that are equal to round-off, relative to the largest; and so near that quotients of differences lose
# half of their digits.
_TIED, _NEAR = 1e-14, 1e-7


class SecondOrderParts(NamedTuple):
    """What a Riemannian Hessian takes of ``E′`` and ``D²E[Z]``: tangent triples, ``E′ Z_r`` and ``E′ᵀ Z_l``."""

    gradient: Triple
    hessian: Triple
    along: np.ndarray
    across: np.ndarray


def gradient_part(point: Triple, gradient: Any, largest: float) -> tuple[Triple, float]:
    """Tangent part of ``E′`` in any form, and the updated scale of the largest autodiff gradient."""
    if is_autodiff(gradient):
        return tangent_part_of_autodiff(point, gradient, largest)
    u, _, vt = point
    return tangent_part(u, vt, gradient), largest


def second_order_parts(
    point: Triple, gradient: Any, hessian: Any, tangent: Triple, bent: bool, largest: float
) -> tuple[SecondOrderParts, float]:
    """Parts of ``E′`` and ``D²E[Z]``, each in any form, that the Riemannian Hessian is made of.

    Where the rank is below m and n (``bent``), ``E′`` has a normal part, which counts, and of which an autodiff triple
    tells nothing: it cannot go with a product that is a matrix.
    """
    u, _, vt = point
    left, _, right = tangent
    along, across = np.zeros_like(left), np.zeros_like(right)
    if is_autodiff(hessian):  # the normal part of E′ is in it
        g, h, largest = _parts_of_autodiff(point, gradient, hessian, tangent, largest)
        return SecondOrderParts(g, h, along, across), largest
    if not bent:
        g, largest = gradient_part(point, gradient, largest)
    elif is_autodiff(gradient):
        raise ValueError(
            "the gradient is a triple of derivatives in u, s and vt, which tells nothing of its normal part; "
            "the Hessian product is a matrix. Give both in the same form."
        )
    else:
        r = u.shape[1]
        ev, etu = products(np.hstack((u, left)), np.hstack((adjoint(vt), right)), gradient)  # in one pass over E′
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
    return _split(u, vt, *products(u, adjoint(vt), vector))


def _split(u: np.ndarray, vt: np.ndarray, ev: np.ndarray, etu: np.ndarray) -> Triple:
    core = gram(u, ev)
    return combine((ev, None), (u, -core)), core, combine((etu, None), (adjoint(vt), -adjoint(core)))


def products(u: np.ndarray, v: np.ndarray, vector: Any) -> tuple[np.ndarray, np.ndarray]:
    """``E v`` and ``E* u``; E is complex only if u is."""
    m, n = u.shape[0], v.shape[0]
    field: _check.Field = "complex" if is_complex(u) else "real"
    if isinstance(vector, tuple | list):
        return _factored_products(u, v, [_check.numbers(a, "a factor of the derivative", field) for a in vector])
    if not isinstance(vector, LinearOperator) and not scipy.sparse.issparse(vector):
        if not hasattr(vector, "__array__"):
            raise TypeError(
                f"a derivative of type {type(vector).__name__} is not understood; pass an ({m}, {n}) array, a SciPy "
                "sparse matrix or LinearOperator, a pair of factors, or the autodiff triple (du, ds, dvt)."
            )
        vector = _check.numbers(vector, "the derivative", field)
    if (shape := tuple(vector.shape)) != (m, n):
        raise ValueError(f"the derivative has shape {shape}, the matrices are {(m, n)}; pass it unreshaped.")
    if not isinstance(vector, LinearOperator):
        return vector @ v, vector.conj().T @ u
    ev = vector.matmat(v)
    try:
        return ev, vector.rmatmat(u)
    except (NotImplementedError, TypeError) as error:  # SciPy calls None where rmatvec was left out
        raise ValueError("the LinearOperator has no adjoint; define rmatvec or rmatmat.") from error


def _factored_products(u: np.ndarray, v: np.ndarray, factors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    m, n = u.shape[0], v.shape[0]
    if len(factors) in (2, 3) and all(a.ndim == 2 for a in factors):
        chain = [*factors[:2], *(adjoint(a) for a in factors[2:])]  # U S V*
        sides = [m, *(side for a in chain for side in a.shape), n]
        if sides[::2] == sides[1::2]:
            return reduce(lambda b, a: a @ b, chain[::-1], v), reduce(lambda b, a: adjoint(a) @ b, chain, u)
    raise ValueError(
        f"a sequence of arrays of shapes {[a.shape for a in factors]} is no {m}×{n} matrix; pass a pair ({m}×k, k×{n}) "
        f"for its product, or a triple ({m}×k, k×l, {n}×l) for U S Vᵀ."
    )


def is_autodiff(vector: Any) -> bool:
    """Whether it is a triple of derivatives in the factors: its middle is a vector, not a matrix."""
    return isinstance(vector, tuple | list) and len(vector) == 3 and np.ndim(vector[1]) == 1


def tangent_part_of_autodiff(point: Triple, gradient: Any, largest: float = 0.0) -> tuple[Triple, float]:
    r"""Tangent part of ``E′`` from the derivatives of a cost of the factors with respect to them.

    The cost may be ``F((u * s) @ vt) + h(s)``, with h symmetric in the singular values, and further a function of
    ``u * s`` that is one of ``X Xᵀ``, or one of ``s[:, None] * vt`` that is one of ``XᵀX``. For F the chain rule gives
    ``du = F′ V Σ`` and ``dvt = Σ Uᵀ F′``, whence the core ``P = Uᵀ du Σ⁻¹ = Σ⁻¹ dvt V`` with no division by a
    difference of singular values; a function of ``X Xᵀ`` adds ``K Σ`` with a symmetric K to the first of these alone.
    The diagonal is ``ds``.

    Takes ``(du, ds, dvt)``, which is only read, and the scale of the largest gradient so far; returns ``(Up, M, Vp)``
    and the updated scale.

    Raises
    ------
    ValueError
        If the shapes are not those of the point, or the cost is seen not to be of this form; also where singular values
        are equal and the derivatives do not tell which of the two sides the cost reads.
    """
    read = _read(point, gradient, largest)
    return (read.left, read.core + np.diag(read.extra), read.right), read.largest


class _Factored(NamedTuple):
    """Parts of an autodiff gradient: ``du Σ⁻¹ = U p + left``, ``dvtᵀ Σ⁻¹ = V qᵀ + right``, ``ds = diag core + extra``.

    The core is p, or q where ``transposed``.
    """

    left: np.ndarray
    right: np.ndarray
    p: np.ndarray
    q: np.ndarray
    extra: np.ndarray
    transposed: bool
    largest: float

    @property
    def core(self) -> np.ndarray:
        return self.q if self.transposed else self.p


def _read(point: Triple, gradient: Any, largest: float) -> _Factored:
    u, s, vt = point
    du, ds, dvt = _like(point, gradient)
    for a in (du, ds, dvt):
        _check.finite(np, a, "the Euclidean gradient of the cost")
    ev, etu = du / s, (dvt / s[:, None]).T
    p, q = u.T @ ev, etu.T @ vt.T
    scale = max(float(np.linalg.norm(a)) for a in (ev, etu, ds))
    largest = max(largest, scale)
    of_this, of_largest = _TOLERANCE.get(du.dtype, (1e-3, 1e-5))
    allowed = of_this * scale + of_largest * largest

    # A function of XXᵀ adds KΣ to p − q, one of XᵀX takes ΣK; K is symmetric. Where singular values are equal that says
    # nothing, but the rest of ds must then be equal as well, since h is symmetric.
    apart = p - q - np.diag(np.diagonal(p - q))
    gaps = np.abs(s[:, None] - s) / np.max(s)
    wide = np.maximum(s[:, None], s)
    misfits = []
    for core, weighted, near in ((p, s[:, None] * apart, _NEAR), (q, apart * s, _NEAR)):
        rest = ds - np.diagonal(core)
        ties = np.abs(rest[:, None] - rest)[gaps <= (near if np.max(np.abs(apart)) > allowed else _TIED)]
        misfits.append(max(float(np.max(np.abs(weighted - weighted.T) / wide)), float(np.max(ties))))
    transposed = misfits[1] < misfits[0] and np.max(np.abs(apart)) > allowed
    least, other = sorted(misfits)
    if not least <= allowed or (np.max(np.abs(apart)) > allowed and other < 10 * allowed):
        raise ValueError(
            f"the derivatives with respect to u, s and vt contradict each other by {max(least, other):.2e} (allowed "
            f"{allowed:.2e}): the cost depends on more than the matrix (u * s) @ vt and its singular values, or on the "
            "signs or the order of the columns of u and the rows of vt. Write it as a function of (u * s) @ vt and a "
            "symmetric one of s, or pass euclidean_gradient as a matrix in any form that FixedRank.projection takes."
        )
    extra = ds - np.diagonal(q if transposed else p)
    return _Factored(ev - u @ p, etu - vt.T @ q.T, p, q, extra, bool(transposed), largest)


def _parts_of_autodiff(
    point: Triple, gradient: Any, product: Any, tangent: Triple, largest: float
) -> tuple[Triple, Triple, float]:
    r"""Blocks of ``E′``, and of ``D²E[Z]`` with the normal part of ``E′``, from an autodiff Hessian product.

    The product differentiates ``(du, ds, dvt)`` along the velocities ``(u̇, ṡ, v̇ᵀ)`` of the factors. For a cost of
    ``(u * s) @ vt``, with ``H = D²E[Z]``, ``u̇ = (Z_l + U offdiag M)/s``, ``ṡ = diag M`` and ``v̇ = Z_r/s`` the chain
    rule gives

    .. math::
        \dot{du} &= H V \Sigma + E' Z_r + E' V \dot\Sigma, \\
        \dot{dvt}^\top &= H^\top U \Sigma + E'^\top Z_l + E'^\top U (\operatorname{offdiag} M + \dot\Sigma) .

    ``H V`` and ``E′ Z_r`` cannot be told apart, and need not be: the Riemannian Hessian holds their parts orthogonal to
    U as ``φ_0l (H V + E′ Z_r Σ⁻¹)`` only, and ``Uᵀ E′ Z_r`` is known from the gradient. Likewise on the other side.
    The first line holds for a function of ``X Xᵀ`` as well, whose part in the second is ``Z_r K`` and ``Σ Uᵀ H V``.
    """
    u, s, vt = point
    d_du, d_ds, d_dvt = _like(point, product)
    z_left, z, z_right = tangent
    if is_autodiff(gradient):
        read = _read(point, gradient, largest)
    else:
        left, core, right = tangent_part(u, vt, gradient)
        read = _Factored(left, right, core, core, np.zeros_like(s), False, largest)
    if read.transposed:
        raise ValueError(
            "the cost reads s[:, None] * vt, as the norms of columns do, whose Hessian product along a velocity of "
            "this form is not known; minimise over the transposed matrix, or use a first-order solver."
        )
    of_this, of_largest = _TOLERANCE.get(d_du.dtype, (1e-3, 1e-5))
    negligible = of_largest * max(read.largest, float(np.linalg.norm(read.p)))
    ev, etu = u @ read.p + read.left, vt.T @ read.q.T + read.right
    hv = d_du - ev * np.diagonal(z)  # H V Σ + E′ Z_r
    htu = d_dvt.T - etu @ z  # Hᵀ U Σ + E′ᵀ Z_l
    # By all of E′, not its parts: what Lanczos has grown in z_left along u, from round-off, is in the product as well.
    columns = u.T @ hv - etu.T @ z_right  # UᵀHV Σ
    rows = (vt @ htu - ev.T @ z_left).T  # Σ UᵀHV, of what is a function of the product
    two_sided = np.max(np.abs(read.p - read.q)) <= negligible
    k = np.zeros_like(z) if two_sided else symmetric((read.p - read.q) / s)
    misfit = columns / s - rows / s[:, None] - k @ z
    if not two_sided:  # the rest is K̇ Σ, with K̇ symmetric
        misfit = skew(misfit / s) * np.max(s)
    sizes = [np.linalg.norm(a) for a in (d_du, d_dvt)], [np.linalg.norm(a) * np.linalg.norm(z) for a in (ev, etu)]
    # A function of u alone, such as ‖u‖², leaves no trace in ds.
    of_u_alone = not two_sided and np.max(np.abs(read.extra + np.diagonal(read.p - read.q))) <= negligible
    contradicts = not np.max(np.abs(misfit)) <= of_this * float(np.sum(sizes)) / np.min(s)
    if np.any(read.p) and (of_u_alone or contradicts):
        raise ValueError(
            f"the Hessian product with respect to u, s and vt contradicts itself by {np.max(np.abs(misfit)):.2e}: the "
            "cost depends on more than the matrix (u * s) @ vt and its singular values. Write it as a function of "
            "these, or pass the Hessian product as a matrix in any form that FixedRank.projection takes."
        )
    core = columns / s
    if two_sided:  # by least squares each entry is divided by the larger singular value, so to speak
        core = (columns * s + s[:, None] * rows) / (s**2 + s[:, None] ** 2)
    left, right = (hv - u @ (u.T @ hv)) / s, (htu - vt.T @ (vt @ htu)) / s + z_right @ k
    whole = read.left, read.core + np.diag(read.extra), read.right
    if np.max(np.abs(read.extra)) <= negligible:
        return whole, (left, core, right), read.largest
    # What ds holds beside, the gradient of a symmetric h(s), whose derivative along diag M is known.
    velocity = (z_left + u @ (z - np.diag(np.diagonal(z)))) / s
    du = ev * s
    change = d_ds - np.sum(velocity * du + u * d_du - u * ev * np.diagonal(z), axis=0) / s
    core = core + _spectral_hessian(s, read.extra, change, z, negligible)
    return whole, (left + z_left * (read.extra / s), core, right + z_right * (read.extra / s)), read.largest


def _spectral_hessian(s: np.ndarray, slope: np.ndarray, change: np.ndarray, z: np.ndarray, noise: float) -> np.ndarray:
    r"""Core of the Hessian product of a symmetric ``h(σ)``, from ``h′`` and ``change = h″ diag M``.

    The symmetric part of an entry (k, l) of M is multiplied by ``(h′_l − h′_k)/(σ_l − σ_k)``, the skew part by
    ``(h′_k + h′_l)/(σ_k + σ_l)``. Where σ_k = σ_l the former is ``h″_kk − h″_kl``, which is the quotient of the
    differences of ``change`` and of ``diag M``.
    """
    m = np.diagonal(z)
    gap, rise = s[:, None] - s, slope[:, None] - slope
    tied = (np.abs(gap) <= _NEAR * np.max(s)) & (np.abs(rise) <= max(_NEAR * float(np.max(np.abs(slope))), noise))
    along, seen = change[:, None] - change, m[:, None] - m
    even, odd = symmetric(z), skew(z)
    size = float(np.linalg.norm(z))
    below = np.where(tied, seen, gap)
    quotient = np.where(tied, along, rise) / np.where(below == 0, np.inf, below)
    lost = tied & (np.abs(seen) <= _NEAR * size) & (np.abs(even) > _TIED * size) & ~np.eye(s.size, dtype=bool)
    for k, j in np.argwhere(lost):  # h is symmetric, so that any two values of the cluster tell the same
        cluster = np.flatnonzero(tied[k])
        spread = np.ptp(m[cluster])
        if spread <= _NEAR * size:
            raise ValueError(
                f"the singular values {s[k]} and {s[j]} are equal, where a Hessian product along a direction with "
                "equal diagonal entries does not tell the second derivatives of a function of the singular values; "
                "move the point by 1e-6 of its size, or take another direction."
            )
        high, low = cluster[np.argmax(m[cluster])], cluster[np.argmin(m[cluster])]
        quotient[k, j] = (change[high] - change[low]) / spread
    np.fill_diagonal(quotient, 0.0)
    core = quotient * even + (slope[:, None] + slope) / (s[:, None] + s) * odd
    np.fill_diagonal(core, change)
    return core


def _like(point: Triple, derivatives: Any) -> Triple:
    """Arrays of derivatives in the factors, of the shapes of the point."""
    u, s, vt = point
    if is_complex(u):
        raise TypeError(
            "derivatives with respect to u, s and vt are those of real matrices; of complex ones pass the gradient as "
            "a matrix E′ with dE[Z] = Re Tr(E′* Z), in any form that FixedRank.projection takes."
        )
    du, ds, dvt = (_check.real(a, "the autodiff derivative") for a in derivatives)
    if (du.shape, ds.shape, dvt.shape) != (u.shape, s.shape, vt.shape):
        raise ValueError(
            f"the autodiff derivative has shapes {du.shape}, {ds.shape}, {dvt.shape}, the point {u.shape}, {s.shape}, "
            f"{vt.shape}; pass the derivatives with respect to u, s and vt, in this order."
        )
    return du, ds, dvt
