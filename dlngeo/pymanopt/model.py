"""The second-order model of a cost at a point, and lengths by which points are compared, on any pymanopt manifold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from pymanopt.manifolds import FixedRankEmbedded
from scipy.sparse.linalg import LinearOperator

from dlngeo.pymanopt import ambient
from dlngeo.pymanopt.balanced import Balanced
from dlngeo.pymanopt.fixed_rank import FixedRank
from dlngeo.pymanopt.from_geomstats import FromGeomstats
from dlngeo.pymanopt.gradient_problem import GradientProblem, difference

__all__ = ["Hessian", "Model", "displacement", "hessian_of", "model_at", "mover"]

Hessian = Callable[[Any, Any], Any]

_STEP = 1e-4  # of differences of gradients, relative to the scale of the point


class Model:
    """Gradient and Hessian of a cost at a point; vectors are the tangent vectors of the manifold."""

    def __init__(self, problem: Any, hessian: Hessian, point: Any) -> None:
        self.manifold, self.point = problem.manifold, point
        self._hessian = hessian
        self.gradient = problem.riemannian_gradient(point)

    def dot(self, a: Any, b: Any) -> float:
        return float(self.manifold.inner_product(self.point, a, b))

    def release(self) -> None:
        """Nothing is kept for products."""

    def product(self, vector: Any) -> Any:
        return self._hessian(self.point, vector)

    def move(self, vector: Any) -> Any:
        return mover(self.manifold)(self.point, vector)


def model_at(problem: Any, hessian: Hessian, point: Any) -> Any:
    """Take the manifold's own model, which is faster, where it has one."""
    local = getattr(problem.manifold, "local", None)
    if local is not None and hessian == problem.riemannian_hessian:
        return local(problem, point)
    return Model(problem, hessian, point)


def mover(manifold: Any) -> Callable[[Any, Any], Any]:
    """Return the map along tangent vectors: right to second order, and as cheap as can be had."""
    if isinstance(manifold, FixedRank | Balanced):
        return manifold.retraction
    if isinstance(manifold, FromGeomstats):
        return manifold.move

    def move(point: Any, vector: Any) -> Any:
        try:
            return manifold.exp(point, vector)
        except NotImplementedError:
            return manifold.retraction(point, vector)

    return move


def hessian_of(problem: Any, point: Any) -> Hessian:
    """Return the Riemannian Hessian of a problem, or where it has none a central difference of gradients.

    On ``FixedRank`` and spaces of geomstats whose metric has a Hessian the difference is one of Euclidean gradients,
    and the metric's part is exact; elsewhere it is one of Riemannian gradients, transported back.
    """
    manifold = problem.manifold
    if isinstance(problem, GradientProblem):
        return problem.riemannian_hessian
    try:
        problem.riemannian_hessian(point, problem.riemannian_gradient(point))
    except NotImplementedError:
        pass
    else:
        return problem.riemannian_hessian
    try:
        exact = _metric_hessian(problem, point)
    except NotImplementedError:
        exact = None
    if exact is not None:
        return exact
    transport = getattr(manifold, "parallel_transport", manifold.transport)

    def hessian(x: Any, v: Any) -> Any:
        product = difference(problem, mover(manifold), transport, x, v, _STEP * _length(manifold, x))
        # A transport that is approximate leaves something that is not tangent, which would add up along a path.
        return manifold.projection(x, product) if isinstance(manifold, FromGeomstats) else product

    return hessian


def _metric_hessian(problem: Any, point: Any) -> Hessian | None:
    """Return the metric's Hessian with a difference of Euclidean gradients; None where these are not known."""
    manifold = problem.manifold
    closed = isinstance(manifold, FixedRank) or (
        isinstance(manifold, FromGeomstats) and hasattr(manifold.space.metric, "hessian")
    )
    if not closed:
        return None
    problem.euclidean_gradient(point)  # not there for a problem with a Riemannian gradient alone

    def hessian(x: Any, v: Any) -> Any:
        size = manifold.norm(x, v)
        if size == 0:
            return manifold.zero_vector(x)
        h = _STEP * _length(manifold, x) / size
        ahead, behind = (problem.euclidean_gradient(mover(manifold)(x, v * t)) for t in (h, -h))
        second = _combined(ahead, 0.5 / h, behind, -0.5 / h)
        return manifold.euclidean_to_riemannian_hessian(x, problem.euclidean_gradient(x), second, v)

    return hessian


def _combined(a: Any, s: float, b: Any, t: float) -> Any:
    """``s a + t b`` of ambient matrices in the forms that gradients come in."""
    if isinstance(a, tuple | list):
        (left, right), (other, rest) = a, b
        return np.hstack((s * np.asarray(left), t * np.asarray(other))), np.vstack((right, rest))
    if isinstance(a, LinearOperator) or scipy.sparse.issparse(a):
        return s * a + t * b
    return s * np.asarray(a) + t * np.asarray(b)


# Lengths.


def displacement(manifold: Any, a: Any, b: Any) -> float:
    """Distance of the points a and b near each other, to first order, relative to the length of b itself.

    On matrices that is ``‖A − B‖/‖B‖`` in the metric at B, so that a small singular value counts as the metric has it.
    """
    return _apart(manifold, a, b) / _length(manifold, b)


def _apart(manifold: Any, a: Any, b: Any) -> float:
    if _triples(manifold):
        (u, s, vt), (left, t, right) = a, b
        up, core, vp = ambient.tangent_part(left, right, (u * s, vt))
        zero = manifold.zero_vector(b)
        return float(manifold.norm(b, type(zero)(up, core - np.diag(t), vp)))
    if isinstance(manifold, Balanced):
        return math.sqrt(sum(float(np.sum((x - y) ** 2)) for x, y in zip(a, b, strict=True)))
    if not isinstance(manifold, FromGeomstats):
        try:
            return float(manifold.dist(a, b))
        except NotImplementedError:
            pass
    return float(manifold.norm(b, manifold.projection(b, _minus(a, b))))


def _length(manifold: Any, point: Any) -> float:
    """Norm of the point as a tangent vector, where there is such a thing; else the manifold's typical distance."""
    if _triples(manifold):
        zero = manifold.zero_vector(point)
        return float(manifold.norm(point, type(zero)(0 * point[0], np.diag(point[1]), 0 * point[2].T)))
    if isinstance(manifold, Balanced):  # the radial direction of the product moves each layer by 1/N of itself
        return math.sqrt(sum(float(np.sum(w**2)) for w in point)) / len(point)
    try:
        typical = float(manifold.typical_dist)
    except NotImplementedError:
        typical = math.sqrt(manifold.dim)
    try:
        length = float(manifold.norm(point, manifold.projection(point, point)))
    except (NotImplementedError, ValueError):
        return typical
    return length if length > 1e-8 * typical else typical  # zero on spheres, up to round-off


def _triples(manifold: Any) -> bool:
    return isinstance(manifold, FixedRank | FixedRankEmbedded)


def _minus(a: Any, b: Any) -> Any:
    if isinstance(a, tuple | list):
        return [_minus(x, y) for x, y in zip(a, b, strict=True)]
    return a - b
