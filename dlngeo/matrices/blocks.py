"""Tangent and cotangent vectors in the SVD frame of a point."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Blocks", "combined"]


class Blocks(NamedTuple):
    """A tangent or cotangent vector in the SVD frame: ``U core Vᵀ + left Vᵀ + U rightᵀ``.

    ``core`` has shape ``(..., r, r)``, ``left`` ``(..., m, r)`` with ``Uᵀ left = 0`` and ``right`` ``(..., n, r)`` with
    ``Vᵀ right = 0``. ``left`` is None where U is square, and so is ``right`` where V is: nothing is orthogonal to them.
    """

    core: Any
    left: Any
    right: Any


def combined(*terms: tuple[float, Blocks]) -> Blocks:
    """Linear combination of blocks."""

    def one(name: str) -> Any:
        parts = [(weight, getattr(blocks, name)) for weight, blocks in terms]
        return None if parts[0][1] is None else sum(weight * part for weight, part in parts)

    return Blocks(one("core"), one("left"), one("right"))
