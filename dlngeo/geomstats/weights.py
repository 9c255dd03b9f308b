"""What the manifolds of stacked weights share in geomstats: the flat space around them, and the metric it induces.

The space of weights is written here because those that geomstats 2.8 has for stacks of matrices fail on batches of
them: ``NFoldManifold`` in ``belongs``, ``MatricesMetric`` in the inner product.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import geomstats.backend as gs
from geomstats.geometry.base import LevelSet, VectorSpace
from geomstats.geometry.riemannian_metric import RiemannianMetric

from dlngeo import _check
from dlngeo.geomstats._backend import Border, batch, draw
from dlngeo.geomstats.solvers import ShootingExp, ShootingLog
from dlngeo.weights.curvature import curvature, mean_curvature, scalar_curvature
from dlngeo.weights.geodesics import WeightSurface

__all__ = ["FrobeniusMetric", "WeightManifold", "WeightSpace"]


class FrobeniusMetric(Border, RiemannianMetric):
    r"""Metric that the flat space of weights induces on a manifold in it, ``⟨V, Y⟩ = Σ_p Tr(V_pᵀ Y_p)``.

    Geodesics solve ``Ẅ = II(Ẇ, Ẇ)`` with the second fundamental form II. They are integrated to 1e-11 per step, and
    their ends projected to the manifold; between points they are found to 1e-10 or refused with a
    :class:`dlngeo.errors.GeodesicError`. Points, tangent vectors V and Y, Euclidean gradients and Hessian products
    ``D²E[V]`` are arrays, shape=[..., N, d, d].

    Parameters
    ----------
    space : BalancedMatrices or UnbalancedMatrices
        The manifold.

    See Also
    --------
    dlngeo.geomstats.BalancedMatrices
    dlngeo.geomstats.UnbalancedMatrices
    dlngeo.DLNMetric

    Examples
    --------
    >>> import geomstats.backend as gs
    >>> from dlngeo.geomstats import BalancedMatrices
    >>> space = BalancedMatrices(2, depth=3)
    >>> weights = space.random_point(rng=0)
    >>> bool(gs.allclose(space.metric.exp(weights, weights), 2 * weights))  # the balanced weights are a cone
    True
    """

    def __init__(self, space: Any) -> None:
        super().__init__(space=space)
        self.exp_solver = ShootingExp(space.surface)
        self.log_solver = ShootingLog(space.surface)

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any = None) -> Any:
        """Inner product of tangent vectors, shape=[...]."""
        product = gs.sum(tangent_vec_a * tangent_vec_b, axis=(-3, -2, -1))
        if base_point is not None and base_point.ndim - 3 > product.ndim:
            return gs.broadcast_to(product, base_point.shape[:-3])
        return product

    def gradient(self, euclidean_gradient: Any, base_point: Any) -> Any:
        """Riemannian gradient: the tangent part of the Euclidean one, shape=[..., N, d, d]."""
        return self._space.to_tangent(euclidean_gradient, base_point)

    def hessian(self, tangent_vec: Any, euclidean_gradient: Any, euclidean_hessian: Any, base_point: Any) -> Any:
        """Riemannian Hessian ``P(D²E[V]) + S_ν(V)``, with ν the normal part of the Euclidean gradient."""
        frame = self._space.frame(base_point)
        bend = frame.weingarten(tangent_vec, frame.normal(euclidean_gradient))
        return frame.tangent(euclidean_hessian) + bend

    def second_fundamental_form(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        """Second fundamental form ``II(V, Y)``, a normal vector, shape=[..., N, d, d]."""
        return self._space.frame(base_point).second_fundamental_form(tangent_vec_a, tangent_vec_b)

    def geodesic_equation(self, state: Any) -> Any:
        """Right-hand side of the geodesic equation, ``(Ẇ, II(Ẇ, Ẇ))``, shape=[..., 2, N, d, d]."""
        position, velocity = state[..., 0, :, :, :], state[..., 1, :, :, :]
        return gs.stack([velocity, self.second_fundamental_form(velocity, velocity, position)], axis=-4)

    def curvature(self, tangent_vec_a: Any, tangent_vec_b: Any, tangent_vec_c: Any, base_point: Any) -> Any:
        """Curvature ``R(X, Y)Z = ∇_X∇_Y Z − ∇_Y∇_X Z − ∇_[X,Y] Z``, by the Gauss equation.

        Returns shape=[..., N, d, d]; ``sectional_curvature`` follows.
        """
        return curvature(self._space.frame(base_point), tangent_vec_a, tangent_vec_b, tangent_vec_c)

    def scalar_curvature(self, base_point: Any) -> Any:
        """Scalar curvature ``‖tr II‖² − ‖II‖²``, shape=[...]."""
        return scalar_curvature(self._space.frame(base_point), self._space.tangent_basis(base_point))

    def brownian_drift(self, base_point: Any) -> Any:
        """Itô drift b of Brownian motion, ``dW = P dB + ½ b dt``, with generator ``½Δ``: the mean curvature vector.

        Returns shape=[..., N, d, d]. The trace of the second fundamental form, a normal vector.
        """
        return mean_curvature(self._space.frame(base_point), self._space.tangent_basis(base_point))

    def random_gaussian_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample white noise of the metric, ``N(0, g⁻¹)``, at every point.

        Returns shape=[..., N, d, d] or [n_samples, ..., N, d, d].
        """
        noise = draw((*batch(n_samples), *base_point.shape), rng)
        return self._space.to_tangent(gs.cast(noise, base_point.dtype), base_point)


class WeightSpace(VectorSpace):
    """Vector space of the weights of N square layers of width d, shape=[..., N, d, d], without a metric.

    Parameters
    ----------
    d : int
        Width.
    depth : int
        Number N of layers.
    """

    def __init__(self, d: int, depth: int) -> None:
        super().__init__(shape=(depth, d, d), equip=False)

    def projection(self, point: Any) -> Any:
        """Return the point: all are in the space."""
        return gs.copy(point)

    def random_point(self, n_samples: int = 1, bound: float = 1.0) -> Any:
        """Sample independent entries, uniform in ``[−bound, bound]``, shape=[..., N, d, d]."""
        flat = super().random_point(n_samples, bound)
        return gs.reshape(flat, (*flat.shape[:-1], *self.shape))

    def _create_basis(self) -> Any:
        return gs.reshape(gs.eye(self.dim), (self.dim, *self.shape))


class WeightManifold(Border, LevelSet):
    """Manifold of stacked weights, a level set of their imbalance, in the flat space of all weights.

    Points and vectors are arrays, shape=[..., N, d, d], whose leading axes broadcast. A generator or seed ``rng``
    defaults to the generator of ``gs.random``.

    Concrete classes give the surface, the level, which points of it are regular, projection and random points.

    Parameters
    ----------
    d : int
        Width.
    depth : int
        Number N of layers.
    equip : bool
        Equip with :class:`FrobeniusMetric`.
    """

    surface: WeightSurface

    def __init__(self, d: int, depth: int, equip: bool) -> None:
        self.d, self.depth = _check.positive_integer(d, "d"), _check.positive_integer(depth, "depth")
        dim = self.depth * self.d**2 - (self.depth - 1) * self.d * (self.d + 1) // 2
        super().__init__(dim=dim, equip=equip)

    def _define_embedding_space(self) -> WeightSpace:
        return WeightSpace(self.d, self.depth)

    def default_metric(self) -> type:
        """Metric to equip the space with if equip is True."""
        return FrobeniusMetric

    def frame(self, base_point: Any) -> Any:
        """Factor a point once, for many evaluations there: projections and the second fundamental form."""
        return self.surface.frame(base_point)

    def belongs(self, point: Any, atol: float = gs.atol) -> Any:
        """Check shape, imbalance, whose entries vanish to ``atol``, and regularity, to singular values of ``atol``."""
        if tuple(point.shape[-3:]) != self.shape:
            return gs.zeros(point.shape[:-3], dtype=bool)
        xp, w = _check.floating(point)
        finite = xp.all(xp.isfinite(w), axis=(-3, -2, -1))
        w = xp.where(finite[..., None, None, None], w, 0.0)
        return finite & xp.all(xp.abs(self.submersion(w)) <= atol, axis=(-3, -2, -1)) & self._regular(w, atol)

    @abstractmethod
    def _regular(self, point: Any, atol: float) -> Any:
        """Whether points of the level set are regular, shape=[...]."""

    def tangent_submersion(self, vector: Any, point: Any) -> Any:
        """Differentiate the imbalances along a vector.

        Returns shape=[..., N−1, d, d]. ``W_{p+1}ᵀ V_{p+1} − V_p W_pᵀ`` and its transpose, added.
        """
        half = _t(point[..., 1:, :, :]) @ vector[..., 1:, :, :] - vector[..., :-1, :, :] @ _t(point[..., :-1, :, :])
        return half + _t(half)

    def to_tangent(self, vector: Any, base_point: Any) -> Any:
        """Project a vector orthogonally onto the tangent space, shape=[..., N, d, d]."""
        return self.frame(base_point).tangent(vector)

    def random_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample the standard normal law of the tangent space: the tangent part of independent normal entries.

        With a batch of points, ``n_samples`` is 1 or their number, for one vector at each.
        """
        points = tuple(base_point.shape[:-3])
        if points and n_samples not in (1, points[0]):
            raise ValueError(f"{n_samples} samples at {points[0]} points; ask for 1 or {points[0]}, one at each.")
        noise = draw((*(points or batch(n_samples)), *self.shape), rng)
        return self.to_tangent(gs.cast(noise, base_point.dtype), base_point)

    def tangent_basis(self, base_point: Any) -> Any:
        """Orthonormal basis of the tangent space, shape=[..., dim, N, d, d]."""
        return self.surface.basis_at(base_point)


def _t(a: Any) -> Any:
    return gs.moveaxis(a, -1, -2)
