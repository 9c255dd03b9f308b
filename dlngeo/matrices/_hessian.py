r"""What the connection adds to a Riemannian Hessian, as a symmetric operator at one point.

``Hess E[Z]`` is ``A(D²E[Z])`` and a term that is linear in Z and depends on E by ``P = E′`` alone,

.. math:: C(Z) = (D_Z A)(P) + \Gamma(Z, A P)
    = \tfrac12 (D_Z A)(P) + A \nabla_X H(K, P) - \tfrac12 (D_{AP} A)(K), \qquad K = A^{-1} Z .

As ``∇_X H(K, P)`` paired with Z is ``½⟨K, (D_Z A) P⟩``, it is the symmetric part of ``(D_Z A)(P) − ½ (D_{AP} A)(K)``.
In the isometric coordinates ``W = A^{−1/2} Z`` each of its sums runs over a row and a column of W with the same index:
the core of the result is ``Y + Y′ᵀ`` with

.. math:: Y_k = R_k W_k + S_k (W^\top)_k, \qquad Y'_k = R'_k (W^\top)_k + S_k^\top W_k

for row k and symmetric ``R_k`` and ``R′_k``, all of size r. Over the complex numbers transposes are adjoints.
"""

from __future__ import annotations

from typing import Any

from dlngeo._linalg import adjoint
from dlngeo.matrices._index_sets import index_sets, places_of_triples
from dlngeo.matrices.blocks import Blocks

__all__ = ["ConnectionTerm"]

# The largest integer depth at which the sums over the core are multiplied out as polynomials.
_TERMS = 16


class ConnectionTerm:
    r"""The tangent part of ``W ↦ A^{−1/2} C(A^{1/2} W)`` at P with no normal part.

    What does not depend on W is evaluated once. The product of a core costs O(r³) and tables of r³ numbers; at integer
    depth N up to 16 the cost is O(N r³), in products of matrices, which is less, and there are no such tables.

    Parameters
    ----------
    frame : Frame
        The point.
    p : Blocks
        Blocks of ``E′``.

    Raises
    ------
    SingularError, KernelError
        If the kernel is not positive, see :meth:`dlngeo.matrices.frame.Frame.scale`.
    """

    def __init__(self, frame: Any, p: Blocks) -> None:
        self._p = p
        square = p.left is None and p.right is None
        frame._require_positive(frame.phi, None if square else frame.phi_null)
        depth, xp, s = frame.kernel.depth, frame._xp, frame.s
        row, column, root = s[..., :, None], s[..., None, :], xp.sqrt(frame.phi)
        gradient = frame.phi * p.core
        along_u = gradient * column + row * adjoint(gradient)  # GΣ + ΣGᵀ
        along_v = row * gradient + adjoint(gradient) * column
        terms = _Polynomials if depth is not None and depth <= _TERMS and float(depth).is_integer() else _Tables
        self._core = terms(frame, root, p.core, along_u, along_v)
        if square:
            return
        # As for a row and a column of the core, whose singular value is zero now.
        to_null, of_null = self._core.null_differences(frame)
        null = xp.sqrt(frame.phi_null)[..., :, None]
        t, q = to_null.mT * (null / null.mT), of_null / (null * null.mT)
        self._of_left = _half(row * t * p.core, q * along_v)
        self._of_right = _half(row * t * adjoint(p.core), q * along_u)
        # The core W and the left block L meet in ⟨LᵀP_l, a ∘ W + b ∘ Wᵀ⟩, the right block with Wᵀ in the same way.
        weight = of_null * root / null
        self._straight = row / 2 * (to_null.mT * null / root + weight)
        self._turned = column / 2 * (weight - null.mT**2 * to_null / (root * null))

    def __call__(self, w: Blocks) -> Blocks:
        """Evaluate it at isometric coordinates, to which it belongs."""
        p, w_t = self._p, adjoint(w.core)
        core = self._core(w.core)
        left = right = None
        if w.left is not None:
            meeting = adjoint(w.left) @ p.left
            core = core + self._straight * meeting + adjoint(self._turned * meeting)
            left = w.left @ self._of_left + p.left @ adjoint(self._straight * w.core + self._turned * w_t)
        if w.right is not None:
            meeting = adjoint(w.right) @ p.right
            core = core + adjoint(self._straight * meeting) + self._turned * meeting
            right = w.right @ self._of_right + p.right @ adjoint(self._straight * w_t + self._turned * w.core)
        return Blocks(core, left, right)


class _Tables:
    r"""The matrices ``R_k``, ``R′_k`` and ``S_k`` of any kernel.

    With ``t_k[a, b] = √(φ_ka/φ_kb) ψ_b(k, a)`` and ``q_k[a, b] = ψ_k(a, b)/√(φ_ka φ_kb)``

    .. math:: R_k = \operatorname{sym}(\Sigma P \circ t_k) - \tfrac12 q_k \circ (\Sigma G + G^\top \Sigma), \quad
        S_k = \tfrac12 \sigma_k P^\top \circ (t_k + t_k^\top), \quad G = \varphi \circ P,

    and ``R′_k`` is ``R_k`` for the transposed P. At every depth ``ψ_b(k, a) φ_ka`` is symmetric in all indices, so that
    ``t_k`` is symmetric, and ``q_k = t_k/φ_ab``.
    """

    def __init__(self, frame: Any, root: Any, p: Any, along_u: Any, along_v: Any) -> None:
        self._xp = xp = frame._xp
        row, p, p_t, along_u, along_v, phi = (
            a[..., None, :, :] for a in (frame.s[..., :, None], p, adjoint(p), along_u, along_v, frame.phi)
        )
        if frame.kernel.depth is None:
            t = xp.moveaxis(frame.psi, -3, -1) * (root[..., :, :, None] / root[..., :, None, :])
            q = frame.psi / (root[..., :, :, None] * root[..., :, None, :])
            rows, columns = _half(row * t * p, q * along_v), _half(row * t * p_t, q * along_u)
            twice = t + t.mT
        else:
            k, a, b = index_sets(frame.rank, 3)
            psi = frame.kernel.divided_difference(*(frame.s[..., i] for i in (b, k, a)))
            t = psi * (root[..., k, a] / (root[..., k, b] * root[..., a, b]))
            t = t[..., places_of_triples(frame.rank)] * root[..., None, :, :]
            rows, columns = t * _half(row * p, along_v / phi), t * _half(row * p_t, along_u / phi)
            twice = 2 * t
        mixed = frame.s[..., :, None, None] / 2 * p_t * twice
        halves = xp.concat([rows, mixed], axis=-1), xp.concat([adjoint(mixed), columns], axis=-1)
        self._table = xp.concat(halves, axis=-2).conj()

    def null_differences(self, frame: Any) -> tuple[Any, Any]:
        """``ψ_k(l, 0)`` and ``ψ_0(k, l)``."""
        return frame._psi_to_null, frame._psi_of_null

    def __call__(self, w: Any) -> Any:
        r = w.shape[-1]
        y = (self._table @ self._xp.concat([w, adjoint(w)], axis=-1)[..., None])[..., 0]
        return y[..., :r] + adjoint(y[..., r:])


class _Polynomials:
    r"""The same sums at integer depth, where all these tables come from ``h(a) = a^N`` at ``a = σ^{2/N}``.

    There ``t_k = h[a_k, a, b]/√(φ_ka φ_kb)`` is symmetric and ``q_k = t_k/φ_ab``, and ``h[a_k, a_a, a_b]`` is the sum
    of monomials ``Σ_j H_{N−2−j}(a_k, a_a) a_b^j``, H the complete homogeneous polynomials. So

    .. math:: Y = \varphi^{-1/2} \circ \sum_j H_{N-2-j} \circ (K a^j B + \Sigma K^\top a^j P), \quad
        B = \operatorname{sym}(\Sigma P) - (\Sigma G + G^\top \Sigma)/2\varphi, \quad K = \varphi^{-1/2} \circ W .
    """

    def __init__(self, frame: Any, root: Any, p: Any, along_u: Any, along_v: Any) -> None:
        self._xp, self._root, depth = frame._xp, root, int(frame.kernel.depth)
        xp, row = self._xp, frame.s[..., :, None]
        a = frame.s ** (2 / depth)
        powers, homogeneous = [xp.ones_like(a)], [xp.ones_like(root)]
        for _ in range(depth - 2):
            powers.append(powers[-1] * a)
            homogeneous.append(a[..., :, None] * homogeneous[-1] + powers[-1][..., None, :])
        # In their axes k, (Y, Y'), j, a, before the last two are summed over j.
        scale = (frame.kernel.at_one / depth) ** 2 if depth > 1 else 0.0
        h = xp.stack(homogeneous[::-1], axis=-2) * (scale / root)[..., :, None, :]
        self._with_null = scale * homogeneous[-1]  # h[a_k, a_l, 0]
        turned = row[..., None] * h
        self._weights = xp.stack([h, turned], axis=-3), xp.stack([turned, h], axis=-3)
        b, b_t = _half(row * p, along_v / frame.phi), _half(row * adjoint(p), along_u / frame.phi)
        self._of_w, self._of_transposed = (
            xp.concat([x[..., :, None] * side for side in sides for x in powers], axis=-1)
            for sides in ((b, adjoint(p)), (p, b_t))
        )

    def null_differences(self, frame: Any) -> tuple[Any, Any]:
        """``ψ_k(l, 0)`` and ``ψ_0(k, l)``."""
        return self._with_null / frame.phi_null[..., None, :], self._with_null / frame.phi

    def __call__(self, w: Any) -> Any:
        k = w / self._root
        y, y_t = k @ self._of_w, adjoint(k) @ self._of_transposed
        weights, weights_t = self._weights
        shape = (*y.shape[:-1], *weights.shape[-3:-1], w.shape[-1])
        y = self._xp.reshape(y, shape) * weights + self._xp.reshape(y_t, shape) * weights_t
        y = self._xp.sum(y, axis=-2)
        return y[..., 0, :] + adjoint(y[..., 1, :])


def _half(first: Any, second: Any) -> Any:
    """``sym(first) − second/2``."""
    return (first + adjoint(first) - second) / 2
