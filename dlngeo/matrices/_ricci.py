r"""Ricci and scalar curvature in O(r³): the components of the curvature tensor on a basis, in closed form.

In the SVD frame the basis vectors are the diagonal ``D_a = e_aa``, the symmetric ``e_ab + e_ba`` and the skew
``e_ab − e_ba``, and below full rank those with a null row or column, ``e_ia`` and ``e_ai``. Changes of sign of singular
pairs, and where m = n transposition, are isometries that fix the point. So the Ricci tensor is diagonal in this basis
but for the block of the D_a, and where m ≠ n those of a symmetric vector and its skew one. ``g(R(Y, Z)Z, Y)`` vanishes
unless Y and Z share an index, and what is left are vectors

.. math:: Y = \alpha e_{ab} + \alpha' e_{ba}, \quad Z = \beta e_{bc} + \beta' e_{cb} \quad\text{or}\quad Z = D_a,

on which the formula of :mod:`dlngeo.matrices.curvature` is written out here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlngeo.matrices._second_order import Differences, aligned
from dlngeo.matrices.frame import Blocks, Frame

__all__ = ["Ricci"]

Pair = tuple[float, float]


class Ricci:
    """Ricci tensor at the point of a frame: tables over the basis, contracted with blocks."""

    def __init__(self, frame: Frame, differences: Differences) -> None:
        self._xp = xp = frame._xp
        self._frame = frame
        rank, null = frame.rank, differences.null
        index = np.arange(rank)
        a, b, c = index[:, None, None], index[:, None], index
        self._off = xp.asarray(1.0 - np.eye(rank), dtype=frame.s.dtype)
        distinct = xp.asarray(1.0 * ((a != b) & (b != c) & (c != a)), dtype=frame.s.dtype)
        phi: Any = frame.phi
        phi_null: Any = None
        triples = _Triples(differences, a, b, c)
        pairs = _Pairs(differences, index[:, None], index)
        phi_aa = phi[..., index, index]
        signs = (1.0, -1.0)

        extra_left, extra_right = frame.m - rank, frame.n - rank
        # How many null rows or columns there are, and the unit vector of one of either.
        extra = [(count, unit) for count, unit in ((extra_left, (0.0, 1.0)), (extra_right, (1.0, 0.0))) if count]
        self.left: Any = None
        self.right: Any = None
        if extra:
            phi_null = frame.phi_null
            ends = _Triples(differences, index[:, None], index, null)  # Z leads from b to a null index
            alone = _Pairs(differences, index, null)

        # Symmetric and skew vectors.
        self.pairs = []
        for sign in signs:
            total = pairs.diagonal((1.0, sign)) * phi_aa[..., :, None] * self._off
            for other in signs:
                terms = triples((1.0, sign), (1.0, other)) * distinct
                total = total + xp.sum(terms * phi[..., None, :, :], axis=-1) / 2
            for count, beta in extra:
                total = total + count * ends((1.0, sign), beta) * phi_null[..., None, :] * self._off
            total = total + total.mT + pairs.symmetric_skew() * phi / 2 * self._off
            self.pairs.append(total)

        # Between a symmetric and its skew vector, where transposition is no isometry.
        self.uneven: Any = None
        if extra_left != extra_right:
            uneven: Any = 0.0
            for count, beta in extra:
                uneven = uneven + count * (ends((1.0, 0.0), beta) - ends((0.0, 1.0), beta)) * phi_null[..., None, :]
            self.uneven = uneven - uneven.mT

        # Diagonal vectors.
        both = [pairs.diagonal((1.0, sign)) * phi * self._off / 2 for sign in signs]
        diagonal = xp.sum(both[0] + both[1], axis=-1)
        for count, alpha in extra:
            diagonal = diagonal + count * alone.diagonal(alpha) * phi_null
        crossed = sum(pairs.two_diagonals((1.0, sign)) for sign in signs) * phi * self._off / 2
        self.diagonals = crossed + diagonal[..., None] * xp.asarray(np.eye(rank), dtype=frame.s.dtype)

        # Vectors with a null row or column.
        if extra:
            starts = _Triples(differences, null, index[:, None], index)
            through = _Triples(differences, index[:, None], null, index)
            around = _Triples(differences, null, index, null)

            def of_null(alpha: Pair, same: int, other: int) -> Any:
                back = alpha[::-1]
                value = alone.diagonal(back) * phi_aa
                for sign in signs:
                    value = value + xp.sum(starts(alpha, (1.0, sign)) * phi * self._off, axis=-1) / 2
                value = value + xp.sum(through(back, alpha) * phi_null[..., None, :] * self._off, axis=-1)
                return value + ((same - 1) * around(alpha, back) + other * around(alpha, alpha)) * phi_null

            if extra_left:
                self.left = of_null((1.0, 0.0), extra_left, extra_right)
            if extra_right:
                self.right = of_null((0.0, 1.0), extra_right, extra_left)

    def lower(self, z: Blocks) -> Blocks:
        """Cotangent vector ``Ric(·, Z)``."""
        xp, core = self._xp, z.core
        symmetric, skew = self.pairs
        eye = 1.0 - self._off
        diagonal = xp.sum(self.diagonals * xp.sum(core * eye, axis=-1)[..., None, :], axis=-1)
        off = ((symmetric + skew) * core + (symmetric - skew) * core.mT) / 4 * self._off
        if self.uneven is not None:
            off = off + self.uneven / 2 * core
        left = None if z.left is None else z.left * self.left[..., None, :]
        right = None if z.right is None else z.right * self.right[..., None, :]
        return Blocks(off + diagonal[..., :, None] * eye, left, right)

    def trace(self) -> Any:
        """Scalar curvature."""
        xp, frame = self._xp, self._frame
        phi = frame.phi
        total = xp.sum((self.pairs[0] + self.pairs[1]) * phi * self._off, axis=(-2, -1)) / 4
        total = total + xp.sum(self.diagonals * phi * (1.0 - self._off), axis=(-2, -1))
        for count, values in ((frame.m - frame.rank, self.left), (frame.n - frame.rank, self.right)):
            if count:
                total = total + count * xp.sum(values * frame.phi_null, axis=-1)
        return total


class _Triples:
    """``g(R(Y, Z)Z, Y)`` for ``Y = αe_ab + α′e_ba`` and ``Z = βe_bc + β′e_cb`` at distinct indices."""

    def __init__(self, differences: Differences, a: Any, b: Any, c: Any) -> None:
        d = differences
        a, b, c = aligned(a, b, c)
        self.a, self.b, self.c = d.values[..., a], d.values[..., b], d.values[..., c]
        self.phi_ab, self.phi_bc, self.phi_ac, self.phi_bb = d.phi(a, b), d.phi(b, c), d.phi(a, c), d.phi(b, b)
        none = (a == d.null) & (c == d.null)  # between two null indices there is no tangent vector, and no inverse
        self.metric_ac = d.choose(none, 0.0, 1 / d.choose(none, 1.0, self.phi_ac))
        self.c_ab, self.a_bc, self.b_ac = d.psi(c, a, b), d.psi(a, b, c), d.psi(b, a, c)
        self.c_bb, self.a_bb, self.b_ab, self.b_bc = d.psi(c, b, b), d.psi(a, b, b), d.psi(b, a, b), d.psi(b, b, c)
        self.c_abb, self.a_bbc, self.b_abc = d.second(c, a, b, b), d.second(a, b, b, c), d.second(b, a, b, c)
        self.g_c, self.g_a = d.weighted(c, a, b, b, self.c_abb), d.weighted(a, b, b, c, self.a_bbc)
        self.g_b = d.weighted(b, a, b, c, self.b_abc)
        self.ab_bc = d.mixed(a, b, b, c)

    def __call__(self, alpha: Pair, beta: Pair) -> Any:
        (p, q), (r, s) = alpha, beta
        a, b, c, ab, bc = self.a, self.b, self.c, self.phi_ab, self.phi_bc
        # R^U and R^V of Y at (a, b), and of Z at (b, c).
        u, v, u_z, v_z = p * b + q * a, p * a + q * b, r * c + s * b, r * b + s * c
        # The squares of u, v, u_z and v_z less the terms that g takes, see Differences.weighted.
        norm = (q * r) ** 2 + (p * s) ** 2
        rest = r**2 * p * b * (p * b + 2 * q * a) + s**2 * q * b * (q * b + 2 * p * a)
        second = (norm * self.g_c + rest * self.c_abb) / bc**2
        rest = q**2 * s * b * (s * b + 2 * r * c) + p**2 * r * b * (r * b + 2 * s * c)
        second = second + (norm * self.g_a + rest * self.a_bbc) / ab**2
        rest = p * s * (p * r * b * c + q * r * a * c + q * s * a * b)
        rest = rest + q * r * (p * r * a * b + p * s * a * c + q * s * b * c)
        mixed = (p * r * u * v_z + q * s * u_z * v) * self.ab_bc
        second = second - (norm * self.g_b + rest * self.b_abc + mixed) / (ab * bc)
        # Entries (a, c) and (c, a) of A′_Y Q, A′_Z P and H_PQ.
        yq = (u * r * self.c_ab / bc, v * s * self.c_ab / bc)
        zp = (v_z * p * self.a_bc / ab, u_z * q * self.a_bc / ab)
        hpq = tuple((i * q * r + j * p * s) * self.b_ac / (2 * ab * bc) for i, j in ((a, c), (c, a)))
        # Entries (b, b).
        hp, hq = b * (p**2 + q**2) * self.a_bb / ab**2, b * (r**2 + s**2) * self.c_bb / bc**2
        yp, zq = (u * p + v * q) * self.b_ab / ab, (u_z * s + v_z * r) * self.b_bc / bc
        total = second - self.phi_bb * hp * hq + yp * hq + zq * hp
        for x, z, h in zip(yq, zp, hpq, strict=True):
            total = total - 0.75 * self.metric_ac * (x - z) ** 2 + self.phi_ac * h**2 - (x + z) * h
        return total


class _Pairs:
    """``g(R(Y, Z)Z, Y)`` for ``Y = αe_ab + α′e_ba`` and Z in the plane of ``e_aa``, ``e_bb``, ``e_ab``, ``e_ba``."""

    def __init__(self, differences: Differences, a: Any, b: Any) -> None:
        self._d = d = differences
        a, b = aligned(a, b)
        self.i, self.j = a, b
        self.a, self.b = d.values[..., a], d.values[..., b]
        self.ab, self.aa, self.bb = d.phi(a, b), d.phi(a, a), d.phi(b, b)
        self.a_aa, self.a_ab, self.b_aa = d.psi(a, a, a), d.psi(a, a, b), d.psi(b, a, a)
        self.b_ab, self.a_bb = d.psi(b, a, b), d.psi(a, b, b)
        self.a_aab = d.second(a, a, a, b)
        self.g_a = d.weighted(a, a, a, b, self.a_aab)

    def _motions(self, alpha: Pair) -> tuple[Any, Any]:
        p, q = alpha
        return p * self.b + q * self.a, p * self.a + q * self.b

    def diagonal(self, alpha: Pair) -> Any:
        """``Z = D_a``."""
        (p, q), (u, v), d = alpha, self._motions(alpha), self._d
        a, aa, ab = self.a, self.aa, self.ab
        norm = p**2 + q**2
        b_aaa, aa_ab = d.second(self.j, self.i, self.i, self.i), d.mixed(self.i, self.i, self.i, self.j)
        g_b = d.weighted(self.j, self.i, self.i, self.i, b_aaa)
        rest = norm * a**2 + 4 * p * q * a * self.b
        second = (norm * self.g_a + rest * self.a_aab) / aa**2
        second = second + norm * (g_b + 3 * a**2 * b_aaa) / ab**2
        second = second - (norm * self.g_a + rest * self.a_aab + 2 * a * (q * u + p * v) * aa_ab) / (ab * aa)
        total = second + 2 * a * self.a_aa / aa**2 * (u * q + v * p) * self.a_ab / ab
        total = total + 2 * a * self.a_aa / aa * a * norm * self.b_aa / ab**2
        for x, weight in ((v, p), (u, q)):
            yq, zp = x * self.a_ab / aa, 2 * a * weight * self.b_aa / ab  # and H_PQ = A′_Y Q/2φ_ab
            total = total + (-(yq**2) + yq * zp - 0.75 * zp**2) / ab
        return total

    def two_diagonals(self, alpha: Pair) -> Any:
        """``g(R(Y, D_a)D_b, Y)``."""
        (p, q), (u, v), d = alpha, self._motions(alpha), self._d
        a, b, aa, bb, ab, i, j = self.a, self.b, self.aa, self.bb, self.ab, self.i, self.j
        b_aab, a_abb = d.second(j, i, i, j), d.second(i, i, j, j)
        total = u * v * d.mixed(i, j, i, j) / (aa * bb) + 2 * a * b * (p**2 + q**2) * d.mixed(i, i, j, j) / ab**2
        g_b, g_a, both = d.weighted(j, i, i, j, b_aab), d.weighted(i, i, j, j, a_abb), (p**2 + q**2) * a * b
        total = total - (p * q * g_b + (p * q * a**2 + both) * b_aab) / (ab * bb)
        total = total - (p * q * g_a + (p * q * b**2 + both) * a_abb) / (ab * aa)
        for x, y, weight in ((v, u, p), (u, v, q)):
            t_a, t_b = x * self.a_ab / aa, y * self.b_ab / bb
            w_a, w_b = 2 * a * weight * self.b_aa / ab, 2 * b * weight * self.a_bb / ab
            terms = -3 * (t_a - w_a) * (t_b - w_b) + t_a * t_b - (t_a + w_a) * t_b - (t_b + w_b) * t_a
            total = total + terms / (4 * ab)
        return total

    def symmetric_skew(self) -> Any:
        """``Y = e_ab + e_ba`` and ``Z = e_ab − e_ba``."""
        d, i, j = self._d, self.i, self.j
        aa, bb, ab, a, b = self.a**2, self.b**2, self.ab, self.b_aa, self.a_bb
        second = aa * d.second(j, i, i, j) + bb * d.second(i, i, j, j) - (aa + bb) / 2 * d.mixed(i, j, i, j)
        squares = aa * a**2 * self.aa + bb * b**2 * self.bb
        return 8 * second / ab**2 - 4 * squares / ab**4 + 8 * (aa * a * self.a_ab + bb * b * self.b_ab) / ab**3
