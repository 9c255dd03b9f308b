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
        self._rank, dtype = s.size, self._residual.dtype
        u, v, self._turn = (padded(a, dtype) for a in (self._u, vt.T, 1 / s[None]))
        no_u, no_v = np.zeros_like(u), np.zeros_like(v)
        self.right, self.left = self._pass(np.hstack((no_u, no_u)), np.hstack((no_v, v)), u, np.ones_like(self._turn))
        # What each product fills the other halves of.
        self._moved_and_u, self._v_and_moved, self._still = np.hstack((no_u, u)), np.hstack((v, no_v)), no_u

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array | None]:
        self._cost.n_sampled += 1
        r, width = self._rank, self._still.shape[1]
        moved_and_u, v_and_moved, turned_u = self._moved_and_u.copy(), self._v_and_moved, self._still
        moved = self._u @ core
        moved_and_u[:, :r] = moved if left is None else moved + left
        if left is None and right is None:
            return self._pass(moved_and_u, v_and_moved)
        if left is not None:
            turned_u = turned_u.copy()
            turned_u[:, :r] = left * self._turn[:, :r]
        if right is not None:
            v_and_moved = v_and_moved.copy()
            v_and_moved[:, width : width + r] = right
        return self._pass(moved_and_u, v_and_moved, turned_u, self._turn)

    def _pass(self, *thin: Array) -> tuple[Array, Any]:
        of_v, of_u = self._cost.pattern.along(self._residual, *thin)
        return of_v[:, : self._rank], None if of_u is None else of_u[:, : self._rank]
