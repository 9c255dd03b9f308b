"""Matrices as vectors of their entries: the intrinsic chart that some algorithms of geomstats need."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import geomstats.backend as gs
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.numerics.geodesic import ExpSolver, LogSolver

from dlngeo.geomstats._backend import Border
from dlngeo.geomstats.metrics import SpectralMetric

__all__ = ["FlatChart"]


class FlatChart(Border, Manifold):
    r"""Global chart of an open set of m×n matrices: the mn entries, row by row.

    Points and tangent vectors are vectors, shape=[..., mn], and the tensors of the metric are the closed forms of the
    matrix space. The chart is what ``geomstats.distributions.brownian_motion.BrownianMotion`` and the curvature of
    ``geomstats.geometry.connection.Connection`` by automatic differentiation ask for.

    Parameters
    ----------
    space : geomstats Manifold
        Space of matrices, open among all of their shape, equipped with a :class:`SpectralMetric`.
    equip : bool
        Equip the chart with that metric.

    Raises
    ------
    TypeError
        If the metric of the space is no :class:`SpectralMetric`.
    ValueError
        If the space has fewer dimensions than the matrices have entries.

    See Also
    --------
    dlngeo.DLNMetric
    dlngeo.sampling.Langevin

    Examples
    --------
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from dlngeo.geomstats import DLNMetric
    >>> space = GeneralLinear(2, equip=False)
    >>> chart = FlatChart(space.equip_with_metric(DLNMetric, depth=3))
    >>> chart.metric.christoffels(gs.array([2.0, 0.0, 0.0, 1.0])).shape
    (4, 4, 4)
    """

    def __init__(self, space: Any, equip: bool = True) -> None:
        metric = getattr(space, "metric", None)
        if not isinstance(metric, SpectralMetric):
            raise TypeError(
                f"the metric of the space must be a SpectralMetric, got {type(metric).__name__}; "
                "call space.equip_with_metric(DLNMetric, depth=2)."
            )
        size = math.prod(space.shape)
        if space.dim != size:
            raise ValueError(
                f"{type(space).__name__} has dimension {space.dim} among matrices of {size} entries, which are no "
                "coordinates on it; only open sets of matrices have a flat chart."
            )
        self.space = space
        super().__init__(dim=size, shape=(size,), intrinsic=True, equip=equip)

    def default_metric(self) -> type:
        """Metric to equip the chart with if equip is True."""
        return _ChartMetric

    def to_matrix(self, vector: Any) -> Any:
        """Matrices of vectors of entries, shape=[..., m, n]."""
        return gs.reshape(vector, (*vector.shape[:-1], *self.space.shape))

    def to_vector(self, matrix: Any) -> Any:
        """Vectors of the entries of matrices, row by row, shape=[..., mn]."""
        return gs.reshape(matrix, (*matrix.shape[:-2], self.dim))

    def belongs(self, point: Any, atol: float = gs.atol) -> Any:
        """Check that vectors are the entries of matrices of the space, shape=[...]."""
        if point.shape[-1] != self.dim:
            return gs.zeros(point.shape[:-1], dtype=bool)
        return self.space.belongs(self.to_matrix(point), atol)

    def is_tangent(self, vector: Any, base_point: Any = None, atol: float = gs.atol) -> Any:
        """Check the length of vectors, shape=[...]: every vector is tangent."""
        right = gs.ones if vector.shape[-1] == self.dim else gs.zeros
        return right(vector.shape[:-1], dtype=bool)

    def to_tangent(self, vector: Any, base_point: Any = None) -> Any:
        """Return the vector: every one is tangent."""
        return vector

    def random_point(self, n_samples: int = 1, bound: float = 1.0) -> Any:
        """Entries of random points of the matrix space, shape=[..., mn]."""
        return self.to_vector(self.space.random_point(n_samples, bound))

    def projection(self, point: Any) -> Any:
        """Project the matrices of vectors to the space, shape=[..., mn]."""
        return self.to_vector(self.space.projection(self.to_matrix(point)))


class _ChartMetric(Border, RiemannianMetric):
    """The metric of the matrix space in its flat chart."""

    def __init__(self, space: FlatChart) -> None:
        super().__init__(space=space)
        self._matrices = space.space.metric
        self.exp_solver = self.log_solver = _ChartSolver(space)

    def metric_matrix(self, base_point: Any = None) -> Any:
        return self._matrices.metric_matrix(self._space.to_matrix(base_point))

    def cometric_matrix(self, base_point: Any = None) -> Any:
        return self._matrices.cometric_matrix(self._space.to_matrix(base_point))

    def christoffels(self, base_point: Any = None) -> Any:
        return self._matrices.christoffels(self._space.to_matrix(base_point))

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any = None) -> Any:
        vectors = (self._space.to_matrix(v) for v in (tangent_vec_a, tangent_vec_b, base_point))
        return self._matrices.inner_product(*vectors)

    def geodesic_equation(self, state: Any) -> Any:
        return self._space.to_vector(self._matrices.geodesic_equation(self._space.to_matrix(state)))


class _ChartSolver(ExpSolver, LogSolver):
    """The exponential and the logarithm of the matrix space."""

    def __init__(self, chart: FlatChart) -> None:
        ExpSolver.__init__(self, solves_ivp=True)
        LogSolver.__init__(self, solves_bvp=False)
        self._matrices, self._matrix, self._vector = chart.space.metric, chart.to_matrix, chart.to_vector

    def exp(self, tangent_vec: Any, base_point: Any) -> Any:
        return self._vector(self._matrices.exp(self._matrix(tangent_vec), self._matrix(base_point)))

    def geodesic_ivp(self, tangent_vec: Any, base_point: Any) -> Callable[[Any], Any]:
        velocity = self._matrix(tangent_vec)
        path = self._matrices.geodesic(self._matrix(base_point), initial_tangent_vec=velocity)
        return lambda t: self._vector(path(t))

    def log(self, point: Any, base_point: Any) -> Any:
        return self._vector(self._matrices.log(self._matrix(point), self._matrix(base_point)))
