r"""Geodesics of complex matrices, through their real forms.

.. math:: X \;\mapsto\; \begin{pmatrix} \operatorname{Re} X & -\operatorname{Im} X \\
    \operatorname{Im} X & \operatorname{Re} X \end{pmatrix}

maps complex m×n matrices of rank r to real 2m×2n ones of rank 2r, on whose singular values, each twice, the same kernel
acts: inner products double. The image is what the isometry ``Y ↦ J Y J⁻¹``, ``J`` the form of i, leaves fixed, and so
totally geodesic [1]_: geodesics of real forms are those of complex matrices, in which the compiled steps and the search
for logarithms of :mod:`dlngeo.matrices.geodesics` serve as they are, at eight times the cost of one in complex numbers.

References
----------
.. [1] S. Kobayashi, K. Nomizu, "Foundations of Differential Geometry II", chapter VII, theorem 8.1, on fixed points of
   isometries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from dlngeo.errors import GeodesicError
from dlngeo.kernels import Kernel
from dlngeo.matrices.frame import Frame
from dlngeo.matrices.geodesics import KernelSurface
from dlngeo.shooting import Attempt, Connecting, Surface

__all__ = ["ComplexSurface", "complex_form", "real_form", "surface_of"]

Array = np.ndarray

# By how much, relative to its size, a logarithm among real forms may leave them.
_OFF = 1e-8


def real_form(z: Array) -> Array:
    """Real form of complex matrices, shape=[..., 2m, 2n].

    See Also
    --------
    dlngeo.matrices.complex_geodesics.complex_form

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.matrices.complex_geodesics import real_form
    >>> real_form(np.array([[1 + 2j]]))
    array([[ 1., -2.],
           [ 2.,  1.]])
    >>> y, z = np.array([[1 + 2j, 3.0], [1j, 1.0]]), np.array([[1.0, -1j], [2.0, 2 + 1j]])
    >>> bool(np.allclose(real_form(y) @ real_form(z), real_form(y @ z)))
    True
    """
    return np.block([[z.real, -z.imag], [z.imag, z.real]])


def complex_form(a: Array) -> Array:
    """Complex matrices, shape=[..., m, n], whose real forms are nearest to real matrices; a ValueError tells odd sides.

    See Also
    --------
    dlngeo.matrices.complex_geodesics.real_form

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo.matrices.complex_geodesics import complex_form, real_form
    >>> z = np.array([[1 + 2j, 3.0]])
    >>> bool(np.allclose(complex_form(real_form(z)), z))
    True
    """
    if a.shape[-2] % 2 or a.shape[-1] % 2:
        raise ValueError(f"real forms have even sides, got shape {a.shape}.")
    m, n = a.shape[-2] // 2, a.shape[-1] // 2
    p, q, r, s = a[..., :m, :n], a[..., :m, n:], a[..., m:, :n], a[..., m:, n:]
    return (p + s) / 2 + 1j * (r - q) / 2


def surface_of(kernel: Kernel, rank: int, field: str) -> KernelSurface | ComplexSurface:
    """Matrices of one rank over a field with the metric of a kernel.

    See Also
    --------
    dlngeo.matrices.geodesics.KernelSurface
    dlngeo.matrices.complex_geodesics.ComplexSurface

    Examples
    --------
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.complex_geodesics import surface_of
    >>> [type(surface_of(DepthKernel(3), 2, field)).__name__ for field in ("real", "complex")]
    ['KernelSurface', 'ComplexSurface']
    """
    return KernelSurface(kernel, rank) if field == "real" else ComplexSurface(kernel, rank)


class ComplexSurface(Surface):
    """Complex matrices of one rank with the metric of a kernel.

    See Also
    --------
    dlngeo.matrices.complex_geodesics.surface_of
    dlngeo.matrices.geodesics.KernelSurface

    Examples
    --------
    >>> import numpy as np
    >>> from dlngeo import DepthKernel
    >>> from dlngeo.matrices.complex_geodesics import ComplexSurface, real_form
    >>> from dlngeo.matrices.geodesics import KernelSurface
    >>> x, v = np.array([[2.0, 1j], [0.0, 1.0]]), np.array([[1j, 1.0], [2.0, 0.0]])
    >>> one = ComplexSurface(DepthKernel(3), 2).inner(x, v, v)
    >>> bool(np.isclose(2 * one, KernelSurface(DepthKernel(3), 4).inner(*map(real_form, (x, v, v)))))
    True
    """

    point_ndim = 2
    field = "complex"

    def __init__(self, kernel: Kernel, rank: int) -> None:
        self.kernel, self.rank = kernel, rank
        self._real = KernelSurface(kernel, 2 * rank)

    def acceleration(self, x: Array, v: Array) -> Array:
        """Christoffel map, ``−Γ(V, V)``."""
        return -Frame.at(x, self.kernel, self.rank).christoffel(v, v)

    def inner(self, x: Array, v: Array, w: Array) -> Array:
        """Inner product ``g_X(V, W)``."""
        return Frame.at(x, self.kernel, self.rank).inner(v, w)

    def crossed(self, before: Array, after: Array) -> bool:
        """Whether a singular value crosses zero; of complex matrices no orientation tells, so energy alone does."""
        return False

    def settle(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Points and velocities as they are."""
        return x, v

    def follow(self, start: Array, times: Array, tolerance: float) -> Array:
        """Geodesics of the real forms."""
        return complex_form(self._real.follow(real_form(start), times, tolerance))

    def basis(self, x: Array) -> tuple[Array, Array]:
        """Raise, as nothing is sought here: the search is among real forms."""
        raise NotImplementedError("the tangent spaces of complex matrices are searched in their real forms.")

    def together(self, x0: Array, x1: Array, tolerance: float) -> Connecting:
        """Geodesics between pairs, of those pairs whose geodesics of real forms are of complex matrices."""
        found = self._real.together(real_form(x0), real_form(x1), tolerance)
        velocity = complex_form(found.velocity)
        off = np.linalg.norm(real_form(velocity) - found.velocity, axis=(-2, -1))
        stays = off <= _OFF * np.linalg.norm(found.velocity, axis=(-2, -1))
        return Connecting(velocity, np.where(stays, found.length / math.sqrt(2), np.inf), found.residual)

    def attempts(self, x0: Array, x1: Array, tolerance: float) -> Iterator[tuple[float, Attempt]]:
        """Ways of the real forms."""
        for bound, attempt in self._real.attempts(real_form(x0), real_form(x1), tolerance):
            yield bound / math.sqrt(2), partial(self._among, attempt)

    def _among(self, attempt: Attempt) -> Connecting:
        velocity, length, residual = attempt()
        found: Any = complex_form(velocity)
        if np.linalg.norm(real_form(found) - velocity) > _OFF * np.linalg.norm(velocity):
            raise GeodesicError(
                "the geodesic found between the real forms is none of complex matrices: there are several, and none "
                "of these may be shortest (status: not converged). Go through an intermediate point.",
                status="not converged",
            )
        return Connecting(found, length / math.sqrt(2), residual)
