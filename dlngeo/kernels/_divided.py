r"""Divided differences of powers, stable at coinciding and at widely different nodes.

The depth-N kernel is the first divided difference ``h[a_s, a_t]`` of ``h(a) = a^N`` at ``a = σ^{2/N}``; its own
divided differences are quotients of higher ones. Everything here is one formula in ``ε = 1/N ∈ [0, 1)``, the case
ε = 0 being infinite depth, where ``h = exp`` and ``a = log σ²``. With ``q = t/s ≤ 1`` and the deformed logarithmic gap

.. math:: \gamma(q) = N (1 - q^{2/N}) \to -2 \log q \quad (\varepsilon \to 0),

``φ/N = s^{2−2ε} (1 − q²)/γ(q)``. Every power goes through expm1 of a multiple of log q, so nothing cancels and nothing
overflows before the result does. ``rest`` is ``1 − ε = (N − 1)/N`` and ``second`` is ``1 − 2ε = (N − 2)/N``, passed in
because ``1 − ε`` rounds near N = 1, as ``1 − 2ε`` does near N = 2.
"""

from __future__ import annotations

import math
from typing import Any

# Below these normalised gaps the second and the third divided difference are summed as Taylor series. At the first
# threshold the direct form loses a factor of about 2/NEAR to cancellation (6e-14), and the first term left out is below
# 1e-16. The third difference of ``h`` divides differences of ``a^{N−1}`` once more, which are held to 1e-14 therefore.
NEAR = 1 / 128
TERMS = 8
_NEAR_INNER, _TERMS_INNER = 1 / 24, 13
_NEAR_THIRD, _TERMS_THIRD = 1 / 8, 22


def log_ratio(xp: Any, small: Any, large: Any) -> Any:
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


def phi(xp: Any, s: Any, t: Any, eps: float, rest: float) -> Any:
    """``φ_N(s, t)/N`` for ``N = 1/eps > 1``."""
    log_q = log_ratio(xp, xp.minimum(s, t), xp.maximum(s, t))
    mean = _ratio(xp, -xp.expm1(2 * log_q), _gap(xp, log_q, eps), 1.0)
    return xp.maximum(s ** (2 * rest), t ** (2 * rest)) * mean


def psi(xp: Any, r: Any, s: Any, t: Any, eps: float, rest: float) -> Any:
    r"""``ψ_r(s, t)/N`` for ``N = 1/eps > 1``.

    With the three values sorted as ``x ≥ y ≥ z`` and ``p(a) = a^{N−1}``, so that ``h(a) = a p(a)``, Leibniz' rule for
    divided differences gives ``h[x, y, z] = (a_x p[x, y] − a_z p[y, z])/(a_x − a_z)``, which is free of the common term
    of the two first differences of h. What cancellation remains is a factor 2/γ, and is removed below `NEAR` by the
    series ``h[1, b, c] = Σ_k C(N, k) (−1)^k H_{k−2}(1 − b, 1 − c)``, H the complete homogeneous polynomials.
    """
    pair, low = xp.maximum(s, t), xp.minimum(s, t)
    x, z = xp.maximum(r, pair), xp.minimum(r, low)
    y = xp.maximum(xp.minimum(r, pair), low)

    log_xy, log_yz = log_ratio(xp, y, x), log_ratio(xp, z, y)
    gap_xy = _gap(xp, log_xy, eps)
    gap_xz = _gap(xp, log_xy + log_yz, eps)

    upper = _ratio(xp, -xp.expm1(2 * rest * log_xy), gap_xy, rest)
    lower = _ratio(xp, -xp.expm1(2 * rest * log_yz), _gap(xp, log_yz, eps), rest)
    lower = xp.exp(2 * rest * log_xy + (2 * eps * log_yz if eps else 0.0)) * lower
    near = gap_xz < NEAR

    # ψ = h[x, y, z]/h[s, t] = (upper − lower)/γ_xz · γ_st/(1 − q_st²). Where q_st = 0 the two gaps are equal, and
    # cancel even at infinite depth, where they are infinite.
    zero = (low == 0) & (pair > 0)
    log_st = log_ratio(xp, xp.where(zero, pair, low), pair)
    inverse_phi = _ratio(xp, _gap(xp, log_st, eps), -xp.expm1(2 * log_st), 1.0)
    gaps = [xp.where(near, gap, 0.0) for gap in (gap_xy, gap_xz)]
    series = _series(xp, gaps, eps, rest / 2, 0, TERMS)
    difference = xp.where(near, series, (upper - lower) / xp.where(near, 1.0, gap_xz))
    value = xp.where(zero, upper - lower, difference * inverse_phi)

    # The scale x^{2−4ε} pair^{2ε−2} enters as its square root, twice: the whole may be representable when it is not.
    some = pair > 0
    root = xp.where(some, x, 1.0) ** (rest - eps) * xp.where(some, pair, 1.0) ** -rest
    return xp.where(some, root * value * root, math.inf)


def _series(xp: Any, gaps: list[Any], eps: float, coefficient: float, shift: int, terms: int) -> Any:
    r"""Divided difference at 0 and n further small gaps of ``γ ↦ (1 − εγ)^{N−shift}``, up to the sign ``(−1)^n``.

    .. math:: \sum_{k \ge n} (-1)^{k-n} \binom{N - \mathrm{shift}}{k} N^{-k} H_{k-n}(\gamma_1, \dots, \gamma_n),

    from its first coefficient ``C(N − shift, n) N^{−n}``, which the caller knows without rounding ``1 − ε``.
    """
    first = len(gaps)
    homogeneous = [xp.ones_like(gap) for gap in gaps]
    total = coefficient * homogeneous[-1]
    for k in range(first + 1, first + terms):
        coefficient *= -(1 - (k - 1 + shift) * eps) / k
        homogeneous[0] = gaps[0] * homogeneous[0]
        for i in range(1, first):
            homogeneous[i] = gaps[i] * homogeneous[i] + homogeneous[i - 1]
        total = total + coefficient * homogeneous[-1]
    return total


def third(xp: Any, nodes: list[Any], eps: float, rest: float, second: float) -> Any:
    r"""``h[a_1, a_2, a_3, a_4]/N³`` in units of ``x^{2−6ε}``, x the largest of the four singular values, for N > 1.

    Leibniz' rule as in :func:`psi`, twice: with the values sorted as ``x ≥ y ≥ z ≥ w``, ``p(a) = a^{N−1}`` and
    ``q(a) = a^{N−2}``,

    .. math:: h[x, y, z, w] = \frac{a_x p[x, y, z] - a_w p[y, z, w]}{a_x - a_w}, \qquad
        p[x, y, z] = \frac{a_x q[x, y] - a_z q[y, z]}{a_x - a_z},

    and Taylor series where the nodes cluster. It is exactly 0 at N = 2, and positive above, negative below. At least
    two of the values must be positive.
    """
    x, y, z, w = _sorted(xp, nodes)
    log_xy, log_yz, log_zw = (log_ratio(xp, b, a) for a, b in ((x, y), (y, z), (z, w)))
    gap_xw = _gap(xp, log_xy + log_yz + log_zw, eps)
    upper = _second_of_power(xp, log_xy, log_yz, eps, rest, second)
    some = w > 0  # the second term has the factor a_w
    log_yz, log_zw = xp.where(some, log_yz, 0.0), xp.where(some, log_zw, 0.0)
    lower = _second_of_power(xp, log_yz, log_zw, eps, rest, second)
    scale = 2 * second * log_xy + 2 * eps * (log_yz + log_zw)
    lower = xp.where(some, xp.exp(scale) * lower, 0.0)
    near = gap_xw < _NEAR_THIRD
    value = (upper - lower) / xp.where(near, 1.0, gap_xw)
    gaps = [_gap(xp, log_xy, eps), _gap(xp, log_xy + log_yz, eps), gap_xw]
    return _where_near(xp, near, value, gaps, eps, rest * second / 6, 0, _TERMS_THIRD)


def scaled_third(xp: Any, q: Any, r: Any, s: Any, t: Any, eps: float, rest: float, second: float) -> Any:
    """``h[a_q, a_r, a_s, a_t]/N³``; at most two of the values may be zero."""
    q, r, s, t = xp.broadcast_arrays(q, r, s, t)
    if second == 0:
        return xp.zeros_like(q)
    top = xp.maximum(xp.maximum(q, r), xp.maximum(s, t))
    return third(xp, [q, r, s, t], eps, rest, second) * top ** (2 * (second - eps))


def _second_of_power(xp: Any, log_xy: Any, log_yz: Any, eps: float, rest: float, second: float) -> Any:
    """``p[x, y, z]/N²`` for ``p(a) = a^{N−1}``, in units of ``a_x^{N−3}``."""
    gap_xy, gap_xz = _gap(xp, log_xy, eps), _gap(xp, log_xy + log_yz, eps)
    # Leibniz' rule removes what would cancel near N = 2, but leaves the factor N − 1 to cancellation.
    leibniz = rest >= -second
    power, carry = (second, 2 * eps) if leibniz else (rest, 0.0)
    upper = _ratio(xp, -xp.expm1(2 * power * log_xy), gap_xy, power)
    lower = _ratio(xp, -xp.expm1(2 * power * log_yz), _gap(xp, log_yz, eps), power)
    scale = 2 * second * log_xy + (carry * log_yz if carry else 0.0)
    if carry:
        some = log_yz > -math.inf
        lower = xp.where(some, xp.exp(scale) * xp.where(some, lower, 0.0), 0.0)
    else:
        lower = xp.exp(scale) * lower
    near = gap_xz < _NEAR_INNER
    value = (upper - lower) / xp.where(near, 1.0, gap_xz)
    return _where_near(xp, near, value, [gap_xy, gap_xz], eps, rest * second / 2, 1, _TERMS_INNER)


def _where_near(xp: Any, near: Any, value: Any, gaps: list[Any], *series: Any) -> Any:
    """``value``, and where nodes are near the series instead, which is summed there alone: it is long."""
    if not bool(xp.any(near)):
        return value
    value = xp.asarray(value, copy=True)
    value[near] = _series(xp, [xp.asarray(gap)[near] for gap in gaps], *series)
    return value


def _sorted(xp: Any, values: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Sort four arrays entry by entry, the largest first."""
    a, b, c, d = values
    a, b = xp.maximum(a, b), xp.minimum(a, b)
    c, d = xp.maximum(c, d), xp.minimum(c, d)
    a, c = xp.maximum(a, c), xp.minimum(a, c)
    b, d = xp.maximum(b, d), xp.minimum(b, d)
    return a, xp.maximum(b, c), xp.minimum(b, c), d


def mixed_of_kernel(xp: Any, q: Any, r: Any, s: Any, t: Any, eps: float, rest: float, second: float) -> Any:
    """``h[a_q, a_r, a_s, a_t]/(h[a_q, a_r] h[a_s, a_t])/N`` for N > 1."""
    q, r, s, t = xp.broadcast_arrays(q, r, s, t)
    if second == 0:
        return xp.zeros_like(q)
    infinite = ((q == 0) & (r == 0)) | ((s == 0) & (t == 0))
    q, r, s, t, top = _scaled(xp, infinite, q, r, s, t)
    phis = phi(xp, q, r, eps, rest) * phi(xp, s, t, eps, rest)
    zero = phis == 0  # only at infinite depth, where φ(0, ·) = 0
    value = third(xp, [q, r, s, t], eps, rest, second) / xp.where(zero, 1.0, phis)
    if bool(xp.any(zero)):
        swap = (q > 0) & (r > 0)
        a, b, c, d = (xp.where(swap, *two) for two in ((s, q), (t, r), (q, s), (r, t)))
        a = xp.maximum(a, b)
        value = xp.where(zero, psi(xp, a, c, d, eps, rest) / a**2, value)
    return xp.where(infinite, math.copysign(math.inf, second), value / top ** (2 + 2 * eps))


def second_of_kernel(xp: Any, r: Any, s: Any, t: Any, u: Any, eps: float, rest: float, second: float) -> Any:
    """``(ψ_r(s, u) − ψ_r(s, t))/(u² − t²)/N`` for N > 1.

    As ``h[a_s, a_t, a_u] = ψ_u(s, t) h[a_s, a_t]``, it is
    ``h[a_r, a_s, a_t, a_u]/(φ(s, t) φ(s, u)) − ψ_r(t, u) ψ_u(s, t)/φ(s, u)``, for s, t, u in any order.
    """
    r, s, t, u = xp.broadcast_arrays(r, s, t, u)
    pair, low = xp.maximum(t, u), xp.minimum(t, u)
    s, t, u = xp.maximum(s, pair), xp.maximum(xp.minimum(s, pair), low), xp.minimum(s, low)
    infinite = t == 0
    r, s, t, u, top = _scaled(xp, infinite, r, s, t, u)
    phi_su = phi(xp, s, u, eps, rest)
    zero = phi_su == 0  # only at infinite depth, where φ(s, 0) = 0
    value = -psi(xp, r, t, u, eps, rest) * psi(xp, u, s, t, eps, rest)
    if second != 0:
        value = value + third(xp, [r, s, t, u], eps, rest, second) / phi(xp, s, t, eps, rest)
    value = value / xp.where(zero, 1.0, phi_su)
    if bool(xp.any(zero)):
        value = xp.where(zero, (psi(xp, r, s, t, eps, rest) - psi(xp, r, t, u, eps, rest)) / s**2, value)
    return xp.where(infinite, -math.inf, value / top ** (2 + 2 * eps))


def _scaled(xp: Any, infinite: Any, *values: Any) -> tuple[Any, ...]:
    """Values divided by the largest, and that; 1 where the result is infinite."""
    values = tuple(xp.where(infinite, 1.0, value) for value in values)
    top = values[0]
    for value in values[1:]:
        top = xp.maximum(top, value)
    return (*(value / top for value in values), top)
