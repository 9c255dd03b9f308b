"""The weights of a given imbalance in geomstats: the leaves on which training flows stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import geomstats.backend as gs
import numpy as np

from dlngeo import _check
from dlngeo._linalg import haar_from
from dlngeo.geomstats._backend import batch, draw, to_numpy
from dlngeo.geomstats.weights import WeightManifold
from dlngeo.weights.geodesics import leaf
from dlngeo.weights.network import imbalance as imbalance_of
from dlngeo.weights.unbalanced import LeafFrame, nearby

__all__ = ["UnbalancedMatrices"]


class UnbalancedMatrices(WeightManifold):
    r"""Manifold of the weights of N square layers with a given imbalance: the regular part of its level set.

    Points are stacks of matrices, shape=[..., N, d, d], with ``W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ = G_p``, ``p = 1 … N−1``, at
    which the derivatives of these equations are independent. Those where at most one layer is singular are such, so a
    training flow, which stays on the level set [1]_, may take its product through singular matrices. Tangent vectors
    are stacks V with ``W_{p+1}ᵀ V_{p+1} − V_p W_pᵀ`` skew. The dimension is ``d² + (N−1) d(d−1)/2`` whatever G, and the
    metric that of the flat space of all weights. ``G = 0`` gives :class:`BalancedMatrices`, which is faster.

    The normal equations have no closed solution here; :class:`dlngeo.weights.unbalanced.LeafFrame` solves them by
    preconditioned conjugate gradients in O(N d³) per iteration, to round-off. ``tangent_basis``, and with it ``log``,
    costs O(N³d⁶).

    Parameters
    ----------
    imbalance : array-like, shape=[N−1, d, d]
        Symmetric matrices ``G_1, …, G_{N−1}``.
    equip : bool
        Equip with :class:`FrobeniusMetric`.

    Raises
    ------
    ValueError
        If ``imbalance`` is no stack of symmetric matrices, or has NaN or infinite entries.

    See Also
    --------
    dlngeo.geomstats.BalancedMatrices
    dlngeo.weights.unbalanced.LeafFrame
    dlngeo.training_flow

    References
    ----------
    .. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
       overparameterization", ICML 2018, arXiv:1802.06509.

    Examples
    --------
    >>> import geomstats.backend as gs
    >>> from dlngeo import imbalance
    >>> from dlngeo.geomstats import UnbalancedMatrices
    >>> space = UnbalancedMatrices.of_offsets(2, [0.0, 1.0, 3.0])
    >>> found = imbalance(space.random_point(rng=0))
    >>> space.dim, bool(gs.allclose(found[0], gs.eye(2))), bool(gs.allclose(found[1], 2 * gs.eye(2)))
    (6, True, True)
    """

    def __init__(self, imbalance: Any, equip: bool = True) -> None:
        value = _check.real(imbalance, "imbalance").astype(float)
        if value.ndim != 3 or value.shape[-1] != value.shape[-2] or 0 in value.shape:
            raise ValueError(
                f"imbalance has shape {value.shape}; expected (N−1, d, d), as dlngeo.imbalance gives it. One layer has "
                "none: use GeneralLinear."
            )
        _check.finite(np, value, "imbalance")
        skew = float(np.abs(value - value.swapaxes(-1, -2)).max())
        if skew > 1e-12 * max(1.0, float(np.abs(value).max())):
            raise ValueError(f"imbalance is not symmetric, by up to {skew:.1e}; take (G + Gᵀ)/2.")
        self._imbalance = (value + value.swapaxes(-1, -2)) / 2
        self.surface = leaf(self._imbalance)
        super().__init__(value.shape[-1], value.shape[0] + 1, equip)

    @classmethod
    def of_offsets(cls, d: int, offsets: Iterable[float], equip: bool = True) -> UnbalancedMatrices:
        """Return the leaf ``G_p = (c_{p+1} − c_p) I`` of N square layers of width d, from their offsets, shape=[N].

        Its products, as ``GeneralLinear`` with :class:`SpectralMetric` of
        :class:`~dlngeo.kernels.RelaxedDepthKernel`, are the image of a Riemannian submersion;
        :func:`dlngeo.weights.network.horizontal_lift` lifts their vectors, and :func:`dlngeo.balanced_weights` points.

        Raises
        ------
        TypeError, ValueError
            If the width is no positive integer, or the offsets are not two finite numbers or more.
        """
        values, d = _check.offsets(offsets), _check.positive_integer(d, "d")
        return cls(np.multiply.outer(np.diff(values), np.eye(d)), equip)

    @property
    def imbalance(self) -> Any:
        """The matrices ``G_1, …, G_{N−1}``, shape=[N−1, d, d]."""
        return gs.from_numpy(self._imbalance.copy())

    def submersion(self, point: Any) -> Any:
        """Imbalances less the given ones, which vanish on the level set.

        Returns shape=[..., N−1, d, d]. Symmetric matrices.
        """
        return imbalance_of(point) - self.imbalance

    def _regular(self, point: Any, atol: float) -> Any:
        xp, w = _check.floating(point)
        singular = xp.linalg.svdvals(w)[..., -1] <= atol
        regular = xp.sum(xp.astype(singular, xp.int64), axis=-1) <= 1
        if bool(xp.all(regular)):
            return regular
        return regular | (LeafFrame(w).regularity() > atol)

    def projection(self, point: Any) -> Any:
        """Move weights to the level set by Newton's method, to the nearest point up to second order in its distance.

        Raises
        ------
        ValueError
            If the method does not converge, as far from the level set or close to its singular points.
        """
        return gs.cast(nearby(gs.cast(point, gs.float64), self.imbalance), point.dtype)

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Any = None) -> Any:
        r"""Sample layer after layer, ``W_{p+1} = O_{p+1} (G_p + W_p W_pᵀ)^{1/2}`` with Haar-distributed O.

        ``W_1`` is Gaussian with entries of variance ``bound²/d``, but for ``c = Σ_p max(0, −λ_min(G_p))`` added to the
        squares of its singular values so that all the roots exist. Every G has such points; at ``G = 0`` this is the
        law of :meth:`BalancedMatrices.random_point`. Where some ``G_p`` has a negative eigenvalue it does not reach all
        of the level set.

        Parameters
        ----------
        bound : float
            Scale of the singular values.
        """
        gauss = to_numpy(draw((*batch(n_samples), *self.shape), rng))
        least = np.linalg.eigvalsh(self._imbalance)[..., 0]
        u, s, vt = np.linalg.svd(gauss[..., 0, :, :] * (bound / self.d**0.5))
        layers = [(u * np.sqrt(s**2 + np.maximum(0, -least).sum())[..., None, :]) @ vt]
        for p in range(1, self.depth):
            below = layers[-1]
            w, q = np.linalg.eigh(self._imbalance[p - 1] + below @ below.swapaxes(-1, -2))
            # Not below zero but by round-off, by the choice of c.
            root = (q * np.sqrt(np.maximum(w, 0))[..., None, :]) @ q.swapaxes(-1, -2)
            layers.append(haar_from(gauss[..., p, :, :]) @ root)
        return gs.from_numpy(np.stack(layers, axis=-3))
