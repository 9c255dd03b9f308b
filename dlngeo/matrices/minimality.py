r"""Whether a geodesic is shortest: lower bounds of the distance that are proved, and conjugate points.

With ``N/φ(1, 1)`` being 1, or N for the normalised metric of depth N, and the singular values in descending order,

.. math:: d(X, Y)^2 \ge \frac{N}{\varphi(1, 1)} \Big( (N - 2) |\Lambda_X - \Lambda_Y|^2
    + 2 |\Lambda_X|^2 + 2 |\Lambda_Y|^2 - 2 \nu_V - 2 \nu_U \Big), \qquad
    \nu_V = \|\Lambda_X V_X^\top V_Y \Lambda_Y\|_*, \; \nu_U = \|\Lambda_X U_X^\top U_Y \Lambda_Y\|_* .

The metric is that of balanced weights modulo their fibres [1]_, and no path of weights is shorter than its chord: the
squared chord is a sum over layers, of which the first and the last are bounded by Procrustes problems, each with a
gauge of its own, and the others by their singular values. At N = 2 the two layers share their one gauge, so that the
least chord is known: ``2 ν_V + 2 ν_U`` becomes ``2 ‖Λ_X(V_XᵀV_Y + U_XᵀU_Y)Λ_Y‖_*``. It is attained between symmetric
positive definite matrices, where it is the Bures–Wasserstein distance. At real depth, ``N²|Λ_X − Λ_Y|²/φ(1, 1)`` is
left, for any kernel the same in the coordinate ``∫ dσ/√φ(σ, σ)``, since singular values move no faster; at depth 1 the
straight line.

References
----------
.. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad

from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.matrices.jacobi import conjugate_time

__all__ = ["Minimality", "least_distance", "minimality"]

Array = NDArray[np.float64]

# Logarithms end 1e-10 of the size of a point from it, and quotients of lengths are known to that.
_EQUAL = 1e-8


@dataclass(frozen=True)
class Minimality:
    """What is known of a geodesic between two points.

    Attributes
    ----------
    status : str
        ``"shortest"``: no path is shorter, because its length is a lower bound of the distance. ``"locally shortest"``:
        no path near it is shorter; another geodesic may be. ``"passes a conjugate point"``: shorter paths are near it.
    length : float
        Length of the geodesic, an upper bound of the distance.
    lower_bound : float
        Lower bound of the distance, see :func:`least_distance`.
    conjugate_time : float or None
        Time in (0, 1) of the first conjugate point, infinite if there is none; None if none was looked for, because the
        geodesic is shortest.

    See Also
    --------
    dlngeo.matrices.minimality.minimality

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.minimality import minimality
    >>> x, y, v = np.eye(2), np.diag([4.0, 9.0]), np.diag([2.0, 4.0])
    >>> found = minimality(x, y, v, KernelSurface(DepthKernel(2), 2))
    >>> found.status, round(found.length, 4), found.conjugate_time  # √N |ΔΛ| = √10
    ('shortest', 3.1623, None)
    """

    status: Literal["shortest", "locally shortest", "passes a conjugate point"]
    length: float
    lower_bound: float
    conjugate_time: float | None


def minimality(x: Array, y: Array, v: Array, surface: KernelSurface, basis: Array | None = None) -> Minimality:
    """Tell whether the geodesic from ``x`` to ``y`` with initial velocity ``v`` is shortest.

    Parameters
    ----------
    x, y, v : array, shape=[m, n]
        The end points, and the velocity at ``x``.
    surface : KernelSurface
        The manifold.
    basis : array, shape=[dim, m, n], optional
        Tangent vectors at ``x`` to a totally geodesic part, in which the geodesic is looked at.

    Raises
    ------
    GeodesicError
        As :func:`dlngeo.matrices.jacobi.conjugate_time`.

    See Also
    --------
    dlngeo.matrices.minimality.least_distance
    dlngeo.matrices.jacobi.conjugate_time

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> from dlngeo.matrices.minimality import minimality
    >>> from dlngeo.shooting import shoot
    >>> x, v, surface = np.eye(3, 1), np.array([[0.0], [2.0], [0.0]]), KernelSurface(DepthKernel(4), 1)
    >>> [y], _ = shoot(x, v, surface)  # on the cone 4 dλ² + λ²|du|², where no u turns by π
    >>> found = minimality(x, y, v, surface)
    >>> found.status, round(found.length, 4), found.conjugate_time
    ('locally shortest', 2.0, inf)
    """
    length = math.sqrt(surface.inner(x, v, v))
    bound = min(least_distance(x, y, surface.kernel, surface.rank), length)  # which differ by rounding if they are one
    if length - bound <= _EQUAL * length:
        return Minimality("shortest", length, bound, None)
    time = conjugate_time(x, v, surface, basis=basis)
    if time < 1 - 1e-6:  # an end point that is conjugate is none on the way
        return Minimality("passes a conjugate point", length, bound, time)
    return Minimality("locally shortest", length, bound, np.inf)


def least_distance(x: Array, y: Array, kernel: Kernel, rank: int) -> float:
    """Lower bound of the distance between two matrices of one rank, shape=[m, n]; see the head of this module.

    See Also
    --------
    dlngeo.matrices.minimality.minimality

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.minimality import least_distance
    >>> bound = least_distance(np.eye(2), np.diag([4.0, 9.0]), DepthKernel(2), 2)
    >>> bool(np.isclose(bound**2, 2 * (1**2 + 2**2)))  # twice that of Bures and Wasserstein
    True
    """
    a, b = (Frame.at(point, kernel, rank) for point in (x, y))
    depth = kernel.depth
    if depth is None:
        moves = [quad(lambda t: kernel(t, t) ** -0.5, *pair) for pair in zip(a.s, b.s, strict=True)]
        return float(np.linalg.norm([max(abs(move) - error, 0.0) for move, error in moves]))
    if depth == 1:
        return float(np.linalg.norm(x - y) / np.sqrt(kernel.at_one))
    if math.isinf(depth):
        return float(np.linalg.norm(np.log(a.s / b.s)) / np.sqrt(kernel.at_one))
    p, q = a.s ** (1 / depth), b.s ** (1 / depth)
    square = depth * np.sum((p - q) ** 2)
    if depth.is_integer():
        left, right = (p[:, None] * z * q for z in (a.u.T @ b.u, a.vt @ b.vt.T))
        nuclear = _nuclear(left + right) if depth == 2 else _nuclear(left) + _nuclear(right)
        square += 2 * (2 * p @ q - nuclear)  # 2|p|² + 2|q|² − 2ν is 2|p − q|² + 2(2p·q − ν)
    return math.sqrt(max(square * depth / kernel.at_one, 0.0))


def _nuclear(a: Array) -> float:
    return float(np.linalg.svd(a, compute_uv=False).sum())
