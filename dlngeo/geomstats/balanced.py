"""The manifold of balanced weights in geomstats."""

from __future__ import annotations

from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo import _check
from dlngeo._linalg import haar_from
from dlngeo.geomstats._backend import batch, draw, to_numpy
from dlngeo.geomstats.weights import WeightManifold
from dlngeo.weights import projections as balancing
from dlngeo.weights.geodesics import BALANCED
from dlngeo.weights.network import imbalance

__all__ = ["BalancedMatrices"]


class BalancedMatrices(WeightManifold):
    r"""Manifold of balanced weights of full rank, of N square layers.

    Points are stacks of invertible matrices ``W_1, …, W_N``, shape=[..., N, d, d], with
    ``W_{p+1}ᵀ W_{p+1} = W_p W_pᵀ``: that is, ``W_p = Q_p Λ Q_{p−1}ᵀ`` with orthogonal Q and positive diagonal Λ.
    Tangent vectors are stacks V with ``W_{p+1}ᵀ V_{p+1} − V_p W_pᵀ`` skew. The dimension is ``d² + (N−1) d(d−1)/2``,
    and the metric that of the flat space of all weights [1]_. The determinants of the layers tell the ``2^N``
    components apart.

    With the action of :class:`GaugeAction`, the quotient is the matrices with ``DLNMetric``; see
    :class:`EndToEndBundle`.

    Parameters
    ----------
    d : int
        Width of the layers.
    depth : int
        Number N of layers.
    equip : bool
        Equip with :class:`FrobeniusMetric`.

    Raises
    ------
    TypeError
        If a size is no integer.
    ValueError
        If a size is below 1.

    See Also
    --------
    dlngeo.geomstats.EndToEndBundle
    dlngeo.pymanopt.Balanced

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.

    Examples
    --------
    >>> space = BalancedMatrices(3, depth=4)
    >>> space.dim
    18
    >>> bool(space.belongs(space.random_point(rng=0)))
    True
    """

    surface = BALANCED

    def __init__(self, d: int, depth: int, equip: bool = True) -> None:
        super().__init__(d, depth, equip)

    def submersion(self, point: Any) -> Any:
        """Imbalances ``G_p = W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ``, which vanish on the manifold.

        Returns shape=[..., N−1, d, d]. Symmetric matrices.
        """
        return imbalance(point)

    def _regular(self, point: Any, atol: float) -> Any:
        # Balanced layers have the same singular values.
        return _check.floating(point)[0].linalg.svdvals(point[..., 0, :, :])[..., -1] > atol

    def projection(self, point: Any) -> Any:
        """Project weights to the nearest balanced ones in the Frobenius norm, shape=[..., N, d, d].

        Raises
        ------
        ValueError
            If no nearest point is found, as far from the manifold; :func:`dlngeo.weights.network.rebalance` keeps the
            product instead, and always works.
        """
        return balancing.nearest(point)

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Any = None) -> Any:
        r"""Sample ``W_p = Q_p Λ Q_{p−1}ᵀ``, with Haar-distributed Q and the singular values Λ of a Gaussian matrix.

        The entries of that are independent and normal with variance ``bound²/d``. So each layer alone is such a
        Gaussian matrix, as at the start of training, but all have the same singular values. The law of the product is
        ``e^{−βE} dvol`` on ``DLNMetric``, with ``E = ½ Σ_k λ_k²`` and ``β = d/bound²``.

        Parameters
        ----------
        bound : float
            Scale of the singular values.
        """
        gauss = to_numpy(draw((*batch(n_samples), *self.shape), rng))
        layers = [gauss[..., 0, :, :] * (bound / self.d**0.5)]
        for p in range(1, self.depth):
            u, s, _ = np.linalg.svd(layers[-1])
            layers.append(haar_from(gauss[..., p, :, :]) @ (u * s[..., None, :]) @ u.swapaxes(-1, -2))
        return gs.from_numpy(np.stack(layers, axis=-3))
