"""Derivatives of least squares at one factored point, for the products of many Hessians there."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.pymanopt.ambient import products

__all__ = ["DenseEntries", "LeastSquaresDerivatives"]

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


class DenseEntries:
    """Those of matrix completion where so many entries are observed that dense arrays are hardly larger."""

    def __init__(self, mask: Array, gradient: Array, point: Any) -> None:
        self._mask, self._gradient = mask, gradient
        self._u, self._s, self._vt = point
        self.right, self.left = gradient @ self._vt.T, gradient.T @ self._u

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array | None]:
        """See :meth:`dlngeo.pymanopt.local.Derivatives.along`."""
        u, vt = self._u, self._vt
        first = u @ core
        if left is not None:
            first += left
        z = first @ vt
        if right is not None:
            z += u @ right.T
        z *= self._mask
        of_v = z @ vt.T
        if left is None and right is None:
            return of_v, None
        of_u = z.T @ u
        if right is not None:
            of_v += self._gradient @ (right / self._s)
        if left is not None:
            of_u += self._gradient.T @ (left / self._s)
        return of_v, of_u
