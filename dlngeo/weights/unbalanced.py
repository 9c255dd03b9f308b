r"""Level sets of the imbalance: the weights that a training flow from given ones can reach.

Gradient flow conserves every ``G_p = W_{p+1}ᵀ W_{p+1} − W_p W_pᵀ``, so it stays on the leaf

.. math:: \mathcal M_G = \{W : W_{p+1}^\top W_{p+1} - W_p W_p^\top = G_p,\; p = 1 \dots N-1\},

of which the balanced weights are the case ``G = 0`` [1]_. The normal vectors at W are ``S_p W_p − W_p S_{p−1}`` with
symmetric ``S_p`` and ``S_0 = S_N = 0``, as on the balanced weights; W is a regular point if only ``S = 0`` gives zero.
That is so wherever at most one layer is singular, of square layers: the equations ``S_p W_p = W_p S_{p−1}`` then give
``S_p = 0`` from both ends. There, the leaf is a manifold of the dimension of all weights less ``Σ_p d_p(d_p+1)/2``.

The adjoint of the map from S to the normal vectors, composed with it, is block tridiagonal,

.. math:: (TS)_p = \tfrac12 (C_p S_p + S_p C_p) - W_{p+1}^\top S_{p+1} W_{p+1} - W_p S_{p-1} W_p^\top, \quad
    C_p = W_{p+1}^\top W_{p+1} + W_p W_p^\top .

Off the balanced weights no frames make its blocks diagonal. Conjugate gradients solve it, preconditioned by the
Lyapunov equations on its diagonal, each in the eigenvectors of ``C_p``: O(N d³) per iteration. As
``‖a − b‖² ≤ 2(‖a‖² + ‖b‖²)``, the spectrum lies in (0, 2]; on balanced weights it starts at ``1 − cos(π/N)`` whatever
the singular values, and with two layers it is {1}, so that one iteration suffices.

References
----------
.. [1] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks: implicit acceleration by
   overparameterization", ICML 2018, arXiv:1802.06509.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from dlngeo import _check
from dlngeo._linalg import symmetric
from dlngeo.errors import SingularError
from dlngeo.weights.balanced import inner
from dlngeo.weights.network import Weights, imbalance, layers_of, stack_like, widths

__all__ = ["LeafFrame", "nearby"]

_NEWTON_STEPS = 50


class LeafFrame:
    """Weights and the geometry of their leaf there: projections and second fundamental form in the flat space.

    Vectors are given and returned in the form of the weights.

    Parameters
    ----------
    weights : sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]
        Weights, at a regular point of their leaf.

    See Also
    --------
    dlngeo.weights.balanced.BalancedFrame
    dlngeo.weights.unbalanced.nearby
    dlngeo.geomstats.UnbalancedMatrices

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.network import layer_gradient
    >>> from dlngeo.weights.unbalanced import LeafFrame
    >>> weights = [np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 1.0]])]
    >>> gradient = layer_gradient(np.array([[1.0, 2.0], [3.0, 4.0]]), weights)
    >>> bool(np.allclose(LeafFrame(weights).tangent(gradient), gradient))  # training keeps the imbalance
    True
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.layers = layers_of(weights)
        self.widths = widths(weights)
        self.depth = len(self.layers)
        pairs = pairwise(self.layers)
        self.spectra = [self.xp.linalg.eigh(upper.mT @ upper + lower @ lower.mT) for lower, upper in pairs]

    @property
    def xp(self) -> Any:
        """Namespace of the arrays."""
        return _check.floating(self.layers[0])[0]

    def expand(self) -> LeafFrame:
        """Return the frame with one more batch axis, of length 1, so that many vectors broadcast against one point."""
        return LeafFrame(stack_like(self.weights, [w[..., None, :, :] for w in self.layers]))

    # Normal vectors and the equations of their generators.

    def generate(self, s: list[Any], layers: list[Any] | None = None) -> list[Any]:
        """``S_p W_p − W_p S_{p−1}`` of symmetric ``S_1, …, S_{N−1}``, normal vectors, or of other layers than W."""
        out = []
        for lower, w, upper in zip([None, *s], layers or self.layers, [*s, None], strict=True):
            left = 0 if upper is None else upper @ w
            right = 0 if lower is None else w @ lower
            out.append(self.xp.zeros_like(w) + left - right)
        return out

    def adjoint(self, vectors: Weights) -> list[Any]:
        """Symmetric parts of ``V_p W_pᵀ − W_{p+1}ᵀ V_{p+1}``: minus half the derivative of the imbalance."""
        both = zip(pairwise(layers_of(vectors)), pairwise(self.layers), strict=True)
        return [symmetric(v @ w.mT - upper.mT @ above) for (v, above), (w, upper) in both]

    def solve(self, sides: list[Any]) -> list[Any]:
        """Solve ``T S = D`` for symmetric ``D_1, …, D_{N−1}``, to working precision.

        Raises
        ------
        ValueError
            If the iteration does not converge: the point is singular on its leaf, or all but singular.
        """
        if not sides:
            return []
        xp = self.xp
        unknowns = sum(d * (d + 1) // 2 for d in self.widths[1:-1])
        # Round-off makes conjugate gradients take more steps than there are unknowns.
        out, rest = [0.0 * side for side in sides], sides
        way = step = self._precondition(rest)
        size = _dot(xp, rest, step)
        goal = size * (xp.finfo(sides[0].dtype).eps / 4) ** 2
        for _ in range(4 * unknowns + 20):
            if bool(xp.all(size <= goal)):
                return out
            image = self.adjoint(self.generate(way))
            curvature = _dot(xp, way, image)
            along = (size / xp.where(curvature > 0, curvature, math.inf))[..., None, None]
            out = [a + along * b for a, b in zip(out, way, strict=True)]
            rest = [a - along * b for a, b in zip(rest, image, strict=True)]
            step = self._precondition(rest)
            last, size = size, _dot(xp, rest, step)
            turn = (size / xp.where(last > 0, last, math.inf))[..., None, None]
            way = [a + turn * b for a, b in zip(step, way, strict=True)]
        raise SingularError(
            "the normal equations of the leaf did not converge: the weights are singular on their leaf, or nearly so. "
            "Points where at most one layer is singular are regular."
        )

    def _precondition(self, sides: list[Any]) -> list[Any]:
        """Solve ``½(C_p S_p + S_p C_p) = D_p``."""
        out = []
        for (c, q), d in zip(self.spectra, sides, strict=True):
            scale = c[..., :, None] + c[..., None, :]
            # Where C_p vanishes, so does all that T maps to: the least-squares solution is zero there.
            inverse = 2 / self.xp.where(scale > 0, scale, math.inf)
            out.append(q @ ((q.mT @ d @ q) * inverse) @ q.mT)
        return out

    # Projections and curvature.

    def normal(self, vectors: Weights) -> Weights:
        """Part of a vector normal to the leaf."""
        return stack_like(self.weights, self.generate(self.solve(self.adjoint(vectors))))

    def tangent(self, vectors: Weights) -> Weights:
        """Orthogonal projection of a vector onto the tangent space of the leaf."""
        pairs = zip(layers_of(vectors), layers_of(self.normal(vectors)), strict=True)
        return stack_like(self.weights, [v - n for v, n in pairs])

    def second_fundamental_form(self, y: Weights, z: Weights) -> Weights:
        """Second fundamental form ``II(Y, Z)``: the normal vector that keeps the imbalance to second order.

        ``S_p W_p − W_p S_{p−1}`` with ``T S = sym F``, ``F_p = Y_{p+1}ᵀ Z_{p+1} − Z_p Y_pᵀ``.
        """
        both = zip(pairwise(layers_of(y)), pairwise(layers_of(z)), strict=True)
        force = [symmetric(ya.mT @ za - zb @ yb.mT) for (yb, ya), (zb, za) in both]
        return stack_like(self.weights, self.generate(self.solve(force)))

    def weingarten(self, vectors: Weights, normal: Weights) -> Weights:
        """Shape operator ``S_ν(V)``: the tangent vector with ``⟨S_ν(V), Y⟩ = ⟨II(V, Y), ν⟩``."""
        s = self.solve(self.adjoint(normal))
        return self.tangent(stack_like(self.weights, [-v for v in self.generate(s, layers_of(vectors))]))

    # Bases, by dense linear algebra.

    def normal_units(self) -> Weights:
        """Return the normal vectors of an orthonormal basis of the generators S, shape=[..., Σ_p d_p(d_p+1)/2, …] each.

        They are linearly independent exactly at regular points.
        """
        xp, like = self.xp, self.layers[0]
        if self.depth == 1:
            return stack_like(self.weights, [like[..., None, :, :][..., :0, :, :]])
        sizes = [d * (d + 1) // 2 for d in self.widths[1:-1]]
        units, before = [], 0
        for d, size in zip(self.widths[1:-1], sizes, strict=True):
            block, row = xp.zeros((sum(sizes), d, d), dtype=like.dtype), before
            for i in range(d):
                for j in range(i + 1):
                    block[row, i, j] = block[row, j, i] = 1.0 if i == j else math.sqrt(0.5)
                    row += 1
            units.append(block)
            before += size
        return stack_like(self.weights, self.expand().generate(units))

    def tangent_basis(self) -> Weights:
        """Orthonormal basis of the tangent space, shape=[..., dim, d_p, d_{p−1}] per layer, in O(N³d⁶).

        Raises
        ------
        ValueError
            If the point is singular on its leaf.
        """
        rows, shapes = self._rows(self.normal_units()), [w.shape[-2:] for w in self.layers]
        count = rows.shape[-2]
        _, s, vt = self.xp.linalg.svd(rows, full_matrices=True)
        if count and not bool(self.xp.all(s[..., -1] > 1e-12 * s[..., 0])):
            raise SingularError("the weights are singular on their leaf, which has no tangent space there.")
        out, start = [], 0
        for m, n in shapes:
            part = vt[..., count:, start : start + m * n]
            out.append(self.xp.reshape(part, (*part.shape[:-1], m, n)))
            start += m * n
        return stack_like(self.weights, out)

    def regularity(self) -> Any:
        """Least singular value of the map from unit S to normal vectors, shape=[...]: zero at singular points."""
        rows = self._rows(self.normal_units())
        if rows.shape[-2] == 0:
            return self.xp.zeros(rows.shape[:-2], dtype=rows.dtype) + math.inf
        return self.xp.linalg.svdvals(rows)[..., -1]

    def _rows(self, vectors: Weights) -> Any:
        flat = [self.xp.reshape(v, (*v.shape[:-2], v.shape[-2] * v.shape[-1])) for v in layers_of(vectors)]
        return self.xp.concat(flat, axis=-1)


def nearby(weights: Weights, target: Weights, tolerance: float = 1e-14) -> Weights:
    """Move weights to a given imbalance, by Newton's method along the normal directions.

    Each step is the shortest that meets the linearised equations, so the result agrees with the nearest point of the
    leaf to second order in the distance. The convergence is quadratic.

    Parameters
    ----------
    weights : sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]
        Weights.
    target : sequence of array, shape=[..., d_p, d_p], or array, shape=[..., N−1, d, d]
        Symmetric matrices ``G_1, …, G_{N−1}``.
    tolerance : float
        Bound on the error of the imbalance, relative to the squared norm of the weights.

    Returns
    -------
    sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]

    Raises
    ------
    ValueError
        If the method does not converge, as far from the leaf or close to its singular points.

    See Also
    --------
    dlngeo.imbalance
    dlngeo.weights.projections.nearest

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import imbalance
    >>> from dlngeo.weights.unbalanced import nearby
    >>> weights = [np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 1.0]])]
    >>> target = [np.array([[3.0, 0.5], [0.5, 0.0]])]
    >>> bool(np.allclose(imbalance(nearby(weights, target)), target))
    True
    """
    point = layers_of(weights)
    if len(point) == 1:
        return weights
    xp = _check.floating(point[0])[0]
    wanted = target if isinstance(target, (list, tuple)) else [target[..., p, :, :] for p in range(target.shape[-3])]
    last = xp.zeros_like(inner(point, point)) + math.inf
    for _ in range(_NEWTON_STEPS):
        missing = [(g - h) / 2 for g, h in zip(imbalance(point), wanted, strict=True)]
        size, error = inner(point, point), _dot(xp, missing, missing) ** 0.5
        # Near round-off, an error that no longer shrinks is all there is to gain.
        if bool(xp.all((error <= tolerance * size) | ((error <= tolerance**0.75 * size) & (error >= last / 2)))):
            return stack_like(weights, point)
        if not bool(xp.all(xp.isfinite(error))):
            break
        last = error
        frame = LeafFrame(point)
        point = [w + v for w, v in zip(point, frame.generate(frame.solve(missing)), strict=True)]
    raise ValueError(
        "Newton's method for the imbalance did not converge: "
        f"its error is {float(xp.max(error)):.1e} at weights of squared norm {float(xp.max(size)):.1e}. "
        "Start from weights closer to the leaf."
    )


def _dot(xp: Any, a: list[Any], b: list[Any]) -> Any:
    return sum(xp.sum(x * y, axis=(-2, -1)) for x, y in zip(a, b, strict=True))
