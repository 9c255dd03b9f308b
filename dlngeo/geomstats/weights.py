"""What the manifolds of stacked weights share in geomstats, and the flat space around them.

The space of weights is written here because those that geomstats 2.8 has for stacks of matrices fail on batches of
them: ``NFoldManifold`` in ``belongs``, ``MatricesMetric`` in the inner product.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import geomstats.backend as gs
from geomstats.geometry.base import LevelSet, VectorSpace

from dlngeo import _check
from dlngeo.geomstats._random import batch, draw
from dlngeo.geomstats.frobenius import FrobeniusMetric
from dlngeo.weights.geodesics import Surface

__all__ = ["WeightManifold", "WeightSpace"]


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


class WeightManifold(LevelSet):
    """Manifold of stacked weights, a level set of their imbalance, in the flat space of all weights.

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

    surface: Surface

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
        """Check shape, imbalance and regularity.

        Parameters
        ----------
        point : array-like, shape=[..., N, d, d]
            Weights.
        atol : float
            Absolute tolerance of the entries of the imbalance, and for singular values that count as zero.

        Returns
        -------
        array-like, shape=[...]
            Boolean.
        """
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

        Parameters
        ----------
        vector, point : array-like, shape=[..., N, d, d]
            Vector and weights.

        Returns
        -------
        array-like, shape=[..., N−1, d, d]
            ``W_{p+1}ᵀ V_{p+1} − V_p W_pᵀ`` and its transpose, added.
        """
        half = _t(point[..., 1:, :, :]) @ vector[..., 1:, :, :] - vector[..., :-1, :, :] @ _t(point[..., :-1, :, :])
        return half + _t(half)

    def to_tangent(self, vector: Any, base_point: Any) -> Any:
        """Project a vector orthogonally onto the tangent space.

        Parameters
        ----------
        vector, base_point : array-like, shape=[..., N, d, d]
            Vector and point.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            Tangent vector.
        """
        return self.frame(base_point).tangent(vector)

    def random_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample the standard normal law of the tangent space: the tangent part of independent normal entries.

        Parameters
        ----------
        base_point : array-like, shape=[..., N, d, d]
            Point.
        n_samples : int
            Number of vectors; with a batch of points, 1 or their number, for one at each.
        rng : numpy.random.Generator or int, optional
            Generator or seed. Defaults to the generator of ``gs.random``.

        Returns
        -------
        array-like, shape=[..., N, d, d]
            Tangent vectors.
        """
        points = tuple(base_point.shape[:-3])
        if points and n_samples not in (1, points[0]):
            raise ValueError(f"{n_samples} samples at {points[0]} points; ask for 1 or {points[0]}, one at each.")
        return self.to_tangent(draw((*(points or batch(n_samples)), *self.shape), rng), base_point)

    def tangent_basis(self, base_point: Any) -> Any:
        """Orthonormal basis of the tangent space.

        Parameters
        ----------
        base_point : array-like, shape=[..., N, d, d]
            Point.

        Returns
        -------
        array-like, shape=[..., dim, N, d, d]
        """
        return self.surface.basis(base_point)


def _t(a: Any) -> Any:
    return gs.moveaxis(a, -1, -2)
