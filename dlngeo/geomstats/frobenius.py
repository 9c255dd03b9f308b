"""The metric that the flat space of weights induces on manifolds in it, and its geodesics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.numerics.geodesic import LogSolver

from dlngeo import _check
from dlngeo.errors import GeodesicError
from dlngeo.geomstats._random import batch, draw
from dlngeo.geomstats.solvers import Shooting, untraced
from dlngeo.weights.geodesics import Surface, connect, shoot

__all__ = ["FrobeniusMetric", "WeightExp", "WeightLog", "each_pair"]


class FrobeniusMetric(RiemannianMetric):
    r"""Metric that the flat space of weights induces on a manifold in it, ``⟨V, Y⟩ = Σ_p Tr(V_pᵀ Y_p)``.

    Geodesics solve ``Ẅ = II(Ẇ, Ẇ)`` with the second fundamental form II. They are integrated to 1e-11 per step, and
    their ends projected to the manifold; between points they are found to 1e-10 or refused with a
    :class:`dlngeo.errors.GeodesicError`.

    Parameters
    ----------
    space : BalancedMatrices or UnbalancedMatrices
        The manifold.
    """

    def __init__(self, space: Any) -> None:
        super().__init__(space=space)
        self.exp_solver = WeightExp(space.surface)
        self.log_solver = WeightLog(space.surface)

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any = None) -> Any:
        """Inner product of tangent vectors, shape=[...].

        Parameters
        ----------
        tangent_vec_a, tangent_vec_b : array-like, shape=[..., N, d, d]
            Tangent vectors.
        base_point : array-like, shape=[..., N, d, d], optional
            Unused but for its shape: the metric is that of the flat space.
        """
        product = gs.sum(tangent_vec_a * tangent_vec_b, axis=(-3, -2, -1))
        if base_point is not None and base_point.ndim - 3 > product.ndim:
            return gs.broadcast_to(product, base_point.shape[:-3])
        return product

    def gradient(self, euclidean_gradient: Any, base_point: Any) -> Any:
        """Riemannian gradient: the tangent part of the Euclidean one, shape=[..., N, d, d]."""
        return self._space.to_tangent(euclidean_gradient, base_point)

    def hessian(self, tangent_vec: Any, euclidean_gradient: Any, euclidean_hessian: Any, base_point: Any) -> Any:
        """Riemannian Hessian ``P(D²E[V]) + S_ν(V)``, with ν the normal part of the Euclidean gradient.

        Parameters
        ----------
        tangent_vec, euclidean_gradient, euclidean_hessian, base_point : array-like, shape=[..., N, d, d]
            Direction V, Euclidean gradient, its derivative along V, and point.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            Tangent vector.
        """
        frame = self._space.frame(base_point)
        bend = frame.weingarten(tangent_vec, frame.normal(euclidean_gradient))
        return frame.tangent(euclidean_hessian) + bend

    def second_fundamental_form(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        """Second fundamental form ``II(V, Y)``, a normal vector, shape=[..., N, d, d]."""
        return self._space.frame(base_point).second_fundamental_form(tangent_vec_a, tangent_vec_b)

    def geodesic_equation(self, state: Any) -> Any:
        """Right-hand side of the geodesic equation, ``(Ẇ, II(Ẇ, Ẇ))``.

        Parameters
        ----------
        state : array-like, shape=[..., 2, N, d, d]
            Position and velocity.

        Returns
        -------
        array-like, shape=[..., 2, N, d, d]
            Velocity and acceleration.
        """
        position, velocity = state[..., 0, :, :, :], state[..., 1, :, :, :]
        return gs.stack([velocity, self.second_fundamental_form(velocity, velocity, position)], axis=-4)

    def curvature(self, tangent_vec_a: Any, tangent_vec_b: Any, tangent_vec_c: Any, base_point: Any) -> Any:
        """Curvature ``R(X, Y)Z = ∇_X∇_Y Z − ∇_Y∇_X Z − ∇_[X,Y] Z``, by the Gauss equation.

        Parameters
        ----------
        tangent_vec_a, tangent_vec_b, tangent_vec_c, base_point : array-like, shape=[..., N, d, d]
            Tangent vectors X, Y, Z and the point.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            Tangent vector. ``sectional_curvature`` follows.
        """
        frame = self._space.frame(base_point)
        first = frame.weingarten(tangent_vec_a, frame.second_fundamental_form(tangent_vec_b, tangent_vec_c))
        second = frame.weingarten(tangent_vec_b, frame.second_fundamental_form(tangent_vec_a, tangent_vec_c))
        return first - second

    def scalar_curvature(self, base_point: Any) -> Any:
        """Scalar curvature ``‖tr II‖² − ‖II‖²``, shape=[...]."""
        basis = self._space.tangent_basis(base_point)
        frame = self._space.frame(base_point[..., None, :, :, :])
        mean, total = 0.0, 0.0
        for i in range(basis.shape[-4]):
            bend = frame.second_fundamental_form(basis, basis[..., i : i + 1, :, :, :])
            mean = mean + bend[..., i, :, :, :]
            total = total + gs.sum(bend**2, axis=(-4, -3, -2, -1))
        return gs.sum(mean**2, axis=(-3, -2, -1)) - total

    def brownian_drift(self, base_point: Any) -> Any:
        """Itô drift b of Brownian motion, ``dW = P dB + ½ b dt``, with generator ``½Δ``: the mean curvature vector.

        Parameters
        ----------
        base_point : array-like, shape=[..., N, d, d]
            Point.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            The trace of the second fundamental form, a normal vector.
        """
        basis = self._space.tangent_basis(base_point)
        bend = self._space.frame(base_point[..., None, :, :, :]).second_fundamental_form(basis, basis)
        return gs.sum(bend, axis=-4)

    def random_gaussian_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample white noise of the metric, ``N(0, g⁻¹)``, at every point.

        Parameters
        ----------
        base_point : array-like, shape=[..., N, d, d]
            Point.
        n_samples : int
            Number of vectors at every point.
        rng : numpy.random.Generator or int, optional
            Generator or seed. Defaults to the generator of ``gs.random``.

        Returns
        -------
        array-like, shape=[..., N, d, d] or [n_samples, ..., N, d, d]
            Tangent vectors, independent.
        """
        return self._space.to_tangent(draw((*batch(n_samples), *base_point.shape), rng), base_point)


class WeightExp(Shooting):
    """Exponential map of a manifold of weights; see :func:`dlngeo.weights.geodesics.shoot`.

    Parameters
    ----------
    surface : Surface
        The manifold.
    tolerance : float
        Local error of a step, relative to the initial state.
    """

    def __init__(self, surface: Surface, tolerance: float = 1e-11) -> None:
        super().__init__(point_ndim=3, tolerance=tolerance)
        self.surface = surface

    def shoot(self, x: np.ndarray, v: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Follow geodesics, which end at weights of lower rank."""
        return shoot(x, v, self.surface, times, self.tolerance)[0]


class WeightLog(LogSolver):
    """Logarithm by Newton's method, verified; see :func:`dlngeo.weights.geodesics.connect`.

    Parameters
    ----------
    surface : Surface
        The manifold.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm.
    """

    def __init__(self, surface: Surface, tolerance: float = 1e-10) -> None:
        super().__init__(solves_bvp=False)
        self.surface, self.tolerance = surface, tolerance

    def log(self, point: Any, base_point: Any) -> Any:
        """Find initial velocities of geodesics from ``base_point`` to ``point``.

        Parameters
        ----------
        point, base_point : array-like, shape=[..., N, d, d]
            End points and initial points, broadcast against each other.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            Tangent vectors at ``base_point``.

        Raises
        ------
        GeodesicError
            If a pair has no geodesic between it, or none is found; the message says which pair.
        """
        return each_pair(lambda start, end: connect(start, end, self.surface, self.tolerance), base_point, point)


def each_pair(function: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """Apply a NumPy function to pairs of weights, one by one; a failure says which pair it is."""
    a, b = np.broadcast_arrays(untraced(first), untraced(second))
    for array, name in ((a, "base_point"), (b, "point")):
        _check.finite(np, array, name)
    out = np.empty(a.shape)
    for index in np.ndindex(a.shape[:-3]):
        try:
            out[index] = function(a[index], b[index])
        except GeodesicError as error:
            if not index:
                raise
            message = f"pair {index if len(index) > 1 else index[0]}: {error}"
            raise GeodesicError(message, error.status, error.residual) from None
    return gs.from_numpy(out)
