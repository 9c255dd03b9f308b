"""Geodesic solvers of :mod:`dlngeo.shooting`, in the interface of ``geomstats.numerics.geodesic``.

The solutions are computed in NumPy on every backend. Autograd and PyTorch differentiate those of kernel metrics in
closed form, see :mod:`dlngeo.geomstats.derivatives`; those of other surfaces are not differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.numerics.geodesic import ExpSolver, LogSolver

from dlngeo.geomstats._backend import coarsest, common_type, untraced
from dlngeo.geomstats.derivatives import Joined, Shot, differentiates, exponential, logarithm
from dlngeo.shooting import Surface, connect_all, shoot

__all__ = ["ShootingExp", "ShootingLog"]


class ShootingExp(ExpSolver):
    """Exponential map by :func:`dlngeo.shooting.shoot`, a batch at a time.

    Parameters
    ----------
    surface : Surface
        The manifold and its metric.
    tolerance : float
        Local error of a step, see :func:`dlngeo.shooting.shoot`.
    """

    def __init__(self, surface: Surface, tolerance: float = 1e-11) -> None:
        super().__init__(solves_ivp=True)
        self.surface, self.tolerance = surface, tolerance

    def exp(self, tangent_vec: Any, base_point: Any) -> Any:
        """Follow geodesics for unit time, shape=[..., *point_shape].

        Raises
        ------
        GeodesicError
            If a geodesic leaves the space, as at a singular matrix.
        """
        if differentiates(self.surface, base_point, tangent_vec):
            return exponential(Shot(self.surface, self.tolerance), base_point, tangent_vec)
        return self._solve(tangent_vec, base_point, np.ones(1))[0]

    def geodesic_ivp(self, tangent_vec: Any, base_point: Any) -> Callable[[Any], Any]:
        """Geodesics as functions of time. A function of times of shape [t] returns [..., t, *point_shape]."""

        def path(t: Any) -> Any:
            if differentiates(self.surface, base_point, tangent_vec, t):
                axes = (..., *(None,) * self.surface.point_ndim)
                times = gs.reshape(gs.array(t) if isinstance(t, (float, int, list)) else t, (-1,))[axes]
                return self.exp(times * tangent_vec[..., None, :, :], base_point[..., None, :, :])
            times = np.atleast_1d(untraced(t, "t"))
            points = self._solve(tangent_vec, base_point, times)
            return gs.moveaxis(points, 0, -1 - self.surface.point_ndim)

        return path

    def _solve(self, tangent_vec: Any, base_point: Any, times: np.ndarray) -> Any:
        field = self.surface.field
        named = (base_point, "base_point"), (tangent_vec, "tangent_vec")
        x, v = np.broadcast_arrays(*(untraced(array, name, field) for array, name in named))
        points = gs.from_numpy(shoot(x, v, self.surface, times, self.tolerance)[0])
        return gs.cast(points, common_type(base_point, tangent_vec))


class ShootingLog(LogSolver):
    """Logarithms of many pairs at once, verified; see :func:`dlngeo.shooting.connect_all`.

    Parameters
    ----------
    surface : Surface
        The manifold and its metric.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm; see :func:`dlngeo.shooting.connect_all`. In
        single precision at least 1e-6.
    """

    def __init__(self, surface: Surface, tolerance: float = 1e-10) -> None:
        super().__init__(solves_bvp=False)
        self.surface, self.tolerance = surface, tolerance

    def log(self, point: Any, base_point: Any) -> Any:
        """Find initial velocities of geodesics from ``base_point`` to ``point``, shape=[..., *point_shape].

        Raises
        ------
        GeodesicError
            If a pair has no geodesic between it, or none is found; the message says which pair.
        """
        if differentiates(self.surface, base_point, point):
            return logarithm(Joined(self), base_point, point)

        field, named = self.surface.field, ((base_point, "base_point"), (point, "point"))
        starts, ends = np.broadcast_arrays(*(untraced(array, name, field) for array, name in named))
        # Points of single precision are on the manifold to that only.
        tolerance = max(self.tolerance, 8 * coarsest(base_point, point))
        velocity = connect_all(starts, ends, self.surface, tolerance).velocity
        return gs.cast(gs.from_numpy(velocity), common_type(base_point, point))
