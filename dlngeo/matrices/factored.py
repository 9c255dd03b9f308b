r"""Geodesics of factored matrices.

Geodesics between factored matrices of rank r reduce to matrices of size 2r. Let ``Q_l`` have
orthonormal columns that span those of U and ``Z_l``, and ``Q_r`` those of V and ``Z_r``. The metric of a kernel is
invariant under ``X ↦ (2 Q_l Q_lᵀ − I) X`` and ``X ↦ X (2 Q_r Q_rᵀ − I)``. These isometries fix the point, the velocity
and so the whole geodesic, and a matrix of rank r is fixed by both exactly if it is ``Q_l Y Q_rᵀ`` [1]_. As
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

from dlngeo._linalg import adjoint, is_complex, span
from dlngeo.kernels import Kernel
from dlngeo.matrices.complex_geodesics import surface_of
from dlngeo.matrices.frame import Blocks, Frame
from dlngeo.shooting import connect, conserved, shoot

__all__ = ["connect_factored", "shoot_factored"]

Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def shoot_factored(frame: Frame, z: Blocks, tolerance: float = 1e-12) -> Factors:
    """Follow the geodesic from the point of a frame with velocity Z for unit time.

    The error of a depth is one in the metric, relative to the length. For other kernels it is about ``100 tolerance``
    times the largest singular value on the way, in norm: small singular values are known to that only.

    All arrays are of NumPy, without batch axes. The tolerance is that of :func:`dlngeo.shooting.shoot`. The end point
    ``u, s, vt`` has its singular values in descending order.

    Raises
    ------
    GeodesicError
        If the geodesic runs into a singular matrix before unit time (status ``"singular"``), or if its energy at the
        end is not that at the start to 1e-6 (status ``"not converged"``).

    See Also
    --------
    dlngeo.matrices.factored.connect_factored
    dlngeo.shooting.shoot

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.factored import shoot_factored
    >>> from dlngeo.matrices.frame import Frame
    >>> frame = Frame.at(np.diag([4.0, 1.0]), DepthKernel(2))
    >>> u, s, vt = shoot_factored(frame, frame.split(np.diag([4.0, 2.0])))  # both square roots grow by 1
    >>> s.round(4)
    array([9., 4.])
    """
    energy = frame.pair(z, frame.scale(z, -1))
    left, right = span(frame.u, z.left), span(adjoint(frame.vt), z.right)
    a, b = adjoint(left) @ frame.u, frame.vt @ right
    velocity = a @ z.core @ b
    if z.left is not None:
        velocity += (adjoint(left) @ z.left) @ b
    if z.right is not None:
        velocity += a @ (adjoint(z.right) @ right)
    surface = surface_of(frame.kernel, frame.rank, frame.field)
    [end], [final] = shoot((a * frame.s) @ b, velocity, surface, tolerance=tolerance)
    there = Frame.at(end, frame.kernel, frame.rank)
    conserved(energy, float(there.inner(final, final)))
    return left @ there.u, there.s, there.vt @ adjoint(right)


def connect_factored(start: Factors, end: Factors, kernel: Kernel, tolerance: float = 1e-10) -> tuple[Blocks, float]:
    """Find a geodesic between two points ``(u, s, vt)``, of shapes (m, r), (r,), (r, n).

    Its initial velocity, in the frame of the start, and its length. The tolerance and what is raised are those of
    :func:`dlngeo.shooting.connect`.

    See Also
    --------
    dlngeo.matrices.factored.shoot_factored
    dlngeo.shooting.connect

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.factored import connect_factored
    >>> start, end = (np.eye(3, 2), np.array([4.0, 1.0]), np.eye(2)), (np.eye(3, 2), np.array([9.0, 4.0]), np.eye(2))
    >>> velocity, length = connect_factored(start, end, DepthKernel(2))
    >>> bool(np.allclose(velocity.core, np.diag([4.0, 2.0]))), round(float(length), 4)  # √N |ΔΛ|
    (True, 2.0)
    """
    (u0, s0, vt0), (u1, s1, vt1) = start, end
    m, n, r = u0.shape[0], vt0.shape[1], s0.size
    left, right = span(u0, None if m == r else u1), span(adjoint(vt0), None if n == r else adjoint(vt1))
    a, b = adjoint(left) @ u0, vt0 @ right
    x0, x1 = (a * s0) @ b, (adjoint(left) @ u1 * s1) @ (vt1 @ right)
    if np.linalg.norm(x1 - x0) <= np.finfo(float).eps * np.linalg.norm(x0):
        velocity, size = np.zeros_like(x0), 0.0
    else:
        surface = surface_of(kernel, r, "complex" if is_complex(x0) else "real")
        velocity, size, _ = connect(x0, x1, surface, tolerance)
    core = adjoint(a) @ velocity @ adjoint(b)
    across = None if m == r else left @ (velocity @ adjoint(b) - a @ core)
    along = None if n == r else right @ (adjoint(velocity) @ a - adjoint(b) @ adjoint(core))
    return Blocks(core, across, along), size
