r"""Second derivatives of the cometric, in the SVD frame of a point.

At fixed P the cometric is the two-sided function ``A(P) = f(XXᵀ, XᵀX)[P]`` with ``f(s², t²) = φ(s, t)``, so it depends
on X to second order through the divided differences of f: ``ψ``, that of one argument, ``f2``, the second one of one
argument, and ``f11``, the mixed one of both (the second-order Daleckii–Krein formula [1]_).

Below full rank null singular values join the r positive ones. Moving along the matrices of rank r leaves them zero, so
divided differences between null values are those of a function which is constant there, and ``f(0, 0) = 0`` is the
projection onto the manifold.

References
----------
.. [1] R. Bhatia, "Matrix Analysis", Springer 1997, Section V.3.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from dlngeo._linalg import adjoint, is_complex
from dlngeo.matrices._index_sets import index_sets, place_of, places_of_unions, sort_indices
from dlngeo.matrices.frame import Blocks, Frame

__all__ = ["Differences", "Extension", "SecondOrder"]


class Differences:
    """Divided differences of f at the singular values of a point, by their indices; index ``null`` means zero.

    The methods take broadcastable integer arrays and return arrays of the shape ``[..., *broadcast]``.
    """

    def __init__(self, frame: Frame) -> None:
        self._xp, self._kernel, self._frame = frame._xp, frame.kernel, frame
        self.null = frame.rank
        self.size = frame.rank
        self.values = frame.s
        if not frame.m == frame.n == frame.rank:
            self.size += 1
            self.values = self._xp.concat([frame.s, self._xp.zeros_like(frame.s[..., :1])], axis=-1)

    def _at(self, *indices: Any) -> list[Any]:
        return [self.values[..., index] for index in indices]

    def choose(self, mask: Any, value: Any, otherwise: Any) -> Any:
        return self._xp.where(self._xp.asarray(mask), value, otherwise)

    def _corner(self, mask: Any, values: Any) -> Any:
        """``φ(0, 0)/values²``, which a kernel may leave positive, to be taken out where the mask says."""
        zero = self._xp.zeros_like(values)
        return self.choose(mask, self._kernel(zero, zero) / values**2, 0.0)

    def phi(self, k: Any, col: Any) -> Any:
        """``f(k, col)``."""
        return self._table_phi[..., k, col]

    def psi(self, col: Any, k: Any, j: Any) -> Any:
        """``f[k, j; col]``, the divided difference in one argument."""
        return self._table_psi[..., col, k, j]

    @cached_property
    def _table_phi(self) -> Any:
        xp, frame = self._xp, self._frame
        if self.size == frame.rank:
            return frame.phi
        null = frame.phi_null[..., None]
        phi = xp.concat([frame.phi, null], axis=-1)
        return xp.concat([phi, xp.concat([null.mT, xp.zeros_like(null[..., :1, :])], axis=-1)], axis=-2)

    @cached_property
    def _table_psi(self) -> Any:
        if self.size == self._frame.rank:
            return self._frame.psi
        index = np.arange(self.size)
        col, k, j = aligned(index[:, None, None], index[:, None], index)
        low, high = np.minimum(k, j), np.maximum(k, j)
        both = low == self.null
        low, high = np.where(both, 0, low), np.where(both, 0, high)
        v_col, v_low, v_high = self._at(col, low, high)
        value = self._kernel.divided_difference(v_col, v_low, v_high)
        corner = (col == self.null) & (high == self.null)
        value = self.choose(corner, self._kernel(v_col, v_low) / v_low**2, value)
        return self.choose(both, 0.0, value)

    def second(self, col: Any, k: Any, i: Any, j: Any, place: Any = None) -> Any:
        """``f2 = f[k, i, j; col]``, the second divided difference in one argument."""
        col, k, i, j = aligned(col, k, i, j)
        low, middle, high = sort_indices(k, i, j)
        all_null, two = low == self.null, middle == self.null
        low = np.where(all_null, 0, low)
        middle, high = np.where(two, low, middle), np.where(two, low, high)
        corner = (col == self.null) & (high == self.null)
        if self._third is None:
            value = self._kernel.second_divided_difference(*self._at(col, low, middle, high))
        else:
            value = self._third[..., place_of(col, k, i, j) if place is None else place] / self.phi(low, middle)
            slope = self.psi(col, middle, high)
            if corner.any():  # that of φ itself, with φ(0, 0) where it is
                slope = slope - self._corner(corner, self.values[..., middle])
            value = (value - slope * self.psi(high, low, middle)) / self.phi(low, high)
        if corner.any():
            v_low, v_middle = self._at(low, middle)
            value = value - self._corner(corner, v_low * v_middle)
        if two.any():
            value = self.choose(two, self.psi(col, low, self.null) / self.values[..., low] ** 2, value)
        return self.choose(all_null, 0.0, value) if all_null.any() else value

    def weighted(self, col: Any, k: Any, i: Any, j: Any, second: Any) -> Any:
        """``g = f[k, j; col] + σ_i² f[k, i, j; col]``, from the value of the second term's difference.

        It is the second divided difference of ``s² φ(s, col)`` in s², so symmetric in k, i and j. Its two terms cancel
        unless i is the least of the singular values.
        """
        col, k, i, j = aligned(col, k, i, j)
        low, middle, high = sort_indices(k, i, j)
        value = self.psi(col, low, middle) + self.values[..., high] ** 2 * second
        if not self._descending:
            for least, one, other in ((low, middle, high), (middle, low, high)):
                v_least, v_one, v_other = self._at(least, one, other)
                smaller = (v_least <= v_one) & (v_least <= v_other)
                value = self._xp.where(smaller, self.psi(col, one, other) + v_least**2 * second, value)
        return value

    def mixed(self, k: Any, i: Any, j: Any, col: Any, place: Any = None) -> Any:
        """``f11 = f[k, i; j, col]``, the divided difference in both arguments."""
        k, i, j, col = aligned(k, i, j, col)
        (k, i), (j, col) = sort_indices(k, i), sort_indices(j, col)
        none = (k == self.null) | (j == self.null)
        k, j = np.where(k == self.null, 0, k), np.where(j == self.null, 0, j)
        if self._third is None:
            value = self._kernel.mixed_divided_difference(*self._at(k, i, j, col))
        else:
            value = self._third[..., place_of(k, i, j, col) if place is None else place] / (
                self.phi(k, i) * self.phi(j, col)
            )
        corner = (i == self.null) & (col == self.null)
        if corner.any():
            v_k, v_j = self._at(k, j)
            value = value - self._corner(corner, v_k * v_j)
        return self.choose(none, 0.0, value) if none.any() else value

    # Tables over all indices, evaluated once for every set of indices that symmetry makes equal.

    @cached_property
    def _third(self) -> Any:
        """``h[k, i, j, col]`` at every set of indices, for kernels that are divided differences of one function h.

        None for the others, and where the singular values do not descend: :meth:`second` would cancel there.
        """
        if not self._descending:
            return None
        sets = index_sets(self.size, 4)
        at = self._at(*np.where((sets == self.null).sum(axis=0) > 2, 0, sets))
        return self._kernel.third_divided_difference(*at)

    @cached_property
    def _descending(self) -> bool:
        s = self._frame.s
        return bool(self._xp.all(s[..., 1:] <= s[..., :-1]))

    def all_second(self, rows: Any, cols: Any) -> tuple[Any, Any]:
        """``f2`` and ``g`` of k, i, j and col, shape=[..., rows k, rows j, rows i, cols col]; i in cols for g."""
        k, j = rows[:, None, None], rows[:, None]
        places = place_of(k, j, rows), place_of(k, j, cols)
        tables = self._tables_second
        if len(cols) != self.size:
            tables = tuple(table[..., cols] for table in tables)
        second, weighted = (table[..., place, :] for table, place in zip(tables, places, strict=True))
        return second, weighted

    @cached_property
    def _tables_second(self) -> tuple[Any, Any]:
        col = np.arange(self.size)
        k, i, j = index_sets(self.size, 3)[..., None]
        second = self.second(col, k, i, j, places_of_unions(self.size, 1, 3))
        return second, self.weighted(col, k, i, j, second)

    def all_mixed(self, rows: Any, cols: Any) -> Any:
        """``f[k, i; j, col]``, shape=[..., rows k, cols j, rows i, cols col]."""
        xp = self._xp
        first, last = place_of(rows[:, None], rows), place_of(cols[:, None], cols)
        table = self._table_mixed[..., xp.reshape(xp.asarray(last), (-1,))][..., first, :]
        return xp.moveaxis(xp.reshape(table, (*table.shape[:-1], len(cols), len(cols))), -2, -3)

    @cached_property
    def _table_mixed(self) -> Any:
        """``f11`` at every pair and pair."""
        low, high = index_sets(self.size, 2)
        return self.mixed(low[:, None], high[:, None], low, high, places_of_unions(self.size, 2, 2))


def aligned(*indices: Any) -> list[Any]:
    """Index arrays with as many axes each, so that what they select broadcasts behind the axes of a batch."""
    arrays = [np.asarray(index) for index in indices]
    axes = max(array.ndim for array in arrays)
    return [array.reshape((1,) * (axes - array.ndim) + array.shape) for array in arrays]


class Extension:
    """Blocks as matrices whose further rows and columns hold the left and right blocks.

    The blocks enter through their coordinates in a basis of the space that they span, which is enough: the metric is
    invariant under rotations of the null spaces, so the curvature of vectors lies in the span of their blocks.
    """

    def __init__(self, frame: Frame, vectors: list[Blocks]) -> None:
        self._xp = frame._xp
        self.rank = frame.rank
        self.left = self._basis(frame.u, [b.left for b in vectors])
        self.right = self._basis(adjoint(frame.vt), [b.right for b in vectors])
        sizes = (self.rank + (0 if q is None else q.shape[-1]) for q in (self.left, self.right))
        self.rows, self.cols = (np.minimum(np.arange(size), self.rank) for size in sizes)

    def _basis(self, frame: Any, blocks: list[Any]) -> Any:
        """Orthonormal columns that span the blocks: a complement of the frame, or a smaller basis."""
        if blocks[0] is None:
            return None
        size, rank = frame.shape[-2:]
        if size - rank <= len(blocks) * rank:
            return self._xp.linalg.qr(frame, mode="complete")[0][..., rank:]
        return self._xp.linalg.qr(self._xp.concat(self._xp.broadcast_arrays(*blocks), axis=-1))[0]

    def matrix(self, blocks: Blocks) -> Any:
        """Matrix of blocks, shape=[..., len(rows), len(cols)]."""
        xp, (core, left, right) = self._xp, blocks
        below = None if left is None else adjoint(self.left) @ left
        parts = [core, below, None if right is None else adjoint(right) @ self.right]
        batch = np.broadcast_shapes(*(part.shape[:-2] for part in parts if part is not None))
        core, below, beside = (
            None if part is None else xp.broadcast_to(part, (*batch, *part.shape[-2:])) for part in parts
        )
        if beside is not None:
            core = xp.concat([core, beside], axis=-1)
        if below is not None:
            pad = xp.zeros_like(below[..., :1]) * xp.ones_like(core[..., :1, self.rank :])
            core = xp.concat([core, xp.concat([below, pad], axis=-1)], axis=-2)
        return core

    def blocks(self, matrix: Any) -> Blocks:
        """Blocks of a matrix: the inverse of :meth:`matrix`, without the normal part."""
        r = self.rank
        left = None if self.left is None else self.left @ matrix[..., r:, :r]
        right = None if self.right is None else self.right @ adjoint(matrix[..., :r, r:])
        return Blocks(matrix[..., :r, :r], left, right)


class SecondOrder:
    """Second derivatives of the cometric and of the kinetic energy, on matrices of an :class:`Extension`.

    Both cost O(d⁴) operations and memory, d the size of the extended matrices.
    """

    def __init__(self, differences: Differences, rows: Any, cols: Any) -> None:
        self._xp = differences._xp
        rank = differences.null
        values = differences.values[..., :rank, None]
        eye = np.zeros((rank, len(rows), len(cols)))
        eye[np.arange(rank), np.arange(rank), np.arange(rank)] = 1
        eye = self._xp.asarray(eye, dtype=values.dtype)
        self.sigma = self._xp.sum(values[..., None] * eye, axis=-3)
        one = differences.all_second(rows, cols)
        other = one if len(rows) == len(cols) else differences.all_second(cols, rows)
        (self.second, self.weighted) = zip(one, other, strict=True)
        self.mixed = differences.all_mixed(rows, cols)

    def _motions(self, y: Any) -> tuple[Any, Any]:
        """Halves of the first-order changes ``R^U`` of ``XX*`` and ``R^V`` of ``X*X``: these are R + R*."""
        return self._times(y, self.sigma.mT), self._times(adjoint(y), self.sigma)

    def _times(self, y: Any, sigma: Any) -> Any:
        """``y σ`` for the rectangular diagonal σ, which is real."""
        return y @ (self._xp.astype(sigma, y.dtype) if is_complex(y) else sigma)

    def cometric(self, y: Any, z: Any, q: Any) -> Any:
        r"""Second derivative ``(D²_{YZ} A)(Q)`` along the manifold, at zero tangential acceleration.

        .. math::
            \sum_j \Big[(YZ^\top + ZY^\top)_{kj} \psi_l(k, j) + \sum_i (R^U_{ki} \tilde R^U_{ij}
                + \tilde R^U_{ki} R^U_{ij}) f2_l(k, i, j)\Big] Q_{jl} + (\text{the same on the right})
            + \sum_{ij} (R^U_{ki} \tilde R^V_{jl} + \tilde R^U_{ki} R^V_{jl}) f11(k, i; j, l)\, Q_{ij},

        R the first-order changes by Y, and those with a tilde by Z. The part ``Y_ki σ_i² Z_ji`` of the second term
        cancels the first where σ_i is large; both are summed as ``Y_ki Z_ji g_l(k, i, j)``, see
        :meth:`Differences.weighted`.
        """
        xp = self._xp
        (u_y, v_y), (u_z, v_z) = self._motions(y), self._motions(z)
        out = self._one_side(0, y, z, u_y, u_z, q) + adjoint(
            self._one_side(1, adjoint(y), adjoint(z), v_y, v_z, adjoint(q))
        )
        u_y, v_y, u_z, v_z = (half + adjoint(half) for half in (u_y, v_y, u_z, v_z))
        across = xp.stack(xp.broadcast_arrays(u_y, u_z), axis=-2)[..., :, None, :, :]  # k, order, i
        along = xp.stack(xp.broadcast_arrays(v_z, v_y), axis=-2)  # j, order, l
        both = self._weigh(across * q.mT[..., None, :, None, :], self.mixed)  # k, j, order, l
        return out + xp.sum(both * along[..., None, :, :, :], axis=(-3, -2))

    def _one_side(self, side: int, y: Any, z: Any, u_y: Any, u_z: Any, q: Any) -> Any:
        def chains(a: Any, b: Any) -> Any:  # a_ki b̄_ji + b_ki ā_ji at k, j, i
            a_bar, b_bar = a.conj(), b.conj()
            return a[..., :, None, :] * b_bar[..., None, :, :] + b[..., :, None, :] * a_bar[..., None, :, :]

        u_yt, u_zt = adjoint(u_y), adjoint(u_z)
        rest = chains(u_y, u_zt) + chains(u_yt, u_z) + chains(u_yt, u_zt)
        pairs = self._weigh(chains(y, z)[..., None, :], self.weighted[side])[..., 0, :]
        pairs = pairs + self._weigh(rest[..., None, :], self.second[side])[..., 0, :]  # k, j, l
        return self._xp.sum(pairs * q[..., None, :, :], axis=-2)

    def force(self, y: Any, p: Any, q: Any) -> Any:
        r"""Second derivative of the kinetic energy: the derivative along Y of ``∇_X ½⟨P, A_X Q⟩``.

        It is the adjoint of :meth:`cometric`: paired with Z it gives ``½⟨P, (D²_{YZ} A)(Q)⟩``.
        """
        xp = self._xp
        u, v = self._motions(y)
        out = self._pulled(0, y, p, q, u) + adjoint(self._pulled(1, adjoint(y), adjoint(p), adjoint(q), v))
        u, v, q_t = u + adjoint(u), v + adjoint(v), adjoint(q)
        pairs = p[..., :, None, :] * v.conj()[..., None, :, :]
        along = self._weighed(self.mixed, pairs[..., None])[..., 0]  # k, j, i
        pairs = u.conj()[..., :, None, :] * q_t[..., None, :, :]
        across = self._weigh(pairs[..., None, :], self.mixed)[..., 0, :]  # k, j, l
        pull_u = xp.sum(q_t[..., None, :, :] * along, axis=-2) / 2
        pull_v = xp.sum(p[..., :, None, :] * across, axis=-3) / 2
        right = adjoint(self._times(pull_v + adjoint(pull_v), self.sigma.mT))
        return out + self._times(pull_u + adjoint(pull_u), self.sigma) + right

    def _pulled(self, side: int, y: Any, p: Any, q: Any, u: Any) -> Any:
        xp = self._xp
        pairs = p[..., :, None, :] * q.conj()[..., None, :, :]
        pairs = ((pairs + q[..., :, None, :] * p.conj()[..., None, :, :]) / 2)[..., None]  # k, j, l
        inner = self._weighed(self.second[side], pairs)[..., 0]  # k, j, i
        first = xp.sum(self._weighed(self.weighted[side], pairs)[..., 0] * y[..., None, :, :], axis=-2)
        pull = xp.sum(adjoint(u)[..., None, :, :] * inner, axis=-2)
        back = xp.sum((u + adjoint(u))[..., None, :, :] * inner, axis=-2)
        return first + self._times(pull + adjoint(back), self.sigma if side == 0 else self.sigma.mT)

    def _weigh(self, pairs: Any, table: Any) -> Any:
        """``pairs @ table``, of a real table."""
        return pairs @ (self._xp.astype(table, pairs.dtype) if is_complex(pairs) else table)

    def _weighed(self, table: Any, pairs: Any) -> Any:
        """``table @ pairs``, of a real table."""
        return (self._xp.astype(table, pairs.dtype) if is_complex(pairs) else table) @ pairs
