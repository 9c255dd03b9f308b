r"""The second derivative of the cometric in the point, as a gradient in the ambient space.

Its extension to matrices near those of rank r, through the truncation of the SVD, is that of the double operator
integral of a function F(a, b) which is constant in a near ``a = 0``, constant in b near ``b = 0``, and zero near both.
Divided differences of F at null eigenvalues alone vanish, which is what
:class:`~dlngeo.matrices._second_order.Differences` assumes for motions along the manifold; so its sums hold for all
matrices, in full singular bases.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo._linalg import adjoint
from dlngeo.matrices._second_order import Differences, SecondOrder
from dlngeo.matrices.frame import Frame

__all__ = ["ForceDerivative"]


class ForceDerivative:
    """The derivative along W of the force ``∇_X⟨P, A_X Q⟩`` at a point of positive singular values.

    It is symmetric in P and Q, and as a bilinear form in W. Its O((m + n)⁴) divided differences are evaluated once.
    """

    def __init__(self, frame: Frame) -> None:
        self._u, self._v = (_complete(frame._xp, basis) for basis in (frame.u, adjoint(frame.vt)))
        rows, cols = (np.minimum(np.arange(size), frame.rank) for size in (frame.m, frame.n))
        self._sums = SecondOrder(Differences(frame), rows, cols)

    def __call__(self, w: Any, p: Any, q: Any) -> Any:
        """Evaluate it at matrices, shape=[..., m, n], normal parts included."""
        w, p, q = (adjoint(self._u) @ z @ self._v for z in (w, p, q))
        return 2 * self._u @ self._sums.force(w, p, q) @ adjoint(self._v)


def _complete(xp: Any, u: Any) -> Any:
    """Orthonormal basis whose first columns are ``u``."""
    size, rank = u.shape[-2:]
    if size == rank:
        return u
    return xp.concat([u, xp.linalg.qr(u, mode="complete")[0][..., rank:]], axis=-1)
