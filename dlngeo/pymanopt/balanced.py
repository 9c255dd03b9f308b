"""The balanced weights of a deep linear network as a pymanopt manifold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dlngeo import _check
from dlngeo._linalg import haar
from dlngeo.pymanopt._points import Remembering
from dlngeo.pymanopt.vectors import LayerVector
from dlngeo.weights.balanced import BalancedFrame, dimension, norm
from dlngeo.weights.geodesics import connect_balanced, shoot_balanced
from dlngeo.weights.projections import retract

__all__ = ["Balanced"]

# Largest relative distance of a point from the weights that its frames make. Each retraction makes it round-off anew.
_UNBALANCED = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 1e-3}
# Logarithm of the largest singular value of a product that is let be, and norm of the longest step, the fourth power of
# which is computed.
_LARGEST_LOG = 0.99 * math.log(np.finfo(float).max)
_LONGEST = 1e70


class _OneLayer(int):
    """The point layout of a list of one matrix: pymanopt takes a layout that equals 1 for that of a bare array."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class Balanced(Remembering):
    r"""The balanced weights of given widths and rank r, with the Frobenius metric.

    .. math:: \mathcal M_r = \{(W_1, \dots, W_N) : W_{p+1}^\top W_{p+1} = W_p W_p^\top,\ \operatorname{rank} W_p = r\}

    A point is a list of matrices, first layer first, ``W_p`` of shape ``(d_p, d_{p−1})``; a tangent vector is a tuple
    of such matrices, with vector arithmetic. The metric is that of the flat space of all weights,
    ``⟨Y, Z⟩ = Σ_p Tr(Y_pᵀ Z_p)``; the product ``X = W_N ⋯ W_1`` is a Riemannian submersion of it onto the matrices of
    rank r with the metric ``g_N`` of :class:`~dlngeo.pymanopt.FixedRank` [1]_. The dimension is
    ``r(d_N + d_0 − r) + Σ_{p=1}^{N−1} (d_p r − r(r+1)/2)``. Each operation costs O(N d² r).

    A cost is a function of N matrices, ``cost(*weights)``, by autodiff or with its derivatives in each;
    :func:`dlngeo.pymanopt.pull_back` makes a problem of a cost of the product. Take weights of one layer into
    products by :class:`dlngeo.pymanopt.Product`: that of pymanopt cannot tell a list of one array from a bare array.

    Methods raise a ValueError where a point is not balanced of rank r, a vector or derivative is not N matrices of the
    shapes of the weights, or a point, gradient or vector to move along has NaN or infinite entries.

    Parameters
    ----------
    widths : sequence of int
        Widths ``(d_0, …, d_N)``: inputs first.
    rank : int, optional
        Rank r. Defaults to the least width.
    scale : float
        Size of the entries of the products that are sought, positive. It enters :attr:`typical_dist` alone, as in
        :class:`~dlngeo.pymanopt.FixedRank`.
    rng : numpy.random.Generator or int, optional
        Source of random points and tangent vectors, or its seed.

    Raises
    ------
    TypeError
        If a width or the rank is no integer.
    ValueError
        If there are fewer than two widths, the rank exceeds the least of them, or ``scale`` is not positive and finite.

    See Also
    --------
    dlngeo.FixedRank
    dlngeo.pymanopt.pull_back

    Notes
    -----
    The retraction is of second order, see :func:`dlngeo.weights.projections.retract`; the vector transport is the
    projection onto the new tangent space. A cost of the product does not change along the orbit of all balanced weights
    of one X, so its Hessian is singular, of corank at least the dimension of the orbit; trust regions are not disturbed
    by that, as the gradients are orthogonal to the orbits.

    Square products of full rank have two components, by the sign of the determinant, and no path on the manifold leads
    from one to the other. A solver that starts in the wrong one ends near weights of lower rank, at a saddle of the
    cost; give the product one more row, or start from both.

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.

    Examples
    --------
    >>> manifold = Balanced((3, 5, 2, 4), rng=0)
    >>> manifold.dim
    18
    >>> [w.shape for w in manifold.random_point()]
    [(5, 3), (2, 5), (4, 2)]
    """

    def __init__(self, widths: Sequence[int], rank: int | None = None, *, scale: float = 1.0, rng: Any = None) -> None:
        self._widths = tuple(_check.positive_integer(width, "a width") for width in widths)
        if len(self._widths) < 2:
            raise ValueError(f"widths {self._widths} are too few; give (d_0, …, d_N), from the inputs to the outputs.")
        least = min(self._widths)
        self._rank = least if rank is None else _check.rank(rank, least, least)
        self._depth = len(self._widths) - 1
        self._scale = _check.positive(scale, "scale")
        self._rng = np.random.default_rng(rng)
        self._frame_memo: BalancedFrame | None = None
        super().__init__(
            f"Manifold of balanced weights of widths {self._widths} and rank {self._rank}",
            dimension(self._widths, self._rank),
            point_layout=self._depth if self._depth > 1 else _OneLayer(1),
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths ``(d_0, …, d_N)``."""
        return self._widths

    @property
    def depth(self) -> int:
        """Number N of layers."""
        return self._depth

    @property
    def rank(self) -> int:
        """Rank of the points."""
        return self._rank

    @property
    def typical_dist(self) -> float:
        """The largest trust region: 1/8 of the norm of weights whose product has entries of size ``scale``.

        With r equal singular values ``σ = scale √(d_0 d_N/r)`` of the product that norm is ``√(N r) σ^{1/N}``.
        """
        sigma = self._scale * math.sqrt(self._widths[0] * self._widths[-1] / self._rank)
        return math.sqrt(self._depth * self._rank) * sigma ** (1 / self._depth) / 8

    # Points.

    def random_point(self, rng: Any = None) -> list[np.ndarray]:
        """Draw balanced weights whose product has the law of :meth:`FixedRank.random_point`.

        The frames have the uniform law, and the singular values of the product are uniform on (0, 1]. A generator or
        seed ``rng`` takes the place of that of the manifold.
        """
        generator = self._rng if rng is None else np.random.default_rng(rng)
        frames = [haar(generator, (width, self._rank)) for width in self._widths]
        lam = (1 - generator.random(self._rank)) ** (1 / self._depth)
        return [(upper * lam) @ lower.T for lower, upper in pairwise(frames)]

    def retraction(self, point: Any, tangent_vector: Any) -> list[np.ndarray]:
        """Move along a tangent vector, to second order; see :func:`dlngeo.weights.projections.retract`.

        Where the product of the moved weights could not be represented in double precision, the result is that of
        ``point`` with all singular values of the product equal to the largest that can: any quadratic cost is ``inf``
        there, never NaN, and a line search backs off.
        """
        frame, vector = self._frame(point), self._layers(tangent_vector, "the tangent vector", finite=True)
        if float(norm(vector)) < _LONGEST:
            moved = retract(frame, vector)
            if self._depth * math.log(max(float(np.linalg.norm(moved[0])), 1.0)) < _LARGEST_LOG:
                return moved
        lam = math.exp(_LARGEST_LOG / self._depth)
        return [lam * (upper @ lower.T) for lower, upper in pairwise(frame.q)]

    def exp(self, point: Any, tangent_vector: Any) -> list[np.ndarray]:
        """Follow the geodesic for unit time; see :func:`dlngeo.weights.geodesics.shoot_balanced`.

        It solves an ODE to 1e-10, and costs some hundreds of retractions. Solvers have no need of it. A GeodesicError
        tells where the geodesic runs into weights of lower rank before.
        """
        return shoot_balanced(self._frame(point), self._layers(tangent_vector, "the tangent vector", finite=True))

    def log(self, point_a: Any, point_b: Any) -> LayerVector:
        """Find the initial velocity of a geodesic from ``point_a`` that is at ``point_b`` at unit time.

        The geodesic is locally a shortest one, see :func:`dlngeo.weights.geodesics.connect_balanced`, and its end
        verified to 1e-10. A GeodesicError tells that none was found, or none exists.
        """
        return LayerVector(self._connect(point_a, point_b)[0])

    def dist(self, point_a: Any, point_b: Any) -> float:
        """Length of the geodesic of :meth:`log`."""
        return self._connect(point_a, point_b)[1]

    def pair_mean(self, point_a: Any, point_b: Any) -> list[np.ndarray]:
        """Middle of the geodesic of :meth:`log`."""
        return self.exp(point_a, self.log(point_a, point_b) / 2)

    # Tangent vectors.

    def inner_product(self, point: Any, tangent_vector_a: Any, tangent_vector_b: Any) -> float:
        """Evaluate ``Σ_p Tr(A_pᵀ B_p)``."""
        pairs = zip(tangent_vector_a, tangent_vector_b, strict=True)
        return float(sum(np.vdot(*(_check.real(layer, "the vector") for layer in pair)) for pair in pairs))

    def zero_vector(self, point: Any) -> LayerVector:
        """Zero tangent vector."""
        return LayerVector(np.zeros(shape) for shape in self._shapes)

    def random_tangent_vector(self, point: Any) -> LayerVector:
        """Draw a tangent vector of norm 1, uniform on the unit sphere."""
        vector = self.projection(point, [self._rng.standard_normal(shape) for shape in self._shapes])
        return vector / self.norm(point, vector)

    def projection(self, point: Any, vector: Any) -> LayerVector:
        """Project a vector of the space of all weights, N matrices that are only read, orthogonally."""
        return LayerVector(self._frame(point).tangent(self._layers(vector, "the vector")))

    to_tangent_space = projection

    def embedding(self, point: Any, tangent_vector: Any) -> LayerVector:
        """Tangent vector as a vector of the space of all weights: itself."""
        return LayerVector(tangent_vector)

    def transport(self, point_a: Any, point_b: Any, tangent_vector_a: Any) -> LayerVector:
        """Project a tangent vector at ``point_a`` onto the tangent space at ``point_b``."""
        return self.projection(point_b, tangent_vector_a)

    # Derivatives.

    def euclidean_to_riemannian_gradient(self, point: Any, euclidean_gradient: Any) -> LayerVector:
        """Project the Euclidean gradient ``(∂L/∂W_1, …, ∂L/∂W_N)``; see :meth:`projection`.

        That of a cost of the product is tangent already, and horizontal.
        """
        layers = self._layers(euclidean_gradient, "the Euclidean gradient of the cost", finite=True)
        return LayerVector(self._frame(point).tangent(layers))

    def euclidean_to_riemannian_hessian(
        self, point: Any, euclidean_gradient: Any, euclidean_hessian: Any, tangent_vector: Any
    ) -> LayerVector:
        r"""Apply the Riemannian Hessian, ``∇_V grad L``, in closed form.

        .. math:: \operatorname{Hess} L[V] = P(D^2L[V]) + S_\nu(V), \qquad \nu = L' - P L' ,

        with the tangent projection P and the shape operator of
        :meth:`dlngeo.weights.balanced.BalancedFrame.weingarten`.
        """
        frame = self._frame(point)
        normal = frame.normal(self._layers(euclidean_gradient, "the Euclidean gradient"))
        change = frame.tangent(self._layers(euclidean_hessian, "the Euclidean Hessian product"))
        turn = frame.weingarten(self._layers(tangent_vector, "the tangent vector"), normal)
        return LayerVector(change) + turn

    # Inside.

    def _connect(self, point_a: Any, point_b: Any) -> tuple[list[np.ndarray], float]:
        end, start = (self._frame(point) for point in (point_b, point_a))  # the first point is the one kept
        return connect_balanced(start, end)

    @property
    def _shapes(self) -> list[tuple[int, int]]:
        return [(upper, lower) for lower, upper in pairwise(self._widths)]

    def _layers(self, vector: Any, name: str, finite: bool = False) -> list[np.ndarray]:
        """NumPy arrays of the layers of anything that pymanopt or a user may pass."""
        layers = [_check.real(layer, name) for layer in vector]
        if [layer.shape for layer in layers] != self._shapes:
            raise ValueError(
                f"{name} has layers of shapes {[layer.shape for layer in layers]}; expected {self._shapes}, first "
                "layer first."
            )
        if finite:
            for layer in layers:
                _check.finite(np, layer, name)
        return layers

    def _frame(self, point: Any) -> BalancedFrame:
        """Frames at a point; those of the last point are kept, since solvers stay at one for many operations."""
        memo = self._frame_memo
        # Copies are compared, since identity says nothing of arrays that were written into.
        if memo is not None and len(point) == self._depth and all(map(np.array_equal, point, memo.weights)):
            return memo
        layers = self._layers(point, "the point", finite=True)
        frame = BalancedFrame([np.array(layer) for layer in layers], self._rank)
        size = float(frame.lam.max())
        pairs = zip(layers, pairwise(frame.q), strict=True)
        error = max(float(np.linalg.norm(w - (upper * frame.lam) @ lower.T)) for w, (lower, upper) in pairs) / size
        if error > _UNBALANCED[frame.lam.dtype]:
            raise ValueError(
                f"the point is not balanced of rank {self._rank}: its layers differ from balanced ones by {error:.1e} "
                "of their size. dlngeo.balanced_weights(x, widths, rank) makes balanced weights, and "
                "dlngeo.weights.network.rebalance(weights, rank) balances given ones."
            )
        self._frame_memo = frame
        return frame
