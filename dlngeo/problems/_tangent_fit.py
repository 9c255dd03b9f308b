"""Regularised least squares on a tangent space of the matrices of fixed rank, from entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from dlngeo.problems._pattern import Pattern, padded

__all__ = ["TangentFit"]

Array = np.ndarray


class TangentFit:
    """Fits entries on the tangent space at frames u (m×R) and v (n×R).

    A vector is a list (M, A, B) for ``Z = u M vᵀ + A vᵀ + u Bᵀ`` with ``uᵀA = 0`` and ``vᵀB = 0``.

    Attributes
    ----------
    fraction : float
        Fraction of the entries of the matrix that are observed.
    """

    def __init__(self, u: Array, v: Array, pattern: Pattern) -> None:
        self._u, self._v, self._pattern = u, v, pattern
        self.fraction = len(pattern) / (pattern.shape[0] * pattern.shape[1])

    def sample(self, vector: Sequence[Array]) -> Array:
        """Evaluate ``P_Ω Z``."""
        left, right = self.factors(vector)
        return self._pattern.sample(padded(left, np.float64), padded(right.T, np.float64), None)[0]

    def project(self, entries: Array) -> list[Array]:
        """Project the matrix with these entries on Ω and zeros elsewhere."""
        of_v, of_u = self._pattern.times(entries, self._v), self._pattern.transposed_times(entries, self._u)
        core = self._u.T @ of_v
        return [core, of_v - self._u @ core, of_u - self._v @ core.T]

    def factors(self, vector: Sequence[Array]) -> tuple[Array, Array]:
        """Factors of Z, of shapes (m, 2R) and (2R, n)."""
        core, a, b = vector
        return np.hstack((self._u @ core + a, self._u)), np.vstack((self._v.T, b.T))

    def solve(
        self, values: Array, ridge: Sequence[Array], start: Sequence[Array], tolerance: float, iterations: int
    ) -> tuple[list[Array], int]:
        """Minimise ``‖P_Ω Z − a‖² + Σ ridge·Z²`` by conjugate gradients; return Z and the number of iterations.

        The unknowns are scaled by the root of the matrix that evenly spread entries would have, ``fraction + ridge``.
        """
        shapes = [a.shape for a in start]
        ends = np.cumsum([a.size for a in start])[:-1]
        scale = _flat([np.broadcast_to(1 / np.sqrt(self.fraction + r), s) for r, s in zip(ridge, shapes, strict=True)])
        count = 0

        def vector(x: Array) -> list[Array]:
            return [part.reshape(shape) for part, shape in zip(np.split(x, ends), shapes, strict=True)]

        def times(x: Array) -> Array:
            z = vector(scale * x)
            return scale * _flat([p + r * a for p, r, a in zip(self.project(self.sample(z)), ridge, z, strict=True)])

        def step(_: Array) -> None:
            nonlocal count
            count += 1

        operator = LinearOperator((scale.size, scale.size), matvec=times, dtype=np.float64)
        right = scale * _flat(self.project(values))
        x, _ = cg(operator, right, _flat(start) / scale, rtol=tolerance, atol=0.0, maxiter=iterations, callback=step)
        return vector(scale * x), count


def _flat(parts: Sequence[Array]) -> Array:
    return np.concatenate([a.ravel() for a in parts])
