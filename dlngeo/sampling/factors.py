r"""Where chains start: dense points, or the factors of matrices, which hold what dense matrices of deep networks lose.

A dense matrix in doubles resolves singular values to about ``10⁻¹⁶ σ_1``, and so λ = σ^{1/N} to ``10^{−16/N} λ_1``:
10⁻² at N = 8, and 0.56 at N = 64. What is below is round-off, of another size or zero on another machine.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dlngeo import _check
from dlngeo._linalg import adjoint

__all__ = ["Factors", "dense", "factored", "named"]

_ORTHONORMAL = 1e-10  # how far from it frames may be


class Factors(NamedTuple):
    """Matrices ``U Λ^N Vᵀ``: u, shape=[chains, m, r], lam, shape=[chains, r], and vt, shape=[chains, r, n].

    Of complex matrices vt is ``V*``.
    """

    u: np.ndarray
    lam: np.ndarray
    vt: np.ndarray


def named(points: Any, field: _check.Field = "real") -> dict[str, np.ndarray]:
    """Copy finite points, or three factors, of which the second has an axis less than the first, to arrays by name.

    Those of a complex ``field`` become complex, but for λ.
    """
    triple = isinstance(points, tuple) and len(points) == 3 and 0 < np.ndim(points[1]) == np.ndim(points[0]) - 1
    parts = zip(Factors._fields, points, strict=True) if triple else [("points", points)]
    arrays = {}
    for name, part in parts:
        kind: _check.Field = "real" if name == "lam" else field
        array = _check.numbers(part, f"the initial {name}", kind)
        arrays[name] = np.array(array, dtype=complex if kind == "complex" else float)
    if not all(np.isfinite(part).all() for part in arrays.values()):
        raise ValueError("the initial points hold NaN or infinite entries; start from points of the space.")
    return arrays


def dense(points: np.ndarray | Factors, shape: tuple[int, ...]) -> np.ndarray:
    """Points, shape=[chains, *shape], from one or many, after checking that they have this shape."""
    if isinstance(points, Factors):
        raise TypeError("factors (u, lam, vt) are of matrices with a spectral metric; start from points of the space.")
    points = points[None] if points.shape == shape else points
    if points.shape[1:] != shape:
        raise ValueError(f"initial points of shape {points.shape}; expected (n_chains, {', '.join(map(str, shape))}).")
    return points


def factored(
    points: np.ndarray | Factors, shape: tuple[int, ...], rank: int, depth: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, λ and V, shape=[chains, m, r], [chains, r], [chains, n, r], of dense points or factors, λ decreasing.

    Raises
    ------
    ValueError
        If they have another shape, points have a rank below r to round-off, frames are not orthonormal to 1e-10, or a
        λ is not positive.
    """
    if not isinstance(points, Factors):
        u, s, vt = np.linalg.svd(dense(points, shape), full_matrices=False)
        low = ~(s[:, rank - 1] > max(shape) * np.finfo(float).eps * s[:, 0])
        if low.any():
            chain = int(np.argmax(low))
            held = np.finfo(float).eps ** (1 / depth)
            raise ValueError(
                f"initial point {chain} has rank below {rank}: its singular values are {s[chain]}. Start from points "
                f"of rank {rank}; dense ones hold λ = σ^(1/N) above {held:.1g} of the largest only, and factors "
                "(u, lam, vt) any."
            )
        return u[..., :rank].copy(), s[:, :rank] ** (1 / depth), adjoint(vt[:, :rank]).copy()
    u, lam, vt = (part[None] if points.lam.ndim == 1 else part for part in points)
    expected = [(len(lam), shape[0], rank), (len(lam), rank), (len(lam), rank, shape[1])]
    if [u.shape, lam.shape, vt.shape] != expected:
        found = f"{u.shape}, {lam.shape}, {vt.shape}"
        raise ValueError(f"initial factors u, lam, vt of shapes {found}; expected {expected}.")
    v = adjoint(vt)
    for name, q in (("u", u), ("vt", v)):
        off = float(np.max(np.abs(adjoint(q) @ q - np.eye(rank))))
        if not off <= _ORTHONORMAL:
            raise ValueError(f"{name} of the initial factors is not orthonormal, by {off:.1e}; take the Q of its QR.")
    if not (lam > 0).all():
        raise ValueError(f"lam of the initial factors must be positive, got {lam.min():g}; or lower the rank.")
    order = np.argsort(-lam, axis=1)
    u, v = (np.ascontiguousarray(np.take_along_axis(q, order[:, None], axis=2)) for q in (u, v))
    return u, np.take_along_axis(lam, order, axis=1), v
