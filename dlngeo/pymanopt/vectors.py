"""Points and tangent vectors of the fixed-rank matrices, as pymanopt wants them: tuples, with arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Point", "TangentVector"]


class Point(NamedTuple):
    """The matrix ``(u * s) @ vt``; fields as in pymanopt's FixedRankEmbedded."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray


class _Triple(NamedTuple):
    Up: np.ndarray
    M: np.ndarray
    Vp: np.ndarray


class TangentVector(_Triple):
    """The matrix ``u M vt + Up vt + u Vpᵀ``; fields as in pymanopt's FixedRankEmbedded, with vector arithmetic."""

    __slots__ = ()
    # Without this a NumPy scalar on the left would try to multiply the tuple as an array.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> TangentVector:
        return TangentVector(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Any) -> TangentVector:
        return TangentVector(*(a - b for a, b in zip(self, other, strict=True)))

    def __mul__(self, scalar: Any) -> TangentVector:
        return TangentVector(*(a * scalar for a in self))

    __rmul__ = __mul__

    def __truediv__(self, scalar: Any) -> TangentVector:
        return TangentVector(*(a / scalar for a in self))

    def __neg__(self) -> TangentVector:
        return TangentVector(*(-a for a in self))
