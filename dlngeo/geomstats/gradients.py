"""Riemannian gradients from Euclidean ones, on any space of geomstats, in NumPy on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.geomstats.metrics import SpectralMetric

__all__ = ["GradientConverter", "fills"]


class GradientConverter:
    r"""The map from Euclidean to Riemannian gradients on a space with its metric.

    The Riemannian gradient is the tangent vector ξ with ``g(ξ, η) = ⟨E′, η⟩`` for all tangent η. It is
    ``metric.gradient(euclidean_gradient, base_point)`` where the metric has it, as those of :mod:`dlngeo.geomstats` do.
    Elsewhere it is solved for in an orthonormal basis of the tangent space, which is right for any metric and costs
    O(dim²) inner products at each new point.

    Parameters
    ----------
    space : geomstats Manifold
        Space whose points are arrays, equipped with a Riemannian metric.
    """

    def __init__(self, space: Any) -> None:
        self.space = space
        metric = space.metric
        self._closed = hasattr(metric, "gradient")
        # A totally geodesic part of a matrix space, like SPDMatrices: its gradient is the tangent part of the ambient
        # one, since the part is fixed by an isometry, transposition.
        self._part = isinstance(metric, SpectralMetric) and not fills(space)
        self._memo: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __call__(self, euclidean_gradient: Any, point: Any) -> np.ndarray:
        """Riemannian gradient at a point.

        Parameters
        ----------
        euclidean_gradient, point : array-like, shape=[*point_shape]

        Returns
        -------
        numpy array, shape=[*point_shape]

        Raises
        ------
        ValueError
            If ``to_tangent`` of the space has a range of another dimension than the space.
        """
        if self._closed:
            base_point = to_gs(point)
            gradient = self.space.metric.gradient(to_gs(euclidean_gradient), base_point)
            return to_numpy(self.space.to_tangent(gradient, base_point) if self._part else gradient)
        basis, gram = self.gram(point)
        components = basis @ np.ravel(euclidean_gradient)
        return (np.linalg.solve(gram, components) @ basis).reshape(self.space.shape)

    def gram(self, point: Any) -> tuple[np.ndarray, np.ndarray]:
        """Frobenius-orthonormal basis of the tangent space, shape=[dim, size], and the metric in it.

        Both are kept for the last point.
        """
        point = np.asarray(point)
        if self._memo is not None and np.array_equal(self._memo[0], point):
            return self._memo[1:]
        shape, dim = self.space.shape, int(self.space.dim)
        base_point = to_gs(point)
        ambient = np.eye(math.prod(shape)).reshape(-1, *shape)
        images = np.stack([to_numpy(self.space.to_tangent(to_gs(e), base_point)) for e in ambient])
        _, values, basis = np.linalg.svd(images.reshape(len(ambient), -1))
        # Also for an oblique to_tangent: a tangent space is its range, and that is all that is used.
        rank = int(np.sum(values > 1e-8 * values[0]))
        if rank != dim:
            raise ValueError(
                f"to_tangent of {type(self.space).__name__} maps onto {rank} dimensions, but the space has dimension "
                f"{dim}; no gradient can be formed from it. Give the metric a method "
                "gradient(euclidean_gradient, base_point)."
            )
        basis = basis[:dim]
        vectors = basis.reshape(dim, *shape)
        rows = (np.broadcast_to(v, vectors.shape) for v in vectors)
        many = self.space.metric.inner_product
        gram = np.stack([to_numpy(many(to_gs(row), to_gs(vectors), base_point)).reshape(dim) for row in rows])
        self._memo = point.copy(), basis, gram
        return basis, gram


def fills(space: Any) -> bool:
    """Whether a space with a spectral metric is open in the matrices of its rank; ``SPDMatrices`` is not."""
    rank = space.metric.rank
    return int(space.dim) == rank * (sum(space.shape) - rank)
