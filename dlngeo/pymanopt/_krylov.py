"""The linearised gradient flow at a point, in the Krylov space of the gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

__all__ = ["Krylov"]

_OFTEN = 4  # vectors between two looks at the residual
_OVERFLOW = "the linearised flow overflows"


class Krylov:
    r"""Solutions ``v(t) = −t φ₁(tH) g`` of ``v̇ = −(g + Hv)``, ``v(0) = 0``, with ``φ₁(z) = (1 − e^{−z})/z``.

    The Lanczos process in the metric makes orthonormal vectors ``v_1 = g/‖g‖, v_2, …`` with a tridiagonal ``T = VᵀHV``;
    then ``v(t) ≈ V y(t)``, ``y(t) = −‖g‖ t φ₁(tT) e_1``, which leaves the residual ``−β_{k+1} y_k(t) v_{k+1}`` in the
    differential equation [1]_. The space is extended until the residual is below ``tolerance ‖g‖`` at the time asked
    for, or it holds ``most`` vectors; every shorter time costs no further product.

    Parameters
    ----------
    model : object
        With ``gradient``, ``product(v)`` and ``dot(v, w)`` at a point, and vectors that can be added and scaled.
    tolerance : float
        Bound of the residual, relative to the gradient.
    most : int
        Largest dimension of the space, and so the most products.

    Attributes
    ----------
    products : int
        Products with the Hessian so far.

    References
    ----------
    .. [1] Y. Saad, "Analysis of some Krylov subspace approximations to the matrix exponential operator", SIAM J. Numer.
       Anal. 29 (1992).
    """

    def __init__(self, model: Any, tolerance: float, most: int) -> None:
        self.model, self.tolerance, self.most = model, tolerance, most
        self.gradient_norm = math.sqrt(model.dot(model.gradient, model.gradient))
        self.vectors: list[Any] = []
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self._next = model.gradient / self.gradient_norm if self.gradient_norm > 0 else None
        self._values = self._first = self._last = np.zeros(0)
        self._modes = np.zeros((0, 0))

    @property
    def products(self) -> int:
        return len(self.alpha)

    @property
    def lowest(self) -> float:
        """The lowest curvature seen, a Ritz value; negative near a saddle, where the flow grows at its modulus."""
        if not self.alpha:
            self._extend(_OFTEN)
        return float(self._values[0]) if self._values.size else math.inf

    def reach(self, t: float) -> float:
        """Extend the space for the time ``t``; return the time up to which it serves, ``t`` or less."""
        while not (residual := self._residual(t)) <= self.tolerance:
            if math.isnan(residual):
                raise FloatingPointError(_OVERFLOW)
            if len(self.alpha) >= self.most:
                return self._longest(t)
            self._extend(max(_OFTEN, len(self.alpha) // 4))
        return t

    def step(self, t: float) -> Any:
        """Compute ``v(t)``."""
        y = self._coefficients(t)
        total = y[0] * self.vectors[0]
        for weight, vector in zip(y[1:], self.vectors[1:], strict=True):
            total = total + weight * vector
        return total

    def _coefficients(self, t: float) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            y = -self.gradient_norm * (self._modes @ (_decay(self._values, t) * self._first))
        if not np.isfinite(y).all():
            raise FloatingPointError(_OVERFLOW)
        return y

    def _residual(self, t: float) -> float:
        if self._next is None:
            return 0.0  # the space is invariant
        if not self.alpha:
            return math.inf
        with np.errstate(over="ignore", invalid="ignore"):
            return float(self.beta[-1] * abs(np.sum(self._last * _decay(self._values, t) * self._first)))

    def _longest(self, t: float) -> float:
        """Bisect for the longest time at which the residual is still small, to a tenth."""
        low, high = 0.0, t
        while high - low > 0.1 * high and high > 1e-300:
            middle = math.sqrt(low * high) if low else high / 8
            low, high = (middle, high) if self._residual(middle) <= self.tolerance else (low, middle)
        return low

    def _extend(self, count: int) -> None:
        try:
            self._lanczos(min(count, self.most - len(self.alpha)))
        finally:  # also where a product fails, so that what was found before serves
            if self.alpha:
                self._values, self._modes = eigh_tridiagonal(self.alpha, self.beta[:-1])
                self._first, self._last = self._modes[0], self._modes[-1]

    def _lanczos(self, count: int) -> None:
        for _ in range(count):
            if self._next is None:
                break
            vector = self._next
            image = self.model.product(vector)
            if self.vectors:
                image = image - self.beta[-1] * self.vectors[-1]
            alpha = self.model.dot(vector, image)
            image = image - alpha * vector
            beta = math.sqrt(max(self.model.dot(image, image), 0.0))
            if not math.isfinite(alpha + beta):
                raise FloatingPointError("a product with the Hessian is not finite")
            self.vectors.append(vector)
            self.alpha.append(alpha)
            self.beta.append(beta)
            # Below round-off of what is in the space there is no direction left.
            size = max(map(abs, self.alpha)) + max(self.beta)
            self._next = image / beta if beta > 1e-14 * size and beta > 0 else None


def _decay(values: np.ndarray, t: float) -> np.ndarray:
    """``t φ₁(tλ) = (1 − e^{−tλ})/λ``."""
    z = values * t
    small = np.abs(z) < 1e-8
    safe = np.where(small, 1.0, values)
    with np.errstate(over="ignore"):
        return np.where(small, t * (1 - z / 2), -np.expm1(-np.where(small, 0.0, z)) / safe)
