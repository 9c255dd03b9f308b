"""Derivatives of least squares at one factored point, for the products of many Hessians there.

They are what :class:`dlngeo.pymanopt.local.Derivatives` describes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.problems._pattern import padded
from dlngeo.pymanopt.ambient import products

__all__ = ["EntryDerivatives", "LeastSquaresDerivatives"]

Array = np.ndarray


class LeastSquaresDerivatives:
    """Those of any linear map, by its values and its adjoint."""

    def __init__(self, cost: Any, point: Any) -> None:
        self._cost = cost
        self._u, self._s, vt = point
        self._v = vt.T
        self._gradient = cost._gradient_for_products(point)
        self.right, self.left = products(self._u, self._v, self._gradient)

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array]:
        u, v, cost = self._u, self._v, self._cost
        moved = u @ core if left is None else u @ core + left
        pair = (moved, v.T) if right is None else (np.hstack((moved, u)), np.hstack((v, right)).T)
        of_v, of_u = products(u, v, cost._adjoint(cost._apply(pair), True))
        if left is None and right is None:
            return of_v, of_u
        turned_u, turned_v = (np.zeros_like(a) if z is None else z / self._s for a, z in ((u, left), (v, right)))
        more_v, more_u = products(turned_u, turned_v, self._gradient)
        return of_v + more_v, of_u + more_u


class EntryDerivatives:
    """Those of matrix completion, in one pass over the entries."""

    def __init__(self, cost: Any, point: Any) -> None:
        self._cost, self._residual = cost, cost.residual(point)
        self._u, s, vt = point
        self._per_s, self._rank = 1 / s, s.size
        self._turn, one = self._padded(self._per_s[None]), self._padded(np.ones((1, s.size)))
        self._frames = u, v = self._padded(self._u), self._padded(vt.T)
        none = np.zeros_like(u)
        self.right, self.left = self._pass(none, v, none, u, v, one)

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array | None]:
        self._cost.n_sampled += 1
        u, v = self._frames
        moved = self._u @ core
        if left is None and right is None:
            return self._pass(self._padded(moved), v)
        if left is not None:
            moved += left
        turned_u = np.zeros_like(u) if left is None else self._padded(left, self._per_s)
        moved_v = np.zeros_like(v) if right is None else self._padded(right)
        return self._pass(self._padded(moved), v, u, turned_u, moved_v, self._turn)

    def _pass(self, *thin: Array) -> tuple[Array, Any]:
        of_v, of_u = self._cost.pattern.along(self._residual, *thin)
        return of_v[:, : self._rank], None if of_u is None else of_u[:, : self._rank]

    def _padded(self, a: Array, scale: Any = None) -> Array:
        return padded(a, self._residual.dtype, scale)
