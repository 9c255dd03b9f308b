"""The border with geomstats, once: arrays of its backend and of NumPy, batches, and random draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo import _check
from dlngeo._autodiff import is_traced
from dlngeo.errors import GeodesicError

__all__ = ["batch", "draw", "each_pair", "to_gs", "to_numpy", "untraced"]


def to_gs(array: Any) -> Any:
    """Return a NumPy array as an array of the backend of geomstats."""
    # A copy where the array is read-only (JAX's are) or has negative strides, neither of which PyTorch takes.
    return gs.from_numpy(np.require(np.asarray(array, dtype=np.float64), requirements=["C", "W"]))


def to_numpy(array: Any) -> np.ndarray:
    """Return an array of the backend of geomstats as a NumPy array of its own."""
    return np.asarray(gs.to_numpy(gs.copy(array)))


def untraced(array: Any, name: str) -> np.ndarray:
    """Return an array of the backend in NumPy; refuse one that is being differentiated through or is not finite."""
    if is_traced(array):
        raise NotImplementedError(
            "the geodesic solvers of dlngeo are not differentiated through; detach the arrays, or set "
            'metric.exp_solver = ExpODESolver(space, GSIVPIntegrator(20, "rk4")) of geomstats, which is.'
        )
    values = np.asarray(gs.to_numpy(array), dtype=float)
    _check.finite(np, values, name)
    return values


def each_pair(function: Callable[[Any, Any], Any], base_point: Any, point: Any, point_ndim: int) -> Any:
    """Apply a NumPy function to pairs of points, one by one; a failure says which pair it is."""
    starts, ends = np.broadcast_arrays(untraced(base_point, "base_point"), untraced(point, "point"))
    out = np.empty(starts.shape)
    for index in np.ndindex(starts.shape[:-point_ndim]):
        try:
            out[index] = function(starts[index], ends[index])
        except GeodesicError as error:
            if not index:
                raise
            message = f"pair {index if len(index) > 1 else index[0]}: {error}"
            raise GeodesicError(message, error.status, error.residual) from None
    return gs.from_numpy(out)


def batch(n_samples: int) -> tuple[int, ...]:
    """Batch shape of samples, empty for one, as geomstats has it."""
    n_samples = _check.positive_integer(n_samples, "n_samples")
    return () if n_samples == 1 else (n_samples,)


def draw(shape: tuple[int, ...], rng: Any = None) -> Any:
    """Sample independent standard normal entries, by a generator or seed or by ``gs.random``."""
    if math.prod(shape) == 0:
        return gs.zeros(shape)
    if rng is None:
        return gs.random.normal(size=shape)
    return gs.from_numpy(np.random.default_rng(rng).standard_normal(shape))
