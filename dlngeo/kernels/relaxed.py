r"""The kernels of layers that are balanced up to multiples of the identity.

Where ``W_{p+1}ᵀW_{p+1} − W_pW_pᵀ`` is a multiple of the identity for each p, which gradient flow conserves, all layers
have their singular values from one vector x, ``W_p = Q_p (x + c_p)^{1/2} Q_{p−1}ᵀ``, and those of the product are

.. math:: \sigma^2 = h(x), \qquad h(x) = \prod_{p=1}^N (x + c_p).

By Leibniz' rule the divided differences of a product of linear functions are sums of products of their values,

.. math:: h[x_0, \dots, x_k] = \sum_{p_1 < \dots < p_k} \; \prod_{i=0}^{k} \; \prod_{p_i < p < p_{i+1}} (x_i + c_p),

in which nothing is negative, so that nothing cancels. With the factors in the order of descending offsets and ``x_0``
the largest node, each product is measured by ``h(x_0)/(d_1 ⋯ d_k)``, where ``d_i`` is the i-th least of the
``x_0 + c_p``; the sum then lies between 1 and the number of its terms. Numbers out of the range of doubles, as x is
for large offsets, are pairs of a mantissa and a power of two.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlngeo import _check
from dlngeo.kernels.kernel import Kernel, _on_numpy

__all__ = ["RelaxedDepthKernel"]

Array = NDArray[np.float64]
_NEWTON, _POLISH = 60, 2


@dataclass(frozen=True)
class _Wide:
    """``mantissa · 2^exponent``, of an exponent that is not that of a double."""

    mantissa: Array
    exponent: NDArray[np.int64]

    def __mul__(self, other: _Wide) -> _Wide:
        return _wide(self.mantissa * other.mantissa, self.exponent + other.exponent)

    def __truediv__(self, other: _Wide) -> _Wide:
        with np.errstate(divide="ignore", invalid="ignore"):  # infinite and NaN where the caller says what it is
            return _wide(self.mantissa / other.mantissa, self.exponent - other.exponent)

    def __add__(self, other: _Wide) -> _Wide:
        top = np.maximum(self.exponent, other.exponent)
        return _wide(_scaled(self.mantissa, self.exponent - top) + _scaled(other.mantissa, other.exponent - top), top)

    def at(self, index: Any) -> _Wide:
        return _Wide(self.mantissa[index], self.exponent[index])

    def logarithm(self) -> Array:
        """Natural logarithm, ``−inf`` at zero."""
        positive = self.mantissa > 0
        log = np.log(np.where(positive, self.mantissa, 1.0)) + self.exponent * np.log(2)
        return np.where(positive, log, -np.inf)

    def to_double(self) -> Array:
        return _scaled(self.mantissa, self.exponent)


_FAR = -(2**40)  # the exponent of zero: below all others


def _wide(mantissa: Array, exponent: Any = 0) -> _Wide:
    mantissa, shift = np.frexp(mantissa)
    return _Wide(mantissa, np.where(mantissa == 0, _FAR, exponent + shift.astype(np.int64)))


def _exponential(log: Array) -> _Wide:
    exponent = np.where(log == -np.inf, 0, np.floor(log / np.log(2)))
    return _wide(np.exp(log - exponent * np.log(2)), exponent.astype(np.int64))


def _scaled(mantissa: Array, exponent: Any) -> Array:
    with np.errstate(over="ignore", under="ignore"):  # beyond 2^±3000 as at it: infinite, or zero
        return np.ldexp(mantissa, np.clip(exponent, -3000, 3000).astype(np.int32))


class RelaxedDepthKernel(Kernel):
    r"""Kernel of a deep linear network whose layers are balanced up to multiples of the identity.

    .. math:: \varphi(s, t) = h[x_s, x_t] = \frac{s^2 - t^2}{x_s - x_t}, \qquad \sigma^2 = h(x_\sigma)
        = \prod_{p=1}^N (x_\sigma + c_p) .

    From a start with ``W_{p+1}ᵀW_{p+1} − W_pW_pᵀ = (c_{p+1} − c_p) I`` the product of the layers follows the gradient
    flow of this metric [1]_. Equal offsets give :class:`~dlngeo.DepthKernel`, and one that is far above the others the
    metric of one layer fewer, times a number: the lazy limit. At two layers it is
    ``√(s² + δ²) + √(t² + δ²)``, ``δ = (c_1 − c_2)/2`` [2]_.

    Only differences of the offsets matter; the least is moved to zero. Where it is taken once, ``φ(0, 0)`` is the
    product of the others: positive, so that singular values rise from zero and the rank is not conserved. Where it is
    taken twice or more, ``φ(0, 0) = 0`` and the rank is conserved, as by :class:`~dlngeo.DepthKernel` for N > 1.

    Parameters
    ----------
    offsets : iterable of float, shape=[N]
        The ``c_p``, in the units of ``σ^{2/N}``, in any order: φ is symmetric in them.
    normalized : bool
        Divide φ by ``φ(1, 1)``, without which it overflows where offsets are large.

    Attributes
    ----------
    offsets : array, shape=[N]
        Descending, the last zero.
    conserves_rank : bool
        Whether ``φ(0, 0) = 0``.

    Raises
    ------
    TypeError, ValueError
        If there is no offset, or one that is no finite number.

    See Also
    --------
    dlngeo.DepthKernel
    dlngeo.entropy

    Notes
    -----
    φ and its first differences are sums of positive terms, and hold some 1e-14 of their value at all singular values
    and offsets; those of second order, of which :meth:`third_divided_difference` is such a sum, about 1e-12.

    References
    ----------
    .. [1] S. Marcotte, R. Gribonval, G. Peyré, arXiv:2508.07370.
    .. [2] Z. Tu, S. Aranguri, A. Jacot, "Mixed dynamics in linear networks: unifying the lazy and active regimes",
       arXiv:2405.17580.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> float(RelaxedDepthKernel([0.0, 0.0, 0.0])(one, one)[0])
    3.0
    >>> float(RelaxedDepthKernel([0.0, 1.5])(one, 0 * one)[0])
    2.0
    """

    def __init__(self, offsets: Iterable[float], normalized: bool = False) -> None:
        values = _check.offsets(offsets)
        with np.errstate(over="ignore"):
            self.offsets = np.sort(values - values.min())[::-1]
        if not np.isfinite(self.offsets).all():
            raise ValueError(f"offsets must differ by less than the largest double, got {values.tolist()}.")
        self.normalized = bool(normalized)
        self._unit = _wide(np.ones(()))
        if self.normalized:
            self._unit = self._wide_difference(*self._nodes(np.ones(1), np.ones(1))).at(0)

    @property
    def depth(self) -> float | None:
        """N where all offsets are equal, or None."""
        return None if self.offsets[0] > 0 else float(self.offsets.size)

    @property
    def conserves_rank(self) -> bool:
        """Whether ``φ(0, 0) = 0``: the least offset is taken twice or more."""
        return bool(np.sum(self.offsets == 0) > 1)

    @property
    def unit(self) -> float:
        """``h[x_1, x_1]``, by which φ is divided where it is normalised; 1 where it is not."""
        return float(self._unit.to_double())

    @_on_numpy
    def shared(self, s: Any) -> Any:
        """Return ``x_σ``, of which the p-th layer has the singular values ``(x_σ + c_p)^{1/2}``."""
        return self._nodes(s)[0].to_double()

    def logarithm(self, u: Array, v: Array) -> Array:
        """``log φ(e^u, e^v)`` of logarithms of singular values, which need not be doubles themselves; −∞ for zero."""
        one, other = (np.logaddexp(self._log_shared(value)[..., None], self._logs) for value in (u, v))
        none = np.zeros_like(one[..., :1]), np.zeros_like(other[..., :1])
        above = np.concatenate([np.cumsum(one[..., :0:-1], axis=-1)[..., ::-1], none[0]], axis=-1)
        below = np.concatenate([none[1], np.cumsum(other[..., :-1], axis=-1)], axis=-1)
        return np.logaddexp.reduce(above + below, axis=-1) - self._unit.logarithm()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(offsets={self.offsets.tolist()}, normalized={self.normalized})"

    def __call__(self, s: Any, t: Any) -> Any:
        return (self._wide_difference(*self._nodes(s, t)) / self._unit).to_double()

    def divided_difference(self, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``ψ_r(s, t) = h[x_r, x_s, x_t] / h[x_s, x_t]``; infinite at ``s = t = 0`` if rank is conserved."""
        r, s, t = self._nodes(r, s, t)
        return self._or_infinite(self._psi(r, s, t) / self._unit, np.inf, (s, t))

    def second_divided_difference(self, r: Any, s: Any, t: Any, u: Any) -> Any:
        r"""Evaluate ``(ψ_r(s, u) − ψ_r(s, t)) / (u² − t²)``.

        .. math:: \frac{h[x_r, x_s, x_t, x_u]}{h[x_s, x_t]\, h[x_s, x_u]} -
            \frac{h[x_r, x_t, x_u]\, h[x_s, x_t, x_u]}{h[x_t, x_u]\, h[x_s, x_t]\, h[x_s, x_u]} .
        """
        r, s, t, u = np.broadcast_arrays(r, s, t, u)
        r, *rest = self._nodes(r, *np.sort([s, t, u], axis=0)[::-1])
        s, t, u = rest
        first = self._wide_difference(r, s, t, u) / self._wide_difference(s, t)
        second = self._psi(r, t, u) * self._psi(u, s, t)
        value = (first + _Wide(-second.mantissa, second.exponent)) / self._wide_difference(s, u)
        return self._or_infinite(value / self._unit, -np.inf, (t, u))

    def mixed_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``(ψ_r(s, t) − ψ_q(s, t)) / (r² − q²) = h[x_q, x_r, x_s, x_t] / (h[x_q, x_r] h[x_s, x_t])``."""
        q, r, s, t = self._nodes(q, r, s, t)
        value = self._wide_difference(q, r, s, t) / self._wide_difference(q, r) / self._wide_difference(s, t)
        return self._or_infinite(value / self._unit, np.inf if self.offsets.size > 2 else 0.0, (q, r), (s, t))

    def third_divided_difference(self, q: Any, r: Any, s: Any, t: Any) -> Any:
        """Evaluate ``h[x_q, x_r, x_s, x_t]``, in the units of x in which φ is ``h[x_s, x_t]``."""
        value = self._wide_difference(*self._nodes(q, r, s, t))
        return (value / self._unit / self._unit / self._unit).to_double()

    def _psi(self, r: _Wide, s: _Wide, t: _Wide) -> _Wide:
        return self._wide_difference(r, s, t) / self._wide_difference(s, t)

    def _or_infinite(self, wide: _Wide, limit: float, *pairs: tuple[_Wide, _Wide]) -> Array:
        """As doubles, with the limit where ``φ(0, 0) = 0`` is divided by."""
        values = wide.to_double()
        for one, other in pairs if self.conserves_rank else ():
            values = np.where((one.mantissa == 0) & (other.mantissa == 0), limit, values)
        return values

    def _nodes(self, *values: Any) -> list[_Wide]:
        """``x`` at singular values, all of one shape, found once for each value: pairs and triples hold few."""
        arrays = np.broadcast_arrays(*_check.singular_values(*values)[1:])
        distinct, places = np.unique(np.stack(arrays), return_inverse=True)
        x = self._inverse(_wide(distinct))
        return [x.at(place) for place in places.reshape(len(arrays), *arrays[0].shape)]

    def _inverse(self, sigma: _Wide) -> _Wide:
        """Solve ``h(x) = σ²``: by Newton's method in the logarithms, in which h is convex, and on x itself at last."""
        positive = sigma.mantissa > 0
        root = _Wide(np.where(positive, sigma.mantissa, 1.0), np.where(positive, sigma.exponent, 0))
        x = _exponential(self._log_shared(root.logarithm()))
        x = _Wide(np.where(positive, x.mantissa, 0.0), np.where(positive, x.exponent, _FAR))
        for _ in range(_POLISH):
            factors = self._factors(x)
            slope = (_Wide(x.mantissa[..., None], x.exponent[..., None]) / factors).to_double().sum(axis=-1)
            excess = (_product(factors) / root / root).to_double() - 1
            x = _wide(np.where(positive, x.mantissa * (1 - excess / np.where(positive, slope, 1.0)), 0.0), x.exponent)
        return x

    @functools.cached_property
    def _logs(self) -> Array:
        """``log c_p``."""
        above = self.offsets[self.offsets > 0]
        return np.concatenate([np.log(above), np.full(self.offsets.size - above.size, -np.inf)])

    def _log_shared(self, u: Array) -> Array:
        """``log x`` at ``u = log σ``, of which h is a convex function."""
        positive = u > -np.inf
        target = 2 * np.where(positive, u, 0.0)[..., None]
        # Of each factor the larger term alone: an upper bound, for any number of large offsets.
        sums = np.concatenate([[0.0], np.cumsum(self._logs[self.offsets > 0])])
        y = np.min((target - sums) / (self.offsets.size - np.arange(sums.size)), axis=-1)[..., None]
        for _ in range(_NEWTON):
            terms = np.logaddexp(y, self._logs)
            step = (terms.sum(axis=-1, keepdims=True) - target) / np.exp(y - terms).sum(axis=-1, keepdims=True)
            y = y - step
            if not np.any(step > 1e-9 * (1 + np.abs(y))):
                break
        return np.where(positive, y[..., 0], -np.inf)

    def _factors(self, x: _Wide) -> _Wide:
        """``x + c_p``, on a new last axis."""
        return _Wide(x.mantissa[..., None], x.exponent[..., None]) + _wide(self.offsets)

    def _wide_difference(self, *nodes: _Wide) -> _Wide:
        """``h[x_0, …, x_k]``."""
        mantissas, exponents = (np.stack(part) for part in zip(*((x.mantissa, x.exponent) for x in nodes), strict=True))
        k, n = len(nodes) - 1, self.offsets.size
        if k > n:
            return _wide(np.zeros(mantissas.shape[1:]))
        descending = np.lexsort((mantissas, exponents), axis=0)[::-1]
        factors = self._factors(
            _Wide(*(np.take_along_axis(part, descending, axis=0) for part in (mantissas, exponents)))
        )
        # At x_0 = 0 the factors are the offsets; 1 stands for those that vanish, as the ratios to it vanish too.
        first = factors.at(0)
        vanishes = first.mantissa == 0
        first = _Wide(np.where(vanishes, 1.0, first.mantissa), np.where(vanishes, 0, first.exponent))
        ratios = (factors / first).to_double()
        sums = [np.ones_like(ratios[0, ..., 0])] + [np.zeros_like(ratios[0, ..., 0]) for _ in range(k)]
        for p in range(n):
            for i in range(k, 0, -1):
                sums[i] = sums[i] * ratios[i, ..., p]
                if p < n - k + i:
                    unit = first.at((..., n - 1 - k + i))
                    sums[i] = sums[i] + sums[i - 1] * (unit / first.at((..., p))).to_double()
            sums[0] = sums[0] * ratios[0, ..., p]
        value = _wide(sums[k])
        return value * _product(first.at((..., slice(0, n - k))))


def _product(factors: _Wide) -> _Wide:
    value = _wide(np.ones(factors.mantissa.shape[:-1]))
    for p in range(factors.mantissa.shape[-1]):
        value = value * factors.at((..., p))
    return value
