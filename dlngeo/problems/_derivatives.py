"""Derivatives of least squares at one factored point, for the products of many Hessians there."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.problems._pattern import padded
from dlngeo.pymanopt.ambient import products

__all__ = ["EntryDerivatives", "LeastSquaresDerivatives"]

Array = np.ndarray


class LeastSquaresDerivatives:
    """Those of any linear map, see :class:`dlngeo.pymanopt.local.Derivatives`."""

    def __init__(self, cost: Any, point: Any) -> None:
        self._cost = cost
        self._u, self._s, vt = point
        self._v = vt.T
        self._gradient = cost._gradient_for_products(point)
        self.right, self.left = products(self._u, self._v, self._gradient)

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array]:
        """See :meth:`dlngeo.pymanopt.local.Derivatives.along`."""
        u, v, cost = self._u, self._v, self._cost
        first = u @ core if left is None else u @ core + left
        pair = (first, v.T) if right is None else (np.hstack((first, u)), np.hstack((v, right)).T)
        of_v, of_u = products(u, v, cost._adjoint(cost._apply(pair), True))
        if left is None and right is None:
            return of_v, of_u
        turned_u, turned_v = (np.zeros_like(a) if z is None else z / self._s for a, z in ((u, left), (v, right)))
        more_v, more_u = products(turned_u, turned_v, self._gradient)
        return of_v + more_v, of_u + more_u


class EntryDerivatives(LeastSquaresDerivatives):
    """Those of matrix completion: one pass over the entries for each Hessian product."""

    def __init__(self, cost: Any, point: Any) -> None:
        super().__init__(cost, point)
        self._entries = cost.residual(point)
        self._frames = self._padded(self._u), self._padded(self._v)

    def _padded(self, a: Array, scale: Any = 1) -> Array:
        return padded(a, self._entries.dtype, scale)

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array | None]:
        """See :meth:`dlngeo.pymanopt.local.Derivatives.along`."""
        self._cost.n_sampled += 1
        r, (u, v) = self._s.size, self._frames
        moved = self._u @ core
        if left is None and right is None:
            return self._cost.pattern.along(self._entries, self._padded(moved), v)[0][:, :r], None
        if left is not None:
            moved += left
        none = np.zeros_like
        of_v, of_u = self._cost.pattern.along(
            *(self._entries, self._padded(moved), v, u),
            none(u) if left is None else self._padded(left, 1 / self._s),
            *((none(v), none(v)) if right is None else (self._padded(right), self._padded(right, 1 / self._s))),
        )
        return of_v[:, :r], of_u[:, :r]
