"""The Riemannian submersion of the balanced weights onto their products, as a fiber bundle of geomstats."""

from __future__ import annotations

from typing import Any

import geomstats.backend as gs
from geomstats.geometry.fiber_bundle import FiberBundle
from geomstats.geometry.group_action import GroupAction
from geomstats.geometry.manifold import register_quotient

from dlngeo import _check
from dlngeo._linalg import haar_from, skew
from dlngeo.geomstats._backend import Border, batch, draw, each_pair, to_numpy
from dlngeo.geomstats.balanced import BalancedMatrices
from dlngeo.geomstats.weights import FrobeniusMetric
from dlngeo.weights.alignment import act, align
from dlngeo.weights.balanced import BalancedFrame, Parts
from dlngeo.weights.network import balanced_weights, differential, end_to_end

__all__ = ["EndToEndBundle", "GaugeAction"]


class GaugeAction(Border, GroupAction):
    r"""Action of the gauge group ``O(d)^{N−1}`` on the weights of N layers, which keeps their product.

    ``(Q_1, …, Q_{N−1})·W = (Q_1 W_1, Q_2 W_2 Q_1ᵀ, …, W_N Q_{N−1}ᵀ)``. It is free on balanced weights of full rank,
    isometric, and its orbits are the fibres of ``W ↦ W_N ⋯ W_1``. Group elements are stacks of orthogonal matrices,
    shape=[..., N−1, d, d].

    Parameters
    ----------
    d : int
        Width of the layers.
    depth : int
        Number N of layers.

    See Also
    --------
    dlngeo.geomstats.EndToEndBundle

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights, end_to_end
    >>> from dlngeo.geomstats import GaugeAction
    >>> weights = np.stack(balanced_weights(np.diag([2.0, 1.0]), 3, rng=0))
    >>> turned = GaugeAction(2, 3)(np.stack([np.array([[0.0, -1.0], [1.0, 0.0]])] * 2), weights)
    >>> bool(np.allclose(end_to_end(turned), np.diag([2.0, 1.0])))
    True
    """

    def __init__(self, d: int, depth: int) -> None:
        self.d, self.depth = _check.positive_integer(d, "d"), _check.positive_integer(depth, "depth")

    @property
    def group_elem_shape(self) -> tuple[int, int, int]:
        """Shape of a group element."""
        return (self.depth - 1, self.d, self.d)

    def _shape_of(self, argument: str, method: str) -> tuple[int, ...]:
        return self.group_elem_shape if argument == "group_elem" else (self.depth, self.d, self.d)

    def __call__(self, group_elem: Any, point: Any) -> Any:
        """Turn weights by a group element, shape=[..., N, d, d]."""
        return act(group_elem, point)

    def random_element(self, n_samples: int = 1, rng: Any = None) -> Any:
        """Sample the Haar measure of the group, shape=[..., N−1, d, d]."""
        shape = (*batch(n_samples), *self.group_elem_shape)
        return gs.from_numpy(haar_from(to_numpy(draw(shape, rng))))


class EndToEndBundle(Border, FiberBundle):
    r"""The bundle of balanced weights over their products, ``W ↦ X = W_N ⋯ W_1``, a Riemannian submersion [1]_.

    The base is the invertible matrices with ``DLNMetric`` of the same depth: ``QuotientMetric`` of geomstats on
    ``GeneralLinear`` computes that through this bundle. The fibres are the orbits of :class:`GaugeAction`.
    At ``W_p = Q_p Λ Q_{p−1}ᵀ``, vertical vectors are ``Ω_p W_p − W_p Ω_{p−1}`` with skew Ω, and horizontal ones
    ``(W_N ⋯ W_{p+1})ᵀ P (W_{p−1} ⋯ W_1)ᵀ``; all projections cost O(N d³).

    Parameters
    ----------
    total_space : BalancedMatrices
        Balanced weights.

    See Also
    --------
    dlngeo.geomstats.BalancedMatrices
    dlngeo.geomstats.GaugeAction

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
    .. [2] B. O'Neill, "The fundamental equations of a submersion", Michigan Math. J. 13 (1966).

    Examples
    --------
    >>> from geomstats.geometry.general_linear import GeneralLinear
    >>> from geomstats.geometry.quotient_metric import QuotientMetric
    >>> total = BalancedMatrices(2, depth=3)
    >>> _ = total.equip_with_group_action(GaugeAction(2, 3)).equip_with_quotient()
    >>> space = GeneralLinear(2, equip=False)
    >>> space = space.equip_with_metric(QuotientMetric, total_space=total)
    >>> round(float(space.metric.squared_norm(gs.eye(2), gs.eye(2))), 12)
    0.666666666667
    """

    def __init__(self, total_space: BalancedMatrices) -> None:
        super().__init__(total_space=total_space)

    def _shape_of(self, argument: str, method: str) -> tuple[int, ...]:
        below = method in ("lift", "horizontal_lift") and argument != "fiber_point"
        return self._total_space.shape[1:] if below else self._total_space.shape

    @staticmethod
    def riemannian_submersion(point: Any) -> Any:
        """Product ``X = W_N ⋯ W_1``, shape=[..., d, d]."""
        return end_to_end(point)

    def lift(self, point: Any) -> Any:
        """Balanced weights of a matrix: ``Λ Vᵀ, Λ, …, Λ, U Λ`` with ``X = U Λ^N Vᵀ``, shape=[..., N, d, d]."""
        return gs.stack(balanced_weights(point, self._total_space.depth), axis=-3)

    def tangent_riemannian_submersion(self, tangent_vec: Any, base_point: Any) -> Any:
        """Velocity ``Σ_p W_N ⋯ W_{p+1} V_p W_{p−1} ⋯ W_1`` of the product, shape=[..., d, d]."""
        return differential(tangent_vec, base_point)

    def horizontal_lift(self, tangent_vec: Any, base_point: Any = None, fiber_point: Any = None) -> Any:
        """Horizontal vector over a tangent vector of the product, of the same length, shape=[..., N, d, d]."""
        if fiber_point is None:
            if base_point is None:
                raise ValueError("give base_point, a matrix, or fiber_point, balanced weights of it.")
            fiber_point = self.lift(base_point)
        return BalancedFrame(fiber_point).lift(tangent_vec)

    def horizontal_projection(self, tangent_vec: Any, base_point: Any) -> Any:
        """Horizontal part of a vector, shape=[..., N, d, d]; its normal part, if any, is dropped too."""
        return BalancedFrame(base_point).horizontal(tangent_vec)

    def vertical_projection(self, tangent_vec: Any, base_point: Any) -> Any:
        """Vertical part of a vector, shape=[..., N, d, d]; its normal part, if any, is dropped too."""
        return BalancedFrame(base_point).vertical(tangent_vec)

    def is_horizontal(self, tangent_vec: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that a vector is its horizontal part, shape=[...], to an absolute tolerance of its entries."""
        return _vanishes(tangent_vec - self.horizontal_projection(tangent_vec, base_point), atol)

    def is_vertical(self, tangent_vec: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that a vector is its vertical part, shape=[...], to an absolute tolerance of its entries."""
        return _vanishes(tangent_vec - self.vertical_projection(tangent_vec, base_point), atol)

    def align(self, point: Any, base_point: Any) -> Any:
        """Turn weights along their fibre to the end of a shortest, hence horizontal, geodesic from ``base_point``.

        The nearest point of the fibre in the flat space is close to that, but only to third order in the distance, and
        the logarithm to it is not horizontal; see :mod:`dlngeo.weights.alignment`.

        Returns shape=[..., N, d, d]. Weights of the same product as ``point``.

        Raises
        ------
        GeodesicError
            If no geodesic is found; the message says for which pair.
        """
        return each_pair(lambda base, weights: align(weights, base).weights, base_point, point, 3)

    def integrability_tensor(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any) -> Any:
        r"""O'Neill's tensor ``A_X Y = ver ∇_{hor X} hor Y + hor ∇_{hor X} ver Y`` [2]_, shape=[..., N, d, d].

        The first part is ``½ ver [X, Y]``. For the second, ``Ω_p W_p − W_p Ω_{p−1}`` at fixed Ω is a vertical field,
        whose derivative along X is ``Ω_p X_p − X_p Ω_{p−1}``.
        """
        frame = BalancedFrame(base_point)
        x, y = frame.horizontal(tangent_vec_a), frame.horizontal(tangent_vec_b)
        xp, xm, ym = frame.xp, frame.split(x).cores, frame.split(tangent_vec_b).cores
        end = xp.zeros_like(xm[..., :1, :, :]) + xp.zeros_like(ym[..., :1, :, :])
        generator = skew(frame.generators(ym)) + end
        turned = xp.concat([generator, end], axis=-3) @ xm - xm @ xp.concat([end, generator], axis=-3)
        none = [None] * frame.depth
        return frame.oneill(x, y) + frame.horizontal(frame.assemble(Parts(turned, none, none, none)))


def _vanishes(vector: Any, atol: float) -> Any:
    return gs.all(gs.abs(vector) <= atol, axis=(-3, -2, -1))


register_quotient(Space=BalancedMatrices, Metric=FrobeniusMetric, GroupAction=GaugeAction, FiberBundle=EndToEndBundle)
