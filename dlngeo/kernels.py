r"""Metric kernels: the Schur multipliers that define orthogonally invariant metrics.

A Riemannian metric on matrices that is invariant under ``X ↦ QXR`` (Q, R orthogonal) and diagonal in the SVD frame is
a symmetric positive function ``φ(s, t)`` of two singular values. It acts on ``UᵀZV`` as a Schur
(entrywise) multiplier and gives the cometric

.. math:: A_X(Z) = U\,[\varphi(\sigma_k, \sigma_l) \circ (U^\top Z V)]\,V^\top .

The metric itself, its connection, Hessians, volume and Brownian motion need only ``φ`` and its divided
difference

.. math:: \psi_r(s, t) = \frac{\varphi(r, t) - \varphi(r, s)}{t^2 - s^2},

which is why a :class:`Kernel` is exactly these two functions. See :mod:`dlngeo.frame` for what follows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from dlngeo import _check

__all__ = ["DepthKernel", "InfiniteDepthKernel", "Kernel"]

# Below this normalised gap the second divided difference is summed as a Taylor series. At the threshold the
# direct form loses a factor of about 2/_NEAR to cancellation (6e-14), and the first term left out is below 1e-16.
_NEAR = 1 / 128
_TERMS = 8


class Kernel(ABC):
    r"""A symmetric positive kernel ``φ(s, t)`` on pairs of singular values.

    Subclass it to define a metric: implement :meth:`__call__` and :meth:`divided_difference`. Both take
    broadcastable arrays of non-negative singular values (NumPy, PyTorch or any array-API namespace), return arrays of
    the broadcast shape, and must be exact at ``s = t``; neither may divide by a difference of singular values there.

    The metric that follows is

    .. math:: g_X(Z, Z) = \sum_{kl} (U^\top Z V)_{kl}^2 / \varphi(\sigma_k, \sigma_l).

    Examples
    --------
    The Frobenius metric, written as a user would write a new one:

    >>> import numpy as np
    >>> class Frobenius(Kernel):
    ...     def __call__(self, s, t):
    ...         return np.ones(np.broadcast_shapes(np.shape(s), np.shape(t)))
    ...
    ...     def divided_difference(self, r, s, t):
    ...         return np.zeros(np.broadcast_shapes(np.shape(r), np.shape(s), np.shape(t)))
    """

    @abstractmethod
    def __call__(self, s: Any, t: Any) -> Any:
        """Evaluate ``φ(s, t)``.

        Parameters
        ----------
        s, t : array-like
            Singular values, finite and non-negative, broadcastable against each other.

        Returns
        -------
        array
            ``φ(s, t)``, of the broadcast shape; symmetric, and positive for positive ``s`` and ``t``.
        """

    @abstractmethod
    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``ψ_r(s, t) = (φ(r, t) − φ(r, s)) / (t² − s²)``, with its limit at ``s = t``.

        Parameters
        ----------
        r, s, t : array-like
            Singular values, finite and non-negative, broadcastable against each other.

        Returns
        -------
        array
            ``ψ_r(s, t)``, of the broadcast shape; symmetric in ``s`` and ``t``.
        """


class DepthKernel(Kernel):
    r"""Kernel of the depth-N deep linear network.

    .. math::
        \varphi_N(s, t) = \frac{s^2 - t^2}{s^{2/N} - t^{2/N}}, \qquad
        \varphi_N(s, s) = N s^{2 - 2/N}, \qquad \varphi_N(s, 0) = s^{2 - 2/N}.

    With ``a = σ^{2/N}`` and ``h(x) = x^N`` this is the first divided difference ``h[a_s, a_t]``, and
    ``ψ_r(s, t) = h[a_r, a_s, a_t] / h[a_s, a_t]``. Both are evaluated to about 1e-13 relative error over the whole
    range of doubles in which they are representable, at equal and at zero singular values included.

    Parameters
    ----------
    depth : float
        Number of layers N, real, at least 1. Depth 1 is the Frobenius metric; depth 2 restricted to
        symmetric positive definite matrices is twice the Bures–Wasserstein metric.
    normalized : bool
        Divide ``φ`` by N. This is the convention in which the limit N → ∞, :class:`InfiniteDepthKernel`,
        exists.

    Raises
    ------
    TypeError
        If ``depth`` is not a real number.
    ValueError
        If ``depth`` is below 1, or infinite (use :class:`InfiniteDepthKernel`).

    Notes
    -----
    ``ψ_r(0, 0)`` is ``inf`` for N > 1: the kernel is not differentiable at a vanishing singular value.

    References
    ----------
    .. [1] G. Menon, "The geometry of the deep linear network", arXiv:2411.09004.
    .. [2] S. Arora, N. Cohen, E. Hazan, "On the optimization of deep networks", ICML 2018, Claim 2.
    """

    def __init__(self, depth: float, normalized: bool = False) -> None:
        self.depth = _check.depth(depth)
        self.normalized = bool(normalized)
        self._scale = 1.0 if self.normalized else self.depth

    def __call__(self, s: Any, t: Any) -> Any:
        xp, s, t = _check.singular_values(s, t)
        if self.depth == 1:
            return xp.ones_like(s + t)
        return self._scale * _phi(xp, s, t, 1 / self.depth, (self.depth - 1) / self.depth)

    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        xp, r, s, t = _check.singular_values(r, s, t)
        if self.depth == 1:
            return xp.zeros_like(r + s + t)
        return self._scale * _psi(xp, r, s, t, 1 / self.depth, (self.depth - 1) / self.depth)

    def __repr__(self) -> str:
        return f"DepthKernel(depth={self.depth:g}, normalized={self.normalized})"


class InfiniteDepthKernel(Kernel):
    r"""Kernel of the infinitely deep linear network: the limit of the normalised depth kernel.

    .. math::
        \varphi_\infty(s, t) = \frac{s^2 - t^2}{\log s^2 - \log t^2}, \qquad
        \varphi_\infty(s, s) = s^2, \qquad \varphi_\infty(s, 0) = 0,

    the logarithmic mean of ``s²`` and ``t²``.

    Notes
    -----
    A vanishing singular value is infinitely far, and ``φ_∞(s, 0) = 0``: the metric lives on square
    invertible matrices only.

    References
    ----------
    .. [1] N. Cohen, G. Menon, Z. Veraszto, "Deep linear networks for matrix completion: an infinite depth limit",
       SIAM J. Appl. Dyn. Syst. 22 (2023), arXiv:2210.12497.
    """

    depth = math.inf
    normalized = True

    def __call__(self, s: Any, t: Any) -> Any:
        xp, s, t = _check.singular_values(s, t)
        return _phi(xp, s, t, 0.0, 1.0)

    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        xp, r, s, t = _check.singular_values(r, s, t)
        return _psi(xp, r, s, t, 0.0, 1.0)

    def __repr__(self) -> str:
        return "InfiniteDepthKernel()"


# The normalised kernel is one formula in ε = 1/N ∈ [0, 1): with q = t/s ≤ 1 and the deformed logarithmic gap
#   γ(q) = N (1 − q^{2/N})  →  −2 log q   (ε → 0),
# φ/N = s^{2−2ε} (1 − q²)/γ(q). Every power goes through expm1 of a multiple of log q, so nothing cancels and
# nothing overflows before the result does. `rest` is 1 − ε = (N − 1)/N, passed in because 1 − ε rounds near N = 1.


def _log_ratio(xp: Any, small: Any, large: Any) -> Any:
    """``log(small/large)`` for ``0 ≤ small ≤ large``, with ``0/0 = 1`` and ``log 0 = −inf``."""
    q = small / xp.where(large > 0, large, 1.0)
    if bool(xp.all(q >= xp.finfo(q.dtype).smallest_normal)):
        return xp.log(q)
    log_q = xp.log(xp.where(q > 0, q, 1.0))
    # Where the quotient underflows, the logarithms are so far apart that their difference loses nothing.
    under = (small > 0) & (q < xp.finfo(q.dtype).smallest_normal)
    log_q = xp.where(under, xp.log(xp.where(under, small, 1.0)) - xp.log(xp.where(under, large, 1.0)), log_q)
    return xp.where((small > 0) | (large == 0), log_q, -math.inf)


def _gap(xp: Any, log_q: Any, eps: float) -> Any:
    """Evaluate the deformed gap ``γ(q) = (1 − q^{2ε})/ε``, which is ``−2 log q`` at ε = 0."""
    return -2 * log_q if eps == 0 else xp.expm1(2 * eps * log_q) / -eps


def _ratio(xp: Any, numerator: Any, denominator: Any, limit: float) -> Any:
    """``numerator/denominator``, with ``limit`` where both vanish."""
    vanishes = denominator == 0
    return xp.where(vanishes, limit, numerator / xp.where(vanishes, 1.0, denominator))


def _phi(xp: Any, s: Any, t: Any, eps: float, rest: float) -> Any:
    """``φ_N(s, t)/N`` for ``N = 1/eps > 1``."""
    log_q = _log_ratio(xp, xp.minimum(s, t), xp.maximum(s, t))
    mean = _ratio(xp, -xp.expm1(2 * log_q), _gap(xp, log_q, eps), 1.0)
    return xp.maximum(s ** (2 * rest), t ** (2 * rest)) * mean


def _psi(xp: Any, r: Any, s: Any, t: Any, eps: float, rest: float) -> Any:
    r"""``ψ_r(s, t)/N`` for ``N = 1/eps > 1``.

    With the three values sorted as ``x ≥ y ≥ z`` and ``p(a) = a^{N−1}``, so that ``h(a) = a p(a)``, Leibniz' rule for
    divided differences gives ``h[x, y, z] = (a_x p[x, y] − a_z p[y, z])/(a_x − a_z)``, which is free of the common term
    of the two first differences of h. What cancellation remains is a factor 2/γ, and is removed below `_NEAR` by the
    series ``h[1, b, c] = Σ_k C(N, k) (−1)^k H_{k−2}(1 − b, 1 − c)``, H the complete homogeneous polynomials.
    """
    pair, low = xp.maximum(s, t), xp.minimum(s, t)
    x, z = xp.maximum(r, pair), xp.minimum(r, low)
    y = xp.maximum(xp.minimum(r, pair), low)

    log_xy, log_yz = _log_ratio(xp, y, x), _log_ratio(xp, z, y)
    gap_xy = _gap(xp, log_xy, eps)
    gap_xz = _gap(xp, log_xy + log_yz, eps)

    upper = _ratio(xp, -xp.expm1(2 * rest * log_xy), gap_xy, rest)
    lower = _ratio(xp, -xp.expm1(2 * rest * log_yz), _gap(xp, log_yz, eps), rest)
    lower = xp.exp(2 * rest * log_xy + (2 * eps * log_yz if eps else 0.0)) * lower
    near = gap_xz < _NEAR

    # ψ = h[x, y, z]/h[s, t] = (upper − lower)/γ_xz · γ_st/(1 − q_st²). Where q_st = 0 the two gaps are equal, and
    # cancel even at infinite depth, where they are infinite.
    zero = (low == 0) & (pair > 0)
    log_st = _log_ratio(xp, xp.where(zero, pair, low), pair)
    inverse_phi = _ratio(xp, _gap(xp, log_st, eps), -xp.expm1(2 * log_st), 1.0)
    series = _second_difference_series(xp, xp.where(near, gap_xy, 0.0), xp.where(near, gap_xz, 0.0), eps, rest)
    difference = xp.where(near, series, (upper - lower) / xp.where(near, 1.0, gap_xz))
    value = xp.where(zero, upper - lower, difference * inverse_phi)

    # The scale x^{2−4ε} pair^{2ε−2} enters as its square root, twice: the whole may be representable when it is not.
    some = pair > 0
    root = xp.where(some, x, 1.0) ** (rest - eps) * xp.where(some, pair, 1.0) ** -rest
    return xp.where(some, root * value * root, math.inf)


def _second_difference_series(xp: Any, gap_y: Any, gap_z: Any, eps: float, rest: float) -> Any:
    """``Σ_{k≥2} (−1)^k C(N, k) N^{−k} H_{k−2}(γ_y, γ_z)`` for small gaps."""
    coefficient = rest / 2
    homogeneous = xp.ones_like(gap_z)
    power = xp.ones_like(gap_z)
    total = coefficient * homogeneous
    for k in range(3, _TERMS + 2):
        coefficient *= -(1 - (k - 1) * eps) / k
        power = power * gap_y
        homogeneous = gap_z * homogeneous + power
        total = total + coefficient * homogeneous
    return total
