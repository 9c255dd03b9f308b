r"""Chords between factored matrices, in place of geodesics, for solvers that take logarithms by the hundred thousand.

Nelder–Mead of pymanopt seeks the mean of its simplex by descent at every step, from a random point, and so takes up to
a million distances and logarithms before it ends; particle swarms take ten thousand. They need a direction from one
point toward another, not a geodesic. A chord is one of the flat space of all matrices,

.. math:: \operatorname{dist}(X, Y) = \lVert Y - X \rVert_F, \qquad \log_X Y = P_{T_X}(Y - X),

where ``−P(Y − X)`` is the part of the derivative of ``½ dist²`` in X that is tangent. The logarithm undoes retractions
to first order [1]_. It exists between any two points, and costs O((m + n) r²).

References
----------
.. [1] P.-A. Absil, J. Malick, "Projection-like retractions on matrix manifolds", SIAM J. Optim. 22 (2012).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dlngeo._linalg import adjoint, combine
from dlngeo.pymanopt._points import apart
from dlngeo.pymanopt.vectors import TangentVector

__all__ = ["distance", "logarithm"]

# Squares of distances below this, relative to those of the points, would lose digits to cancellation.
_CLOSE = 1e-4


def distance(a: Any, b: Any) -> float:
    """Frobenius norm of the difference of the matrices of two triples ``(u, s, vt)``."""
    (u, s, vt), (p, t, qt) = a, b
    size = s @ s + t @ t
    square = size - 2 * (s @ ((adjoint(u) @ p) * (vt @ adjoint(qt)).conj()).real @ t)
    return apart(a, b) if square < _CLOSE * size else math.sqrt(square)


def logarithm(a: Any, b: Any) -> TangentVector:
    """Tangent part at a of the difference of the matrices of two triples ``(u, s, vt)``."""
    (u, s, vt), (p, t, qt) = a, b
    columns, rows = adjoint(u) @ p, vt @ adjoint(qt)
    core = (columns * t) @ adjoint(rows)
    left, right = (
        combine((p, t[:, None] * adjoint(rows)), (u, -core)),
        combine((adjoint(qt), t[:, None] * adjoint(columns)), (adjoint(vt), -adjoint(core))),
    )
    return TangentVector(left, core - np.diag(s), right)
