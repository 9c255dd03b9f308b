"""Tangent and cotangent vectors in the SVD frame of a point."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Blocks", "combined"]


class Blocks(NamedTuple):
    """A tangent or cotangent vector in the SVD frame: ``U core Vᵀ + left Vᵀ + U rightᵀ``.

    ``core`` has shape ``(..., r, r)``, ``left`` ``(..., m, r)`` with ``Uᵀ left = 0`` and ``right`` ``(..., n, r)`` with
    ``Vᵀ right = 0``. ``left`` is None where U is square, and so is ``right`` where V is: nothing is orthogonal to them.

    See Also
    --------
    dlngeo.matrices.blocks.combined
    dlngeo.matrices.frame.Frame

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.frame import Frame
    >>> frame, z = Frame.at(np.eye(3, 2), DepthKernel(3)), np.arange(6.0).reshape(3, 2)
    >>> core, left, right = frame.split(z)
    >>> core.shape, left.shape, right
    ((2, 2), (3, 2), None)
    >>> bool(np.allclose(frame.u @ core @ frame.vt + left @ frame.vt, z))
    True
    """

    core: Any
    left: Any
    right: Any


def combined(*terms: tuple[float, Blocks]) -> Blocks:
    """Linear combination of blocks.

    See Also
    --------
    dlngeo.matrices.blocks.Blocks

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.blocks import combined
    >>> from dlngeo.matrices.frame import Frame
    >>> frame, y, z = Frame.at(np.eye(3, 2), DepthKernel(3)), np.ones((3, 2)), np.arange(6.0).reshape(3, 2)
    >>> bool(np.allclose(frame.assemble(combined((2, frame.split(y)), (-1, frame.split(z)))), 2 * y - z))
    True
    """

    def one(name: str) -> Any:
        parts = [(weight, getattr(blocks, name)) for weight, blocks in terms]
        return None if parts[0][1] is None else sum(weight * part for weight, part in parts)

    return Blocks(one("core"), one("left"), one("right"))
