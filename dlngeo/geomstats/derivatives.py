r"""Geodesics that autograd and PyTorch differentiate in closed form, those of kernel metrics.

The exponential map is pulled back by one Jacobi field, the logarithm by a linear system of them, as
:mod:`dlngeo.matrices.jacobi` derives; both once. The distance needs no more than its logarithms [1]_,

.. math:: \nabla_X \tfrac12 d(X, Y)^2 = -A_X^{-1} \log_X Y,

and so its second derivatives are those of the logarithm. At coinciding points the gradient of d is zero here.

References
----------
.. [1] M. P. do Carmo, "Riemannian Geometry", chapter 9, on the first variation of energy.
"""

from __future__ import annotations

from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo._autodiff import Operation, in_jax, is_traced
from dlngeo._autodiff import untraced as values_of
from dlngeo.matrices.differentiable import frame_at
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.matrices.jacobi import pull_back_exp, pull_back_log
from dlngeo.shooting import Surface, shoot

__all__ = ["Joined", "Shot", "differentiates", "distance", "exponential", "logarithm", "squared_distance"]


def differentiates(surface: Surface, *arrays: Any) -> bool:
    """Whether autograd or PyTorch traces one of the arrays, on a surface whose geodesics have derivatives."""
    return isinstance(surface, KernelSurface) and is_traced(*arrays) and not any(map(in_jax, arrays))


def _numpy(array: Any) -> np.ndarray:
    array = values_of(array)  # where it is needed for a gradient, a tensor without history may still say so
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, dtype=float)


def _like(array: Any, x: Any) -> Any:
    return gs.cast(gs.from_numpy(np.ascontiguousarray(array)), x.dtype)


class _Geodesics:
    """Geodesics of a batch, solved once, and the last covectors pulled back along them, with what came of it."""

    def __init__(self, surface: Any) -> None:
        self.surface = surface
        self._covector: np.ndarray | None = None
        self._pulled: Any = None

    def pulled(self, argument: int, x: Any, other: Any, c: Any) -> Any:
        """Gradient in one of the two arguments, which are computed together."""
        x_, other_, c_ = map(_numpy, (x, other, c))
        if self._covector is None or not np.array_equal(self._covector, c_):
            self._covector, self._pulled = c_, self.pull_back(x_, other_, c_)
        return _like(self._pulled[argument], (x, other)[argument])

    def pull_back(self, x: np.ndarray, other: np.ndarray, c: np.ndarray) -> Any:
        raise NotImplementedError


class Shot(_Geodesics):
    """Geodesics from velocities."""

    def __init__(self, surface: Any, tolerance: float) -> None:
        super().__init__(surface)
        self.tolerance = tolerance
        self.end: Any = None

    def value(self, x: Any, v: Any) -> Any:
        """End points."""
        points, velocities = shoot(_numpy(x), _numpy(v), self.surface, tolerance=self.tolerance)
        self.end = points[0], velocities[0]
        return _like(points[0], x)

    def pull_back(self, x: np.ndarray, v: np.ndarray, c: np.ndarray) -> Any:
        return pull_back_exp(x, v, self.end, c, self.surface, self.tolerance)


class Joined(_Geodesics):
    """Geodesics between points, found by a solver of geomstats: of ``backward`` ones, those from the second point."""

    def __init__(self, solver: Any, forward: Joined | None = None) -> None:
        super().__init__(solver.surface)
        self.solver, self._forward = solver, forward
        self._found: Any = None

    @property
    def backward(self) -> Joined:
        """The same geodesics, from their ends."""
        return Joined(self.solver, self)

    def ends(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Velocities at both ends, from x to y."""
        if self._found is None and self._forward is not None:
            first, last = self._forward.ends(y, x)
            self._found = -last, -first
        elif self._found is None:
            start = _numpy(x)
            velocity = _numpy(self.solver.log(_like(_numpy(y), y), _like(start, x)))
            self._found = velocity, shoot(start, velocity, self.surface)[1][0]
        return self._found

    def value(self, x: Any, y: Any) -> Any:
        """Logarithms."""
        return _like(self.ends(x, y)[0], x)

    def pull_back(self, x: np.ndarray, y: np.ndarray, c: np.ndarray) -> Any:
        out = np.empty((2, *x.shape))
        first, last = self.ends(x, y)
        for i in np.ndindex(x.shape[:-2]):
            out[(slice(None), *i)] = pull_back_log(x[i], first[i], (y[i], last[i]), c[i], self.surface)
        return out


def _unavailable(*_: Any) -> Any:
    raise NotImplementedError(
        "second derivatives of the exponential map and of the logarithm are not available in closed form (those of "
        "squared distances are); use finite differences of the first."
    )


def _in_argument(argument: int) -> Operation:
    return Operation(
        lambda context, x, other, c: context.pulled(argument, x, other, c), (_unavailable,) * 3, f"argument_{argument}"
    )


_in_point, _in_other = _in_argument(0), _in_argument(1)
_PRODUCTS = (
    lambda context, c, x, other: _in_point(context, x, other, c),
    lambda context, c, x, other: _in_other(context, x, other, c),
)
exponential = Operation(lambda shot, x, v: shot.value(x, v), _PRODUCTS, "exp")
logarithm = Operation(lambda joined, x, y: joined.value(x, y), _PRODUCTS, "log")


def _momentum(joined: Joined, x: Any, y: Any) -> Any:
    log, surface = logarithm(joined, x, y), joined.surface
    return frame_at(x, surface.kernel, surface.rank, log).metric(log)


def _square(joined: Joined, x: Any, y: Any) -> Any:
    log, surface = joined.value(x, y), joined.surface
    return frame_at(x, surface.kernel, surface.rank).inner(log, log)


squared_distance: Operation = Operation(
    _square,
    (
        lambda joined, c, x, y: -2 * c[..., None, None] * _momentum(joined, x, y),
        lambda joined, c, x, y: -2 * c[..., None, None] * _momentum(joined.backward, y, x),
    ),
    "squared_dist",
    scalar=True,
)


def distance(joined: Joined, x: Any, y: Any) -> Any:
    """Distance, whose gradient is that of its square over twice the distance, and zero where this is."""
    square = squared_distance(joined, x, y)
    zero = gs.cast(values_of(square) == 0, square.dtype)
    return gs.sqrt(square + zero) - zero
