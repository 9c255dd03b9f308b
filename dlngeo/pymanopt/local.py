"""The quadratic model of a cost at one point of a FixedRank manifold, on flat arrays."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dlngeo import _check
from dlngeo._linalg import adjoint
from dlngeo.matrices._hessian import ConnectionTerm
from dlngeo.matrices.blocks import Blocks
from dlngeo.pymanopt.vectors import Point, TangentVector

__all__ = ["Derivatives", "FixedRankModel"]

Array = np.ndarray


class Derivatives(Protocol):
    """Products of ``E′`` at a point ``U Σ Vᵀ`` with its frames, and how they change; a problem may offer these.

    Attributes
    ----------
    right : array, shape=[m, r]
        ``E′ V``.
    left : array, shape=[n, r]
        ``E′ᵀ U``.
    """

    right: Array
    left: Array

    def along(self, core: Array, left: Array | None, right: Array | None) -> tuple[Array, Array | None]:
        r"""Differentiate ``E′ V`` and ``E′ᵀ U`` along ``Z = U core Vᵀ + left Vᵀ + U rightᵀ``, with the frames turning.

        .. math:: D^2E[Z] V + E' \, \mathrm{right} \, \Sigma^{-1}, \qquad D^2E[Z]^\top U + E'^\top \mathrm{left} \,
            \Sigma^{-1} .

        None stands for a block that is zero since a frame is square; the second is None where both are.
        """
        ...


class FixedRankModel:
    r"""The gradient, the Hessian and the retraction at one point, in isometric coordinates.

    A tangent vector ``Z = U M Vᵀ + Z_l Vᵀ + U Z_rᵀ`` has as coordinates the entries of ``A^{−1/2} Z``, a flat array of

    .. math:: M_{kl}/\sqrt{\varphi(\sigma_k, \sigma_l)}, \quad (Z_l)_{il}/\sqrt{\varphi(\sigma_l, 0)}, \quad
        (Z_r)_{il}/\sqrt{\varphi(\sigma_l, 0)},

    one block after the other and each row by row, without a block that is zero since ``m = r`` or ``n = r``. The inner
    product of the metric is that of the arrays, and the Hessian a symmetric operator. Arrays that are combinations of
    :attr:`gradient`, products and :meth:`coordinates` are those of tangent vectors; others are not, below full rank.

    All that does not depend on the vector is evaluated once. Costs of :mod:`dlngeo.problems` that are least squares
    have products at O((m + n) r² + r³) and two passes over the data; other problems are asked for their Riemannian
    Hessian each time.

    Parameters
    ----------
    manifold : FixedRank
        Where the problem lives.
    problem : pymanopt.Problem
        With a gradient; products need a Hessian, or gradients whose differences make one.
    point : triple of arrays
        The point ``(u, s, vt)``.

    Attributes
    ----------
    point : Point
        The point.
    gradient : array, shape=[size]
        Coordinates of the Riemannian gradient.

    Raises
    ------
    ValueError
        If the problem is posed on another manifold, the point is none of the manifold's, or the gradient is not finite.

    See Also
    --------
    dlngeo.pymanopt.GradientFlow
    dlngeo.FixedRank

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.problems import LowRankApproximation
    >>> from dlngeo.pymanopt import FixedRank
    >>> manifold = FixedRank(5, 4, 2, depth=3, rng=0)
    >>> problem = LowRankApproximation(np.eye(5, 4)).problem(manifold)
    >>> model = manifold.local(problem, manifold.random_point())
    >>> float(problem.cost(model.move(-0.1 * model.gradient))) < model.cost
    True
    """

    def __init__(self, manifold: Any, problem: Any, point: Any) -> None:
        if problem.manifold is not manifold:
            raise ValueError(
                f"the problem is posed on {problem.manifold}, not on this {manifold}; ask the manifold of the problem."
            )
        self._manifold, self._problem = manifold, problem
        self._frame = frame = manifold._frame(point)
        self.point = Point(frame.u, frame.s, frame.vt)
        m, n, r = frame.m, frame.n, frame.rank
        rows, columns = 0 if m == r else m, 0 if n == r else n
        self._cuts = r * r, r * (r + rows)
        self._size = r * (r + rows + columns)
        self._root = np.sqrt(frame.phi)
        self._null = np.sqrt(frame.phi_null) if rows or columns else None
        if self._derivatives is None:
            self.gradient = self.coordinates(problem.riemannian_gradient(self.point))
        else:
            core, left, right = self._g = self._blocks_of_gradient(self._derivatives)
            self.gradient = _flat(core * self._root, *(None if a is None else a * self._null for a in (left, right)))

    @cached_property
    def cost(self) -> float:
        """The cost at the point."""
        return float(self._problem.cost(self.point))

    def release(self) -> None:
        """Give back what products keep, about as much as the data; the next product makes it anew."""
        self.__dict__.pop("_derivatives", None)

    def product(self, w: Array) -> Array:
        """Evaluate ``∇_w grad E``, see :meth:`dlngeo.matrices.frame.Frame.hessian_blocks`, in coordinates."""
        if self._derivatives is None:
            return self.coordinates(self._problem.riemannian_hessian(self.point, self.tangent(w)))
        u, s, vt = self.point
        core, left, right = self._connection(self._blocks(w))
        z = self._scaled(w)
        of_v, of_u = self._derivatives.along(*z)
        of_core = adjoint(u) @ of_v
        if left is not None:
            left += (of_v - u @ of_core) * self._null
        if right is not None:
            right += (of_u - adjoint(vt) @ (vt @ of_u)) * self._null
            of_core -= adjoint(self._g.right) @ z.right / s  # Uᵀ E′ Z_r Σ⁻¹, which of_v holds beside the Hessian
        core += of_core * self._root
        return _flat(core, left, right)

    def move(self, w: Array) -> Point:
        """Move along a vector by the retraction of the manifold, see :meth:`dlngeo.pymanopt.FixedRank.retraction`."""
        _check.finite(np, w, "the tangent vector")
        return self._manifold._retract(self._frame, self._scaled(w))

    def tangent(self, w: Array) -> TangentVector:
        """Tangent vector with these coordinates."""
        return self._manifold._tangent(self._scaled(w))

    def coordinates(self, tangent_vector: Any) -> Array:
        """Coordinates of a tangent vector ``(Up, M, Vp)``."""
        core, *tall = self._manifold._blocks(tangent_vector)
        return _flat(core / self._root, *(None if z is None else z / self._null for z in tall))

    @staticmethod
    def dot(a: Array, b: Array) -> float:
        """Inner product ``g_X`` of two vectors."""
        return float(np.vdot(a, b).real)

    @staticmethod
    def norm(a: Array) -> float:
        """Norm of a vector."""
        return float(np.sqrt(np.vdot(a, a).real))

    def _blocks(self, w: Array) -> Blocks:
        """Blocks of ``A^{−1/2} Z``: views of its coordinates."""
        frame, (first, second) = self._frame, self._cuts
        if w.shape != (self._size,):
            raise ValueError(f"coordinates have shape ({self._size},), not {w.shape}; see coordinates().")
        shape = -1, frame.rank
        left = None if first == second else w[first:second].reshape(shape)
        right = None if second == self._size else w[second:].reshape(shape)
        return Blocks(w[:first].reshape(shape), left, right)

    def _scaled(self, w: Array) -> Blocks:
        core, *tall = self._blocks(w)
        return Blocks(core * self._root, *(None if z is None else z * self._null for z in tall))

    def _blocks_of_gradient(self, derivatives: Derivatives) -> Blocks:
        """Blocks of ``E′``."""
        (u, _, vt), right, left = self.point, derivatives.right, derivatives.left
        for a in (right, left):
            _check.finite(np, a, "the Euclidean gradient of the cost")
        core = adjoint(u) @ right
        first, second = self._cuts
        return Blocks(
            core,
            None if first == second else right - u @ core,
            None if second == self._size else left - adjoint(vt) @ adjoint(core),
        )

    @cached_property
    def _derivatives(self) -> Derivatives | None:
        derivatives_at = getattr(self._problem, "derivatives_at", None)
        return None if derivatives_at is None else derivatives_at(self.point)

    @cached_property
    def _connection(self) -> ConnectionTerm:
        return ConnectionTerm(self._frame, self._g)


def _flat(*blocks: Array | None) -> Array:
    return np.concatenate([a.ravel() for a in blocks if a is not None])
