r"""The SVD of a matrix that has moved a little, from that of before, by products of matrices alone.

With the right singular vectors V of before, the columns of ``XV = Ŷ S``, of norms S, have cosines ``C = ŶᵀŶ − 1``.
Where they are too large, one sweep of simultaneous one-sided Jacobi rotations, ``E_ij = C_ij g/(g² + τ²)`` with
``g = s_j/s_i − s_i/s_j``, turns V; pairs closer than τ turn by less, since the functions of X that a step needs have no
poles there. What is left of C is taken out of the columns of smaller norm, by which U becomes orthonormal to C². Then
``UᵀXV`` has off-diagonal entries ``C_ij s_j`` with s_j the smaller of two singular values: relative to the larger they
are the error of the frame, and of the functions of X that are taken in it.

References
----------
J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13 (1992).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlngeo.torch.step import Factors, _plus_one

__all__ = ["follow"]


def follow(x: Tensor, v: Tensor, tolerance: float) -> tuple[Factors, Tensor] | None:
    """Return the SVD of a tall matrix (m, n) from singular vectors (n, n) near its own, and its own.

    None where the error of the frame, or what U lacks of orthonormality, is above the tolerance after one sweep, in the
    root mean square over columns of their norms.
    """
    y, s, cosines = _columns(x @ v)
    error = _error(s, cosines)
    if not error <= 100 * tolerance:
        return None  # one sweep would not do
    if error > tolerance:
        gap = s / s.unsqueeze(-1)
        gap -= 1 / gap
        turn = cosines * gap / (gap * gap + (10 * tolerance) ** 2)
        # The last term makes up for what the sweep before this one left: rotations to second order stretch by E⁴/8.
        v = v + v @ (turn + turn @ turn / 2 - _plus_one(v.mT @ v, -1) / 2)
        y, s, cosines = _columns(x @ v)
        if not _error(s, cosines) <= tolerance:
            return None
    larger = torch.heaviside(s.unsqueeze(-1) - s, torch.full_like(s[:1], 0.5))
    return Factors(y - y @ (cosines * larger), s, v.mT), v


def _columns(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns at norm 1, their norms, and their cosines, zero on the diagonal."""
    s = torch.linalg.vector_norm(y, dim=-2)
    y = y / s
    cosines = y.mT @ y
    cosines.diagonal(dim1=-2, dim2=-1).zero_()
    return y, s, cosines


def _error(s: Tensor, cosines: Tensor) -> float:
    other = s.unsqueeze(-1)
    off = torch.linalg.vector_norm(cosines * (torch.minimum(s, other) / torch.maximum(s, other)))
    return float(torch.maximum(off, torch.linalg.vector_norm(cosines * cosines))) / s.shape[-1] ** 0.5
