"""Riemannian gradients from Euclidean ones, on any space of geomstats, in NumPy on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.geomstats.metrics import SpectralMetric

__all__ = ["GradientConverter", "fills", "tangent_frames"]


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
        """Riemannian gradient at a point or many, shape=[..., *point_shape]; raises as :func:`tangent_frames`."""
        if self._closed:
            field: Any = getattr(self.space.metric, "field", "real")
            base_point = to_gs(point, field)
            gradient = self.space.metric.gradient(to_gs(euclidean_gradient, field), base_point)
            return to_numpy(self.space.to_tangent(gradient, base_point) if self._part else gradient)
        basis, gram = self.gram(point)
        components = basis @ np.reshape(euclidean_gradient, (*basis.shape[:-2], -1, 1))
        return (basis.swapaxes(-1, -2) @ np.linalg.solve(gram, components)).reshape(np.shape(point))

    def gram(self, point: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the :func:`tangent_frames` of a point; those of the last one are kept."""
        point = np.asarray(point)
        if self._memo is None or not np.array_equal(self._memo[0], point):
            self._memo = point.copy(), *tangent_frames(self.space, point)
        return self._memo[1:]


def tangent_frames(space: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frobenius-orthonormal bases of tangent spaces, at one point or a batch along one axis, and the metric in them.

    The rows of the bases are flat tangent vectors, shape=[..., dim, size], and their inner products [..., dim, dim].

    Raises
    ------
    ValueError
        If ``to_tangent`` of the space has a range of another dimension than the space.
    """
    dim, size, many = int(space.dim), math.prod(space.shape), points.shape[: points.ndim - len(space.shape)]
    base, units = to_gs(points), np.eye(size).reshape(size, *(1 for _ in many), *space.shape)
    images = [to_numpy(space.to_tangent(to_gs(np.broadcast_to(e, points.shape)), base)) for e in units]
    _, values, bases = np.linalg.svd(np.stack([image.reshape(*many, size) for image in images], axis=-2))
    # Also for an oblique to_tangent: a tangent space is its range, and that is all that is used.
    ranks = np.sum(values > 1e-8 * values[..., :1], axis=-1)
    if np.any(ranks != dim):
        raise ValueError(
            f"to_tangent of {type(space).__name__} maps onto {int(np.ravel(ranks[ranks != dim])[0])} dimensions, but "
            f"the space has dimension {dim}; there is no basis of tangent vectors to work in. Give the metric a method "
            "gradient(euclidean_gradient, base_point), or mend to_tangent."
        )
    bases = np.ascontiguousarray(bases[..., :dim, :])
    vectors = np.moveaxis(bases, -2, 0).reshape(dim, *points.shape)
    # One row of all metrics at a time; the points, if many, along one axis, which is what geomstats is sure to take.
    flat = vectors.reshape(-1, *space.shape)
    where = to_gs(np.tile(points, (dim, *(1 for _ in space.shape)))) if many else base
    rows = (np.broadcast_to(v, vectors.shape).reshape(flat.shape) for v in vectors)
    products = [to_numpy(space.metric.inner_product(to_gs(row), to_gs(flat), where)) for row in rows]
    return bases, np.moveaxis(np.reshape(products, (dim, dim, *many)), (0, 1), (-2, -1))


def fills(space: Any) -> bool:
    """Whether a space with a spectral metric is open in the matrices of its rank; ``SPDMatrices`` is not."""
    rank, size = space.metric.rank, 2 if space.metric.field == "complex" else 1
    return int(space.dim) == size * rank * (sum(space.shape) - rank)
