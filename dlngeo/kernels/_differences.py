r"""Divided differences of a kernel from its values alone.

All are divided differences of ``f(s², t²) = φ(s, t)`` in the squares. At values that lie apart they are quotients. At
values that lie close, or coincide, φ is interpolated in the square of one argument by a polynomial in the Chebyshev
nodes of a window around them, whose own divided differences follow from the recurrence of the Chebyshev polynomials
and Leibniz' rule,

.. math:: T_{k+1}[a, b, \dots] = 2\,(a\, T_k[a, b, \dots] + T_k[b, \dots]) - T_{k-1}[a, b, \dots],

without any quotient [1]_. A window of relative half-width ``h`` with n nodes leaves an error of
``(1/h + √(1/h² − 1))^{−n}``, 1e-16 here, where f is analytic in the disc around the squares that touches zero; nearer
singularities cost digits. Rounding of φ is amplified by n/h and its powers.

References
----------
.. [1] L. N. Trefethen, "Approximation Theory and Approximation Practice", SIAM 2013, Theorem 8.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Phi = Callable[[Any, Any], Any]

NODES, WIDTH = 16, 0.2
# Values are interpolated while they lie in the inner half of the window: outside, a quotient loses less.
_INNER = 0.5
_BLOCK = 4096
_ANGLES = (np.arange(NODES) + 0.5) * np.pi / NODES
_CHEBYSHEV = np.cos(_ANGLES)
_COEFFICIENTS = 2 / NODES * np.cos(np.arange(NODES)[:, None] * _ANGLES)
_COEFFICIENTS[0] /= 2
# A function is smooth at zero if its last coefficients are that much smaller than the first ones, or rounding.
_DECAY, _ROUNDING = 1e-8, 1e-13


def first(phi: Phi, r: Any, s: Any, t: Any, width: float = WIDTH) -> Array:
    """``ψ_r(s, t)``; where ``s = t = 0``, infinite unless φ(r, ·) is smooth in the square there."""
    r, s, t = np.broadcast_arrays(r, s, t)
    low, high = np.minimum(s, t), np.maximum(s, t)
    out = np.empty(r.shape)
    zero, close = high == 0, _near(low, high, width)
    for near in (True, False):
        here = ~zero & (close == near)
        if not here.any():
            continue
        nodes, weights = _pair(low[here], high[here], near, width)
        out[here] = _apply(weights, phi(r[here][:, None], nodes))
    if zero.any():
        out[zero] = _at_zero(phi, r[zero])
    return out


def second(phi: Phi, r: Any, s: Any, t: Any, u: Any, width: float = WIDTH) -> Array:
    """``(ψ_r(s, u) − ψ_r(s, t))/(u² − t²)``; at most one of s, t and u may be zero."""
    r, s, t, u = np.broadcast_arrays(r, s, t, u)
    low, middle, high = np.sort([s, t, u], axis=0)
    _require_one_zero(middle)
    out = np.empty(r.shape)
    near = _near(low, high, width)
    q, p, h = low[near] / high[near], middle[near] / high[near], high[near]
    centre, half = _window(q, width)
    at = [(square - centre) / half for square in (q**2, p**2, np.ones_like(q))]
    nodes = h[:, None] * np.sqrt(centre[:, None] + half[:, None] * _CHEBYSHEV)
    out[near] = _apply(_functional(*at), phi(r[near][:, None], nodes)) / half**2 / h**2 / h**2
    r, low, middle, high = (values[~near] for values in (r, low, middle, high))
    gap = (1 - low / high) * (1 + low / high)
    out[~near] = (first(phi, r, middle, high, width) - first(phi, r, low, middle, width)) / gap / high**2
    return out


def mixed(phi: Phi, q: Any, r: Any, s: Any, t: Any, width: float = WIDTH) -> Array:
    """``(ψ_r(s, t) − ψ_q(s, t))/(r² − q²)``; at most one of q and r, and of s and t, may be zero."""
    arrays = np.broadcast_arrays(q, r, s, t)
    q, r, s, t = (np.ravel(values) for values in arrays)
    one, other = (np.minimum(q, r), np.maximum(q, r)), (np.minimum(s, t), np.maximum(s, t))
    for _, high in (one, other):
        _require_one_zero(high)
    near_one, near_other = _near(*one, width), _near(*other, width)
    out = np.empty(q.shape)
    for near in ((True, True), (True, False), (False, True), (False, False)):
        here = np.flatnonzero((near_one == near[0]) & (near_other == near[1]))
        for start in range(0, len(here), _BLOCK):
            block = here[start : start + _BLOCK]
            (a, v), (b, w) = (
                _pair(low[block], high[block], close, width)
                for (low, high), close in zip((one, other), near, strict=True)
            )
            values = phi(a[:, :, None], b[:, None, :])
            out[block] = _apply(v, _apply(w[:, None, :], values))
    return out.reshape(arrays[0].shape)


def _near(low: Array, high: Array, width: float) -> Any:
    q = low / np.where(high > 0, high, 1.0)
    centre, half = _window(q, width)
    return (1 - centre <= _INNER * half) & (high > 0)


def _window(q: Array, width: float) -> tuple[Array, Array]:
    """Centre and half-width of the window around the squares 1 and q², in units of the larger square."""
    centre = (1 + q**2) / 2
    return centre, width * centre


def _pair(low: Array, high: Array, near: bool, width: float) -> tuple[Array, Array]:
    """Values of one argument, and the weights of φ there whose sum is the divided difference; shapes=[..., nodes]."""
    q = low / high
    if not near:
        weight = 1 / ((1 - q) * (1 + q)) / high / high
        return np.stack([low, high], axis=-1), np.stack([-weight, weight], axis=-1)
    centre, half = _window(q, width)
    weights = _symmetric((1 - centre) / half) / (half * high * high)[..., None]
    return high[..., None] * np.sqrt(centre[..., None] + half[..., None] * _CHEBYSHEV), weights


def _apply(weights: Array, values: Array) -> Array:
    """Sum weighted values; what is constant, the weights of which add up to rounding, is taken out first."""
    return np.sum(weights * (values - values[..., :1]), axis=-1)


def _symmetric(z: Array) -> Array:
    """``_functional(−z, z)``: ``T_k[−z, z]`` is 0 at even k, and ``T_k(z)/z`` at odd ones, by steps of two in k."""
    step = 4 * z**2 - 2
    odd = [np.ones_like(z), step - 1]
    for _ in range(NODES // 2 - 2):
        odd.append(step * odd[-1] - odd[-2])
    return np.stack(odd, axis=-1) @ _COEFFICIENTS[1::2]


def _functional(*places: Array) -> Array:
    """Weights of the values at the Chebyshev nodes of [−1, 1] in the divided difference of their interpolant."""
    *rest, last = places
    zero = np.zeros_like(last)
    before = [np.ones_like(last), *(zero for _ in rest)]
    now = [last, *(np.ones_like(last) if i == 0 else zero for i in range(len(rest)))]
    total = before[-1][..., None] * _COEFFICIENTS[0] + now[-1][..., None] * _COEFFICIENTS[1]
    for k in range(2, NODES):
        after = [2 * last * now[0] - before[0]]
        for i, place in enumerate(reversed(rest), start=1):
            after.append(2 * (place * now[i] + now[i - 1]) - before[i])
        before, now = now, after
        total = total + now[-1][..., None] * _COEFFICIENTS[k]
    return total


def _at_zero(phi: Phi, r: Array) -> Array:
    """``ψ_r(0, 0)``, the derivative of φ(r, ·) in the square: the window reaches to r², or to 1 where r is zero."""
    half = np.where(r > 0, r, 1.0) ** 2 / 2
    values = phi(r[:, None], np.sqrt(half[:, None] * (1 + _CHEBYSHEV)))
    coefficients = np.abs(values @ _COEFFICIENTS.T)
    smooth = np.max(coefficients[:, -2:], axis=-1) <= _DECAY * np.max(coefficients[:, 1:], axis=-1) + (
        _ROUNDING * np.max(np.abs(values), axis=-1)
    )
    edge = -np.ones_like(r)
    slope = _apply(_functional(edge, edge), values) / half
    return np.where(smooth, slope, np.copysign(np.inf, values[:, 0] - values[:, -1]))


def _require_one_zero(larger: Array) -> None:
    if not np.all(larger > 0):
        raise ValueError(
            "a divided difference of higher order is not defined where two of its values are zero; "
            "at most one of each group may be."
        )
