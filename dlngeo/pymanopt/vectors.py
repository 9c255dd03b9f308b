"""Points and tangent vectors as pymanopt wants them: sequences of arrays, tangent vectors with arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["LayerVector", "Point", "TangentVector"]


class Point(NamedTuple):
    """The matrix ``(u * s) @ vt``; fields as in pymanopt's FixedRankEmbedded."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray


class _Vector:
    """Arithmetic, array by array, of a tuple of arrays that ``_make`` makes of an iterable."""

    __slots__ = ()
    # Without this a NumPy scalar on the left would try to multiply the tuple as an array.
    __array_ufunc__ = None

    def __add__(self: Any, other: Any) -> Any:
        return self._make(a + b for a, b in zip(self, other, strict=True))

    def __sub__(self: Any, other: Any) -> Any:
        return self._make(a - b for a, b in zip(self, other, strict=True))

    def __mul__(self: Any, scalar: Any) -> Any:
        return self._make(a * scalar for a in self)

    __rmul__ = __mul__

    def __truediv__(self: Any, scalar: Any) -> Any:
        return self._make(a / scalar for a in self)

    def __neg__(self: Any) -> Any:
        return self._make(-a for a in self)


class _Triple(NamedTuple):
    Up: np.ndarray
    M: np.ndarray
    Vp: np.ndarray


class TangentVector(_Vector, _Triple):
    """The matrix ``u M vt + Up vt + u Vpᵀ``; fields as in pymanopt's FixedRankEmbedded, with vector arithmetic."""

    __slots__ = ()


class LayerVector(_Vector, tuple[np.ndarray, ...]):
    """A vector of weights: one matrix per layer, first layer first, with vector arithmetic."""

    __slots__ = ()

    @classmethod
    def _make(cls, layers: Any) -> LayerVector:
        return cls(layers)
