"""The quadratic model of a cost at one point of a FixedRank manifold, on flat arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dlngeo import _check
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

    gradient: Array
    _product: Callable[[Array], Array]

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
        self._null_root = np.sqrt(frame.phi_null) if rows or columns else None
        derivatives_at = getattr(problem, "derivatives_at", None)
        if derivatives_at is None:
            self.gradient = self.coordinates(problem.riemannian_gradient(self.point))
            self._product = self._of_problem
        else:
            closed = _ClosedForm(self, derivatives_at(self.point))
            self.gradient, self._product = closed.gradient, closed.product

    @cached_property
    def cost(self) -> float:
        """The cost at the point."""
        return float(self._problem.cost(self.point))

    def product(self, w: Array) -> Array:
        """Evaluate ``∇_w grad E``, see :meth:`Frame.hessian_blocks`, in coordinates."""
        return self._product(w)

    def move(self, w: Array) -> Point:
        """Move along a vector by the retraction of the manifold, see :meth:`FixedRank.retraction`."""
        _check.finite(np, w, "the tangent vector")
        return self._manifold._retract(self._frame, self._scaled(w))

    def tangent(self, w: Array) -> TangentVector:
        """Tangent vector with these coordinates."""
        return self._manifold._tangent(self._scaled(w))

    def coordinates(self, tangent_vector: Any) -> Array:
        """Coordinates of a tangent vector ``(Up, M, Vp)``."""
        core, *tall = self._manifold._blocks(tangent_vector)
        return _flat(core / self._root, *(None if z is None else z / self._null_root for z in tall))

    @staticmethod
    def dot(a: Array, b: Array) -> float:
        """Inner product ``g_X`` of two vectors."""
        return float(a @ b)

    @staticmethod
    def norm(a: Array) -> float:
        """Norm of a vector."""
        return float(np.sqrt(a @ a))

    def blocks(self, w: Array) -> Blocks:
        """Blocks of ``A^{−1/2} Z``: views of its coordinates."""
        frame, (first, second) = self._frame, self._cuts
        if w.shape != (self._size,):
            raise ValueError(f"coordinates have shape ({self._size},), not {w.shape}; see coordinates().")
        shape = -1, frame.rank
        left = None if first == second else w[first:second].reshape(shape)
        right = None if second == self._size else w[second:].reshape(shape)
        return Blocks(w[:first].reshape(shape), left, right)

    def _scaled(self, w: Array) -> Blocks:
        core, *tall = self.blocks(w)
        return Blocks(core * self._root, *(None if z is None else z * self._null_root for z in tall))

    def _of_problem(self, w: Array) -> Array:
        return self.coordinates(self._problem.riemannian_hessian(self.point, self.tangent(w)))


class _ClosedForm:
    """Gradient and Hessian products from the derivatives that a problem offers."""

    def __init__(self, model: FixedRankModel, derivatives: Derivatives) -> None:
        frame = model._frame
        self._frame, self._model, self._derivatives = frame, model, derivatives
        u, v = frame.u, frame.vt.T
        for a in (derivatives.right, derivatives.left):
            _check.finite(np, a, "the Euclidean gradient of the cost")
        core = u.T @ derivatives.right
        g = Blocks(
            core,
            None if frame.m == frame.rank else derivatives.right - u @ core,
            None if frame.n == frame.rank else derivatives.left - v @ core.T,
        )
        self._g = g
        root, null = model._root, model._null_root
        self.gradient = _flat(core * root, *(None if a is None else a * null for a in g[1:]))

    @cached_property
    def _connection(self) -> ConnectionTerm:
        return ConnectionTerm(self._frame, self._g)

    def product(self, w: Array) -> Array:
        frame, root, null = self._frame, self._model._root, self._model._null_root
        w_blocks = self._model.blocks(w)
        core, left, right = self._connection(w_blocks)
        z_core, z_left, z_right = self._model._scaled(w)
        of_v, of_u = self._derivatives.along(z_core, z_left, z_right)
        of_core = frame.u.T @ of_v
        if left is not None:
            left += (of_v - frame.u @ of_core) * null
        if z_right is not None:
            bent = of_core - self._g.right.T @ z_right / frame.s
            right += (of_u - frame.vt.T @ (frame.vt @ of_u)) * null
            of_core = bent
        return _flat(core + of_core * root, left, right)


def _flat(*blocks: Array | None) -> Array:
    return np.concatenate([a.ravel() for a in blocks if a is not None])
