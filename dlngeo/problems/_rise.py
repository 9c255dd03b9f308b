r"""How one singular value rises from a start at which all are equal.

In the direction of a driver of rank one, ``Ẋ = A_X(g û v̂ᵀ)``, a singular value with singular vectors û and v̂ obeys
``σ̇ = N g σ^{2−2/N}``: with ``λ = σ^{1/N}`` and ``c = ∫ g dt``

.. math:: \lambda^{2-N} = \lambda_0^{2-N} - (N - 2)\, c, \qquad \lambda = \lambda_0 e^c \text{ at } N = 2 .

A start ``X(0) = ε Q``, Q orthogonal, has no such singular vectors; but it turns toward them, and by the time that σ is
large beside ε it is where a start of size ``a_N ε`` along them would have come to. The entry ``û' Q v̂`` of a large
random Q is near 0, so that ``a_N`` is that of the 2×2 start ``Q = [[0, 1], [1, 0]]`` with the driver ``e_1 e_1ᵀ``. Its
flow keeps X symmetric. In terms of ``y = log λ_1``, ``x = log λ_1/λ_2`` and the angle θ of the first eigenvector to
``e_1``, with ``w = tan² θ``,

.. math:: \frac{dw}{dy} = -2 w (1 + w)\, \frac{1 - e^{-N x}}{1 - e^{-2 x}}, \qquad
    \frac{dx}{dy} = 1 + e^{-(N - 2) x}\, w, \qquad w = 1,\ x = 0 \text{ at } y = 0,

and ``d(λ_1^{2−N} + (N − 2) c)/dy = (N − 2) e^{−(N−2) y} w``, whence

.. math:: a_N^{(2-N)/N} = 1 + (N - 2) \int_0^\infty e^{-(N-2) y}\, w\, dy .

At depth 2, ``w = e^{−2c}`` and ``a_2 = ½``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.integrate import solve_ivp

__all__ = ["effective_size", "needed_drive"]

_FAR = 40.0  # log λ_1 from where on the integrand, e^{−N y} and less, is below round-off


@lru_cache
def effective_size(depth: float) -> float:
    """Compute ``a_N``, the size of an aligned start that rises as an orthogonal one of size 1 does."""
    power = depth - 2

    def slopes(y: float, state: np.ndarray) -> list[float]:
        w, x, _ = state
        bend = math.expm1(-depth * x) / math.expm1(-2 * x) if x > 0 else depth / 2
        return [-2 * w * (1 + w) * bend, 1 + math.exp(-power * x) * w, math.exp(-power * y) * w]

    total = solve_ivp(slopes, (0.0, _FAR), [1.0, 0.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-15).y[2, -1]
    return math.exp(-depth * (math.log1p(power * total) / power if power else total))


def needed_drive(depth: float, start: float, end: float) -> float:
    """Compute c, the integral of the driver that takes an aligned singular value from ``start`` to ``end``."""
    growth, power = math.log(end / start) / depth, 2 - depth
    return math.exp(power / depth * math.log(start)) * (math.expm1(power * growth) / power if power else growth)
