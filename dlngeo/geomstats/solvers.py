"""Geodesic solvers for spectral metrics, in the interface of ``geomstats.numerics.geodesic``.

The solutions are computed by :mod:`dlngeo.matrices.geodesics` in NumPy on every backend, and are not differentiated
through: for that, set ``metric.exp_solver`` to ``ExpODESolver`` of geomstats with a Runge–Kutta integrator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.numerics.geodesic import ExpSolver, LogSolver

from dlngeo import _check
from dlngeo._autodiff import is_traced
from dlngeo.errors import GeodesicError
from dlngeo.kernels import Kernel
from dlngeo.matrices.geodesics import connect, shoot

__all__ = ["CollocationLog", "Shooting", "ShootingExp", "untraced"]


class Shooting(ExpSolver):
    """Exponential map by the eighth-order Runge–Kutta method of SciPy, a batch at a time.

    Implement :meth:`shoot`.

    Parameters
    ----------
    point_ndim : int
        Number of axes of a point.
    tolerance : float
        Local error of a step, relative to the initial state.
    """

    def __init__(self, point_ndim: int, tolerance: float) -> None:
        super().__init__(solves_ivp=True)
        self.point_ndim, self.tolerance = point_ndim, tolerance

    @abstractmethod
    def shoot(self, x: np.ndarray, v: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Points at given times on the geodesics from x with velocity v, shape=[t, ..., *point_shape]."""

    def exp(self, tangent_vec: Any, base_point: Any) -> Any:
        """Follow geodesics for unit time.

        Parameters
        ----------
        tangent_vec, base_point : array-like, shape=[..., *point_shape]
            Velocities and points, broadcast against each other.

        Returns
        -------
        array-like, shape=[..., *point_shape]
            End points.

        Raises
        ------
        GeodesicError
            If a geodesic leaves the space.
        """
        return self._solve(tangent_vec, base_point, np.ones(1))[0]

    def geodesic_ivp(self, tangent_vec: Any, base_point: Any) -> Callable[[Any], Any]:
        """Geodesics as functions of time. A function of times of shape [t] returns [..., t, *point_shape]."""

        def path(t: Any) -> Any:
            times = np.atleast_1d(untraced(t) if gs.is_array(t) else np.asarray(t, float))
            return gs.moveaxis(self._solve(tangent_vec, base_point, times), 0, -1 - self.point_ndim)

        return path

    def _solve(self, tangent_vec: Any, base_point: Any, times: np.ndarray) -> Any:
        x, v = np.broadcast_arrays(untraced(base_point), untraced(tangent_vec))
        for array, name in ((x, "base_point"), (v, "tangent_vec")):
            _check.finite(np, array, name)
        return gs.from_numpy(self.shoot(x, v, times))


class ShootingExp(Shooting):
    """Exponential map of a spectral metric; see :func:`dlngeo.matrices.geodesics.shoot`.

    Parameters
    ----------
    kernel : Kernel
        Kernel of the metric.
    rank : int
        Rank of the points.
    tolerance : float
        Local error of a step, relative to the initial state.
    """

    def __init__(self, kernel: Kernel, rank: int, tolerance: float = 1e-11) -> None:
        super().__init__(point_ndim=2, tolerance=tolerance)
        self.kernel, self.rank = kernel, rank

    def shoot(self, x: np.ndarray, v: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Follow geodesics, which end at a singular matrix."""
        return shoot(x, v, self.kernel, self.rank, times, self.tolerance)[0]


class CollocationLog(LogSolver):
    """Logarithm by collocation and Newton's method, verified; see :func:`dlngeo.matrices.geodesics.connect`.

    Parameters
    ----------
    kernel : Kernel
        Kernel of the metric.
    rank : int
        Rank of the points.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm.
    """

    def __init__(self, kernel: Kernel, rank: int, tolerance: float = 1e-10) -> None:
        super().__init__(solves_bvp=False)
        self.kernel, self.rank, self.tolerance = kernel, rank, tolerance

    def log(self, point: Any, base_point: Any) -> Any:
        """Find initial velocities of geodesics from ``base_point`` to ``point``.

        Parameters
        ----------
        point, base_point : array-like, shape=[..., m, n]
            End points and initial points, broadcast against each other.

        Returns
        -------
        array-like, shape=[..., m, n]
            Tangent vectors at ``base_point``.

        Raises
        ------
        GeodesicError
            If a pair has no geodesic between it, or none is found; the message says which pair.
        """
        ends, starts = np.broadcast_arrays(untraced(point), untraced(base_point))
        for array, name in ((ends, "point"), (starts, "base_point")):
            _check.finite(np, array, name)
        out = np.empty(ends.shape)
        for index in np.ndindex(ends.shape[:-2]):
            try:
                out[index] = connect(starts[index], ends[index], self.kernel, self.rank, self.tolerance).velocity
            except GeodesicError as error:
                if not index:
                    raise
                message = f"pair {index if len(index) > 1 else index[0]}: {error}"
                raise GeodesicError(message, error.status, error.residual) from None
        return gs.from_numpy(out)


def untraced(array: Any) -> np.ndarray:
    """Return an array of the backend of geomstats in NumPy; refuse one that is being differentiated through."""
    if is_traced(array):
        raise NotImplementedError(
            "the geodesic solvers of dlngeo are not differentiated through; detach the arrays, or set "
            'metric.exp_solver = ExpODESolver(space, GSIVPIntegrator(20, "rk4")) of geomstats, which is.'
        )
    return np.asarray(gs.to_numpy(array), dtype=float)
