r"""The manifold of balanced weights, in the frames of its layers.

Weights are balanced if ``W_{p+1}ᵀ W_{p+1} = W_p W_pᵀ``. Those of rank r form the manifold

.. math:: \mathcal M_r = \{W_p = Q_p \Lambda Q_{p-1}^\top : Q_p \in \mathrm{St}(d_p, r),\; \Lambda > 0\}

of dimension ``r(d_N + d_0 − r) + Σ_{p=1}^{N−1} (d_p r − r(r+1)/2)`` in the flat space of all weights [1]_, Λ
diagonal. In the frames every vector has, layer by layer, a core ``M_p`` (r×r), a left part ``L_p`` orthogonal to the
columns of ``W_p``, a right part ``R_p`` orthogonal to its rows, and a null part orthogonal to both:

.. math:: V_p = Q_p M_p Q_{p-1}^\top + L_p Q_{p-1}^\top + Q_p R_p^\top + O_p .

Of complex weights transposes are adjoints, and skew means skew-Hermitian, symmetric Hermitian. The space of weights at
W is the orthogonal sum of three kinds of vectors.

Horizontal
    ``M_p = Λ^{N−p} K Λ^{p−1}``, with ``R_1`` and ``L_N`` free: lifts of the tangent vectors of X.
Vertical
    ``Ω_p W_p − W_p Ω_{p−1}`` with skew ``Ω_p`` and ``Ω_0 = Ω_N = 0``: tangent to the orbit of all weights of X.
Normal
    ``S_p W_p − W_p S_{p−1}`` with symmetric ``S_p``, ``S_0 = S_N = 0``, and the null parts.

On the cores, vertical and normal vectors together are ``T_p Λ − Λ T_{p−1}`` with any ``T_p``, and the adjoint of this
map composed with it is, for each pair (k, l), the tridiagonal matrix with diagonal ``λ_k² + λ_l²`` and off-diagonal
``−λ_k λ_l``, a Jacobi matrix [2]_. So a projection costs O(N r²) in the frames, and O(N d² r) with the change to them.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
.. [2] G. Menon, T. Yu, "An entropy formula for the deep linear network", arXiv:2509.09088.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from dlngeo import _check, _linalg
from dlngeo._linalg import adjoint, skew, symmetric
from dlngeo.errors import SingularError
from dlngeo.weights.network import Weights, field_of, layers_of, stack_like, widths

__all__ = ["BalancedFrame", "Parts", "dimension", "inner", "norm"]


class Parts(NamedTuple):
    """A vector of weights in the frames of balanced weights; entries of the lists are None where widths equal the rank.

    ``cores`` has shape ``(..., N, r, r)``; ``lefts[p−1]`` is ``L_p``, shape=[..., d_p, r]; ``rights[p−1]`` is ``R_p``,
    shape=[..., d_{p−1}, r]; ``nulls[p−1]`` is ``O_p``, shape=[..., d_p, d_{p−1}].

    See Also
    --------
    dlngeo.weights.balanced.BalancedFrame

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> frame = BalancedFrame(balanced_weights(np.eye(2), (2, 3, 2)))
    >>> parts = frame.split([np.ones((3, 2)), np.ones((2, 3))])
    >>> parts.cores.shape, parts.lefts[0].shape, parts.lefts[1], parts.nulls
    ((2, 2, 2), (3, 2), None, [None, None])
    """

    cores: Any
    lefts: list[Any]
    rights: list[Any]
    nulls: list[Any]


class BalancedFrame:
    """Balanced weights and their frames ``Q_0, …, Q_N`` and ``Λ``.

    Vectors are given and returned in the form of the weights.

    Parameters
    ----------
    weights : sequence of array, shape=[..., d_p, d_{p−1}], or array, shape=[..., N, d, d]
        Balanced weights. Only their Λ and frames are used, so weights that are not balanced give wrong results; see
        :func:`dlngeo.imbalance` to check, and :mod:`dlngeo.weights.projections` to balance.
    rank : int, optional
        Rank r. Defaults to the least width.

    Raises
    ------
    ValueError
        If ``rank`` exceeds the least width, or the rank of the weights is below it.

    See Also
    --------
    dlngeo.weights.unbalanced.LeafFrame
    dlngeo.weights.bases.tangent_basis
    dlngeo.matrices.frame.Frame

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import balanced_weights
    >>> from dlngeo.weights.balanced import BalancedFrame
    >>> frame = BalancedFrame(balanced_weights(np.array([[1.2, 0.3], [-0.2, 0.9]]), 3, rng=0))
    >>> v = [np.array([[1.0, 2.0], [3.0, 4.0]])] * 3
    >>> parts = zip(frame.horizontal(v), frame.vertical(v), frame.normal(v))
    >>> bool(np.allclose([sum(layer) for layer in parts], v))
    True
    """

    def __init__(self, weights: Weights, rank: int | None = None) -> None:
        layers = layers_of(weights, "complex")
        self.weights = weights
        self.widths = widths(layers)
        self.depth = len(layers)
        least = min(self.widths)
        self.rank = least if rank is None else _check.rank(rank, least, least)
        xp = _check.floating(layers[0], field="complex")[0]
        self.field = field_of(layers)
        _, lam, vt = xp.linalg.svd(layers[0], full_matrices=False)
        self.lam = lam[..., : self.rank]
        if not bool(xp.all(self.lam > 0)):
            raise SingularError(
                f"the weights have rank below {self.rank}: their smallest singular value is "
                f"{float(xp.min(self.lam)):g}. The balanced weights are no manifold there; declare a lower rank."
            )
        self.q = [adjoint(vt[..., : self.rank, :])]
        for w in layers:
            # W_p Q_{p−1} = Q_p Λ. QR gives orthonormal columns also where dividing by a small λ would not.
            q, r = xp.linalg.qr(w @ self.q[-1])
            diagonal = xp.linalg.diagonal(r)[..., None, :]
            if self.field == "complex":
                size = xp.abs(diagonal)
                self.q.append(q * xp.where(size > 0, diagonal / xp.where(size > 0, size, 1.0), 1.0))
            else:
                self.q.append(xp.where(diagonal < 0, -q, q))

    @property
    def xp(self) -> Any:
        """Namespace of the arrays."""
        return _check.floating(self.lam)[0]

    def expand(self) -> BalancedFrame:
        """Return the frame with one more batch axis, of length 1, so that many vectors broadcast against one point."""
        frame = object.__new__(BalancedFrame)
        frame.widths, frame.depth, frame.rank, frame.field = self.widths, self.depth, self.rank, self.field
        frame.weights = stack_like(self.weights, [w[..., None, :, :] for w in layers_of(self.weights, "complex")])
        frame.lam, frame.q = self.lam[..., None, :], [q[..., None, :, :] for q in self.q]
        return frame

    # Parts.

    def split(self, vectors: Weights) -> Parts:
        """Parts of a vector, shape=[..., d_p, d_{p−1}] per layer."""
        columns: tuple[list[Any], ...] = ([], [], [], [])
        for v, (lower, upper) in zip(layers_of(vectors, self.field), pairwise(self.q), strict=True):
            to_lower = v @ lower
            core = adjoint(upper) @ to_lower
            left = None if upper.shape[-2] == self.rank else to_lower - upper @ core
            right = None if lower.shape[-2] == self.rank else adjoint(v) @ upper - lower @ adjoint(core)
            null = None
            if left is not None and right is not None:
                null = v - upper @ (core @ adjoint(lower) + adjoint(right)) - left @ adjoint(lower)
            for column, part in zip(columns, (core, left, right, null), strict=True):
                column.append(part)
        return Parts(self.xp.stack(columns[0], axis=-3), *columns[1:])

    def assemble(self, parts: Parts) -> Weights:
        """Vector of given parts, in the form of the weights: the inverse of :meth:`split`."""
        out = []
        for p, (lower, upper) in enumerate(pairwise(self.q)):
            core, left, right, null = (part[p] for part in (self._layers(parts.cores), *parts[1:]))
            v = upper @ core
            v = (v if left is None else v + left) @ adjoint(lower)
            v = v if right is None else v + upper @ adjoint(right)
            out.append(v if null is None else v + null)
        return stack_like(self.weights, out)

    def _layers(self, stack: Any) -> list[Any]:
        return [stack[..., p, :, :] for p in range(stack.shape[-3])]

    # The Jacobi matrices.

    @cached_property
    def _row(self) -> Any:
        return self.lam[..., None, :, None]

    @cached_property
    def _column(self) -> Any:
        return self.lam[..., None, None, :]

    def solve(self, right_side: Any) -> Any:
        """Solve ``(λ_k² + λ_l²) T_p − λ_k λ_l (T_{p−1} + T_{p+1}) = D_p`` for every entry (k, l).

        The sides ``D_1, …, D_{N−1}`` and ``T_1, …, T_{N−1}`` have shape=[..., N−1, r, r], and ``T_0 = T_N = 0``.
        """
        if self.depth == 1:
            return right_side
        row, column = self._row[..., 0, :, :], self._column[..., 0, :, :]
        diagonal, off = row**2 + column**2, row * column
        # Elimination without pivoting, which is stable as the matrices are diagonally dominant.
        pivots, sides = [diagonal], [right_side[..., 0, :, :]]
        for p in range(1, self.depth - 1):
            ratio = off / pivots[-1]
            pivots.append(diagonal - off * ratio)
            sides.append(right_side[..., p, :, :] + ratio * sides[-1])
        out = [sides[-1] / pivots[-1]]
        for pivot, side in zip(pivots[-2::-1], sides[-2::-1], strict=True):
            out.append((side + off * out[-1]) / pivot)
        return self.xp.stack(out[::-1], axis=-3)

    def generate(self, t: Any) -> Any:
        """Cores ``T_p Λ − Λ T_{p−1}``, shape=[..., N, r, r], of ``T_1, …, T_{N−1}``, shape=[..., N−1, r, r]."""
        xp = self.xp
        if self.depth == 1:
            return xp.zeros_like(self._row * self._column) + xp.sum(t, axis=-3, keepdims=True)
        end = xp.zeros_like(t[..., :1, :, :])
        return xp.concat([t, end], axis=-3) * self._column - self._row * xp.concat([end, t], axis=-3)

    def generators(self, cores: Any) -> Any:
        """``T`` of the vertical and normal part of cores: solve with ``M_p Λ − Λ M_{p+1}``."""
        return self.solve(cores[..., :-1, :, :] * self._column - self._row * cores[..., 1:, :, :])

    # Projections.

    def horizontal(self, vectors: Weights) -> Weights:
        """Horizontal part of a vector, in O(N d² r)."""
        parts, (unit, _) = self.split(vectors), self.horizontal_units
        cores = self.xp.sum(unit * parts.cores, axis=-3, keepdims=True) * unit
        lefts, rights = self._outer(parts.lefts, parts.rights)
        return self.assemble(Parts(cores, lefts, rights, _zeros(parts.nulls)))

    def vertical(self, vectors: Weights) -> Weights:
        """Vertical part of a vector: its projection onto the tangent space of the orbit."""
        parts = self.split(vectors)
        cores = self.generate(skew(self.generators(parts.cores)))
        lefts, rights = self._inner(parts.lefts, parts.rights, 1)
        return self.assemble(Parts(cores, lefts, rights, _zeros(parts.nulls)))

    def normal(self, vectors: Weights) -> Weights:
        """Part of a vector normal to the manifold of balanced weights."""
        return self.assemble(self._normal(self.split(vectors)))

    def _normal(self, parts: Parts) -> Parts:
        cores = self.generate(symmetric(self.generators(parts.cores)))
        lefts, rights = self._inner(parts.lefts, parts.rights, -1)
        return Parts(cores, lefts, rights, parts.nulls)

    def tangent(self, vectors: Weights) -> Weights:
        """Orthogonal projection of a vector onto the tangent space of the balanced weights."""
        return self.assemble(self._tangent(self.split(vectors)))

    def _tangent(self, parts: Parts) -> Parts:
        cores = parts.cores - self.generate(symmetric(self.generators(parts.cores)))
        inner, outer = self._inner(parts.lefts, parts.rights, 1), self._outer(parts.lefts, parts.rights)
        lefts, rights = ([_add(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(inner, outer, strict=True))
        return Parts(cores, lefts, rights, _zeros(parts.nulls))

    def _inner(self, lefts: list[Any], rights: list[Any], sign: int) -> tuple[list[Any], list[Any]]:
        """``L_p`` and ``R_{p+1}``, p = 1 … N−1, projected onto ``R_{p+1} = ± L_p``: vertical (+) or normal (−)."""
        means = [
            None if left is None else (left + sign * right) / 2
            for left, right in zip(lefts[:-1], rights[1:], strict=True)
        ]
        return [*means, self._zero(self.q[-1])], [self._zero(self.q[0]), *_times(sign, means)]

    def _outer(self, lefts: list[Any], rights: list[Any]) -> tuple[list[Any], list[Any]]:
        """Only ``L_N`` and ``R_1``, which are horizontal."""
        return [*_zeros(lefts[:-1]), lefts[-1]], [rights[0], *_zeros(rights[1:])]

    # The submersion.

    @cached_property
    def horizontal_units(self) -> tuple[Any, Any]:
        """Unit vectors ``λ_k^{N−p} λ_l^{p−1}/√φ_kl``, shape=[..., N, r, r], and ``√φ_kl``, shape=[..., r, r]."""
        xp = self.xp
        larger = xp.maximum(self._row, self._column)
        p = xp.arange(self.depth, dtype=self.lam.dtype)[:, None, None]
        powers = (self._row / larger) ** (self.depth - 1 - p) * (self._column / larger) ** p
        norm = xp.sum(powers**2, axis=-3, keepdims=True) ** 0.5
        return powers / norm, (norm * larger ** (self.depth - 1))[..., 0, :, :]

    def lift(self, z: Any) -> Weights:
        """Horizontal lift of a tangent vector of the product, shape=[..., d_N, d_0], of length ``√g_N(Z, Z)`` [1]_.

        The horizontal vector that :func:`dlngeo.weights.network.differential` maps to Z, whose normal part, if X has a
        lower rank than its shape allows, is dropped.
        """
        z = _check.plain(z, "the vector", self.field)
        u, v, (unit, root) = self.q[-1], self.q[0], self.horizontal_units
        core = adjoint(u) @ z @ v
        cores = unit * (core / root)[..., None, :, :]
        null = (self.lam ** (self.depth - 1))[..., None, :]
        lefts, rights = ([self._zero(q) for q in side] for side in (self.q[1:], self.q[:-1]))
        if lefts[-1] is not None:
            lefts[-1] = (z @ v - u @ core) / null
        if rights[0] is not None:
            rights[0] = (adjoint(z) @ u - v @ adjoint(core)) / null
        return self.assemble(Parts(cores, lefts, rights, [None] * self.depth))

    def _zero(self, q: Any) -> Any:
        """Vanishing part orthogonal to the frame q; None if q is square."""
        return None if q.shape[-2] == self.rank else self.xp.zeros_like(q)

    # Curvature.

    def second_fundamental_form(self, y: Weights, z: Weights) -> Weights:
        r"""Second fundamental form ``II(Y, Z)`` of the balanced weights in the flat space of weights: a normal vector.

        The balance equations, differentiated twice, determine it: with ``F_p = Y_{p+1}ᵀ Z_{p+1} − Z_p Y_pᵀ``, it is
        ``S_p W_p − W_p S_{p−1}`` where the Jacobi matrices take S to the symmetric part of F;
        below full rank the null part ``L^Y_p Λ⁻¹ (R^Z_p)ᵀ + L^Z_p Λ⁻¹ (R^Y_p)ᵀ`` of the matrices of rank r adds to it.
        """
        yp = self.split(y)
        return self.assemble(self._bend(yp, yp if z is y else self.split(z)))

    def _bend(self, y: Parts, z: Parts) -> Parts:
        ym, zm = y.cores, z.cores
        force = adjoint(ym[..., 1:, :, :]) @ zm[..., 1:, :, :] - zm[..., :-1, :, :] @ adjoint(ym[..., :-1, :, :])
        force = self._add_products(force, y.lefts[1:], z.lefts[1:], 1)
        force = self._add_products(force, z.rights[:-1], y.rights[:-1], -1)
        cores = self.generate(self.solve(symmetric(force)))
        halves: list[Any] = [None] * (self.depth - 1)
        for p in range(self.depth - 1):
            if y.lefts[p] is None:
                continue
            lower, upper = (ym[..., p, :, :], zm[..., p, :, :]), (ym[..., p + 1, :, :], zm[..., p + 1, :, :])
            cross = y.rights[p + 1] @ upper[1] + z.rights[p + 1] @ upper[0]
            cross = cross - z.lefts[p] @ adjoint(lower[0]) - y.lefts[p] @ adjoint(lower[1])
            halves[p] = cross / (2 * self.lam[..., None, :])
        inverse = 1 / self.lam[..., None, :]
        nulls = [
            None if yl is None or yr is None else (inverse * yl) @ adjoint(zr) + (inverse * zl) @ adjoint(yr)
            for yl, yr, zl, zr in zip(y.lefts, y.rights, z.lefts, z.rights, strict=True)
        ]
        lefts, rights = [*halves, self._zero(self.q[-1])], [self._zero(self.q[0]), *_times(-1, halves)]
        return Parts(cores, lefts, rights, nulls)

    def _add_products(self, cores: Any, a: list[Any], b: list[Any], sign: int) -> Any:
        """Stack of ``cores_p ± a_pᵀ b_p``, where there are such parts."""
        if all(part is None for part in a):
            return cores
        layers = zip(self._layers(cores), a, b, strict=True)
        terms = [core if x is None else core + sign * adjoint(x) @ y for core, x, y in layers]
        return self.xp.stack(list(self.xp.broadcast_arrays(*terms)), axis=-3)

    def weingarten(self, vectors: Weights, normal: Weights) -> Weights:
        r"""Shape operator ``S_ν(V)``: the tangent vector with ``⟨S_ν(V), Y⟩ = ⟨II(V, Y), ν⟩``.

        It turns a Euclidean Hessian into the Riemannian one, ``Hess f[V] = P(D²f[V]) + S_ν(V)``, where ν is the normal
        part of the Euclidean gradient and P the tangent projection.
        """
        v, n = self.split(vectors), self.split(normal)
        # ν = S_p W_p − W_p S_{p−1} at fixed S is a normal field, which turns by S_p V_p − V_p S_{p−1} along V.
        s = symmetric(self.generators(n.cores))
        end = self.xp.zeros_like(s[..., :1, :, :]) if self.depth > 1 else self.xp.zeros_like(self._row * self._column)
        upper, lower = (self.xp.concat(pair, axis=-3) for pair in ((s, end), (end, s)))
        inverse = 1 / self.lam[..., None, :]
        cross = [self._zero(self.q[0]), *_times(inverse, n.lefts[:-1]), self._zero(self.q[-1])]  # (S_p)_⊥
        cores, lefts, rights = [], [], []
        for p in range(self.depth):
            below, above = cross[p], cross[p + 1]
            core, left, right = v.cores[..., p, :, :], v.lefts[p], v.rights[p]
            m = upper[..., p, :, :] @ core - core @ lower[..., p, :, :]
            m = m if above is None else m + adjoint(above) @ left
            m = m if below is None else m - adjoint(right) @ below
            new_left = None if above is None else above @ core - left @ lower[..., p, :, :]
            new_right = None if below is None else right @ upper[..., p, :, :] - below @ adjoint(core)
            cores.append(-m)
            if n.nulls[p] is not None:
                new_left = new_left - n.nulls[p] @ (right * inverse)
                new_right = new_right - adjoint(n.nulls[p]) @ (left * inverse)
            lefts.append(None if new_left is None else -new_left)
            rights.append(None if new_right is None else -new_right)
        stack = self.xp.stack(cores, axis=-3)
        return self.assemble(self._tangent(Parts(stack, lefts, rights, _zeros(n.nulls))))

    def oneill(self, y: Weights, z: Weights) -> Weights:
        """O'Neill's tensor ``½ vert [Y, Z]`` of horizontal vectors of the submersion onto the products.

        ``Ω_p W_p − W_p Ω_{p−1}``, where the Jacobi matrices take Ω to the skew part of ``Y_p Z_pᵀ − Z_{p+1}ᵀ Y_{p+1}``.
        """
        yp, zp = self.split(y), self.split(z)
        ym, zm = yp.cores, zp.cores
        twist = ym[..., :-1, :, :] @ adjoint(zm[..., :-1, :, :]) - adjoint(zm[..., 1:, :, :]) @ ym[..., 1:, :, :]
        twist = self._add_products(twist, yp.rights[:-1], zp.rights[:-1], 1)
        twist = self._add_products(twist, zp.lefts[1:], yp.lefts[1:], -1)
        cores = self.generate(self.solve(skew(twist)))
        return self.assemble(Parts(cores, _zeros(yp.lefts), _zeros(yp.rights), _zeros(yp.nulls)))


def dimension(widths: Sequence[int], rank: int, field: _check.Field = "real") -> int:
    """Dimension ``r(d_N + d_0 − r) + Σ_{p=1}^{N−1} (d_p r − r(r+1)/2)`` of the balanced weights of rank r.

    Of complex weights ``2r(d_N + d_0 − r) + Σ_{p=1}^{N−1} (2 d_p r − r²)``.

    See Also
    --------
    dlngeo.weights.balanced.BalancedFrame

    Examples
    --------
    >>> from dlngeo.weights.balanced import dimension
    >>> dimension((3, 3, 3), 3)
    12
    """
    rank = _check.rank(rank, min(widths), min(widths))
    if _check.field(field) == "complex":
        return 2 * rank * (widths[-1] + widths[0] - rank) + sum(2 * d * rank - rank**2 for d in widths[1:-1])
    inner = sum(d * rank - rank * (rank + 1) // 2 for d in widths[1:-1])
    return rank * (widths[-1] + widths[0] - rank) + inner


def norm(vectors: Weights) -> Any:
    """Frobenius norm ``(Σ_p ‖V_p‖²)^{1/2}`` of all layers, shape=[...].

    See Also
    --------
    dlngeo.weights.balanced.inner

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import norm
    >>> float(norm([np.diag([1.0, 2.0]), np.diag([2.0, 4.0])]))  # of 1 + 4 + 4 + 16
    5.0
    """
    return inner(vectors, vectors) ** 0.5


def inner(a: Weights, b: Weights) -> Any:
    """Frobenius inner product ``Σ_p Re Tr(A_p* B_p)``, shape=[...].

    See Also
    --------
    dlngeo.weights.balanced.norm

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.weights.balanced import inner
    >>> float(inner([np.eye(2), np.ones((2, 2))], [np.diag([1.0, 2.0]), np.ones((2, 2))]))  # 1 + 2 + 4
    7.0
    """
    pairs = zip(layers_of(a, "complex"), layers_of(b, "complex"), strict=True)
    return sum(_linalg.inner(x, y) for x, y in pairs)


def _add(a: Any, b: Any) -> Any:
    return b if a is None else a + b


def _times(factor: Any, parts: list[Any]) -> list[Any]:
    return [None if part is None else factor * part for part in parts]


def _zeros(parts: list[Any]) -> list[Any]:
    return _times(0, parts)
