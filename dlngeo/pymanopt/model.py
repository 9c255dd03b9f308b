"""The second-order model of a cost at a point, and lengths by which points are compared, on any pymanopt manifold."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse
from pymanopt.manifolds import FixedRankEmbedded
from scipy.sparse.linalg import LinearOperator

from dlngeo.pymanopt import ambient
from dlngeo.pymanopt.balanced import Balanced
from dlngeo.pymanopt.fixed_rank import FixedRank
from dlngeo.pymanopt.from_geomstats import FromGeomstats
from dlngeo.pymanopt.gradient_problem import difference

__all__ = ["Model", "displacement", "models_of", "mover"]

HessianAt = Callable[[Any], Callable[[Any], Any]]

_STEP = 1e-4  # of differences of gradients, relative to the scale of the point


class Model:
    """Gradient and Hessian of a cost at a point; vectors are the tangent vectors of the manifold."""

    def __init__(self, problem: Any, hessian_at: HessianAt, point: Any) -> None:
        self.manifold, self.point = problem.manifold, point
        self.gradient, self.product = problem.riemannian_gradient(point), hessian_at(point)

    def dot(self, a: Any, b: Any) -> float:
        return float(self.manifold.inner_product(self.point, a, b))

    def release(self) -> None:
        """Nothing is kept for products."""

    def move(self, vector: Any) -> Any:
        return mover(self.manifold)(self.point, vector)


def models_of(problem: Any, point: Any) -> Callable[[Any], Any]:
    """Return the map from points to models: the manifold's own, which are faster, where it has them.

    A problem with no Hessian gets a central difference of gradients. On ``FixedRank`` and spaces of geomstats whose
    metric has a Hessian the difference is one of Euclidean gradients, and the metric's part is exact; elsewhere it is
    one of Riemannian gradients, transported back.
    """
    try:
        problem.riemannian_hessian(point, problem.riemannian_gradient(point))
    except NotImplementedError:
        return partial(Model, problem, _difference_at(problem, point))
    local = getattr(problem.manifold, "local", None)
    if local is not None:
        return partial(local, problem)
    return partial(Model, problem, lambda x: partial(problem.riemannian_hessian, x))


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


def _difference_at(problem: Any, point: Any) -> HessianAt:
    manifold = problem.manifold
    if isinstance(manifold, FixedRank) or (isinstance(manifold, FromGeomstats) and manifold.has_hessian):
        try:
            gradient = problem.euclidean_gradient(point)
        except NotImplementedError:  # a Riemannian gradient alone
            pass
        else:
            if ambient.is_autodiff(gradient):
                raise ValueError(
                    "derivatives in the factors (du, ds, dvt) at two points have no difference; pass the Hessian as "
                    "well, or let an autodiff backend make both."
                )
            return partial(_of_euclidean_gradients, problem)
    return partial(_of_riemannian_gradients, problem)


def _of_riemannian_gradients(problem: Any, point: Any) -> Callable[[Any], Any]:
    manifold = problem.manifold
    move, transport = mover(manifold), getattr(manifold, "parallel_transport", manifold.transport)
    step = _STEP * _length(manifold, point)

    def product(v: Any) -> Any:
        out = difference(problem, move, transport, point, v, step)
        # A transport that is approximate leaves something that is not tangent, which would add up along a path.
        return manifold.projection(point, out) if isinstance(manifold, FromGeomstats) else out

    return product


def _of_euclidean_gradients(problem: Any, point: Any) -> Callable[[Any], Any]:
    manifold, gradient = problem.manifold, problem.euclidean_gradient(point)
    move, step = mover(manifold), _STEP * _length(manifold, point)

    def product(v: Any) -> Any:
        size = manifold.norm(point, v)
        if size == 0:
            return manifold.zero_vector(point)
        h = step / size
        ahead, behind = (problem.euclidean_gradient(move(point, v * t)) for t in (h, -h))
        second = _combined(ahead, 0.5 / h, behind, -0.5 / h)
        return manifold.euclidean_to_riemannian_hessian(point, gradient, second, v)

    return product


def _combined(a: Any, s: float, b: Any, t: float) -> Any:
    """``s a + t b`` of ambient matrices in the forms that gradients come in, see :mod:`dlngeo.pymanopt.ambient`."""
    if isinstance(a, tuple | list):
        (left, right), (other, rest) = ((x[0] @ x[1], x[2].T) if len(x) == 3 else x for x in (a, b))
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
