"""One integrator for geodesics on any surface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853

from dlngeo.errors import GeodesicError

__all__ = ["ENERGY_DRIFT", "integrate_geodesics"]

Array = NDArray[np.float64]

# A geodesic of unit length takes tens of steps. One that takes thousands is running into det X = 0, where the
# coordinates X are singular for N > 1 and the steps shrink without bound.
_MAX_STEPS = 1000
# Geodesics conserve energy, to some hundred tolerances where X is well conditioned. Those that step over det X = 0 lose
# or gain a fair part of it, and their end points are wrong.
ENERGY_DRIFT = 1e7


def integrate_geodesics(
    rate: Callable[[float, Array], Array],
    start: Array,
    times: Array,
    tolerance: float,
    crossed: Callable[[Array], bool],
) -> Array:
    """States at ``times``, which have one sign and grow in size, of points and velocities, shape=[2, ...]."""
    size = np.maximum(np.abs(start).max(axis=(-2, -1), keepdims=True), np.finfo(float).tiny)
    atol = np.broadcast_to(tolerance * size, start.shape).ravel()
    out = np.empty((len(times), *start.shape))
    filled, time = 0, 0.0
    try:
        solver = DOP853(rate, 0.0, start.ravel(), times[-1], rtol=tolerance, atol=atol)
        for _ in range(_MAX_STEPS):
            solver.step()
            if solver.status == "failed" or crossed(solver.y.reshape(start.shape)):
                break
            time = solver.t
            reached = filled + int(np.searchsorted(np.abs(times[filled:]), abs(time), side="right"))
            if reached > filled:
                dense = solver.dense_output()
                for i in range(filled, reached):
                    out[i] = (solver.y if times[i] == time else dense(times[i])).reshape(start.shape)
                filled = reached
            if solver.status == "finished":
                return out
    except (ValueError, np.linalg.LinAlgError):
        pass  # the frame refuses singular and overflowing points
    raise GeodesicError(
        f"the geodesic runs into a singular matrix just after time {time:.3g}, before time {times[-1]:g}: "
        "the metric is incomplete there. Shorten the tangent vector.",
        status="singular",
    )
