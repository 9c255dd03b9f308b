r"""Geodesics between factored matrices of rank r, reduced to matrices of size 2r.

Let ``Q_l`` have orthonormal columns that span those of U and ``Z_l``, and ``Q_r`` those of V and ``Z_r``. The metric of
a kernel is invariant under ``X ↦ (2 Q_l Q_lᵀ − I) X`` and ``X ↦ X (2 Q_r Q_rᵀ − I)``. These isometries fix the point,
the velocity and so the whole geodesic, and a matrix of rank r is fixed by both exactly if it is ``Q_l Y Q_rᵀ`` [1]_. As
``Y ↦ Q_l Y Q_rᵀ`` is an isometry too, the geodesic is that of the reduced matrix ``Y``, at most 2r×2r and of rank r:

.. math:: \exp_X(Z) = Q_l \exp_Y(Q_l^\top Z Q_r)\, Q_r^\top, \qquad Y = Q_l^\top X Q_r .

A geodesic between two points that is the only shortest one is fixed in the same way, by the bases of both column and
both row spaces. Everything costs O((m + n) r²) and a problem of size 2r, and nothing of size m×n is formed.

References
----------
.. [1] S. Kobayashi, K. Nomizu, "Foundations of Differential Geometry II", chapter VII, theorem 8.1, on fixed points of
   isometries.
"""

from __future__ import annotations

import numpy as np

from dlngeo.errors import GeodesicError
from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.matrices.geodesics import connect, shoot

__all__ = ["connect_factored", "shoot_factored"]

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]

# Energy is quadratic in the velocity, and divided by the smallest value of the kernel.
_ENERGY_DRIFT = 1e-6


def shoot_factored(frame: Frame, z: Blocks, tolerance: float = 1e-12) -> Factors:
    """Follow the geodesic from the point of a frame with velocity Z for unit time.

    The error is about ``100 tolerance`` times the largest singular value on the way, in norm: where small singular
    values matter for themselves, as at great depths, they are known to that only.

    Parameters
    ----------
    frame : Frame
        Point and kernel, of NumPy arrays without batch axes.
    z : Blocks
        Velocity.
    tolerance : float
        Local error of the integration, relative to the size of point and velocity.

    Returns
    -------
    u, s, vt : array, shape=[m, r], [r], [r, n]
        End point, singular values in descending order.

    Raises
    ------
    GeodesicError
        If the geodesic runs into a singular matrix before unit time (status ``"singular"``), or if its energy at the
        end is not that at the start to 1e-6 (status ``"not converged"``).
    """
    energy = frame.pair(z, frame.scale(z, -1))
    left, right = _basis(frame.u, z.left), _basis(frame.vt.T, z.right)
    a, b = left.T @ frame.u, frame.vt @ right
    velocity = a @ z.core @ b
    if z.left is not None:
        velocity += (left.T @ z.left) @ b
    if z.right is not None:
        velocity += a @ (z.right.T @ right)
    [end], [final] = shoot((a * frame.s) @ b, velocity, frame.kernel, frame.rank, tolerance=tolerance)
    there = Frame.at(end, frame.kernel, frame.rank)
    drift = abs(float(there.inner(final, final)) / energy - 1) if energy > 0 else 0.0
    if not drift < _ENERGY_DRIFT:
        raise GeodesicError(
            f"the energy of the geodesic changed by {drift:.1e}, relatively: its end is not accurate (status: not "
            "converged). Shorten the tangent vector.",
            status="not converged",
        )
    return left @ there.u, there.s, there.vt @ right.T


def connect_factored(start: Factors, end: Factors, kernel: Kernel, tolerance: float = 1e-10) -> tuple[Blocks, float]:
    """Find a geodesic between two points; see :func:`dlngeo.matrices.geodesics.connect`.

    Parameters
    ----------
    start, end : tuple of arrays
        ``(u, s, vt)`` of shapes (m, r), (r,), (r, n).
    kernel : Kernel
        Kernel of the metric.
    tolerance : float
        Largest distance from the end point accepted, relative to its norm.

    Returns
    -------
    velocity : Blocks
        Initial velocity, in the frame of ``start``.
    length : float
        Its length.

    Raises
    ------
    GeodesicError
        As :func:`dlngeo.matrices.geodesics.connect`.
    """
    (u0, s0, vt0), (u1, s1, vt1) = start, end
    m, n, r = u0.shape[0], vt0.shape[1], s0.size
    left, right = _basis(u0, None if m == r else u1), _basis(vt0.T, None if n == r else vt1.T)
    a, b = left.T @ u0, vt0 @ right
    x0, x1 = (a * s0) @ b, (left.T @ u1 * s1) @ (vt1 @ right)
    if np.linalg.norm(x1 - x0) <= np.finfo(float).eps * np.linalg.norm(x0):
        velocity, length = np.zeros_like(x0), 0.0
    else:
        velocity, length, _ = connect(x0, x1, kernel, r, tolerance)
    core = a.T @ velocity @ b.T
    across = None if m == r else left @ (velocity @ b.T - a @ core)
    along = None if n == r else right @ (velocity.T @ a - b.T @ core.T)
    return Blocks(core, across, along), length


def _basis(first: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """Orthonormal basis of the columns of both; where these are dependent, arbitrary vectors fill it up to 2r."""
    return first if second is None else np.linalg.qr(np.hstack((first, second)))[0]
