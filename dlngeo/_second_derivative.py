r"""The second derivative of the cometric in the point, as a gradient.

The cometric is the double operator integral of ``F(a, b) = φ(√a, √b)`` in ``L = XXᵀ`` and ``R = XᵀX``,
:math:`A_X(P) = \sum_{kl} F(a_k, b_l) E_k P E_l'`, so that its derivatives are sums over divided differences of F in
either argument [1]_. Its extension to matrices near those of rank r, through the truncation of the SVD, is that of a
function which is constant in a near ``a = 0``, constant in b near ``b = 0``, and zero near both: all divided
differences at null eigenvalues alone vanish, and the other ones follow by their recursion.

References
----------
.. [1] R. Bhatia, "Matrix Analysis", Springer 1997, Section V.3, for the Daleckii–Krein formula.
"""

from __future__ import annotations

from typing import Any

from dlngeo.frame import Frame
from dlngeo.kernels import Kernel

__all__ = ["ForceDerivative"]


class ForceDerivative:
    r"""The derivative along W of the force ``∇_X⟨P, A_X Q⟩`` at a point.

    With :math:`\delta L = WX^\top + XW^\top`, :math:`\delta R = X^\top W + W^\top X` in the full singular bases it is

    .. math:: 2 E^L W + (G^L + G^{L\top}) \Sigma + 2 W E^R + \Sigma (G^R + G^{R\top}),

    where, with :math:`\Pi_{kj,l} = P_{kl} Q_{jl} + Q_{kl} P_{jl}` and all divided differences those of F,

    .. math::
        E^L_{kj} = \tfrac12 \sum_l F[a_k, a_j; b_l]\, \Pi_{kj,l}, \qquad
        G^L_{ki} = \sum_{jl} F[a_k, a_i, a_j; b_l]\, \Pi_{kj,l}\, \delta L_{ij}
            + \sum_{jl} F[a_k, a_i; b_j, b_l]\, P_{kl} Q_{ij}\, \delta R_{jl},

    and the same with rows and columns exchanged for the other two. It is symmetric in P and Q, and as a bilinear form
    in W. The divided differences, O((m + n)⁴) of them, are evaluated once.

    Parameters
    ----------
    frame : Frame
        Point of positive singular values.

    Raises
    ------
    NotImplementedError
        If the kernel has no third divided differences.
    """

    def __init__(self, frame: Frame) -> None:
        self._xp = xp = frame._xp
        kernel = frame.kernel
        self._u, rows = _complete(xp, frame.u, frame.s)
        self._v, cols = _complete(xp, frame.vt.mT, frame.s)
        self._sigma = xp.zeros_like(self._u[..., :, :1] * self._v[..., None, :, 0])
        diagonal = list(range(frame.rank))
        self._sigma[..., diagonal, diagonal] = frame.s
        self._left = _differences(xp, kernel, rows, cols)
        self._right = self._left if rows is cols else _differences(xp, kernel, cols, rows)
        self._mixed = _mixed(xp, kernel, _axis(rows, 0), _axis(rows, 1), _axis(cols, 2), _axis(cols, 3))

    def __call__(self, w: Any, p: Any, q: Any) -> Any:
        """Evaluate it.

        Parameters
        ----------
        w, p, q : array, shape=[..., m, n]
            Direction and cotangent vectors, normal parts included.

        Returns
        -------
        array, shape=[..., m, n]
        """
        xp, u, v, sigma = self._xp, self._u, self._v, self._sigma
        w, p, q = (u.mT @ z @ v for z in (w, p, q))
        dl, dr = w @ sigma.mT + sigma @ w.mT, sigma.mT @ w + w.mT @ sigma
        coupled = self._mixed * p[..., :, None, None, :] * q[..., None, :, :, None]  # k, i, j, l
        el, gl = self._one_side(self._left, dl, p, q)
        er, gr = self._one_side(self._right, dr, p.mT, q.mT)
        gl = gl + xp.sum(coupled * dr[..., None, None, :, :], axis=(-2, -1))
        gr = gr + xp.sum(coupled * dl[..., :, :, None, None], axis=(-4, -3))
        return u @ (2 * (el @ w + w @ er) + (gl + gl.mT) @ sigma + sigma @ (gr + gr.mT)) @ v.mT

    def _one_side(self, differences: tuple[Any, Any], dl: Any, p: Any, q: Any) -> tuple[Any, Any]:
        """``E^L`` and the first part of ``G^L``."""
        xp, (first, second) = self._xp, differences
        pairs = p[..., :, None, :] * q[..., None, :, :]
        pairs = pairs + xp.moveaxis(pairs, -3, -2)  # k, j, l
        inner = xp.sum(second * pairs[..., :, None, :, :], axis=-1)  # k, i, j
        return xp.sum(first * pairs, axis=-1) / 2, xp.sum(inner * dl[..., None, :, :], axis=-1)


def _complete(xp: Any, u: Any, s: Any) -> tuple[Any, Any]:
    """Orthonormal basis whose first columns are ``u``, and the singular values with zeros for the others."""
    size, rank = u.shape[-2:]
    if size == rank:
        return u, s
    rest = xp.linalg.qr(u, mode="complete")[0][..., rank:]
    return xp.concat([u, rest], axis=-1), xp.concat([s, xp.zeros_like(rest[..., 0, :])], axis=-1)


def _axis(values: Any, axis: int, ndim: int = 4) -> Any:
    """Values along one of the last ``ndim`` axes."""
    return values[(..., *(slice(None) if i == axis else None for i in range(ndim)))]


def _differences(xp: Any, kernel: Kernel, rows: Any, cols: Any) -> tuple[Any, Any]:
    """``F[a_k, a_j; b_l]`` and ``F[a_k, a_i, a_j; b_l]``."""
    first = _first(xp, kernel, _axis(rows, 0, 3), _axis(rows, 1, 3), _axis(cols, 2, 3))
    return first, _second(xp, kernel, _axis(rows, 0), _axis(rows, 1), _axis(rows, 2), _axis(cols, 3))


# Divided differences of F by singular values, zero standing for a null one. Of second order, those between null rows
# (or columns) alone are only ever multiplied by the derivative of L (or R) between them, zero: any number will do.


def _first(xp: Any, kernel: Kernel, k: Any, j: Any, col: Any) -> Any:
    """``F[k, j; col]``."""
    low, high = xp.minimum(k, j), xp.maximum(k, j)
    none = high == 0
    high = xp.where(none, 1.0, high)
    to_null = (low == 0) & (col == 0)
    value = kernel.divided_difference(col, low, high)
    return xp.where(none, 0.0, xp.where(to_null, kernel(high, 0 * high) / high**2, value))


def _second(xp: Any, kernel: Kernel, k: Any, i: Any, j: Any, col: Any) -> Any:
    """``F[k, i, j; col]``."""
    low, high = xp.minimum(xp.minimum(k, i), j), xp.maximum(xp.maximum(k, i), j)
    middle = xp.maximum(xp.minimum(xp.maximum(k, i), j), xp.minimum(k, i))
    two = middle == 0
    high, middle = xp.where(high == 0, 1.0, high), xp.where(two, 1.0, middle)
    zero = xp.zeros_like(high)
    to_null = (low == 0) & (col == 0)
    value = kernel.second_divided_difference(col, low, middle, high)
    above = _first(xp, kernel, middle, high, zero) - _first(xp, kernel, zero, high, zero)
    value = xp.where(to_null, above / middle**2, value)
    return xp.where(two, _first(xp, kernel, zero, high, col) / high**2, value)


def _mixed(xp: Any, kernel: Kernel, k: Any, i: Any, j: Any, col: Any) -> Any:
    """``F[k, i; j, col]``."""
    low, high = xp.minimum(k, i), xp.maximum(k, i)
    low_col, high_col = xp.minimum(j, col), xp.maximum(j, col)
    high, high_col = xp.where(high == 0, 1.0, high), xp.where(high_col == 0, 1.0, high_col)
    value = kernel.mixed_divided_difference(low, high, low_col, high_col)
    zero = xp.zeros_like(high)
    from_null = _first(xp, kernel, zero, high, high_col) - kernel(high, zero) / high**2
    return xp.where((low == 0) & (low_col == 0), from_null / high_col**2, value)
