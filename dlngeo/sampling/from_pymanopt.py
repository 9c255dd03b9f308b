"""Manifolds of pymanopt as spaces that the samplers take."""

from __future__ import annotations

from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo.geomstats._backend import to_gs, to_numpy

__all__ = ["from_pymanopt"]


def from_pymanopt(manifold: Any, shape: tuple[int, ...]) -> _Space:
    """Let :class:`~dlngeo.sampling.Langevin` sample on a manifold of pymanopt, chain by chain.

    Parameters
    ----------
    manifold : pymanopt Manifold
        Manifold whose points are single arrays. It moves by its ``exp``, or where it has none by its ``retraction``,
        which must then be of second order for the law to be right in the limit of small steps.
    shape : tuple of int
        Shape of a point.

    Returns
    -------
    object
        What the samplers need of a space of geomstats: ``shape``, ``dim``, ``belongs``, ``to_tangent``, ``metric``.

    Raises
    ------
    ValueError
        If points of the manifold consist of several arrays.

    See Also
    --------
    dlngeo.sampling.Langevin
    dlngeo.sampling.BrownianMotion

    Examples
    --------
    >>> import numpy as np
    >>> from pymanopt.manifolds import Sphere
    >>> from dlngeo.sampling import BrownianMotion, from_pymanopt
    >>> pole = np.tile([0.0, 0.0, 1.0], (400, 1))
    >>> walk = BrownianMotion(from_pymanopt(Sphere(3), (3,)), 0.05).sample(pole, 4, rng=0)
    >>> bool(abs(np.mean(walk.points[:, -1, 2]) - np.exp(-0.2)) < 0.05)  # e^{−t}: ½Δz = −z
    True
    """
    if manifold.point_layout != 1:
        raise ValueError(
            f"the points of {manifold} consist of several arrays; only manifolds of single arrays are supported. For "
            "FixedRank sample on dlngeo.geomstats.FixedRankMatrices."
        )
    return _Space(manifold, tuple(shape))


class _Space:
    def __init__(self, manifold: Any, shape: tuple[int, ...]) -> None:
        self.manifold, self.shape, self.dim = manifold, shape, int(manifold.dim)
        self.metric = _Metric(manifold)

    def belongs(self, points: Any, atol: float = 1e-6) -> Any:
        """Tell whether moving by zero leaves a point where it is: off the manifold, it moves onto it."""
        points = to_numpy(points)
        still = np.stack([_move(self.manifold, p, np.zeros(self.shape)) for p in points])
        return gs.from_numpy(np.abs(still - points).reshape(len(points), -1).max(axis=1) <= atol)

    def to_tangent(self, vectors: Any, base_points: Any) -> Any:
        pairs = zip(to_numpy(base_points), to_numpy(vectors), strict=True)
        return to_gs(np.stack([self.manifold.projection(point, vector) for point, vector in pairs]))

    def embed_tangent(self, vectors: np.ndarray, base_points: np.ndarray) -> np.ndarray:
        """Tangent vectors as directions in the ambient space, where the manifold keeps them in another form."""
        try:
            return np.stack([self.manifold.embedding(p, v) for p, v in zip(base_points, vectors, strict=True)])
        except NotImplementedError:
            return vectors


class _Metric:
    def __init__(self, manifold: Any) -> None:
        self.manifold = manifold

    def inner_product(self, a: Any, b: Any, base_points: Any) -> Any:
        triples = zip(to_numpy(base_points), to_numpy(a), to_numpy(b), strict=True)
        return to_gs(np.array([self.manifold.inner_product(point, x, y) for point, x, y in triples]))

    def exp(self, tangent_vecs: Any, base_points: Any) -> Any:
        pairs = zip(to_numpy(base_points), to_numpy(tangent_vecs), strict=True)
        return to_gs(np.stack([_move(self.manifold, point, vector) for point, vector in pairs]))


def _move(manifold: Any, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(manifold.exp(point, vector))
    except NotImplementedError:
        return np.asarray(manifold.retraction(point, vector))
