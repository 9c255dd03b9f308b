"""Matrices of fixed rank as a geomstats manifold."""

from __future__ import annotations

from typing import Any

import geomstats.backend as gs
from geomstats.geometry.manifold import Manifold

from dlngeo import _check
from dlngeo.geomstats._backend import Border, batch, draw
from dlngeo.geomstats.metrics import DLNMetric
from dlngeo.kernels import DepthKernel
from dlngeo.matrices.differentiable import frame_at
from dlngeo.matrices.frame import Frame

__all__ = ["FixedRankMatrices"]


class FixedRankMatrices(Border, Manifold):
    r"""Manifold of real m×n matrices of rank r.

    Points are dense matrices, shape=[..., m, n]; tangent vectors at ``X = U Σ Vᵀ`` are the matrices
    ``U M Vᵀ + Z_l Vᵀ + U Z_rᵀ`` with ``Uᵀ Z_l = 0`` and ``Vᵀ Z_r = 0``, also dense. The dimension is ``r(m + n − r)``
    [1]_.

    Parameters
    ----------
    m, n : int
        Shape of the matrices.
    rank : int
        Rank r, at most ``min(m, n)``.
    equip : bool
        Equip with :class:`DLNMetric`.
    depth : float
        Depth of that metric.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If the rank does not lie between 1 and ``min(m, n)``.

    See Also
    --------
    dlngeo.FixedRank
    dlngeo.DLNMetric

    References
    ----------
    .. [1] B. Vandereycken, "Low-rank matrix completion by Riemannian optimization", SIAM J. Optim. 23 (2013),
       Proposition 2.1.

    Examples
    --------
    >>> from dlngeo.geomstats import FixedRankMatrices
    >>> space = FixedRankMatrices(5, 4, 2, depth=3)
    >>> space.dim
    14
    >>> bool(space.belongs(space.random_point()))
    True
    """

    def __init__(self, m: int, n: int, rank: int, equip: bool = True, depth: float = 2) -> None:
        self.m, self.n = _check.positive_integer(m, "m"), _check.positive_integer(n, "n")
        self.rank = _check.rank(rank, m, n)
        self.depth = depth
        super().__init__(
            dim=self.rank * (self.m + self.n - self.rank), shape=(self.m, self.n), intrinsic=False, equip=equip
        )

    def default_metric(self) -> tuple[type, dict[str, Any]]:
        """Metric to equip the space with if equip is True."""
        return DLNMetric, {"depth": self.depth}

    def belongs(self, point: Any, atol: float = gs.atol) -> Any:
        """Check shape and rank: exactly r singular values exceed ``atol``, shape=[...]."""
        if tuple(point.shape[-2:]) != self.shape:
            return gs.zeros(point.shape[:-2], dtype=bool)
        xp, x = _check.floating(point)
        finite = xp.all(xp.isfinite(x), axis=(-2, -1))
        s = xp.linalg.svdvals(xp.where(finite[..., None, None], x, 0.0))
        return finite & (xp.sum(xp.astype(s > atol, xp.int64), axis=-1) == self.rank)

    def projection(self, point: Any) -> Any:
        """Project to the nearest matrix of rank r in the Frobenius norm, by truncating the SVD, shape=[..., m, n].

        Raises
        ------
        ValueError
            If the rank of a matrix is below r: no nearest matrix of rank r exists.
        """
        frame = self._frame(point)
        if not bool(gs.all(frame.s > 0)):
            raise ValueError(f"a matrix of rank below {self.rank} has no nearest one of rank {self.rank}; perturb it.")
        return frame.point

    def to_tangent(self, vector: Any, base_point: Any) -> Any:
        """Project a matrix orthogonally, in the Frobenius metric, onto the tangent space, shape=[..., m, n]."""
        return frame_at(base_point, DepthKernel(1), self.rank, vector).project(vector)

    def is_tangent(self, vector: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that the normal part ``(I − UUᵀ) Z (I − VVᵀ)`` of a matrix vanishes, to ``atol`` in each entry."""
        if tuple(vector.shape[-2:]) != self.shape:
            return gs.zeros(vector.shape[:-2], dtype=bool)
        return gs.all(gs.abs(vector - self.to_tangent(vector, base_point)) <= atol, axis=(-2, -1))

    def random_point(self, n_samples: int = 1, bound: float = 1.0) -> Any:
        """Sample products of Gaussian factors, ``L R/√r`` with standard normal entries, shape=[..., m, n].

        Parameters
        ----------
        bound : float
            Unused; the interface of geomstats has it for sampling in boxes.
        """
        many = batch(n_samples)
        left, right = draw((*many, self.m, self.rank)), draw((*many, self.rank, self.n))
        return left @ right / self.rank**0.5

    def _frame(self, point: Any) -> Frame:
        return Frame.at(point, DepthKernel(1), self.rank)
