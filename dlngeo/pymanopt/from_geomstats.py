"""Any equipped geomstats space as a pymanopt manifold."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.complex_manifold import ComplexManifold
from geomstats.geometry.connection import Connection
from geomstats.geometry.manifold import Manifold as GeomstatsManifold
from geomstats.geometry.spd_matrices import SPDMatrices
from pymanopt.manifolds.manifold import Manifold

from dlngeo import _check
from dlngeo.errors import GeodesicError
from dlngeo.geomstats._backend import to_gs, to_numpy
from dlngeo.geomstats.gradients import GradientConverter
from dlngeo.geomstats.metrics import SpectralMetric
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.retraction import retract

__all__ = ["FromGeomstats", "from_geomstats"]

# Line searches try steps that are far too long; beyond this many halvings the vector itself is broken.
_MAX_HALVINGS = 60


def from_geomstats(space: Any, *, retraction: str | Callable[[Any, Any], Any] = "closed form") -> Manifold:
    r"""Wrap a geomstats space with its metric for the solvers of pymanopt.

    Points and tangent vectors are NumPy arrays of shape ``space.shape`` on every backend of geomstats: pymanopt knows
    nothing else, so they are converted at this boundary. Random draws come from ``gs.random``, which
    ``gs.random.seed`` seeds.

    Euclidean gradients
        ``metric.gradient(euclidean_gradient, base_point)`` where the metric has it, as those of :mod:`dlngeo.geomstats`
        do. Elsewhere the tangent vector ξ with ``g(ξ, η) = ⟨E′, η⟩`` for all tangent η is solved for in an
        orthonormal basis of the tangent space, which is right for any metric and costs O(dim²) inner products at each
        new point.
    Transport
        Parallel transport along the geodesic, if the metric has it in closed form (it overrides
        ``Connection.parallel_transport``, and not by integrating in steps); otherwise ``to_tangent`` at the new point,
        also with a ``SpectralMetric``, which integrates. ``parallel_transport`` is exact for both.

    Parameters
    ----------
    space : geomstats Manifold
        A real space whose points are arrays, equipped with a Riemannian metric.
    retraction : "closed form", "exp" or callable
        ``"closed form"``, where the metric is a :class:`~dlngeo.geomstats.SpectralMetric`, for the retraction of second
        order of :mod:`dlngeo.matrices.retraction`, and elsewhere the same as ``"exp"``, ``metric.exp``; or a function
        ``(point, tangent_vector) → point`` of NumPy arrays. Of the first two, where a step leaves the space or its
        component, or its geodesic ends at a singular matrix before unit time, the vector is halved until it does not:
        the trial steps of line searches are often that long.

    Returns
    -------
    pymanopt Manifold
        With ``exp, log, dist, pair_mean`` as far as the metric has them, and the Riemannian Hessian if it has
        ``hessian``.

    Raises
    ------
    TypeError
        If ``space`` is no geomstats manifold, or ``retraction`` none of these.
    ValueError
        If the space has no metric, or is complex.

    See Also
    --------
    dlngeo.FixedRank
    dlngeo.sampling.from_pymanopt

    References
    ----------
    .. [1] N. Guigui and X. Pennec, "Numerical accuracy of ladder schemes for parallel transport on manifolds", Found.
       Comput. Math. 22 (2022).

    Examples
    --------
    >>> from geomstats.geometry.hypersphere import Hypersphere
    >>> from_geomstats(Hypersphere(dim=2)).dim
    2
    """
    if isinstance(space, ComplexManifold):
        raise ValueError(f"{type(space).__name__} is complex; only real spaces are supported.")
    if not isinstance(space, GeomstatsManifold):
        raise TypeError(f"a geomstats space is expected, got {type(space).__name__}.")
    if getattr(space, "metric", None) is None:
        raise ValueError(
            f"{type(space).__name__} has no metric; call space.equip_with_metric(...) first, "
            "or build it with equip=True."
        )
    if retraction not in ("closed form", "exp") and not callable(retraction):
        raise TypeError(
            'retraction must be "closed form", "exp" or a function (point, tangent_vector) → point, got '
            f"{retraction!r}."
        )
    return FromGeomstats(space, retraction)


class FromGeomstats(Manifold):
    """The points of a geomstats space, as NumPy arrays, with its metric; see :func:`from_geomstats`."""

    def __init__(self, space: Any, retraction: str | Callable[[Any, Any], Any]) -> None:
        self.space = space
        self._retraction = retraction if callable(retraction) else None
        self._closed = retraction == "closed form" and isinstance(space.metric, SpectralMetric)
        transport = type(space.metric).parallel_transport
        in_steps = transport is Connection.parallel_transport or "n_steps" in inspect.signature(transport).parameters
        self._parallel = not in_steps
        self._cheaply = self._parallel and not isinstance(space.metric, SpectralMetric)
        self._gradient = GradientConverter(space)
        name = f"geomstats {type(space).__name__} with {type(space.metric).__name__}"
        super().__init__(name, int(space.dim), point_layout=1)

    @property
    def has_hessian(self) -> bool:
        """Whether the metric has one in closed form."""
        return hasattr(self.space.metric, "hessian")

    @property
    def typical_dist(self) -> float:
        """``√dim``, the order of the distance across which all directions together change by a unit."""
        return math.sqrt(self.dim)

    # Points.

    def random_point(self) -> np.ndarray:
        return to_numpy(self.space.random_point())

    def retraction(self, point: Any, tangent_vector: Any) -> np.ndarray:
        if self._retraction is not None:
            return self._retraction(point, tangent_vector)
        for halvings in range(_MAX_HALVINGS):
            try:
                return self.move(point, tangent_vector * 0.5**halvings)
            except GeodesicError as error:
                failure = error
        raise failure

    def move(self, point: Any, tangent_vector: Any) -> np.ndarray:
        """Retract with no halving: a GeodesicError tells that the step leaves the space."""
        return (self._retraction or (self._step if self._closed else self.exp))(point, tangent_vector)

    def _step(self, point: Any, tangent_vector: Any) -> np.ndarray:
        """Retract in closed form, to where the geodesic may go: not past a singular matrix where it ends there.

        The retraction commutes with transposition, so that symmetric matrices stay so, but for rounding, which is taken
        out; only their eigenvalues may change sign.
        """
        metric = self.space.metric
        frame = Frame.at(_check.real(point, "the point"), metric.kernel, metric.rank)
        try:
            u, s, vt = retract(frame, frame.split(np.asarray(tangent_vector)))
        except OverflowError as error:
            raise GeodesicError(str(error), status="not converged") from None
        end = (u * s) @ vt
        stays = s.min() > 0 and np.isfinite(end).all()
        if not stays:
            pass
        elif isinstance(self.space, SPDMatrices):
            end = (end + end.T) / 2
            stays = np.linalg.eigvalsh(end)[0] > 0
        elif frame.m == frame.n == frame.rank and not metric.kernel.smooth_at_zero:
            stays = np.linalg.slogdet(end)[0] == np.linalg.slogdet(point)[0]
        if not stays:
            raise GeodesicError("the step goes past a singular matrix; shorten it.", status="singular")
        return end

    def exp(self, point: Any, tangent_vector: Any) -> np.ndarray:
        return to_numpy(self.space.metric.exp(to_gs(tangent_vector), to_gs(point)))

    def log(self, point_a: Any, point_b: Any) -> np.ndarray:
        return to_numpy(self.space.metric.log(to_gs(point_b), to_gs(point_a)))

    def dist(self, point_a: Any, point_b: Any) -> float:
        return _to_float(self.space.metric.dist(to_gs(point_a), to_gs(point_b)))

    def pair_mean(self, point_a: Any, point_b: Any) -> np.ndarray:
        """Midpoint of the geodesic from ``point_a`` to ``point_b``."""
        return self.exp(point_a, self.log(point_a, point_b) / 2)

    # Tangent vectors.

    def inner_product(self, point: Any, tangent_vector_a: Any, tangent_vector_b: Any) -> float:
        metric = self.space.metric
        return _to_float(metric.inner_product(to_gs(tangent_vector_a), to_gs(tangent_vector_b), to_gs(point)))

    def norm(self, point: Any, tangent_vector: Any) -> float:
        return math.sqrt(self.inner_product(point, tangent_vector, tangent_vector))

    def zero_vector(self, point: Any) -> np.ndarray:
        return np.zeros(self.space.shape)

    def random_tangent_vector(self, point: Any) -> np.ndarray:
        """Tangent part of a Gaussian matrix, of norm 1; ``random_unit_tangent_vec`` of geomstats is not tangent."""
        vector = self.projection(point, to_numpy(gs.random.normal(size=self.space.shape)))
        return vector / self.norm(point, vector)

    def projection(self, point: Any, vector: Any) -> np.ndarray:
        return to_numpy(self.space.to_tangent(to_gs(vector), to_gs(point)))

    to_tangent_space = projection

    def transport(self, point_a: Any, point_b: Any, tangent_vector_a: Any) -> np.ndarray:
        if self._cheaply:
            return self.parallel_transport(point_a, point_b, tangent_vector_a)
        return self.projection(point_b, tangent_vector_a)

    def parallel_transport(self, point_a: Any, point_b: Any, tangent_vector_a: Any) -> np.ndarray:
        """Transport along the geodesic: by the metric, or by a rung of the pole ladder, exact to second order [1]_."""
        size = self.norm(point_a, tangent_vector_a)
        # A rejected step leaves the point where it was, and the geodesic without a direction.
        if size == 0 or np.array_equal(point_a, point_b):
            return self.projection(point_b, tangent_vector_a)
        if self._parallel:
            metric = self.space.metric
            moved = metric.parallel_transport(to_gs(tangent_vector_a), to_gs(point_a), end_point=to_gs(point_b))
            return to_numpy(moved)
        span, middle = self.dist(point_a, point_b), self.pair_mean(point_a, point_b)
        shot = self.exp(point_a, tangent_vector_a * (span / size))
        return self.log(point_b, self.exp(middle, -self.log(middle, shot))) * (-size / span)

    # Derivatives.

    def euclidean_to_riemannian_gradient(self, point: Any, euclidean_gradient: Any) -> np.ndarray:
        _check.finite(np, np.asarray(euclidean_gradient), "the Euclidean gradient of the cost")
        return self._gradient(euclidean_gradient, point)

    def euclidean_to_riemannian_hessian(
        self, point: Any, euclidean_gradient: Any, euclidean_hessian: Any, tangent_vector: Any
    ) -> np.ndarray:
        metric = self.space.metric
        if not self.has_hessian:
            raise NotImplementedError(
                f"{type(metric).__name__} has no method hessian(tangent_vec, euclidean_gradient, euclidean_hessian, "
                "base_point); pose the problem by dlngeo.pymanopt.GradientProblem, whose Hessian is a difference of "
                "gradients, or use a first-order solver, such as ConjugateGradient."
            )
        value = metric.hessian(
            tangent_vec=to_gs(tangent_vector),
            euclidean_gradient=to_gs(euclidean_gradient),
            euclidean_hessian=to_gs(euclidean_hessian),
            base_point=to_gs(point),
        )
        return to_numpy(value)


def _to_float(array: Any) -> float:
    return float(np.squeeze(to_numpy(array)))
