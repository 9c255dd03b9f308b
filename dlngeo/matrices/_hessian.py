r"""What the connection adds to a Riemannian Hessian, as a symmetric operator at one point.

``Hess E[Z]`` is ``A(D²E[Z])`` and a term that is linear in Z and depends on E by ``P = E′`` alone,

.. math:: C(Z) = (D_Z A)(P) + \Gamma(Z, A P)
    = \tfrac12 (D_Z A)(P) + A \nabla_X H(K, P) - \tfrac12 (D_{AP} A)(K), \qquad K = A^{-1} Z .

As ``∇_X H(K, P)`` paired with Z is ``½⟨K, (D_Z A) P⟩``, it is the symmetric part of ``(D_Z A)(P) − ½ (D_{AP} A)(K)``. In
the isometric coordinates ``W = A^{−1/2} Z`` each of its sums runs over a row and a column of W with the same index.
"""

from __future__ import annotations

from typing import Any

from dlngeo.matrices.blocks import Blocks

__all__ = ["ConnectionTerm"]


class ConnectionTerm:
    r"""The tangent part of ``W ↦ A^{−1/2} C(A^{1/2} W)`` at P with no normal part.

    Its tables of O(r³) numbers are evaluated once.

    Attributes
    ----------
    rows, columns, mixed : array, shape=[..., r, r, r]
        The k-th of each acts on row and column k of the core: ``rows`` and ``columns`` are symmetric, and take each to
        itself, ``mixed`` takes the column to the row, and transposed the row to the column.
    of_left, of_right : array, shape=[..., r, r] or None
        What multiplies the left and the right block.
    straight, turned : array, shape=[..., r, r] or None
        ``a`` and ``b`` by which the core W and the left block L meet: in ``⟨LᵀP_l, a ∘ W + b ∘ Wᵀ⟩``. The right block
        meets Wᵀ in the same way.

    Parameters
    ----------
    frame : Frame
        The point.
    p : Blocks
        Blocks of ``E′``.

    Raises
    ------
    SingularError, KernelError
        If the kernel is not positive, see :meth:`Frame.scale`.
    """

    def __init__(self, frame: Any, p: Blocks) -> None:
        self.p = p
        square = p.left is None and p.right is None
        frame._require_positive(frame.phi, None if square else frame.phi_null)
        xp, s, phi, psi = frame._xp, frame.s, frame.phi, frame.psi
        row, column, root = s[..., :, None], s[..., None, :], xp.sqrt(phi)
        gradient = phi * p.core
        along_u = gradient * column + row * gradient.mT  # GΣ + ΣGᵀ
        along_v = row * gradient + gradient.mT * column

        # t_k[a, b] = √(φ_ka/φ_kb) ψ_b(k, a) and q_k[a, b] = ψ_k(a, b)/√(φ_ka φ_kb), for k the index of a value σ_k or,
        # in the null blocks, of zero.
        def half(t: Any, q: Any, core: Any, along: Any) -> Any:
            first = row * t * core
            return (first + first.mT - q * along) / 2

        t = xp.moveaxis(psi, -3, -1) * (root[..., :, :, None] / root[..., :, None, :])
        q = psi / (root[..., :, :, None] * root[..., :, None, :])
        row, core, turned = (a[..., None, :, :] for a in (row, p.core, p.core.mT))
        self.rows = half(t, q, core, along_v[..., None, :, :])
        self.columns = half(t, q, turned, along_u[..., None, :, :])
        self.mixed = s[..., :, None, None] / 2 * turned * (t + t.mT)
        self.of_left = self.of_right = self.straight = self.turned = None
        if square:
            return
        row = s[..., :, None]
        to_null, of_null, null = frame._psi_to_null, frame._psi_of_null, xp.sqrt(frame.phi_null)[..., :, None]
        t, q = to_null.mT * (null / null.mT), of_null / (null * null.mT)
        if p.left is not None:
            self.of_left = half(t, q, p.core, along_v)
        if p.right is not None:
            self.of_right = half(t, q, p.core.mT, along_u)
        weight = of_null * root / null
        self.straight = row * (to_null.mT * null / root + weight)
        self.turned = column * (weight - null.mT**2 * to_null / (root * null))

    def __call__(self, w: Blocks) -> Blocks:
        """Evaluate it at isometric coordinates, to which it belongs."""
        p, w_t = self.p, w.core.mT
        rows = _each(self.rows, w.core) + _each(self.mixed, w_t)
        core = rows + (_each(self.columns, w_t) + _each(self.mixed.mT, w.core)).mT
        left = right = None
        if w.left is not None:
            meeting = w.left.mT @ p.left
            core = core + (self.straight * meeting + (self.turned * meeting).mT) / 2
            left = w.left @ self.of_left + p.left @ (self.straight * w.core + self.turned * w_t).mT / 2
        if w.right is not None:
            meeting = w.right.mT @ p.right
            core = core + ((self.straight * meeting).mT + self.turned * meeting) / 2
            right = w.right @ self.of_right + p.right @ (self.straight * w_t + self.turned * w.core).mT / 2
        return Blocks(core, left, right)


def _each(tables: Any, rows: Any) -> Any:
    """Multiply the k-th table with the k-th row."""
    return (tables @ rows[..., None])[..., 0]
